"""The status page: the last run of the matrix, as text and as a picture."""

import datetime
import json
import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
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
    seconds: float
    tests: dict[str, int]
    properties: dict[str, str]
    layers: dict[str, Any]

    @property
    def column(self) -> str:
        """Its column: torch, extensions, and Python where that is not the usual one."""
        column = f"torch {self.torch.split('+')[0]}"
        if self.extensions:
            column += " + extensions"
        return column + (f", Python {self.python}" if self.python.endswith("t") else "")

    @property
    def holds(self) -> bool:
        """Whether all of its tests passed."""
        return not self.tests["failed"] and self.tests["passed"] > 0


@dataclass(frozen=True)
class Status:
    """The results of all environments.

    Attributes:
        machine: What it ran on, in words.
        command: What gathered it.
        cells: One an environment.
        missing: The environments of the default list that have left no result.
    """

    machine: str
    command: str
    cells: list[Cell]
    missing: list[str]


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
    cells = []
    for file in sorted(directory.glob("*.xml")):
        try:
            # Written by pytest, on this machine.
            suite = ElementTree.parse(file).getroot().find("testsuite")  # noqa: S314
            assert suite is not None
            cells.append(_cell(file.stem, suite, catalogue))
        except (OSError, ValueError, KeyError, AssertionError, ElementTree.ParseError) as error:
            raise SourceError(
                f"{file} is not what an environment of the matrix leaves there "
                f"({type(error).__name__}: {error}). Run it again: tox run -e {file.stem}."
            ) from None
    if not cells:
        raise SourceError(
            f"{directory} holds no results of the matrix. Run it first: scripts/test.sh, or 'tox "
            f"run -e pyg240-torch213'."
        )
    order = [release.version for release in catalogue.releases]
    cells.sort(key=lambda cell: (order.index(cell.release), cell.column))
    missing = sorted(set(expected) - {cell.environment for cell in cells})
    if missing and not partial:
        raise SourceError(
            f"{len(missing)} environments of the default list have left no results in {directory}: "
            f"{', '.join(missing)}. Run 'scripts/test.sh', or call this with --partial."
        )
    return Status(pages.machine(), command, cells, missing)


def _cell(name: str, suite: ElementTree.Element, catalogue: Catalogue) -> Cell:
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    when = datetime.datetime.fromisoformat(suite.get("timestamp", ""))
    properties = {str(item.get("name")): str(item.get("value")) for item in suite.iter("property")}
    # How threaded calls ended: `tests/pyg/test_thread_safety.py` records it.
    proof = json.loads(properties.pop("proof"))
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
        when=when.astimezone(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=float(suite.get("time", 0)),
        tests={
            "passed": counts["tests"] - failed - counts["skipped"],
            "failed": failed,
            "skipped": counts["skipped"],
        },
        properties=properties,
        layers=proof["layers"],
    )


def default_environments() -> list[str]:
    """Returns the environments of the matrix that tox runs by default; tox reads `tox.ini`.

    Raises:
        ToolError: If tox cannot.
    """
    command = [sys.executable, "-I", "-m", "tox", "list", "-d", "--no-desc", "-q"]
    result = run(command, cwd=ROOT)
    if result.returncode != 0:
        raise ToolError(f"'tox list' failed: {last_lines(result.stderr)} Is tox.ini as committed?")
    # What the zoo sees has a page of its own.
    return [name for name in result.stdout.split() if "zoo" not in name.split("-")]


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
    return Status(**{**data, "cells": [Cell(**cell) for cell in data["cells"]]})


def columns(status: Status) -> list[str]:
    """The columns of table and picture: by torch, the newest first, extensions first."""
    cells = {cell.column: cell for cell in status.cells}

    def rank(column: str) -> tuple[Any, ...]:
        cell = cells[column]
        return (cell.python.endswith("t"), [-part for part in Version(cell.torch).release])

    return sorted(sorted(cells, reverse=True), key=rank)


def share(counts: dict[str, int], key: str) -> float:
    """Which part of the calls ended in one way."""
    return counts[key] / counts["calls"]


def render(status: Status, catalogue: Catalogue) -> str:
    """Returns the page, in Markdown."""
    lines = [*_introduction(status)]
    for column in columns(status):
        lines += [f"## {column[0].upper()}{column[1:]}", "", *_table(status, catalogue, column), ""]
    lines += [
        *_torchscript(status, catalogue),
        "## Environments",
        "",
        "Each environment also forces the race, in a number of rounds a layer. It demands that "
        "each of them fails on a release that is affected, and none once patched.",
        "",
        *_environments(status),
        "",
        *_legend(status),
    ]
    return "\n".join(lines) + "\n"


def _introduction(status: Status) -> Iterator[str]:
    starts = [datetime.datetime.fromisoformat(cell.when) for cell in status.cells]
    ends = [
        start + datetime.timedelta(seconds=cell.seconds)
        for start, cell in zip(starts, status.cells, strict=True)
    ]
    took = (max(ends) - min(starts)).total_seconds() / 60
    yield "# The last run of the matrix"
    yield ""
    yield (
        f"Generated by `{status.command}`; nothing here is typed by hand. The "
        f"{len(status.cells)} environments ran from {_minute(min(starts))} to "
        f"{_minute(max(ends))}, {took:.0f} minutes from the first test to the last, "
        f"on {status.machine}. The data are in [status.json](status.json)."
    )
    yield ""
    yield "![PyG releases by class: what races as released, and what PyG has fixed](status.svg)"
    yield ""
    failed = [cell for cell in status.cells if not cell.holds]
    if failed:
        yield "**Failed:**"
        yield ""
        for cell in failed:
            yield f"- `{cell.environment}`: {cell.tests['failed']} tests failed"
    else:
        yield f"All {len(status.cells)} environments passed."
    yield ""
    if status.missing:
        names = ", ".join(f"`{name}`" for name in status.missing)
        yield f"Of the default list, these have not run: {names}."
        yield ""
    yield (
        "How the calls of eight threads that share a layer ended: crashed, silently wrong, on the "
        "release as upstream made it; then the same once patched. *Fixed* is what upstream has "
        "fixed: no call fails on either tree. Where a cell is empty, the release does not have "
        "the layer, or has it from before it kept a value of a call in `self`."
    )
    yield ""


def _legend(status: Status) -> Iterator[str]:
    left_out = {name for cell in status.cells for name in _listed(cell, "layers_left_out")}
    lacking = {name for cell in status.cells for name in _listed(cell, "layers_lacking")}
    yield (
        "*Layers* are those of `torch_geometric.nn.conv` that the suite runs. *Calls* is how many "
        "of their calls gave bit-for-bit identical results on both trees; those that fail on the "
        "pristine release as well are in brackets. *Upstream's* are its own tests in "
        "`test/nn/conv` that passed with `FULL_TEST=1`, before and after, where PyG came from git. "
        "Left out, with reasons in `scripts/kit/programs/layers.py`: "
        f"{', '.join(sorted(left_out))}. "
        f"Where torch-cluster, torch-spline-conv or pyg-lib is missing, these cannot run "
        f"either: {', '.join(sorted(lacking)) or 'none'}."
    )


def _minute(when: datetime.datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")


def _property(cell: Cell, key: str) -> str:
    return cell.properties.get(key, "")


def _listed(cell: Cell, key: str) -> list[str]:
    return [name for name in _property(cell, key).split(", ") if name]


def _table(status: Status, catalogue: Catalogue, column: str) -> list[str]:
    rows = ["| PyG | " + " | ".join(catalogue.classes.values()) + " |"]
    rows.append("|---" * (len(catalogue.classes) + 1) + "|")
    for cell in status.cells:
        if cell.column == column:
            layers = [cell.layers.get(layer) for layer in catalogue.classes]
            summaries = [_summary(layer) if layer else "" for layer in layers]
            rows.append("| " + " | ".join([cell.release, *summaries]) + " |")
    return rows


def _summary(layer: dict[str, Any]) -> str:
    before, after = (
        ", ".join(
            f"{share(layer[tree]['stress'], key):.1%}" for key in ("crashed", "silently_wrong")
        )
        for tree in ("pristine", "patched")
    )
    return f"{before} → {after}" if layer["status"] == "affected" else f"fixed: {after}"


_FORMS = {
    "scripted": "scripted",
    "saved": "saved and loaded",
    "frozen": "frozen",
    "optimized": "optimized for inference",
}


def _torchscript(status: Status, catalogue: Catalogue) -> list[str]:
    """How calls of scripted layers ended: `tests/pyg/test_torchscript.py` records it."""
    rows = []
    for cell in status.cells:
        made = {
            (row["tree"], row["form"]): row["layers"]
            for row in json.loads(_property(cell, "torchscript") or "[]")
        }
        for layer in made.get(("pristine", "scripted"), ()):
            ends = {key: layers[layer] for key, layers in made.items()}
            if "error" in ends["pristine", "scripted"]:
                continue  # TorchScript does not take it.
            cells = [
                f"{_end(ends['pristine', form])} → {_end(ends['patched', form])}" for form in _FORMS
            ]
            rows.append([cell.release, f"`{catalogue.classes[layer]}`", *cells])
    if not rows:
        return []
    return [
        "## In TorchScript",
        "",
        "Eight threads share a scripted layer, which runs without the GIL, in a process of its "
        "own: the calls that crashed, and those that were silently wrong, as released → patched; "
        "or the signal by which the process died.",
        "",
        "| PyG | layer | " + " | ".join(_FORMS.values()) + " |",
        "|---" * (len(_FORMS) + 2) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _end(counts: dict[str, Any]) -> str:
    if "died" in counts:
        return f"died: {signal.Signals(counts['died']).name}"
    if "error" in counts:
        return "not scripted"
    return ", ".join(f"{share(counts, key):.1%}" for key in ("crashed", "silently_wrong"))


def _environments(status: Status) -> list[str]:
    rows = [
        "| environment | Python | torch | tests passed (skipped) | layers | calls | upstream's | "
        "forced rounds that failed: before, after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in status.cells:
        affected = [layer for layer in cell.layers.values() if layer["status"] == "affected"]
        forced = [
            f"{sum(layer[tree]['interleaved']['spoiled_rounds'] for layer in layers)} of "
            f"{sum(layer[tree]['interleaved']['rounds'] for layer in layers)}"
            for tree, layers in (("pristine", affected), ("patched", list(cell.layers.values())))
        ]
        row = [
            f"`{cell.environment}`",
            cell.python,
            cell.torch,
            f"{cell.tests['passed']} ({cell.tests['skipped']})",
            _property(cell, "layers"),
            f"{_property(cell, 'calls')} ({_property(cell, 'calls_that_fail_before')})",
            _property(cell, "upstream_full"),
            ", ".join(forced),
        ]
        rows.append("| " + " | ".join(row) + " |")
    return rows
