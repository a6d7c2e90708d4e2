"""What the environments of the matrix gave: gathered, kept, and read again."""

import datetime
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import Version

from kit import pages
from kit.errors import SourceError, ToolError
from kit.processes import last_lines, run
from kit.releases import ROOT, Catalogue

# Where the environments of the matrix leave their results.
RESULTS = ROOT / "build" / "matrix"

# The page, and what it is made from. The data are kept, so that anybody can see
# that the page says what they say.
PAGE = ROOT / "docs" / "status.md"
DATA = ROOT / "docs" / "status.json"
PICTURE = ROOT / "docs" / "status.svg"
BEFORE_AND_AFTER = ROOT / "docs" / "before-after.svg"

# How the environments are called that run scripted layers alone, more often than the others.
SCRIPTED = "-scripted"


@dataclass(frozen=True)
class Cell:
    """The result of one environment of the matrix.

    Attributes:
        environment: Its name in tox.
        release: The version of PyG.
        python: The version of Python, with a `t` where the GIL was off throughout.
        torch: The version of torch with its build, such as `2.13.0+cpu`.
        extensions: Whether torch-scatter and its like were there.
        when: When its tests started, in UTC (ISO 8601).
        machine: What it ran on, in words.
        seconds: How long they took.
        tests: How many tests passed, failed and were skipped.
        properties: What the tests recorded, such as how many layers they ran.
        layers: Status and counts of calls of each layer.
    """

    environment: str
    release: str
    python: str
    torch: str
    extensions: bool
    when: str
    machine: str
    seconds: float
    tests: dict[str, int]
    properties: dict[str, str]
    layers: dict[str, Any]

    @property
    def names_python(self) -> bool:
        """Whether its name says on which Python it runs, which is then not the usual one."""
        return self.environment.startswith("py3")

    @property
    def libraries(self) -> str:
        """The version of torch, and whether there were extensions."""
        return self.torch.split("+")[0] + (" + extensions" if self.extensions else "")

    @property
    def column(self) -> str:
        """Its column: torch, extensions, and Python where that is not the usual one."""
        if not self.names_python:
            return f"torch {self.libraries}"
        minor = ".".join(self.python.rstrip("t").split(".")[:2])
        return f"torch {self.libraries}, Python {minor}{'t' * self.python.endswith('t')}"

    @property
    def holds(self) -> bool:
        """Whether all of its tests passed."""
        return not self.tests["failed"] and self.tests["passed"] > 0


@dataclass(frozen=True)
class Scripted:
    """How threaded calls of scripted layers ended in one environment.

    Attributes:
        environment: Its name in tox.
        release: The version of PyG.
        python: The version of Python.
        torch: The version of torch with its build.
        when: When its tests started, in UTC (ISO 8601).
        machine: What it ran on, in words.
        failed: How many of the tests failed.
        rows: For each `tree` and `form`, its `layers`: counts, the signal by which the process
            `died`, or the `error` with which TorchScript refused the layer.
    """

    environment: str
    release: str
    python: str
    torch: str
    when: str
    machine: str
    failed: int
    rows: list[dict[str, Any]]

    @property
    def calls(self) -> int:
        """How many calls of each layer there were, in each form."""
        ends = (end for row in self.rows for end in row["layers"].values())
        return max((end.get("calls", 0) for end in ends), default=0)


@dataclass(frozen=True)
class Status:
    """The results of all environments.

    Attributes:
        command: What gathered it.
        cells: One an environment.
        scripted: The scripted layers of those environments that run them.
        missing: The environments of the default list that have left no result.
    """

    command: str
    cells: list[Cell]
    scripted: list[Scripted]
    missing: list[str]

    @property
    def environments(self) -> set[str]:
        """The environments that there are results of."""
        every: list[Cell | Scripted] = [*self.cells, *self.scripted]
        return {each.environment for each in every}

    @property
    def failed(self) -> list[str]:
        """The environments in which a test failed."""
        failed = [cell.environment for cell in self.cells if not cell.holds]
        failed += [each.environment for each in self.scripted if each.failed]
        return list(dict.fromkeys(failed))


def gather(
    directory: Path,
    catalogue: Catalogue,
    expected: Sequence[str],
    command: str,
    *,
    partial: bool = False,
) -> Status:
    """Reads the results that the environments of the matrix have left.

    Args:
        directory: Holds `<environment>.xml`, as pytest writes it.
        catalogue: The pinned releases, whose order is that of the cells.
        expected: The environments of the default list.
        command: What the page is to name as its maker.
        partial: Whether some of the expected environments may be missing.

    Raises:
        SourceError: If there are no results, a file is none, or is of other patches, or an
            expected one is missing.
    """
    cells, scripted = [], []
    for file in sorted(directory.glob("*.xml")):
        try:
            # Written by pytest, on this machine.
            suite = ElementTree.parse(file).getroot().find("testsuite")  # noqa: S314
            assert suite is not None
            if not file.stem.endswith(SCRIPTED):
                cells.append(_cell(file.stem, suite, catalogue))
            scripted += _scripted(file.stem, suite, catalogue)
        except (OSError, ValueError, KeyError, AssertionError, ElementTree.ParseError) as error:
            raise SourceError(
                f"{file} is not what an environment of the matrix leaves there "
                f"({type(error).__name__}: {error}). Run it again: tox run -e {file.stem}."
            ) from None
    if not cells and not scripted:
        raise SourceError(
            f"{directory} holds no results of the matrix. Run it first: scripts/test.sh, or 'tox "
            f"run -e pyg240-torch213'."
        )
    missing = sorted(set(expected) - {cell.environment for cell in cells})
    if missing and not partial:
        raise SourceError(
            f"{len(missing)} environments of the default list have left no results in {directory}: "
            f"{', '.join(missing)}. Run 'scripts/test.sh', or call this with --partial."
        )
    return _ordered(Status(command, cells, scripted, missing), catalogue)


def _cell(name: str, suite: ElementTree.Element, catalogue: Catalogue) -> Cell:
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "skipped")}
    failed = _failed(suite)
    properties = _properties(suite)
    # How threaded calls ended: `tests/pyg/test_thread_safety.py` records it.
    proof = json.loads(properties.pop("proof"))
    properties.pop("torchscript", None)
    properties.pop("torchscript_ran_on", None)
    release = catalogue.find(proof["release"])
    status = {layer: layer_proof["status"] for layer, layer_proof in proof["layers"].items()}
    if status != release.status:
        raise ValueError(f"it is about {status}, and the patches are about {release.status}")
    return Cell(
        environment=name,
        release=release.version,
        python=proof["python"] + ("" if proof["gil"] else "t"),
        torch=proof["torch"],
        extensions=name.endswith("-ext"),
        when=_started(suite),
        machine=pages.machine(),
        seconds=float(suite.get("time", 0)),
        tests={
            "passed": counts["tests"] - failed - counts["skipped"],
            "failed": failed,
            "skipped": counts["skipped"],
        },
        properties=properties,
        layers=proof["layers"],
    )


def _scripted(name: str, suite: ElementTree.Element, catalogue: Catalogue) -> list[Scripted]:
    """What `tests/pyg/test_torchscript.py` recorded, if the environment runs it."""
    properties = _properties(suite)
    if "torchscript" not in properties and not name.endswith(SCRIPTED):
        return []
    # Until 2026-11-26, a full environment recorded where it ran only in the proof.
    ran_on = json.loads(properties.get("torchscript_ran_on") or properties["proof"])
    return [
        Scripted(
            environment=name,
            release=catalogue.find(ran_on["release"]).version,
            python=ran_on["python"],
            torch=ran_on["torch"],
            when=_started(suite),
            machine=pages.machine(),
            failed=_failed(suite),
            rows=json.loads(properties["torchscript"]),
        )
    ]


def _properties(suite: ElementTree.Element) -> dict[str, str]:
    return {str(item.get("name")): str(item.get("value")) for item in suite.iter("property")}


def _failed(suite: ElementTree.Element) -> int:
    return int(suite.get("failures", 0)) + int(suite.get("errors", 0))


def _started(suite: ElementTree.Element) -> str:
    when = datetime.datetime.fromisoformat(suite.get("timestamp", ""))
    return when.astimezone(datetime.timezone.utc).isoformat(timespec="seconds")


def _ordered(status: Status, catalogue: Catalogue) -> Status:
    """The same, by release; the usual Python first, then the newest torch."""
    order = [release.version for release in catalogue.releases]
    cells = sorted(status.cells, key=lambda cell: (order.index(cell.release), _rank(cell)))
    scripted = sorted(
        status.scripted, key=lambda each: (order.index(each.release), each.environment)
    )
    return replace(status, cells=cells, scripted=scripted)


def _rank(cell: Cell) -> tuple[Any, ...]:
    release = Version(cell.torch).release
    return (cell.names_python, [-part for part in release], cell.extensions, cell.column)


def keep(
    gathered: Status, recorded: Status, catalogue: Catalogue, environments: Collection[str]
) -> tuple[Status, list[str]]:
    """Adds what is recorded of environments that have left no result this time.

    How scripted layers end is a result of its own: an environment calls them only where it is
    asked for what takes minutes.

    Args:
        gathered: The results that are there now.
        recorded: What the page was made from so far.
        catalogue: The pinned releases.
        environments: All that tox knows.

    Returns:
        Both together, and the names of those whose recorded results are left out: tox does not
        list the environment any more, or the patches are about other layers.

    Raises:
        SourceError: If only scripted layers have run.
    """
    pinned = {release.version: release.status for release in catalogue.releases}

    def is_current(each: Cell | Scripted) -> bool:
        if each.environment not in environments or each.release not in pinned:
            return False
        if isinstance(each, Scripted):
            layers = {layer for row in each.rows for layer in row["layers"]}
            return layers <= set(pinned[each.release])
        status = {layer: proof["status"] for layer, proof in each.layers.items()}
        return status == pinned[each.release]

    new_cells = {cell.environment for cell in gathered.cells}
    new_scripted = {each.environment for each in gathered.scripted}
    old_cells = [cell for cell in recorded.cells if cell.environment not in new_cells]
    old_scripted = [each for each in recorded.scripted if each.environment not in new_scripted]
    cells = list(filter(is_current, old_cells))
    scripted = list(filter(is_current, old_scripted))
    there = {cell.environment for cell in cells}
    both = replace(
        gathered,
        cells=[*gathered.cells, *cells],
        scripted=[*gathered.scripted, *scripted],
        missing=[name for name in gathered.missing if name not in there],
    )
    if not both.cells:
        raise SourceError(
            "Only scripted layers have run. Expected the result of a whole environment as well: "
            "run 'scripts/test.sh', or 'tox run -e pyg240-torch213'."
        )
    old: list[Cell | Scripted] = [*old_cells, *old_scripted]
    left_out = dict.fromkeys(each.environment for each in old if not is_current(each))
    return _ordered(both, catalogue), list(left_out)


def default_environments() -> list[str]:
    """Returns the environments of the matrix that tox runs by default.

    Raises:
        ToolError: If tox cannot read `tox.ini`.
    """
    # What the zoo sees has a page of its own.
    return [name for name in list_environments("-d") if "zoo" not in name.split("-")]


def list_environments(*options: str) -> list[str]:
    """Returns the environments that tox lists; it reads `tox.ini`.

    Args:
        *options: Of `tox list`: `-d` for those that it runs by default.

    Raises:
        ToolError: If it cannot.
    """
    command = [sys.executable, "-I", "-m", "tox", "list", *options, "--no-desc", "-q"]
    result = run(command, cwd=ROOT)
    if result.returncode != 0:
        raise ToolError(f"'tox list' failed: {last_lines(result.stderr)} Is tox.ini as committed?")
    return result.stdout.split()


def dump(status: Status) -> str:
    """Returns the data as JSON."""
    return pages.dump(asdict(status))


def load(file: Path) -> Status:
    """Reads what `dump` wrote.

    Raises:
        SourceError: If there is no such file.
    """
    data = pages.read_data(
        file, "without --render, it is made anew from the results of the matrix."
    )
    cells = [Cell(**cell) for cell in data.pop("cells")]
    scripted = [Scripted(**each) for each in data.pop("scripted")]
    return Status(cells=cells, scripted=scripted, **data)


def columns(status: Status) -> list[str]:
    """The columns of table and picture on the usual Python: the newest torch, extensions first."""
    cells = {cell.column: cell for cell in status.cells if not cell.names_python}

    def rank(column: str) -> tuple[Any, ...]:
        cell = cells[column]
        return ([-part for part in Version(cell.torch).release], not cell.extensions)

    return sorted(cells, key=rank)


def share(counts: dict[str, int], key: str) -> float:
    """Which part of the calls ended in one way."""
    return counts[key] / counts["calls"]


def dates(cells: Collection[Cell]) -> str:
    """When cells ran: a day, or the first and the last one."""
    days = sorted({cell.when[:10] for cell in cells})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
