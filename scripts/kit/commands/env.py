"""`env`: make the shared environment for a torch."""

from pathlib import Path

import click

from kit import environments, sources
from kit.console import EXIT_CODES, progress, torch_options, with_extensions


@click.command(epilog=EXIT_CODES)
@torch_options
@click.option(
    "--extensions",
    is_flag=False,
    flag_value="all",
    metavar="[LIST]",
    help="With torch-scatter and its like, built where need be; all of them, or those named.",
)
@click.option("--link", is_flag=True, help="Let the environment of --python import from it.")
def env(torch: str, python: Path | None, extensions: str | None, link: bool) -> None:
    """Make the shared environment for a torch, and print its interpreter.

    --python names the interpreter to make it with.
    """
    base = python or environments.current_python()
    with progress() as notify:
        shared = environments.ensure(torch, base, notify)
    if extensions:
        shared = with_extensions(shared, sources.default_cache(), names=extensions)
    if link:
        environments.link(base, *environments.packages(shared))
    click.echo(shared)
