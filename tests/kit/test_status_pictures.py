"""The pictures of the matrix: drawn, readable, and the committed ones up to date."""

import dataclasses
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
    first, second = (DRAWN[committed](gathered, releases.load()) for _ in range(2))
    # The same data, the same bytes; and what it says can be read.
    assert first == second
    labels = " ".join(ElementTree.fromstring(first).itertext())
    texts = {
        "status.svg": ("torch 2.13.0", "races; patched"),
        "before-after.svg": ("silently wrong",),
    }
    for text in ("1.8.0", "GATv2", *texts[committed.name]):
        assert text in labels


def test_other_pythons_and_dates_are_in_the_grid(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    leave(tmp_path / "results", "py313-pyg190-torch213", "1.9.0")
    svg = status_pictures.draw_grid(gather(tmp_path / "results", []), releases.load())
    labels = list(ElementTree.fromstring(svg).itertext())
    for label in ("torch 2.13.0, 2026-11-23", "torch 2.13.0, Python 3.13, 2026-11-23", "1.9.0"):
        assert label in labels
    assert status_pictures.OTHER_PYTHONS in labels


def test_the_legend_names_what_occurs(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    gathered = gather(tmp_path / "results", [])
    svg = status_pictures.draw_grid(gathered, releases.load())
    labels = set(ElementTree.fromstring(svg).itertext())
    (cell,) = gathered.cells
    word = status_pictures.word_of(cell, "gatv2_conv")
    assert labels & set(status_pictures.GRID) == {word}


@pytest.mark.parametrize("committed", DRAWN, ids=lambda file: file.name)
def test_committed_pictures_are_of_the_data(committed: Path) -> None:
    # Another matplotlib may write other bytes, but not other shapes and words.
    pinned: Catalogue = releases.load()
    again = DRAWN[committed](status.load(status.DATA), pinned)
    drawn = [
        sorted(re.findall(r">([^<>\n]+)</text>|(fill: #[0-9a-f]{6})", svg))
        for svg in (committed.read_text(), again)
    ]
    assert drawn[0] == drawn[1]


def test_before_and_after_says_why_there_is_no_bar() -> None:
    """A layer that races in one of the releases alone is named in the other one, too."""
    svg = status_pictures.draw_before_and_after(status.load(status.DATA), releases.load())
    texts = [" ".join(text.split()) for text in ElementTree.fromstring(svg).itertext()]
    # GATv2Conv in 2.8.1, LPAttLayer in 2.3.1; each layer stands once.
    assert texts.count("fixed by PyG") == texts.count("not in this release") == 1
    assert texts.count("GATv2Conv") == texts.count("LPAttLayer") == 1
    # What does not occur is not in the legend.
    assert [word for word in texts if word in status_pictures.ENDS] == list(status_pictures.ENDS)


def test_the_legend_says_what_a_blank_means_where_there_is_one() -> None:
    pinned = releases.load()
    for blanks in (True, False):
        kept = status.load(status.DATA)
        if not blanks:
            whole = [cell for cell in kept.cells if set(cell.layers) == set(pinned.classes)]
            kept = dataclasses.replace(kept, cells=whole)
        assert ("blank" in status_pictures.draw_grid(kept, pinned)) is blanks
