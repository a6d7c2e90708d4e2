"""The pictures of the performance page: of the data, and each falling line with its reason."""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from kit import releases
from kit.bench import cases, drawing, page
from kit.environments import PROGRAMS
from kit.releases import Catalogue


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


@pytest.fixture
def data() -> dict[str, Any]:
    return page.read_data()


def test_pictures_are_of_the_data(data: dict[str, Any], pinned: Catalogue) -> None:
    drawn = drawing.draw(data, pinned)
    assert list(drawn) == list(drawing.PICTURES.values())
    for file, svg in drawn.items():
        # Coordinates differ in the last digits from one matplotlib to the next; words do not.
        texts = [
            [
                "".join(text.itertext())
                for text in ElementTree.fromstring(each).iter()
                if "text" in text.tag
            ]
            for each in (file.read_text(), svg)
        ]
        assert texts[0] == texts[1]
        assert len(texts[0]) > 10
    # What was not measured is neither drawn nor said to be.
    del data["free-threaded"]
    assert drawing.PICTURES["free-threaded"] not in drawing.draw(data, pinned)


def part(rates: dict[str, list[float]], graph: str = "small", gil: bool = True) -> dict[str, Any]:
    """Measurements in which each way answers so many calls a second, with 1, 2, 4 threads."""
    rows = [
        {"graph": graph, "way": way, "threads": 2**i, "right": rate, "seconds": 1.0}
        for way, each in rates.items()
        for i, rate in enumerate(each)
    ]
    about = {"release": "2.4.0", "python": "3.11.7", "cores": 2, "gil": gil}
    return {**about, "rows": rows}


FALLS, RISES = [300.0, 200.0, 100.0], [100.0, 200.0, 190.0]


@pytest.mark.parametrize(
    "way, graph, gil, why",
    [
        ("unpatched", "small", True, "wrong answers do not count"),
        ("unpatched", "middle", False, "wrong answers do not count"),
        ("lock", "middle", True, "one thread computes, and the others wait"),
        ("patched", "small", True, "threads spend their time on handing over the GIL"),
        ("deepcopy", "small", True, "threads spend their time on handing over the GIL"),
        ("patched", "small", False, "there are 2 cores, and more wait for them"),
        ("patched", "middle", True, "there are 2 cores, and more wait for them"),
        ("processes", "small", True, "there are 2 cores, and more wait for them"),
    ],
)
def test_reasons(way: str, graph: str, gil: bool, why: str) -> None:
    label = page.WAYS[way].replace("`", "").removeprefix("one layer, ")
    assert drawing.reasons(part({way: FALLS}, graph, gil), graph) == {why: [label]}
    assert drawing.reasons(part({way: RISES}, graph, gil), graph) == {}


def test_each_falling_line_has_its_reason_beside_it(data: dict[str, Any]) -> None:
    """In the pictures of the page, and of lines that all fall."""
    falling = {**data, "threads": part(dict.fromkeys(page.WAYS, FALLS))}
    for each in (data, falling):
        drawn = drawing.draw(each, releases.load())
        for name in ("threads", "free-threaded"):
            shown = each[name]
            texts = ElementTree.fromstring(drawn[drawing.PICTURES[name]]).itertext()
            text = " ".join(" ".join(texts).split())
            title = f"One GATv2Conv of PyG {shown['release']}, {shown['cores']} cores"
            assert f"{title}, Python {shown['python']}" in text
            for graph in {row["graph"] for row in shown["rows"]}:
                for why, ways in drawing.reasons(shown, graph).items():
                    assert f"{', '.join(ways)}: {why}." in text


def test_the_sizes_in_the_titles_are_those_that_were_measured() -> None:
    program = (PROGRAMS / "throughput.py").read_text()
    for graph in (cases.SMALL_GRAPH, cases.MIDDLE_GRAPH):
        assert re.search(
            rf'^GRAPHS = .*"{graph.name}": \({graph.nodes:_}, {graph.edges:_}\)', program, re.M
        )
