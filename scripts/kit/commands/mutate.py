"""`mutate`: put the fault back into each patched layer, and see its test catch it."""

from pathlib import Path

import click

from kit import mutating, pages, places, proofs, releases
from kit.console import (
    find_python,
    help_of,
    json_option,
    out,
    print_path,
    progress,
    source_of,
    source_options,
    table,
    torch_options,
    write_json,
)
from kit.errors import ProofError, UsageError
from kit.releases import Catalogue


@click.command(
    **help_of(
        "Put the fault back into each patched layer, and see its threaded test catch it. In five "
        "ways: an attribute of the layer, a class attribute, a global of the module, a cache that "
        "is not thread-safe, a lock left out.",
        "kit.sh mutate                # a release of each era",
        "kit.sh mutate 2.3.1 --rounds 10",
        exits="1 a test misses a mutant, or fails on the layer as patched",
    )
)
@click.argument("versions", metavar="[PYG-VERSION]...", nargs=-1)
@source_options
@torch_options
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=mutating.MUTANT_ROUNDS,
    show_default=True,
    help="Of each mutant; ten times as many as patched.",
)
@json_option
@click.option("--record", is_flag=True, help="Write what was seen to docs/proofs.md.")
def mutate(
    versions: tuple[str, ...],
    torch: str,
    python: Path | None,
    rounds: int,
    json_file: Path | None,
    record: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Puts the fault back into each patched layer, and sees its threaded test catch it."""
    if record:
        places.need_checkout("mutate --record")
        if rounds < mutating.MUTANT_ROUNDS:
            raise UsageError(
                f"--record takes no less than {mutating.MUTANT_ROUNDS} rounds of each mutant, and "
                f"{rounds} were asked for. Leave --record out, or name more rounds."
            )
    catalogue = releases.load()
    chosen = [catalogue.find(version) for version in versions or mutating.ERAS]
    done: list[mutating.Mutation] = []
    written: list[Path] = []
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        for release in chosen:
            own = find_python(release, python, torch, source.cache, offline=offline)
            done.append(
                mutating.run_mutants(
                    release,
                    source,
                    own,
                    notify,
                    mutant_rounds=rounds,
                    patched_rounds=10 * rounds,
                )
            )
            if record:  # What is done is kept, however the rest ends.
                command = f"scripts/kit.sh mutate {release.version} --record"
                written = proofs.record(
                    mutating.DATA, done[-1].as_json(), pages.stamp(command), catalogue
                )
    if not write_json(json_file, [each.as_json() for each in done]):
        for each in done:
            _show(each, catalogue)
    for file in written:
        print_path(file)
    if faults := [problem for each in done for problem in each.problems()]:
        raise ProofError(" ".join(faults))


def _show(mutation: mutating.Mutation, catalogue: Catalogue) -> None:
    rows = table(
        *("layer", "the value is kept in"),
        right=("rounds", "failed"),
        title=f"PyG {mutation.release}, torch {mutation.torch}, Python {mutation.python}",
    )
    for tried in mutation.tried:
        name = "" if tried.way else catalogue.classes[tried.layer]
        cells = (f"{tried.rounds:,}", f"{tried.failed:,}")
        rows.add_row(name, tried.way or "(as patched)", *cells)
    out.print(rows)
