"""Lets threads share a model at full speed, in a process whose death is a result."""

import collections
import sys
import threading
import time
from typing import Any, Dict, List

from . import children
from .calls import LIMIT, Subject
from .interleaving import RIGHT, WRONG, count
from .places import last_line

THREADS = 8
SECONDS = 60.0  # at the most
# How many calls are made unless somebody says so. In one thread they take some seconds at the
# most, in eight twice or three times as long: each operation of torch hands the GIL on.
MOST_CALLS, FEWEST_CALLS, USUAL_SECONDS = 480, 64, 3.0
SWITCH_INTERVAL = 1e-5
# What torch 1.9 says in a fork of what has computed gradients.
NO_GRADIENTS = "in combination with fork-based multiprocessing"


def stress(subject: Subject, calls: int, compare: bool = True) -> Dict[str, Any]:
    """Lets threads call a model.

    Args:
        subject: What is called.
        calls: How many calls all threads make together.
        compare: Whether results are compared; else only crashes and hangs count.

    Returns:
        How many `threads` and `calls` there were in how many `seconds`, how they ended, how
        many threads `hung`, the `errors`, and the signal that the process `died` of.
    """
    if not children.can_fork():
        # Whoever has started this sees a death of the process.
        return {**_share(subject, calls, compare), "died": None}
    return _in_child(subject, calls, compare)


def usual_calls(subject: Subject) -> int:
    """How many calls to make of a model."""
    fitting = int(USUAL_SECONDS / max(subject.seconds, 1e-4))
    return min(MOST_CALLS, max(FEWEST_CALLS, fitting))


def _share(subject: Subject, calls: int, compare: bool) -> Dict[str, Any]:
    outcomes: List[List[str]] = [[] for _ in range(THREADS)]
    barrier = threading.Barrier(THREADS)
    stop = threading.Event()

    def work(k: int) -> None:
        barrier.wait(LIMIT)
        for n in range(max(1, calls // THREADS)):
            if stop.is_set():
                return
            i = (k + n) % len(subject.requests)
            try:
                result = subject.call(i)
                same = not compare or subject.is_right(i, result)
                outcomes[k].append(RIGHT if same else WRONG)
            except BaseException as error:
                outcomes[k].append(last_line(error))

    threads = [
        threading.Thread(target=work, args=(k,), name=f"kit-stress-{k}", daemon=True)
        for k in range(THREADS)
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    restore = subject.save()
    start = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        _wait(threads, outcomes, subject, stop)
    finally:
        sys.setswitchinterval(interval)
    seconds = time.monotonic() - start
    restore()
    ended = [outcome for part in outcomes for outcome in list(part)]
    errors = collections.Counter(outcome for outcome in ended if outcome not in (RIGHT, WRONG))
    return {
        "threads": THREADS,
        "seconds": round(seconds, 2),
        **count(ended),
        "hung": sum(thread.is_alive() for thread in threads),
        "errors": [error for error, _ in errors.most_common(3)],
    }


def _wait(
    threads: List[threading.Thread],
    outcomes: List[List[str]],
    subject: Subject,
    stop: threading.Event,
) -> None:
    """Waits until all threads are done, or none of them goes on any more."""
    deadline = time.monotonic() + SECONDS
    patience = max(LIMIT, subject.limit)
    last, since = -1, time.monotonic()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.02)
        done = sum(map(len, outcomes)) - sum(thread.is_alive() for thread in threads)
        now = time.monotonic()
        if done != last:
            last, since = done, now
        elif now - since > patience:
            break
        if now > deadline:
            stop.set()
    stop.set()


def _in_child(subject: Subject, calls: int, compare: bool) -> Dict[str, Any]:
    seconds = SECONDS + 3 * max(LIMIT, subject.limit)
    result, died = children.run(lambda: _share(subject, calls, compare), seconds)
    if died is None and any(NO_GRADIENTS in error for error in result["errors"]):
        return {**_share(subject, calls, compare), "died": None}
    if died is None:
        return {**result, "died": None}
    nothing: Dict[str, Any] = {**count([]), "threads": THREADS, "seconds": None}
    return {**nothing, "errors": [], "died": died}
