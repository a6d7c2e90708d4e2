"""Shows the race on a pristine release, and its absence on the patched one."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit import environments, patching, sources
from kit.errors import ProofError, ToolError
from kit.processes import git, last_lines, run
from kit.releases import Release

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


@dataclass
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
    python: str = ""
    torch: str = ""
    gil: bool = True
    layers: list[LayerProof] = field(default_factory=list)

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
    classes: dict[str, str],
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
        classes: The class of each layer.
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
        environments.check_imports(python, patched, release)
        proof = Proof(release)
        for layer, status in release.status.items():
            test = patched / _touched(release, f"regression_test/{layer}.patch")
            code = [p for p in release.patches if p.series == layer and p.is_for_library]
            counts = {}
            for tree in (pristine, patched) if code else (pristine,):
                notify(f"{layer}: threads on the {tree.name} tree ...")
                counts[tree.name] = _run(python, tree, "threads", test, device)
                proof.python = counts[tree.name].pop("python")
                proof.torch = counts[tree.name].pop("torch")
                proof.gil = counts[tree.name].pop("gil")
            # Where no patch changes the layer, both trees run the same code.
            counts.setdefault("patched", counts["pristine"])
            latency = None
            if code and with_latency:
                notify(f"{layer}: latency, patched against pristine ...")
                file = patched / code[0].changes[0].path
                latency = _run(python, pristine, "latency", classes[layer], file)
            proof.layers.append(LayerProof(layer, status, **counts, latency=latency))
        return proof


def _touched(release: Release, name: str) -> str:
    patch = next((patch for patch in release.patches if patch.name == name), None)
    if patch is None:
        raise ProofError(f"PyG {release.version} takes no patches/{name}, so nothing can be run.")
    return patch.changes[0].path


def _run(python: Path, tree: Path, *arguments: str | Path) -> dict[str, Any]:
    env = {"PYTHONPATH": str(tree)}
    if environments.describe(python).tag.endswith("t"):
        # Packages that do not know of free threading would turn the lock on again.
        env["PYTHON_GIL"] = "0"
    result = run([python, PROGRAM, *arguments], env=env)
    if result.returncode != 0:
        raise ToolError(
            f"The proof could not be run on the {tree.name} tree: {last_lines(result.stderr)}"
        )
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured
