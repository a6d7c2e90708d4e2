"""Patched and pristine do the same, bit for bit."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run_observe

pytestmark = pytest.mark.usefixtures("affected")

Observe = Callable[..., Any]


def succeeded(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [case for case in seen if "result" in case]


def test_settings(observe: Observe) -> None:
    pristine, patched = observe("pristine", "settings"), observe("patched", "settings")
    for before, after in zip(pristine, patched, strict=True):
        assert after == before
    # The comparison is about results: most settings give one, and so does every
    # value of every factor, alone.
    right = succeeded(pristine)
    assert len(right) > len(pristine) / 2
    tried = Counter((k, str(v)) for case in pristine for k, v in case["setting"].items())
    gave = Counter((k, str(v)) for case in right for k, v in case["setting"].items())
    assert set(tried) - set(gave) == set()
    # The digests tell results apart.
    assert len({str(case["result"]) for case in right}) == len(right)


def test_jit(observe: Observe) -> None:
    compare_compiled(observe("pristine", "jit"), observe("patched", "jit"), "TorchScript")


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compile(observe: Observe, backend: str) -> None:
    pristine = observe("pristine", f"compiled:{backend}")
    compare_compiled(pristine, observe("patched", f"compiled:{backend}"), "torch.compile")


def compare_compiled(pristine: dict[str, Any], patched: dict[str, Any], compiler: str) -> None:
    worked = {key: case for key, case in pristine.items() if "result" in case}
    # What did not compile before need not compile now.
    assert {key: patched[key] for key in worked} == worked
    if not worked:
        error = next(iter(pristine.values()))["error"].splitlines()[0]
        pytest.skip(f"{compiler} does not take the pristine layer either: {error}")


@pytest.mark.parametrize("what", ["explain", "decomposed_layers", "subclasses"])
def test_same(observe: Observe, what: str) -> None:
    pristine, patched = observe("pristine", what), observe("patched", what)
    if what == "subclasses":
        # What worked works, and gives the same; what failed may work now.
        worked = {name for name, case in pristine.items() if "result" in case}
        assert worked
        assert {name: patched[name] for name in worked} == {name: pristine[name] for name in worked}
    else:
        assert patched == pristine


def test_hooks(observe: Observe) -> None:
    pristine, patched = observe("pristine", "hooks"), observe("patched", "hooks")
    assert patched == pristine
    assert "result" in pristine
    assert len(pristine["names"]) == len(pristine["known"])


def test_subclass_is_told_what_to_change(observe: Observe) -> None:
    seen = observe("patched", "subclasses_with_weights")
    for case in seen.values():
        assert case["error"].startswith("AssertionError: No attention weights to return")
        assert "attention: Optional[List[Tensor]] = None" in case["error"]
        assert "self._alpha" in case["error"]


@pytest.mark.parametrize("writer, reader", [("pristine", "patched"), ("patched", "pristine")])
def test_pickles_cross(
    observe: Observe,
    trees: dict[str, Path],
    pickles: dict[str, Path],
    writer: str,
    reader: str,
) -> None:
    load = f"load:{pickles[writer]}"
    written = observe(writer, f"dump:{pickles[writer]}")
    assert run_observe(trees[reader], load) == {load: written}
