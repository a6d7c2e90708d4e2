"""`apply`: make a PyG release safe to share between threads."""

import re
import shlex
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from kit import applying, installations, patching, places, releases
from kit.applying import How, Report
from kit.audit.running import user_python
from kit.console import PLACE, PYTHON, err, help_of, out, progress, source_of, source_options
from kit.errors import ProofError, UsageError, shown
from kit.patching import State
from kit.releases import Catalogue, Release


@click.command(
    **help_of(
        "Make a PyG release safe to share between threads. Also: 'latest', 'nightly'.",
        "apply.sh --installed         # the PyG of the active environment",
        "apply.sh --python PATH       # the one that this Python imports",
        "apply.sh 2.3.1               # a fresh tree, in build/pyg-2.3.1",
        exits="1 --check: something would change; 3 no download; 4 the tree",
    )
)
@click.argument("version", required=False, metavar="[PYG-VERSION]")
@click.option(
    "--dest",
    type=PLACE,
    metavar="DIR",
    help="Make it here.  [default: build/pyg-VERSION]",
)
@source_options
@click.option(
    "--tree",
    type=PLACE,
    metavar="DIR",
    help="Patch this checkout, source or site-packages.",
)
@click.option("--installed", is_flag=True, help="Patch that of the active environment.")
@click.option(
    "--python",
    type=PYTHON,
    metavar="PATH",
    help="Patch the PyG that this Python imports.",
)
@click.option("--only", multiple=True, metavar="SERIES", help="This series alone. Repeatable.")
@click.option(
    "--with",
    "added",
    multiple=True,
    metavar="SERIES",
    help="This one too, off by default. Repeatable.",
)
@click.option("--check", is_flag=True, help="Change nothing, say what would be.")
@click.option("--reverse", is_flag=True, help="Take the patches out again.")
@click.option("--list", "show_list", is_flag=True, help="List releases, or patches of one.")
def apply(
    version: str | None,
    dest: Path | None,
    tree: Path | None,
    installed: bool,
    python: Path | None,
    only: tuple[str, ...],
    added: tuple[str, ...],
    check: bool,
    reverse: bool,
    show_list: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Makes a PyG release safe to share between threads."""
    catalogue = releases.load()
    if show_list and version is not None:
        _list_patches(catalogue.find(version))
        return
    if show_list:
        _list_releases(catalogue)
        return
    installed = installed or python is not None
    if sum((tree is not None, dest is not None, installed)) > 1:
        raise UsageError(
            "--tree, --dest and --installed exclude each other: one patches a tree, one makes "
            "one, and one patches the PyG of an environment."
        )
    with progress() as notify:
        how = How(check, reverse, only, installed, notify)
        if installed or tree is not None:
            release, report = _patch_tree(catalogue, version, tree, python, added, how)
        else:
            if version is None:
                raise UsageError(applying.missing_version(catalogue))
            release = catalogue.find(version)
            patches = applying.select(release, catalogue, only, added, reverse=reverse)
            source = source_of(kind, git_url, offline, notify)
            place = dest or places.build_folder() / f"pyg-{release.version}"
            report = applying.apply_to_checkout(place, release, catalogue, patches, source, how)
    _show_report(report, release, catalogue, how)
    if check and patching.to_do(report.steps, reverse=reverse):
        click.get_current_context().exit(ProofError.exit_code)


def _patch_tree(
    catalogue: Catalogue,
    version: str | None,
    tree: Path | None,
    python: Path | None,
    added: tuple[str, ...],
    how: How,
) -> tuple[Release, Report]:
    if tree is None:
        interpreter = installations.describe(user_python(python))
        tree = interpreter.tree
        where = f"Python {interpreter.version}, {interpreter.path}"
        how.notify(f"Found {tree / releases.VERSION_FILE} ({where})")
        for other in interpreter.others:
            err.print(f"{other} holds another PyG, which this Python does not import.")
    if version is not None:
        # A word that is no version is told before anything is read.
        catalogue.find(version)
    release = applying.find_release(tree, catalogue, version)
    patches = applying.select(release, catalogue, how.only, added, reverse=how.reverse)
    return release, applying.apply_to_tree(tree, release, catalogue, patches, how)


def _list_patches(release: Release) -> None:
    out.print(Text.assemble((f"PyG {release.version}", "bold"), " takes:"))
    for patch in release.all_patches():
        out.print(Text.assemble("  ", (patch.series, "bold"), f": {patch.subject}"))
        note = "" if patch in release.patches else f"  (off by default: --with {patch.series})"
        out.print(Text(f"    patches/{patch.name}{note}", style="dim"))


def _list_releases(catalogue: Catalogue) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("PyG", vertical="bottom", no_wrap=True)
    for name in catalogue.classes.values():
        # All layers fit side by side into 80 columns: "Hyper-", "graph" and "Conv", one above
        # another.
        heading = re.sub(r"(?<=[a-z])(?=[A-Z])|(?=Conv$)", "\n", name)
        heading = re.sub(r"(?<=Trans)(?=former)|(?<=Hyper)(?=graph)", "-\n", heading)
        table.add_column(heading, vertical="bottom", no_wrap=True)
    cells = {"affected": Text("races", style="red"), "fixed": Text("fixed", style="green")}
    for release in catalogue.releases:
        status = (release.status.get(layer) for layer in catalogue.classes)
        name = "nightly" if release.is_nightly else release.version
        table.add_row(name, *(cells.get(word or "", "") for word in status))
    out.print(table)
    out.print()
    for series, summary in catalogue.series.items():
        note = " (off by default)" if series in catalogue.optional else ""
        out.print(Text.assemble((series, "bold"), f": {summary}{note}"))


def _show_report(report: Report, release: Release, catalogue: Catalogue, how: How) -> None:
    tree = str(shown(report.tree))
    out.print(Text.assemble((f"PyG {release.version}", "bold"), " in ", (tree, "bold")))
    if report.recovered:
        out.print(f"  A run that was cut off has been {report.recovered} first.")
    if report.origin:
        out.print(f"  from {report.origin}")
        if "PyPI" in report.origin:
            out.print(
                "  (PyPI's archives have none of upstream's own tests; --source git has them)"
            )
    todo = patching.to_do(report.steps, reverse=how.reverse)
    if report.is_installed:
        _show_series(report, how)
    else:
        _show_steps(report, how)
    if report.links:
        number = f"{len(report.links)} links are files of their own now"
        out.print(Text(f"  {number}; what they pointed to is as it was: {report.links[0]}"))
    if not how.only and not report.is_installed:
        _show_fixed(release, catalogue)
    if not todo:
        state = "without the patches" if how.reverse else "already patched"
        out.print(f"Nothing to do: this tree is {state}.")
    elif how.check:
        out.print("Nothing was changed (--check).")
    elif report.is_installed:
        record = installations.conda_record(report.tree)
        if record is not None and not how.reverse:
            out.print(
                f"{record} still has the hashes of the released files: 'conda doctor' names the "
                f"patched ones as altered."
            )
        out.print("Restart the service: a Python that runs has the old code in memory.")
    elif report.is_checkout and not how.reverse:
        _show_next(tree, release)


def _labels(how: How) -> dict[bool, tuple[str, str]]:
    """What is said of a patch, and in which style, by whether there is something to do."""
    verb = ("would be " if how.check else "") + ("reversed" if how.reverse else "applied")
    return {
        True: (verb, "green"),
        False: ("not applied" if how.reverse else "already applied", "cyan"),
    }


def _show_series(report: Report, how: How) -> None:
    todo = patching.to_do(report.steps, reverse=how.reverse)
    for is_to_do, (word, style) in _labels(how).items():
        series = [
            step.patch.series
            for step in report.steps
            if step.state is not State.LEFT_OUT and (step.patch in todo) is is_to_do
        ]
        if series:
            out.print(Text.assemble("  ", (word, style), f": {', '.join(dict.fromkeys(series))}"))


def _show_steps(report: Report, how: How) -> None:
    todo = patching.to_do(report.steps, reverse=how.reverse)
    labels = _labels(how)
    for step in report.steps:
        word, style = labels[step.patch in todo]
        if step.state is State.LEFT_OUT:
            word, style = "left out", "yellow"
        note = f" ({step.reason})" if step.reason else ""
        out.print(Text.assemble("  ", (word, style), f": {step.patch.subject}{note}"))


def _show_fixed(release: Release, catalogue: Catalogue) -> None:
    for layer, status in release.status.items():
        first_fixed = catalogue.fixed_in(layer)
        if status == "fixed" and first_fixed is not None:
            out.print(
                f"Upstream fixed {catalogue.classes[layer]} in {first_fixed.version}: its code "
                f"needs nothing, the test guards it."
            )


def _show_next(tree: str, release: Release) -> None:
    quoted = shlex.quote(tree)
    out.print("Next:")
    for command, what in (
        (f"pip install {quoted if '/' in quoted else './' + quoted}", "install it"),
        (f"git -C {quoted} diff pristine", "see what was changed"),
        (f"scripts/kit.sh prove {release.version}", "see it race before, and not after"),
    ):
        out.print(Text.assemble(f"  {command}   ", (f"# {what}", "dim")))
