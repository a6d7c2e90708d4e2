"""`report`: gather the results of the matrix into docs/status.md."""

from pathlib import Path

import click

from kit import pages, places, releases, status, status_page, status_pictures
from kit.console import help_of, out, print_path
from kit.errors import ProofError


@click.command(
    **help_of(
        "Gather the results of the matrix into docs/status.md, with pictures. The environments "
        "of tox leave them in build/matrix. What is not in the default list keeps its earlier "
        "result, with its date, until it runs again.",
        "kit.sh report",
        exits="1 an environment failed; 3 results are missing",
    )
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=status.RESULTS,
    metavar="DIR",
    help="Where the matrix left its results.  [default: build/matrix]",
)
@click.option(
    "--render",
    is_flag=True,
    help="Make page and picture anew from docs/status.json, and gather nothing.",
)
@click.option(
    "--partial",
    is_flag=True,
    help="Make the page even where environments of the default list have not run: they keep their "
    "earlier results, too.",
)
def report(results: Path, render: bool, partial: bool) -> None:
    """Gathers the results of the matrix into docs/status.md, with a picture."""
    places.need_checkout("report")
    catalogue = releases.load()
    left_out: list[str] = []
    if render:
        gathered = status.load(status.DATA)
        ran = gathered.environments
    else:
        expected = status.default_environments()
        gathered = status.gather(
            results, catalogue, expected, "scripts/kit.sh report", partial=partial
        )
        ran = gathered.environments
        recorded = status.load(status.DATA)
        environments = status.list_environments()
        gathered, left_out = status.keep(gathered, recorded, catalogue, environments)
    files = {
        status.DATA: status.dump(gathered),
        status.PAGE: status_page.render(gathered, catalogue),
        status.PICTURE: status_pictures.draw_grid(gathered, catalogue),
        status.BEFORE_AND_AFTER: status_pictures.draw_before_and_after(gathered, catalogue),
    }
    for file in pages.write(files):
        print_path(file)
    for name in left_out:
        out.print(
            f"Left out: the earlier result of {name}. tox does not list it any more, or the "
            f"patches are about other layers since."
        )
    out.print(
        f"{len(ran)} environments ran, {len(gathered.environments) - len(ran)} keep an earlier "
        f"result, {len(gathered.failed)} failed; {len(gathered.missing)} of the default list did "
        f"not run."
    )
    if gathered.failed:
        raise ProofError(f"Failed: {', '.join(gathered.failed)}. {status.PAGE.name} says why.")
