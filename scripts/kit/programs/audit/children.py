"""Runs something in a process that begins where this one is, and leaves nothing behind in it."""

import contextlib
import faulthandler
import os
import pickle
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import torch


class Ended(NamedTuple):
    """How a child ended.

    Attributes:
        value: What it returned; None where it failed.
        died: The signal that ended it, or its exit status in words; None if it returned.
    """

    value: Any
    died: Optional[str]


def can_fork() -> bool:
    """Whether a child can go on from here: CUDA and other threads do not survive a fork."""
    uses_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return hasattr(os, "fork") and not uses_cuda and threading.active_count() == 1


def _let_threads_end() -> None:
    """Waits until the threads that were joined are gone, for a second at the most.

    Python joins a thread that has yet to free what C++ keeps by thread. MKL does that under a
    lock of its own (`mm_account_ptr_by_tid`): a child that is forked meanwhile finds it locked,
    and each of its calls spins there for ever.
    """
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            running = sum(map(_runs, Path("/proc/self/task").iterdir()))
        except OSError:  # not Linux
            time.sleep(0.05)
            return
        if running <= 1:  # this one
            return
        time.sleep(0.001)


def _runs(task: Path) -> bool:
    """Whether a thread is not asleep, as those of a pool are that waits for work."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):
        return False


def run(function: Callable[[], Any], seconds: float) -> Ended:
    """Runs a function in a child.

    Args:
        function: What to run; what it returns is pickled.
        seconds: After so long the child is ended.
    """
    reader, writer = os.pipe()
    sys.stderr.flush()
    _let_threads_end()
    process = os.fork()
    if process == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(reader)
            faulthandler.disable()
            # The first thread that needs torch's pool makes it anew after a fork; of several
            # at once, some find none.
            torch.set_num_threads(1)
            # So it is with what computes gradients: at times, several at once free memory twice.
            with contextlib.suppress(RuntimeError), torch.enable_grad():  # torch 1.9 refuses
                torch.ones(1, requires_grad=True).sum().backward()
            value = function()
            with os.fdopen(writer, "wb") as stream:
                pickle.dump(value, stream)
            status = 0
        os._exit(status)
    os.close(writer)
    data = _read_all(reader, process, seconds)
    _, status = os.waitpid(process, 0)
    if data and not status:
        return Ended(pickle.loads(data), None)  # noqa: S301 - what the child has written
    return Ended(None, _signal_name(status))


def _read_all(reader: int, process: int, seconds: float) -> bytes:
    """What the child writes until it ends; nothing if that takes too long, and it is ended."""
    deadline = time.monotonic() + seconds
    parts: List[bytes] = []
    with os.fdopen(reader, "rb", 0) as stream:
        while True:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                os.kill(process, signal.SIGKILL)
                return b""
            part = stream.read(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)


def _signal_name(status: int) -> Optional[str]:
    """The signal that ended a process, or its exit status in words."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return f"exit status {os.WEXITSTATUS(status)}"
