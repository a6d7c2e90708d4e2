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

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from pool import BrokenError, Inputs, Pool, flatten, get_call
from prove import load

GRAPHS = {"small": (100, 500), "middle": (10_000, 100_000)}  # nodes, edges
SEEDS = [1, 2, 3, 4]  # one for each input
OWN_WAYS = ("unpatched", "lock", "deepcopy", "processes")
FILE_WAYS = ("patched", "upstream")

SLICES = 4
WARM_UP_CALLS = 2  # of each thread, in each slice

# In seconds. No wait for the end of a slice is longer.
SLICE_LIMIT = 60.0


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


class Slice:
    """A while in which all threads call at once, each as soon as its last call has ended."""

    def __init__(
        self, way: Way, inputs: list[Inputs], expected: list[list[torch.Tensor]], seconds: float
    ) -> None:
        self.way = way
        self.inputs = inputs
        self.expected = expected
        self.seconds = seconds
        self.start = 0.0
        self.barrier = threading.Barrier(len(way.calls), action=self.begin)
        # When each thread ended, how long its calls took, and how they ended.
        self.threads: list[tuple[float, list[float], dict[str, int]]] = []
        self.broken: list[BaseException] = []
        self.first_crash = ""

    def begin(self) -> None:
        """Starts the clock, once all threads are ready."""
        self.start = time.perf_counter()

    def warm_up(self, offset: int) -> None:
        """Makes calls that do not count."""
        for i in range(WARM_UP_CALLS):
            try:
                self.way.calls[offset](self.inputs[(offset + i) % len(self.inputs)])
            except BrokenError:
                raise
            except Exception:  # noqa: S110 - it crashes in what is counted, too
                pass

    def work(self, offset: int) -> None:
        """Calls until the time is over, and counts how the calls end."""
        call = self.way.calls[offset]
        latencies: list[float] = []
        ends = {"right": 0, "crashed": 0, "silently_wrong": 0}
        self.warm_up(offset)
        self.barrier.wait(SLICE_LIMIT)
        # Neighbours are at different inputs. Who takes the values of a call with the same
        # input is right by luck, and counts as right.
        number = offset
        now = self.start
        while now < self.start + self.seconds:
            which = number % len(self.inputs)
            number += 1
            called = time.perf_counter()
            try:
                result = call(self.inputs[which])
            except BrokenError:
                raise
            except Exception:
                ends["crashed"] += 1
                self.first_crash = self.first_crash or traceback.format_exc()
            else:
                latencies.append(time.perf_counter() - called)
                # Compared here, outside the latency but inside the throughput, in the
                # thread of the caller in all ways: to keep the results of middle graphs
                # until the end would take 3 MB a call, and a caller does something with
                # its result, too. Bit for bit, since no way may change what is computed.
                right = self.expected[which]
                equal = len(result) == len(right) and all(map(torch.equal, result, right))
                ends["right" if equal else "silently_wrong"] += 1
            now = time.perf_counter()
        self.threads.append((now, latencies, ends))

    def run_thread(self, offset: int) -> None:
        """What one thread does."""
        try:
            self.work(offset)
        except BaseException as error:
            self.broken.append(error)
            self.barrier.abort()  # The others would wait for this one.

    def run(self, tally: Tally) -> None:
        """Runs all threads, and adds up what they have counted.

        Raises:
            BrokenError: A worker is gone, or a call does not end.
        """
        limit = time.monotonic() + self.seconds + SLICE_LIMIT
        threads = [
            threading.Thread(target=self.run_thread, args=(offset,), daemon=True)
            for offset in range(len(self.way.calls))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0, limit - time.monotonic()))
        causes = [e for e in self.broken if not isinstance(e, threading.BrokenBarrierError)]
        if causes:
            raise causes[0]
        alive = sum(thread.is_alive() for thread in threads)
        if alive or self.broken:
            raise BrokenError(
                f"{self.way.name}: {alive} of {len(threads)} threads did not end in time."
            )
        calls = 0
        for _, latencies, ends in self.threads:
            tally.latencies += latencies
            for end, count in ends.items():
                tally.ends[end] += count
                calls += count
        tally.first_crash = tally.first_crash or self.first_crash
        # The last calls end after the slice: they count, and so does their time.
        tally.slices.append((calls, max(end for end, _, _ in self.threads) - self.start))


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


def build_layers(
    test: ModuleType, class_name: str, files: dict[str, str | None]
) -> tuple[torch.nn.Module, dict[str, torch.nn.Module]]:
    """Builds the layer of the tree, and one for each way, all with the same weights."""
    torch.manual_seed(12345)
    own = build_layer(test, class_name, None, 0)
    for parameter in own.parameters():  # some layers leave them uninitialised
        torch.nn.init.normal_(parameter, std=0.1)
    convs: dict[str, torch.nn.Module] = {}
    for number, (name, file) in enumerate(files.items()):
        # One for each way: what a race has left in a layer shall not come to the next way.
        convs[name] = build_layer(test, class_name, file, number)
        convs[name].load_state_dict(own.state_dict())
    return own, convs


def answers_of(
    own: torch.nn.Module,
    convs: dict[str, torch.nn.Module],
    test: ModuleType,
    inputs: dict[str, list[Inputs]],
) -> dict[tuple[str, str], list[list[torch.Tensor]]]:
    """The right answers by way and graph, from one thread, before there are others.

    Raises:
        BrokenError: If a layer computes something else than the unpatched one.
    """
    expected = {}
    for graph, requests in inputs.items():
        owns = list(map(get_call(own, test), requests))
        for name, conv in convs.items():
            answers = expected[name, graph] = list(map(get_call(conv, test), requests))
            # Close is enough: another class may add in another order.
            pairs = list(zip(flatten(answers), flatten(owns)))
            if not all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in pairs):
                raise BrokenError(f"{name} does not compute what the unpatched layer computes.")
    return expected


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
        BrokenError: See `Slice.run` and `answers_of`.
    """
    test = load("regression_test", test_file)
    own, convs = build_layers(test, class_name, files)
    inputs = {
        graph: [test.get_inputs(*GRAPHS[graph], seed=seed) for seed in SEEDS] for graph in graphs
    }
    expected = answers_of(own, convs, test, inputs)

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
                        answers = expected[ways[which].name, graph]
                        part = Slice(ways[which], inputs[graph], answers, seconds / SLICES)
                        part.run(tallies[which])
                for way, tally in zip(ways, tallies):
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
    unknown = set(asked) - set(GRAPHS)
    if unknown:
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
