"""Measures what thread safety costs: the patched layers against what people run instead."""

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

from kit import environments, pages, sources
from kit.bench import cases, explaining
from kit.bench.cases import FIXED, GATV2, ITSELF, ONE_GATHER, RACY, UPSTREAM, Graph, Ratio
from kit.errors import ToolError, UsageError
from kit.processes import last_lines, run
from kit.releases import ROOT, Catalogue, Release
from kit.trees import Trees, pristine_and_patched

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

# The parts of the page, and those that are measured only where they are asked for: the first
# takes twenty minutes, the second needs another Python.
PARTS = ("layers", "growth", "threads", "explained", "served", "kit")
LARGE, FREE_THREADED = "large", "free-threaded"

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """What measures: where releases come from, what they run on, and how much of it.

    Attributes:
        catalogue: The pinned releases.
        source: Where to get them from.
        python_for: Returns an interpreter with torch and what a release needs.
        notify: Is told what is under way.
        full: Whether to use more processes, and large graphs.
    """

    catalogue: Catalogue
    source: sources.Source
    python_for: Callable[[Release], Path]
    notify: Notify
    full: bool = False

    @property
    def processes(self) -> int:
        """How many processes measure, one after the other."""
        return 10 if self.full else 5


def measure_release(bench: Bench, release: Release) -> dict[str, Any]:
    """Times all layers of a release that a patch changes, as `measure_layers` does.

    Raises:
        UsageError: If there are none.
        ToolError: If the program that runs there fails.
    """
    series = {patch.series for patch in release.all_patches() if patch.is_for_library}
    layers = [name for name in release.status if {name, f"{name}_single_gather"} & series]
    if not layers:
        raise UsageError(f"No patch changes a layer of PyG {release.version}.")
    graphs = [cases.SMALL_GRAPH, cases.MIDDLE_GRAPH, *([cases.LARGE_GRAPH] * bench.full)]
    return measure_layers(bench, release, layers, bench.processes, graphs)


def check_parts(parts: Sequence[str], python: Path) -> None:
    """Checks that an interpreter can measure the parts that are asked for.

    Raises:
        UsageError: If not.
    """
    if FREE_THREADED in parts and (
        len(parts) > 1 or not environments.describe(python).tag.endswith("t")
    ):
        raise UsageError(
            f"--part {FREE_THREADED} goes alone, and with a Python without the GIL that has "
            f"torch: --python PATH. 'scripts/kit.sh env --torch 2.9.1 --python python3.13t' "
            f"makes one."
        )


def measure_page(bench: Bench, parts: Sequence[str], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Measures what the page is made of.

    Args:
        bench: What measures.
        parts: The parts to measure; none of them means all that take no special machine.
        kept: What was measured before. Of it, what is not measured now is kept where parts are
            named, and else what is measured only where it is asked for.

    Raises:
        ToolError: If a program that runs there fails.
    """
    rarely = (LARGE, FREE_THREADED)
    data = {key: part for key, part in kept.items() if parts or key in rarely}
    chosen = parts or (*PARTS, *([LARGE] if bench.full else []))
    for number, part in enumerate(chosen):
        where = f"{part}, {number + 1} of {len(chosen)}"
        data[part] = measure_part(_telling(bench, where), part)
    return data


def _telling(bench: Bench, where: str) -> Bench:
    """The same, which says where it is."""
    return replace(bench, notify=lambda text: bench.notify(f"{where}: {text}"))


def measure_part(bench: Bench, part: str) -> dict[str, Any]:
    """Measures one part of the page, and says when, where and how.

    Args:
        bench: What measures.
        part: One of `PARTS`, `LARGE` and `FREE_THREADED`.

    Raises:
        ToolError: If a program that runs there fails.
    """
    racy = bench.catalogue.find(RACY)
    result: dict[str, Any]
    if part in ("layers", LARGE):
        result = _measure_all(bench, part)
    elif part == "growth":
        graphs = cases.growth(bench.full)
        result = measure_layers(
            bench, racy, ["gatv2_conv"], bench.processes // 2, graphs, ["inference"]
        )
    elif part in ("threads", FREE_THREADED):
        result = measure_threads(bench, racy, 4 if bench.full else 1, [1, 2, 4, 8, 16])
    elif part == "explained":
        result = _measure_explained(bench)
    elif part == "served":
        result = measure_served(racy, bench.notify, 10 if bench.full else 3)
    else:
        result = {"commands": measure_kit(racy, bench.notify)}
    if part == FREE_THREADED:
        result["python"] += "t"
    command = "scripts/kit.sh bench" + " --full" * bench.full
    return {**result, **pages.stamp(f"{command} --part {part}")}


def _measure_all(bench: Bench, part: str) -> dict[str, Any]:
    """The layers of all `RELEASES`."""
    # On a large graph a call takes seconds, so that few are long enough.
    processes = bench.processes if bench.full or part == "layers" else 3
    large = [cases.LARGE_GRAPH]
    graphs = large if part == LARGE else [cases.SMALL_GRAPH, cases.MIDDLE_GRAPH]
    ratios: list[dict[str, Any]] = []
    for name, layers in RELEASES.items():
        result = measure_layers(bench, bench.catalogue.find(name), layers, processes, graphs)
        ratios += result.pop("ratios")
    return {**result, "ratios": ratios}


def _measure_explained(bench: Bench) -> dict[str, Any]:
    """Explanations of both ways in which releases explain."""
    rows: list[dict[str, Any]] = []
    for version in explaining.RELEASES:
        release = bench.catalogue.find(version)
        python = bench.python_for(release)
        result = explaining.measure_explained(
            *(release, bench.source, python, bench.processes, bench.notify)
        )
        rows += result.pop("rows")
    return {**result, "rows": rows}


@contextlib.contextmanager
def make_trees(bench: Bench, release: Release) -> Iterator[tuple[Trees, Path]]:
    """Makes what is compared, for as long as it takes.

    Yields:
        The trees of a release, the second with all patches that there are for it; and the tree
        of the release whose `GATv2Conv` is set beside them: the first one with upstream's fix
        where the release races, else the last one before that.
    """
    version = FIXED if "gatv2_conv" in release.affected() else RACY
    with pristine_and_patched(release, bench.source, release.all_patches()) as trees:
        other = trees.folder / version
        sources.materialize(bench.catalogue.find(version), bench.source, other)
        yield trees, other


def measure_layers(
    bench: Bench,
    release: Release,
    layers: Sequence[str],
    processes: int,
    graphs: Sequence[Graph],
    modes: Sequence[str] = ("inference", "training"),
) -> dict[str, Any]:
    """Times the layers of a release, patched against unpatched, in several processes.

    Args:
        bench: What measures.
        release: The release.
        layers: Which of its layers.
        processes: How many processes, one after the other.
        graphs: The sizes of graph.
        modes: What is timed.

    Returns:
        The versions, and a `Ratio` for each layer, graph, mode and variant.

    Raises:
        ToolError: If the program that runs there fails.
    """
    python = bench.python_for(release)
    label = UPSTREAM if "gatv2_conv" in release.affected() else ONE_GATHER
    with make_trees(bench, release) as (trees, other):
        others = {}
        if "gatv2_conv" in layers and _runs(bench, release, trees, other, label):
            others = {label: other / GATV2}
        timed = cases.cases_of(
            release, bench.catalogue, layers, graphs, trees.patched, others, modes
        )
        # A release as a whole wants a process of its own.
        is_whole = [label == UPSTREAM and case["layer"] == "gatv2_conv" for case in timed]
        whole = [case | {"variants": {ITSELF: None}} for case in compress(timed, is_whole)]
        runs = []
        for number in range(processes):
            bench.notify(
                f"PyG {release.version}, process {number + 1} of {processes}: "
                f"{', '.join(bench.catalogue.classes[layer] for layer in layers)} ..."
            )
            runs.append(cases.run_cases(python, trees.pristine, timed))
            if whole:
                alone = cases.run_cases(python, other, whole)["cases"]
                _join(compress(runs[-1]["cases"], is_whole), alone, "times", "peak_bytes")
    _join(compress(timed, is_whole), whole, "variants")
    ratios: list[Ratio] = cases.summarize(release, timed, runs)
    return {
        "python": runs[0]["python"],
        "torch": runs[0]["torch"],
        "ratios": [asdict(ratio) for ratio in ratios],
    }


def _runs(bench: Bench, release: Release, trees: Trees, other: Path, label: str) -> bool:
    """Whether the `GATv2Conv` of another release runs in this one, whose imports may not do."""
    tried = replace(cases.SMALL_GRAPH, rounds={"inference": 0})
    try:
        alone = cases.cases_of(
            release,
            bench.catalogue,
            ["gatv2_conv"],
            [tried],
            trees.patched,
            {label: other / GATV2},
        )
        cases.run_cases(bench.python_for(release), trees.pristine, alone)
    except ToolError as error:
        bench.notify(
            f"Left out: '{label}', as the GATv2Conv of {other.name} does not run in PyG "
            f"{release.version}; all else is measured. {error}"
        )
        return False
    return True


def _join(records: Iterable[dict[str, Any]], more: Iterable[dict[str, Any]], *keys: str) -> None:
    """Adds what is under some keys of other records to records, in place."""
    for record, other in zip(records, more, strict=True):
        for key in keys:
            record[key] |= other[key]


def measure_threads(
    bench: Bench, release: Release, seconds: float, threads: Sequence[int]
) -> dict[str, Any]:
    """Lets many threads call one `GATv2Conv`, in each of the ways in which people do it.

    Args:
        bench: What measures.
        release: The release.
        seconds: How long each way is given, for each number of threads.
        threads: How many threads.

    Raises:
        ToolError: If the program that runs there fails.
    """
    with make_trees(bench, release) as (trees, other):
        test = next(p for p in release.patches if p.name == "regression_test/gatv2_conv.patch")
        ways = ["unpatched", f"patched={trees.patched / GATV2}", f"upstream={other / GATV2}"]
        ways += ["lock", "deepcopy", "processes"]
        bench.notify(f"{', '.join(map(str, threads))} threads, in {len(ways)} ways (minutes) ...")
        process = environments.run_pyg(
            bench.python_for(release),
            *(environments.PROGRAMS / "throughput.py", bench.catalogue.classes["gatv2_conv"]),
            *(trees.patched / test.changes[0].path, str(seconds)),
            *(",".join(map(str, threads)), "small,middle", *ways),
            tree=trees.pristine,
        )
    if process.returncode != 0:
        raise ToolError(f"The measurement could not be run: {last_lines(process.stderr)}")
    result: dict[str, Any] = environments.result_of(process)
    return {"release": release.version, **result}


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
        served: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return served


def measure_kit(release: Release, notify: Notify) -> dict[str, Any]:
    """Times the kit's own commands, as a user calls them, with all downloads cached.

    Raises:
        ToolError: If one fails.
    """
    commands = {}
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        timed = {
            f"scripts/apply.sh {release.version}": ["scripts/apply.sh", release.version, "--dest"],
            "scripts/kit.sh validate": ["scripts/kit.sh", "validate", "--source", "sdist"],
        }
        for label, command in timed.items():
            notify(f"{label} ...")
            times = []
            for number in range(6):
                arguments = [str(ROOT / command[0]), *command[1:]]
                arguments += (
                    [str(Path(name) / f"tree{number}")] if arguments[-1] == "--dest" else []
                )
                start = time.perf_counter()
                result = run(arguments)
                times.append(time.perf_counter() - start)
                if result.returncode != 0:
                    raise ToolError(f"{label} failed: {last_lines(result.stderr)}")
            # The first one fills the caches.
            commands[label] = {"median_s": statistics.median(times[1:]), "times_s": times[1:]}
    return commands
