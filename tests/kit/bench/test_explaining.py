"""What an explanation costs: how the rounds are put together, and what the page says."""

import json
import subprocess
from pathlib import Path

import pytest
from kit import environments, releases, sources
from kit.bench import explaining
from kit.errors import ToolError

# Seconds, by tree, round, case and explanation: twice as long in one round, half in the others.
TIMES = {
    "pristine": [[[0.2, 0.1, 9.0]], [[0.1]], [[0.1]]],
    "patched": [[[0.4]], [[0.05]], [[0.05]]],
}


def test_a_row() -> None:
    row = explaining.row_of("2.8.1", 0, TIMES)
    assert (row["release"], row["graph"], row["epochs"]) == ("2.8.1", "small", 1)
    # Of a round, the median counts: one call that was held up does not.
    assert row["pristine_ms"] == pytest.approx(100) and row["patched_ms"] == pytest.approx(50)
    assert (row["ratio"], row["low"], row["high"]) == (0.5, 0.5, 2.0)
    assert row["rounds"] == 3


def test_the_section() -> None:
    row = explaining.row_of("2.8.1", 0, TIMES)
    text = explaining.section({"rows": [row]}, "*made so*\n")
    assert "*made so*" in text
    assert "| 2.8.1 | small | 1 | 100 ms | 50 ms | 0.500 | 0.500 to 2.000 |" in text


def test_trees_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    release = releases.load().find("2.3.1")
    source = sources.Source(
        sources.Kind.SDIST, "", False, sources.default_cache(), lambda message: None
    )
    order: list[str] = []

    def run(
        python: Path, program: Path, test: Path, cases: str, *, tree: Path, env: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        order.append(tree.name)
        assert test.is_file() and json.loads(cases) == explaining.CASES
        times = [[0.1]] * len(explaining.CASES)
        printed = json.dumps({"python": "3", "torch": "2", "times": times})
        return subprocess.CompletedProcess([], 0, printed, "")

    monkeypatch.setattr(environments, "run_pyg", run)
    told: list[str] = []
    result = explaining.measure_explained(release, source, Path("python"), 2, told.append)
    assert sorted(order[:2]) == sorted(order[2:]) and order[:2] == order[:1:-1]
    assert len(result["rows"]) == len(explaining.CASES) and len(told) == 2
    assert {row["ratio"] for row in result["rows"]} == {1.0}
    monkeypatch.setattr(
        environments,
        "run_pyg",
        lambda *args, **kwargs: subprocess.CompletedProcess([], 1, "", "no torch\n"),
    )
    with pytest.raises(ToolError, match="no torch"):
        explaining.measure_explained(release, source, Path("python"), 1, told.append)
