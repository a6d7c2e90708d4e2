"""The race, before and after: what a proof says, and what is refused."""

import dataclasses
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import StandIn, World, refused
from kit import proving, sources
from kit.errors import ProofError
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
        (["1.8.0", "--python", "/"], 2, "/ is a directory"),
        (["1.8.0", "--python", __file__], 5, "cannot be run"),
        # The tests of the kit run without torch.
        (["1.8.0", "--python", sys.executable], 5, "No module named 'torch'"),
    ],
)
def test_refusals(world: World, arguments: list[str], code: int, said: str) -> None:
    result = world.run("prove", *arguments, "--git-url", world.upstream.as_uri())
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


VERSIONS = {"python": "3.11.7", "torch": "2.13.0+cpu", "gil": True}


def measured(right: int) -> dict[str, Any]:
    """What `programs/prove.py` says of the one layer, of whose 100 calls so many are right."""
    interleaved = counts(100, right, spoiled=min(50, 100 - right))
    return {**VERSIONS, "measured": [{"interleaved": interleaved, "stress": counts(100, right)}]}


def times(ratio: float) -> dict[str, Any]:
    return {"times": {"unpatched": [1e-3] * 4, "patched": [ratio * 1e-3] * 4}}


@pytest.fixture
def proved(stand_in: StandIn) -> StandIn:
    """Where the release races until it is patched, and its scripted layer dies."""
    stand_in.answer("prove.py", {"json": measured(0)}, {"json": measured(100)})
    died = {"signal": int(signal.SIGSEGV)}
    stand_in.answer("scripted.py", died, {"json": counts(100, 100)})
    stand_in.answer("bench.py", {"json": {"cases": [times(1.0), times(1.5)]}})
    return stand_in


def prove(world: World, python: StandIn, *arguments: str | Path) -> Any:
    named = ("--source", "sdist", "--python", python.path)
    return world.run("prove", "1.8.0", *named, *arguments)


def test_what_is_proved_is_shown(world: World, proved: StandIn) -> None:
    result = prove(world, proved)
    assert result.returncode == 0, result.stderr
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert rows[0] == "PyG 1.8.0, torch 2.13.0+cpu, Python 3.11.7"
    assert "GATv2Conv pristine 0 / 50 / 50 0 / 50 / 50" in rows
    assert "patched 100 / 0 / 0 100 / 0 / 0" in rows
    assert "GATv2Conv pristine the process died: SIGSEGV" in rows
    assert "patched 100 / 0 / 0" in rows
    assert "GATv2Conv 500 1.00 ms 1.00 ms 1.000 1.000 to 1.000" in rows
    assert "100,000 1.00 ms 1.50 ms 1.500 1.500 to 1.500" in rows
    assert rows[-1] == "Proved: as released, these race, and patched, they do not: GATv2Conv."


def test_a_release_that_does_not_race(world: World, stand_in: StandIn) -> None:
    """Nothing is patched there, so both trees are the same, and nothing is timed."""
    stand_in.answer("prove.py", {"json": measured(100)}, {"json": {**VERSIONS, "measured": []}})
    stand_in.answer("bench.py", {"json": {"cases": []}})
    result = world.run("prove", "2.0.0", "--source", "sdist", "--python", stand_in.path)
    assert result.returncode == 0, result.stderr
    assert "as released" in result.stdout and "Latency" not in result.stdout
    said = "Threads can share these as upstream released them: GATv2Conv."
    assert result.stdout.splitlines()[-1] == said


def test_json_goes_to_a_file_or_alone_to_the_terminal(
    world: World, proved: StandIn, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "proof.json"
    result = prove(world, proved, "--json", file, "--no-latency")
    assert result.returncode == 0 and "Proved:" in result.stdout
    told = json.loads(file.read_text())
    assert (told["release"], told["problems"]) == ("1.8.0", [])
    (layer,) = told["layers"].values()
    assert layer["latency"] is None and layer["scripted"]["pristine"] == {"died": "SIGSEGV"}
    proved.answer("prove.py", {"json": measured(0)}, {"json": measured(100)})
    proved.answer("scripted.py", {"signal": int(signal.SIGSEGV)}, {"json": counts(100, 100)})
    result = prove(world, proved, "--json", "-", "--no-latency")
    assert json.loads(result.stdout) == told
    refused(prove(world, proved, "--json", file / "below" / "a.json"), 4, "nothing can")


def test_what_is_not_proved_fails(world: World, proved: StandIn) -> None:
    proved.answer("prove.py", {"json": measured(0)}, {"json": measured(99)})
    result = prove(world, proved)
    refused(result, 1, "gatv2_conv: the patched release races.")
    assert "Proved" not in result.stdout


def test_a_layer_that_cannot_be_scripted_is_left_out(world: World, proved: StandIn) -> None:
    proved.answer("scripted.py", {"json": {"error": "RuntimeError: no"}})
    result = prove(world, proved)
    assert result.returncode == 0, result.stderr
    assert "In TorchScript" not in result.stdout


@pytest.mark.parametrize(
    "program, said",
    [
        ("prove.py", "The proof could not be run on the pristine tree: MemoryError"),
        ("scripted.py", "The scripted layer could not be called on the pristine tree: MemoryError"),
        ("bench.py", "The measurement could not be run: MemoryError"),
    ],
)
def test_a_program_that_fails_is_named(
    world: World, proved: StandIn, program: str, said: str
) -> None:
    proved.answer(program, {"said": "MemoryError", "code": 1})
    refused(prove(world, proved), 5, said)


def test_a_scripted_layer_that_hangs(
    catalogue: Catalogue,
    source: Callable[..., sources.Source],
    proved: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proving, "TIME_LIMIT", 1.0)
    proved.answer("scripted.py", {"sleep": 60})
    proof = proving.prove(
        *(catalogue.find("1.8.0"), catalogue, source("sdist"), proved.path, print),
        with_latency=False,
    )
    assert proof.layers[0].scripted["patched"] == {"died": "hung for 1 s"}
    assert proof.problems() == ["gatv2_conv: the patched release races in TorchScript."]


def test_a_release_without_its_threaded_test(
    catalogue: Catalogue, source: Callable[..., sources.Source], stand_in: StandIn
) -> None:
    whole = catalogue.find("1.8.0")
    release = dataclasses.replace(
        whole, patches=tuple(p for p in whole.patches if p.series != "regression_test")
    )
    with pytest.raises(ProofError, match=r"takes no patches/regression_test/gatv2_conv\.patch"):
        proving.prove(release, catalogue, source("sdist"), stand_in.path, print)
