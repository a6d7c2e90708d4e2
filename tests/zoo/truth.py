"""Checks what the zoo says of a model, without the audit.

    python -m zoo.truth FAMILY.MODEL        prints "right" or how calls fail

Two threads share the model. One is held before a line, the other one runs up to one
of its own lines, and both go on: for each pair of lines, or, where there are too many,
for each line of the one and a whole call of the other one. `sys.settrace` holds them.
The model is warmed up first, by some calls one after the other.
"""

import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from zoo.entries import Entry, load

MAX_PAIRS = 150  # of lines, all tried for a pair of requests
MAX_LINES = 80  # where there are more pairs: so many lines, in even steps
MAX_BLOCKED = 30  # pairs where one waited for the other one
PATIENCE = 0.1  # seconds until a thread counts as waiting for the other one
LIMIT = 20.0  # seconds until both count as hanging
# Whose lines count: the model's, PyG's, and what of torch changes modules for a while;
# of a package from PyPI, those of all that is installed but torch.
COUNTED = ("/zoo/", "/torch_geometric/", "/torch/nn/utils/", "/torch/fx/interpreter.py")
NOT_COUNTED = ("/zoo/truth.py", "/zoo/inputs.py", "/zoo/entries.py")


def counts(file: str, installed: bool) -> bool:
    """Whether a call is held before the lines of a file."""
    if any(part in file for part in COUNTED):
        return not file.endswith(NOT_COUNTED)
    return installed and "/site-packages/" in file and "/site-packages/torch/" not in file


def shown(value: object) -> object:
    """A value such that equal means the same result."""
    if isinstance(value, torch.Tensor):
        dense = value.to_dense() if value.layout != torch.strided else value
        return (tuple(value.shape), dense.detach().cpu().numpy().tobytes())
    if isinstance(value, dict):
        return {repr(key): shown(item) for key, item in value.items()}
    if type(value) in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return [shown(item) for item in value]
    if hasattr(value, "to_dict"):
        return shown(value.to_dict())
    if hasattr(type(value), "__slots__") and not isinstance(value, tuple):
        names = [n for n in type(value).__slots__ if n != "__weakref__"]
        return [shown(getattr(value, name)) for name in names]
    if hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
        return {name: shown(item) for name, item in vars(value).items() if item is not value}
    return repr(value)


class Call(threading.Thread):
    """A call of the model that stops before its `stop`-th line; None: nowhere."""

    def __init__(self, function: Callable[[], object], stop: int | None, installed: bool) -> None:
        super().__init__(daemon=True)
        self.function, self.stop, self.installed = function, stop, installed
        self.lines = 0
        self.stopped, self.may_go_on = threading.Event(), threading.Event()
        self.result: object = "hang"

    def trace(self, frame: Any, event: str, _: object) -> Any:
        """Counts the lines of the files that matter."""
        if not counts(frame.f_code.co_filename, self.installed):
            return None
        if event == "line" and not self.may_go_on.is_set():
            if self.lines == self.stop:
                self.stopped.set()
                self.may_go_on.wait()
            self.lines += 1
        return self.trace

    def run(self) -> None:
        """Calls, and notes the result or the error."""
        sys.settrace(self.trace)
        try:
            with torch.no_grad():
                self.result = shown(self.function())
        except BaseException as error:
            self.result = ("crash", repr(error))
        finally:
            sys.settrace(None)
            self.stopped.set()


def interleaved(one: Call, two: Call) -> tuple[list[object], bool]:
    """Holds both in turn, and returns how they ended, and whether one had to wait."""
    one.start()
    one.stopped.wait(LIMIT)
    two.start()
    free = two.stopped.wait(PATIENCE)
    one.may_go_on.set()
    one.join(PATIENCE)
    blocked = one.is_alive() or not free
    two.may_go_on.set()
    two.join(LIMIT)
    one.join(LIMIT)
    return [one.result, two.result], blocked


def pairs(lines: tuple[int, int]) -> list[tuple[int, int | None]]:
    """Which lines to hold the two calls before."""
    if lines[0] * (lines[1] + 1) <= MAX_PAIRS:
        return list(itertools.product(range(lines[0]), [None, *range(lines[1])]))
    step = max(1, lines[0] // MAX_LINES)
    return [(i, None) for i in range(0, lines[0], step)]


class Sharing:
    """A model that threads share, and the requests that they send it."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.inputs = entry.truth_inputs or entry.inputs

    def make(self) -> torch.nn.Module:
        """The model, as it is before the first request."""
        torch.manual_seed(0)
        model = self.entry.factory()
        with contextlib.suppress(NotImplementedError):  # an exported program has no modes
            model.eval()
        if self.entry.lazy:
            self.alone(model, 0)
        return model

    def call(self, model: torch.nn.Module, seed: int, stop: int | None = None) -> Call:
        """A call, with arguments of its own, since some models change them."""
        names = self.entry.methods or ("forward",)
        name = names[seed % len(names)]
        torch.manual_seed(seed)
        given = self.inputs()
        method = model if name == "forward" else getattr(model, name)
        positional = (
            given if isinstance(given, tuple) else () if isinstance(given, dict) else (given,)
        )
        keywords = given if isinstance(given, dict) else {}

        def call() -> object:
            with torch.set_grad_enabled(self.entry.grad):
                return method(*positional, **keywords)

        return Call(call, stop, self.entry.family == "packages")

    def alone(self, model: torch.nn.Module, seed: int) -> Call:
        """A call with nobody beside it."""
        call = self.call(model, seed)
        call.start()
        call.join()
        return call

    def first(self, seed: int) -> object:
        """What a call returns in a process where nothing was called before."""
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=lambda: sender.send(self.alone(self.make(), seed).result), daemon=True
        )
        process.start()
        sender.close()  # so that its death ends the wait
        result = receiver.recv()
        process.join()
        return result


def check(entry: Entry) -> str:
    """How threaded calls of a model end: empty where they are right, or a kind of failure."""
    sharing = Sharing(entry)
    seeds = (0, 1, 2)
    # What later calls say after others must be what they say as the first call.
    firsts = [sharing.first(seed) for seed in seeds]
    model = sharing.make()
    again = [sharing.alone(model, seed) for seed in (*seeds, *reversed(seeds))]
    if [call.result for call in again] != [*firsts, *reversed(firsts)]:
        return "leaks"
    waited = 0
    long = max(call.lines for call in again) > MAX_LINES
    for i, j in ((0, 1), (1, 0)) if long else itertools.permutations(seeds, 2):
        for k, m in pairs((again[i].lines, again[j].lines)):
            ended, blocked = interleaved(sharing.call(model, i, k), sharing.call(model, j, m))
            waited += blocked
            if "hang" in ended:
                return "hang"
            if any(isinstance(end, tuple) and end[:1] == ("crash",) for end in ended):
                return "crash"
            if ended != [firsts[i], firsts[j]]:
                return "wrong"
            if waited > MAX_BLOCKED:
                return ""
    return ""


if __name__ == "__main__":
    (entry,) = (e for e in load((sys.argv[1].split(".")[0],)) if e.name == sys.argv[1])
    print(check(entry) or "right", flush=True)
    os._exit(0)  # what hangs does not keep us
