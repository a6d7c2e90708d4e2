"""`zoo`: gather what the audit says of the models in tests/zoo into docs/zoo.md."""

from collections import Counter
from pathlib import Path

import click

from kit import pages, places
from kit import zoo as core
from kit.console import help_of, out, print_path
from kit.errors import ProofError


@click.command(
    **help_of(
        "Gather what the audit says of tests/zoo into docs/zoo.md. The environments of 'tox run"
        " -m zoo' leave it in build/zoo.",
        "kit.sh zoo",
        exits="1 an answer is not right; 3 results are missing",
    )
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=core.RESULTS,
    metavar="DIR",
    help="Where the environments left their results.  [default: build/zoo]",
)
@click.option(
    "--render",
    is_flag=True,
    help="Make the page anew from docs/zoo.json, and gather nothing.",
)
def zoo(results: Path, render: bool) -> None:
    """Gathers what the audit says of models whose truth is known into docs/zoo.md."""
    places.need_checkout("zoo")
    gathered = core.load() if render else core.gather(results)
    for file in pages.write({core.DATA: core.dump(gathered), core.PAGE: core.render(gathered)}):
        print_path(file)
    counts = Counter(answer.grade for answer in gathered.answers)
    told = ", ".join(f"{counts[grade]} {grade}" for grade in core.GRADES)
    out.print(f"{len(gathered.answers)} models: {told}.")
    if counts["right"] != len(gathered.answers):
        raise ProofError(f"Some answers are not right. {core.PAGE.name} says which, and why.")
