"""The program that measures throughput: what it counts, and that its processes end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import PROGRAMS, REGRESSION_TEST, Warm
from patched_layers import LAYERS

pytestmark = pytest.mark.usefixtures("on_nightly")

# In seconds, between what `Racy` writes to itself and what it reads back.
PAUSE = 0.005

# A layer that threads cannot share, for certain, and one that ends its process.
TOYS = f"""
import multiprocessing
import os
import time
from pathlib import Path

import torch

WITH_WEIGHTS = {{'return_attention_weights': True}}

with Path(__file__).with_name('pids').open('a') as pids:
    print(os.getpid(), file=pids)


class Racy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x, return_attention_weights):
        self.alpha = self.linear(x)
        time.sleep({PAUSE})
        alpha = self.alpha
        del self.alpha
        return x, (x, alpha)


class Dying(torch.nn.Linear):
    calls = 0

    def forward(self, x, return_attention_weights):
        self.calls += 1
        if self.calls > 1 and multiprocessing.parent_process():
            os._exit(3)
        return super().forward(x)


def get_inputs(num_nodes, num_edges, seed):
    generator = torch.Generator().manual_seed(seed)
    return {{'x': torch.randn(num_nodes, 8, generator=generator)}}
"""

FIXED = f"""
import time

import torch


class Racy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x, return_attention_weights):
        alpha = self.linear(x)
        time.sleep({PAUSE})
        return x, (x, alpha)
"""


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toys")
    for name, layer in (("racy", "Racy()"), ("dying", "Dying(8, 8)")):
        (path / f"{name}.py").write_text(f"{TOYS}\n\ndef get_conv():\n    return {layer}\n")
    (path / "fixed.py").write_text(FIXED)
    (path / "other.py").write_text(FIXED.replace("(x, alpha)", "(x, alpha + 1)"))
    return path


@pytest.fixture(scope="module")
def run(warm: dict[str, Warm]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return lambda *arguments: warm["pristine"].run(PROGRAMS / "throughput.py", *arguments)


def get_rows(result: subprocess.CompletedProcess[str]) -> dict[tuple[str, int, str], Any]:
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    report = json.loads(result.stdout)
    assert report["cores"] >= 1
    rows = {(row["way"], row["threads"], row["graph"]): row for row in report["rows"]}
    assert len(rows) == len(report["rows"])
    for row in rows.values():
        assert row["right"] + row["crashed"] + row["silently_wrong"] == row["calls"]
        assert row["calls_a_second"] == pytest.approx(row["calls"] / row["seconds"])
        assert len(row["slices"]) == 4
        assert min(row["slices"]) <= row["calls_a_second"] <= max(row["slices"])
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    return rows


def assert_ended(toys: Path) -> None:
    pids = [int(line) for line in (toys / "pids").read_text().splitlines()]
    assert len(pids) > 1
    assert not any(map(psutil.pid_exists, pids))


def test_each_way(run: Callable[..., Any], toys: Path) -> None:
    ways = ["unpatched", f"patched={toys / 'fixed.py'}", "lock", "deepcopy", "processes"]
    rows = get_rows(run("Racy", toys / "racy.py", "0.2", "2", "middle,small", *ways))
    names = [way.partition("=")[0] for way in ways]
    # In the order of size, whatever is asked for.
    assert list(rows) == [(way, 2, graph) for graph in ("small", "middle") for way in names]
    for (way, _, _), row in rows.items():
        assert row["seconds"] >= 0.2
        if way == "unpatched":
            assert row["silently_wrong"] > 0
            assert row["crashed"] > 0
        else:
            assert row["right"] == row["calls"] > 0
        weights = 4 * (8 * 8 + 8)
        assert row["model_bytes"] == weights * (2 if way in ("deepcopy", "processes") else 1)
        assert row["p50_ms"] >= PAUSE * 1e3
        assert row["workers"] == (2 if way == "processes" else 0)
        assert (row["start_s"] is None) == (way not in ("deepcopy", "processes"))
        assert (row["uss_bytes"] is None) == (way != "processes")
    for graph in ("small", "middle"):
        # One at a time: with the pause, this is a bound, and no matter of luck.
        assert rows["lock", 2, graph]["calls_a_second"] * PAUSE <= 1
        assert rows["processes", 2, graph]["uss_bytes"] > 2 * 10_000_000
    rates = [rows[way, 2, "small"]["calls_a_second"] for way in ("lock", "patched")]
    assert rates[0] < rates[1]
    assert_ended(toys)


def test_layer_of_pyg(run: Callable[..., Any], trees: dict[str, Path]) -> None:
    test_file = trees["patched"] / REGRESSION_TEST.format("gatv2_conv")
    module = LAYERS["gatv2_conv"].module
    ways = ["unpatched", *(f"{way}={trees['patched'] / module}" for way in ("patched", "upstream"))]
    rows = get_rows(run("GATv2Conv", test_file, "0.2", "1,3", "small", *ways, "lock", "deepcopy"))
    assert len(rows) == 2 * 5
    rows.update(get_rows(run("GATv2Conv", test_file, "0.1", "1", "small", "processes")))
    # Upstream has fixed it in this release.
    assert all(row["right"] == row["calls"] for row in rows.values())
    assert (
        rows["deepcopy", 3, "small"]["model_bytes"] == 3 * rows["lock", 3, "small"]["model_bytes"]
    )


def test_a_worker_that_dies_is_reported(run: Callable[..., Any], toys: Path) -> None:
    result = run("Dying", toys / "dying.py", "0.1", "1", "middle", "processes")
    assert (result.returncode, result.stdout) == (1, "")
    assert "Worker 0 has ended, with exit status 3." in result.stderr
    assert "Traceback" not in result.stderr
    assert_ended(toys)


@pytest.mark.parametrize(
    "graphs, way, said",
    [
        ("small", "unlocked", "There is no way 'unlocked'."),
        ("small", "patched", "There is no way 'patched'."),
        ("small", "lock=fixed.py", "There is no way 'lock=FILE'."),
        ("small,large", "lock", "There is no graph 'large'."),
        ("small", "patched={}/other.py", "patched does not compute what"),
    ],
)
def test_mistakes(run: Callable[..., Any], toys: Path, graphs: str, way: str, said: str) -> None:
    result = run("Racy", toys / "racy.py", "0.1", "1", graphs, way.format(toys))
    assert (result.returncode, result.stdout) == (1, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr
