"""`validate`: check that every patch applies to its pinned releases."""

import time

import click
from rich.text import Text

from kit import releases, validating
from kit.console import EXIT_CODES, err, out, progress, source_of, source_options
from kit.errors import ProofError


@click.command(epilog=EXIT_CODES)
@source_options
def validate(kind: str, git_url: str, offline: bool) -> None:
    """Check that every patch applies to its pinned releases.

    Each release is made from its source, and its patches are applied and reversed;
    the content before and after must be what the patches record. Only a git
    checkout has upstream's tests, so --source sdist leaves out the patches to them.
    """
    catalogue = releases.load()
    faults = count = left_out = 0
    start = time.monotonic()
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        for result in validating.validate(catalogue, source):
            for problem in result.problems:
                err.print(
                    Text.assemble(("fault: ", "red"), f"PyG {result.release.version}: {problem}")
                )
            faults += len(result.problems)
            count += len(result.release.all_patches()) - len(result.left_out)
            left_out += len(result.left_out)
    if faults:
        raise ProofError(f"{faults} faults in patches/. Expected none.")
    note = f" Left out: {left_out}, which need --source git." if left_out else ""
    out.print(
        f"{len(catalogue.releases)} releases, {count} applications of {len(catalogue.patches())} "
        f"patches, all as recorded ({time.monotonic() - start:.0f} s).{note}"
    )
