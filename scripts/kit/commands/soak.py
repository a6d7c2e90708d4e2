"""`soak`: many threads share one model with every patched layer."""

from pathlib import Path

import click

from kit import pages, places, proofs, releases, soaking
from kit.console import (
    find_python,
    help_of,
    json_option,
    out,
    print_path,
    progress,
    source_of,
    source_options,
    table,
    torch_options,
    write_json,
)
from kit.errors import ProofError, UsageError
from kit.releases import Catalogue


@click.command(
    **help_of(
        "Let many threads share one model with every patched layer, for minutes on end. First on "
        "the pristine release, until a call is not right; then on the patched one: each result "
        "has to be the one of a single thread, bit for bit, and memory must not grow.",
        "kit.sh soak                  # the newest release, for ten minutes",
        "kit.sh soak 2.3.1 --minutes 1",
        exits="1 a wrong call, a thread that does not end, or memory that grows",
    )
)
@click.argument("version", metavar="[PYG-VERSION]", required=False)
@source_options
@torch_options
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.01),
    default=soaking.MINUTES,
    show_default=True,
    help="For how long.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=2),
    default=soaking.THREADS,
    show_default=True,
    help="That share the model.",
)
@json_option
@click.option("--record", is_flag=True, help="Write what was measured to docs/proofs.md.")
def soak(
    version: str | None,
    torch: str,
    python: Path | None,
    minutes: float,
    threads: int,
    json_file: Path | None,
    record: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Lets many threads share one model with every patched layer, for minutes on end."""
    if record:
        places.need_checkout("soak --record")
        if minutes < soaking.MINUTES or threads < soaking.THREADS:
            raise UsageError(
                f"--record takes no less than {soaking.THREADS} threads and {soaking.MINUTES:g} "
                f"minutes. Leave --record out, or name more."
            )
    catalogue = releases.load()
    release = catalogue.find(version or "latest")
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        python = find_python(release, python, torch, source.cache, offline=offline)
        soaked = soaking.soak(
            release, catalogue, source, python, notify, minutes=minutes, threads=threads
        )
    if not write_json(json_file, soaked.as_json()):
        _show(soaked, catalogue)
    if record:
        command = f"scripts/kit.sh soak {release.version} --record"
        for file in proofs.record(soaking.DATA, soaked.as_json(), pages.stamp(command), catalogue):
            print_path(file)
    if soaked.problems():
        raise ProofError(" ".join(soaked.problems()))


def _show(soaked: soaking.Soak, catalogue: Catalogue) -> None:
    versions = f"torch {soaked.torch}, Python {soaked.python}"
    out.print(
        f"PyG {soaked.release}, {versions}: {soaked.threads} threads shared one model for "
        f"{soaked.seconds:.0f} s"
    )
    rows = table("layer", right=("calls", "right", "crashed", "silently wrong"))
    for layer, ended in soaked.calls.items():
        counts = (f"{ended[key]:,}" for key in ("calls", "right", "crashed", "silently_wrong"))
        rows.add_row(catalogue.classes[layer], *counts)
    out.print(rows)
    if soaked.growth is None:
        out.print(f"Too short to judge the memory: at least {soaking.JUDGED_FROM:g} minutes.")
    else:
        out.print(f"Memory after the first fifth: {soaked.growth / 2**20:+.1f} MiB")
