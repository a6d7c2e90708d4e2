"""The status page: what the matrix saw, as text and as a picture."""

import contextlib
import datetime
import itertools
import json
import os
import platform
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from kit.errors import SourceError
from kit.releases import ROOT, Catalogue

# Where the environments of the matrix leave their results.
RESULTS = ROOT / "build" / "matrix"

# The page, and what it is made from. The data are kept, so that anybody can see
# that the page says what they say.
PAGE = ROOT / "docs" / "status.md"
DATA = ROOT / "docs" / "status.json"
PICTURE = ROOT / "docs" / "status.svg"


@dataclass(frozen=True)
class Cell:
    """What one environment of the matrix saw.

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
        words = f"torch {self.torch.split('+')[0]}"
        if self.extensions:
            words += " + extensions"
        return words + (f", Python {self.python}" if self.python.endswith("t") else "")

    @property
    def holds(self) -> bool:
        """Whether everything was as it must be."""
        return not self.tests["failed"] and self.tests["passed"] > 0


@dataclass(frozen=True)
class Status:
    """The whole of it.

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


def gather(directory: Path, catalogue: Catalogue, expected: Sequence[str], command: str) -> Status:
    """Reads the results that the environments of the matrix have left.

    Args:
        directory: Holds `<environment>.xml`, as pytest writes it.
        catalogue: The pinned releases, whose order is that of the cells.
        expected: The environments of the default list.
        command: What the page is to name as its maker.

    Raises:
        SourceError: If there are no results, or a file is none.
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
    found = {cell.environment for cell in cells}
    return Status(machine(), command, cells, [name for name in expected if name not in found])


def machine() -> str:
    """The machine, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = [f"{platform.system()} {platform.machine()}", f"{cores} cores"]
    with contextlib.suppress(OSError):
        # Linux has no other place that names the processor.
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        words[1:1] = [found[1].strip()] if found else []
    return ", ".join(words)


def _cell(name: str, suite: ElementTree.Element, catalogue: Catalogue) -> Cell:
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    when = datetime.datetime.fromisoformat(suite.get("timestamp", ""))
    properties = {str(item.get("name")): str(item.get("value")) for item in suite.iter("property")}
    # How threaded calls ended: `tests/pyg/test_thread_safety.py` records it.
    proof = json.loads(properties.pop("proof"))
    return Cell(
        environment=name,
        release=catalogue.find(proof["release"]).version,
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


def dump(status: Status) -> str:
    """The data as JSON."""
    return json.dumps(asdict(status), indent=1, sort_keys=True) + "\n"


def load(text: str) -> Status:
    """Reads what `dump` wrote."""
    data = json.loads(text)
    return Status(**{**data, "cells": [Cell(**cell) for cell in data["cells"]]})


def read_data() -> str:
    """Returns the data that the page was made from.

    Raises:
        SourceError: If there are none.
    """
    try:
        return DATA.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SourceError(
            f"{DATA} is missing. 'git checkout {DATA.relative_to(ROOT)}' brings it back; without "
            f"--render, it is made anew from the results of the matrix."
        ) from None


def columns(status: Status) -> list[str]:
    """The columns of table and picture: by torch, the newest first, extensions first."""
    found = {cell.column: cell for cell in status.cells}

    def rank(column: str) -> tuple[Any, ...]:
        cell = found[column]
        return (cell.python.endswith("t"), [-part for part in Version(cell.torch).release], column)

    return sorted(sorted(found, reverse=True), key=lambda column: rank(column)[:2])


def share(counts: dict[str, int], key: str) -> float:
    """Which part of the calls ended in one way."""
    return counts[key] / counts["calls"]


def render(status: Status, catalogue: Catalogue) -> str:
    """The page, in Markdown."""
    starts = [datetime.datetime.fromisoformat(cell.when) for cell in status.cells]
    ends = [
        start + datetime.timedelta(seconds=cell.seconds)
        for start, cell in zip(starts, status.cells, strict=True)
    ]
    took = (max(ends) - min(starts)).total_seconds() / 60
    lines = [
        "# What the matrix saw",
        "",
        f"Made by `{status.command}`; nothing here is typed by hand. The "
        f"{len(status.cells)} environments ran from {_minute(min(starts))} to "
        f"{_minute(max(ends))}, {took:.0f} minutes from the first test to the last, "
        f"on {status.machine}. The data are in [status.json](status.json).",
        "",
        "![PyG releases by torch: how threaded calls ended, before and after](status.svg)",
        "",
    ]
    bad = [cell for cell in status.cells if not cell.holds]
    if bad:
        lines += ["**Not as it must be:**", ""]
        for cell in bad:
            lines.append(f"- `{cell.environment}`: {cell.tests['failed']} tests failed")
        lines.append("")
    else:
        lines += [f"All {len(status.cells)} are as they must be.", ""]
    if status.missing:
        quoted = ", ".join(f"`{name}`" for name in status.missing)
        lines += [f"Of the default list, these have not run: {quoted}.", ""]
    lines += [
        "How the calls of eight threads that share a layer ended: crashed, silently wrong, on the "
        "release as upstream made it; then the same once patched. *Fixed* is what upstream has "
        "fixed: no call fails on either tree. Where a cell is empty, the release does not have "
        "the layer, or has it from before it kept a value of a call in `self`.",
        "",
    ]
    for column in columns(status):
        lines += [f"## {column[0].upper()}{column[1:]}", "", *_table(status, catalogue, column), ""]
    lines += [
        "## Environments",
        "",
        "Each environment also forces the race, in a number of rounds a layer. It demands that "
        "each of them fails on a release that is affected, and none once patched.",
        "",
        *_environments(status),
        "",
    ]
    left_out = {word for cell in status.cells for word in _listed(cell, "layers_left_out")}
    lacking = {word for cell in status.cells for word in _listed(cell, "layers_lacking")}
    lines += [
        "*Layers* are those of `torch_geometric.nn.conv` that the suite runs, *calls* how many "
        "of their calls gave the same on both trees, bit for bit; those that fail on the "
        "pristine release as well are in brackets. *Upstream's* are its own tests in "
        "`test/nn/conv` that passed with `FULL_TEST=1`, before and after, where PyG came from git. "
        "Left out, with reasons in `scripts/kit/programs/layers.py`: "
        f"{', '.join(sorted(left_out))}. "
        f"Where torch-cluster, torch-spline-conv or pyg-lib is missing, these cannot run "
        f"either: {', '.join(sorted(lacking)) or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def _minute(when: datetime.datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")


def _words(cell: Cell, key: str) -> str:
    return cell.properties.get(key, "")


def _listed(cell: Cell, key: str) -> list[str]:
    return [word for word in _words(cell, key).split(", ") if word]


def _table(status: Status, catalogue: Catalogue, column: str) -> list[str]:
    rows = ["| PyG | " + " | ".join(catalogue.classes.values()) + " |"]
    rows.append("|---" * (len(catalogue.classes) + 1) + "|")
    for cell in status.cells:
        if cell.column == column:
            found = [cell.layers.get(layer) for layer in catalogue.classes]
            words = [_summary(layer) if layer else "" for layer in found]
            rows.append("| " + " | ".join([cell.release, *words]) + " |")
    return rows


def _summary(found: dict[str, Any]) -> str:
    before, after = (found[tree]["stress"] for tree in ("pristine", "patched"))
    words = [
        ", ".join(f"{share(counts, key):.1%}" for key in ("crashed", "silently_wrong"))
        for counts in (before, after)
    ]
    return f"{words[0]} → {words[1]}" if found["status"] == "affected" else f"fixed: {words[1]}"


def _environments(status: Status) -> list[str]:
    rows = [
        "| environment | Python | torch | tests passed (skipped) | layers | calls | upstream's | "
        "forced rounds that failed: before, after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in status.cells:
        affected = [found for found in cell.layers.values() if found["status"] == "affected"]
        forced = [
            f"{sum(layer[tree]['interleaved']['spoiled_rounds'] for layer in layers)} of "
            f"{sum(layer[tree]['interleaved']['rounds'] for layer in layers)}"
            for tree, layers in (("pristine", affected), ("patched", list(cell.layers.values())))
        ]
        failing = _words(cell, "calls_that_fail_before")
        row = [
            f"`{cell.environment}`",
            cell.python,
            cell.torch,
            f"{cell.tests['passed']} ({cell.tests['skipped']})",
            _words(cell, "layers"),
            f"{_words(cell, 'calls')} ({failing})",
            _words(cell, "upstream_full"),
            ", ".join(forced),
        ]
        rows.append("| " + " | ".join(row) + " |")
    return rows


def draw(status: Status, catalogue: Catalogue, file: Path) -> None:
    """Draws the picture: for each release and layer, the calls before and after, as two bars."""
    # Here, since only this verb needs it, and it takes long to import.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch, Rectangle

    # The same data give the same bytes.
    matplotlib.rcParams.update(
        {"svg.hashsalt": "pyg-threadsafe", "svg.fonttype": "none", "font.size": 9}
    )
    colours = {"right": "#4c9f70", "crashed": "#e9a03b", "silently_wrong": "#c8373a"}
    panels = {"interleaved": "two threads, forced", "stress": "eight threads, as it comes"}
    layers = list(catalogue.classes)
    heads = columns(status)
    # A head a row of panels, with a line for each release that has run there.
    releases = {
        head: list(dict.fromkeys(cell.release for cell in status.cells if cell.column == head))
        for head in heads
    }
    heights = [len(releases[head]) + 4 for head in heads]
    figure, axes = pyplot.subplots(
        len(heads),
        len(panels),
        figsize=(1.4 + 0.9 * len(layers) * len(panels), 0.8 + 0.25 * sum(heights)),
        squeeze=False,
        sharey="row",
        height_ratios=heights,
    )
    for head, row in zip(heads, axes, strict=True):
        for panel, axis in zip(panels, row, strict=True):
            cells = [cell for cell in status.cells if cell.column == head]
            for cell, (x, layer) in itertools.product(cells, enumerate(layers)):
                y = releases[head].index(cell.release)
                for tree, offset in (("pristine", 0.06), ("patched", 0.48)):
                    left = x + 0.06
                    for key, colour in colours.items() if layer in cell.layers else ():
                        part = 0.88 * share(cell.layers[layer][tree][panel], key)
                        axis.add_patch(
                            Rectangle((left, y + offset), part, 0.36, color=colour, lw=0)
                        )
                        left += part
                if x == 0 and not cell.holds:
                    axis.text(0.5, y + 0.5, "FAILED", ha="center", va="center", weight="bold")
            axis.set_xlim(0, len(layers))
            axis.set_ylim(len(releases[head]), 0)
            names = [re.sub("(Conv|Layer)$", r"\n\1", catalogue.classes[name]) for name in layers]
            axis.set_xticks([x + 0.5 for x in range(len(layers))], names)
            axis.xaxis.tick_top()
            axis.set_yticks([y + 0.5 for y in range(len(releases[head]))], releases[head])
            axis.tick_params(length=0)
            axis.set_title(f"{head}: {panels[panel]}", loc="left", weight="bold")
            for spine in axis.spines.values():
                spine.set_visible(False)
        row[0].set_ylabel("PyG; as released (above), patched (below)")
    words = {"right": "right", "crashed": "crashed", "silently_wrong": "silently wrong"}
    figure.legend(
        handles=[Patch(color=colours[key], label=word) for key, word in words.items()],
        title="Calls of threads that share a layer",
        loc="lower center",
        ncols=3,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
