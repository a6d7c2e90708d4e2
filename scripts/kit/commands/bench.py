"""`bench`: measure what the patches cost."""

from pathlib import Path
from typing import Any

import click

from kit import environments, pages, places, releases
from kit.bench import cases, drawing, measure, page
from kit.console import (
    find_python,
    help_of,
    out,
    print_path,
    progress,
    source_of,
    source_options,
    table,
    torch_options,
)
from kit.errors import ProofError, UsageError
from kit.releases import Catalogue


@click.command(
    **help_of(
        "Measure what the patches cost, against what people run instead. Without a version, "
        "it makes docs/performance.md anew (a quarter of an hour).",
        "kit.sh bench 2.4.0           # the layers of a release, printed",
        "kit.sh bench --part threads  # a part of the page",
        exits="1 a layer costs more; 3 no download; 5 no torch",
    )
)
@click.argument("version", metavar="[PYG-VERSION]", required=False)
@source_options
@torch_options
@click.option("--full", is_flag=True, help="More processes, and large graphs.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice([*measure.PARTS, measure.LARGE, measure.FREE_THREADED]),
    metavar="PART",
    help=f"Repeatable: {', '.join([*measure.PARTS, measure.LARGE, measure.FREE_THREADED])}.",
)
@click.option(
    "--render", is_flag=True, hidden=True, help="Draw the page anew from docs/performance.json."
)
def bench(
    version: str | None,
    torch: str,
    python: Path | None,
    full: bool,
    parts: tuple[str, ...],
    render: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Measures what the patches cost, against what people run instead."""
    catalogue = releases.load()
    if version is not None and (parts or render):
        raise UsageError("--part and --render are for the page: name no PYG-VERSION with them.")
    if version is None:
        places.need_checkout("bench")
    if render:
        _write(page.read_data(), catalogue)
        return
    release = catalogue.find(version) if version is not None else None
    measure.check_parts(parts, python or environments.current_python())
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        bench = measure.Bench(
            catalogue,
            source,
            lambda needed: find_python(needed, python, torch, source.cache, offline=offline),
            notify,
            full,
        )
        if release is not None:
            measured = measure.measure_release(bench, release)
        else:
            kept = page.read_data() if parts or page.DATA.exists() else {}
            measured = measure.measure_page(bench, parts, kept)
    if release is not None:
        _show_ratios(measured, catalogue)
    else:
        _write(measured, catalogue)


def _write(data: dict[str, Any], catalogue: Catalogue) -> None:
    files = {page.DATA: pages.dump(data), page.PAGE: page.render(data, catalogue)}
    for file in pages.write(files | drawing.draw(data, catalogue)):
        print_path(file)
    if faults := list(page.problems(data, catalogue)):
        raise ProofError(" ".join(faults))


def _show_ratios(result: dict[str, Any], catalogue: Catalogue) -> None:
    shown = table(
        *("layer", "edges", "", "variant"),
        right=("ratio", "95% interval", "memory"),
        title=f"Time against the unpatched layer, torch {result['torch']}, one thread",
    )
    for ratio in result["ratios"]:
        if ratio["variant"] != cases.PRISTINE:
            shown.add_row(
                catalogue.classes[ratio["layer"]],
                f"{ratio['edges']:,}",
                ratio["mode"].replace("inference", "infer").replace("training", "train"),
                ratio["variant"],
                f"{ratio['ratio']:.3f}",
                f"{ratio['low']:.3f} to {ratio['high']:.3f}",
                f"{ratio['memory_ratio']:.3f}",
            )
    out.print(shown)
