"""Who hears of what a thread does: of slots that it reads and changes, and of its locks."""

import concurrent.futures
import contextlib
import threading
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from .slots import LOCKS, UNSET

# Who is told of what a thread does, by the thread's identifier.
listeners: Dict[int, "Listener"] = {}
ident = threading.get_ident
# Who is told of what all other threads do, such as workers of the model's own: the last one.
_everyone: List["Listener"] = []
# The threads of pools with several workers: any of them may run the next call.
pooled: Set[int] = set()


def current() -> Optional["Listener"]:
    """Who is told of what this thread does."""
    listener = listeners.get(ident())
    return listener if listener is not None or not _everyone else _everyone[-1]


class Listener:
    """Hears of what one thread does to slots and locks. Each subclass does something with it."""

    def __init__(self) -> None:
        self.held: List[Any] = []  # the locks, in their order
        # The __dict__ of objects that code has asked for: its keys are attributes.
        self.namespaces: Dict[int, Tuple[Any, Any]] = {}

    def reading(self, container: Any, key: Optional[str], owner: Any) -> Any:
        """Is told before a slot is read, and may answer in its place (UNSET: no answer)."""
        return UNSET

    def wrote(self, container: Any, key: Optional[str], owner: Any, value: Any, how: str) -> None:
        """Is told after a slot was changed."""

    def holds(self, value: Any, container: Any, key: Optional[str], owner: Any) -> None:
        """Is told what was read."""

    def waits(self, lock: Any) -> None:
        """Is told that another thread has the lock; with None, that it has it now."""

    def acquiring(self, lock: Any) -> None:
        """Is told before a lock is acquired."""

    def is_abandoned(self) -> bool:
        """Whether to give up waiting for a lock."""
        return False


class Abandoned(BaseException):
    """Raised in a thread that waits for a lock it will never get."""


@contextlib.contextmanager
def listening(listener: Listener, to_all: bool = False) -> Iterator[Listener]:
    """Tells a listener of what this thread does, and what it hands to workers of a pool.

    Args:
        listener: Who is told.
        to_all: Whether it is told of threads that nobody else listens to as well.
    """
    before = listeners.get(ident())
    listeners[ident()] = listener
    if to_all:
        _everyone.append(listener)
    try:
        yield listener
    finally:
        if before is None:
            listeners.pop(ident(), None)
        else:
            listeners[ident()] = before
        if to_all:
            _everyone.remove(listener)


@contextlib.contextmanager
def following_pools() -> Iterator[None]:
    """Lets the workers of thread pools be listened to as those who hand them work."""
    pool = concurrent.futures.ThreadPoolExecutor
    submit = pool.submit

    def follow(executor: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        listener = listeners.get(ident())
        if listener is None:
            return submit(executor, function, *args, **kwargs)

        def run(*given: Any, **named: Any) -> Any:
            if executor._max_workers > 1:
                pooled.add(ident())
            with listening(listener):
                return function(*given, **named)

        return submit(executor, run, *args, **kwargs)

    pool.submit = follow  # type: ignore[method-assign,assignment,unused-ignore]
    try:
        yield
    finally:
        pool.submit = submit  # type: ignore[method-assign,unused-ignore]


def enter(value: Any) -> Any:
    """The context manager of a `with`."""
    listener = current()
    if listener is None or not isinstance(value, LOCKS):
        return value
    return _Entered(listener, value)


class _Entered:
    """A lock that is held while a block runs."""

    def __init__(self, listener: Listener, lock: Any) -> None:
        self._listener, self._lock = listener, lock

    def __enter__(self) -> Any:
        acquire(self._listener, self._lock)
        return True if not isinstance(self._lock, threading.Condition) else self._lock

    def __exit__(self, *_: object) -> None:
        release(self._listener, self._lock)


def acquire(listener: Listener, lock: Any) -> None:
    """Acquires a lock, and says so if that has to wait."""
    listener.acquiring(lock)
    if not lock.acquire(False):
        listener.waits(lock)
        while not _acquire_for(lock, 0.05):
            if listener.is_abandoned():
                raise Abandoned
        listener.waits(None)
    listener.held.append(lock)


def _acquire_for(lock: Any, seconds: float) -> bool:
    return bool(lock.acquire(True, seconds))


def release(listener: Listener, lock: Any) -> None:
    """Releases a lock."""
    for i in range(len(listener.held) - 1, -1, -1):
        if listener.held[i] is lock:
            del listener.held[i]
            break
    lock.release()


def lock_method(listener: Listener, lock: Any, name: str) -> Any:
    """A method of a lock, such that acquiring and releasing are heard of."""
    if name in ("acquire", "__enter__"):

        def acquire_it(blocking: bool = True, timeout: float = -1) -> bool:
            if blocking and timeout in (-1, None):
                acquire(listener, lock)
                return True
            got = bool(lock.acquire(blocking, timeout))
            if got:
                listener.held.append(lock)
            return got

        return acquire_it
    if name in ("release", "__exit__"):
        return lambda *_: release(listener, lock)
    return getattr(lock, name)
