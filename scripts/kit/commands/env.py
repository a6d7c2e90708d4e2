"""`env`: make the shared environment for a torch."""

from pathlib import Path

import click

from kit import environments, sources
from kit.console import help_of, progress, torch_options, with_extensions


@click.command(
    **help_of(
        "Make the shared environment for a torch, and print its interpreter. --python names the"
        " interpreter to make it with.",
        "kit.sh env",
        "kit.sh env --torch 2.9.1 --python python3.13t",
        exits="3 no download; 5 no compiler",
    )
)
@torch_options
@click.option(
    "--extensions",
    is_flag=False,
    flag_value="all",
    metavar="[LIST]",
    help="With torch-scatter and its like; all, or those named.",
)
@click.option("--link", is_flag=True, help="Let the environment of --python import from it.")
def env(torch: str, python: Path | None, extensions: str | None, link: bool) -> None:
    """Makes the shared environment for a torch, and prints its interpreter."""
    base = python or environments.current_python()
    with progress() as notify:
        shared = environments.ensure(torch, base, notify)
    if extensions:
        shared = with_extensions(shared, sources.default_cache(), names=extensions)
    if link:
        environments.link(base, *environments.packages(shared))
    click.echo(shared)
