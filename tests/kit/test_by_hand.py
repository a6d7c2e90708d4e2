"""The patches without the kit: `git am`, `git apply` and `patch -p1` on what PyPI has.

The sources come from the download cache, and from PyPI where it lacks them.
"""

import subprocess
from pathlib import Path

import pytest
from conftest import git
from kit import patching, releases, sources
from kit.releases import Patch

CATALOGUE = releases.load()

# One a patch: `validate` sees to it that what the others have in its place is the same file.
PATCHES = [
    patch
    for patch in CATALOGUE.patches()
    # Upstream's tests are not on PyPI.
    if patch.is_for_library or patch.series == "regression_test"
]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_by_hand(tmp_path: Path, patch: Patch) -> None:
    release = next(r for r in CATALOGUE.releases if patch in r.all_patches())
    kind, cache = sources.Kind.SDIST, sources.default_cache()
    source = sources.Source(kind, sources.UPSTREAM, False, cache, lambda message: None)
    paths = [change.path for change in patch.changes]
    for command in ("git am", "git apply", "patch -p1"):
        tree = tmp_path / command
        tree.mkdir()
        sources.extract(release, source, paths, tree)
        blobs = [(change.before, change.after) for change in patch.changes]
        before = [patching.blob_of(tree / path) for path in paths]
        take(command, patch, tree)
        after = [patching.blob_of(tree / path) for path in paths]
        assert list(zip(before, after, strict=True)) == blobs, command


def take(command: str, patch: Patch, tree: Path) -> None:
    """Applies a patch as a person does."""
    if command == "git am":
        git("init", "-q", cwd=tree)
        git("add", "--all", cwd=tree)
        git("commit", "--allow-empty", "-qm", "pristine", cwd=tree)
        git("am", "-q", str(patch.file), cwd=tree)
        assert git("log", "-1", "--format=%s", cwd=tree).strip() == patch.subject
    elif command == "git apply":
        git("apply", str(patch.file), cwd=tree)
    else:
        result = subprocess.run(
            ["patch", "-p1", "--fuzz=0", "-i", patch.file],
            cwd=tree,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout
