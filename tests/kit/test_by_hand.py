"""The patches without the kit: `git am`, `git apply` and `patch -p1` on what PyPI has.

The sources come from the download cache, and from PyPI where it lacks them.
"""

import subprocess
from pathlib import Path

import pytest
from conftest import git
from kit import patching, releases, sources
from kit.releases import Patch, Release

CASES = [
    pytest.param(release, patch, id=f"{release.version}-{patch.series}")
    for release in releases.load().releases
    for patch in release.patches
    # Upstream's tests are not on PyPI.
    if patch.is_for_library or patch.series == "regression_test"
]


@pytest.mark.parametrize("release, patch", CASES)
@pytest.mark.parametrize("command", ["git am", "git apply", "patch -p1"])
def test_by_hand(tmp_path: Path, release: Release, patch: Patch, command: str) -> None:
    kind, cache = sources.Kind.SDIST, sources.default_cache()
    source = sources.Source(kind, sources.UPSTREAM, False, cache, lambda message: None)
    (change,) = patch.changes
    sources.extract(release, source, [change.path], tmp_path)
    assert patching.blob_of(tmp_path / change.path) == change.before
    if command == "git am":
        git("init", "-q", cwd=tmp_path)
        git("add", "--all", cwd=tmp_path)
        git("commit", "--allow-empty", "-qm", "pristine", cwd=tmp_path)
        git("am", "-q", str(patch.file), cwd=tmp_path)
        assert git("log", "-1", "--format=%s", cwd=tmp_path).strip() == patch.subject
    elif command == "git apply":
        git("apply", str(patch.file), cwd=tmp_path)
    else:
        result = subprocess.run(
            ["patch", "-p1", "--fuzz=0", "-i", patch.file],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout
    assert patching.blob_of(tmp_path / change.path) == change.after
