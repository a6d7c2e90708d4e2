"""A soak: many threads share one model with every patched layer, for minutes on end."""

import signal
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import environments, pages, sources
from kit.errors import ProofError, ToolError
from kit.processes import last_lines
from kit.releases import Catalogue, Release
from kit.trees import pristine_and_patched

PROGRAM = environments.PROGRAMS / "soak.py"

DATA = pages.DOCS / "soak.json"

THREADS = 16
MINUTES = 10.0

# In seconds: until the pristine release has given a call that is not right.
CONTROL = 60.0
# On top of the time asked for: imports, what runs when the time is up, and a busy machine.
MARGIN = 300.0

# Memory is flat where its median in the last fifth of a run is above that in the second fifth
# by no more than this, in bytes. In the first fifth, threads fill their caches.
GROWTH_LIMIT = 8 * 2**20
# In minutes. In a shorter run, threads fill their caches all the time.
JUDGED_FROM = 2.0


@dataclass(frozen=True)
class Soak:
    """What came of a soak.

    Attributes:
        release: The version of PyG.
        python: The version of Python.
        torch: The version of torch.
        gil: Whether the global interpreter lock was on.
        threads: How many threads shared the model.
        seconds: For how long.
        hung: How many threads did not end.
        died: The signal that ended the process; empty where none did.
        calls: How the calls of each layer ended.
        failure: The first call that was not right, in words; empty where all were.
        samples: Seconds, resident memory in bytes, and calls of a layer until then.
        tensors: How many tensors there were before the threads and after them.
        control: The same of the pristine release, until its first call that was not right.
    """

    release: str
    python: str
    torch: str
    gil: bool
    threads: int
    seconds: float
    hung: int
    died: str
    calls: dict[str, dict[str, int]]
    failure: str
    samples: list[tuple[float, int, int]]
    tensors: tuple[int, int]
    control: dict[str, Any]

    @property
    def growth(self) -> int | None:
        """By how many bytes the memory grew after the warm-up; None if the run was too short."""
        if self.seconds < 60 * JUDGED_FROM or self.died:
            return None
        end = self.samples[-1][0]

        def median(fifth: int) -> float:
            low, high = end * fifth / 5, end * (fifth + 1) / 5
            return statistics.median(rss for at, rss, _ in self.samples if low <= at <= high)

        return round(median(4) - median(1))

    def problems(self) -> list[str]:
        """Returns what does not hold, in sentences."""
        if self.died:
            return [f"The process died of {self.died}."]
        problems = []
        if self.hung:
            problems.append(f"{self.hung} of {self.threads} threads did not end.")
        for layer, ended in self.calls.items():
            if not ended["calls"]:
                problems.append(f"{layer} was never called: soak for longer.")
            elif ended["right"] != ended["calls"]:
                problems.append(
                    f"{layer}: of {ended['calls']:,} calls, {ended['crashed']:,} crashed and "
                    f"{ended['silently_wrong']:,} were silently wrong."
                )
        if self.failure:
            problems.append(f"The first failure: {last_lines(self.failure, 1)}")
        before, after = self.tensors
        # What a thread has at hand, for torch or for PyG.
        if after > before + self.threads:
            problems.append(f"{after - before:,} tensors outlive the calls that made them.")
        if self.growth is not None and self.growth > GROWTH_LIMIT:
            problems.append(
                f"The memory grew by {self.growth / 2**20:.1f} MiB after the warm-up; at most "
                f"{GROWTH_LIMIT / 2**20:.0f} MiB are flat."
            )
        if not self.control.get("failure") and not self.control.get("died"):
            problems.append(
                f"The pristine release gave no call that is not right in "
                f"{self.control['seconds']:.0f} s, so this soak shows nothing."
            )
        return problems

    def as_json(self) -> dict[str, Any]:
        """Returns all of it, for `--json` and the page."""
        return {**asdict(self), "growth": self.growth, "problems": self.problems()}


def soak(
    release: Release,
    catalogue: Catalogue,
    source: sources.Source,
    python: Path,
    notify: Callable[[str], None],
    *,
    minutes: float = MINUTES,
    threads: int = THREADS,
) -> Soak:
    """Lets threads share one model of a release, pristine until it fails, then patched.

    Args:
        release: The release.
        catalogue: The pinned releases.
        source: Where to get it from.
        python: An interpreter with torch and what the release needs.
        notify: Is told what is under way.
        minutes: For how long threads share the patched model.
        threads: How many.

    Raises:
        ProofError: If no layer of the release is patched.
        ToolError: If PyG cannot be imported, or the program that runs there fails.
    """
    if not release.affected():
        raise ProofError(f"There is nothing to soak: no layer of PyG {release.version} is patched.")
    seconds = 60 * minutes
    with pristine_and_patched(release, source, release.patches) as trees:
        tests = [
            trees.patched / next(p for p in release.patches if p.name == name).changes[0].path
            for name in (f"regression_test/{layer}.patch" for layer in release.affected())
        ]
        notify(f"{threads} threads on the pristine tree, until a call is not right ...")
        control = _run(release, python, trees.pristine, threads, CONTROL, "first", tests)
        names = ", ".join(catalogue.classes[layer] for layer in release.affected())
        notify(f"{threads} threads, {minutes:g} minutes, one model with {names} ...")
        ended = _run(release, python, trees.patched, threads, seconds, "last", tests)
    control = {key: control[key] for key in ("seconds", "failure", "died")}
    # The last line says what it was; the others name places of this machine.
    control["failure"] = last_lines(control["failure"], 1)
    return Soak(release.version, **ended, control=control)


def _run(
    release: Release,
    python: Path,
    tree: Path,
    threads: int,
    seconds: float,
    end: str,
    tests: list[Path],
) -> dict[str, Any]:
    """What the program says; a process that dies, or does not end, has said nothing."""
    nothing = {"python": "", "torch": "", "gil": True, "threads": threads, "seconds": seconds}
    nothing |= {"hung": 0, "calls": {}, "failure": "", "samples": [], "tensors": (0, 0)}
    arguments: list[str | Path] = [PROGRAM, str(seconds), str(threads), end, *tests]
    try:
        process = environments.run_pyg(python, *arguments, tree=tree, timeout=seconds + MARGIN)
    except subprocess.TimeoutExpired:
        return {**nothing, "died": f"a deadlock: it ran for {seconds + MARGIN:.0f} s"}
    if process.returncode < 0:
        return {**nothing, "died": signal.Signals(-process.returncode).name}
    if process.returncode != 0:
        environments.check_imports(python, tree, release)
        raise ToolError(
            f"The soak could not be run on the {tree.name} tree: {last_lines(process.stderr)}"
        )
    return {**environments.result_of(process), "died": ""}
