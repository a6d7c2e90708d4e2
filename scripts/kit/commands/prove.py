"""`prove`: show the race on a pristine release, and its absence once patched."""

import json
from pathlib import Path

import click

from kit import proving, releases, transactions
from kit.console import (
    EXIT_CODES,
    find_python,
    progress,
    show_proof,
    source_of,
    source_options,
    torch_options,
)
from kit.errors import ProofError, TreeError


@click.command(epilog=EXIT_CODES)
@click.argument("version", metavar="PYG-VERSION")
@source_options
@torch_options
@click.option("--latency/--no-latency", default=True, help="Whether to time both trees as well.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the measurements to this file as JSON; '-' for the terminal.",
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
    """Show the race on a pristine release, and its absence once patched.

    Two threads are forced to interleave, then eight threads share a layer, on the
    pristine tree and on the patched one. Then the latency of both is compared.
    """
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
