"""`example-layer`: make a sandbox to learn in how a layer is added."""

from pathlib import Path

import click
from rich.text import Text

from kit import places, releases, sandbox
from kit.console import PLACE, help_of, out, progress, source_of
from kit.errors import shown
from kit.sources import UPSTREAM


@click.command(
    "example-layer",
    **help_of(
        "Make a sandbox to learn in how a layer is added: a copy of the kit, in which two releases "
        "of PyG have one more layer, which races. CONTRIBUTING.md goes through the steps, under "
        "'Add a layer'. Nothing that is done there changes this checkout.",
        "kit.sh example-layer ~/new-layer",
        exits="3 no download; 4 DIR is there already",
    ),
)
@click.argument("dest", type=PLACE, metavar="DIR")
def example_layer(dest: Path) -> None:
    """Makes a sandbox to learn in how a layer is added."""
    places.need_checkout("example-layer")
    with progress() as notify:
        source = source_of("sdist", UPSTREAM, offline=False, notify=notify)
        versions = sandbox.make(dest, releases.load(), source)
    made = shown(dest)
    out.print(Text.assemble("A sandbox in ", (str(made), "bold")))
    out.print(f"Its PyG {' and '.join(versions)} have one more layer, ExampleConv, which races.")
    out.print(Text(f"Next: cd {made}, and the steps of CONTRIBUTING.md there, 'Add a layer'."))
