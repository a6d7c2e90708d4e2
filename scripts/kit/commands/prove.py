"""`prove`: show the race on a pristine release, and its absence once patched."""

from pathlib import Path

import click

from kit import proving, releases
from kit.console import (
    find_python,
    help_of,
    json_option,
    progress,
    show_proof,
    source_of,
    source_options,
    torch_options,
    write_json,
)
from kit.errors import ProofError


@click.command(
    **help_of(
        "Show the race on a pristine release, and its absence once patched. Two threads are "
        "forced to interleave, then eight share a layer, on both trees; both are timed.",
        "kit.sh prove 2.3.1",
        "kit.sh prove 2.3.1 --only gatv2_conv --json",
        exits="1 not proved; 3 no download; 5 no torch, no compiler",
    )
)
@click.argument("version", metavar="PYG-VERSION")
@click.option("--only", multiple=True, metavar="SERIES", help="This layer alone. Repeatable.")
@source_options
@torch_options
@click.option("--latency/--no-latency", default=True, help="Time both trees, too.")
@json_option
def prove(
    version: str,
    only: tuple[str, ...],
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
    layers = proving.choose(release, only)
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        python = find_python(release, python, torch, source.cache, offline=offline)
        proof = proving.prove(
            release, catalogue, source, python, notify, with_latency=latency, layers=layers
        )
    if not write_json(json_file, proof.as_json()):
        show_proof(proof, catalogue)
    if proof.problems():
        raise ProofError(" ".join(proof.problems()))
