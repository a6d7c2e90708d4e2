"""What the commands share, on a terminal (a pseudo-terminal here) and off it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from kit import releases
from kit.releases import ROOT

NESTED = """
import time
from kit.console import build_progress, err, out, progress
assert err.is_terminal
with progress() as notify:
    notify("outer")
    time.sleep(0.2)
    with progress() as inner:
        inner("inner")
        notify("a word from outside")
        time.sleep(0.2)
    with build_progress() as update:
        update("torch-sparse", "compiling a.cpp", False)
        notify("downloading")
        time.sleep(0.2)
        update("torch-sparse", "built", True)
    notify("outer again")
    time.sleep(0.2)
out.print("done")
"""

AS_GIVEN = """
from kit.console import err, out, table
text = "audit --model app:MODEL:M: [bold]not bold[/] " + "/path" * 60
out.print(text)
err.print(text)
rows = table("path")
rows.add_row(text)
out.print(rows)
"""


def command_of(program: str) -> tuple[list[str], dict[str, str]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TERM": "xterm-256color"}
    for name in ("COLUMNS", "NO_COLOR"):
        env.pop(name, None)
    return [sys.executable, "-c", program], env


def off_terminal(program: str) -> tuple[str, str]:
    command, env = command_of(program)
    process = subprocess.run(command, env=env, capture_output=True, timeout=120)
    return process.stdout.decode(), process.stderr.decode()


def on_terminal(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Runs a program with a terminal of 80 x 24, and returns what it wrote there."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(command, env=env, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    written = b""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([controller], [], [], 0.1)[0]:
            try:
                written += os.read(controller, 65536)
            except OSError:  # Linux says so where the last writer is gone
                break
        elif process.poll() is not None:
            break
    os.close(controller)
    return process.wait(10), written.decode()


def test_progress_inside_progress() -> None:
    code, written = on_terminal(*command_of(NESTED))
    assert code == 0, written
    for message in ("outer", "inner", "a word from outside", "torch-sparse", "outer again", "done"):
        assert message in written


def test_progress_off_a_terminal_is_lines() -> None:
    program = NESTED.replace("assert err.is_terminal", "assert not err.is_terminal")
    out, err = off_terminal(program)
    assert out == "done\n"
    assert err.splitlines() == [
        *("outer", "inner", "a word from outside"),
        *("torch-sparse: compiling a.cpp", "downloading", "torch-sparse: built", "outer again"),
    ]


def test_text_is_printed_as_given() -> None:
    out, err = off_terminal(AS_GIVEN)
    # No emoji, no markup, and off a terminal no line is wrapped.
    text = "audit --model app:MODEL:M: [bold]not bold[/] " + "/path" * 60
    assert err.splitlines() == [text]
    assert [line.rstrip() for line in out.splitlines()] == [text, "path", text]


def test_nothing_is_markup_on_a_terminal() -> None:
    code, written = on_terminal(*command_of(AS_GIVEN))
    assert code == 0
    assert "app:MODEL:M: [bold]not bold[/]" in written.replace("\r\n", "")


def test_the_releases_fit_into_a_terminal() -> None:
    """`apply --list`: no name is cut, and no line wraps."""
    program = "import sys; sys.argv[1:] = ['apply', '--list']; from kit import cli; cli.main()"
    code, written = on_terminal(*command_of(program))
    lines = re.sub(r"\x1b\[[\d;]*m", "", written).splitlines()
    assert code == 0, written
    assert any(line.startswith("2.1.0.post1 races") for line in lines)
    table = lines[: lines.index("")]
    assert len(table) == 3 + len(releases.load().releases)
    assert "\u2026" not in written and max(map(len, table)) <= 80
