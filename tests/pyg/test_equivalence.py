"""Patched and pristine do the same, bit for bit."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from typing import Any, Callable

import pytest
from conftest import find_affected

Observe = Callable[..., Any]


def both(observe: Observe, request: str) -> tuple[Any, Any]:
    return observe("pristine", request), observe("patched", request)


def succeeded(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [case for case in cases if "result" in case]


def test_settings(observe: Observe, patched_layer: str) -> None:
    pristine, patched = both(observe, f"settings:{patched_layer}")
    for before, after in zip(pristine, patched):
        assert after == before
    # The comparison is about results: many settings give one, and so does every
    # value of every factor, alone.
    right = succeeded(pristine)
    assert len(right) > len(pristine) / 5
    tried = Counter((k, str(v)) for case in pristine for k, v in case["setting"].items())
    gave = Counter((k, str(v)) for case in right for k, v in case["setting"].items())
    # torch 1.9 cannot scatter bfloat16, nor take the softmax of it.
    refused = {("dtype", "bfloat16")} if version("torch").startswith("1.9.") else set()
    assert set(tried) - set(gave) <= refused
    # The digests tell results apart.
    assert len({str(case["result"]) for case in right}) == len(right)


def test_jit(observe: Observe, patched_conv: str) -> None:
    compare_compiled(*both(observe, f"jit:{patched_conv}"), "TorchScript")


def test_compile(
    observe: Observe, thorough: None, pytestconfig: pytest.Config, patched_layer: str
) -> None:
    pristine, patched = both(observe, f"compiled:{patched_layer}")
    if patched_layer not in find_affected(pytestconfig):
        # A patch that makes a layer faster makes it compute in another way.
        for case in (*pristine.values(), *patched.values()):
            if "result" in case:
                case["result"][1] = "not compared"
    compare_compiled(pristine, patched, "torch.compile")


def test_compile_inductor(observe: Observe, thorough: None, pytestconfig: pytest.Config) -> None:
    if "gatv2_conv" not in find_affected(pytestconfig):
        pytest.skip("GATv2Conv does not race here; of the others, the graphs are compared")
    compare_compiled(*both(observe, "inductor:gatv2_conv"), "torch.compile")


def compare_compiled(pristine: dict[str, Any], patched: dict[str, Any], compiler: str) -> None:
    worked = {key: case for key, case in pristine.items() if "result" in case}
    # What did not compile before need not compile now.
    assert {key: patched[key] for key in worked} == worked
    if not worked:
        error = next(iter(pristine.values()))["error"].splitlines()[0]
        pytest.skip(f"{compiler} does not take the pristine layer either: {error}")


def test_explain(observe: Observe, patched_conv: str) -> None:
    pristine, patched = both(observe, f"explain:{patched_conv}")
    assert patched == pristine


def test_decomposed_layers(observe: Observe, patched_conv: str) -> None:
    pristine, patched = both(observe, f"decomposed_layers:{patched_conv}")
    assert patched == pristine


def test_hooks(observe: Observe, patched_conv: str) -> None:
    pristine, patched = both(observe, f"hooks:{patched_conv}")
    assert "result" in pristine
    assert patched == pristine
    # `HypergraphConv` calls `propagate()` twice.
    assert len(pristine["names"]) in (len(pristine["known"]), 2 * len(pristine["known"]))


def test_subclasses(observe: Observe, patched_conv: str) -> None:
    pristine, patched = both(observe, f"subclasses:{patched_conv}")
    # What gave a result gives the same one; what failed may work now.
    worked = {name: case for name, case in pristine.items() if "result" in case}
    assert {"CallsSuper", "CallsSuper with weights", "OverridesForward"} <= set(worked)
    assert {name: patched[name] for name in worked} == worked


@pytest.mark.parametrize("writer, reader", [("pristine", "patched"), ("patched", "pristine")])
def test_pickles_cross(observe: Observe, patched_conv: str, writer: str, reader: str) -> None:
    dumped = observe(writer, f"dump:{patched_conv}")
    loaded = observe(reader, f"load:{patched_conv}")
    assert loaded["results"] == [dumped, dumped]
    scripted = observe(writer, f"jit:{patched_conv}")["Tensor, False"]
    if "result" in scripted:
        assert loaded["script"] == {"result": scripted["result"][0]}
