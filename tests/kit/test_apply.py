"""`apply`, as a person calls it: what it makes, what it says, how it exits."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import (
    AFTER,
    BEFORE,
    LAYER,
    NEW_TEST,
    UPSTREAM_TEST,
    VERSION_FILE,
    World,
    git,
    library,
    make_sdist,
    tree_of,
    write,
)


def subjects(checkout: Path) -> list[str]:
    return git("log", "--format=%s", cwd=checkout).splitlines()[::-1]


def refused(result: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    """An error is one paragraph on stderr, without a traceback, and has its exit code."""
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    message = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    assert result.stderr.rstrip().endswith(message[0].rstrip())
    for word in words:
        assert word in message[0]


# --- making a tree ---


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


def test_auto_prefers_git_and_falls_back(world: World, tmp_path: Path) -> None:
    result = world.apply("1.8.0", "--dest", tmp_path / "a")
    assert "upstream's git repository" in result.stdout
    nowhere = (tmp_path / "nowhere").as_uri()
    result = world.run("apply", "1.9.0", "--git-url", nowhere, "--dest", tmp_path / "b")
    assert result.returncode == 0, result.stderr
    assert "from PyPI, torch_geometric-1.9.0.tar.gz" in result.stdout


def test_offline_uses_the_cache_alone(world: World, tmp_path: Path) -> None:
    for kind in ("git", "sdist"):
        unreachable = {"PIP_FIND_LINKS": str(tmp_path / "nowhere")}
        options = ["1.8.0", "--source", kind, "--dest", tmp_path / kind]
        refused(world.apply(*options, "--offline"), 3, "--offline", "Call this once without")
        assert world.apply(*options).returncode == 0
        shutil.rmtree(tmp_path / kind)
        nowhere = ["--git-url", (tmp_path / "nowhere").as_uri()]
        result = world.run("apply", *options, *nowhere, "--offline", env=unreachable)
        assert result.returncode == 0, result.stderr


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
    assert result.returncode == 0
    assert "would be applied: Patch gatv2_conv/1.8.0.patch" in result.stdout
    assert not dest.exists()


def test_fixed_release(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    result = world.apply("latest", "--source", "sdist", "--dest", dest)
    assert "Upstream fixed GATv2Conv in 2.0.0: its code needs nothing" in result.stdout
    assert subjects(dest)[1:] == ["Patch regression_test/gatv2_conv.patch"]


def test_list(world: World) -> None:
    result = world.apply("--list")
    assert re.search(r"^1\.8\.0 +races", result.stdout, re.M)
    assert re.search(r"^2\.0\.0 +fixed", result.stdout, re.M)
    assert "gatv2_conv: the fix" in result.stdout
    result = world.apply("1.8.0", "--list")
    assert "gatv2_conv: Patch gatv2_conv/1.8.0.patch" in result.stdout


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


# --- the user's own tree ---


def test_tree(world: World, tree: Path) -> None:
    before = tree_of(tree)
    (tree / LAYER).chmod(0o640)
    result = world.apply("1.8.0", "--tree", tree)
    assert result.returncode == 0, result.stderr
    assert (tree / LAYER).read_text() == AFTER
    assert (tree / LAYER).stat().st_mode & 0o777 == 0o640
    assert (tree / NEW_TEST).stat().st_mode & 0o777 == 0o644
    assert "already patched" in world.apply("1.8.0", "--tree", tree).stdout
    result = world.apply("1.8.0", "--tree", tree, "--reverse")
    assert result.returncode == 0
    assert tree_of(tree) == before


def test_tree_without_tests_is_restored_to_the_byte(world: World, tree: Path) -> None:
    shutil.rmtree(tree / "test")
    before = tree_of(tree)
    assert world.apply("1.8.0", "--tree", tree).returncode == 0
    assert (tree / NEW_TEST).exists()
    assert world.apply("1.8.0", "--tree", tree, "--reverse").returncode == 0
    assert tree_of(tree) == before


def test_tree_check(world: World, tree: Path) -> None:
    before = tree_of(tree)
    result = world.apply("1.8.0", "--tree", tree, "--check")
    assert result.returncode == 0
    assert result.stdout.count("would be applied") == 3
    assert tree_of(tree) == before


def test_installed_package_gets_no_tests(world: World, tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    write(site, {**library("1.8.0"), "torch_geometric-1.8.0.dist-info/METADATA": ""})
    result = world.apply("1.8.0", "--tree", site)
    assert result.returncode == 0, result.stderr
    assert (site / LAYER).read_text() == AFTER
    assert not (site / "test").exists()
    assert "an installed PyG has no tests" in result.stdout


def test_tree_that_is_half_patched_is_finished(world: World, tree: Path) -> None:
    (tree / LAYER).write_text(AFTER)
    result = world.apply("1.8.0", "--tree", tree)
    assert result.returncode == 0
    assert "already applied: Patch gatv2_conv/1.8.0.patch" in result.stdout
    assert (tree / NEW_TEST).exists()


def test_tree_with_another_version_text_is_known_by_its_files(world: World, tree: Path) -> None:
    (tree / VERSION_FILE).write_text("__version__ = '1.8.0+ours'\n")
    assert world.apply("1.9.0", "--tree", tree).returncode == 0


# --- refusals ---


@pytest.mark.parametrize(
    "words, code, said",
    [
        ([], 2, ["No PyG version was named"]),
        (["1.7.0"], 2, ["1.7.1", "not covered"]),
        (["1.8.7"], 2, ["1.8.0", "1.9.0"]),
        (["9.0"], 2, ["newer than the newest", "2.0.0"]),
        (["1.9.0.dev20200101"], 2, ["2.1.0.dev20260101", "nightly"]),
        (["graph"], 2, ["not a version", "latest"]),
        (["1.8.0", "--only", "gat"], 2, ["'gat'", "gatv2_conv"]),
        (["2.0.0", "--only", "gatv2_conv"], 2, ["regression_test"]),
        (["1.8.0", "--with", "faster"], 2, ["takes no patch of the series faster"]),
        (["2.0.0", "--with", "fast"], 2, ["no series 'fast'", "faster"]),
        (["2.0.0", "--with", "faster", "--only", "faster"], 2, ["exclude each other"]),
        (["1.8.0", "--frobnicate"], 2, ["--frobnicate", "--help"]),
        (["1.8.0", "--source", "conda"], 2, ["conda", "sdist"]),
        (["1.8.0", "--tree", "a", "--dest", "b"], 2, ["exclude each other"]),
    ],
)
def test_bad_words(world: World, words: list[str], code: int, said: list[str]) -> None:
    refused(world.apply(*words), code, *said)


def test_no_version_names_the_tree(world: World, tree: Path) -> None:
    refused(world.apply("--tree", tree), 2, "holds PyG 1.8.0")


def test_local_changes_are_named(world: World, tree: Path) -> None:
    (tree / LAYER).write_text(BEFORE.replace("line 21\n", "mine\n"))
    before = tree_of(tree)
    result = world.apply("1.8.0", "--tree", tree)
    refused(result, 4, LAYER, "local changes", "Hunk 1", "expects 'line 21'", "found there: 'mine'")
    assert tree_of(tree) == before


def test_local_changes_elsewhere_in_a_file(world: World, tree: Path) -> None:
    (tree / LAYER).write_text(BEFORE + "mine\n")
    refused(world.apply("1.8.0", "--tree", tree), 4, LAYER, "still fits", "git apply")


def test_local_changes_in_other_files_are_fine(world: World, tree: Path) -> None:
    (tree / "torch_geometric" / "mine.py").write_text("")
    assert world.apply("1.8.0", "--tree", tree).returncode == 0


def test_a_file_in_the_way(world: World, tree: Path) -> None:
    (tree / NEW_TEST).write_text("mine")
    refused(world.apply("1.8.0", "--tree", tree), 4, NEW_TEST, "Move that file away")
    assert (tree / LAYER).read_text() == BEFORE


def test_a_missing_file(world: World, tree: Path) -> None:
    (tree / LAYER).unlink()
    refused(world.apply("1.8.0", "--tree", tree), 4, LAYER, "missing")


def test_tree_of_another_version(world: World, tree: Path) -> None:
    refused(world.apply("2.0.0", "--tree", tree), 4, "holds PyG 1.8.0, not 2.0.0")


def test_tree_of_no_known_version(world: World, tree: Path) -> None:
    (tree / VERSION_FILE).write_text("")
    (tree / LAYER).write_text("")
    refused(world.apply("1.8.0", "--tree", tree), 4, "none of the pinned releases")


def test_tree_without_pyg(world: World, tmp_path: Path) -> None:
    refused(world.apply("1.8.0", "--tree", tmp_path), 4, "holds no PyG", VERSION_FILE)


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


@pytest.mark.parametrize("known_to_pip", [True, False])
def test_an_sdist_that_is_not_as_pinned(world: World, tmp_path: Path, known_to_pip: bool) -> None:
    index = tmp_path / "index"
    index.mkdir()
    sdist = make_sdist(index, "1.8.0")
    sdist.write_bytes(sdist.read_bytes() + b"\0")
    dest = tmp_path / "pyg"
    options = ["1.8.0", "--source", "sdist", "--dest", dest]
    if known_to_pip:
        result = world.apply(*options, env={"PIP_FIND_LINKS": str(index)})
        refused(result, 3, "not what its pin says", "expected sha256", "found")
    else:
        # Changed in the cache: fetched anew, or refused without a network.
        (world.cache / "archives").mkdir(parents=True)
        shutil.copy(sdist, world.cache / "archives" / sdist.name)
        refused(world.apply(*options, "--offline"), 3, "not what its pin says")
        assert world.apply(*options).returncode == 0
        return
    assert not dest.exists()
    assert not list((world.cache / "archives").glob("*.gz"))


def test_a_commit_that_is_not_as_pinned(world: World, tmp_path: Path) -> None:
    upstream = tmp_path / "upstream"
    git(
        "clone",
        "-q",
        "--depth=1",
        "--branch=2.0.0",
        world.upstream.as_uri(),
        str(upstream),
        cwd=tmp_path,
    )
    git("tag", "1.8.0", cwd=upstream)
    command = ["apply", "1.8.0", "--source", "git", "--git-url", upstream.as_uri()]
    result = world.run(*command, "--dest", tmp_path / "pyg")
    refused(result, 3, "The tag 1.8.0", "not the pinned commit", "expected", "found")
    assert not (tmp_path / "pyg").exists()
    assert not list((world.cache / "git").glob("*.git"))


def test_no_network(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    nowhere = {"PIP_FIND_LINKS": str(tmp_path / "nowhere")}
    result = world.apply("1.8.0", "--source", "sdist", "--dest", dest, env=nowhere)
    refused(result, 3, "could not be downloaded from PyPI", "pip said", "--source git")
    url = (tmp_path / "nowhere").as_uri()
    result = world.run("apply", "1.8.0", "--source", "git", "--git-url", url, "--dest", dest)
    refused(result, 3, url, "--source sdist")
    assert not dest.exists()


def test_no_git(world: World, tmp_path: Path) -> None:
    result = world.apply("1.8.0", "--dest", tmp_path / "pyg", env={"PATH": str(tmp_path)})
    refused(result, 5, "git was not found")


def test_a_cache_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"PYG_THREADSAFE_CACHE": str(tmp_path / "file" / "cache")}
    result = world.apply("1.8.0", "--source", "sdist", "--dest", tmp_path / "pyg", env=env)
    refused(result, 3, "PYG_THREADSAFE_CACHE")


# --- two runs at once, and runs that end early ---


@pytest.mark.parametrize("kind", ["git", "sdist"])
def test_two_runs_at_once_share_a_cache(world: World, tmp_path: Path, kind: str) -> None:
    runs = []
    for name in ("a", "b", "c"):
        command, env = world.command(
            *("apply", "1.8.0", "--source", kind, "--git-url", world.upstream.as_uri()),
            *("--dest", tmp_path / name),
        )
        runs.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    trees = [tree_of(tmp_path / name) for name in ("a", "b", "c")]
    assert trees[0] == trees[1] == trees[2]


def test_two_runs_at_once_for_one_place(world: World, tmp_path: Path) -> None:
    command, env = world.command("apply", "1.8.0", "--source", "sdist", "--dest", tmp_path / "pyg")
    runs = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    codes = sorted((run.communicate(timeout=120), run.returncode)[1] for run in runs)
    # The first one makes it. Another one finds it made, or says that it is being made.
    assert codes[0] == 0 and set(codes) <= {0, 4}
    assert (tmp_path / "pyg" / LAYER).read_text() == AFTER
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".pyg")] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption(world: World, tmp_path: Path, number: signal.Signals) -> None:
    """A run that is interrupted while git is at work leaves nothing behind."""
    # A git that says that it is at work, and then takes its time over a commit.
    shims = tmp_path / "bin"
    shims.mkdir()
    real, marker = shutil.which("git"), tmp_path / "started"
    shim = shims / "git"
    shim.write_text(
        f'#!/bin/sh\ncase "$*" in *" commit --quiet"*) touch {marker}; exec sleep 60;; esac\n'
        f'exec {real} "$@"\n'
    )
    shim.chmod(0o755)
    dest = tmp_path / "place" / "pyg"
    path = {"PATH": f"{shims}{os.pathsep}{os.environ['PATH']}"}
    command, env = world.command("apply", "1.8.0", "--source", "sdist", "--dest", dest, env=path)
    run = subprocess.Popen(
        command,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a script inherits that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while not marker.exists():
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.05)
    run.send_signal(number)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "error: interrupted" in errors
    assert "Traceback" not in errors
    assert list(dest.parent.iterdir()) == []


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
        f'#!/bin/sh\ncase "$*" in *" update-ref HEAD"*) {real} "$@"; touch {shims}/once; exit 1;; '
        f'esac\nexec {real} "$@"\n'
    )
    shim.chmod(0o755)
    path = {"PATH": f"{shims}{os.pathsep}{os.environ['PATH']}"}
    options = ["1.8.0", "--dest", dest, *(["--reverse"] if reverse else [])]
    refused(world.apply(*options, env=path), 5, "'git update-ref' failed")
    assert (shims / "once").exists()
    after = tree_of(dest), git("rev-parse", "HEAD", cwd=dest), git("status", "-s", cwd=dest)
    assert after == before
    assert world.apply(*options).returncode == 0


def test_output_that_nobody_reads(world: World) -> None:
    command, env = world.command("apply", "--list")
    script = subprocess.list2cmdline(command[:2]) + ' "$0" apply --list | true'
    result = subprocess.run(
        ["bash", "-c", script, command[2]], env=env, capture_output=True, text=True
    )
    assert "Traceback" not in result.stderr
