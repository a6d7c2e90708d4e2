"""The threaded regression tests: red on a pristine release that races, green on a patched one."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REGRESSION_TEST, find_patched, find_tested, run_python
from patched_layers import LAYERS

# In seconds, for both tests of a file.
TIME_LIMIT = 5.0


@pytest.fixture(scope="session")
def regression_tests(
    trees: dict[str, Path], same_library: bool, pytestconfig: pytest.Config
) -> dict[str, subprocess.CompletedProcess[str]]:
    """What pytest says of all regression tests, on each tree."""
    layers = find_tested(pytestconfig)
    assert layers
    ended: dict[str, subprocess.CompletedProcess[str]] = {}
    for tree, path in trees.items():
        # The test files are the patched tree's; the PyG that they import is `tree`'s.
        files = [trees["patched"] / REGRESSION_TEST.format(layer) for layer in layers]
        options = ["-p", "no:cacheprovider", "--rootdir", files[0].parent, "-c", os.devnull]
        options += ["--verbose", "--durations=0", "--durations-min=0"]
        ended[tree] = run_python(path, "-m", "pytest", *options, *files)
    return ended


def test_pristine(
    regression_tests: dict[str, subprocess.CompletedProcess[str]],
    pytestconfig: pytest.Config,
    tested_layer: str,
) -> None:
    output = regression_tests["pristine"].stdout
    if tested_layer not in find_patched(pytestconfig):
        assert output.count(f"test_{tested_layer}_thread_safety.py::") >= 2, output
        assert len(re.findall(rf"::test_{tested_layer}_\w+_threads PASSED", output)) == 2, output
        return
    # What is forced does not depend on luck.
    name = f"test_{tested_layer}_interleaved_threads"
    assert re.search(rf"::{name} FAILED", output), output
    counts = r"AssertionError: (\d+) calls: (\d+) right, (\d+) crashed, (\d+) silently wrong"
    (report,) = re.findall(rf"^_+ {name} _+$(.*?)^(?:_|=){{9,}}", output, re.M | re.S)
    (found,) = re.findall(counts, report)
    assert tuple(map(int, found)) == (2, *LAYERS[tested_layer].forced)
    # The traceback of a crash is shown.
    assert LAYERS[tested_layer].forced[1] == 0 or "Traceback" in report


def test_patched(
    regression_tests: dict[str, subprocess.CompletedProcess[str]], tested_layer: str
) -> None:
    result = regression_tests["patched"]
    assert result.returncode == 0, result.stdout
    passed = re.findall(rf"::test_{tested_layer}_\w+_threads PASSED", result.stdout)
    assert len(passed) == 2, result.stdout
    times = re.findall(rf"^([\d.]+)s call .*::test_{tested_layer}_", result.stdout, re.M)
    assert len(times) == 2
    assert sum(map(float, times)) < TIME_LIMIT


def test_a_call_leaves_nothing_in_the_layer(observe: Callable[..., Any], patched_conv: str) -> None:
    pristine, patched = (observe(tree, f"state:{patched_conv}") for tree in ("pristine", "patched"))
    assert pristine["has_alpha"] or not pristine["unchanged"]
    assert patched == {"has_alpha": False, "unchanged": True}
