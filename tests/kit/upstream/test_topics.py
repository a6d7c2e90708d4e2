"""The topics in `patches/upstream`, and that their patches fit the nightly build."""

import re
import shutil
from pathlib import Path

import pytest
from kit import releases, sources, validating
from kit.releases import ROOT
from kit.upstream import topics

from .conftest import LIBRARY, ONE, TOPICS


def test_patches_to_upstreams_tests_have_no_context() -> None:
    for name in TOPICS:
        patch = topics.find(name).patch("test")
        if patch:
            lines = patch.text.splitlines()
            assert not any(line.startswith((" ", "+")) and line[:3] != "+++" for line in lines)
            assert all(re.fullmatch(r"@@ .* @@", line) for line in lines if line[:2] == "@@")


def test_patches_are_against_the_nightly() -> None:
    nightly = releases.load().find("nightly")
    known = {c.path: c.before for p in nightly.all_patches() for c in p.changes}
    for name in TOPICS:
        for patch in topics.find(name).all_patches:
            for change in patch.changes:
                assert known.get(change.path, change.before) == change.before


def test_validate_looks_at_the_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = releases.load().find("nightly")
    cache = sources.default_cache()
    source = sources.Source(sources.Kind.SDIST, "", False, cache, lambda message: None)
    shutil.copytree(ROOT / "patches" / "upstream", tmp_path / "patches" / "upstream")
    monkeypatch.setattr(releases, "PATCHES", tmp_path / "patches")
    topic = topics.find(ONE)
    assert validating._validate_topic(topic, release, source, tmp_path / "before") == []
    for name in ("fix", "edge_updater"):
        file = topic.folder / f"{name}.patch"
        file.write_text(file.read_text().replace("-        self._alpha = alpha", "-        pass"))
    problems = validating._validate_topic(topic, release, source, tmp_path / "after")
    assert len(problems) == 2 and all(LIBRARY in problem for problem in problems)
