"""Runs the threaded test of each patched layer on its mutants, which it must catch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import environments, pages, sources
from kit.errors import ProofError, ToolError
from kit.mutants import mutate
from kit.processes import last_lines
from kit.releases import Release
from kit.trees import Trees, pristine_and_patched

PROGRAM = environments.PROGRAMS / "mutate.py"

DATA = pages.DOCS / "mutations.json"

# A release of each era.
ERAS = ("1.7.2", "2.0.4", "2.3.1", "2.5.0", "2.8.1")

# How often a mutant is tried, and how often the patched layer.
MUTANT_ROUNDS = 100
PATCHED_ROUNDS = 1_000
# In seconds, for a release.
TIME_LIMIT = 3_600.0


@dataclass(frozen=True)
class Tried:
    """What the forced tests of a layer said, again and again.

    Attributes:
        layer: The layer, as its series is called.
        way: The way of the mutant; empty for the patched layer.
        rounds: How often the tests ran.
        failed: In how many rounds one of them failed.
        same: Whether one thread alone gets what it gets of the patched layer, bit for bit.
        end: What ended or stopped the process; empty where nothing did.
    """

    layer: str
    way: str
    rounds: int
    failed: int
    same: bool
    end: str

    def problem(self) -> str:
        """Returns what does not hold, in a sentence; empty where all does."""
        name = f"{self.layer}, {self.way or 'as patched'}"
        if self.end:
            return f"{name}: {self.end}."
        if not self.same:
            return f"{name}: one thread alone gets another result, so this is no race."
        expected = self.rounds if self.way else 0
        if self.failed != expected or not self.rounds:
            return f"{name}: of {self.rounds:,} rounds, {self.failed:,} failed, not {expected:,}."
        return ""


@dataclass(frozen=True)
class Mutation:
    """What came of the mutants of a release.

    Attributes:
        release: The version of PyG.
        python: The version of Python.
        torch: The version of torch.
        tried: The patched layers, each with its mutants after it.
    """

    release: str
    python: str
    torch: str
    tried: list[Tried]

    def problems(self) -> list[str]:
        """Returns what does not hold, in sentences."""
        if not self.tried:
            return [f"PyG {self.release}: no layer was tried."]
        return [problem for each in self.tried if (problem := each.problem())]

    def as_json(self) -> dict[str, Any]:
        """Returns all of it, for `--json` and the page."""
        return {**asdict(self), "problems": self.problems()}


def run_mutants(
    release: Release,
    source: sources.Source,
    python: Path,
    notify: Callable[[str], None],
    *,
    mutant_rounds: int = MUTANT_ROUNDS,
    patched_rounds: int = PATCHED_ROUNDS,
) -> Mutation:
    """Runs the forced tests of each patched layer on the layer and on its mutants.

    Args:
        release: The release.
        source: Where to get it from.
        python: An interpreter with torch and what the release needs.
        notify: Is told what is under way.
        mutant_rounds: How often the tests run on a mutant.
        patched_rounds: How often they run on the layer as patched.

    Raises:
        ProofError: If no layer of the release is patched.
        ToolError: If PyG cannot be imported, or the program that runs there fails.
        TreeError: If the fault cannot be put back.
    """
    if not release.affected():
        raise ProofError(
            f"There is nothing to mutate: no layer of PyG {release.version} is patched."
        )
    with pristine_and_patched(release, source, release.patches) as trees:
        rounds = (patched_rounds, mutant_rounds)
        jobs = [job for layer in release.affected() for job in _jobs(release, layer, trees, rounds)]
        notify(f"PyG {release.version}: {len(jobs)} layers and mutants ...")
        file = trees.folder / "jobs.json"
        file.write_text(json.dumps(jobs), encoding="utf-8")
        process = environments.run_pyg(
            python, PROGRAM, file, tree=trees.patched, timeout=TIME_LIMIT
        )
        if process.returncode != 0:
            environments.check_imports(python, trees.patched, release)
            raise ToolError(f"The mutants could not be run: {last_lines(process.stderr)}")
    result = environments.result_of(process)
    tried = read_results(jobs, result["results"])
    return Mutation(release.version, result["python"], result["torch"], tried)


def _jobs(
    release: Release, layer: str, trees: Trees, rounds: tuple[int, int]
) -> list[dict[str, Any]]:
    """What `programs/mutate.py` is to do of a layer: the layer as patched, then its mutants."""
    path = mutated_file(release, layer)
    test = next(p for p in release.patches if p.name == f"regression_test/{layer}.patch")
    job: dict[str, Any] = {
        "layer": layer,
        "test": str(trees.patched / test.changes[0].path),
        "module": path.removesuffix(".py").replace("/", "."),
    }
    jobs = [{**job, "way": "", "file": None, "rounds": rounds[0]}]
    text = (trees.patched / path).read_text(encoding="utf-8")
    for way, mutant in mutate(layer, text).items():
        file = trees.folder / f"{layer}-{way.replace(' ', '-')}.py"
        file.write_text(mutant, encoding="utf-8")
        jobs.append({**job, "way": way, "file": str(file), "rounds": rounds[1]})
    return jobs


def mutated_file(release: Release, layer: str) -> str:
    """Returns the file of a release, from its root, in which the fault of a layer is put back."""
    series = "explained_copy" if layer == "explainer" else layer
    patch = next(p for p in release.patches if p.series == series and p.is_for_library)
    return patch.changes[0].path


def read_results(
    jobs: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[Tried]:
    """Reads what the program says of each job; the layer as patched comes before its mutants."""
    alone = {
        job["layer"]: result.get("alone")
        for job, result in zip(jobs, results, strict=True)
        if not job["way"]
    }
    return [
        Tried(
            job["layer"],
            job["way"],
            result["rounds"],
            result.get("failed", 0),
            result.get("alone") is not None and result.get("alone") == alone[job["layer"]],
            result.get("end", ""),
        )
        for job, result in zip(jobs, results, strict=True)
    ]
