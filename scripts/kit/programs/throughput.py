"""Runs inside a PyG environment, and imports nothing of the kit.

    python throughput.py CLASS TEST SECONDS THREADS[,...] GRAPH[,...] WAY[=FILE] ...

Measures how one layer serves many threads, in each of the ways that people do it.
PYTHONPATH is the pristine tree of a release; TEST is the threaded regression test of
the layer, which builds it and its graphs. A GRAPH is `small` or `middle`, and a WAY

    unpatched       one layer, shared as it is
    patched=FILE    one shared layer, of the class in FILE, which the kit patched
    upstream=FILE   one shared layer, of the class in FILE, which upstream fixed
    lock            the unpatched layer, behind a lock
    deepcopy        a copy of the unpatched layer for each thread
    processes       a pool of processes, as many as threads, with an unpatched layer each

The ways are measured in turn, in slices, such that what else the machine does hits all
of them. Prints one line of JSON: a row for each way, number of threads and graph.
"""

import contextlib
import copy
import json
import math
import multiprocessing
import os
import pickle
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import psutil
import torch
from prove import load

GRAPHS = {"small": (100, 500), "middle": (10_000, 100_000)}  # nodes, edges
SEEDS = [1, 2, 3, 4]  # one for each input
OWN_WAYS = ("unpatched", "lock", "deepcopy", "processes")
FILE_WAYS = ("patched", "upstream")

SLICES = 4
WARM_UP_CALLS = 2  # of each thread, in each slice

# In seconds. No wait is longer: for the end of a slice, and for a worker's first answer.
SLICE_LIMIT = 60.0
START_LIMIT = 60.0  # times the number of workers, since they share the cores

Inputs = dict[str, torch.Tensor]
Call = Callable[[Inputs], list[torch.Tensor]]


class BrokenError(Exception):
    """What makes a measurement worthless: a worker that is gone, or a call that hangs."""


class CrashedError(Exception):
    """A call that crashed in a worker, with its traceback."""


def flatten(result: object) -> list[torch.Tensor]:
    """Lists the tensors of a result."""
    if isinstance(result, torch.Tensor):
        return [result]
    assert isinstance(result, (tuple, list))
    return [tensor for item in result for tensor in flatten(item)]


def get_call(conv: torch.nn.Module, test: ModuleType) -> Call:
    """What serves a request: one call for inference."""
    options = test.WITH_WEIGHTS

    def call(inputs: Inputs) -> list[torch.Tensor]:
        with torch.no_grad():  # of this thread only
            return flatten(conv(**inputs, **options))

    return call


def build_layer(test: ModuleType, name: str, file: str | None, number: int) -> torch.nn.Module:
    """Builds the layer of the tree, or one of the class in a file."""
    own = getattr(test, name)
    if file is not None:
        # Under the package of the tree's own layer, such that its imports resolve.
        module = load(f"{own.__module__}_variant{number}", file)
        setattr(test, name, getattr(module, name))
    conv: torch.nn.Module = test.get_conv()
    setattr(test, name, own)
    return conv


def model_bytes(conv: torch.nn.Module) -> int:
    """What the weights of a layer take."""
    tensors = [*conv.parameters(), *conv.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def pack(message: object) -> bytes:
    """Makes bytes of a message, whose tensors have become arrays.

    A tensor can be sent as well, and then goes through shared memory: that takes 2 ms a
    call for a small graph instead of 0.2, and not much less for a middle one.
    """
    return pickle.dumps(message, protocol=5)


def serve(connection: Connection, test_file: str, state: dict[str, Any]) -> None:
    """What a worker does: it builds the layer, and answers until it is ended."""
    torch.set_num_threads(1)
    test = load("regression_test", test_file)
    conv = test.get_conv()
    conv.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    call = get_call(conv, test)
    while True:
        try:
            request = pickle.loads(connection.recv_bytes())  # noqa: S301
        except EOFError:  # The parent is gone.
            return
        try:
            result = call({key: torch.from_numpy(array) for key, array in request.items()})
            answer: object = [tensor.numpy() for tensor in result]
        except Exception:
            answer = traceback.format_exc()
        connection.send_bytes(pack(answer))


class Pool:
    """Processes with a layer each, which take the requests of all threads.

    Attributes:
        start_s: Seconds until each of them has imported PyG, and has answered once.
    """

    def __init__(
        self, size: int, conv: torch.nn.Module, test_file: str, first_inputs: Inputs
    ) -> None:
        # A fork of a process that has threads can hang: torch has some, and so has this one.
        context = multiprocessing.get_context("spawn")
        state = {key: tensor.numpy() for key, tensor in conv.state_dict().items()}
        self.workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self.idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        start = time.perf_counter()
        try:
            for _ in range(size):
                connection, end = context.Pipe()
                arguments = (end, test_file, state)
                process = context.Process(target=serve, args=arguments, daemon=True)
                process.start()
                end.close()  # Only the worker holds it now: if that dies, reading fails.
                self.workers.append((process, connection))
            for _, connection in self.workers:
                with contextlib.suppress(OSError):
                    self.send(connection, first_inputs)
            for number, (_, connection) in enumerate(self.workers):
                if not connection.poll(max(0, start + START_LIMIT * size - time.perf_counter())):
                    raise BrokenError(f"Worker {number} has not started in time.")
                # How this call ends is its own matter, as long as there is an answer.
                with contextlib.suppress(CrashedError):
                    self.receive(number)
                self.idle.put(number)
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - start

    def send(self, connection: Connection, inputs: Inputs) -> None:
        """Sends a request."""
        connection.send_bytes(pack({key: tensor.numpy() for key, tensor in inputs.items()}))

    def receive(self, number: int) -> list[torch.Tensor]:
        """Waits for the answer of a worker.

        Raises:
            CrashedError: The call has crashed.
            BrokenError: The worker is gone.
        """
        process, connection = self.workers[number]
        try:
            answer = pickle.loads(connection.recv_bytes())  # noqa: S301
        except (EOFError, OSError) as error:
            process.join(1)
            message = f"Worker {number} has ended, with exit status {process.exitcode}."
            raise BrokenError(message) from error
        if isinstance(answer, str):
            raise CrashedError(answer)
        return [torch.from_numpy(array) for array in answer]

    def call(self, inputs: Inputs) -> list[torch.Tensor]:
        """Lets a worker that is idle serve a request."""
        number = self.idle.get()
        try:
            # If the worker is gone, receiving says so.
            with contextlib.suppress(OSError):
                self.send(self.workers[number][1], inputs)
            return self.receive(number)
        finally:
            self.idle.put(number)  # even if it is gone: the next thread shall not wait for it

    def get_bytes(self) -> int:
        """The memory that the workers have to themselves, or all, where it is not known."""
        found = 0
        for worker, _ in self.workers:
            process = psutil.Process(worker.pid)
            try:
                found += process.memory_full_info().uss
            except (psutil.AccessDenied, AttributeError):
                print("The memory that workers share counts, too.", file=sys.stderr)
                found += process.memory_info().rss
        return found

    def close(self) -> None:
        """Ends the workers, whatever they do. They have nothing to lose."""
        for process, _ in self.workers:
            process.terminate()
        for process, connection in self.workers:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()


class Way:
    """One way to serve threads.

    Attributes:
        name: What it is called.
        calls: What each thread calls.
        model_bytes: What the weights of all its layers take.
        start_s: Seconds to copy the layer, or to start the processes.
        pool: The processes, if it is one.
    """

    def __init__(
        self,
        name: str,
        conv: torch.nn.Module,
        test: ModuleType,
        threads: int,
        make_pool: Callable[[int], Pool],
    ) -> None:
        self.name = name
        self.pool: Pool | None = None
        self.start_s: float | None = None
        convs = [conv]
        call = get_call(conv, test)
        self.calls = [call] * threads
        if name == "lock":
            lock = threading.Lock()

            def call_alone(inputs: Inputs) -> list[torch.Tensor]:
                with lock:
                    return call(inputs)

            self.calls = [call_alone] * threads
        elif name == "deepcopy":
            start = time.perf_counter()
            convs = [copy.deepcopy(conv) for _ in range(threads)]
            self.start_s = time.perf_counter() - start
            self.calls = [get_call(each, test) for each in convs]
        elif name == "processes":
            self.pool = make_pool(threads)
            self.start_s = self.pool.start_s
            self.calls = [self.pool.call] * threads
            convs = [conv] * threads
        self.model_bytes = sum(map(model_bytes, convs))


class Tally:
    """How the calls of one way ended, on one graph.

    Attributes:
        slices: Calls and seconds of each slice.
        latencies: Seconds of each call that returned something.
        ends: How many calls were right, crashed, or were silently wrong.
    """

    def __init__(self) -> None:
        self.slices: list[tuple[int, float]] = []
        self.latencies: list[float] = []
        self.ends = {"right": 0, "crashed": 0, "silently_wrong": 0}
        self.first_crash = ""

    def percentile(self, share: float) -> float | None:
        """The latency that this share of the calls do not exceed, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[math.ceil(share * len(ordered)) - 1] * 1e3 if ordered else None


def run_slice(
    way: Way,
    inputs: list[Inputs],
    expected: list[list[torch.Tensor]],
    seconds: float,
    tally: Tally,
) -> None:
    """Lets all threads call at once, each as soon as its last call has ended.

    Raises:
        BrokenError: A worker is gone, or a call does not end.
    """
    start = 0.0

    def begin() -> None:
        nonlocal start
        start = time.perf_counter()

    barrier = threading.Barrier(len(way.calls), action=begin)
    seen: list[tuple[float, list[float], dict[str, int]]] = []
    broken: list[BaseException] = []

    def work(offset: int) -> None:
        call = way.calls[offset]
        latencies: list[float] = []
        ends = {"right": 0, "crashed": 0, "silently_wrong": 0}
        for i in range(WARM_UP_CALLS):
            try:
                call(inputs[(offset + i) % len(inputs)])
            except BrokenError:
                raise
            except Exception:  # noqa: S110 - it crashes in what is counted, too
                pass
        barrier.wait(SLICE_LIMIT)
        # Neighbours are at different inputs. Who takes the values of a call with the same
        # input is right by luck, and counts as right.
        number = offset
        now = start
        while now < start + seconds:
            which = number % len(inputs)
            number += 1
            called = time.perf_counter()
            try:
                result = call(inputs[which])
            except BrokenError:
                raise
            except Exception:
                ends["crashed"] += 1
                tally.first_crash = tally.first_crash or traceback.format_exc()
            else:
                latencies.append(time.perf_counter() - called)
                # Compared here, outside the latency but inside the throughput, in the
                # thread of the caller in all ways: to keep the results of middle graphs
                # until the end would take 3 MB a call, and a caller does something with
                # its result, too. Bit for bit, since no way may change what is computed.
                right = expected[which]
                equal = len(result) == len(right) and all(map(torch.equal, result, right))
                ends["right" if equal else "silently_wrong"] += 1
            now = time.perf_counter()
        seen.append((now, latencies, ends))

    def run(offset: int) -> None:
        try:
            work(offset)
        except BaseException as error:
            broken.append(error)
            barrier.abort()  # The others would wait for this one.

    limit = time.monotonic() + seconds + SLICE_LIMIT
    threads = [
        threading.Thread(target=run, args=(offset,), daemon=True)
        for offset in range(len(way.calls))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, limit - time.monotonic()))
    causes = [error for error in broken if not isinstance(error, threading.BrokenBarrierError)]
    if causes:
        raise causes[0]
    alive = sum(thread.is_alive() for thread in threads)
    if alive or broken:
        raise BrokenError(f"{way.name}: {alive} of {len(threads)} threads did not end in time.")
    calls = 0
    for _, latencies, ends in seen:
        tally.latencies += latencies
        for end, count in ends.items():
            tally.ends[end] += count
            calls += count
    # The last calls end after the slice: they count, and so does their time.
    tally.slices.append((calls, max(end for end, _, _ in seen) - start))


def get_row(way: Way, graph: str, tally: Tally) -> dict[str, Any]:
    """What is told of one way."""
    calls = sum(count for count, _ in tally.slices)
    seconds = sum(taken for _, taken in tally.slices)
    return {
        "way": way.name,
        "threads": len(way.calls),
        "graph": graph,
        "calls": calls,
        "seconds": seconds,
        "calls_a_second": calls / seconds,
        "slices": [count / taken for count, taken in tally.slices],
        **tally.ends,
        "p50_ms": tally.percentile(0.5),
        "p95_ms": tally.percentile(0.95),
        "p99_ms": tally.percentile(0.99),
        "model_bytes": way.model_bytes,
        "workers": len(way.pool.workers) if way.pool else 0,
        "uss_bytes": way.pool.get_bytes() if way.pool else None,
        "start_s": way.start_s,
    }


@contextlib.contextmanager
def make_ways(
    convs: dict[str, torch.nn.Module],
    test: ModuleType,
    threads: int,
    make_pool: Callable[[int], Pool],
) -> Iterator[list[Way]]:
    """Makes all ways, and ends their processes."""
    ways: list[Way] = []
    try:
        for name, conv in convs.items():
            ways.append(Way(name, conv, test, threads, make_pool))
        yield ways
    finally:
        for way in ways:
            if way.pool:
                way.pool.close()


def measure(
    class_name: str,
    test_file: str,
    seconds: float,
    thread_counts: list[int],
    graphs: list[str],
    files: dict[str, str | None],
) -> list[dict[str, Any]]:
    """Measures all ways, in turn.

    Raises:
        BrokenError: See `run_slice`; or a layer computes something else than the unpatched one.
    """
    test = load("regression_test", test_file)
    torch.manual_seed(12345)
    own = build_layer(test, class_name, None, 0)
    for parameter in own.parameters():  # some layers leave them uninitialised
        torch.nn.init.normal_(parameter, std=0.1)
    convs: dict[str, torch.nn.Module] = {}
    for number, (name, file) in enumerate(files.items()):
        # One for each way: what a race has left in a layer shall not come to the next way.
        convs[name] = build_layer(test, class_name, file, number)
        convs[name].load_state_dict(own.state_dict())
    inputs = {
        graph: [test.get_inputs(*GRAPHS[graph], seed=seed) for seed in SEEDS] for graph in graphs
    }
    # In one thread, before there are others: these are the right answers.
    expected = {
        (name, graph): list(map(get_call(conv, test), inputs[graph]))
        for name, conv in convs.items()
        for graph in graphs
    }
    for (name, graph), answers in expected.items():
        mine, owns = flatten(answers), flatten(list(map(get_call(own, test), inputs[graph])))
        # Close is enough: another class may add in another order.
        if [tensor.shape for tensor in mine] != [tensor.shape for tensor in owns] or not all(
            torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, owns, strict=True)
        ):
            raise BrokenError(f"{name} does not compute what the unpatched layer computes.")

    def make_pool(threads: int) -> Pool:
        # A small one: sending does not wait until the worker has come to read.
        first_inputs = test.get_inputs(*GRAPHS["small"], seed=SEEDS[0])
        return Pool(threads, own, test_file, first_inputs)

    rows = []
    for threads in thread_counts:
        with make_ways(convs, test, threads, make_pool) as ways:
            # The smallest graph first: what a worker has allocated once, it keeps.
            for graph in graphs:
                tallies = [Tally() for _ in ways]
                for number in range(SLICES):
                    # No way always comes first, or after the same one.
                    turn = number % len(ways)
                    order = [*range(turn, len(ways)), *range(turn)]
                    for which in order if number % 2 else reversed(order):
                        way, tally = ways[which], tallies[which]
                        answers = expected[way.name, graph]
                        run_slice(way, inputs[graph], answers, seconds / SLICES, tally)
                for way, tally in zip(ways, tallies, strict=True):
                    rows.append(get_row(way, graph, tally))
                    report(rows[-1], tally)
    return rows


def report(row: dict[str, Any], tally: Tally) -> None:
    """Says how far the measurement is."""
    ends = " / ".join(str(count) for count in tally.ends.values())
    print(
        f"{row['graph']}, {row['threads']} threads, {row['way']}:"
        f" {row['calls_a_second']:.1f} calls a second, {ends}"
        " right / crashed / silently wrong",
        file=sys.stderr,
        flush=True,
    )
    if tally.first_crash:
        print(tally.first_crash.strip().splitlines()[-1], file=sys.stderr, flush=True)


def count_cores() -> int | None:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def main(
    class_name: str, test_file: str, seconds: str, thread_counts: str, graphs: str, *ways: str
) -> dict[str, Any]:
    """Reads the command line, and measures."""
    # The threads that call are what shall use the cores. If each call had threads of its
    # own, there would be more of them than cores, and all ways would wait for the scheduler.
    torch.set_num_threads(1)
    files = {name: file or None for name, _, file in (way.partition("=") for way in ways)}
    for name, file in files.items():
        if name not in (OWN_WAYS if file is None else FILE_WAYS):
            sys.exit(f"There is no way '{name}{'' if file is None else '=FILE'}'.")
    asked = graphs.split(",")
    if unknown := set(asked) - set(GRAPHS):
        sys.exit(f"There is no graph {', '.join(map(repr, sorted(unknown)))}.")
    counts = [int(count) for count in thread_counts.split(",")]
    cores = count_cores()
    if "processes" in files and cores and max(counts) > cores:
        print(f"Up to {max(counts)} processes share {cores} cores.", file=sys.stderr)
    try:
        rows = measure(
            class_name,
            test_file,
            float(seconds),
            counts,
            [graph for graph in GRAPHS if graph in asked],
            files,
        )
    except BrokenError as error:
        sys.exit(str(error))
    # An extension that does not know of free threading turns the lock on again.
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": cores,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "rows": rows,
    }


if __name__ == "__main__":
    # This file's directory comes last: nothing in there shall hide another module, and the
    # workers import this file again, which needs its neighbour.
    sys.path.append(sys.path.pop(0))
    print(json.dumps(main(*sys.argv[1:])))
