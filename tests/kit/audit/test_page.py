"""The page on all releases: it says what its data say, and the data what the sources say."""

import copy
import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from kit import releases, sources
from kit.audit import outside, page, survey
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


def test_what_does_not_hold_is_said(committed: tuple[list[Survey], str], pinned: Catalogue) -> None:
    surveys, measured = committed[0], outside.load()
    assert list(page.problems(surveys, measured, pinned)) == []
    spoiled = copy.deepcopy(surveys[1:])
    confirmed = [each for each in spoiled[-1].findings if each.verdict == "confirmed"]
    lost = next(each for each in confirmed if each.cls == "RGATConv")
    spoiled[-1].findings.remove(lost)
    spoiled[0].findings.append(dataclasses.replace(lost, cls="NewConv"))
    for each in spoiled:
        each.findings = [finding for finding in each.findings if finding.cls != "WLConv"]
    right = {"calls": 40, "crashed": 0, "silently_wrong": 0, "after_a_failure": "right"}
    names = outside.EXPLAINED
    calm = [*measured[:1], dataclasses.replace(measured[1], parts=dict.fromkeys(names, right))]
    calm += measured[2:]
    last = surveys[-1].release
    assert list(page.problems(spoiled, calm, pinned)) == [
        "PyG 1.7.1 was not surveyed.",
        "PyG 1.7.2: NewConv races, and no patch is for it.",
        "PyG 1.7.2: Explainer has a patch, and the audit confirms no race in it.",
        f"PyG {last}: RGATConv has a patch, and the audit confirms no race in it.",
        "audit.toml has WLConv.hashmap as 'race', which no release writes so.",
    ]


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
