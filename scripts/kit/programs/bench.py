"""Runs inside a PyG environment, and imports nothing of the kit.

    python bench.py CASES          PYTHONPATH: the tree whose layers are measured

Times several versions of a layer against each other, in one process and in turn,
and counts the memory that they allocate. CASES is a JSON list; each case has

    class, test     the layer, and its threaded regression test, which builds it
    variants        label -> file with the class; null means the tree's own
    nodes, edges    the size of the graph
    build           null, or the arguments of a larger layer: {"args", "kwargs"}
    mode            "inference" or "training" (a forward and a backward pass)
    rounds, calls   how many ratios there are, and calls behind each

Prints one line of JSON: for each case, by variant, the seconds a call of each
round and the peak of allocated bytes.
"""

from __future__ import annotations

import inspect
import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from prove import load
from torch.profiler import ProfilerActivity, profile

WARM_UP = 2  # rounds that are not counted, in which the process gets the memory that it needs


def build_layers(case: dict[str, Any]) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
    """Builds each variant of a layer, all with the same weights, and their inputs."""
    test = load("regression_test", case["test"])
    name = case["class"]
    own = getattr(test, name)
    convs: dict[str, torch.nn.Module] = {}
    for number, (label, file) in enumerate(case["variants"].items()):
        # Under the package of the tree's own layer, such that its imports resolve.
        module = load(f"{own.__module__}_variant{number}", file) if file else None
        cls = getattr(module, name) if module else own
        if case["build"]:
            conv = cls(*case["build"]["args"], **case["build"]["kwargs"])
        else:
            setattr(test, name, cls)
            conv = test.get_conv()
        if convs:
            conv.load_state_dict(next(iter(convs.values())).state_dict())
        else:
            for parameter in conv.parameters():  # some layers leave them uninitialised
                torch.nn.init.normal_(parameter, std=0.1)
        convs[label] = conv.train(case["mode"] == "training")
    nodes, edges = case["nodes"], case["edges"]
    if not case["build"]:
        return convs, test.get_inputs(nodes, edges, seed=12345)
    torch.manual_seed(12345)
    channels = case["build"]["args"][0]
    x, index = torch.randn(nodes, channels), torch.randint(nodes, (2, edges))
    given = {
        "x": x,
        "x_0": x,
        "edge_index": index,
        "hyperedge_index": index,
        "edge_type": torch.randint(3, (edges,)),
        # Those of `LPAttLayer`: of both nodes of a link, of each node, and of each pair.
        "edge_feats": torch.randn(nodes, 2 * channels),
        "node_feats": x,
        "ppr_rpes": torch.randn(edges, channels) if case["class"] == "LPAttLayer" else None,
    }
    taken = inspect.signature(own.forward).parameters
    return convs, {key: value for key, value in given.items() if key in taken}


def get_step(
    conv: torch.nn.Module, inputs: dict[str, torch.Tensor], mode: str
) -> Callable[[], None]:
    """What is timed."""

    def infer() -> None:
        with torch.no_grad():
            conv(**inputs)

    def train() -> None:
        out = conv(**inputs)
        out = out[0] if isinstance(out, tuple) else out
        out.square().sum().backward()
        conv.zero_grad(set_to_none=True)

    return train if mode == "training" else infer


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that a step has allocated at any one time, in bytes.

    Counted from torch's own record of each allocation, so that it is the same in each run.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    assert profiled.profiler is not None
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def in_turn(labels: list[str], number: int) -> list[str]:
    """The order of the variants in a round: none always comes first, or after the same one."""
    turn = number % len(labels)
    order = labels[turn:] + labels[:turn]
    return order if number // len(labels) % 2 else order[::-1]


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Times one case."""
    convs, inputs = build_layers(case)
    steps = {label: get_step(conv, inputs, case["mode"]) for label, conv in convs.items()}
    labels = list(steps)

    def seconds(step: Callable[[], None]) -> float:
        start = time.perf_counter()
        for _ in range(case["calls"]):
            step()
        return (time.perf_counter() - start) / float(case["calls"])

    peaks = {}
    for label, step in steps.items():
        seconds(step)  # what a layer sets up in its first call is not counted
        peaks[label] = peak_bytes(step)
    for number in range(WARM_UP):
        for label in in_turn(labels, number):
            seconds(steps[label])
    times: dict[str, list[float]] = {label: [] for label in labels}
    for number in range(case["rounds"]):
        for label in in_turn(labels, number):
            times[label].append(seconds(steps[label]))
    return {"times": times, "peak_bytes": peaks}


def main(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Times all cases."""
    # With more threads, the scheduler's noise is larger than what is sought.
    torch.set_num_threads(1)
    results = []
    for number, case in enumerate(cases):
        results.append(measure(case))
        print(f"{number + 1} of {len(cases)}", file=sys.stderr, flush=True)
    return {"python": platform.python_version(), "torch": torch.__version__, "cases": results}


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    print(json.dumps(main(json.loads(sys.argv[1]))))
