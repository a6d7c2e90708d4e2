"""Child processes: what they are given, and how they end."""

import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from kit import processes
from kit.errors import ToolError


def test_run() -> None:
    program = "import os, sys; print(os.environ['A'], sys.stdin.read()); sys.exit(3)"
    result = processes.run([sys.executable, "-c", program], env={"A": "1"}, stdin="in")
    assert (result.returncode, result.stdout) == (3, "1 in\n")


def test_git_s_own_variables_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_SSH_COMMAND", "ssh -i key")
    program = "import os; print(os.environ.get('GIT_DIR'), os.environ['GIT_SSH_COMMAND'])"
    assert processes.run([sys.executable, "-c", program]).stdout == "None ssh -i key\n"


@pytest.mark.parametrize(
    "command, said", [("no-such-program", "not found"), ("/", "cannot be run")]
)
def test_no_such_program(command: str, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        processes.run([command])


def test_git_fails(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"'git rev-parse' failed in .*not a git repository"):
        processes.git("rev-parse", "HEAD", cwd=tmp_path)


def test_run_logged_keeps_what_is_said(tmp_path: Path) -> None:
    lines: list[str] = []
    program = "import sys; print('a'); print('b', file=sys.stderr); sys.exit(2)"
    code = processes.run_logged(
        [sys.executable, "-u", "-c", program],
        tmp_path / "log",
        env={},
        watch=lines.append,
        stop=threading.Event(),
    )
    assert (code, lines) == (2, ["a\n", "b\n"])
    assert (tmp_path / "log").read_text() == "a\nb\n"


def test_run_logged_ends_with_all_that_it_has_started(tmp_path: Path) -> None:
    stop = threading.Event()
    pids: list[int] = []

    def watch(line: str) -> None:
        pids.append(int(line))
        stop.set()

    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(KeyboardInterrupt):
        processes.run_logged(
            [sys.executable, "-c", program], tmp_path / "log", env={}, watch=watch, stop=stop
        )
    end = time.monotonic() + 30
    while psutil.pid_exists(pids[0]) and psutil.Process(pids[0]).status() != "zombie":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_last_lines() -> None:
    assert processes.last_lines("a\n\n  b \nc\n\n", 2) == "b c"
