"""The soak: what counts as a fault, and what the command refuses."""

import dataclasses
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import StandIn, World, refused
from kit import mutating, pages, proofs, soaking, sources
from kit.releases import Catalogue
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


def told(right: int, seconds: float = 60.0, failure: str = "") -> dict[str, Any]:
    """What `programs/soak.py` says where so many of 100 calls of the layer are right."""
    ended = {"calls": 100, "right": right, "crashed": 0, "silently_wrong": 100 - right}
    fields = {"python": "3.11.7", "torch": "2.13.0+cpu", "gil": True, "threads": 16, "hung": 0}
    fields |= {"seconds": seconds, "calls": {"gatv2_conv": ended}, "failure": failure}
    return {"json": {**fields, "samples": memory(0), "tensors": [628, 629]}}


PRISTINE = told(99, 0.1, "Traceback\ngatv2_conv: another result")


def test_what_holds_is_shown(world: World, stand_in: StandIn) -> None:
    command = ("soak", "1.8.0", "--source", "sdist", "--python", stand_in.path)
    stand_in.answer("soak.py", PRISTINE, told(100))
    result = world.run(*command, "--minutes", "1")
    assert result.returncode == 0, result.stderr
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert rows[0].endswith("Python 3.11.7: 16 threads shared one model for 60 s")
    assert "GATv2Conv 100 100 0 0" in rows
    assert rows[-1] == "Too short to judge the memory: at least 2 minutes."
    assert [call[3] for call in stand_in.calls] == ["first", "last"]
    assert [call[4].split("/")[-5] for call in stand_in.calls] == ["patched"] * 2
    stand_in.answer("soak.py", PRISTINE, told(100, 600.0))
    result = world.run(*command)
    assert result.stdout.splitlines()[-1] == "Memory after the first fifth: +0.0 MiB"
    stand_in.answer("soak.py", PRISTINE, told(98, 600.0))
    result = world.run(*command, "--json")
    refused(result, 1, "gatv2_conv: of 100 calls, 0 crashed and 2 were silently wrong.")
    printed = json.loads(result.stdout)
    assert printed["control"] == {
        "seconds": 0.1,
        "failure": "gatv2_conv: another result",
        "died": "",
    }


@pytest.mark.parametrize(
    "end, code, said",
    [
        ({"signal": int(signal.SIGSEGV)}, 1, "The process died of SIGSEGV."),
        ({"code": 1, "said": "MemoryError"}, 5, "could not be run on the patched tree: MemoryErr"),
    ],
)
def test_a_process_that_fails(
    world: World, stand_in: StandIn, end: dict[str, Any], code: int, said: str
) -> None:
    stand_in.answer("soak.py", PRISTINE, end)
    result = world.run("soak", "1.8.0", "--source", "sdist", "--python", stand_in.path)
    refused(result, code, said)


def test_a_deadlock(
    catalogue: Catalogue,
    source: Callable[..., sources.Source],
    stand_in: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soaking, "MARGIN", 1.0)
    stand_in.answer("soak.py", PRISTINE, {"sleep": 60})
    release = catalogue.find("1.8.0")
    soaked = soaking.soak(
        *(release, catalogue, source("sdist"), stand_in.path, print), minutes=0.01
    )
    assert soaked.problems() == ["The process died of a deadlock: it ran for 2 s."]


@pytest.mark.parametrize("less", [("--minutes", "9.9"), ("--threads", "15")])
def test_no_weaker_proof_is_recorded(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], less: tuple[str, str]
) -> None:
    assert call("soak", "1.8.0", "--record", *less) == 2
    said = "--record takes no less than 16 threads and 10 minutes."
    assert said in capsys.readouterr().err


def test_what_was_measured_is_recorded(
    world: World,
    stand_in: StandIn,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mutating, "DATA", tmp_path / "mutations.json")
    monkeypatch.setattr(soaking, "DATA", tmp_path / "soak.json")
    monkeypatch.setattr(proofs, "PAGE", tmp_path / "proofs.md")
    stand_in.answer("soak.py", PRISTINE, told(100, 600.0))
    command = ("soak", "1.8.0", "--source", "sdist", "--python", stand_in.path, "--record")
    assert call(*command) == 0
    assert pages.read_data(soaking.DATA, "")["1.8.0"]["problems"] == []
    assert "16 threads, 10.0 minutes: holds" in (tmp_path / "proofs.md").read_text()
    assert "soak.json" in capsys.readouterr().out
