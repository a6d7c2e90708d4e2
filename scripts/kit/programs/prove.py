"""Runs inside a PyG environment, and imports nothing of the kit.

    python prove.py threads TEST DEVICE             PYTHONPATH: the tree to try
    python prove.py latency CLASS FILE       PYTHONPATH: the pristine tree

`threads` runs the helpers of a threaded regression test and counts how the calls
ended. `latency` times a layer against its patched version, in turn. Both print
one line of JSON.
"""

import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from types import ModuleType
from typing import Any

import torch

INTERLEAVED_ROUNDS = 50
STRESS_THREADS = 8
STRESS_CALLS = 500  # of each thread

# Nodes, edges, rounds, and calls a round. Each round gives one ratio.
GRAPHS = {"small": (100, 500, 200, 10), "middle": (10_000, 100_000, 25, 1)}


def load(name: str, file: str) -> ModuleType:
    """Imports a file under a name of our choice."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def count(outcomes: list[str]) -> dict[str, int]:
    """Counts the outcomes that a regression test's helpers return."""
    right = outcomes.count("right")
    wrong = outcomes.count("silently wrong")
    return {
        "calls": len(outcomes),
        "right": right,
        "crashed": len(outcomes) - right - wrong,
        "silently_wrong": wrong,
    }


def move_to(test: ModuleType, device: str) -> None:
    """Makes the helpers of a regression test use layers and graphs on another device."""
    get_conv, get_graph = test.get_conv, test.get_graph
    test.get_conv = lambda: get_conv().to(device)  # type: ignore[attr-defined]
    test.get_graph = lambda *args, **kwargs: tuple(  # type: ignore[attr-defined]
        tensor.to(device) for tensor in get_graph(*args, **kwargs)
    )
    # Results are compared bit for bit, and a GPU adds in any order unless told not to;
    # cuBLAS is told by this variable.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def threads(test_file: str, device: str) -> dict[str, Any]:
    """Forces the interleaving, then stresses the layer."""
    test = load("regression_test", test_file)
    if device != "cpu":
        move_to(test, device)
    interleaved = []
    spoiled_rounds = 0
    for _ in range(INTERLEAVED_ROUNDS):
        outcomes = test.run_interleaved(test.get_conv())
        spoiled_rounds += outcomes != ["right", "right"]
        interleaved += outcomes
    stress = test.run_stress(test.get_conv(), STRESS_THREADS, STRESS_CALLS)
    # An extension that does not know of free threading turns the lock on again.
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "interleaved": {
            **count(interleaved),
            "rounds": INTERLEAVED_ROUNDS,
            "spoiled_rounds": spoiled_rounds,
        },
        "stress": {**count(stress), "threads": STRESS_THREADS},
    }


@torch.no_grad()
def latency(class_name: str, patched_file: str) -> dict[str, Any]:
    """Times inference of the pristine and of the patched layer, in one process, in turn."""
    # With more threads, the scheduler's noise is larger than what is sought.
    torch.set_num_threads(1)
    import torch_geometric.nn

    pristine_class = getattr(torch_geometric.nn, class_name)
    # Under the package of the pristine layer, such that its imports resolve.
    patched = load(f"{pristine_class.__module__}_patched", patched_file)
    results = {}
    for name, (num_nodes, num_edges, rounds, calls) in GRAPHS.items():
        torch.manual_seed(12345)
        x = torch.randn(num_nodes, 64)
        edge_index = torch.randint(num_nodes, (2, num_edges))
        convs = [
            cls(64, 32, heads=4).eval() for cls in (pristine_class, getattr(patched, class_name))
        ]
        convs[1].load_state_dict(convs[0].state_dict())

        def seconds(conv: torch.nn.Module, calls: int, *args: torch.Tensor) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                conv(*args)
            return (time.perf_counter() - start) / calls

        for conv in convs * 3:  # warm up
            seconds(conv, calls, x, edge_index)
        times: tuple[list[float], list[float]] = ([], [])
        for i in range(rounds):
            for which in (0, 1) if i % 2 else (1, 0):
                times[which].append(seconds(convs[which], calls, x, edge_index))
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
