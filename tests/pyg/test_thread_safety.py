"""The threaded regression test: red on a pristine release that races, green on a patched one."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REGRESSION_TEST, run_python

TESTS = ["test_gatv2_conv_interleaved_threads", "test_gatv2_conv_many_threads"]


def run_test(trees: dict[str, Path], tree: str, test: str) -> Any:
    # The test file is the patched tree's; the PyG that it imports is `tree`.
    file = trees["patched"] / REGRESSION_TEST
    options = ["-p", "no:cacheprovider", "--rootdir", file.parent, "-c", "/dev/null"]
    return run_python(trees[tree], "-m", "pytest", *options, f"{file}::{test}")


@pytest.mark.parametrize("test", TESTS)
def test_pristine(trees: dict[str, Path], is_affected: bool, test: str) -> None:
    result = run_test(trees, "pristine", test)
    if not is_affected:
        assert result.returncode == 0, result.stdout
        return
    assert result.returncode == 1, result.stdout
    found = re.search(
        r"(\d+) calls: (\d+) right, (\d+) crashed, (\d+) silently wrong", result.stdout
    )
    assert found, result.stdout
    calls, right, crashed, wrong = map(int, found.groups())
    assert right + crashed + wrong == calls
    assert crashed > 0
    assert wrong > 0
    # The traceback of a crash is shown.
    assert "in forward" in result.stdout
    if "interleaved" in test:
        assert (right, crashed, wrong) == (0, 1, 1)


@pytest.mark.parametrize("test", TESTS)
def test_patched(trees: dict[str, Path], test: str) -> None:
    result = run_test(trees, "patched", test)
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


def test_regression_test_is_quick(trees: dict[str, Path]) -> None:
    program = "import sys; sys.path.insert(0, {!r}); import {} as t; import time; s = time.time();"
    program += "t.{}(); t.{}(); print(time.time() - s)"
    file = trees["patched"] / REGRESSION_TEST
    start = time.monotonic()
    result = run_python(trees["patched"], "-c", program.format(str(file.parent), file.stem, *TESTS))
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 5, f"of {time.monotonic() - start:.1f} s in all"


@pytest.mark.usefixtures("affected")
def test_a_call_leaves_nothing_in_the_layer(observe: Callable[..., Any]) -> None:
    assert observe("pristine", "state")["has_alpha"]
    assert observe("patched", "state") == {"has_alpha": False, "unchanged": True}
