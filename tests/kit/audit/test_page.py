"""The page on all releases: it says what its data say, and the data what the sources say."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from kit import releases, sources
from kit.audit import kinds, outside, page, survey
from kit.audit.survey import Finding, Survey
from kit.releases import Catalogue


def test_data_come_back_the_same() -> None:
    import json

    finding = Finding("OtherConv", "_alpha", "race", ("a.py:1 (f)",), ("a.py:2",), reason="so")
    surveys = [Survey("1.0", layers=["OtherConv"], racing=["OtherConv"], findings=[finding])]
    assert page.parse(json.loads(page.dump(surveys, "here"))) == (surveys, "here")


@pytest.fixture(scope="module")
def committed() -> tuple[list[Survey], str]:
    return page.load()


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def test_committed_page_says_what_the_data_say(committed: tuple[list[Survey], str]) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(*committed, outside.load())


def test_committed_picture_is_of_the_data(committed: tuple[list[Survey], str]) -> None:
    again = page.draw(committed[0])
    assert again == page.draw(committed[0])
    # Another matplotlib may write other bytes, but not other shapes and words.
    drawn = [
        sorted(re.findall(r">([^<>\n]+)</text>|(fill: #[0-9a-f]{6})", svg))
        for svg in (page.PICTURE.read_text(), again)
    ]
    assert drawn[0] == drawn[1]
    text = " ".join(ElementTree.fromstring(again).itertext())
    assert "TransformerConv" in text and "2.8.1" in text


def test_every_release_is_there(committed: tuple[list[Survey], str], pinned: Catalogue) -> None:
    assert [each.release for each in committed[0]] == [r.version for r in pinned.releases]


def test_the_audit_confirms_what_the_patches_are_for(
    committed: tuple[list[Survey], str], pinned: Catalogue
) -> None:
    for reviewed, release in zip(committed[0], pinned.releases, strict=True):
        confirmed = {finding.cls for finding in reviewed.findings if finding.verdict == "confirmed"}
        # What is no layer is measured in another way.
        layers = {pinned.classes[layer] for layer in release.affected()} - {"Explainer"}
        assert confirmed == layers


def test_every_reviewed_entry_is_borne_out(committed: tuple[list[Survey], str]) -> None:
    reviewed = {
        (finding.cls, finding.attribute, finding.kind)
        for each in committed[0]
        for finding in each.findings
    }
    reviewed |= {(cls, "*", kind) for cls, _, kind in reviewed}
    for entry in kinds.load_reviewed():
        assert (entry.cls, entry.attribute, entry.kind.value) in reviewed


@pytest.mark.parametrize("version", ["2.0.3", "2.8.1"])
def test_the_sources_still_read_so(
    committed: tuple[list[Survey], str], pinned: Catalogue, tmp_path: Path, version: str
) -> None:
    """The static half, anew, of an old and of a new release."""
    release = pinned.find(version)
    kind, cache = sources.Kind.SDIST, sources.default_cache()
    source = sources.Source(kind, sources.UPSTREAM, False, cache, lambda message: None)
    sources.materialize(release, source, tmp_path / "tree")

    def shown(findings: list[Finding]) -> list[tuple[Any, ...]]:
        # Where a value is read can be what the run has seen.
        return [(f.cls, f.attribute, f.kind, f.written) for f in findings if f.kind]

    (before,) = (each for each in committed[0] if each.release == release.version)
    assert shown(survey.survey(tmp_path / "tree", version, None).findings) == shown(before.findings)
