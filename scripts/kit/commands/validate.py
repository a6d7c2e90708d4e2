"""`validate`: check that every patch applies to its pinned releases."""

import time

import click
from rich.text import Text

from kit import releases, validating
from kit.console import err, help_of, out, progress, source_of, source_options
from kit.errors import ProofError, TreeError


@click.command(
    **help_of(
        "Check that every patch applies to its pinned releases. Each one is applied and "
        "reversed; the content before and after must be what the patches record. --source sdist"
        " leaves out the patches to upstream's own tests.",
        "kit.sh validate",
        "kit.sh validate 2.4.0 gatv2_conv   # these releases and series alone",
        exits="1 a fault in patches/; 3 no download",
    )
)
@click.argument("names", nargs=-1, metavar="[PYG-VERSION | SERIES]...")
@source_options
def validate(names: tuple[str, ...], kind: str, git_url: str, offline: bool) -> None:
    """Checks that every patch applies to its pinned releases."""
    try:
        catalogue = releases.load()
    except TreeError as error:
        raise ProofError(str(error)) from None
    tasks = validating.choose(catalogue, names)
    start = time.monotonic()
    series = [name for name in names if name in catalogue.series]
    unpinned = validating.find_unpinned(catalogue, series)
    for problem in unpinned:
        _print_fault(problem)
    faults, count, left_out, patches = len(unpinned), 0, 0, set()
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        for number, task in enumerate(tasks):
            notify(f"PyG {task.release.version}, {number + 1} of {len(tasks)} ...")
            result = validating.validate(task, source)
            for problem in result.problems:
                _print_fault(f"PyG {result.release.version}: {problem}")
            faults += len(result.problems)
            count += len(result.patches) - len(result.left_out)
            left_out += len(result.left_out)
            patches |= {patch.name for patch in result.patches}
    if faults:
        raise ProofError(f"{faults} faults in patches/. Expected none.")
    note = f" Left out: {left_out}, which need --source git." if left_out else ""
    out.print(
        f"{len(tasks)} releases, {count} applications of {len(patches)} patches, all as recorded "
        f"({time.monotonic() - start:.0f} s).{note}"
    )


def _print_fault(problem: str) -> None:
    err.print(Text.assemble(("fault: ", "red"), problem))
