"""The door: interrupts, and readers that go away."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import (
    World,
)


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


def test_output_that_nobody_reads(world: World) -> None:
    command, env = world.command("apply", "--list")
    script = subprocess.list2cmdline(command[:2]) + ' "$0" apply --list | true'
    result = subprocess.run(
        ["bash", "-c", script, command[2]], env=env, capture_output=True, text=True
    )
    assert "Traceback" not in result.stderr
