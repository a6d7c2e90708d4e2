"""Forces two calls to interleave at the places where they read and change a slot."""

import dataclasses
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from . import listening, slots
from .calls import Subject
from .listening import Listener
from .places import Place, last_line, shown_place
from .recording import Access, slot_key
from .slots import UNSET, SlotKey
from .values import outline

MAX_PAIRS = 64  # of a place in each call, for each slot
READ, WRITE, LOCK, END = "read", "write", "lock", "end"

Point = Tuple[str, int]  # the kind of an access, and its ordinal in the call

RIGHT, WRONG, HUNG = "right", "silently wrong", "hung"


class Held(threading.Thread, Listener):
    """A call in a thread of its own, which stops at one access until it may go on.

    Args:
        subject: What is called.
        i: The request.
        slot: Of which accesses are counted.
        point: The one to stop at: before a read, after a change.
        alone: Whether it reads what it has written itself to other attributes, such that a
            mix-up is one of the slot in question.
    """

    def __init__(
        self, subject: Subject, i: int, slot: SlotKey, point: Point, alone: bool = False
    ) -> None:
        threading.Thread.__init__(self, daemon=True)
        Listener.__init__(self)
        self.subject, self.i, self.slot, self.point = subject, i, slot, point
        self.is_alone = alone
        self.own: Dict[SlotKey, Any] = {}
        self.alive: List[Any] = []  # so that the ids of containers stay their own
        self.ordinal = point[1]
        self.stopped, self.may_go_on = threading.Event(), threading.Event()
        self.lock: Any = None  # the one that it waits for
        self.waited = False
        self.abandoned = False
        self.outcome = HUNG
        self.other: Optional[Held] = None
        self.written = 0  # how often it has changed the slot
        self.took = False  # whether it read what the other one wrote
        self.fresh = False  # whether its own change is the last one

    def _pause(self) -> None:
        self.stopped.set()
        self.may_go_on.wait(6 * self.subject.limit)
        self.stopped.clear()

    def _count(self, kind: str) -> None:
        if kind != self.point[0]:
            return
        self.ordinal -= 1
        if self.ordinal == -1:
            self._pause()

    def reading(self, container: Any, key: Optional[str], owner: Any) -> Any:
        """Stops before the read that is sought."""
        slot = slot_key(container, key)
        if slot != self.slot:
            return self.own.get(slot, UNSET) if self.is_alone and key is not None else UNSET
        self._count(READ)
        if self.other is not None and self.other.written and not self.fresh:
            self.took = True
        return UNSET

    def wrote(self, container: Any, key: Optional[str], owner: Any, value: Any, how: str) -> None:
        """Stops after the change that is sought."""
        slot = slot_key(container, key)
        if slot == self.slot:
            self.written += 1
            self.fresh = True
            if self.other is not None:
                self.other.fresh = False
            self._count(WRITE)
        elif key is not None:
            self.alive.append(container)
            self.own[slot] = slots.DELETED if value is UNSET else value

    def holds(self, value: Any, container: Any, key: Optional[str], owner: Any) -> None:
        """A read of what a tensor holds counts as one."""
        content = slots.where_content_is(value)
        if content is not None and slot_key(content, None) == self.slot:
            self.reading(content, None, content)

    def acquiring(self, lock: Any) -> None:
        """Stops before the lock that is sought."""
        if self.point[0] == LOCK and id(lock) == self.slot[0] and self.held:
            self._count(LOCK)

    def waits(self, lock: Any) -> None:
        """Tells that another thread has to go on first."""
        self.lock = lock
        if lock is not None:
            self.waited = True
            self.stopped.set()

    def is_abandoned(self) -> bool:
        """Whether nobody will release the lock."""
        return self.abandoned

    def run(self) -> None:
        """Calls, and notes how the call ended."""
        try:
            with listening.listening(self):
                result = self.subject.call(self.i)
            self.outcome = RIGHT if self.subject.is_right(self.i, result) else WRONG
        except listening.Abandoned:
            self.outcome = HUNG
        except BaseException as error:
            self.outcome = last_line(error)
        finally:
            self.stopped.set()

    def is_locked_out_by(self, other: "Held") -> bool:
        """Whether it waits for a lock that the other one holds."""
        return self.lock is not None and any(self.lock is held for held in other.held)


def interleave(one: Held, two: Held, hurry: bool) -> bool:
    """Holds one, lets the other one run up to its access, and lets both go on in turn.

    Returns:
        Whether neither had to wait for the other one, as for a lock. If that is known
        of the calls, `hurry` shortens the wait.
    """
    limit = one.subject.limit
    patience = limit / 20 if hurry else limit
    one.other, two.other = two, one
    one.start()
    one.stopped.wait(limit)
    two.start()
    free = two.stopped.wait(patience)
    one.stopped.clear()
    one.may_go_on.set()
    # It sets this when it ends, too.
    free &= not one.is_alive() or one.stopped.wait(patience)
    two.may_go_on.set()
    join(one, two, limit)
    return free and not one.waited and not two.waited


def join(one: Held, two: Held, limit: float) -> None:
    """Waits for both to end; those who wait for each other's locks never will."""
    deadline = time.monotonic() + limit
    step = 0.001
    while one.is_alive() or two.is_alive():
        stuck = one.is_locked_out_by(two) and two.is_locked_out_by(one)
        if stuck or time.monotonic() > deadline:
            one.abandoned = two.abandoned = True
        for each in (one, two):
            each.join(step)
        step = min(0.05, step * 2)
        if time.monotonic() > deadline + 1:
            return


def restore_after(threads: Sequence[Held], restore: Callable[[], None]) -> None:
    """Restores the model if a call has failed: a call that ended well has left it as it wants."""
    if any(thread.outcome != RIGHT for thread in threads):
        restore()


def count(outcomes: List[str]) -> Dict[str, int]:
    """Counts how calls ended."""
    right, wrong, hung = (outcomes.count(each) for each in (RIGHT, WRONG, HUNG))
    return {
        "calls": len(outcomes),
        "right": right,
        "crashed": len(outcomes) - right - wrong - hung,
        "silently_wrong": wrong,
        "hung": hung,
    }


def some(places: List[Place]) -> List[int]:
    """The ordinals of the first and the last access in each line."""
    first: Dict[Tuple[str, int], int] = {}
    last: Dict[Tuple[str, int], int] = {}
    for ordinal, place in enumerate(places):
        first.setdefault(place[:2], ordinal)
        last[place[:2]] = ordinal
    return sorted({*first.values(), *last.values()})


@dataclasses.dataclass
class Forced:
    """How calls ended that were forced to interleave.

    Attributes:
        outcomes: One of each call.
        pairs: How many pairs of places were tried.
        left_out: How many were not.
        blocked: In how many one thread waited for the other one.
        reason: What went wrong first; "" if nothing did.
        apart: Whether that was so, too, with what a thread wrote elsewhere kept for itself.
        took: Whether a call read what the other one had written.
    """

    outcomes: List[str] = dataclasses.field(default_factory=list)
    pairs: int = 0
    left_out: int = 0
    blocked: int = 0
    reason: str = ""
    apart: bool = True
    took: bool = False


def rank_pairs(subject: Subject, accesses: List[Optional[Access]]) -> List[Tuple[int, int]]:
    """Which requests to pair: those whose mix-up is silent, then those of other shapes."""
    requests, shown = subject.requests, subject.tolerance.shown
    results = [shown(result) for result in subject.results]
    outlines = [repr(outline(result)) for result in results]
    pairs = [
        (i, j)
        for i, one in enumerate(accesses)
        for j, two in enumerate(accesses)
        if i != j and one and (one.reads or one.writes) and two and two.writes
    ]
    rank = {(i, j): (results[i] == results[j], outlines[i] != outlines[j]) for i, j in pairs}
    pairs.sort(key=lambda pair: rank[pair])
    chosen = pairs[:2] + [pair for pair in pairs[2:] if rank[pair][1]][:1]
    methods = {(requests[i].method, requests[j].method) for i, j in chosen}
    for i, j in pairs[2:]:  # each method with each other one
        between = (requests[i].method, requests[j].method)
        if between not in methods:
            methods.add(between)
            chosen.append((i, j))
    return chosen


def points_of(one: Access, two: Access) -> List[Tuple[Point, Point]]:
    """Where to hold two calls: the first before a read or after a change, the second after one."""
    ends: List[Point] = [(WRITE, ordinal) for ordinal in some(two.writes)]
    ends.append((END, 0))
    reads: List[Point] = [(READ, ordinal) for ordinal in some(one.reads)]
    changes: List[Point] = [(WRITE, ordinal) for ordinal in some(one.writes)]
    return [(p, w) for p in (*reads, *changes) for w in ends]


def force(subject: Subject, accesses: List[Optional[Access]], deadline: float) -> Forced:
    """Forces the interleavings at one slot.

    Args:
        subject: What is called.
        accesses: How each request accesses the slot.
        deadline: When to stop, by the clock of `time.monotonic`.
    """
    forced = Forced()
    for i, j in rank_pairs(subject, accesses):
        one, two = accesses[i], accesses[j]
        assert one is not None and two is not None
        points = points_of(one, two)
        forced.left_out += max(0, len(points) - (MAX_PAIRS - forced.pairs))
        for n, (p, w) in enumerate(points[: max(0, MAX_PAIRS - forced.pairs)]):
            if time.monotonic() > deadline:
                forced.left_out += len(points) - n
                return forced
            if _force_one(subject, (i, j), (one, two), (p, w), forced):
                return forced
    return forced


def _force_one(
    subject: Subject,
    requests: Tuple[int, int],
    accesses: Tuple[Access, Access],
    points: Tuple[Point, Point],
    forced: Forced,
) -> bool:
    """Tries one interleaving, and says whether that was enough."""
    one, two = accesses
    slots = slot_key(one.container, one.key), slot_key(two.container, two.key)
    threads = _run(subject, requests, slots, points, False, forced)
    forced.pairs += 1
    ended = [thread.outcome for thread in threads]
    forced.outcomes += ended
    forced.took |= any(thread.took for thread in threads)
    bad = [k for k in (0, 1) if ended[k] != RIGHT]
    if not bad:
        return False
    # A crash says more than a wrong result.
    bad.sort(key=lambda k: ended[k] == WRONG)
    apart = _run(subject, requests, slots, points, True, forced)
    is_apart = any(thread.outcome != RIGHT for thread in apart)
    if not forced.reason or is_apart:
        forced.apart = is_apart
        what = ended[bad[0]].replace(WRONG, "a silently wrong result")
        forced.reason = "thread 1 was held {}, thread 2 {}: thread {} {}".format(
            _shown_point(points[0], one),
            _shown_point(points[1], two),
            bad[0] + 1,
            "hung" if what == HUNG else "ended with " + what,
        )
    return is_apart or any(thread.is_alive() for thread in (*threads, *apart))


def _run(
    subject: Subject,
    requests: Tuple[int, int],
    slots: Tuple[SlotKey, SlotKey],
    points: Tuple[Point, Point],
    alone: bool,
    forced: Forced,
) -> List[Held]:
    restore = subject.save()
    threads = [Held(subject, requests[k], slots[k], points[k], alone) for k in (0, 1)]
    free = interleave(threads[0], threads[1], hurry=forced.blocked > 0)
    forced.blocked += not free
    restore_after(threads, restore)
    return threads


def _shown_point(point: Point, access: Access) -> str:
    kind, ordinal = point
    if kind == END:
        return "at its end"
    if kind == READ:
        return "before " + shown_place(access.reads[ordinal])
    return "after " + shown_place(access.writes[ordinal])


def force_locks(
    subject: Subject, requests: Tuple[int, int], locks: Tuple[Any, Any]
) -> Optional[List[Held]]:
    """Lets two calls take two locks in opposite order.

    Args:
        subject: What is called.
        requests: The first holds the second lock and takes the first one, the other one the
            other way round.
        locks: The lock that each takes second.
    """
    threads = [Held(subject, requests[k], (id(locks[k]), None), (LOCK, 0), False) for k in (0, 1)]
    restore = subject.save()
    interleave(threads[0], threads[1], hurry=True)
    restore_after(threads, restore)
    return threads
