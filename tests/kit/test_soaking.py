"""The soak: what counts as a fault, and what the command refuses."""

import dataclasses
import sys
from typing import Any

import pytest
from conftest import World, refused
from kit.soaking import GROWTH_LIMIT, Soak


def soak(**fields: Any) -> Soak:
    """A soak of ten minutes in which everything holds."""
    values: dict[str, Any] = {
        "release": "2.8.1",
        "python": "3.11.7",
        "torch": "2.13.0+cpu",
        "gil": True,
        "threads": 16,
        "seconds": 600.0,
        "hung": 0,
        "died": "",
        "calls": {"fa_conv": {"calls": 9, "right": 9, "crashed": 0, "silently_wrong": 0}},
        "failure": "",
        "samples": memory(0),
        "tensors": (628, 629),
        "control": {"seconds": 0.1, "failure": "fa_conv: another result", "died": ""},
    }
    return Soak(**{**values, **fields})


def memory(growth: int, warm_up: int = 2**30) -> list[tuple[float, int, int]]:
    """Samples of ten minutes: a steep first minute, then growth at one pace to the end."""
    return [
        (float(at), 2**30 + min(at, 60) * warm_up // 60 + growth * at // 360, at)
        for at in range(1, 601)
    ]


def test_nothing_is_wrong() -> None:
    assert soak().problems() == []
    assert soak().growth == 0


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"calls": {"fa_conv": {"calls": 9, "right": 8, "crashed": 1, "silently_wrong": 0}}}, "1 "
         "crashed and 0 were silently wrong"),
        ({"calls": {"fa_conv": {"calls": 9, "right": 7, "crashed": 0, "silently_wrong": 2}}}, "0 "
         "crashed and 2 were silently wrong"),
        ({"calls": {"fa_conv": {"calls": 0, "right": 0, "crashed": 0, "silently_wrong": 0}}},
         "fa_conv was never called"),
        ({"hung": 2}, "2 of 16 threads did not end"),
        ({"died": "SIGSEGV", "samples": []}, "died of SIGSEGV"),
        ({"failure": "Traceback\nfa_conv: KeyError: 1"}, "failure: fa_conv: KeyError: 1"),
        ({"tensors": (628, 650)}, "22 tensors outlive"),
        ({"samples": memory(2 * GROWTH_LIMIT)}, "The memory grew by 16.0 MiB"),
        ({"control": {"seconds": 60.0, "failure": "", "died": ""}}, "this soak shows nothing"),
    ],
)  # fmt: skip
def test_faults_are_named(fields: dict[str, Any], said: str) -> None:
    (problem,) = soak(**fields).problems()
    assert said in problem


def test_what_is_no_fault() -> None:
    assert soak(samples=memory(GROWTH_LIMIT // 2)).problems() == []
    # A pristine release may also end the process.
    control = {"seconds": 60.0, "failure": "", "died": "SIGSEGV"}
    assert soak(control=control).problems() == []
    # In a short run, the memory is not judged, and the result says so.
    short = soak(seconds=60.0, samples=memory(100 * GROWTH_LIMIT))
    assert (short.growth, short.problems()) == (None, [])


def test_all_of_it_is_told() -> None:
    told = soak(hung=1).as_json()
    fields = {field.name for field in dataclasses.fields(Soak)}
    assert set(told) == {*fields, "growth", "problems"}
    assert told["problems"] == ["1 of 16 threads did not end."]


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
        (["1.8.0", "--minutes", "0"], 2, "--minutes"),
        (["1.8.0", "--threads", "1"], 2, "--threads"),
        (["1.8.0", "--python", "/nowhere/python"], 5, "/nowhere/python was not found"),
        # The tests of the kit run without torch.
        (["1.8.0", "--python", sys.executable], 5, "No module named 'torch'"),
        (["2.0.0", "--python", sys.executable], 1, "no layer of PyG 2.0.0 is patched"),
    ],
)
def test_refusals(world: World, arguments: list[str], code: int, said: str) -> None:
    refused(world.run("soak", *arguments, "--git-url", world.upstream.as_uri()), code, said)
