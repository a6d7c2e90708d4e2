"""Cases, and the ratios that come of them."""

from pathlib import Path
from typing import Any

import pytest
from kit import environments, releases
from kit.bench import cases as benching
from kit.bench import measure
from kit.releases import Catalogue


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


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


def summarize(pinned: Catalogue, reports: list[dict[str, Any]]) -> list[benching.Ratio]:
    return benching.summarize(pinned.find("2.4.0"), [CASE], reports)


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
