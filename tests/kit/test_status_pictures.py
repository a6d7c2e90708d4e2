"""The pictures of the matrix: drawn, readable, and the committed ones up to date."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import World
from kit import releases, status, status_pictures
from kit.releases import Catalogue
from test_status import gather, leave

DRAWN = {
    status.PICTURE: status_pictures.draw_grid,
    status.BEFORE_AND_AFTER: status_pictures.draw_before_and_after,
}


@pytest.mark.parametrize("committed", DRAWN, ids=lambda file: file.name)
def test_picture(world: World, tmp_path: Path, committed: Path) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    gathered = gather(tmp_path / "results", [])
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    for file in (first, second):
        DRAWN[committed](gathered, releases.load(), file)
    # The same data, the same bytes; and what it says can be read.
    assert first.read_bytes() == second.read_bytes()
    labels = " ".join(ElementTree.parse(first).getroot().itertext())
    words = {"status.svg": ("torch 2.13.0", "blank"), "before-after.svg": ("silently wrong",)}
    for word in ("1.8.0", "GATv2", *words[committed.name]):
        assert word in labels


def test_other_pythons_and_dates_are_in_the_grid(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    leave(tmp_path / "results", "py313-pyg190-torch213", "1.9.0")
    file = tmp_path / "grid.svg"
    status_pictures.draw_grid(gather(tmp_path / "results", []), releases.load(), file)
    labels = list(ElementTree.parse(file).getroot().itertext())
    for label in ("torch 2.13.0, 2026-11-23", "torch 2.13.0, Python 3.13, 2026-11-23", "1.9.0"):
        assert label in labels
    assert status_pictures.OTHER_PYTHONS in labels


def test_the_legend_names_what_occurs(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    gathered = gather(tmp_path / "results", [])
    file = tmp_path / "grid.svg"
    status_pictures.draw_grid(gathered, releases.load(), file)
    labels = set(ElementTree.parse(file).getroot().itertext())
    (cell,) = gathered.cells
    word = status_pictures.word_of(cell, "gatv2_conv")
    assert labels & set(status_pictures.GRID) == {word}


@pytest.mark.parametrize("committed", DRAWN, ids=lambda file: file.name)
def test_committed_pictures_are_of_the_data(committed: Path, tmp_path: Path) -> None:
    # Another matplotlib may write other bytes, but not other shapes and words.
    pinned: Catalogue = releases.load()
    DRAWN[committed](status.load(status.DATA), pinned, tmp_path / "again.svg")
    drawn = [
        sorted(re.findall(r">([^<>\n]+)</text>|(fill: #[0-9a-f]{6})", file.read_text()))
        for file in (committed, tmp_path / "again.svg")
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("committed", DRAWN, ids=lambda file: file.name)
def test_committed_pictures_read_at_850_px(committed: Path) -> None:
    """No text is smaller than 12 px where the picture is 850 px wide."""
    root = ElementTree.parse(committed).getroot()
    width = float(root.get("viewBox", "").split()[2])
    sizes = re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", committed.read_text())
    assert sizes
    assert min(map(float, sizes)) * 850 / width >= 12
