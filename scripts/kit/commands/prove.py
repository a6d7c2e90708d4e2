"""`prove`: show the race on a pristine release, and its absence once patched."""

import json
from pathlib import Path

import click

from kit import proving, releases, transactions
from kit.console import (
    find_python,
    help_of,
    progress,
    show_proof,
    source_of,
    source_options,
    torch_options,
)
from kit.errors import ProofError, TreeError


@click.command(
    **help_of(
        "Show the race on a pristine release, and its absence once patched. Two threads are "
        "forced to interleave, then eight share a layer, on both trees; both are timed.",
        "kit.sh prove 2.3.1",
        "kit.sh prove 2.3.1 --no-latency --json -",
        exits="1 not proved; 3 no download; 5 no torch, no compiler",
    )
)
@click.argument("version", metavar="PYG-VERSION")
@source_options
@torch_options
@click.option("--latency/--no-latency", default=True, help="Time both trees, too.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write it as JSON; with -, print that alone.",
)
def prove(
    version: str,
    torch: str,
    python: Path | None,
    latency: bool,
    json_file: Path | None,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Shows the race on a pristine release, and its absence once patched."""
    catalogue = releases.load()
    release = catalogue.find(version)
    to_terminal = str(json_file) == "-"
    if json_file is not None and not to_terminal:
        _make_parent(json_file)
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        python = find_python(release, python, torch, source.cache, offline=offline)
        proof = proving.prove(release, catalogue, source, python, notify, with_latency=latency)
    text = json.dumps(proof.as_json(), indent=2) + "\n"
    if to_terminal:
        click.echo(text, nl=False)
    else:
        show_proof(proof, catalogue)
    if json_file is not None and not to_terminal:
        transactions.replace(json_file, text.encode())
    if proof.problems():
        raise ProofError(" ".join(proof.problems()))


def _make_parent(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TreeError(
            f"{file.parent} cannot be made ({error.strerror}). Name a file in a directory of yours."
        ) from None
