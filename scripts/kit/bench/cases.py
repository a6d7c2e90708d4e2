"""What is timed: layers, their variants and graphs; and the ratios that come of it."""

import json
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import environments
from kit.errors import ToolError
from kit.processes import last_lines
from kit.releases import Catalogue, Release

GATV2 = "torch_geometric/nn/conv/gatv2_conv.py"
# The first release with upstream's fix, and the last one before it.
FIXED, RACY = "2.5.0", "2.4.0"

PRISTINE, PATCHED = "unpatched", "patched"
UPSTREAM = "upstream's fix"
ITSELF = f"{FIXED} itself"
ONE_GATHER = "one gather, as 2.4.0"


@dataclass(frozen=True)
class Graph:
    """A size of graph, and how often a layer is timed on it.

    Attributes:
        name: What the page calls it.
        nodes: How many nodes.
        edges: How many edges.
        rounds: How many ratios a process gives, for inference and for training.
        calls: How many calls are behind each.
        build: The arguments of a larger layer than that of the regression test, by class.
    """

    name: str
    nodes: int
    edges: int
    rounds: dict[str, int]
    calls: int
    build: dict[str, dict[str, Any] | None] | None = None


def _large(*channels: int, **kwargs: float | None) -> dict[str, Any]:
    return {"args": list(channels), "kwargs": kwargs}


# Of 8 heads of 64 channels, or what has messages of the same size; `RGATConv` gathers
# a matrix a message, so that fewer channels fill the memory. None: as in the threaded test.
LARGE: dict[str, dict[str, Any] | None] = {
    "GATv2Conv": _large(64, 64, heads=8),
    "TransformerConv": _large(64, 64, heads=8),
    "GATConv": _large(64, 64, heads=8),
    "FAConv": _large(512),
    "RGATConv": _large(64, 8, num_relations=3),
    "LPAttLayer": _large(64, 512, node_dim=None, num_heads=1, dropout=0.0),
    "HypergraphConv": _large(512, 512),
    "VGAE": None,
    "HeteroBasisConv": None,
}
# Series that change no layer: what predicts is the code of the release.
NO_LAYER = {"explainer"}
SMALL_GRAPH = Graph("small", 100, 500, {"inference": 40, "training": 20}, 10)
MIDDLE_GRAPH = Graph("middle", 10_000, 100_000, {"inference": 24, "training": 16}, 1)
LARGE_GRAPH = Graph("large", 2_000, 200_000, {"inference": 12, "training": 8}, 1, LARGE)


def growth(full: bool) -> list[Graph]:
    """The graphs that show how the cost grows: with edges, then with heads."""
    rounds = {"inference": 20 if full else 8}
    edges = [100, 1_000, 10_000, 100_000, *([1_000_000] if full else [])]
    graphs = [Graph("edges", max(n // 10, 10), n, rounds, 1 + 2_000 // n) for n in edges]
    for heads in (1, 2, 4, 8, 16):
        build: dict[str, dict[str, Any] | None] = {"GATv2Conv": _large(8, 8, heads=heads)}
        graphs.append(Graph("heads", 2_000, 20_000, rounds, 1, build))
    return graphs


def cases_of(
    release: Release,
    catalogue: Catalogue,
    layers: Iterable[str],
    graphs: Sequence[Graph],
    patched: Path,
    others: dict[str, Path],
    modes: Sequence[str] = ("inference", "training"),
) -> list[dict[str, Any]]:
    """What `programs/bench.py` is to measure of a release.

    Args:
        release: The release.
        catalogue: The pinned releases.
        layers: Names of layers.
        graphs: The sizes. Layers that a larger size has no arguments for are left out.
        patched: The patched tree.
        others: More variants of `GATv2Conv`: label and file.
        modes: What of.
    """
    code = {
        change.path: patch.series
        for patch in release.all_patches()
        if patch.is_for_library
        for change in patch.changes
    }
    files = {series.removesuffix("_single_gather"): path for path, series in code.items()}
    cases = []
    for layer in layers:
        name = catalogue.classes[layer]
        test = next(p for p in release.patches if p.name == f"regression_test/{layer}.patch")
        variants: dict[str, str | None] = {
            PRISTINE: None,
            PATCHED: str(patched / files[layer]),
        }
        if layer == "gatv2_conv":
            variants |= {label: str(file) for label, file in others.items()}
        for graph in graphs:
            for mode in modes:
                if mode in graph.rounds and not (graph.build and name not in graph.build):
                    file = patched / test.changes[0].path
                    cases.append(case(layer, name, file, variants, graph, mode))
    return cases


def case(
    layer: str, name: str, test: Path, variants: dict[str, str | None], graph: Graph, mode: str
) -> dict[str, Any]:
    """What `programs/bench.py` is to measure at once.

    Args:
        layer: The name of the layer.
        name: Its class.
        test: Its threaded regression test, which builds it.
        variants: Label and file of each variant; None for that of the tree.
        graph: The size.
        mode: `inference` or `training`.
    """
    return {
        "layer": layer,
        "class": name,
        "test": str(test),
        "variants": variants,
        "graph": graph.name,
        "nodes": graph.nodes,
        "edges": graph.edges,
        "build": graph.build and graph.build.get(name),
        "mode": mode,
        "rounds": graph.rounds[mode],
        "calls": graph.calls,
    }


# Lets glibc keep the memory of a tensor for the next one. It else hands some back to the
# system, depending on what a process has allocated before, and each call waits for new pages:
# in some processes, a middle graph took 1.8 times as long, for every variant.
# https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}


def run_cases(python: Path, tree: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Measures cases in one process.

    Raises:
        ToolError: If the program fails.
    """
    program = environments.PROGRAMS / "bench.py"
    process = environments.run_pyg(python, program, json.dumps(cases), tree=tree, env=KEEP_MEMORY)
    if process.returncode != 0:
        raise ToolError(f"The measurement could not be run: {last_lines(process.stderr)}")
    result: dict[str, Any] = environments.result_of(process)
    return result


@dataclass(frozen=True)
class Ratio:
    """How long a variant takes, or how much memory, against the first one.

    Attributes:
        release: The version of PyG whose layer it is.
        layer: Its name in `status`.
        graph: The name of the size.
        nodes: How many nodes.
        edges: How many edges.
        heads: How many heads, where that is not what the regression test has.
        mode: `inference` or `training`.
        variant: What is compared.
        ms: The median of its times a call, in milliseconds.
        ratio: The median of time over time of the first variant, in the same round.
        low: The lower end of the 95% confidence interval of that.
        high: The upper end.
        peak_bytes: The peak of allocated memory.
        memory_ratio: The same over that of the first variant.
        rounds: How many ratios it is from.
        processes: How many processes these are from.
    """

    release: str
    layer: str
    graph: str
    nodes: int
    edges: int
    heads: int | None
    mode: str
    variant: str
    ms: float
    ratio: float
    low: float
    high: float
    peak_bytes: int
    memory_ratio: float
    rounds: int
    processes: int


def interval(samples: Sequence[Sequence[float]], resamples: int = 1000) -> tuple[float, float]:
    """The 95% confidence interval of the median of ratios that come from several processes.

    Args:
        samples: The ratios of each process.
        resamples: How often to draw.

    Returns:
        Both ends, by the bootstrap: processes are drawn with replacement, then rounds
        within each, since rounds of one process share what that process is given.
    """
    draw = random.Random(12345)  # noqa: S311 (the same data give the same interval)
    medians = []
    for _ in range(resamples):
        drawn: list[float] = []
        for process in draw.choices(samples, k=len(samples)):
            drawn += draw.choices(process, k=len(process))
        medians.append(statistics.median(drawn))
    medians.sort()
    return medians[int(0.025 * resamples)], medians[int(0.975 * resamples) - 1]


def summarize(
    release: Release, cases: list[dict[str, Any]], runs: list[dict[str, Any]]
) -> list[Ratio]:
    """Puts together what several processes have measured of the same cases."""
    ratios = []
    for number, case in enumerate(cases):
        results = [run["cases"][number] for run in runs]
        first = next(iter(case["variants"]))
        for variant in case["variants"]:
            samples = [
                [a / b for a, b in zip(s["times"][variant], s["times"][first], strict=True)]
                for s in results
            ]
            low, high = interval(samples)
            peak = results[0]["peak_bytes"]
            ratios.append(
                Ratio(
                    release=release.version,
                    layer=case["layer"],
                    graph=case["graph"],
                    nodes=case["nodes"],
                    edges=case["edges"],
                    heads=case["build"] and case["build"]["kwargs"].get("heads"),
                    mode=case["mode"],
                    variant=variant,
                    ms=1e3 * statistics.median(t for s in results for t in s["times"][variant]),
                    ratio=statistics.median(ratio for sample in samples for ratio in sample),
                    low=low,
                    high=high,
                    peak_bytes=peak[variant],
                    memory_ratio=peak[variant] / peak[first],
                    rounds=sum(map(len, samples)),
                    processes=len(samples),
                )
            )
    return ratios
