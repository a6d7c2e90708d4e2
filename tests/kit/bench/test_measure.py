"""What is measured, with stand-ins for the programs that measure."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import World
from kit import releases, sources
from kit.bench import cases as benching
from kit.bench import measure
from kit.errors import ToolError
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
