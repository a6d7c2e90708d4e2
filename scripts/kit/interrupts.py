"""Signals that ask a run to end, and stretches of it that must not end halfway."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# Ctrl-C, `kill` and a terminal that goes away (a dropped ssh).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def listen() -> None:
    """Takes all of them for Ctrl-C: whatever is half done is undone on the way out."""
    for number in SIGNALS:
        # Where the shell has it ignored, as for a job in the background, it stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # A second one must not get in the way of undoing.
    ignore()
    raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Puts these signals off until the end of the block, or until they are ignored.

    Not by a mask: threads, such as the one that draws the progress, have masks of their own.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python runs handlers in the main thread alone.
        yield
        return
    arrived: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is remember:
                signal.signal(number, handler)
            elif number in arrived:
                arrived.remove(number)
        if arrived:
            signal.raise_signal(arrived[0])


def ignore() -> None:
    """Ignores them from now on: what was asked is done, and only has to be said."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
