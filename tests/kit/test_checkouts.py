"""Repositories of the kit's: made, patched, reversed, refused."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import (
    AFTER,
    BEFORE,
    LAYER,
    NEW_TEST,
    UPSTREAM_TEST,
    World,
    git,
    refused,
    subjects,
    tree_of,
    write,
)


def test_sdist(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    result = world.apply("1.8.0", "--source", "sdist", "--dest", dest)
    assert result.returncode == 0, result.stderr
    assert subjects(dest) == [
        "PyG 1.8.0, as on PyPI (torch_geometric-1.8.0.tar.gz)",
        "Patch gatv2_conv/1.8.0.patch",
        "Patch regression_test/gatv2_conv.patch",
    ]
    assert git("status", "--porcelain", cwd=dest) == ""
    assert (dest / LAYER).read_text() == AFTER
    assert git("show", f"pristine:{LAYER}", cwd=dest) == BEFORE
    assert "left out: Patch gatv2_conv/1.8.0-test.patch" in result.stdout
    assert "none of upstream's own tests" in result.stdout
    assert "Next:" in result.stdout
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_git(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    result = world.apply("1.9.0", "--source", "git", "--dest", dest)
    assert result.returncode == 0, result.stderr
    assert subjects(dest) == [
        "1.9.0",
        "Patch gatv2_conv/1.8.0.patch",
        "Patch gatv2_conv/1.8.0-test.patch",
        "Patch regression_test/gatv2_conv.patch",
    ]
    assert "_alpha" not in (dest / UPSTREAM_TEST).read_text()
    # Shallow: the release alone, at the pinned commit.
    pinned = git("rev-parse", "1.9.0", cwd=world.upstream)
    assert git("rev-parse", "pristine", cwd=dest) == pinned
    assert git("log", "--format=%an", "-1", cwd=dest).strip() == "somebody"


def test_each_patch_can_be_reverted(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    world.apply("1.8.0", "--source", "git", "--dest", dest)
    git("revert", "--no-edit", "HEAD~2", cwd=dest)
    assert (dest / LAYER).read_text() == BEFORE
    assert (dest / NEW_TEST).exists()


def test_already_patched(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    world.apply("1.8.0", "--source", "sdist", "--dest", dest)
    head, before = git("rev-parse", "HEAD", cwd=dest), tree_of(dest)
    result = world.apply("1.8.0", "--dest", dest)
    assert result.returncode == 0
    assert "already patched" in result.stdout
    assert (git("rev-parse", "HEAD", cwd=dest), tree_of(dest)) == (head, before)


def test_only(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    world.apply("1.8.0", "--source", "git", "--dest", dest, "--only", "regression_test")
    assert subjects(dest) == ["1.8.0", "Patch regression_test/gatv2_conv.patch"]
    # The rest can follow.
    world.apply("1.8.0", "--dest", dest)
    assert subjects(dest)[2:] == [
        "Patch gatv2_conv/1.8.0.patch",
        "Patch gatv2_conv/1.8.0-test.patch",
    ]


def test_optional_series(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    world.apply("2.0.0", "--source", "git", "--dest", dest)
    test, faster = "Patch regression_test/gatv2_conv.patch", "Patch faster/2.0.0.patch"
    assert subjects(dest) == ["2.0.0", test]
    result = world.apply("2.0.0", "--dest", dest, "--with", "faster")
    assert f"applied: {faster}" in result.stdout
    assert f"already applied: {test}" in result.stdout
    assert subjects(dest) == ["2.0.0", test, faster]
    # Without a word about it, it stays; and goes with the rest.
    assert "already patched" in world.apply("2.0.0", "--dest", dest).stdout
    assert subjects(dest) == ["2.0.0", test, faster]
    assert world.apply("2.0.0", "--dest", dest, "--reverse").returncode == 0
    assert (dest / LAYER).read_text() == AFTER
    listed = world.apply("2.0.0", "--list").stdout
    assert "patches/faster/2.0.0.patch  (off by default: --with faster)" in listed
    assert "faster: less time (off by default)" in world.apply("--list").stdout


def test_only_an_optional_series(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    world.apply("2.0.0", "--source", "git", "--dest", dest, "--only", "faster")
    assert subjects(dest) == ["2.0.0", "Patch faster/2.0.0.patch"]


def test_reverse(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    world.apply("1.8.0", "--source", "git", "--dest", dest)
    result = world.apply("1.8.0", "--dest", dest, "--reverse")
    assert result.returncode == 0, result.stderr
    assert git("diff", "pristine", cwd=dest) == ""
    assert subjects(dest)[-1] == 'Revert "Patch gatv2_conv/1.8.0.patch"'
    assert "without the patches" in world.apply("1.8.0", "--dest", dest, "--reverse").stdout
    world.apply("1.8.0", "--dest", dest)
    assert (dest / LAYER).read_text() == AFTER


def test_check_makes_nothing(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    result = world.apply("1.8.0", "--source", "sdist", "--dest", dest, "--check")
    assert result.returncode == 1
    assert "would be applied: Patch gatv2_conv/1.8.0.patch" in result.stdout
    assert not dest.exists()


def test_fixed_release(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    result = world.apply("latest", "--source", "sdist", "--dest", dest)
    assert "Upstream fixed GATv2Conv in 2.0.0: its code needs nothing" in result.stdout
    assert subjects(dest)[1:] == ["Patch regression_test/gatv2_conv.patch"]


def test_a_local_git_configuration_has_no_say(world: World, tmp_path: Path) -> None:
    config = tmp_path / "gitconfig"
    config.write_text(
        "[core]\n autocrlf = true\n hooksPath = /nowhere\n[commit]\n gpgSign = true\n"
    )
    env = {"GIT_CONFIG_GLOBAL": str(config), "GIT_DIR": "/nowhere", "GIT_WORK_TREE": "/nowhere"}
    dest = tmp_path / "pyg"
    result = world.apply("1.8.0", "--source", "sdist", "--dest", dest, env=env)
    assert result.returncode == 0, result.stderr
    assert (dest / LAYER).read_bytes() == AFTER.encode()


def test_dest_that_is_not_ours(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    write(dest, {"mine.txt": "mine"})
    refused(world.apply("1.8.0", "--dest", dest), 4, "not empty", "--tree")
    git("init", "-q", cwd=dest)
    refused(world.apply("1.8.0", "--dest", dest), 4, "the kit did not make it")
    assert (dest / "mine.txt").read_text() == "mine"


def test_dest_of_another_release_or_source(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    world.apply("1.8.0", "--source", "sdist", "--dest", dest)
    refused(world.apply("1.9.0", "--dest", dest), 4, "holds PyG 1.8.0, not 1.9.0")
    refused(world.apply("1.8.0", "--source", "git", "--dest", dest), 4, "made with --source sdist")


def test_dest_that_is_empty_is_taken(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    dest.mkdir()
    assert world.apply("1.8.0", "--source", "sdist", "--dest", dest).returncode == 0


def test_dest_below_a_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(world.apply("1.8.0", "--dest", tmp_path / "file" / "pyg"), 4, "--dest")


def test_nothing_to_reverse(world: World, tmp_path: Path) -> None:
    refused(world.apply("1.8.0", "--dest", tmp_path / "pyg", "--reverse"), 4, "nothing to reverse")


def test_two_runs_at_once_for_one_place(world: World, tmp_path: Path) -> None:
    command, env = world.command("apply", "1.8.0", "--source", "sdist", "--dest", tmp_path / "pyg")
    runs = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    codes = sorted((run.communicate(timeout=120), run.returncode)[1] for run in runs)
    # The first one makes it. Another one finds it made, or says that it is being made.
    assert codes[0] == 0 and set(codes) <= {0, 4}
    assert (tmp_path / "pyg" / LAYER).read_text() == AFTER
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".pyg")] == []


@pytest.mark.parametrize("reverse", [False, True])
def test_a_commit_that_fails_leaves_a_checkout_as_it_was(
    world: World, tmp_path: Path, reverse: bool
) -> None:
    dest = tmp_path / "pyg"
    world.apply("1.8.0", "--source", "git", "--dest", dest)
    if not reverse:
        world.apply("1.8.0", "--dest", dest, "--reverse")
    (dest / "README").write_text("the user's own, not committed")
    before = tree_of(dest), git("rev-parse", "HEAD", cwd=dest), git("status", "-s", cwd=dest)
    # A git that has made the commits, and then fails.
    shims, real = tmp_path / "bin", shutil.which("git")
    shims.mkdir()
    shim = shims / "git"
    shim.write_text(
        f'#!/bin/sh\ncase "$*" in *" update-ref HEAD"*) {real} "$@"; '
        f"[ -e {shims}/once ] || {{ touch {shims}/once; exit 1; }}; exit 0;; "
        f'esac\nexec {real} "$@"\n'
    )
    shim.chmod(0o755)
    path = {"PATH": f"{shims}{os.pathsep}{os.environ['PATH']}"}
    options = ["1.8.0", "--dest", str(dest), *(["--reverse"] if reverse else [])]
    refused(world.apply(*options, env=path), 5, "'git update-ref' failed")
    assert (shims / "once").exists()
    after = tree_of(dest), git("rev-parse", "HEAD", cwd=dest), git("status", "-s", cwd=dest)
    assert after == before
    assert world.apply(*options).returncode == 0


def test_settings_of_a_checkout_are_not_followed(world: World, tmp_path: Path) -> None:
    """Somebody has changed a repository of the kit's: none of its programs is run."""
    dest, marker = tmp_path / "pyg", tmp_path / "marker"
    world.apply("1.8.0", "--source", "git", "--dest", dest)
    world.apply("1.8.0", "--dest", dest, "--reverse")
    program = tmp_path / "program"
    write(tmp_path, {"program": f"#!/bin/sh\ntouch {marker}\ncat\n"})
    program.chmod(0o755)
    hooks = dest / ".git" / "hooks"
    names = ("reference-transaction", "post-index-change", "pre-commit", "post-checkout")
    write(hooks, dict.fromkeys(names, program.read_text()))
    for hook in hooks.iterdir():
        hook.chmod(0o755)
    write(dest / ".git" / "info", {"attributes": "* filter=evil diff=evil\n"})
    for name, value in {
        "core.fsmonitor": str(program),
        "core.hooksPath": str(hooks),
        "core.sshCommand": str(program),
        "core.pager": str(program),
        "filter.evil.clean": str(program),
        "filter.evil.smudge": str(program),
        "filter.evil.process": str(program),
        "filter.evil.required": "true",
        "diff.external": str(program),
        "gpg.program": str(program),
        "commit.gpgSign": "true",
        "core.alternateRefsCommand": str(program),
        "extensions.partialClone": "origin",
        "remote.origin.url": f"ext::{program}",
        "remote.origin.uploadpack": str(program),
        "protocol.ext.allow": "always",
    }.items():
        git("config", name, value, cwd=dest)
    marker.unlink(missing_ok=True)
    for options in ([], ["--reverse"], ["--check"], []):
        # git looks into files that are no older than the index, through the filters.
        os.utime(dest / ".git" / "index", (1, 1))
        result = world.apply("1.8.0", "--dest", dest, *options)
        assert result.returncode in (0, 1), result.stderr
        assert not marker.exists()
    assert (dest / LAYER).read_text() == AFTER
    assert git("show", f"HEAD:{LAYER}", cwd=dest) == AFTER


def test_what_a_killed_run_has_left_beside_a_checkout_goes(world: World, tmp_path: Path) -> None:
    left = tmp_path / ".pyg.pyg-threadsafe-abc"
    write(left, {"tree/half": ""})
    assert world.apply("1.8.0", "--source", "sdist", "--dest", tmp_path / "pyg").returncode == 0
    assert not left.exists()
