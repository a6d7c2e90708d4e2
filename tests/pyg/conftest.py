"""Tests that run against one PyG release: its pristine tree and its patched one.

Nothing of PyG is imported here. Each observation is made in a process of its
own, with one of the two trees on its path, since one process holds one PyG.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OBSERVE = Path(__file__).parent / "observe.py"

# The threaded regression test, in PyG's own test tree.
REGRESSION_TEST = "test/nn/conv/test_gatv2_conv_thread_safety.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in ("pristine", "patched"):
        parser.addoption(f"--{name}", type=Path, help=f"the {name} tree of a PyG release")


@pytest.fixture(scope="session")
def trees(pytestconfig: pytest.Config) -> dict[str, Path]:
    found = {name: pytestconfig.getoption(name) for name in ("pristine", "patched")}
    if not all(found.values()):
        pytest.fail("Name both trees: --pristine DIR --patched DIR. tox.ini does.")
    return {name: path.absolute() for name, path in found.items()}


@pytest.fixture(scope="session")
def is_affected(trees: dict[str, Path]) -> bool:
    """Whether the patches change PyG itself, rather than add a test only."""
    file = "torch_geometric/nn/conv/gatv2_conv.py"
    return len({(tree / file).read_bytes() for tree in trees.values()}) == 2


@pytest.fixture
def affected(is_affected: bool) -> None:
    if not is_affected:
        pytest.skip("upstream has fixed this release: pristine and patched run the same code")


def run_python(tree: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs Python with a tree of PyG on its path."""
    # A torch extension of the user's, or PYTHONPATH, must not get in between.
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="session")
def observe(trees: dict[str, Path]) -> Callable[..., Any]:
    """Runs `observe.py` on a tree and returns what it saw."""

    def run(name: str, *arguments: str | Path) -> Any:
        result = run_python(trees[name], OBSERVE, *arguments)
        assert result.returncode == 0, result.stderr
        seen = json.loads(result.stdout.splitlines()[-1])
        # Seen from where it was meant to be seen.
        assert Path(seen["torch_geometric"]).is_relative_to(trees[name].resolve())
        return seen["seen"]

    return run
