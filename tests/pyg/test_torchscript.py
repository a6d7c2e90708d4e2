"""Scripted layers that threads share.

TorchScript runs without the GIL, and nothing can hold it between two of its operators: here a
race is provoked by many calls, in a process of its own, whose death is a result.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from sysconfig import get_config_var
from typing import Any, Dict

import pytest
from conftest import PROGRAMS, REGRESSION_TEST, Warm, find_patched_layers, is_thorough

FORMS = ("scripted", "saved", "frozen", "optimized")

CALLS = 20_000 if os.environ.get("PYG_THREADSAFE_FULL") else 3_000

Ends = Dict[str, Dict[str, Any]]


@pytest.fixture(scope="module")
def wanted(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("release") in ("2.3.0", "2.3.1") and not find_spec("torch_sparse"):
        pytest.skip("TorchScript takes no layer of this release without torch-sparse")


@pytest.fixture(scope="module")
def ends(
    warm: dict[str, Warm],
    wanted: None,
    pytestconfig: pytest.Config,
    record_testsuite_property: Callable[[str, object], None],
) -> dict[tuple[str, str], Ends]:
    """How the calls ended, by tree and form, then by layer.

    Where all forms are tried, they are kept for the report, too. Elsewhere it is the scripted
    layer as it is, not saved, frozen or optimized.
    """
    made: dict[tuple[str, str], Ends] = {}
    patched = pytestconfig.getoption("patched")
    all_forms = is_thorough(pytestconfig)
    for tree, form in itertools.product(warm, FORMS if all_forms else FORMS[:1]):
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
    if not all_forms:
        return made
    rows = [{"tree": tree, "form": form, "layers": ended} for (tree, form), ended in made.items()]
    record_testsuite_property("torchscript", json.dumps(rows))
    ran_on = {
        "release": pytestconfig.getoption("release"),
        "python": platform.python_version() + ("t" if get_config_var("Py_GIL_DISABLED") else ""),
        "torch": version("torch"),
    }
    record_testsuite_property("torchscript_ran_on", json.dumps(ran_on))
    return made


@pytest.mark.parametrize("form", FORMS)
def test_patched(
    ends: dict[tuple[str, str], Ends],
    patched_layer: str,
    form: str,
    request: pytest.FixtureRequest,
) -> None:
    if ("patched", form) not in ends:
        request.getfixturevalue("thorough")
    pristine, patched = (ends[tree, form][patched_layer] for tree in ("pristine", "patched"))
    if "error" in pristine:
        pytest.skip(f"TorchScript does not take the pristine layer either: {pristine['error']}")
    assert patched.get("right", 0) == patched.get("calls") > 0.9 * CALLS, patched


def test_pristine(ends: dict[tuple[str, str], Ends]) -> None:
    """Of all these calls on the pristine tree, some end badly."""
    scripted = [
        end
        for (tree, _), ended in ends.items()
        for end in ended.values()
        if tree == "pristine" and "error" not in end
    ]
    assert any("died" in end or end["right"] < end["calls"] for end in scripted), scripted
