"""Every layer that the release exports: what passed before the patches passes after them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import HERE, TIME_LIMIT, environment

Record = Callable[[str, object], None]


def test_conv_suite(observe: Callable[..., Any], record_property: Record) -> None:
    pristine, patched = (observe(tree, "conv_suite") for tree in ("pristine", "patched"))
    exported = pristine["exported"]
    assert sorted([*pristine["layers"], *pristine["left_out"]]) == exported, (
        "Layers are neither built nor left out with a reason: see LAYERS in programs/layers.py."
    )
    assert patched["exported"] == exported
    calls: Counter[str] = Counter()
    differences = []
    lacking = {}
    for layer, forms in pristine["layers"].items():
        assert patched["layers"][layer].keys() == forms.keys()
        if "error" in (case := forms["infer, dense"]):
            # Nothing but a package that is not here is a reason to fail.
            missing = re.search(r"requires? [`']?(torch-[a-z-]+|pyg-lib)", case["error"])
            assert missing, f"{layer}: {case['error']}"
            assert importlib.util.find_spec(missing[1].replace("-", "_")) is None
            lacking[layer] = case["error"]
            continue
        for form, before in forms.items():
            passed = "result" in before
            calls["passed" if passed else "failed before"] += 1
            if passed and patched["layers"][layer][form] != before:
                differences.append(f"{layer} ({form}): {patched['layers'][layer][form]}")
    record_property("layers", len(pristine["layers"]) - len(lacking))
    record_property("layers_lacking", ", ".join(sorted(lacking)))
    record_property("layers_left_out", ", ".join(sorted(pristine["left_out"])))
    record_property("calls", calls["passed"])
    record_property("calls_that_fail_before", calls["failed before"])
    assert not differences, "\n".join(differences)
    # It is a suite of calls that work.
    assert calls["passed"] > 8 * calls["failed before"]


def run_upstream(tree: Path, report: Path, full: bool) -> dict[str, str]:
    """Runs upstream's own tests of its layers, and returns the outcome of each."""
    options = ["-q", "-n", "2", "-p", "seeding", "-p", "no:cacheprovider", "-c", os.devnull]
    options += ["--rootdir", str(tree), f"--junit-xml={report}"]
    paths = os.pathsep.join([str(tree), str(HERE / "plugins")])
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test/nn/conv"],
        cwd=tree,
        env={**environment(tree), "FULL_TEST": "1" if full else "0", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert ended.returncode in (0, 1), ended.stdout[-2000:] + ended.stderr[-2000:]
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes[name] = min(kinds) if kinds else "passed"
    return outcomes


@pytest.mark.parametrize("full", [False, True], ids=["plain", "FULL_TEST"])
def test_upstream_conv_tests(
    trees: dict[str, Path], tmp_path: Path, full: bool, record_property: Record
) -> None:
    if not (trees["pristine"] / "test" / "nn" / "conv").is_dir():
        pytest.skip("PyPI's archives have none of upstream's tests; PYG_THREADSAFE_SOURCE=git does")
    before, after = (
        run_upstream(trees[name], tmp_path / f"{name}.xml", full)
        for name in ("pristine", "patched")
    )
    passed = {name for name, outcome in before.items() if outcome == "passed"}
    assert len(passed) > 40
    record_property("upstream_full" if full else "upstream", len(passed))
    assert {name: after.get(name) for name in passed} == dict.fromkeys(passed, "passed")
    newly_skipped = {n for n, outcome in after.items() if outcome == "skipped"} - {
        n for n, outcome in before.items() if outcome == "skipped"
    }
    assert newly_skipped == set()
