"""Runs inside a PyG environment, and imports nothing of the kit.

    python soak.py SECONDS THREADS END TEST ...          PYTHONPATH: the tree to try

One model holds the layers of all threaded regression tests, and threads share it. END is
`last`: they run until the time is up; or `first`: until the first call that is not right.
Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Tuple

import psutil
import torch
from prove import load

ENDS = ("right", "crashed", "silently_wrong")

# How many samples of the memory a run gives, at most one a tenth of a second.
SAMPLES = 600

# In seconds, for the calls that run when the time is up.
GRACE = 120.0

# Nodes, edges and seed of each graph. Two have one size, so that no shape tells them apart.
GRAPHS = [(10, 40, 1), (10, 40, 2), *((3 * i, 15 * i, i) for i in range(2, 7))]

# What each layer of the model is called with: its inputs, and its options.
Request = Dict[str, Tuple[Dict[str, torch.Tensor], Dict[str, Any]]]


class Model(torch.nn.Module):  # type: ignore[misc]
    """One model that holds every layer."""

    def __init__(self, tests: dict[str, ModuleType]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict({name: test.get_conv() for name, test in tests.items()})

    def forward(self, request: Request, first: int) -> dict[str, list[torch.Tensor]]:
        """Calls each layer, from the `first` one on, and lists the tensors that each returns."""
        names = list(request)
        names = names[first:] + names[:first]
        return {name: self.call(name, *request[name]) for name in names}

    def call(self, name: str, inputs: Any, options: Any) -> list[torch.Tensor]:  # noqa: ANN401
        """Calls one layer; a crash is told by this frame, and its `name`."""
        with torch.no_grad():
            return flatten(self.layers[name](**inputs, **options))


def flatten(result: Any) -> list[torch.Tensor]:  # noqa: ANN401
    """Lists the tensors of a result."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for item in result for tensor in flatten(item)]


def requests(tests: dict[str, ModuleType]) -> list[Request]:
    """What the model is called with: each graph, without and with attention weights."""
    return [
        {
            name: (
                test.get_inputs(nodes, edges, seed=seed),
                getattr(test, "WITH_WEIGHTS", {}) if with_weights else {},
            )
            for name, test in tests.items()
        }
        for nodes, edges, seed in GRAPHS
        for with_weights in (False, True)
    ]


class Soak:
    """Threads that share a model, and what comes of their calls."""

    def __init__(self, tests: dict[str, ModuleType], stops_early: bool) -> None:
        self.model = Model(tests).eval()
        self.requests = requests(tests)
        self.stops_early = stops_early
        # The truth: one thread alone.
        self.expected = [self.model(request, 0) for request in self.requests]
        self.stop = threading.Event()
        self.failure = ""
        # Of each thread, how its calls ended, by layer: no thread writes to another one's.
        self.counts: list[dict[str, list[int]]] = []

    def work(self, number: int, counts: dict[str, list[int]]) -> None:
        """What a thread does."""
        call = number
        while not self.stop.is_set():
            index = call % len(self.requests)
            try:
                # Threads go through the layers in different orders: any two of them meet.
                results = self.model(self.requests[index], call % len(counts))
            except Exception:
                self.crashed(index, counts)
            else:
                self.compare(index, results, counts)
            call += 1

    def compare(
        self, index: int, results: dict[str, list[torch.Tensor]], counts: dict[str, list[int]]
    ) -> None:
        """Compares a result bit for bit, layer by layer."""
        for name, result in results.items():
            expected = self.expected[index][name]
            is_right = len(result) == len(expected) and all(map(torch.equal, result, expected))
            counts[name][0 if is_right else 2] += 1
            if not is_right:
                self.fails(f"{name}: another result than that of one thread")

    def crashed(self, index: int, counts: dict[str, list[int]]) -> None:
        """Counts a crash for the layer in which it happened."""
        frames = traceback.walk_tb(sys.exc_info()[2])
        names = [frame.f_locals["name"] for frame, _ in frames if frame.f_code is CALL]
        counts[names[-1]][1] += 1
        # Its last line says where, and what.
        what = traceback.format_exc()
        self.fails(f"{what}{names[-1]}: {what.splitlines()[-1]}")

    def fails(self, failure: str) -> None:
        """Keeps the first failure."""
        self.failure = self.failure or failure
        if self.stops_early:
            self.stop.set()

    def run(self, seconds: float, num_threads: int) -> dict[str, Any]:
        """Lets threads share the model for a while, and samples the memory of the process."""
        names = list(self.model.layers)
        self.counts = [{name: [0, 0, 0] for name in names} for _ in range(num_threads)]
        threads = [
            threading.Thread(target=self.work, args=(number, counts), daemon=True)
            for number, counts in enumerate(self.counts)
        ]
        before = count_tensors()
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        samples = self.sample(start, seconds)
        took = time.perf_counter() - start
        self.stop.set()
        end = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        calls = {name: self.total(name) for name in names}
        return {
            "seconds": took,
            "hung": sum(thread.is_alive() for thread in threads),
            "calls": calls,
            "failure": self.failure,
            "samples": samples,
            "tensors": [before, count_tensors()],
        }

    def sample(self, start: float, seconds: float) -> list[tuple[float, int, int]]:
        """Seconds, bytes and calls of a layer, again and again until the time is up."""
        process = psutil.Process()
        samples = []
        interval = max(0.1, seconds / SAMPLES)
        while not self.stop.wait(interval):
            now = time.perf_counter() - start
            calls = sum(sum(ended) for counts in self.counts for ended in counts.values())
            samples.append((round(now, 1), int(process.memory_info().rss), calls))
            if now >= seconds:
                break
        return samples

    def total(self, name: str) -> dict[str, int]:
        """How the calls of a layer ended, of all threads together."""
        ends: list[int] = [sum(ended) for ended in zip(*(counts[name] for counts in self.counts))]
        return {"calls": sum(ends), **dict(zip(ENDS, ends))}


CALL = Model.call.__code__


def count_tensors() -> int:
    """How many tensors live in this process."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def main(seconds: str, threads: str, end: str, *test_files: str) -> dict[str, Any]:
    """Soaks the layers of the tests."""
    # What TorchScript fuses from the second call on, it may round in another way.
    torch._C._jit_set_texpr_fuser_enabled(False)
    tests = {}
    for file in test_files:
        name = Path(file).stem[len("test_") : -len("_thread_safety")]
        tests[name] = load(f"soaked_{name}", file)
    result = Soak(tests, end == "first").run(float(seconds), int(threads))
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "threads": int(threads),
        **result,
    }


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    print(json.dumps(main(*sys.argv[1:])), flush=True)
    os._exit(0)  # Threads that hang would not let it end.
