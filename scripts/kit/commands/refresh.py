"""`refresh`: carry a change of a patch over to the older variants of its series."""

import click
from rich.text import Text

from kit import refreshing, releases
from kit.console import EXIT_CODES, out, progress, source_of, source_options


@click.command(epilog=EXIT_CODES)
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
    """Carry a change of a patch over to its older variants.

    Change the newest patch of a series, by hand or by git, and call this. What differs
    from COMMIT, in its hunks and in its message, is merged into each older patch of the
    series, and nothing else: what those do in another way stays, and so do their From,
    Date and Releases. Where it conflicts, both sides are marked in a file below build/,
    and the patch stays as it is: resolve them there, and call this again.
    """
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
