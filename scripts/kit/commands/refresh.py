"""`refresh`: carry a change of a patch over to the older variants of its series."""

import click
from rich.text import Text

from kit import places, refreshing, releases
from kit.console import help_of, out, progress, source_of, source_options


@click.command(
    **help_of(
        "Carry a change of a patch over to its older variants. Change the newest patch of a "
        "series, and call this: what differs from COMMIT is merged into each older one. Where "
        "it conflicts, both sides are marked in a file below build/.",
        "kit.sh refresh gatv2_conv",
        exits="3 no download; 4 a patch cannot be read",
    )
)
@click.argument("series", metavar="SERIES")
@click.option(
    "--from",
    "version",
    metavar="PYG-VERSION",
    help="The release whose patch has changed.  [default: the newest that has one]",
)
@click.option(
    "--since",
    default="HEAD",
    show_default=True,
    metavar="COMMIT",
    help="The commit of this repository that has the patch as it was before.",
)
@click.option("--check", is_flag=True, help="Write nothing, say what would be done.")
@source_options
def refresh(
    series: str,
    version: str | None,
    since: str,
    check: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Carries a change of a patch over to its older variants."""
    places.need_checkout("refresh")
    catalogue = releases.load()
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        result = refreshing.refresh(series, catalogue, source, version, since)
    if not check:
        refreshing.write(result)
    for sentence in result.findings:
        out.print(Text(sentence))
    if check:
        out.print(f"{len(result.patches)} patches would be written. Nothing was.")
        return
    if not (result.patches or result.worklist):
        return
    out.print(Text("To do:", style="bold"))
    for sentence in result.worklist:
        out.print(Text(f"  - {sentence}"))
    if result.patches:
        out.print(
            f"  - Read 'git diff', and run 'scripts/kit.sh validate {series}' and "
            f"'scripts/test.sh'. Trees in build/ have the patches as they were: remove them."
        )
