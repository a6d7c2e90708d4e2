"""Runs inside a PyG environment, and imports nothing of the kit.

    python explain.py TEST CASES          PYTHONPATH: the tree to try

Times explanations of the model of TEST, the threaded regression test of PyG's explainers.
CASES is a JSON list; each case has

    nodes, edges    the size of the graph
    epochs          of GNNExplainer, each of which calls the model once
    calls           how many explanations are timed

Prints one line of JSON: for each case, the seconds of each explanation.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from types import ModuleType
from typing import Any

import torch
from prove import load


def measure(test: ModuleType, case: dict[str, Any]) -> list[float]:
    """Times the explanations of one case, in seconds."""
    algorithm = test.Algorithm

    def with_epochs(*args: object, epochs: int, **kwargs: object) -> object:
        return algorithm(*args, epochs=case["epochs"], **kwargs)

    test.Algorithm = with_epochs  # type: ignore[attr-defined]
    try:
        torch.manual_seed(12345)
        service = test.get_conv()
    finally:
        test.Algorithm = algorithm  # type: ignore[attr-defined]
    inputs = test.get_inputs(case["nodes"], case["edges"], seed=1)
    assert inputs["explains"]
    times = []
    for number in range(case["calls"] + 1):
        start = time.perf_counter()
        service(**inputs)
        if number:  # the first one sets up what it needs
            times.append(time.perf_counter() - start)
    return times


def main(test_file: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Times all cases."""
    torch.set_num_threads(1)
    test = load("regression_test", test_file)
    times = [measure(test, case) for case in cases]
    return {"python": platform.python_version(), "torch": torch.__version__, "times": times}


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
