"""The door: interrupts, and readers that go away."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import AFTER, BEFORE, LAYER, VERSION_FILE, World, refused, tree_of, write
from kit import transactions


def start(command: list[str], env: dict[str, str]) -> "subprocess.Popen[str]":
    """Starts a command that is to be interrupted."""

    def heed() -> None:
        # A job in the background of a script inherits that SIGINT is ignored, and one that
        # was started with nohup, SIGHUP.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        command,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
    run = start(command, env)
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


def test_output_that_nobody_reads(world: World) -> None:
    command, env = world.command("apply", "--list")
    script = f"{shlex.join(command)} | true"
    result = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption_while_waiting(world: World, tree: Path, number: signal.Signals) -> None:
    """A run that waits for another one has changed nothing."""
    before = tree_of(tree)
    command, env = world.command("apply", "1.8.0", "--tree", tree)
    with transactions.locked(tree):
        run = start(command, env)
        assert run.stderr is not None
        assert "Waiting for another run" in run.stderr.readline()
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "error: interrupted" in errors
    assert tree_of(tree) == before


def shell(world: World, script: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs a script in which `kit` is the kit."""
    command, env = world.command(*arguments)
    quoted = " ".join(shlex.quote(word) for word in command[:3])
    script = f'kit() {{ {quoted} "$@"; }}; {script}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *command[3:]], env=env, capture_output=True, text=True
    )


def test_a_reader_that_has_read_enough(world: World, tree: Path) -> None:
    """What was asked is done, and the exit code says whether."""
    script = 'kit "$@" | head -1; echo "${PIPESTATUS[0]}"'
    result = shell(world, script, "apply", "--tree", tree)
    assert (result.stdout, result.stderr) == (f"PyG 1.8.0 in {tree}\n0\n", "")
    assert (tree / LAYER).read_text() == AFTER
    result = shell(world, script.replace("head -1", "true"), "doctor", "--tree", tree)
    assert result.stdout == "0\n"
    result = shell(world, script.replace("head -1", "true"), "apply", "--tree", tree, "--reverse")
    assert result.stdout == "0\n"
    result = shell(world, script.replace("head -1", "true"), "doctor", "--tree", tree)
    assert result.stdout == "1\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written(world: World, tree: Path) -> None:
    result = shell(world, 'kit "$@" >/dev/full', "apply", "--tree", tree)
    refused(result, 5, "No space left on device", "streams")
    assert (tree / LAYER).read_text() == AFTER
    result = shell(world, 'kit "$@" 2>/dev/full', "apply", "--tree", tree / "none")
    assert (result.returncode, result.stdout, result.stderr) == (4, "", "")


def test_a_locale_that_has_ascii_alone(world: World, tree: Path) -> None:
    place = tree.with_name("Bäume → \udcff")
    tree.rename(place)
    command, env = world.command("apply", "--tree", place, env={"PYTHONIOENCODING": "ascii"})
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "B\\xe4ume \\u2192 \\udcff" in result.stdout
    assert (place / LAYER).read_text() == AFTER


def test_a_working_directory_that_is_gone(world: World, tree: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd {shlex.quote(str(gone))}; rmdir "$PWD"; kit "$@"'
    result = shell(world, script, "apply", "--tree", tree)
    assert result.returncode == 0, result.stderr
    refused(shell(world, script, "apply", "--tree", "relative"), 4, "relative")


@pytest.mark.parametrize("option", ["--tree", "--dest", "--python"])
def test_a_variable_that_is_not_set(world: World, option: str) -> None:
    refused(world.apply("1.8.0", option, ""), 2, option, "it is empty")


def test_what_is_no_file(world: World, tree: Path) -> None:
    """A FIFO in a file's place would be read for ever."""
    for path in (LAYER, VERSION_FILE):
        (tree / path).unlink()
        os.mkfifo(tree / path)
        refused(world.apply("1.8.0", "--tree", tree), 4, path, "a directory, a FIFO or a device")
        (tree / path).unlink()
        (tree / path).mkdir()
        refused(world.apply("1.8.0", "--tree", tree), 4, path, "a directory, a FIFO or a device")
        (tree / path).rmdir()
        write(tree, {path: BEFORE if path == LAYER else "__version__ = '1.8.0'\n"})


def test_names_that_are_too_long(world: World, tmp_path: Path) -> None:
    name = "x" * 300
    for option, code in (("--tree", 4), ("--dest", 5)):
        result = world.apply("1.8.0", "--source", "sdist", option, tmp_path / name)
        refused(result, code, "ame too long")
    refused(world.apply("1.8.0", "--dest", tmp_path / ("x" * 250)), 4, "ame too long")
    env = {"PYG_THREADSAFE_CACHE": str(tmp_path / name)}
    result = world.apply("1.8.0", "--source", "sdist", "--dest", tmp_path / "pyg", env=env)
    refused(result, 3, "ame too long", "PYG_THREADSAFE_CACHE")


def test_a_place_for_temporary_files_that_is_none(world: World, tree: Path) -> None:
    """Where TMPDIR cannot be used, Python takes another place, and git is not asked."""
    result = world.apply("1.8.0", "--tree", tree, env={"TMPDIR": "/dev/null/x"})
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("full", ["TMPDIR", "tree", "dest", "cache"])
def test_a_disk_without_space(world: World, tree: Path, tmp_path: Path, full: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount")
    try:
        env, place = {}, tree
        if full == "tree":
            place = small / "tree"
            shutil.copytree(tree, place)
        options = ["--tree", str(place)]
        if full in ("dest", "cache"):
            options = ["--source", "sdist"]
            options += ["--dest", str((small if full == "dest" else tmp_path) / "pyg")]
        if full == "cache":
            env = {"PYG_THREADSAFE_CACHE": str(small / "cache")}
        if full == "TMPDIR":
            env = {"TMPDIR": str(small)}
        with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        before = tree_of(place)
        result = world.apply("1.8.0", *options, env=env)
        code = {"TMPDIR": 0, "tree": 4, "dest": 5, "cache": 3}[full]
        if full == "TMPDIR":
            # Python looks for another place where nothing can be written.
            assert result.returncode == 0, result.stderr
            return
        refused(result, code, "No space left")
        assert "not what its pin says" not in result.stderr
        assert tree_of(place) == before
        assert not (tmp_path / "pyg").exists()
        assert [p.name for p in small.iterdir() if "pyg" in p.name] == []
    finally:
        subprocess.run(["umount", small], check=True)
