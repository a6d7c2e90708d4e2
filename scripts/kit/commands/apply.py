"""`apply`: make a PyG release safe to share between threads."""

import re
import shlex
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from kit import applying, patching, releases
from kit.applying import Report
from kit.console import EXIT_CODES, out, progress, source_of, source_options
from kit.errors import UsageError, shown
from kit.releases import Catalogue, Release


@click.command(epilog=EXIT_CODES)
@click.argument("version", required=False, metavar="PYG-VERSION")
@click.option(
    "--dest",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to make the patched PyG.  [default: build/pyg-VERSION]",
)
@source_options
@click.option(
    "--tree",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Patch this checkout, source tree or site-packages instead of making one.",
)
@click.option(
    "--only", multiple=True, metavar="SERIES", help="Take this series alone. May be repeated."
)
@click.option(
    "--with",
    "added",
    multiple=True,
    metavar="SERIES",
    help="Take this series as well, which is off by default. May be repeated.",
)
@click.option("--check", is_flag=True, help="Change nothing, say what would happen.")
@click.option("--reverse", is_flag=True, help="Take the patches out again.")
@click.option("--list", "show_list", is_flag=True, help="List the releases, or the patches of one.")
def apply(
    version: str | None,
    dest: Path | None,
    tree: Path | None,
    only: tuple[str, ...],
    added: tuple[str, ...],
    check: bool,
    reverse: bool,
    show_list: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Make a PyG release safe to share between threads.

    PYG-VERSION is a release from 1.7.1 on, 'latest', or 'nightly'. The result is
    a git repository: first the pristine release, then one commit a patch.
    """
    catalogue = releases.load()
    if show_list and version is not None:
        _list_patches(catalogue.find(version))
        return
    if show_list:
        _list_releases(catalogue)
        return
    if version is None:
        raise UsageError(applying.missing_version(catalogue, tree))
    release = catalogue.find(version)
    patches = applying.select(release, catalogue, only, added, reverse=reverse)
    if tree is not None and dest is not None:
        raise UsageError("--tree and --dest exclude each other: one patches a tree, one makes one.")
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        if tree is not None:
            report = applying.apply_to_tree(
                tree, release, catalogue, patches, check=check, reverse=reverse
            )
        else:
            place = dest or releases.ROOT / "build" / f"pyg-{release.version}"
            report = applying.apply_to_checkout(
                place, release, patches, source, check=check, reverse=reverse
            )
    _show_report(report, release, catalogue, check=check, reverse=reverse)


def _list_patches(release: Release) -> None:
    out.print(Text.assemble((f"PyG {release.version}", "bold"), " takes:"))
    for patch in release.all_patches():
        out.print(Text.assemble("  ", (patch.series, "bold"), f": {patch.subject}"))
        note = "" if patch in release.patches else f"  (off by default: --with {patch.series})"
        out.print(Text(f"    patches/{patch.name}{note}", style="dim"))


def _list_releases(catalogue: Catalogue) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("PyG", vertical="bottom")
    for name in catalogue.classes.values():
        # "Transformer" above "Conv": all layers fit side by side into 80 columns.
        table.add_column(re.sub(r"(?<=[a-z])(?=[A-Z])|(?=Conv$)", "\n", name), vertical="bottom")
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


def _show_report(
    report: Report, release: Release, catalogue: Catalogue, *, check: bool, reverse: bool
) -> None:
    tree = str(shown(report.tree))
    out.print(Text.assemble((f"PyG {release.version}", "bold"), " in ", (tree, "bold")))
    if report.origin:
        out.print(f"  from {report.origin}")
        if "PyPI" in report.origin:
            out.print(
                "  (PyPI's archives have none of upstream's own tests; --source git has them)"
            )
    wanted = patching.State.PATCHED if reverse else patching.State.PRISTINE
    verb = ("would be " if check else "") + ("reversed" if reverse else "applied")
    for step in report.steps:
        if step.state is patching.State.LEFT_OUT:
            word, style = "left out", "yellow"
        elif step.state is wanted:
            word, style = verb, "green"
        else:
            word, style = ("not applied" if reverse else "already applied"), "cyan"
        note = f" ({step.reason})" if step.reason else ""
        out.print(Text.assemble("  ", (word, style), f": {step.patch.subject}{note}"))
    _show_fixed(release, catalogue)
    if not any(step.state is wanted for step in report.steps):
        state = "without the patches" if reverse else "already patched"
        out.print(f"Nothing to do: this tree is {state}.")
    elif check:
        out.print("Nothing was changed (--check).")
    elif report.is_checkout and not reverse:
        _show_next(tree, release)


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
