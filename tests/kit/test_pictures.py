"""How pictures are drawn: the same bytes each time, a line a shape, for light and for dark."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from kit import pictures
from kit.releases import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def draw(boxes: int = 3) -> str:
    pyplot = pictures.plotting()
    figure, axis = pyplot.subplots()
    pictures.rectangles(axis, [(x, 0.0, 0.5, 1.0) for x in range(boxes)], "#4c9f70")
    pictures.rectangles(axis, [(0.0, 0.0, 0.0, 1.0)], "#c8373a")
    axis.set_title("A title <of> the axis")
    return pictures.finish(figure, "What it <shows>", "In a sentence.")


def test_the_same_bytes() -> None:
    assert draw() == draw()


def test_a_line_a_shape() -> None:
    few, many = draw(3), draw(30)
    assert many.count("\n") - few.count("\n") == 27
    # What has no width is not drawn.
    assert "#4c9f70" in few and "#c8373a" not in few


def test_title_and_ground() -> None:
    text = draw()
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    assert [child.text for child in root][:2] == ["What it <shows>", "In a sentence."]
    # Transparent: no shape is filled with white; ink is that of the reader's scheme.
    assert not re.search(r"#fff(fff)?\b|<metadata", text)
    assert "prefers-color-scheme: dark" in text and pictures.INK not in text
    assert "A title &lt;of&gt; the axis" in text


COMMITTED = pytest.mark.parametrize(
    "file", sorted((ROOT / "docs").glob("*.svg")), ids=lambda file: file.name
)


@COMMITTED
def test_a_title_and_a_description(file: Path) -> None:
    root = ElementTree.parse(file).getroot()
    for name in ("title", "desc"):
        assert len(root.findtext(f"{SVG}{name}", "").split()) >= 5
    assert root.get("role") == "img"


def smallest_text(file: Path, width: int) -> float:
    """The smallest text, in pixels, where a picture is so wide."""
    own_width = float(ElementTree.parse(file).getroot().get("viewBox", "").split()[2])
    sizes = re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", file.read_text())
    return min(map(float, sizes)) * width / own_width


@COMMITTED
def test_text_reads_at_850_px(file: Path) -> None:
    assert smallest_text(file, 850) >= 12


def test_the_picture_of_the_readme_reads_on_a_phone() -> None:
    names = re.findall(r"!\[[^]]*\]\(docs/([\w-]+\.svg)\)", (ROOT / "README.md").read_text())
    assert names == ["before-after.svg"]
    assert smallest_text(ROOT / "docs" / names[0], 400) >= 10


def luminance(colour: str) -> float:
    """As WCAG 2.2 defines it, of a colour such as `#4c9f70`."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


# GitHub's grounds.
GROUNDS = ("#ffffff", "#0d1117")


@COMMITTED
def test_no_ground_of_its_own_and_readable_on_both(file: Path) -> None:
    root = ElementTree.parse(file).getroot()
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for shape in root.iter(f"{SVG}path"):
        numbers = list(map(float, re.findall(r"-?[\d.]+", shape.get("d", ""))))
        xs, ys = numbers[::2], numbers[1::2]
        covers = max(xs) - min(xs) >= 0.9 * width and max(ys) - min(ys) >= 0.9 * height
        style = shape.get("style", "")
        one_shape = shape.get("d", "").count("M ") == 1
        assert not (covers and one_shape and "fill: none" not in style), shape.get("d")
    text = file.read_text()
    # Lines, and what is said by colour alone; what is harmless may be pale.
    lines = re.findall(r'style="(fill: none;[^"]*)"', text)
    strokes = {each for line in lines for each in re.findall(r"stroke: (#[0-9a-f]{6})", line)}
    fills = set(re.findall(r"fill: (#[0-9a-f]{6})", text))
    for ground in GROUNDS:
        assert [each for each in strokes if contrast(each, ground) < 2.5] == []
        assert [each for each in fills - MARKS if contrast(each, ground) < 1.3] == []
    # Ink that does not follow the reader's scheme is on a cell of a fixed colour alone.
    for element in root.iter(f"{SVG}text"):
        inks = set(re.findall(r"fill: (#[0-9a-f]{6})", element.get("style", "")))
        assert not inks or (inks <= MARKS and len("".join(element.itertext()).strip()) == 1)


# The colour of the marks in coloured cells.
MARKS = {"#24292f"}


def test_good_and_bad_stand_out_on_both_grounds() -> None:
    for colour in (pictures.GREEN, pictures.ORANGE, pictures.RED):
        assert min(contrast(colour, ground) for ground in GROUNDS) >= 3
        assert min(contrast(colour, mark) for mark in MARKS) >= 2.5


def test_pictures_are_small() -> None:
    lines = sum(file.read_text().count("\n") for file in (ROOT / "docs").glob("*.svg"))
    assert lines < 8_000
