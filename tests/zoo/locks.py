"""Locks, good and bad, and the other means that keep threads apart."""

import contextvars
import copy
import functools
import queue
import threading
import time

import torch
from torch import nn

from zoo.entries import safe, unsafe
from zoo.inputs import rows


class Stateful(nn.Module):
    """What the lock is for: a mean that is kept in `self`."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def run(self, x):
        self.mean = x.mean(dim=0)
        y = self.lin(x)
        return y - self.mean


@safe(rows, quick=True)
class UnderLock(Stateful):
    """One call at a time."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return self.run(x)


@safe(rows)
class UnderManyWrites(nn.Module):
    """One call at a time, of a model that writes twenty attributes."""

    def __init__(self):
        super().__init__()
        self.lock = threading.RLock()
        self.blocks = nn.ModuleList(Stateful() for _ in range(20))

    def forward(self, x):
        with self.lock:
            for block in self.blocks:
                x = block.run(x)
        return x


_lock = threading.Lock()


@safe(rows)
class UnderGlobalLock(Stateful):
    """A lock of the module, by a decorator's wrapper."""

    def forward(self, x):
        _lock.acquire()
        try:
            return self.run(x)
        finally:
            _lock.release()


@unsafe("wrong", rows)
class LockLetGoTooEarly(nn.Module):
    """The write is under the lock, the read is not."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            self.mean = x.mean(dim=0)  # blame
        y = x.relu()
        return y - self.mean


@unsafe("wrong", rows)
class LockOfTheCall(nn.Module):
    """A lock that each call makes for itself keeps nobody out."""

    def forward(self, x):
        with threading.Lock():
            self.mean = x.mean(dim=0)  # blame
            y = x.relu()
            return y - self.mean


@unsafe("wrong", rows)
class LetsTwoIn(nn.Module):
    """A semaphore of two, which bounds the memory, lets two calls in."""

    def __init__(self):
        super().__init__()
        self.slots = threading.Semaphore(2)

    def forward(self, x):
        with self.slots:
            self.mean = x.mean(dim=0)  # blame
            y = x.relu()
            return y - self.mean


@unsafe("hang", rows, quick=True, says=("hang|hung|wait",))
class OppositeOrder(nn.Module):
    """Two locks, in an order that the input decides: two calls wait for each other forever."""

    def __init__(self):
        super().__init__()
        self.encoder_lock = threading.Lock()
        self.decoder_lock = threading.Lock()

    def forward(self, x):
        locks = [self.encoder_lock, self.decoder_lock]
        if x.size(0) % 2:
            locks.reverse()
        with locks[0]:
            y = x.relu()
            time.sleep(0.001)
            with locks[1]:
                return y.sum(dim=0)


@safe(rows)
class SameOrder(nn.Module):
    """Two locks, always in one order."""

    def __init__(self):
        super().__init__()
        self.encoder_lock = threading.Lock()
        self.decoder_lock = threading.Lock()

    def forward(self, x):
        with self.encoder_lock:
            self.state = x.relu()
            with self.decoder_lock:
                return self.state.sum(dim=0)


@unsafe("hang", rows, says=("hang|hung|wait",))
class WaitsForTurn(nn.Module):
    """A turn is handed out in the order of arrival and never given back by who finds it taken."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Condition()
        self.busy = 0

    def forward(self, x):
        with self.gate:
            self.busy += 1
        y = x.relu()
        with self.gate:
            # Meant for "the last one out"; with two inside, both wait to be the only one.
            while self.busy > 1:
                self.gate.wait()
            self.busy -= 1
        return y


@safe(rows)
class ThreadLocal(nn.Module):
    """Each thread has a state of its own."""

    def __init__(self):
        super().__init__()
        self.local = threading.local()

    def forward(self, x):
        self.local.mean = x.mean(dim=0)
        y = x.relu()
        return y - self.local.mean


@safe(rows)
class BufferOfTheThread(nn.Module):
    """Each thread makes a buffer of its own, on first use."""

    def __init__(self):
        super().__init__()
        self.local = threading.local()

    def forward(self, x):
        if not hasattr(self.local, "rows"):
            self.local.rows = torch.zeros(8, 8)
        mine = self.local.rows[: x.size(0)]
        mine.copy_(x)
        total = x.sum()
        return mine / total


class Scratch:
    """What a call works with."""

    mean = None


class ScratchByThread(threading.local):
    """Makes one for each thread."""

    def __init__(self):
        self.scratch = Scratch()
        self.rows = []


@safe(rows)
class ObjectOfTheThread(nn.Module):
    """Each thread has an object and a list, made when it first asks for them."""

    def __init__(self):
        super().__init__()
        self.own = ScratchByThread()

    def forward(self, x):
        scratch, rows = self.own.scratch, self.own.rows
        scratch.mean = x.mean(dim=0)
        rows.clear()
        rows.append(x.relu())
        return rows[0] - scratch.mean


@functools.lru_cache(maxsize=None)
def _the_scratch():
    return Scratch()


@unsafe("wrong", rows)
class ObjectOfAllThreads(nn.Module):
    """Each thread has a variable of its own, and all of them lead to the same object."""

    def __init__(self):
        super().__init__()
        self.local = threading.local()

    def forward(self, x):
        if not hasattr(self.local, "scratch"):
            self.local.scratch = _the_scratch()
        scratch = self.local.scratch
        scratch.mean = x.mean(dim=0)  # blame
        y = x.relu()
        return y - scratch.mean


_mean: contextvars.ContextVar = contextvars.ContextVar("mean")


@safe(rows)
class ContextVariable(nn.Module):
    """Each thread has a context of its own."""

    def forward(self, x):
        token = _mean.set(x.mean(dim=0))
        y = x.relu()
        out = y - _mean.get()
        _mean.reset(token)
        return out


_scratch: contextvars.ContextVar = contextvars.ContextVar("scratch")


@safe(rows)
class ObjectOfTheContext(nn.Module):
    """The same, with an object that stays there."""

    def forward(self, x):
        try:
            scratch = _scratch.get()
        except LookupError:
            scratch = Scratch()
            _scratch.set(scratch)
        scratch.mean = x.mean(dim=0)
        y = x.relu()
        return y - scratch.mean


@functools.lru_cache(maxsize=4)
def _positions(n):
    return torch.arange(n, dtype=torch.float).unsqueeze(1)


@safe(rows)
class LruCache(nn.Module):
    """`lru_cache` hands each caller what belongs to its arguments."""

    def forward(self, x):
        return x + _positions(x.size(0))


@safe(rows, says=("one call",))
class CachedProperty(nn.Module):
    """Computed once from what does not change."""

    @functools.cached_property
    def frequencies(self):
        return torch.arange(8).exp2()

    def forward(self, x):
        return (x * self.frequencies).sin()


@safe(rows)
class BuiltUnderLock(nn.Module):
    """A table that is built on first use, checked twice, under a lock."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.table = None

    def forward(self, x):
        if self.table is None:
            with self.lock:
                if self.table is None:
                    self.table = torch.linspace(0, 1, 8)
        return x * self.table


@safe(rows, says=("one call",))
class BuiltInTwoSteps(nn.Module):
    """The flag is up before the table is there: safe only if one call is made before the rest."""

    def __init__(self):
        super().__init__()
        self.ready = False

    def forward(self, x):
        if not self.ready:
            self.ready = True
            self.table = torch.linspace(0, 1, 8)
        return x * self.table


@safe(rows)
class PoolOfModels(nn.Module):
    """Each call takes a copy out of a queue, and puts it back."""

    def __init__(self):
        super().__init__()
        self.pool = queue.Queue()
        body = Stateful()
        for _ in range(3):
            self.pool.put(copy.deepcopy(body))

    def forward(self, x):
        body = self.pool.get()
        try:
            return body.run(x)
        finally:
            self.pool.put(body)


@safe(rows)
class CopyOfTheCall(nn.Module):
    """Each call runs a shallow copy of the part that keeps state."""

    def __init__(self):
        super().__init__()
        self.body = Stateful()

    def forward(self, x):
        return copy.copy(self.body).run(x)
