"""The programs that soak and mutate: they see what they look for, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAMS, REGRESSION_TEST, Warm, find_affected
from kit.mutants import mutate
from patched_layers import LAYERS

# A layer that keeps a tensor of each call, and one of which some threads never return.
LEAKS = """
import threading

import torch


class Leaky(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = []

    def forward(self, x):
        self.kept.append(x + 1)
        return x


class Hanging(torch.nn.Module):
    def forward(self, x):
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait()
        return x


def get_inputs(num_nodes, num_edges, seed):
    return {'x': torch.full((num_nodes, 1), float(seed))}


def get_conv():
    return THE_CLASS()
"""


def soak(python: Warm, seconds: float, end: str, *tests: Path) -> dict[str, Any]:
    result = python.run(PROGRAMS / "soak.py", str(seconds), "16", end, *tests)
    assert result.returncode == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("tree", ["patched", "pristine"])
def test_a_model_with_every_patched_layer(
    thorough: None,
    trees: dict[str, Path],
    warm: dict[str, Warm],
    pytestconfig: pytest.Config,
    tree: str,
) -> None:
    layers = find_affected(pytestconfig)
    tests = [trees["patched"] / REGRESSION_TEST.format(layer) for layer in layers]
    if tree == "patched":
        told = soak(warm[tree], 3.0, "last", *tests)
        assert (told["failure"], told["hung"], told["threads"]) == ("", 0, 16)
        assert list(told["calls"]) == layers
        for ended in told["calls"].values():
            assert ended["right"] == ended["calls"] > 0
        assert told["tensors"][1] <= told["tensors"][0] + 16
        assert told["seconds"] >= 3 and len(told["samples"]) >= 2
        return
    # A race may also end the process, which is a result.
    result = warm[tree].run(PROGRAMS / "soak.py", "60", "16", "first", *tests)
    if result.returncode >= 0:
        told = json.loads(result.stdout.splitlines()[-1])
        assert told["failure"] and told["seconds"] < 60
        assert any(ended["right"] < ended["calls"] for ended in told["calls"].values())


def test_a_leak_and_a_hang_are_seen(
    on_nightly: None, warm: dict[str, Warm], tmp_path: Path
) -> None:
    file = tmp_path / "test_toy_thread_safety.py"
    file.write_text(LEAKS.replace("THE_CLASS", "Leaky"))
    told = soak(warm["patched"], 1.0, "last", file)
    calls = told["calls"]["toy"]
    assert calls["right"] == calls["calls"] > 100
    assert told["tensors"][1] - told["tensors"][0] >= calls["calls"]
    program = (PROGRAMS / "soak.py").read_text()
    assert program.count("GRACE = 120.0") == 1
    for each in (PROGRAMS / "prove.py", PROGRAMS / "soak.py"):
        text = each.read_text().replace("GRACE = 120.0", "GRACE = 1.0")
        (tmp_path / each.name).write_text(text)
    file.write_text(LEAKS.replace("THE_CLASS", "Hanging"))
    result = warm["patched"].run(tmp_path / "soak.py", "1", "4", "last", file)
    assert json.loads(result.stdout.splitlines()[-1])["hung"] == 4


def test_mutants_are_caught(
    thorough: None,
    trees: dict[str, Path],
    warm: dict[str, Warm],
    pytestconfig: pytest.Config,
    tmp_path: Path,
) -> None:
    """A few rounds of each; `scripts/kit.sh mutate` runs a hundred."""
    jobs = []
    for layer in find_affected(pytestconfig):
        file = LAYERS[layer].module  # of an explanation, that is the copy's
        job = {
            "test": str(trees["patched"] / REGRESSION_TEST.format(layer)),
            "module": str(Path(file).with_suffix("")).replace("/", "."),
            "rounds": 3,
        }
        jobs.append({**job, "file": None})
        for way, text in mutate(layer, (trees["patched"] / file).read_text()).items():
            mutant = tmp_path / f"{layer}-{way.replace(' ', '-')}.py"
            mutant.write_text(text)
            jobs.append({**job, "file": str(mutant)})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    result = warm["patched"].run(PROGRAMS / "mutate.py", tmp_path / "jobs.json")
    assert result.returncode == 0, result.stderr
    results = json.loads(result.stdout.splitlines()[-1])["results"]
    alone = ""
    assert len(results) == len(jobs)
    for job, told in zip(jobs, results):
        expected = 3 if job["file"] else 0
        alone = alone if job["file"] else told["alone"]
        assert (told["failed"], told["alone"]) == (expected, alone), job
