"""Lets a whole call run at many lines of another one, whatever the code does there.

This needs no knowledge of what is shared: it finds what is written out of sight, such as
the state of a generator of random numbers or of a C extension.
"""

import itertools
import sys
import time
import types
from typing import Any, Dict, List, Optional, Tuple

from . import code
from .calls import Subject
from .interleaving import END, RIGHT, WRONG, Held, join, restore_after
from .places import Place, shown_file, shown_place

USUAL_POINTS, MANY_POINTS = 24, 400  # for each pair of requests
# The same where both calls are held, as what saves and restores a state needs it.
USUAL_PAIRS, MANY_PAIRS = 8, 20
SECONDS = 8.0  # what the calls may take together


class _Lines:
    """Counts the lines that a thread runs, in code that is watched."""

    def __init__(self) -> None:
        self._known: Dict[types.CodeType, bool] = {}

    def is_watched(self, frame: types.FrameType) -> bool:
        """Whether the lines of a frame count."""
        known = self._known.get(frame.f_code)
        if known is None:
            file = frame.f_code.co_filename
            is_torch = file.startswith(code.TORCH)
            known = self._known[frame.f_code] = code.is_watched(file) and not is_torch
        return known


_lines = _Lines()


class Stepped(Held):
    """A call that stops before a line, counted from its start."""

    def __init__(self, subject: Subject, i: int, ordinal: Optional[int]) -> None:
        super().__init__(subject, i, (0, None), (END, 0))
        self.stop_at = ordinal
        self.places: List[Place] = []
        self._count_of_lines = 0

    def _trace(self, frame: types.FrameType, event: str, _: object) -> Any:
        if event == "line":
            if self.stop_at is None:
                name = frame.f_code.co_name
                self.places.append((frame.f_code.co_filename, frame.f_lineno, name))
            elif self._count_of_lines == self.stop_at:
                self._pause()
            self._count_of_lines += 1
        elif event == "call" and not _lines.is_watched(frame):
            return None
        return self._trace

    def run(self) -> None:
        """Calls, with an eye on each line."""
        sys.settrace(self._trace)
        try:
            super().run()
        finally:
            sys.settrace(None)


def _lines_of(subject: Subject, i: int) -> List[Place]:
    thread = Stepped(subject, i, None)
    thread.start()
    thread.join(max(60.0, 20 * subject.limit))
    return thread.places


def _points(places: List[Place], most: int) -> Tuple[List[int], int]:
    """The first and the last time at each line; of too many, some that are evenly spread."""
    first: Dict[Tuple[str, int], int] = {}
    last: Dict[Tuple[str, int], int] = {}
    for ordinal, place in enumerate(places):
        first.setdefault(place[:2], ordinal)
        last[place[:2]] = ordinal
    every = sorted({*first.values(), *last.values()})
    if len(every) <= most:
        return every, 0
    step = len(every) / most
    return [every[int(n * step)] for n in range(most)], len(every) - most


def explore(subject: Subject, many: bool) -> Dict[str, Any]:
    """Holds one call before a line, and lets another one run from start to end.

    Args:
        subject: What is called.
        many: Whether to try as many lines as there are, since something is suspicious.

    Returns:
        How many `points` were tried and `left_out`, and the `reason` why the model is not
        safe: "" if all results were right.
    """
    fitting = int(SECONDS / (2 * max(subject.seconds, 1e-4)))
    most = max(4, min(MANY_POINTS if many else USUAL_POINTS, fitting))
    tried = left_out = 0
    deadline = time.monotonic() + 4 * SECONDS
    pairs = [(0, 1), (1, 0)]
    if len(subject.requests) > 2:
        pairs.append((len(subject.requests) - 1, 0))
    for i, j in pairs:
        places = _lines_of(subject, i)
        ordinals, more = _points(places, most)
        left_out += more
        for ordinal in ordinals:
            if time.monotonic() > deadline:
                left_out += 1
                continue
            tried += 1
            outcome = _try(subject, i, j, ordinal, None)
            if outcome:
                place = shown_place(places[ordinal])
                reason = f"thread 1 was held before {place}, thread 2 made a whole call: {outcome}"
                blamed = _find_blamed(subject, (i, j), ordinal, places, outcome)
                return {**_count(tried, left_out), "reason": reason, "blamed": blamed}
    both, reason, blamed = _explore_both(subject, many, deadline)
    counted = _count(tried + both["points"], left_out + both["left_out"])
    return {**counted, "reason": reason, "blamed": blamed}


def _explore_both(
    subject: Subject, many: bool, deadline: float
) -> Tuple[Dict[str, int], str, List[List[Any]]]:
    """Holds both calls, each before one of its lines, and lets the first one end first."""
    fitting = int((SECONDS / (2 * max(subject.seconds, 1e-4))) ** 0.5)
    most = max(2, min(MANY_PAIRS if many else USUAL_PAIRS, fitting))
    lines = [_lines_of(subject, i) for i in (0, 1)]
    points = [_points(places, most)[0] for places in lines]
    pairs = list(itertools.product(*points))
    for n, (one, two) in enumerate(pairs):
        if time.monotonic() > deadline:
            return _count(n, len(pairs) - n), "", []
        outcome = _try(subject, 0, 1, one, two)
        if outcome:
            held = [lines[k][ordinal] for k, ordinal in enumerate((one, two))]
            reason = (
                f"thread 1 was held before {shown_place(held[0])}, thread 2 before "
                f"{shown_place(held[1])}: {outcome}"
            )
            before = [lines[k][n - 1] for k, n in enumerate((one, two)) if n]
            return _count(n + 1, 0), reason, _shown(before)
    return _count(len(pairs), 0), "", []


def _shown(places: List[Place]) -> List[List[Any]]:
    shown = [[shown_file(file), line, function] for file, line, function in places]
    return [place for n, place in enumerate(shown) if place not in shown[:n]]


def _count(tried: int, left_out: int) -> Dict[str, int]:
    return {"points": tried, "left_out": left_out}


def _find_blamed(
    subject: Subject, requests: Tuple[int, int], ordinal: int, places: List[Place], outcome: str
) -> List[List[Any]]:
    """The lines after which a call is disturbed, and disturbs another one.

    The first is the line that thread 1 ran last. The second is searched for: thread 2 is held
    at ever fewer of its lines, as long as thread 1 still fails.
    """
    blamed = [places[ordinal - 1]] if ordinal else []
    if outcome.startswith("thread 1"):
        lines = _lines_of(subject, requests[1])
        low, high = 0, len(lines)  # disturbs when all of it ran, and not when nothing did
        while high - low > 1:
            middle = (low + high) // 2
            if _try(subject, *requests, ordinal, middle).startswith("thread 1"):
                high = middle
            else:
                low = middle
        blamed += [lines[high - 1]] if lines else []
    return _shown(blamed)


def _try(subject: Subject, i: int, j: int, ordinal: int, stop: Optional[int]) -> str:
    """Holds a call before a line, and lets another one run up to one of its own, or to its end."""
    restore = subject.save()
    one = Stepped(subject, i, ordinal)
    two: Held = Held(subject, j, (0, None), (END, 0))
    if stop is not None:
        two = Stepped(subject, j, stop)
    one.start()
    one.stopped.wait(subject.limit)
    two.start()
    two.stopped.wait(subject.limit / 20)
    one.stopped.clear()
    one.may_go_on.set()
    if stop is not None and one.is_alive():
        one.stopped.wait(subject.limit / 20)
    two.may_go_on.set()
    join(one, two, subject.limit)
    restore_after((one, two), restore)
    for number, thread in ((1, one), (2, two)):
        if thread.outcome != RIGHT:
            what = thread.outcome.replace(WRONG, "a silently wrong result")
            return f"thread {number} ended with {what}"
    return ""
