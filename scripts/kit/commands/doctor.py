"""`doctor`: whether the PyG of an environment is patched."""

from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text

from kit import diagnosis, releases
from kit.audit.running import user_python
from kit.console import PLACE, PYTHON, help_of, json_option, out, write_json
from kit.diagnosis import Diagnosis
from kit.errors import ProofError, TreeError, UsageError


@click.command(
    **help_of(
        "Say whether the PyG of an environment is patched, and what to do. It changes nothing: "
        "a gate for a Dockerfile, an entrypoint or a readiness check.",
        "kit.sh doctor                # the active environment",
        "kit.sh doctor --python PATH  # another one",
        exits="0 all is patched, 1 something is not, 4 a file was changed",
    )
)
@click.argument("version", required=False, metavar="[PYG-VERSION]")
@click.option(
    "--installed", is_flag=True, help="Look at the PyG of the active environment.  [default]"
)
@click.option("--tree", type=PLACE, metavar="DIR", help="Look at this tree; no Python is run.")
@click.option(
    "--python", type=PYTHON, metavar="PATH", help="Look at the PyG that this interpreter imports."
)
@json_option
def doctor(
    version: str | None,
    installed: bool,
    tree: Path | None,
    python: Path | None,
    json_file: Path | None,
) -> None:
    """Says whether the PyG of an environment is patched."""
    if tree is not None and (installed or python is not None):
        raise UsageError("--tree and --installed exclude each other.")
    catalogue = releases.load()
    if version is not None:
        catalogue.find(version)
    examined = diagnosis.examine(
        catalogue, tree, None if tree is not None else user_python(python), version
    )
    if not write_json(json_file, examined.as_data()):
        for line, style in _lines(examined):
            out.print(Text(line, style=style))
    if examined.faults and not examined.commands:
        raise TreeError(examined.faults[0])
    if not examined.is_well:
        races = [name for name, state in examined.layers.items() if state == "not patched"]
        what = ", ".join(races or examined.unpatched) or "see above"
        raise ProofError(f"Not patched: {what}.")


def _lines(examined: Diagnosis) -> Iterator[tuple[str, str]]:
    interpreter = examined.interpreter
    if interpreter is not None:
        yield f"Python      {interpreter.version}, {interpreter.path}", ""
        yield f"torch       {interpreter.torch or 'none'}", ""
    if examined.release is not None:
        yield f"PyG         {examined.release.version}, by content, in {examined.tree}", ""
    else:  # the error says why
        yield f"tree        {examined.tree}", ""
    for place in interpreter.others if interpreter else ():
        yield f"            another one, which is not imported, in {place}", "yellow"
    if interpreter is not None:
        known = {name: state for name, state in interpreter.extensions.items() if state}
        states = [f"{name} {state}" for name, state in known.items()]
        yield f"extensions  {'; '.join(states) or 'none'}", ""
    styles = {"patched": "green", "not patched": "red", "fixed": ""}
    labels = {"patched": "patched", "not patched": "races", "fixed": "fixed"}
    for state, word in labels.items():
        names = [name for name, each in examined.layers.items() if each == state]
        if names:
            by = " (by upstream)" if state == "fixed" else ""
            yield f"{word:<11} {', '.join(names)}{by}", styles[state]
    receipt = examined.receipt
    if receipt is not None:
        by = f" by commit {receipt.kit[:12]} of the kit" if receipt.kit else ""
        yield f"receipt     {receipt.changed}{by}", ""
    if examined.commands:
        for fault in examined.faults:
            yield fault, "yellow"
        yield "What to do", "bold"
        for command in examined.commands:
            yield f"  {command}", ""
        yield "  Then restart the service.", ""
