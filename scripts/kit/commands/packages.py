"""`packages`: run other people's packages on the released and on the patched PyG."""

from dataclasses import asdict
from pathlib import Path

import click

from kit import environments, pages, places, releases
from kit import packages as core
from kit.console import help_of, out, print_path, progress, source_of, source_options, table
from kit.errors import ProofError


@click.command(
    "packages",
    **help_of(
        "Run other people's packages, on the released and on the patched PyG. Without a "
        "PACKAGE, all that are pinned in scripts/kit/packages.toml.",
        "kit.sh packages",
        "kit.sh packages --record     # into docs/packages.md",
        exits="1 a result differs; 3 no download; 5 no torch",
    ),
)
@click.argument("names", metavar="[PACKAGE]...", nargs=-1)
@source_options
@click.option(
    "--torch", default=environments.TORCH, show_default=True, help="The version of torch."
)
@click.option("--record", is_flag=True, help="Write what was seen to docs/packages.md.")
def packages(
    names: tuple[str, ...], torch: str, record: bool, kind: str, git_url: str, offline: bool
) -> None:
    """Runs other people's packages on the released and on the patched PyG."""
    places.need_checkout("packages")
    pinned = core.load()
    chosen = core.choose(pinned, names)
    catalogue = releases.load()
    outcomes: list[core.Outcome] = []
    written: list[Path] = []
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        python = core.environment(pinned, torch, environments.current_python(), notify)
        for package in chosen:
            outcomes += core.compare(package, catalogue, source, python, notify)
            if record:  # What is done is kept, however the rest ends.
                written = _record(outcomes, pinned)
    _show(outcomes)
    for file in written:
        print_path(file)
    if faults := [each for each in outcomes if each.differ or not each.same]:
        raise ProofError(" ".join(map(core.problem, faults)))


def _show(outcomes: list[core.Outcome]) -> None:
    shown = table("package", "PyG", "ran", right=("same", "failed on both", "skipped", "differ"))
    for each in outcomes:
        counts = map(str, (each.same, each.failed, each.skipped, len(each.differ)))
        shown.add_row(f"{each.package} {each.version}", each.release, each.ran, *counts)
    out.print(shown)


def _record(outcomes: list[core.Outcome], pinned: list[core.Package]) -> list[Path]:
    again = "'scripts/kit.sh packages --record' makes it anew."
    old = pages.read_data(core.DATA, again) if core.DATA.exists() else {"outcomes": []}
    data = {
        "stamp": pages.stamp("scripts/kit.sh packages --record"),
        "outcomes": core.merge(old["outcomes"], [asdict(each) for each in outcomes], pinned),
    }
    return list(pages.write({core.DATA: pages.dump(data), core.PAGE: core.render(data)}))
