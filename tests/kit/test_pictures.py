"""How pictures are drawn: the same bytes each time, a line a shape, for light and for dark."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from kit import pictures
from kit.releases import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def draw(file: Path, boxes: int = 3) -> str:
    pyplot = pictures.plotting()
    figure, axis = pyplot.subplots()
    pictures.rectangles(axis, [(x, 0.0, 0.5, 1.0) for x in range(boxes)], "#4c9f70")
    pictures.rectangles(axis, [(0.0, 0.0, 0.0, 1.0)], "#c8373a")
    axis.set_title("A title <of> the axis")
    pictures.save(figure, file, "What it <shows>", "In a sentence.")
    return file.read_text()


def test_the_same_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path / "a.svg") == draw(tmp_path / "b.svg")


def test_a_line_a_shape(tmp_path: Path) -> None:
    few, many = draw(tmp_path / "a.svg", 3), draw(tmp_path / "b.svg", 30)
    assert many.count("\n") - few.count("\n") == 27
    # What has no width is not drawn.
    assert "#4c9f70" in few and "#c8373a" not in few


def test_title_and_ground(tmp_path: Path) -> None:
    root = ElementTree.fromstring(draw(tmp_path / "a.svg"))
    assert root.get("role") == "img"
    assert [child.text for child in root][:2] == ["What it <shows>", "In a sentence."]
    text = (tmp_path / "a.svg").read_text()
    # Transparent: no shape is filled with white; ink is that of the reader's scheme.
    assert not re.search(r"#fff(fff)?\b|<metadata", text)
    assert "prefers-color-scheme: dark" in text and pictures.INK not in text
    assert "A title &lt;of&gt; the axis" in text


@pytest.mark.parametrize("file", sorted((ROOT / "docs").glob("*.svg")), ids=lambda f: f.name)
def test_committed_pictures(file: Path) -> None:
    root = ElementTree.parse(file).getroot()
    assert root.find(f"{SVG}title") is not None and root.find(f"{SVG}desc") is not None
    assert "currentColor" in file.read_text()


def test_pictures_are_small() -> None:
    lines = sum(file.read_text().count("\n") for file in (ROOT / "docs").glob("*.svg"))
    assert lines < 8_000
