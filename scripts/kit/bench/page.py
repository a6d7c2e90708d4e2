"""The performance page: what was measured, as text."""

import statistics
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from kit import pages
from kit.bench import explaining
from kit.bench.cases import FIXED, NO_LAYER, PATCHED, PRISTINE
from kit.releases import ROOT, Catalogue

# The page, and what it is made from.
PAGE = ROOT / "docs" / "performance.md"
DATA = ROOT / "docs" / "performance.json"
# What is compared: the ways to let threads share a model.
WAYS = {
    "unpatched": "one layer, unpatched",
    "patched": "one layer, patched",
    "upstream": "one layer, upstream's fix",
    "lock": "one lock around it",
    "deepcopy": "`deepcopy` a thread",
    "processes": "pool of processes",
}

INTRODUCTION = f"""\
# What thread safety costs

Made by `scripts/kit.sh bench`; no number in a table is typed by hand. The data are in
[performance.json](performance.json). A ratio is taken between two times of one round,
in one process, of variants that take turns; the interval is that of the median, at 95%,
by the bootstrap over processes and rounds. Upstream's fix is the `GATv2Conv` of {FIXED}
in the release that is measured; {FIXED} itself, with all of its own code, runs in a process
of its own, after each of the others. The C library is told to keep the memory that it has:
pages that come and go would be most of the spread. Memory is the peak of what a call has
allocated, from torch's own record: it is the same in each run.
"""

LIMITS = """\
The time of a call is a constant, for PyG and torch to start the operators, and then
grows with edges times heads times channels: each message is written and read a few
times, and little is computed from it. The patch adds an entry in a dictionary of the thread
to a call, and takes nothing from either part.
On large graphs, most of a call can be the system's, which clears each new page: where the C
library was not told to keep its memory, `GATv2Conv` and `TransformerConv` took four to six
times as long at inference, with the patch and without.

With several threads, Python runs one thread at a time, and torch lets go of the lock
(the GIL) within its operators. On middle graphs and larger ones the operators run side
by side, until the cores, or the memory that they share, are used up; a lock around the
model gives that away. On small graphs nearly all of a call is Python, and threads spend
their time on handing the GIL to each other: there, one lock around the model, or fewer
threads, answers more calls a second than any way without, and [a Python without the
GIL](#without-the-gil) more than both. The patch is as fast as a copy
of the model for each thread; it cannot be faster than Python lets threads be.
"""


def render(data: dict[str, Any], catalogue: Catalogue) -> str:
    """The page, in Markdown."""
    sections = [
        INTRODUCTION,
        "## One thread\n\n![Ratios of time, by layer](performance-ratios.svg)\n",
        *_layers(data["layers"], catalogue),
        *_large(data.get("large"), catalogue),
        "## How the cost grows\n\n![Time by edges, and by heads](performance-growth.svg)\n",
        _provenance(data["growth"]),
        LIMITS,
        "## Many threads\n\n![Calls a second, by threads](performance-threads.svg)\n",
        _threads(data["threads"]),
        *_free_threaded(data.get("free-threaded")),
        explaining.section(data["explained"], _provenance(data["explained"])),
        "## A served model\n",
        _served(data["served"]),
        "## The kit itself\n",
        _kit(data["kit"]),
    ]
    return "\n".join(sections).rstrip("\n") + "\n"


def _provenance(part: dict[str, Any]) -> str:
    when = part["when"].replace("T", " ").replace("+00:00", " UTC")
    versions = f", torch {part['torch']}, Python {part['python']}" if "torch" in part else ""
    return f"*`{part['command']}`, {when}, {part['machine']}{versions}.*\n"


def _layers(part: dict[str, Any], catalogue: Catalogue) -> Iterator[str]:
    yield _provenance(part)
    for mode in ("inference", "training"):
        title = "Inference" if mode == "inference" else "A step of training: forward and backward"
        rows = [
            f"### {title}\n",
            "| PyG | layer | graph | nodes, edges | variant | time | ratio | interval | memory |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for ratio in part["ratios"]:
            if ratio["mode"] != mode or ratio["variant"] == PRISTINE:
                continue
            rows.append(
                f"| {ratio['release']} | {catalogue.classes[ratio['layer']]} | {ratio['graph']} "
                f"| {ratio['nodes']:,}, {ratio['edges']:,} | {variant_of(ratio, catalogue)} "
                f"| {ratio['ms']:.3g} ms | {ratio['ratio']:.3f} "
                f"| {ratio['low']:.3f} to {ratio['high']:.3f} | {ratio['memory_ratio']:.3f} |"
            )
        yield "\n".join(rows) + "\n"
    yield _verdict(part["ratios"], catalogue)


def _large(part: dict[str, Any] | None, catalogue: Catalogue) -> Iterator[str]:
    if part is None:
        return
    yield "## Large graphs\n"
    yield (
        "Layers of 8 heads of 64 channels, or with messages of the same size; `VGAE` and\n"
        "`HeteroBasisConv` are those of their threaded tests.\n"
    )
    yield from _layers(part, catalogue)


def variant_of(ratio: dict[str, Any], catalogue: Catalogue) -> str:
    """What the page calls the variant that a ratio is of."""
    release = catalogue.find(ratio["release"])
    is_fixed = release.status.get(ratio["layer"]) == "fixed"
    return "single gather" if ratio["variant"] == PATCHED and is_fixed else str(ratio["variant"])


def _verdict(ratios: list[dict[str, Any]], catalogue: Catalogue) -> str:
    patched = [r for r in ratios if r["variant"] == PATCHED]
    holds = [r for r in patched if r["low"] <= 1 <= r["high"] or r["high"] < 1]
    memory = [r for r in patched if r["memory_ratio"] <= 1]
    middle = sorted(r["ratio"] for r in patched)[len(patched) // 2]
    worst = max(patched, key=lambda r: float(r["ratio"]))
    return (
        f"Of {len(patched)} ratios of patched layers, {len(holds)} have an interval that includes "
        f"1.00 or lies below it; their median is {middle:.3f}, the highest {worst['ratio']:.3f} "
        f"({worst['low']:.3f} to {worst['high']:.3f}; {worst['mode']}, {worst['graph']} graph, "
        f"`{catalogue.classes[worst['layer']]}` of {worst['release']}, "
        f"{variant_of(worst, catalogue)}). {len(memory)} need no more memory at their peak.\n"
    )


def _threads(part: dict[str, Any]) -> str:
    lines = [
        _provenance(part),
        f"One `GATv2Conv` of PyG {part['release']}, called by all threads at once, each with the "
        "next request as soon as it has its answer. The unpatched layer stands first, with the "
        "answers that it got wrong: a fast wrong answer is none.",
        "",
        "| graph | threads | way | calls a second | p50 | p95 | p99 | crashed | silently wrong "
        "| memory | start |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = sorted(part["rows"], key=lambda row: (row["graph"] != "small", row["threads"]))
    for row in rows:
        memory = row["uss_bytes"] or row["model_bytes"]
        start = f"{row['start_s']:.1f} s" if row["start_s"] else ""
        lines.append(
            f"| {row['graph']} | {row['threads']} | {WAYS[row['way']]} "
            f"| {row['calls_a_second']:,.0f} | {_ms(row['p50_ms'])} | {_ms(row['p95_ms'])} "
            f"| {_ms(row['p99_ms'])} | {row['crashed'] / row['calls']:.1%} "
            f"| {row['silently_wrong'] / row['calls']:.1%} | {_bytes(memory)} | {start} |"
        )
    lines += ["", *_against(rows)]
    return "\n".join(lines) + "\n"


def _free_threaded(part: dict[str, Any] | None) -> Iterator[str]:
    if part is None:
        return
    yield "### Without the GIL\n\n![Without the GIL](performance-free-threaded.svg)\n"
    yield (
        "The same with a Python that runs threads side by side (PEP 703): what holds threads\n"
        "back on small graphs is the GIL, and not the layer.\n"
    )
    yield _threads(part)


def _against(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The patched layer's calls a second over those of the other ways, in a table."""
    yield "The patched layer's calls a second, over those of the other ways: the median of the"
    yield "slices, in which the ways take turns, and their range."
    yield ""
    yield "| graph | threads | lock | deepcopy | upstream's fix | processes |"
    yield "|---|---|---|---|---|---|"
    for (graph, threads), group in groupby(rows, key=lambda r: (r["graph"], r["threads"])):
        slices = {row["way"]: row["slices"] for row in group}
        cells = []
        for way in ("lock", "deepcopy", "upstream", "processes"):
            ratios = [a / b for a, b in zip(slices["patched"], slices[way], strict=True)]
            middle = statistics.median(ratios)
            cells.append(f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        yield f"| {graph} | {threads} | {' | '.join(cells)} |"


def _ms(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.3g} ms"


def _bytes(size: int) -> str:
    count = float(size)
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _served(part: dict[str, Any]) -> str:
    lines = [
        _provenance(part),
        f"Two layers of `GATv2Conv` of PyG {part['release']} behind FastAPI, whose thread pool "
        f"shares them, under the load of {part['clients']} clients; "
        "[examples/serving](../examples/serving/README.md) starts it.",
        "",
        "| | answers a second | p50 | p95 | p99 | error answers | wrong answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for tree, total in part["total"].items():
        lines.append(
            f"| {'unpatched' if tree == 'pristine' else tree} "
            f"| {total['requests_per_second']:,.0f} "
            f"| {total['p50_ms']:.1f} ms | {total['p95_ms']:.1f} ms | {total['p99_ms']:.1f} ms "
            f"| {total['errors']:,} of {total['requests']:,} "
            f"| {total['wrong']:,} of {total['requests']:,} |"
        )
    return "\n".join(lines) + "\n"


def _kit(part: dict[str, Any]) -> str:
    lines = [
        _provenance(part),
        "| command, with downloads cached | median | all |",
        "|---|---|---|",
    ]
    for command, timed in part["commands"].items():
        times = ", ".join(f"{seconds:.2f}" for seconds in timed["times_s"])
        lines.append(f"| `{command}` | {timed['median_s']:.2f} s | {times} s |")
    lines += ["", "How long the matrix takes is on the [status page](status.md)."]
    return "\n".join(lines) + "\n"


def read_data() -> dict[str, Any]:
    """Returns the data that the page is made from.

    Raises:
        SourceError: If there are none.
    """
    data: dict[str, Any] = pages.read_data(
        DATA, "without --render and --part, all of it is measured anew."
    )
    return data


def problems(data: dict[str, Any], catalogue: Catalogue) -> Iterator[str]:
    """Yields what the kit promises and the measurements do not show, in sentences."""
    for part in ("layers", "large"):
        ratios = data.get(part, {}).get("ratios", [])
        patched = [ratio for ratio in ratios if ratio["variant"] == PATCHED]
        for mode in ("inference", "training") if ratios else ():
            measured = {ratio["layer"] for ratio in patched if ratio["mode"] == mode}
            for layer in catalogue.classes.keys() - measured - NO_LAYER:
                yield f"{part}, {mode}: {catalogue.classes[layer]} was not measured."
        for ratio in patched:
            if ratio["memory_ratio"] > 1:
                yield (
                    f"{part}, {ratio['mode']}: {catalogue.classes[ratio['layer']]} of "
                    f"{ratio['release']} needs {ratio['memory_ratio']:.3f} times the memory on the "
                    f"{ratio['graph']} graph."
                )
    for part in ("threads", "free-threaded"):
        for row in data.get(part, {}).get("rows", []):
            if row["way"] == "patched" and not row["right"] == row["calls"] > 0:
                wrong = row["calls"] - row["right"]
                yield f"{part}: {wrong} of {row['calls']} calls of the patched layer went wrong."
    served = data.get("served", {}).get("total", {}).get("patched", {"errors": 0, "wrong": 0})
    if served["errors"] or served["wrong"]:
        yield f"served: {served['errors']} errors and {served['wrong']} wrong answers once patched."
