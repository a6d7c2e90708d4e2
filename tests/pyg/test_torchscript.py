"""Scripted layers that threads share.

TorchScript runs without the GIL, and nothing can hold it between two of its operators: here a
race is provoked by many calls, in a process of its own, whose death is a result.
"""

import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from conftest import PROGRAMS, REGRESSION_TEST, Warm, find_patched_layers

FORMS = ("scripted", "saved", "frozen", "optimized")

CALLS = 20_000 if os.environ.get("PYG_THREADSAFE_FULL") else 3_000

Ends = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def ends(
    warm: dict[str, Warm],
    thorough: None,
    pytestconfig: pytest.Config,
    record_testsuite_property: Callable[[str, object], None],
) -> dict[tuple[str, str], Ends]:
    """How the calls ended, by tree and form, then by layer; kept for the report, too."""
    made: dict[tuple[str, str], Ends] = {}
    patched = pytestconfig.getoption("patched")
    for tree, form in itertools.product(warm, FORMS):
        ended = made[tree, form] = {}
        for layer in find_patched_layers(pytestconfig):
            first = made["pristine", FORMS[0]].get(layer, {})
            if "error" in first:
                ended[layer] = first
                continue
            file = patched / REGRESSION_TEST.format(layer)
            result = warm[tree].run(PROGRAMS / "scripted.py", form, str(CALLS), file)
            if result.returncode < 0:
                ended[layer] = {"died": -result.returncode}
            else:
                assert result.returncode == 0, result.stderr
                ended[layer] = json.loads(result.stdout.splitlines()[-1])
    rows = [{"tree": tree, "form": form, "layers": ended} for (tree, form), ended in made.items()]
    record_testsuite_property("torchscript", json.dumps(rows))
    return made


@pytest.mark.parametrize("form", FORMS)
def test_patched(ends: dict[tuple[str, str], Ends], patched_layer: str, form: str) -> None:
    pristine, patched = (ends[tree, form][patched_layer] for tree in ("pristine", "patched"))
    if "error" in pristine:
        pytest.skip(f"TorchScript does not take the pristine layer either: {pristine['error']}")
    assert patched.get("right", 0) == patched.get("calls") > 0.9 * CALLS, patched


def test_pristine(ends: dict[tuple[str, str], Ends]) -> None:
    """How calls end on the pristine tree is for the report: on a busy machine, few threads meet."""
    scripted = [
        end
        for (tree, _), ended in ends.items()
        for end in ended.values()
        if tree == "pristine" and "error" not in end
    ]
    assert scripted
    assert all("died" in end or end["calls"] > 0.9 * CALLS for end in scripted)
