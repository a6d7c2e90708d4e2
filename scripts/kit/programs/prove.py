"""Runs inside a PyG environment, and imports nothing of the kit.

    python prove.py threads DEVICE TEST ...          PYTHONPATH: the tree to try
    python prove.py latency CLASS FILE TEST ...      PYTHONPATH: the pristine tree

`threads` runs threaded regression tests, and counts how the calls ended. `latency`
times layers against their patched versions, in turn, on the layer and the graphs
of their test. Both print one line of JSON.
"""

import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

INTERLEAVED_ROUNDS = 50
STRESS_THREADS = 8
STRESS_CALLS = 50  # of each thread

# Nodes, edges, rounds, and calls a round. Each round gives one ratio.
GRAPHS = {"small": (100, 500, 200, 10), "middle": (10_000, 100_000, 25, 1)}


def load(name: str, file: str) -> ModuleType:
    """Imports a file under a name of our choice."""
    sys.path.insert(0, str(Path(file).parent))  # where a test finds its helpers
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def count(outcomes: list[str]) -> dict[str, int]:
    """Counts the outcomes that a regression test returns."""
    right = outcomes.count("right")
    wrong = outcomes.count("silently wrong")
    return {
        "calls": len(outcomes),
        "right": right,
        "crashed": len(outcomes) - right - wrong,
        "silently_wrong": wrong,
    }


def move_to(test: ModuleType, device: str) -> None:
    """Makes a regression test use a layer and graphs on another device."""
    get_conv, get_inputs = test.get_conv, test.get_inputs
    test.get_conv = lambda: get_conv().to(device)  # type: ignore[attr-defined]
    test.get_inputs = lambda *args, **kwargs: {  # type: ignore[attr-defined]
        key: tensor.to(device) for key, tensor in get_inputs(*args, **kwargs).items()
    }
    # Results are compared bit for bit, and a GPU adds in any order unless told not to;
    # cuBLAS is told by this variable.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def threads(device: str, *test_files: str) -> dict[str, Any]:
    """Forces the interleaving, then stresses the layer, for each test."""
    measured = []
    for test_file in test_files:
        test = load("regression_test", test_file)
        if device != "cpu":
            move_to(test, device)
        interleaved = []
        spoiled_rounds = 0
        for _ in range(INTERLEAVED_ROUNDS):
            outcomes = test.interleave()
            spoiled_rounds += outcomes != ["right", "right"]
            interleaved += outcomes
        stress = test.stress(num_threads=STRESS_THREADS, num_calls=STRESS_CALLS)
        measured.append(
            {
                "interleaved": {
                    **count(interleaved),
                    "rounds": INTERLEAVED_ROUNDS,
                    "spoiled_rounds": spoiled_rounds,
                },
                "stress": {**count(stress), "threads": STRESS_THREADS},
            }
        )
    # An extension that does not know of free threading turns the lock on again.
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "measured": measured,
    }


def latency(*arguments: str) -> list[dict[str, Any]]:
    """Times inference of pristine and of patched layers, in one process, in turn."""
    # With more threads, the scheduler's noise is larger than what is sought.
    torch.set_num_threads(1)
    return [compare(*arguments[i : i + 3]) for i in range(0, len(arguments), 3)]


@torch.no_grad()
def compare(class_name: str, patched_file: str, test_file: str) -> dict[str, Any]:
    """Times one layer on graphs of several sizes."""
    test = load("regression_test", test_file)
    pristine_class = getattr(test, class_name)
    # Under the package of the pristine layer, such that its imports resolve.
    patched = load(f"{pristine_class.__module__}_patched", patched_file)
    convs = [test.get_conv()]
    setattr(test, class_name, getattr(patched, class_name))
    convs.append(test.get_conv())
    convs[1].load_state_dict(convs[0].state_dict())
    results = {}
    for name, (num_nodes, num_edges, rounds, calls) in GRAPHS.items():
        inputs = test.get_inputs(num_nodes, num_edges, seed=12345)

        def seconds(conv: torch.nn.Module, calls: int, inputs: dict[str, torch.Tensor]) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                conv(**inputs)
            return (time.perf_counter() - start) / calls

        for conv in convs * 3:  # warm up
            seconds(conv, calls, inputs)
        times: tuple[list[float], list[float]] = ([], [])
        for i in range(rounds):
            for which in (0, 1) if i % 2 else (1, 0):
                times[which].append(seconds(convs[which], calls, inputs))
        ratios = [after / before for before, after in zip(*times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        results[name] = {
            "nodes": num_nodes,
            "edges": num_edges,
            "pristine_ms": statistics.median(times[0]) * 1e3,
            "patched_ms": statistics.median(times[1]) * 1e3,
            "ratio": middle,
            "ratio_quartiles": [low, high],
            "rounds": rounds,
        }
    return results


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    mode, arguments = sys.argv[1], sys.argv[2:]
    print(json.dumps({"threads": threads, "latency": latency}[mode](*arguments)))
