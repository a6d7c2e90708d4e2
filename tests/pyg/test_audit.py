"""The audit finds the races that the patches are for, and none once they are applied."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import AUDIT, Warm, find_affected, find_tested_modules
from patched_layers import LAYERS


@pytest.fixture(scope="session")
def audited(
    warm: dict[str, Warm], pytestconfig: pytest.Config, thorough: None
) -> dict[str, dict[str, Any]]:
    """What the audit says of the tested layers, on each tree."""
    names = [LAYERS[layer].cls for layer in find_tested_modules(pytestconfig)]
    options = [word for name in names for word in ("--layer", name)]
    reports = {}
    for tree, python in warm.items():
        ended = python.run(AUDIT, "layers", *options, "--calls", "16")
        assert ended.returncode == 0, ended.stderr
        steps = [line for line in ended.stderr.splitlines() if line.startswith("progress: ")]
        assert steps == [
            f"progress: running {name}, {n + 1} of {len(names)}" for n, name in enumerate(names)
        ]
        reports[tree] = json.loads(ended.stdout.splitlines()[-1])["layers"]
    return reports


def confirmed(forms: dict[str, Any]) -> set[str]:
    """The attributes whose race was forced, in any form."""
    assert any("error" not in form for form in forms.values()), forms
    writes = [write for form in forms.values() for write in form.get("writes", ())]
    return {write["attribute"] for write in writes if write["verdict"] == "confirmed"}


def test_pristine(
    audited: dict[str, dict[str, Any]], pytestconfig: pytest.Config, tested_module: str
) -> None:
    attributes = confirmed(audited["pristine"][LAYERS[tested_module].cls]["forms"])
    if tested_module not in find_affected(pytestconfig):
        assert attributes == set()
    else:
        assert attributes <= {"_alpha", "flow", "__mu__", "__logstd__", "_edge_type"}
        assert attributes


def test_patched(audited: dict[str, dict[str, Any]], tested_module: str) -> None:
    assert confirmed(audited["patched"][LAYERS[tested_module].cls]["forms"]) == set()
