"""What users have built on the layers works as before: the same results, bit for bit.

The classes in `user_code/` are written for this suite, in the shape of public code. What gives
a result on the pristine tree has to give the same one on the patched tree, in whatever order
the layers are built; what fails on the pristine tree may fail.
"""

from __future__ import annotations

import ast
import itertools
import json
from typing import Any

import pytest
from conftest import HERE, Warm

FILES = sorted((HERE / "user_code").glob("[a-z]*.py"))


def find_cases() -> list[str]:
    """The cases of all files, read without an import of PyG."""
    return [
        f"{file.stem}.{node.name}"
        for file in FILES
        for node in ast.parse(file.read_text()).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and any(_calls_case(each) for each in node.decorator_list)
    ]


def _calls_case(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "case"


@pytest.fixture(scope="module")
def outcomes(warm: dict[str, Warm], thorough: None) -> dict[str, dict[str, Any]]:
    """How each case ends on each tree."""
    ended: dict[str, dict[str, Any]] = {tree: {} for tree in warm}
    for (tree, python), file in itertools.product(warm.items(), FILES):
        result = python.run(HERE / "cases.py", file)
        assert result.returncode == 0, result.stderr
        ended[tree].update(json.loads(result.stdout.splitlines()[-1]))
    return ended


def results(case: dict[str, Any]) -> dict[str, Any]:
    """The ways in which a case gives a result."""
    return {way: ended for way, ended in case.items() if "result" in ended}


@pytest.mark.parametrize("name", find_cases())
def test_same_results(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    if name not in outcomes["pristine"]:
        pytest.skip("about other releases")
    pristine, patched = (outcomes[tree][name] for tree in ("pristine", "patched"))
    worked = results(pristine)
    if not worked:
        error = next(iter(pristine.values()))["error"].strip() or "an error without a message"
        pytest.skip(f"fails on the release as well: {error.splitlines()[0]}")
    assert {way: patched.get(way) for way in worked} == worked


def test_most_cases_work(outcomes: dict[str, dict[str, Any]]) -> None:
    # Else little would be compared. 2.5.0 can build few subclasses that leave types out.
    cases = outcomes["pristine"].values()
    assert len(list(filter(results, cases))) > 0.7 * len(cases) > 20
