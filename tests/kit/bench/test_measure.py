"""What is measured, with stand-ins for the programs that measure."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import StandIn, World
from kit import releases, sources
from kit.bench import cases as benching
from kit.bench import drawing, explaining, measure, page
from kit.errors import ToolError, UsageError
from kit.releases import Catalogue
from kit.trees import Trees


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


@pytest.mark.parametrize("loads", [True, False])
def test_layer_of_another_release_that_does_not_load(
    pinned: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: bool
) -> None:
    """As that of 2.5.0 on 2.0.3, which has another `torch_geometric.typing`."""

    def run_cases(python: Path, tree: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
        # A release as a whole has a process of its own.
        is_whole = any(benching.ITSELF in case["variants"] for case in cases)
        assert tree == (tmp_path / "2.5.0" if is_whole else tmp_path)
        if not loads and any(benching.UPSTREAM in case["variants"] for case in cases):
            raise ToolError("The measurement could not be run: ImportError: torch_sparse")
        measurements = [
            {
                "times": {
                    label: [2e-3 if is_whole else 1e-3] * case["rounds"]
                    for label in case["variants"]
                },
                "peak_bytes": dict.fromkeys(case["variants"], 10),
            }
            for case in cases
        ]
        return {"python": "3.11.7", "torch": "2.13.0", "cases": measurements}

    @contextlib.contextmanager
    def make_trees(*arguments: object) -> Iterator[tuple[Trees, Path]]:
        yield Trees(tmp_path, tmp_path, tmp_path), tmp_path / "2.5.0"

    monkeypatch.setattr(benching, "run_cases", run_cases)
    monkeypatch.setattr(measure, "make_trees", make_trees)
    source = sources.Source(sources.Kind.SDIST, "", True, tmp_path, lambda message: None)
    told: list[str] = []
    bench = measure.Bench(pinned, source, lambda release: tmp_path, told.append)
    layers = ["gatv2_conv", "gat_conv"]
    result = measure.measure_layers(bench, pinned.find("2.0.3"), layers, 2, [benching.SMALL_GRAPH])
    variants = {r["variant"]: r["ratio"] for r in result["ratios"] if r["layer"] == "gatv2_conv"}
    assert (variants.pop(benching.UPSTREAM, None) == 1) == loads
    assert variants == {benching.PRISTINE: 1, benching.PATCHED: 1, benching.ITSELF: 2}
    others = {r["variant"] for r in result["ratios"] if r["layer"] == "gat_conv"}
    assert others == {benching.PRISTINE, benching.PATCHED}
    assert {r["layer"] for r in result["ratios"]} == {"gatv2_conv", "gat_conv"}
    left_out = "Left out: 'upstream's fix', as the GATv2Conv of 2.5.0 does not run in PyG 2.0.3;"
    assert any(message.startswith(left_out) for message in told) != loads


def test_every_patched_layer_is_measured(pinned: Catalogue) -> None:
    measured = {layer for layers in measure.RELEASES.values() for layer in layers}
    assert measured == set(pinned.classes) - benching.NO_LAYER
    for version, layers in measure.RELEASES.items():
        for layer in layers:
            assert layer in pinned.find(version).affected() or layer == "gatv2_conv"


@pytest.mark.parametrize(
    "options, said",
    [
        (["1.8.7"], "nearest releases are 1.8.0 and 1.9.0"),
        (["1.8.0", "--part", "kit"], "name no PYG-VERSION with them"),
        (["1.8.0", "--render"], "name no PYG-VERSION with them"),
        (["--part", "all"], "'layers', 'growth', 'threads', 'explained', 'served', "),
        (["--part", "free-threaded"], "a Python without the GIL"),
    ],
)
def test_refusals(world: World, options: list[str], said: str) -> None:
    result = world.run("bench", *options)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr


LABELS = (benching.PRISTINE, benching.PATCHED, benching.UPSTREAM, benching.ITSELF)


def timed(number: int) -> dict[str, Any]:
    """What `programs/bench.py` says of so many cases: the release itself takes twice as long."""
    times = {label: [1e-3 * (1 + (label == benching.ITSELF))] * 4 for label in LABELS}
    case = {"times": times, "peak_bytes": dict.fromkeys(LABELS, 10)}
    return {"json": {"python": "3.11.7", "torch": "2.13.0+cpu", "cases": [case] * number}}


@pytest.fixture
def small(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small PyG in place of the releases that are compared."""
    monkeypatch.setattr(measure, "RACY", "1.8.0")
    monkeypatch.setattr(measure, "FIXED", "2.0.0")
    monkeypatch.setattr(measure, "RELEASES", {"1.8.0": ["gatv2_conv"]})


@pytest.fixture
def bench(small: None, stand_in: StandIn, source: Callable[..., sources.Source]) -> measure.Bench:
    """What measures the small PyG."""
    return measure.Bench(releases.load(), source("sdist"), lambda release: stand_in.path, print)


def test_a_release_is_measured(
    small: None, stand_in: StandIn, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    # First whether upstream's layer runs there, then each process, the release itself apart.
    stand_in.answer("bench.py", timed(1), timed(4))
    assert call("bench", "1.8.0", "--source", "sdist", "--python", stand_in.path) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == "Time against the unpatched layer, torch 2.13.0+cpu, one thread"
    assert "GATv2Conv 500 infer patched 1.000 1.000 to 1.000 1.000" in rows
    assert "GATv2Conv 100,000 train 2.5.0 itself 2.000 2.000 to 2.000 1.000" in rows
    assert len(rows) == 2 + 4 * 3
    assert len(stand_in.calls) == 1 + 2 * 5


def test_a_release_without_a_patched_layer(bench: measure.Bench) -> None:
    nightly = bench.catalogue.releases[-1]
    with pytest.raises(UsageError, match=r"No patch changes a layer of PyG 2\.1\.0\.dev20260101"):
        measure.measure_release(bench, nightly)


@pytest.mark.parametrize(
    "part, number, answers, processes",
    [("layers", 1, 4, 5), ("large", 1, 2, 3), ("growth", 1, 9, 2)],
)
def test_layers_of_the_page(
    bench: measure.Bench, stand_in: StandIn, part: str, number: int, answers: int, processes: int
) -> None:
    stand_in.answer("bench.py", timed(number), timed(answers))
    result = measure.measure_part(bench, part)
    assert len(stand_in.calls) == 1 + 2 * processes
    assert {ratio["processes"] for ratio in result["ratios"]} == {processes}
    assert len(result["ratios"]) == answers * 4
    assert result["command"] == f"scripts/kit.sh bench --part {part}"


@pytest.mark.parametrize("part, python", [("threads", "3.13.5"), ("free-threaded", "3.13.5t")])
def test_many_threads(bench: measure.Bench, stand_in: StandIn, part: str, python: str) -> None:
    said = {"python": "3.13.5", "torch": "2.13.0+cpu", "rows": []}
    stand_in.answer("throughput.py", {"json": said})
    result = measure.measure_part(bench, part)
    assert (result["python"], result["release"], result["rows"]) == (python, "1.8.0", [])
    ((_, layer, test, seconds, threads, graphs, *ways),) = stand_in.calls
    assert (layer, seconds, threads, graphs) == ("GATv2Conv", "1", "1,2,4,8,16", "small,middle")
    assert test.endswith("test_gatv2_conv_thread_safety.py")
    assert [way.split("=")[0] for way in ways] == list(page.WAYS)
    stand_in.answer("throughput.py", {"code": 1, "said": "MemoryError"})
    with pytest.raises(ToolError, match="The measurement could not be run: MemoryError"):
        measure.measure_part(bench, part)


def test_explanations(bench: measure.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "RELEASES", ("1.8.0", "1.9.0"))

    def measured(release: releases.Release, *arguments: object) -> dict[str, Any]:
        return {"python": "3.11.7", "torch": "2.13.0", "rows": [{"release": release.version}]}

    monkeypatch.setattr(explaining, "measure_explained", measured)
    result = measure.measure_part(bench, "explained")
    assert result["rows"] == [{"release": "1.8.0"}, {"release": "1.9.0"}]


@pytest.mark.parametrize("code", [0, 1, 5])
def test_the_served_model(bench: measure.Bench, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """1 is its answer where the load showed no fault of the released one."""

    def run(command: list[str | Path]) -> "subprocess.CompletedProcess[str]":
        script, version, _, seconds, _, file = command
        assert Path(script).is_file() and (version, seconds) == ("1.8.0", "3")
        Path(file).write_text(json.dumps({"verdict": code}))
        return subprocess.CompletedProcess(command, code, "", "no torch\n")

    monkeypatch.setattr(measure, "run", run)
    if code == 5:
        with pytest.raises(ToolError, match="The example could not be run: no torch"):
            measure.measure_part(bench, "served")
    else:
        assert measure.measure_part(bench, "served")["verdict"] == code


def test_the_commands_of_the_kit(bench: measure.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
        ran.append(command)
        code = int("validate" in command and len(ran) > 12)
        return subprocess.CompletedProcess(command, code, "", "no disk space\n")

    monkeypatch.setattr(measure, "run", run)
    commands = measure.measure_part(bench, "kit")["commands"]
    assert list(commands) == ["scripts/apply.sh 1.8.0", "scripts/kit.sh validate"]
    assert all(len(each["times_s"]) == 5 for each in commands.values())
    # Each tree is a new one, and each program is there.
    assert len({each[-1] for each in ran if "--dest" in each}) == 6
    assert all(Path(each[0]).is_file() for each in ran)
    with pytest.raises(ToolError, match=r"scripts/kit\.sh validate failed: no disk space"):
        measure.measure_part(bench, "kit")


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page is written elsewhere, and each part is measured as it was recorded."""
    data, measured = page.read_data(), []
    for name in ("DATA", "PAGE"):
        file = tmp_path / getattr(page, name).name
        file.write_bytes(getattr(page, name).read_bytes())
        monkeypatch.setattr(page, name, file)
    pictures = {tmp_path / "drawn.svg": "<svg/>"}
    monkeypatch.setattr(drawing, "draw", lambda data, catalogue: pictures)

    def measure_part(bench: measure.Bench, part: str) -> dict[str, Any]:
        measured.append(part)
        return dict(data[part])

    monkeypatch.setattr(measure, "measure_part", measure_part)
    return {"data": data, "measured": measured}


@pytest.mark.parametrize(
    "options, parts",
    [
        ((), measure.PARTS),
        (("--full",), (*measure.PARTS, measure.LARGE)),
        (("--part", "kit", "--part", "served"), ("kit", "served")),
        (("--render",), ()),
    ],
    ids=["all", "full", "parts", "render"],
)
def test_the_page_is_made_of_what_was_measured(
    recorded: dict[str, Any],
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    page.PAGE.unlink()
    assert call("bench", *options) == 0
    assert recorded["measured"] == list(parts)
    assert page.read_data() == recorded["data"]
    assert page.PAGE.read_text() == page.render(recorded["data"], releases.load())
    printed = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert printed == ["performance.json", "performance.md", "drawn.svg"]


def test_a_layer_that_costs_more_fails(
    recorded: dict[str, Any], call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    recorded["data"]["served"]["total"]["patched"]["wrong"] = 3
    assert call("bench", "--part", "served") == 1
    assert "error: served: 0 errors and 3 wrong answers once patched" in capsys.readouterr().err
