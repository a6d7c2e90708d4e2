"""Models that use threads, queues and events themselves, or that belong to one thread."""

import asyncio
import concurrent.futures
import queue
import sqlite3
import threading

import torch
from torch import nn

from zoo.entries import safe, unsafe
from zoo.inputs import five_rows, rows


class Body(nn.Module):
    """What the workers run: it keeps a value of the call."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        self.mean = x.mean(dim=0)
        y = self.lin(x)
        return y - self.mean


@safe(rows)
class OneWorker(nn.Module):
    """All calls are handed to one thread, one after the other."""

    def __init__(self):
        super().__init__()
        self.body = Body()
        self.jobs = queue.Queue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            x, future = self.jobs.get()
            with torch.no_grad():
                future.set_result(self.body(x))

    def forward(self, x):
        future = concurrent.futures.Future()
        self.jobs.put((x, future))
        return future.result()


@safe(rows)
class PoolOfOne(nn.Module):
    """The same with an executor."""

    def __init__(self):
        super().__init__()
        self.body = Body().requires_grad_(False)
        self.pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    def forward(self, x):
        return self.pool.submit(self.body, x).result()


@unsafe("wrong", rows, checked="its lines run in the threads of the pool")
class PoolOfTwo(nn.Module):
    """With two workers, two calls are in the body at once."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8).requires_grad_(False)
        self.pool = concurrent.futures.ThreadPoolExecutor(max_workers=2)

    def body(self, x):
        self.mean = x.mean(dim=0)  # blame
        y = self.lin(x)
        return y - self.mean

    def forward(self, x):
        return self.pool.submit(self.body, x).result()


@safe(rows)
class BranchesInThreads(nn.Module):
    """A call runs its two branches in threads of its own."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)
        self.requires_grad_(False)

    def forward(self, x):
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            left, right = pool.map(lambda layer: layer(x), (self.left, self.right))
        return left * right


@unsafe("wrong", rows)
class OneMailbox(nn.Module):
    """Results come back through a queue that all callers listen to."""

    def __init__(self):
        super().__init__()
        self.results = queue.Queue()

    def forward(self, x):
        self.results.put(x.sum(dim=0))  # blame
        y = x.relu()
        return y - self.results.get()


@unsafe("wrong", rows, says=("lock",))
class DoesNotWait(nn.Module):
    """Who does not get the lock goes on without the correction."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        y = x.relu()
        if self.lock.acquire(blocking=False):
            try:
                y = y - x.mean(dim=0)
            finally:
                self.lock.release()
        return y


@unsafe("wrong", rows)
class BusyFlag(nn.Module):
    """A flag that says "busy" sends the others another way."""

    def __init__(self):
        super().__init__()
        self.busy = threading.Event()

    def forward(self, x):
        scale = 0.5 if self.busy.is_set() else 1.0
        self.busy.set()  # blame
        y = x.relu()
        self.busy.clear()
        return y * scale


@unsafe("crash", rows, checked="a second thread is enough, without any overlap", says=("thread",))
class BelongsToItsThread(nn.Module):
    """SQLite's connections may only be used in the thread that made them."""

    def __init__(self):
        super().__init__()
        self.table = sqlite3.connect(":memory:")
        self.table.execute("create table scale (value real)")
        self.table.execute("insert into scale values (2.0)")

    def forward(self, x):
        (scale,) = self.table.execute("select value from scale").fetchone()
        return x * scale


@safe(rows)
class LoopOfTheCall(nn.Module):
    """A coroutine, with an event loop that the call makes."""

    async def run(self, x):
        await asyncio.sleep(0)
        return x.relu()

    def forward(self, x):
        return asyncio.run(self.run(x))


@unsafe("crash", rows, checked="two threads in one loop; each alone is right", says=("loop",))
class SharedLoop(nn.Module):
    """An event loop runs for one thread at a time."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()

    async def run(self, x):
        await asyncio.sleep(0.001)
        return x.relu()

    def forward(self, x):
        return self.loop.run_until_complete(self.run(x))


@safe(five_rows)
class Batches(nn.Module):
    """Calls that come together are computed as one batch: who is first does it for the others."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.lock, self.waiting = threading.Lock(), []

    def forward(self, x):
        future = concurrent.futures.Future()
        with self.lock:
            self.waiting.append((x, future))
        with self.lock:
            batch, self.waiting = self.waiting, []
        if batch:
            for each, waiter in batch:
                waiter.set_result(self.lin(each))
        return future.result(timeout=30)
