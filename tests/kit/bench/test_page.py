"""The performance page: its faults and its text."""

import copy
import statistics
from typing import Any

import pytest
from kit import releases
from kit.bench import cases, page
from kit.errors import SourceError
from kit.releases import Catalogue


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def test_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "DATA", releases.ROOT / "docs" / "nothing.json")
    with pytest.raises(SourceError, match=r"nothing.json is missing\. 'git checkout docs/nothing"):
        page.read_data()


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return page.read_data()


def test_page_says_what_the_data_say(data: dict[str, Any], pinned: Catalogue) -> None:
    assert page.PAGE.read_text() == page.render(data, pinned)


def test_the_readme_says_what_was_measured(data: dict[str, Any]) -> None:
    """Its answers to "is it upstream's fix?", "why not a lock?" and "why not processes?"."""
    text = " ".join((releases.ROOT / "README.md").read_text().split())
    ratios = [*data["layers"]["ratios"], *data["large"]["ratios"]]
    upstream = max(r["ratio"] for r in ratios if r["variant"] == cases.UPSTREAM)
    assert f"gathers features twice: up to {upstream:.2f} times the time" in text
    rows = {(r["graph"], r["way"], r["threads"]): r for r in data["threads"]["rows"]}
    for graph, first, second in (("small", "lock", "patched"), ("middle", "patched", "lock")):
        slices = (rows[graph, way, 8]["slices"] for way in (first, second))
        times = statistics.median(a / b for a, b in zip(*slices, strict=True))
        assert f"{times:.1f} times as many" in text.split("Why not a lock?")[1]
    megabytes = rows["small", "processes", 1]["uss_bytes"] / 1e6
    assert f"took {megabytes:.0f} MB each" in text


def test_what_does_not_hold_is_said(data: dict[str, Any], pinned: Catalogue) -> None:
    assert list(page.problems(data, pinned)) == []
    spoiled = copy.deepcopy(data)
    first = next(r for r in spoiled["layers"]["ratios"] if r["variant"] == cases.PATCHED)
    first["memory_ratio"] = 1.5
    spoiled["large"]["ratios"] = [
        ratio
        for ratio in spoiled["large"]["ratios"]
        if (ratio["layer"], ratio["mode"]) != ("fa_conv", "training")
    ]
    row = next(row for row in spoiled["threads"]["rows"] if row["way"] == "patched")
    row["right"] -= 2
    spoiled["served"]["total"]["patched"]["wrong"] = 3
    problems = list(page.problems(spoiled, pinned))
    assert len(problems) == 4
    for problem, part in zip(
        problems,
        (
            "needs 1.500 times the memory on the small graph",
            "large, training: FAConv was not measured",
            f"threads: 2 of {row['calls']} calls of the patched layer went wrong",
            "served: 0 errors and 3 wrong answers once patched",
        ),
        strict=True,
    ):
        assert part in problem
