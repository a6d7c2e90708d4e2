"""`release`: make the archives of a release of the kit."""

from pathlib import Path

import click

from kit import places, releasing
from kit.console import help_of, print_path


@click.command(
    **help_of(
        "Make the archives of a release of the kit: all of it, and the patches alone, with their "
        "checksums. They are made of the commit that is checked out.",
        "kit.sh release               # into build/release",
        exits="4 something is not committed, or the CHANGELOG has no date",
    )
)
@click.option(
    "--out",
    "dest",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the archives go.  [default: build/release]",
)
def release(dest: Path | None) -> None:
    """Makes the archives of a release of the kit."""
    places.need_checkout("release")
    for file in releasing.make(dest or places.build_folder() / "release"):
        print_path(file)
