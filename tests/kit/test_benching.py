"""What thread safety costs: put together from measurements, shown, and the committed page."""

import contextlib
import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import World
from kit import environments, releases, sources
from kit.bench import cases as benching
from kit.bench import measure
from kit.bench import page as performance
from kit.errors import SourceError, ToolError
from kit.releases import Catalogue
from kit.trees import Trees


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


TEXT = "{http://www.w3.org/2000/svg}text"

CASE = {
    "layer": "gatv2_conv",
    "variants": {benching.PRISTINE: None, benching.PATCHED: "a", benching.UPSTREAM: "b"},
    "graph": "small",
    "nodes": 100,
    "edges": 500,
    "build": None,
    "mode": "inference",
}


def runs(patched: list[float], upstream: list[float]) -> list[dict[str, Any]]:
    """What three processes measure: the pristine layer takes 2 ms in each round."""
    times = {
        benching.PRISTINE: [2e-3] * len(patched),
        benching.PATCHED: patched,
        benching.UPSTREAM: upstream,
    }
    peaks = {benching.PRISTINE: 100, benching.PATCHED: 100, benching.UPSTREAM: 150}
    return [{"cases": [{"times": times, "peak_bytes": peaks}]}] * 3


def summarize(pinned: Catalogue, seen: list[dict[str, Any]]) -> list[benching.Ratio]:
    return benching.summarize(pinned.find("2.4.0"), [CASE], seen)


def test_summarize(pinned: Catalogue) -> None:
    pristine, patched, upstream = summarize(
        pinned, runs([1.9e-3, 2.0e-3, 2.1e-3, 2.0e-3], [2.4e-3, 2.4e-3, 2.2e-3, 2.6e-3])
    )
    assert (pristine.ratio, pristine.low, pristine.high) == (1, 1, 1)
    assert patched.ratio == pytest.approx(1)
    assert 0.95 <= patched.low <= patched.ratio <= patched.high <= 1.05
    assert upstream.ratio == pytest.approx(1.2)
    assert upstream.low > 1.05
    assert (patched.memory_ratio, upstream.memory_ratio) == (1, 1.5)
    assert patched.ms == pytest.approx(2)
    assert (patched.rounds, patched.processes) == (12, 3)


def test_interval_widens_with_what_processes_disagree_on() -> None:
    agree = [[1.0, 1.02, 0.98, 1.01, 0.99]] * 4
    disagree = [
        [sum(sample) / 5 + shift] * 5 for sample, shift in zip(agree, (0, 0.2, 0, 0.3), strict=True)
    ]
    low, high = benching.interval(agree)
    assert 0.98 <= low <= 1 <= high <= 1.02
    wider = benching.interval(disagree)
    assert wider[1] - wider[0] > 5 * (high - low)
    assert benching.interval(disagree) == wider  # the same data, the same interval


@pytest.mark.parametrize("version, layers", measure.RELEASES.items())
def test_cases(pinned: Catalogue, tmp_path: Path, version: str, layers: list[str]) -> None:
    release = pinned.find(version)
    graphs = [benching.SMALL_GRAPH, benching.LARGE_GRAPH]
    others = {benching.UPSTREAM: tmp_path / "other.py"}
    cases = benching.cases_of(release, pinned, layers, graphs, tmp_path, others)
    assert {case["layer"] for case in cases} == set(layers)
    for case in cases:
        label, file = list(case["variants"].items())[1]
        assert label == benching.PATCHED
        # The file is one that a patch of this very layer changes.
        changed = {
            change.path: patch.series
            for patch in release.all_patches()
            if patch.is_for_library
            for change in patch.changes
        }
        series = changed[str(Path(file).relative_to(tmp_path))]
        assert series.removesuffix("_single_gather") == case["layer"]
        assert (len(case["variants"]) == 3) == (case["layer"] == "gatv2_conv")
        larger = benching.LARGE[case["class"]] if case["graph"] == "large" else None
        assert case["build"] == larger
    sizes = [(case["layer"], case["graph"], case["mode"]) for case in cases]
    assert len(set(sizes)) == len(sizes)
    large = {case["class"] for case in cases if case["graph"] == "large"}
    assert large == set(benching.LARGE) & {pinned.classes[layer] for layer in layers}


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
        seen = [
            {
                "times": {
                    label: [2e-3 if is_whole else 1e-3] * case["rounds"]
                    for label in case["variants"]
                },
                "peak_bytes": dict.fromkeys(case["variants"], 10),
            }
            for case in cases
        ]
        return {"python": "3.11.7", "torch": "2.13.0", "cases": seen}

    @contextlib.contextmanager
    def make_trees(*arguments: object) -> Iterator[tuple[Trees, Path]]:
        yield Trees(tmp_path, tmp_path, tmp_path), tmp_path / "2.5.0"

    monkeypatch.setattr(benching, "run_cases", run_cases)
    monkeypatch.setattr(measure, "make_trees", make_trees)
    source = sources.Source(sources.Kind.SDIST, "", True, tmp_path, lambda message: None)
    told: list[str] = []
    bench = measure.Bench(pinned, source, lambda release: tmp_path, told.append)
    layers = ["gatv2_conv", "gat_conv"]
    found = measure.measure_layers(bench, pinned.find("2.0.3"), layers, 2, [benching.SMALL_GRAPH])
    variants = {r["variant"]: r["ratio"] for r in found["ratios"] if r["layer"] == "gatv2_conv"}
    assert (variants.pop(benching.UPSTREAM, None) == 1) == loads
    assert variants == {benching.PRISTINE: 1, benching.PATCHED: 1, benching.ITSELF: 2}
    others = {r["variant"] for r in found["ratios"] if r["layer"] == "gat_conv"}
    assert others == {benching.PRISTINE, benching.PATCHED}
    assert {r["layer"] for r in found["ratios"]} == {"gatv2_conv", "gat_conv"}
    left_out = "Left out: 'upstream's fix', as the GATv2Conv of 2.5.0 does not run in PyG 2.0.3;"
    assert any(message.startswith(left_out) for message in told) != loads


def test_memory_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page says."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'echo "{\\"mmap\\": $MALLOC_MMAP_THRESHOLD_, \\"trim\\": $MALLOC_TRIM_THRESHOLD_}"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(environments, "_is_free_threaded", lambda python: False)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    # More than the largest tensor of the large graphs, which has 400 MB.
    assert min(benching.run_cases(python, tmp_path, []).values()) > 2**30


def test_every_patched_layer_is_measured(pinned: Catalogue) -> None:
    measured = {layer for layers in measure.RELEASES.values() for layer in layers}
    assert measured == set(pinned.classes)
    for version, layers in measure.RELEASES.items():
        for layer in layers:
            assert layer in pinned.find(version).affected() or layer == "gatv2_conv"


@pytest.mark.parametrize(
    "words, said",
    [
        (["1.8.7"], "nearest releases are 1.8.0 and 1.9.0"),
        (["1.8.0", "--part", "kit"], "name no PYG-VERSION with them"),
        (["1.8.0", "--render"], "name no PYG-VERSION with them"),
        (["--part", "all"], "'layers', 'growth', 'threads', 'served', 'kit', 'large', "),
        (["--part", "free-threaded"], "a Python without the GIL"),
    ],
)
def test_refusals(world: World, words: list[str], said: str) -> None:
    result = world.run("bench", *words)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr


def test_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "DATA", releases.ROOT / "docs" / "nothing.json")
    with pytest.raises(SourceError, match=r"nothing.json is missing\. 'git checkout docs/nothing"):
        performance.read_data()


# The committed page ###########################################################


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return performance.read_data()


def test_page_says_what_the_data_say(data: dict[str, Any], pinned: Catalogue) -> None:
    assert performance.PAGE.read_text() == performance.render(data, pinned)


def test_pictures_are_of_the_data(data: dict[str, Any], pinned: Catalogue, tmp_path: Path) -> None:
    files = {name: tmp_path / file.name for name, file in performance.PICTURES.items()}
    performance.draw(data, pinned, files)
    for name, file in performance.PICTURES.items():
        # Coordinates differ in the last digits from one matplotlib to the next; words do not.
        words = [
            [
                "".join(text.itertext())
                for text in ElementTree.parse(path).iter()
                if "text" in text.tag
            ]
            for path in (file, files[name])
        ]
        assert words[0] == words[1]
        assert len(words[0]) > 10


def test_page_has_all_layers_and_sizes(data: dict[str, Any]) -> None:
    ratios = data["layers"]["ratios"]
    for version, layers in measure.RELEASES.items():
        for layer in layers:
            found = {
                (r["graph"], r["mode"], r["variant"])
                for r in ratios
                if (r["release"], r["layer"]) == (version, layer)
            }
            for graph in ("small", "middle"):
                for mode in ("inference", "training"):
                    assert (graph, mode, benching.PATCHED) in found
    for part in ("layers", "large"):
        variants = {r["variant"] for r in data[part]["ratios"] if r["layer"] == "gatv2_conv"}
        assert variants >= {benching.UPSTREAM, benching.ITSELF, benching.ONE_GATHER}


def test_patched_layers_need_no_more_memory(data: dict[str, Any]) -> None:
    ratios = [*data["layers"]["ratios"], *data["large"]["ratios"]]
    ratios = [r for r in ratios if r["variant"] == benching.PATCHED]
    assert [r for r in ratios if r["memory_ratio"] > 1] == []


def test_every_layer_has_a_large_graph(data: dict[str, Any], pinned: Catalogue) -> None:
    assert set(benching.LARGE) == set(pinned.classes.values())
    for mode in ("inference", "training"):
        measured = {r["layer"] for r in data["large"]["ratios"] if r["mode"] == mode}
        assert measured == set(pinned.classes)


@pytest.mark.parametrize("part", ["threads", "free-threaded"])
def test_no_answer_of_the_patched_layer_is_wrong(data: dict[str, Any], part: str) -> None:
    rows = data[part]["rows"]
    assert {row["threads"] for row in rows} == {1, 2, 4, 8, 16}
    patched = [row for row in rows if row["way"] == "patched"]
    assert all(row["right"] == row["calls"] > 0 for row in patched)
    unpatched = [row for row in rows if row["way"] == "unpatched" and row["threads"] > 1]
    assert sum(row["calls"] - row["right"] for row in unpatched) > 0
    served = data["served"]["total"]
    assert (served["patched"]["errors"], served["patched"]["wrong"]) == (0, 0)
    assert served["pristine"]["errors"] + served["pristine"]["wrong"] > 0


def test_ratio_has_what_the_page_shows() -> None:
    page = Path(performance.__file__).read_text()
    shown = set(re.findall(r"""(?:found|r)\[['"](\w+)['"]\]""", page))
    fields = {field.name for field in dataclasses.fields(benching.Ratio)}
    assert {"ratio", "low", "high", "memory_ratio"} <= shown & fields
