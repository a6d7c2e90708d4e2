"""What is said of the mutants: a miss is a fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import StandIn, World, refused
from kit import mutants, mutating, pages, proofs, soaking
from kit.mutants import Site
from kit.mutating import Mutation, Tried


@pytest.mark.parametrize(
    "tried, said",
    [
        (Tried("fa_conv", "cache", 100, 100, True, ""), ""),
        (Tried("fa_conv", "", 1_000, 0, True, ""), ""),
        (Tried("fa_conv", "cache", 100, 99, True, ""), "cache: of 100 rounds, 99 failed, not 100"),
        (Tried("fa_conv", "", 1_000, 1, True, ""), "as patched: of 1,000 rounds, 1 failed, not 0"),
        (Tried("fa_conv", "cache", 0, 0, True, ""), "of 0 rounds"),
        (Tried("fa_conv", "cache", 100, 100, False, ""), "so this is no race"),
        (Tried("fa_conv", "", 100, 0, True, "the threads wait for each other"), "wait for each"),
    ],
)
def test_a_miss_is_a_fault(tried: Tried, said: str) -> None:
    problems = Mutation("2.8.1", "3.11.7", "2.13.0", [tried]).problems()
    assert len(problems) == bool(said)
    assert said in "".join(problems)
    assert Mutation("2.8.1", "3.11.7", "2.13.0", []).problems()


def test_results_are_read() -> None:
    jobs = [{"layer": "fa_conv", "way": way} for way in ("", "cache", "attribute", "lock left out")]
    results = [
        {"rounds": 10, "failed": 0, "alone": "a"},
        {"rounds": 1, "failed": 1, "alone": "a"},
        {"rounds": 1, "failed": 1, "alone": "b"},
        {"rounds": 1, "end": "the process died of signal 11"},
    ]
    tried = mutating.read_results(jobs, results)
    assert [each.same for each in tried] == [True, True, False, False]
    assert [bool(each.problem()) for each in tried] == [False, False, True, True]
    assert tried[3].end == "the process died of signal 11"


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
        (["1.8.0", "--rounds", "0"], 2, "--rounds"),
        (["1.8.0", "--python", "/nowhere/python"], 4, "cannot be put back into gatv2_conv"),
        (["2.0.0", "--python", "/nowhere/python"], 1, "no layer of PyG 2.0.0 is patched"),
    ],
)
def test_refusals(world: World, arguments: list[str], code: int, said: str) -> None:
    refused(world.run("mutate", *arguments, "--git-url", world.upstream.as_uri()), code, said)


@pytest.fixture
def small_layer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small layer has a place where the fault can be put back."""
    site = Site(r"( *)attention\.append\(alpha\)\n", r"\1_keep(self, _kept(self))\n")
    monkeypatch.setitem(mutants.SITES, "gatv2_conv", (site,))


def told(*failed: int) -> dict[str, Any]:
    """What `programs/mutate.py` says of the layer, and of a mutant for each way."""
    results = [
        {"rounds": 20 if i == 0 else 2, "failed": n, "alone": "a"} for i, n in enumerate(failed)
    ]
    return {"json": {"python": "3.11.7", "torch": "2.13.0+cpu", "results": results}}


ARGUMENTS = ("mutate", "1.8.0", "--source", "sdist", "--rounds", "2", "--python")


def test_what_the_tests_catch(
    small_layer: None,
    stand_in: StandIn,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in.answer(
        "mutate.py", told(0, 2, 2, 2, 2, 2), told(0, 2, 2, 2, 2, 2), told(0, 2, 2, 1, 2, 2)
    )
    assert call(*ARGUMENTS, stand_in.path) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == "PyG 1.8.0, torch 2.13.0+cpu, Python 3.11.7"
    assert rows[2:] == ["GATv2Conv (as patched) 20 0", *(f"{way} 2 2" for way in mutants.WAYS)]
    assert call(*ARGUMENTS, stand_in.path, "--json") == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert [each["way"] for each in printed["tried"]] == ["", *mutants.WAYS]
    assert call(*ARGUMENTS, stand_in.path) == 1
    missed = "gatv2_conv, module global: of 2 rounds, 1 failed, not 2."
    assert f"error: {missed}" in capsys.readouterr().err


def test_a_program_that_cannot_run(
    small_layer: None,
    stand_in: StandIn,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in.answer("mutate.py", {"code": 1, "said": "MemoryError"})
    assert call(*ARGUMENTS, stand_in.path) == 5
    assert "error: The mutants could not be run: MemoryError" in capsys.readouterr().err


def test_no_weaker_proof_is_recorded(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], stand_in: StandIn
) -> None:
    assert call(*ARGUMENTS, stand_in.path, "--record") == 2
    said = "--record takes no less than 100 rounds of each mutant, and 2 were asked for."
    assert said in capsys.readouterr().err


def test_what_was_seen_is_recorded(
    small_layer: None,
    stand_in: StandIn,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mutating, "DATA", tmp_path / "mutations.json")
    monkeypatch.setattr(soaking, "DATA", tmp_path / "soak.json")
    monkeypatch.setattr(proofs, "PAGE", tmp_path / "proofs.md")
    stand_in.answer("mutate.py", told(0, 2, 2, 2, 2, 2))
    monkeypatch.setattr(mutating, "MUTANT_ROUNDS", 2)
    assert call(*ARGUMENTS, stand_in.path, "--record") == 0
    (record,) = pages.read_data(mutating.DATA, "").values()
    assert record["problems"] == [] and len(record["tried"]) == 6
    assert record["stamp"]["command"] == "scripts/kit.sh mutate 1.8.0 --record"
    assert "| 1.8.0 | `GATv2Conv` | 2 of 2 | 2 of 2 |" in (tmp_path / "proofs.md").read_text()
    printed = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in printed[-2:]] == ["mutations.json", "proofs.md"]
