"""What is kept of a branch."""

from pathlib import Path

import pytest
from conftest import git
from kit.upstream import prepared as kept

from .conftest import check


def test_check_of_what_the_branch_is_now(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(small, monkeypatch)
    git("checkout", "-q", "layer", cwd=small)
    git("commit", "-q", "--allow-empty", "-m", "mine", cwd=small)
    prepared = kept.read("layer")
    assert prepared and prepared.head == git("rev-parse", "layer", cwd=small).strip()
    git("checkout", "-q", "master", cwd=small)
    git("branch", "-qD", "layer", cwd=small)
    assert kept.read("layer") is None
