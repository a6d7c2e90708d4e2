"""Descriptions, and the page."""

import json
import re
import shutil
from pathlib import Path

import pytest
from kit.upstream import page, topics
from kit.upstream.prepared import Prepared

from .conftest import TOPICS, prepare


@pytest.mark.parametrize("name", TOPICS)
def test_description(build: Path, main: Path, name: str) -> None:
    prepare(build, name, "--repo", main, "--base", "master")
    body = (build / name / "body.md").read_text()
    topic = topics.find(name)
    reproducer = topic.read("reproducer.py")
    assert f"```python\n{reproducer}```\n" in body
    assert (build / name / "reproducer.py").read_text() == reproducer
    scripted = topic.reproducers.get("reproducer_torchscript.py")
    assert ("### In TorchScript" in body) == (scripted is not None)
    if scripted:
        assert f"```python\n{scripted}```\n" in body
        assert (build / name / "reproducer_torchscript.py").read_text() == scripted
    for number in ("issues/8741", "pull/8753"):
        assert f"https://github.com/pyg-team/pytorch_geometric/{number}" in body
    for heading in ("Reproducer", "The test"):
        assert f"### {heading}\n" in body
    recorded = page.read_data()[name]
    is_of_today = recorded.get("files") == page.digest(name)
    assert (f"```\n{recorded['proof']['reproducer_before']}\n```" in body) == is_of_today
    # What is mended beside the layers is not timed.
    beside = ("message_passing_fallback", "explainer", "explainer_exception_safety")
    is_timed = topic.patch("fix") is not None and name not in beside
    assert (recorded["cost"] is not None) == is_timed
    assert ("### Cost" in body) == (is_timed and is_of_today)
    if is_timed and is_of_today:
        for ratio in recorded["cost"]["ratios"]:
            if ratio["variant"] != "unpatched":
                assert f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" in body
    attention = ("gatv2_conv_single_gather", "transformer_conv", "fa_conv", "rgat_conv")
    assert ("### Why a list" in body) == (name in attention)
    assert ("### Compatibility" in body) == (name != "gatv2_conv")
    # Where there is nothing to fix, that a test passes on main is no failure of the branch.
    assert ("The layer is right on main." in body) == (topic.patch("fix") is None)
    assert ("| pass: the layer is right |" in body) == (topic.patch("fix") is None)
    assert not re.search(r"threadsafe|the kit\b|\bkit\.sh|\{\{|\{%", body)
    # GitHub breaks a line where there is a newline: each paragraph is one line.
    text = re.sub(r"```.*?```", "", body, flags=re.S)
    for line, following in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        blank = not line or not following
        assert blank or following.startswith(("|", "- ")), following


def test_page() -> None:
    text = page.render(page.read_data())
    assert page.PAGE.read_text() == text
    assert "`gatv2_conv` adds a test alone" in text and "`lpformer` adds" not in text
    assert "; 1 test fails on the base" in text and "; 2 tests fail on the base" in text


@pytest.mark.parametrize("as_it_was", [True, False])
def test_only_records_of_the_files_of_today_are_quoted(
    build: Path, main: Path, monkeypatch: pytest.MonkeyPatch, as_it_was: bool
) -> None:
    data = page.read_data()
    data["lpformer"]["files"] = page.digest("lpformer" if as_it_was else "autoencoder")
    monkeypatch.setattr(page, "read_data", lambda: data)
    prepare(build, "lpformer", "--repo", main, "--base", "master")
    made = Prepared(**json.loads((build / "lpformer" / "prepared.json").read_text()))
    assert ("### Cost" in page.describe(topics.find("lpformer"), made)) == as_it_was
    sentence = page.render(data).partition("have changed since: ")[2].partition(".\n")[0]
    assert ("`lpformer`" in sentence) != as_it_was


def test_digest_follows_each_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(topics.folder() / "lpformer", tmp_path / "lpformer")
    before = page.digest("lpformer")
    monkeypatch.setattr(page, "folder", lambda: tmp_path)
    assert page.digest("lpformer") == before
    for file in (tmp_path / "lpformer").iterdir():
        text = file.read_text()
        file.write_text(f"{text}\n")
        assert page.digest("lpformer") != before
        file.write_text(text)
    assert page.digest("backport-2.3.1") != page.digest("backport-2.4.0")
