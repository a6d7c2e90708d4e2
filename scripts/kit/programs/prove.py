"""Runs inside a PyG environment, and imports nothing of the kit.

    python prove.py DEVICE TEST ...          PYTHONPATH: the tree to try

Runs threaded regression tests, and counts how the calls ended. Prints one line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import select
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import torch

INTERLEAVED_ROUNDS = 50
FORCED_SECONDS = 300.0  # of all rounds together
STRESS_THREADS = 8
STRESS_CALLS = 50  # of each thread
STRESS_SECONDS = 30.0  # of all threads together; the tests give up after 20 s


def load(name: str, file: str) -> ModuleType:
    """Imports a file under a name of our choice."""
    package = name.rpartition(".")[0]
    if package.endswith(".conv"):
        # What a patch adds beside a layer. The files of the tree that is imported come first.
        utils = importlib.import_module(f"{package}.utils")
        utils.__path__.append(str(Path(file).parent / "utils"))
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


def in_fork(function: Callable[[], Any], seconds: float) -> tuple[Any, str]:
    """Calls a function in a fork of this process, which it may end or stop for good.

    Returns:
        What the function returned, which JSON can hold, and how the fork ended; that is empty
        where the function returned.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            answer = json.dumps(function())
            with os.fdopen(writer, "w") as stream:
                stream.write(answer)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    # The fork writes once, at its end; a death closes the pipe.
    hung = not select.select([reader], [], [], seconds)[0]
    if hung:
        os.kill(process, signal.SIGKILL)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    _, status = os.waitpid(process, 0)
    if hung:
        return None, "the threads wait for each other"
    if os.WIFSIGNALED(status):
        return None, f"the process died of signal {os.WTERMSIG(status)}"
    if status:
        raise SystemExit("The regression test could not be run to its end; see above.")
    return json.loads(answer), ""


def force(test: ModuleType) -> list[str]:
    """Forces the interleaving in each round; how the two calls of each one ended."""
    return [outcome for _ in range(INTERLEAVED_ROUNDS) for outcome in test.interleave()]


def stress(test: ModuleType) -> list[str]:
    """Lets threads share the layer at full speed; how the calls ended."""
    return list(test.stress(num_threads=STRESS_THREADS, num_calls=STRESS_CALLS))


def both_in_forks(test: ModuleType) -> tuple[list[str], list[str]]:
    """Forces and stresses a layer, each in a fork of this process, which computes nothing itself.

    Masks of another graph make torch-scatter read past the end of a tensor, for one; and the
    `Module.to()` of an explanation waits for a parameter's lock with the GIL held, while a
    prediction holds that lock and waits for the GIL (seen with torch 2.13.0, PyG 2.0.2). Then
    all calls have ended with the process. A fork of what has computed gradients cannot do so
    with torch 1.9, and at times waits for ever in torch 1.12's `linear()`.
    """
    forced, end = in_fork(lambda: force(test), FORCED_SECONDS)
    forced = [end] * 2 * INTERLEAVED_ROUNDS if end else forced
    stressed, end = in_fork(lambda: stress(test), STRESS_SECONDS)
    return forced, [end] * STRESS_THREADS * STRESS_CALLS if end else stressed


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
        if device == "cpu":
            interleaved, stressed = both_in_forks(test)
        else:  # CUDA does not outlive a fork.
            interleaved, stressed = force(test), stress(test)
        rounds = zip(interleaved[::2], interleaved[1::2])
        measured.append(
            {
                "interleaved": {
                    **count(interleaved),
                    "rounds": INTERLEAVED_ROUNDS,
                    "spoiled_rounds": sum(each != ("right", "right") for each in rounds),
                },
                "stress": {**count(stressed), "threads": STRESS_THREADS},
            }
        )
    # An extension that does not know of free threading turns the lock on again.
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "measured": measured,
    }


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    print(json.dumps(threads(*sys.argv[1:])))
