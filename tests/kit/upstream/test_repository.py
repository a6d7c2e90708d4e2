"""Clones: the user's, shallow ones, and the kit's own."""

import subprocess
from pathlib import Path

import pytest
from conftest import git
from kit.upstream import topics

from .conftest import LIBRARY, ONE, prepare, run, state


def test_clone(build: Path, main: Path) -> None:
    before = state(main)
    prepare(build, ONE, "--git-url", main.as_uri())
    # The next topic is made in the same clone, on what main is then.
    git("commit", "-q", "--allow-empty", "-m", "move on", cwd=main)
    prepare(build, "lpformer", "--git-url", main.as_uri())
    clone = build / "pytorch_geometric"
    base = git("merge-base", "HEAD", topics.find("lpformer").branch, cwd=clone)
    tip = git("rev-parse", f"{topics.find('lpformer').branch}^", cwd=clone)
    assert tip == git("rev-parse", "master", cwd=main) != base
    # Nothing was pushed.
    assert state(main)[0].count("\n") == before[0].count("\n")
    listed = run(build, "list").stdout
    assert listed.count("  branch ") == 2


def test_shallow_clone(build: Path, main: Path, tmp_path: Path) -> None:
    """The file that the patch is against need not be in the clone."""
    file = main / LIBRARY
    file.write_text("# A new first line.\n" + file.read_text())
    git("commit", "-qam", "move on", cwd=main)
    shallow = tmp_path / "shallow"
    git("clone", "-q", "--depth=1", main.as_uri(), shallow, cwd=tmp_path)
    patch = topics.find(ONE).patch("fix")
    assert patch is not None
    (change,) = (c for c in patch.changes if c.path == LIBRARY)
    with pytest.raises(subprocess.CalledProcessError):
        git("cat-file", "-e", change.before, cwd=shallow)
    prepare(build, ONE, "--repo", shallow, "--base", "master")
    merged = git("show", f"{topics.find(ONE).branch}:{LIBRARY}", cwd=shallow)
    assert merged.startswith("# A new first line.\n") and "attention.append(alpha)" in merged
