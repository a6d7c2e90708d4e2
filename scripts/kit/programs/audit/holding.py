"""Holds a call at its functions, and lets another thread work meanwhile with the same model."""

import contextlib
import random
import sys
import threading
import types
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Optional, Tuple

import torch

from . import code
from .interleaving import HUNG, RIGHT, WRONG, count
from .places import last_line, shown_file

TIMES = 2  # how often a call is held in each function, when it enters and when it leaves it
SPREAD = 64  # and how often besides, spread evenly over all of it

Slot = Tuple[str, str, str]  # the path of a submodule, its class, an attribute
At = Callable[[int, types.FrameType, str], None]


class Holder:
    """Calls a function where a call enters or leaves functions that are not torch's."""

    def __init__(self) -> None:
        self._known: Dict[types.CodeType, bool] = {}

    def _is_watched(self, frame: types.FrameType) -> bool:
        known = self._known.get(frame.f_code)
        if known is None:
            file = frame.f_code.co_filename
            known = not file.startswith(code.TORCH) and code.is_watched(file)
            self._known[frame.f_code] = known
        return known

    def run(self, call: Callable[[], Any], at: Callable[[int, types.FrameType, str], None]) -> Any:
        """Calls; `at` is told the ordinal of each of these events, its frame and its kind."""
        ordinal = -1

        def profile(frame: types.FrameType, event: str, _: object) -> None:
            nonlocal ordinal
            if event in ("call", "return") and self._is_watched(frame):
                ordinal += 1
                at(ordinal, frame, event)

        previous = sys.getprofile()
        sys.setprofile(profile)
        try:
            return call()
        finally:
            sys.setprofile(previous)

    def choose(self, call: Callable[[], Any]) -> Tuple[Any, FrozenSet[int]]:
        """Calls, and says where to hold the same call."""
        times: Dict[Any, int] = {}
        chosen: List[int] = []
        last = -1

        def note(ordinal: int, frame: types.FrameType, event: str) -> None:
            nonlocal last
            last = ordinal
            key = frame.f_code, event
            times[key] = times.get(key, 0) + 1
            if times[key] <= TIMES:
                chosen.append(ordinal)

        result = self.run(call, note)
        return result, frozenset(chosen) | frozenset(spread(range(last + 1), SPREAD))


def spread(values: Any, most: int) -> List[Any]:
    """So many of some values, evenly."""
    step = max(1.0, len(values) / most)
    return [values[int(n * step)] for n in range(min(most, len(values)))]


def attributes_of(module: torch.nn.Module) -> Dict[Slot, Any]:
    """What the modules of a model hold, such that it shows what is replaced."""
    held: Dict[Slot, Any] = {}
    for path, child in module.named_modules():
        kind = type(child).__name__
        for name, value in list(vars(child).items()):
            if name in ("_parameters", "_buffers", "_modules"):
                for key, part in list(value.items()):
                    held[path, kind, key] = (part, getattr(part, "_version", None))
            elif isinstance(value, dict):
                held[path, kind, name] = tuple(map(id, list(value.values())))
            else:
                held[path, kind, name] = (value, getattr(value, "_version", None))
    return held


def differing(before: Dict[Slot, Any], now: Dict[Slot, Any]) -> List[Slot]:
    """The attributes that were set, replaced or deleted, or changed in place."""
    missing = object()
    return [
        slot
        for slot in dict.fromkeys([*before, *now])
        if not _is_same(before.get(slot, missing), now.get(slot, missing))
    ]


def _is_same(one: Any, other: Any) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return False
    return len(one) == len(other) and all(
        a is b or (isinstance(a, _PLAIN) and type(a) is type(b) and a == b)
        for a, b in zip(one, other)
    )


_PLAIN = (bool, int, float, str, type(None))


@contextlib.contextmanager
def own_chance() -> Iterator[None]:
    """Gives the generators of random numbers their state back, as if nobody else had drawn."""
    numpy = sys.modules.get("numpy")
    uses_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    state, of_python = torch.get_rng_state(), random.getstate()
    of_cuda = torch.cuda.get_rng_state_all() if uses_cuda else None
    of_numpy = numpy.random.get_state() if numpy is not None and hasattr(numpy, "random") else None
    try:
        yield
    finally:
        torch.set_rng_state(state)
        random.setstate(of_python)
        if of_cuda is not None:
            torch.cuda.set_rng_state_all(of_cuda)
        if numpy is not None and of_numpy is not None:
            numpy.random.set_state(of_numpy)


class Elsewhere:
    """Lets another thread do something while this one is held, and notes how that ends.

    Args:
        seconds: How long it takes alone.
        limit: The seconds after which it counts as hung, once this thread goes on.
        is_right: Whether a result is the one of a request.

    Attributes:
        outcomes: How each ended.
        waited: Whether one had to wait for this thread, as for a lock.
    """

    def __init__(self, seconds: float, limit: float, is_right: Callable[[int, Any], bool]) -> None:
        self.outcomes: List[str] = []
        self.waited = False
        self._limit, self._patience = limit, max(2.0, 20 * seconds)
        self._is_right = is_right
        self._waiting: Optional[threading.Thread] = None

    def do(self, function: Callable[[int], Any], i: int) -> str:
        """Does it, and returns how it ended; "" if it waits for this thread, as for a lock."""
        if self._waiting is not None and self._waiting.is_alive():
            return ""
        place = len(self.outcomes)
        self.outcomes.append(HUNG)

        def work() -> None:
            try:
                self.outcomes[place] = RIGHT if self._is_right(i, function(i)) else WRONG
            except BaseException as error:
                self.outcomes[place] = last_line(error)

        self._waiting = threading.Thread(target=work, daemon=True)
        self._waiting.start()
        self._waiting.join(self._patience)
        if self._waiting.is_alive():
            self.waited = True
            self._patience /= 20
            return ""
        return self.outcomes[place]

    def end(self) -> Dict[str, int]:
        """Waits for what has waited, and counts how all of it ended."""
        if self._waiting is not None:
            self._waiting.join(self._limit)
        return count(self.outcomes)


def at_point(point: int, do: Callable[[], Any]) -> At:
    """What does something at one point, and lets the call go on as if alone."""

    def at(ordinal: int, frame: types.FrameType, event: str) -> None:
        if ordinal == point:
            with own_chance():
                do()

    return at


def stack_of(frame: Optional[types.FrameType]) -> List[List[Any]]:
    """The lines that a call is at, outside of torch and of this program."""
    lines = []
    while frame is not None:
        file = frame.f_code.co_filename
        if code.is_watched(file) and not file.startswith(code.TORCH):
            lines.append([shown_file(file), frame.f_lineno, frame.f_code.co_name])
        frame = frame.f_back
    return lines[:20]
