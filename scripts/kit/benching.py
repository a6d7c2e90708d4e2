"""What thread safety costs: the patched layers against what people run instead."""

import contextlib
import datetime
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

from kit import patching, sources
from kit.errors import SourceError, ToolError
from kit.processes import git, last_lines, run
from kit.releases import ROOT, Catalogue, Release
from kit.reporting import machine

PROGRAMS = Path(__file__).parent / "programs"

# The page, what it is made from, and its pictures.
PAGE = ROOT / "docs" / "performance.md"
DATA = ROOT / "docs" / "performance.json"
PICTURES = {
    name: ROOT / "docs" / f"performance-{name}.svg"
    for name in ("ratios", "growth", "threads", "free-threaded")
}

# Where the page takes its layers from: the newest release with most of them, the newest
# one, and the last one in which the two oldest faults stand.
RELEASES = {
    "2.4.0": [
        "gatv2_conv",
        "transformer_conv",
        "fa_conv",
        "rgat_conv",
        "autoencoder",
        "to_hetero_with_bases",
    ],
    "2.8.1": ["lpformer", "gatv2_conv"],
    "2.0.3": ["gat_conv", "hypergraph_conv"],
}

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


@dataclass(frozen=True)
class Bench:
    """A release to be measured.

    Attributes:
        release: The release.
        python: An interpreter with torch and what the release needs.
        layers: Which of its layers.
    """

    release: Release
    python: Path
    layers: Sequence[str]


@contextlib.contextmanager
def make_trees(
    release: Release, catalogue: Catalogue, source: sources.Source
) -> Iterator[tuple[Path, Path, Path]]:
    """Makes what is compared, for as long as it takes.

    Yields:
        The pristine tree of a release; the patched one, with all that there is for it; and
        that of the release whose `GATv2Conv` is set beside them: the first one with
        upstream's fix where the release races, else the last one before that.
    """
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        pristine, patched = Path(name) / "pristine", Path(name) / "patched"
        sources.materialize(release, source, patched)
        git("worktree", "add", "--quiet", pristine, "pristine", cwd=patched)
        patching.apply(patched, patching.plan(patched, release.all_patches()))
        version = FIXED if "gatv2_conv" in release.affected() else RACY
        sources.materialize(catalogue.find(version), source, Path(name) / version)
        yield pristine, patched, Path(name) / version


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


def _environment(tree: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(tree),
        "PYG_HOME": f"{tree}.home",
        "TMPDIR": str(tree.parent),
        # The first matrix product of a thread else runs on all cores, and rounds in another way.
        "OMP_NUM_THREADS": "1",
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
    env = _environment(tree) | KEEP_MEMORY
    result = run([python, PROGRAMS / "bench.py", json.dumps(cases)], env=env)
    if result.returncode != 0:
        raise ToolError(f"The measurement could not be run: {last_lines(result.stderr)}")
    seen: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return seen


def summarize(
    release: Release, cases: list[dict[str, Any]], runs: list[dict[str, Any]]
) -> list[Ratio]:
    """Puts together what several processes have measured of the same cases."""
    ratios = []
    for number, case in enumerate(cases):
        seen = [run["cases"][number] for run in runs]
        first = next(iter(case["variants"]))
        for variant in case["variants"]:
            samples = [
                [a / b for a, b in zip(s["times"][variant], s["times"][first], strict=True)]
                for s in seen
            ]
            low, high = interval(samples)
            peak = seen[0]["peak_bytes"]
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
                    ms=1e3 * statistics.median(t for s in seen for t in s["times"][variant]),
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


Notify = Callable[[str], None]


def measure_layers(
    bench: Bench,
    catalogue: Catalogue,
    source: sources.Source,
    notify: Notify,
    processes: int,
    graphs: Sequence[Graph],
    modes: Sequence[str] = ("inference", "training"),
) -> dict[str, Any]:
    """Times the layers of a release, patched against unpatched, in several processes.

    Args:
        bench: What to measure.
        catalogue: The pinned releases.
        source: Where to get releases from.
        notify: Is told what is under way.
        processes: How many processes, one after the other.
        graphs: The sizes of graph.
        modes: What is timed.

    Returns:
        The versions, and a `Ratio` for each layer, graph, mode and variant.

    Raises:
        ToolError: If the program that runs there fails.
    """
    release = bench.release
    label = UPSTREAM if "gatv2_conv" in release.affected() else ONE_GATHER
    with make_trees(release, catalogue, source) as (pristine, patched, other):
        others = {label: other / GATV2} if "gatv2_conv" in bench.layers else {}
        if others:
            # It is of another release, whose imports not every release can serve.
            tried = replace(SMALL_GRAPH, rounds={"inference": 0})
            try:
                alone = cases_of(release, catalogue, ["gatv2_conv"], [tried], patched, others)
                run_cases(bench.python, pristine, alone)
            except ToolError as error:
                notify(
                    f"Left out: '{label}', as the GATv2Conv of {other.name} does not run in PyG "
                    f"{release.version}; all else is measured. {error}"
                )
                others = {}
        cases = cases_of(release, catalogue, bench.layers, graphs, patched, others, modes)
        # A release as a whole wants a process of its own.
        is_whole = [label == UPSTREAM and case["layer"] == "gatv2_conv" for case in cases]
        whole = [case | {"variants": {ITSELF: None}} for case in compress(cases, is_whole)]
        runs = []
        for number in range(processes):
            notify(
                f"PyG {release.version}, process {number + 1} of {processes}: "
                f"{', '.join(catalogue.classes[layer] for layer in bench.layers)} ..."
            )
            seen = run_cases(bench.python, pristine, cases)
            if whole:
                found = run_cases(bench.python, other, whole)["cases"]
                for case, more in zip(compress(seen["cases"], is_whole), found, strict=True):
                    for kind in ("times", "peak_bytes"):
                        case[kind] |= more[kind]
            runs.append(seen)
    for case, more in zip(compress(cases, is_whole), whole, strict=True):
        case["variants"] |= more["variants"]
    ratios = summarize(release, cases, runs)
    return {
        "python": runs[0]["python"],
        "torch": runs[0]["torch"],
        "ratios": [asdict(ratio) for ratio in ratios],
    }


def measure_threads(
    bench: Bench,
    catalogue: Catalogue,
    source: sources.Source,
    notify: Notify,
    seconds: float,
    threads: Sequence[int],
    *,
    free_threaded: bool = False,
) -> dict[str, Any]:
    """Lets many threads call one `GATv2Conv`, in each of the ways in which it is done.

    Args:
        bench: What to measure; its layers are not looked at.
        catalogue: The pinned releases.
        source: Where to get releases from.
        notify: Is told what is under way.
        seconds: How long each way is given, for each number of threads.
        threads: How many threads.
        free_threaded: Whether the interpreter has no GIL, which packages that do not know of
            free threading must not bring back.

    Raises:
        ToolError: If the program that runs there fails.
    """
    release = bench.release
    with make_trees(release, catalogue, source) as (pristine, patched, other):
        test = next(p for p in release.patches if p.name == "regression_test/gatv2_conv.patch")
        ways = ["unpatched", f"patched={patched / GATV2}", f"upstream={other / GATV2}"]
        ways += ["lock", "deepcopy", "processes"]
        notify(f"{', '.join(map(str, threads))} threads, in {len(ways)} ways (minutes) ...")
        words: list[str | Path] = [catalogue.classes["gatv2_conv"]]
        words += [patched / test.changes[0].path, str(seconds)]
        words += [",".join(map(str, threads)), "small,middle", *ways]
        env = _environment(pristine) | ({"PYTHON_GIL": "0"} if free_threaded else {})
        result = run([bench.python, PROGRAMS / "throughput.py", *words], env=env)
    if result.returncode != 0:
        raise ToolError(f"The measurement could not be run: {last_lines(result.stderr)}")
    seen: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return {"release": release.version, **seen}


def measure_served(release: Release, notify: Notify, seconds: int) -> dict[str, Any]:
    """Puts a served model under load, unpatched and patched.

    Raises:
        ToolError: If the example fails.
    """
    notify("A served model under load ...")
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        file = Path(name) / "served.json"
        script = ROOT / "examples" / "serving" / "run.sh"
        result = run([script, release.version, "--seconds", str(seconds), "--json", file])
        if result.returncode not in (0, 1):
            raise ToolError(f"The example could not be run: {last_lines(result.stderr)}")
        seen: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return seen


def measure_kit(release: Release, notify: Notify) -> dict[str, Any]:
    """Times the kit's own commands, as a user calls them, with all downloads cached.

    Raises:
        ToolError: If one fails.
    """
    seen = {}
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        commands = {
            f"scripts/apply.sh {release.version}": ["scripts/apply.sh", release.version, "--dest"],
            "scripts/kit.sh validate": ["scripts/kit.sh", "validate", "--source", "sdist"],
        }
        for label, command in commands.items():
            notify(f"{label} ...")
            times = []
            for number in range(6):
                words = [str(ROOT / command[0]), *command[1:]]
                words += [str(Path(name) / f"tree{number}")] if words[-1] == "--dest" else []
                start = time.perf_counter()
                result = run(words)
                times.append(time.perf_counter() - start)
                if result.returncode != 0:
                    raise ToolError(f"{label} failed: {last_lines(result.stderr)}")
            # The first one fills the caches.
            seen[label] = {"median_s": statistics.median(times[1:]), "times_s": times[1:]}
    return seen


def stamp(command: str) -> dict[str, str]:
    """When, where and how something was measured."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return {"when": now, "machine": machine() + load, "command": command}


def read_data() -> dict[str, Any]:
    """Returns the data that the page is made from.

    Raises:
        SourceError: If there are none.
    """
    try:
        data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{DATA} is missing. 'git checkout {DATA.relative_to(ROOT)}' brings it back; without "
            f"--render and --part, all of it is measured anew."
        ) from None
    return data
