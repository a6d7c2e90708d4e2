"""Runs inside a PyG environment, and imports nothing of the kit.

    python mutate.py JOBS          PYTHONPATH: the tree to try

Runs the forced tests of threaded regression tests again and again, on the layers as they are
and on mutants. JOBS is a JSON file: a list of objects with the `test`, the `module` and the
mutated `file` (null for none) of the layer, and how many `rounds`. Each runs in a fork of
this process, which has imported PyG. Prints one line of JSON.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import torch
import torch_geometric.nn
from prove import in_fork, load

# In seconds, for a round. Each wait of the tests has a time limit, too.
ROUND = 2.0
START = 60.0


def replace(name: str, file: str) -> None:
    """Gives a module of PyG the text of another file, as if it had been imported from there."""
    module = importlib.import_module(name)
    before = dict(vars(module))
    module.__file__ = file  # PyG reads the source of its layers.
    # Not with the `annotations` of this file, which would be those of PyG's layers.
    code = compile(Path(file).read_text(), file, "exec", dont_inherit=True)
    exec(code, vars(module))  # noqa: S102
    new = {
        id(value): vars(module)[key]
        for key, value in before.items()
        if getattr(value, "__module__", None) == name and vars(module)[key] is not value
    }
    for other in list(sys.modules.values()):
        if getattr(other, "__name__", "").split(".")[0] == "torch_geometric":
            for key, value in list(vars(other).items()):
                if id(value) in new and value is before.get(getattr(value, "__name__", "")):
                    setattr(other, key, new[id(value)])


def forced_tests(test: ModuleType) -> list[Callable[[], None]]:
    """The tests of a file that leave nothing to luck."""
    return [
        function
        for name, function in vars(test).items()
        if name.startswith("test_")
        and not name.endswith("_many_threads")
        and inspect.isfunction(function)
    ]


def digest(test: ModuleType) -> str:
    """Of what the layer returns to one thread, with and without attention weights."""
    helpers = sys.modules["thread_safety"]
    conv = test.get_conv()
    hashed = hashlib.sha256()
    for seed in range(4):
        for options in ({}, getattr(test, "WITH_WEIGHTS", {})):
            inputs = test.get_inputs(10 + seed, 40, seed=seed)
            for tensor in helpers.run(conv, inputs, options):
                hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()


def run(test_file: str, module: str, file: str | None, rounds: int) -> dict[str, Any]:
    """In how many rounds the tests of a file have failed, and what one thread gets."""
    torch.manual_seed(12345)
    if file is not None:
        replace(module, file)
    test = load("regression_test", test_file)
    alone = digest(test)
    failed = 0
    said = ""
    for _ in range(rounds):
        try:
            for function in forced_tests(test):
                function()
        except AssertionError as error:
            failed += 1
            said = said or str(error).splitlines()[0]
    return {"rounds": rounds, "failed": failed, "said": said, "alone": alone}


def main(jobs_file: str) -> dict[str, Any]:
    """Does all jobs."""
    results = []
    for job in json.loads(Path(jobs_file).read_text()):
        arguments = (job["test"], job["module"], job["file"], job["rounds"])
        answer, end = in_fork(lambda: run(*arguments), START + ROUND * job["rounds"])  # noqa: B023
        results.append(answer if not end else {"rounds": job["rounds"], "end": end})
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": torch_geometric.__version__,
        "results": results,
    }


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    print(json.dumps(main(*sys.argv[1:])))
