"""Shows the race on a pristine release, and its absence on the patched one."""

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import benching, environments, patching, sources
from kit.errors import ProofError, ToolError
from kit.processes import git, last_lines, run
from kit.releases import Catalogue, Release

PROGRAM = Path(__file__).parent / "programs" / "prove.py"


@dataclass(frozen=True)
class LayerProof:
    """What was measured of one layer.

    Attributes:
        layer: Its name in `status`.
        status: `affected` or `fixed`.
        pristine: Counts of calls, as `programs/prove.py` gives them.
        patched: The same, on the patched tree.
        latency: Ratios patched/pristine a graph size; None where the code is the same.
    """

    layer: str
    status: str
    pristine: dict[str, Any]
    patched: dict[str, Any]
    latency: dict[str, Any] | None

    def problems(self) -> list[str]:
        """What is not as it must be, in sentences."""
        found = []
        interleaved, stress = self.pristine["interleaved"], self.pristine["stress"]
        if self.status == "affected" and interleaved["spoiled_rounds"] < interleaved["rounds"]:
            found.append(
                f"{self.layer}: the forced interleaving was to fail in each of the "
                f"{interleaved['rounds']} rounds on the pristine release, and failed in "
                f"{interleaved['spoiled_rounds']}."
            )
        if self.status == "fixed" and not _clean(interleaved, stress):
            found.append(f"{self.layer}: the pristine release counts as fixed, and races.")
        if not _clean(self.patched["interleaved"], self.patched["stress"]):
            found.append(f"{self.layer}: the patched release races.")
        return found


def _clean(*counts: dict[str, Any]) -> bool:
    return all(count["right"] == count["calls"] > 0 for count in counts)


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
        """What is not as it must be, in sentences."""
        return [problem for layer in self.layers for problem in layer.problems()]

    def as_json(self) -> dict[str, Any]:
        """The whole of it, for `--json`."""
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

    Raises:
        ToolError: If PyG cannot be imported, or the program that runs there fails.
    """
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        pristine, patched = Path(name) / "pristine", Path(name) / "patched"
        sources.materialize(release, source, patched)
        git("worktree", "add", "--quiet", pristine, "pristine", cwd=patched)
        patching.apply(patched, patching.plan(patched, release.patches))
        tests = {
            layer: patched / _touched(release, f"regression_test/{layer}.patch")
            for layer in release.status
        }
        code = {p.series: patched / p.changes[0].path for p in release.patches if p.is_for_library}
        patched_layers = [layer for layer in tests if layer in code]
        counts: dict[Path, dict[str, Any]] = {}
        # Where no patch changes a layer, both trees run the same code.
        for tree, layers in ((pristine, list(tests)), (patched, patched_layers)):
            names = ", ".join(catalogue.classes[layer] for layer in layers)
            notify(f"Threads on the {tree.name} tree: {names} ...")
            seen = _run(release, python, tree, device, *(tests[layer] for layer in layers))
            counts[tree] = dict(zip(layers, seen.pop("measured"), strict=True))
        latency: dict[str, Any] = {}
        if with_latency:
            notify("Latency, patched against pristine ...")
            graphs = [benching.SMALL_GRAPH, benching.MIDDLE_GRAPH]
            cases = benching.cases_of(
                release, catalogue, patched_layers, graphs, patched, {}, ["inference"]
            )
            measured = benching.run_cases(python, pristine, cases)["cases"]
            for case, found in zip(cases, measured, strict=True):
                latency.setdefault(case["layer"], {})[case["graph"]] = _ratio(case, found["times"])
        layers_proved = [
            LayerProof(
                layer,
                status,
                counts[pristine][layer],
                counts[patched].get(layer, counts[pristine][layer]),
                latency.get(layer),
            )
            for layer, status in release.status.items()
        ]
        return Proof(release, **seen, layers=layers_proved)


def _ratio(case: dict[str, Any], times: dict[str, list[float]]) -> dict[str, Any]:
    before, after = times[benching.PRISTINE], times[benching.PATCHED]
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


def _touched(release: Release, name: str) -> str:
    patch = next((patch for patch in release.patches if patch.name == name), None)
    if patch is None:
        raise ProofError(f"PyG {release.version} takes no patches/{name}, so nothing can be run.")
    return patch.changes[0].path


def _run(release: Release, python: Path, tree: Path, *arguments: str | Path) -> Any:  # noqa: ANN401
    # PyG leaves compiled templates in the directory for temporary files, and 2.5.0 at
    # home, under names that all of its trees share.
    env = {"PYTHONPATH": str(tree), "PYG_HOME": f"{tree}.home", "TMPDIR": str(tree.parent)}
    # The first matrix product of a thread else runs on all cores, and rounds in another way.
    env["OMP_NUM_THREADS"] = "1"
    if environments.describe(python).tag.endswith("t"):
        # Packages that do not know of free threading would turn the lock on again.
        env["PYTHON_GIL"] = "0"
    result = run([python, PROGRAM, *arguments], env=env)
    if result.returncode != 0:
        environments.check_imports(python, tree, release)
        raise ToolError(
            f"The proof could not be run on the {tree.name} tree: {last_lines(result.stderr)}"
        )
    return json.loads(result.stdout.splitlines()[-1])
