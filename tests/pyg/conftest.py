"""Tests that run against one PyG release: its pristine tree and its patched one.

Nothing of PyG is imported here. Each observation is made in a process of its
own, with one of the two trees on its path, since one process holds one PyG.
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

# The threaded regression test, in PyG's own test tree.
REGRESSION_TEST = "test/nn/conv/test_gatv2_conv_thread_safety.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in ("pristine", "patched"):
        parser.addoption(f"--{name}", type=Path, help=f"the {name} tree of a PyG release")


@pytest.fixture(scope="session")
def trees(pytestconfig: pytest.Config) -> dict[str, Path]:
    found = {name: pytestconfig.getoption(name) for name in ("pristine", "patched")}
    if not all(found.values()):
        pytest.fail("Name both trees: --pristine=DIR --patched=DIR. tox.ini does.")
    return {name: path.absolute() for name, path in found.items()}


@pytest.fixture(scope="session")
def same_library(trees: dict[str, Path]) -> bool:
    """Whether both trees hold the same library, byte for byte: the patches add tests only."""
    files = [
        {
            path.relative_to(tree): path.read_bytes()
            for path in (tree / "torch_geometric").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        for tree in trees.values()
    ]
    return files[0] == files[1]


@pytest.fixture(scope="session")
def is_affected(trees: dict[str, Path]) -> bool:
    """Whether the patches change `GATv2Conv`."""
    file = "torch_geometric/nn/conv/gatv2_conv.py"
    return len({(tree / file).read_bytes() for tree in trees.values()}) == 2


@pytest.fixture
def affected(is_affected: bool) -> None:
    if not is_affected:
        pytest.skip("upstream has fixed this release: pristine and patched run the same code")


def run_python(
    tree: Path, *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python with a tree of PyG on its path."""
    # A torch extension of the user's, or PYTHONPATH, must not get in between.
    variables = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    # Some layers add what they have put in a set, in the order of its hashes.
    variables["PYTHONHASHSEED"] = "0"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        # Packages that do not know of free threading would turn the lock on again.
        variables["PYTHON_GIL"] = "0"
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )


def run_observe(tree: Path, *requests: str) -> dict[str, Any]:
    """Makes observations on a tree, all in one process."""
    result = run_python(tree, HERE / "observe.py", *requests)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    # Seen from where it was meant to be seen.
    assert Path(seen["torch_geometric"]).is_relative_to(tree.resolve())
    observed: dict[str, Any] = seen["seen"]
    return observed


@pytest.fixture(scope="session")
def pickles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each tree leaves its pickles."""
    return {tree: tmp_path_factory.mktemp(tree) for tree in ("pristine", "patched")}


@pytest.fixture(scope="session")
def observations(
    trees: dict[str, Path], is_affected: bool, same_library: bool, pickles: dict[str, Path]
) -> dict[str, dict[str, Any]]:
    """All observations of each tree, made once: the import of torch takes longer than most."""
    requests = ["conv_suite"]
    if is_affected:
        requests += ["settings", "jit", "compiled:eager", "compiled:inductor", "hooks", "explain"]
        requests += ["decomposed_layers", "subclasses", "subclasses_with_weights", "state"]
    seen = {}
    for tree, path in trees.items():
        if same_library and seen:
            seen[tree] = seen["pristine"]
        else:
            dump = [f"dump:{pickles[tree]}"] if is_affected else []
            seen[tree] = run_observe(path, *requests, *dump)
    return seen


@pytest.fixture
def observe(observations: dict[str, dict[str, Any]]) -> Callable[[str, str], Any]:
    """What was observed on a tree."""
    return lambda tree, request: observations[tree][request]
