"""The threaded regression test: red on a pristine release that races, green on a patched one."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REGRESSION_TEST, run_python

# In seconds, for both tests of the file.
TIME_LIMIT = 5.0


def run_tests(trees: dict[str, Path], tree: str) -> subprocess.CompletedProcess[str]:
    # The test file is the patched tree's; the PyG that it imports is `tree`.
    file = trees["patched"] / REGRESSION_TEST
    options = ["-p", "no:cacheprovider", "--rootdir", file.parent, "-c", os.devnull]
    return run_python(
        trees[tree],
        "-m",
        "pytest",
        "--verbose",
        "--durations=0",
        "--durations-min=0",
        *options,
        file,
    )


def test_pristine(trees: dict[str, Path], is_affected: bool, same_library: bool) -> None:
    if same_library:
        pytest.skip("the patches leave the library as it is: test_patched runs the same code")
    result = run_tests(trees, "pristine")
    if not is_affected:
        assert result.returncode == 0, result.stdout
        assert "2 passed" in result.stdout
        return
    assert result.returncode == 1, result.stdout
    found = re.findall(
        r"AssertionError: (\d+) calls: (\d+) right, (\d+) crashed, (\d+) silently wrong",
        result.stdout,
    )
    # What is forced does not depend on luck: one call crashes, one is wrong.
    assert re.search(r"::test_gatv2_conv_interleaved_threads FAILED", result.stdout)
    assert found[0] == ("2", "0", "1", "1")
    # How many calls fail under stress does, and on a busy machine none may.
    for calls, *outcomes in found:
        assert sum(map(int, outcomes)) == int(calls)
    # The traceback of a crash is shown.
    assert "in forward" in result.stdout


def test_patched(trees: dict[str, Path]) -> None:
    result = run_tests(trees, "patched")
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout
    times = re.findall(r"^([\d.]+)s call ", result.stdout, re.M)
    assert len(times) == 2
    assert sum(map(float, times)) < TIME_LIMIT


@pytest.mark.usefixtures("affected")
def test_a_call_leaves_nothing_in_the_layer(observe: Callable[..., Any]) -> None:
    assert observe("pristine", "state")["has_alpha"]
    assert observe("patched", "state") == {"has_alpha": False, "unchanged": True}
