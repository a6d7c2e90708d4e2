"""Each model of the zoo: that its truth is true, and that the audit tells it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo import running
from zoo.entries import FAILURES, SAFE, Entry


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_truth(entry: Entry, trees: dict[bool, Path]) -> None:
    if entry.checked:
        pytest.skip(f"reasoned, not run: {entry.checked}")
    command = [sys.executable, "-m", "zoo.truth", entry.name]
    environment = {**os.environ, "PYTHONPATH": str(trees[entry.patched]), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=running.TESTS, env=environment, text=True, capture_output=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    # Some packages print, too.
    assert result.stdout.splitlines()[-1] == (entry.failure or "right")


def test_audit(
    entry: Entry, trees: dict[bool, Path], record_property: Callable[[str, object], None]
) -> None:
    audited = running.audit(entry, trees[entry.patched])
    word, amiss = running.grade(entry, audited)
    told = {
        "family": entry.family,
        "model": entry.factory.__name__,
        "why": entry.why,
        "truth": entry.failure or "safe",
        "expected": " or ".join(entry.verdicts),
        "verdict": audited.verdict,
        "grade": word,
        "amiss": amiss,
        "seconds": round(audited.seconds, 1),
    }
    for name, value in told.items():
        record_property(name, value)
    assert word == running.RIGHT, f"{amiss}\n{audited.text}"


def test_the_zoo_is_whole() -> None:
    from zoo import entries

    known = entries.load()
    assert len({entry.name for entry in known}) == len(known) >= 60
    for entry in known:
        assert entry.why, entry.name
        # Of a failure, something is blamed, or named.
        assert not entry.failure or entry.blamed or entry.says, entry.name
    assert {entry.failure for entry in known} == {"", *FAILURES}
    assert {entry.family for entry in known} == set(entries.FAMILIES)
    assert sum(SAFE in entry.verdicts for entry in known) > len(known) // 3
