"""Descriptions, and the page."""

import re
from pathlib import Path

import pytest
from kit.upstream import page, topics

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
    assert recorded["proof"]["reproducer_before"] in body
    # What is mended beside the layers is not timed.
    beside = ("message_passing_fallback", "explainer", "explainer_exception_safety")
    is_timed = topic.patch("fix") is not None and name not in beside
    assert ("### Cost" in body) == (recorded["cost"] is not None) == is_timed
    if is_timed:
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
