"""Shows the race on a pristine release, and its absence on the patched one."""

import itertools
import signal
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit import environments, sources
from kit.bench import cases
from kit.errors import ProofError, ToolError, UsageError
from kit.processes import last_lines
from kit.releases import Catalogue, Release
from kit.trees import Trees, pristine_and_patched

PROGRAM = environments.PROGRAMS / "prove.py"
SCRIPTED = environments.PROGRAMS / "scripted.py"

# How often a scripted layer is called, and how long that may take, in seconds.
SCRIPTED_CALLS = 3_000
TIME_LIMIT = 600.0


@dataclass(frozen=True)
class LayerProof:
    """What was measured of one layer.

    Attributes:
        layer: Its name in `status`.
        status: `affected` or `fixed`.
        pristine: Counts of calls, as `programs/prove.py` gives them.
        patched: The same, on the patched tree.
        latency: Ratios patched/pristine a graph size; None where the code is the same.
        scripted: Counts of calls in TorchScript by tree, as `programs/scripted.py` gives them,
            or the signal by which the process `died`; empty where TorchScript does not take
            the pristine layer, or both trees have the same code.
    """

    layer: str
    status: str
    pristine: dict[str, Any]
    patched: dict[str, Any]
    latency: dict[str, Any] | None
    scripted: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Returns what does not hold, in sentences."""
        problems = []
        interleaved, stress = self.pristine["interleaved"], self.pristine["stress"]
        if self.status == "affected" and interleaved["spoiled_rounds"] < interleaved["rounds"]:
            problems.append(
                f"{self.layer}: the forced interleaving was to fail in each of the "
                f"{interleaved['rounds']} rounds on the pristine release, and failed in "
                f"{interleaved['spoiled_rounds']}."
            )
        if self.status == "fixed" and not _clean(interleaved, stress):
            problems.append(f"{self.layer}: the pristine release counts as fixed, and races.")
        if not _clean(self.patched["interleaved"], self.patched["stress"]):
            problems.append(f"{self.layer}: the patched release races.")
        if self.scripted and not _clean(self.scripted["patched"]):
            problems.append(f"{self.layer}: the patched release races in TorchScript.")
        return problems


def _clean(*counts: dict[str, Any]) -> bool:
    return all(count.get("right") == count.get("calls", 0) > 0 for count in counts)


@dataclass(frozen=True)
class Proof:
    """What was measured of one release.

    Attributes:
        release: The release.
        python: The version of Python.
        torch: The version of torch.
        gil: Whether the global interpreter lock was on, once all calls were made.
        layers: What was measured of each layer.
    """

    release: Release
    python: str
    torch: str
    gil: bool
    layers: list[LayerProof]

    def problems(self) -> list[str]:
        """Returns what does not hold, in sentences."""
        return [problem for layer in self.layers for problem in layer.problems()]

    def as_json(self) -> dict[str, Any]:
        """Returns all of it, for `--json`."""
        return {
            "release": self.release.version,
            "python": self.python,
            "torch": self.torch,
            "gil": self.gil,
            "layers": {
                layer.layer: {
                    "status": layer.status,
                    "pristine": layer.pristine,
                    "patched": layer.patched,
                    "latency": layer.latency,
                    "scripted": layer.scripted,
                }
                for layer in self.layers
            },
            "problems": self.problems(),
        }


def prove(
    release: Release,
    catalogue: Catalogue,
    source: sources.Source,
    python: Path,
    notify: Callable[[str], None],
    *,
    device: str = "cpu",
    with_latency: bool = True,
    layers: Sequence[str] = (),
) -> Proof:
    """Runs the threaded tests of a release on its pristine and on its patched tree.

    Args:
        release: The release.
        catalogue: The pinned releases.
        source: Where to get it from.
        python: An interpreter with torch and what the release needs.
        notify: Is told what is under way.
        device: Where the threads compute: `cpu` or `cuda`.
        with_latency: Whether to compare the latency too, on the CPU.
        layers: Those to prove, as `choose` returns them; none of them means all.

    Raises:
        ToolError: If PyG cannot be imported, or the program that runs there fails.
    """
    status = {name: release.status[name] for name in layers or release.status}
    with pristine_and_patched(release, source, release.patches) as trees:
        tests = {layer: trees.patched / _test_of(release, layer) for layer in status}
        patched_layers = [layer for layer in tests if status[layer] == "affected"]
        counts: dict[Path, dict[str, Any]] = {}
        own_code = [layer for layer in patched_layers if layer not in cases.NO_LAYER]
        # Where no patch changes a layer, both trees run the same code.
        trials = [(trees.pristine, list(tests))]
        trials += [(trees.patched, patched_layers)] if patched_layers else []
        steps = itertools.count(1)
        last = len(trials) + (2 if with_latency and own_code else 1)
        for tree, tried in trials:
            names = ", ".join(catalogue.classes[layer] for layer in tried)
            notify(f"{next(steps)} of {last}: threads on the {tree.name} tree: {names} ...")
            result = _run(release, python, tree, device, *(tests[layer] for layer in tried))
            counts[tree] = dict(zip(tried, result.pop("measured"), strict=True))
        notify(f"{next(steps)} of {last}: threads in TorchScript ...")
        on_cpu = own_code if device == "cpu" else []
        scripted = {layer: _scripted(python, trees, tests[layer]) for layer in on_cpu}
        latency: dict[str, Any] = {}
        if with_latency and own_code:
            notify(f"{next(steps)} of {last}: latency, patched against pristine ...")
            latency = _latency(release, catalogue, python, trees, own_code)
    before = counts[trees.pristine]
    after = before | counts.get(trees.patched, {})
    proved = [
        LayerProof(name, word, before[name], after[name], latency.get(name), scripted.get(name, {}))
        for name, word in status.items()
    ]
    return Proof(release, **result, layers=proved)


def choose(release: Release, names: Sequence[str]) -> list[str]:
    """Returns the layers of a release that a command line names by their series, in order.

    Raises:
        UsageError: If the release has no threaded test of one of them.
    """
    for name in names:
        if name not in release.status:
            raise UsageError(
                f"PyG {release.version} has no threaded test of '{name}'. Expected one of: "
                f"{', '.join(release.status)}."
            )
    return [name for name in release.status if name in names]


def _scripted(python: Path, trees: Trees, test: Path) -> dict[str, Any]:
    """How the calls of a scripted layer end on each tree."""
    ends = {}
    for tree in (trees.pristine, trees.patched):
        arguments = ("scripted", str(SCRIPTED_CALLS), test)
        try:
            process = environments.run_pyg(
                python, SCRIPTED, *arguments, tree=tree, timeout=TIME_LIMIT
            )
        except subprocess.TimeoutExpired:
            ends[tree.name] = {"died": f"hung for {TIME_LIMIT:.0f} s"}
            continue
        if process.returncode < 0:
            ends[tree.name] = {"died": signal.Signals(-process.returncode).name}
        elif process.returncode == 0:
            ends[tree.name] = environments.result_of(process)
        else:
            raise ToolError(
                f"The scripted layer could not be called on the {tree.name} tree: "
                f"{last_lines(process.stderr)}"
            )
        if "error" in ends[tree.name] and tree == trees.pristine:
            return {}
    return ends


def _latency(
    release: Release, catalogue: Catalogue, python: Path, trees: Trees, layers: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The ratios of each layer, by graph."""
    graphs = [cases.SMALL_GRAPH, cases.MIDDLE_GRAPH]
    measured = cases.cases_of(release, catalogue, layers, graphs, trees.patched, {}, ["inference"])
    ratios: dict[str, dict[str, Any]] = {}
    times = cases.run_cases(python, trees.pristine, measured)["cases"]
    for case, result in zip(measured, times, strict=True):
        ratios.setdefault(case["layer"], {})[case["graph"]] = _ratio(case, result["times"])
    return ratios


def _ratio(case: dict[str, Any], times: dict[str, list[float]]) -> dict[str, Any]:
    before, after = times[cases.PRISTINE], times[cases.PATCHED]
    low, middle, high = statistics.quantiles(
        [b / a for a, b in zip(before, after, strict=True)], n=4
    )
    return {
        "nodes": case["nodes"],
        "edges": case["edges"],
        "pristine_ms": statistics.median(before) * 1e3,
        "patched_ms": statistics.median(after) * 1e3,
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "rounds": len(before),
    }


def _test_of(release: Release, layer: str) -> str:
    name = f"regression_test/{layer}.patch"
    patch = next((patch for patch in release.patches if patch.name == name), None)
    if patch is None:
        raise ProofError(f"PyG {release.version} takes no patches/{name}, so nothing can be run.")
    return patch.changes[0].path


def _run(release: Release, python: Path, tree: Path, *arguments: str | Path) -> Any:  # noqa: ANN401
    process = environments.run_pyg(python, PROGRAM, *arguments, tree=tree)
    if process.returncode != 0:
        environments.check_imports(python, tree, release)
        raise ToolError(
            f"The proof could not be run on the {tree.name} tree: {last_lines(process.stderr)}"
        )
    return environments.result_of(process)
