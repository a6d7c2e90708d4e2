"""The race, before and after: what a proof says, and what is refused."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import World
from kit import proving
from kit.proving import LayerProof
from kit.releases import Catalogue, Release
from kit.sources import Source


def counts(calls: int, right: int, spoiled: int = 0) -> dict[str, Any]:
    bad = calls - right
    return {
        "calls": calls,
        "right": right,
        "crashed": bad // 2,
        "silently_wrong": bad - bad // 2,
        "rounds": calls // 2,
        "spoiled_rounds": spoiled,
    }


def proof(status: str, pristine: tuple[int, int], patched: tuple[int, int]) -> LayerProof:
    """Right calls of 100, forced and under stress, on each tree."""

    def measured(right: tuple[int, int]) -> dict[str, Any]:
        interleaved = counts(100, right[0], spoiled=min(50, 100 - right[0]))
        return {"interleaved": interleaved, "stress": counts(100, right[1])}

    return LayerProof("gatv2_conv", status, measured(pristine), measured(patched), None)


@pytest.mark.parametrize(
    "status, pristine, patched, said",
    [
        ("affected", (0, 70), (100, 100), None),
        # Stress is luck: the forced interleaving decides.
        ("affected", (0, 100), (100, 100), None),
        ("affected", (51, 70), (100, 100), "failed in 49"),
        ("affected", (100, 70), (100, 100), "failed in 0"),
        ("affected", (0, 70), (100, 99), "the patched release races"),
        ("affected", (0, 70), (99, 100), "the patched release races"),
        ("fixed", (100, 100), (100, 100), None),
        ("fixed", (100, 99), (100, 100), "counts as fixed, and races"),
        ("fixed", (99, 100), (100, 100), "counts as fixed, and races"),
    ],
)
def test_problems(
    status: str, pristine: tuple[int, int], patched: tuple[int, int], said: str | None
) -> None:
    problems = proof(status, pristine, patched).problems()
    if said is None:
        assert problems == []
    else:
        assert len(problems) == 1 and said in problems[0]


@pytest.mark.parametrize(
    "patched, said",
    [
        (counts(100, 100), None),
        (counts(100, 99), "races in TorchScript"),
        (counts(0, 0), "races in TorchScript"),
        ({"died": "SIGSEGV"}, "races in TorchScript"),
        ({"error": "RuntimeError: it cannot be scripted"}, "races in TorchScript"),
    ],
)
def test_problems_in_torchscript(patched: dict[str, Any], said: str | None) -> None:
    scripted = {"pristine": {"died": "SIGSEGV"}, "patched": patched}
    proved = proof("affected", (0, 70), (100, 100))
    (*problem,) = dataclasses.replace(proved, scripted=scripted).problems()
    assert [said in each for each in problem if said] == [True] * (said is not None)
    assert bool(problem) == (said is not None)


@pytest.mark.parametrize("with_latency, steps", [(True, 4), (False, 3)])
def test_it_says_how_far_it_is(
    catalogue: Catalogue,
    source: Callable[..., Source],
    monkeypatch: pytest.MonkeyPatch,
    with_latency: bool,
    steps: int,
) -> None:
    ended = {"interleaved": counts(100, 100), "stress": counts(100, 100)}

    def run(release: Release, python: Path, tree: Path, device: str, *tests: Path) -> Any:
        return {"python": "3.11", "torch": "2.13", "gil": True, "measured": [ended] * len(tests)}

    monkeypatch.setattr(proving, "_run", run)
    for name in ("_scripted", "_latency"):
        monkeypatch.setattr(proving, name, lambda *arguments: {})
    told: list[str] = []
    proving.prove(
        catalogue.find("1.8.0"),
        catalogue,
        source("sdist"),
        Path("python"),
        told.append,
        with_latency=with_latency,
    )
    said = [text.split(": ")[0] for text in told if ": " in text]
    assert said == [f"{number} of {steps}" for number in range(1, steps + 1)]


def test_no_calls_are_no_proof() -> None:
    empty = {"interleaved": counts(0, 0), "stress": counts(0, 0)}
    assert LayerProof("gatv2_conv", "fixed", empty, empty, None).problems()


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
        (
            ["1.8.0", "--only", "fa_conv"],
            2,
            "no threaded test of 'fa_conv'. Expected one of: gatv2",
        ),
        (["1.8.0", "--python", "/nowhere/python"], 5, "/nowhere/python was not found"),
        (["1.8.0", "--python", "/"], 5, "cannot be run"),
        # The tests of the kit run without torch.
        (["1.8.0", "--python", sys.executable], 5, "No module named 'torch'"),
    ],
)
def test_refusals(world: World, arguments: list[str], code: int, said: str) -> None:
    result = world.run("prove", *arguments, "--git-url", world.upstream.as_uri())
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
