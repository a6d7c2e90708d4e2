"""Watches what a forward pass leaves in its modules, and lets threads take it from each other.

    python audit.py layers [--layer NAME] ... [--calls N]    PYTHONPATH: the tree to try
    python audit.py model MODEL INPUTS [--calls N]           each as package.module:factory

Runs inside a PyG environment, and imports nothing of the kit. `layers` audits what
layers.py can build, `model` one module of anybody's. The last line of the output is JSON.

A call is traced: which attributes of which modules it writes, and where it reads
them. For each such attribute, one thread is held right before a read, another one
runs until right after a write, and both go on. A result that is not the one of the
same call alone, bit for bit, confirms a race. Then threads share the module at full speed.

What is not seen: writes of C++ or TorchScript code, of globals and of objects that no
module holds, and what only training, other inputs, or the first calls do.
"""

import argparse
import collections
import contextlib
import copy
import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import platform
import re
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
# TorchScript else fuses what it has seen before, and may round it in another way than at first.
os.environ.setdefault("PYTORCH_TENSOREXPR", "0")

import torch

LIMIT = 10.0  # seconds that one thread waits for another one, or more if calls are slow
MAX_PAIRS = 64  # of a place to read and a place to write, for each attribute
STRESS_THREADS = 8
STRESS_SECONDS = 60.0
SWITCH_INTERVAL = 1e-5
CALLS = {"layers": 96, "model": 800}  # of a stress
NUM_INPUTS = 4

READ, WRITE, DELETE = "read", "assignment", "deletion"
IN_PLACE, PAST_SETATTR = "in-place change", "change past __setattr__"
STOPS = (Exception, SystemExit)  # how somebody's code may end
NOT_DETERMINISTIC = "not deterministic in one thread: nothing was compared"

Place = tuple[str, int, str]  # file, line, function
Key = tuple[int, str]  # the id of a module, and the name of an attribute
Request = tuple[tuple[Any, ...], dict[str, Any]]


class Problem(Exception):
    """What a stranger has to be told, in one paragraph."""


# ---------------------------------------------------------------- What is the same


def frozen(value: object, depth: int = 12) -> Any:  # noqa: ANN401
    """Shows a value such that equal means equal bit for bit (and NaN equals NaN)."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        return frozen_tensor(value)
    if isinstance(value, (float, complex)):
        return (kind, repr(value))
    if value is None or isinstance(value, (bool, int, str, torch.dtype, torch.device)):
        return (kind, value)
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return (kind, str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).digest())
    if depth == 0 or isinstance(value, (type, types.FunctionType, types.ModuleType)):
        return ("not shown", kind)
    if isinstance(value, Mapping):
        items = [(repr(key), frozen(item, depth - 1)) for key, item in list(value.items())]
        return (kind, *sorted(items, key=lambda item: item[0]))
    if isinstance(value, (set, frozenset)):
        return (kind, *sorted((frozen(item, depth - 1) for item in value), key=repr))
    if isinstance(value, (list, tuple, collections.deque)):
        return (kind, *[frozen(item, depth - 1) for item in list(value)])
    if kind == "SparseTensor" and hasattr(value, "coo"):
        return (kind, frozen([value.sparse_sizes(), value.coo()], depth - 1))
    if type(value).__module__.startswith("torch_geometric.") and hasattr(value, "to_dict"):
        return (kind, frozen(value.to_dict(), depth - 1))
    if hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
        return (kind, frozen(dict(vars(value)), depth - 1))
    return ("not shown", kind)


def frozen_tensor(value: torch.Tensor) -> Any:  # noqa: ANN401
    """A tensor of any layout, with the bytes of its parts."""
    value = value.detach()
    if type(value) is not torch.Tensor:
        value = value.as_subclass(torch.Tensor)
    layout = str(value.layout)
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return (layout, tuple(value.shape), frozen([value.indices(), value.values()]))
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [value.crow_indices(), value.col_indices(), value.values()]
        return (layout, tuple(value.shape), frozen(parts))
    if value.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [value.ccol_indices(), value.row_indices(), value.values()]
        return (layout, tuple(value.shape), frozen(parts))
    shape, dtype = tuple(value.shape), str(value.dtype)
    value = (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).cpu()
    if value.is_floating_point() and value.isnan().any():
        value = torch.where(value.isnan(), torch.full_like(value, float("nan")), value)
    data = value.contiguous().flatten().view(torch.uint8).numpy() if value.numel() else b""
    return ("tensor", dtype, shape, hashlib.sha256(data).digest())


def outline(shown: object) -> object:
    """What `frozen` showed, less the bytes: the structure and the shapes."""
    if isinstance(shown, (tuple, list)):
        return [outline(item) for item in shown]
    return b"" if isinstance(shown, bytes) else shown


def holds_something(shown: object) -> bool:
    """Whether there is anything to compare in what `frozen` showed."""
    if isinstance(shown, (tuple, list)):
        kind, *rest = shown or [""]
        if isinstance(kind, str) and len(rest) == 1 and kind in ("bool", "int", "float", "str"):
            return True
        return kind not in ("not shown", "NoneType") and any(map(holds_something, shown))
    return isinstance(shown, bytes)


# ------------------------------------------------------------ Where, and what is held

INSIDE = {sys._getframe().f_code.co_filename, torch.nn.Module.__init__.__code__.co_filename}
ACCESSORS = {"__getattribute__", "__getattr__", "__setattr__", "__delattr__"}
# Every object has these. Attributes such as `__mu__`, which PyG's modules have, are seen.
QUIET = {name for name in dir(torch.nn.Module) if name.startswith("__")}
REGISTERS = ("_parameters", "_buffers", "_modules")
UNSET = object()


def where() -> Place:
    """The place that accesses an attribute: outside of this file and of `torch.nn.Module`."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename in INSIDE or frame.f_code.co_name in ACCESSORS
    ):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name


def shown_file(file: str) -> str:
    """A file relative to the directory that holds PyG, or to ours, if it is inside."""
    if file.startswith("<"):
        return file
    path = Path(file).resolve()
    package = getattr(sys.modules.get("torch_geometric"), "__file__", None)
    if package and path.is_relative_to(Path(package).resolve().parent):
        return path.relative_to(Path(package).resolve().parents[1]).as_posix()
    return (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()


def shown_place(place: Place) -> str:
    """A place, in a sentence."""
    return f"{shown_file(place[0])}:{place[1]} ({place[2]})"


def attributes(module: torch.nn.Module) -> dict[str, Any]:
    """What a module holds under which name, parameters and buffers as well."""
    held = dict(vars(module))
    for register in REGISTERS:
        registered = held.pop(register, None)
        held.update(registered if isinstance(registered, dict) else {})
    return held


def glance(value: object) -> tuple[Any, ...]:
    """The objects whose identities tell whether a value was replaced or changed in place."""
    if isinstance(value, torch.Tensor):
        with contextlib.suppress(RuntimeError):  # tensors of inference mode have none
            return (value, str(value._version))
    if isinstance(value, dict):
        return (value, *value.keys(), *value.values())
    if isinstance(value, (list, set, collections.deque)):
        return (value, *value)
    return (value,)


def alike(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two glances saw the same."""
    if len(one) != len(other):
        return False
    return all(a is b or (type(a) is str and a == b) for a, b in zip(one, other))


# --------------------------------------------------------------------------- Tracing

# Who is told of what a thread does, by the thread's identifier. It may answer a read.
listeners: dict[int, Callable[..., Any]] = {}


def traced(original: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """An accessor that tells of itself: before it reads, and after it writes."""

    def tell(module: torch.nn.Module, name: str, *value: object) -> Any:  # noqa: ANN401
        listener = listeners.get(threading.get_ident())
        if listener is None or name in QUIET:
            return UNSET
        return listener(kind, module, name, *value)

    def read(module: torch.nn.Module, name: str) -> Any:  # noqa: ANN401
        answer = tell(module, name)
        return original(module, name) if answer is UNSET else answer

    def write(module: torch.nn.Module, name: str, *value: object) -> None:
        original(module, name, *value)
        tell(module, name, *value)

    return read if kind == READ else write


@contextlib.contextmanager
def tracing(module: torch.nn.Module) -> Iterator[None]:
    """Traces the attributes of all modules, those with accessors of their own as well."""
    classes = {base for child in module.modules() for base in type(child).__mro__}
    accessors = {"__getattribute__": READ, "__setattr__": WRITE, "__delattr__": DELETE}
    changed = []
    try:
        for cls in {torch.nn.Module, *classes} - {object}:
            for accessor, kind in accessors.items():
                own = vars(cls).get(accessor)
                if own is None and cls is not torch.nn.Module:
                    continue
                with contextlib.suppress(TypeError):  # a class of C has no attributes to set
                    setattr(cls, accessor, traced(own or getattr(cls, accessor), kind))
                    changed.append((cls, accessor, own))
        yield
    finally:
        for cls, accessor, own in changed:
            setattr(cls, accessor, own) if own is not None else delattr(cls, accessor)


@dataclasses.dataclass
class Access:
    """How one call accesses one attribute: places in their order."""

    module: torch.nn.Module
    name: str
    seen: tuple[Any, ...]  # the last glance
    reads: list[Place] = dataclasses.field(default_factory=list)
    writes: list[Place] = dataclasses.field(default_factory=list)
    values: list[Any] = dataclasses.field(default_factory=list)  # pairs of shown and value
    how: set[str] = dataclasses.field(default_factory=set)
    read_back: bool = False

    def look(self, value: object) -> None:
        """Notes a change that no traced write has made."""
        now = glance(value)
        if not alike(self.seen, now):
            self.how.add(IN_PLACE if self.seen[0] is now[0] else PAST_SETATTR)
        self.seen = now


class Recorder:
    """Listens to one call."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.modules = dict.fromkeys(module.modules())
        self.accesses: dict[Key, Access] = {}
        for child in self.modules:
            for name, value in attributes(child).items():
                self.accesses[id(child), name] = Access(child, name, glance(value))
        self.contents = self.get_contents()
        self.written: list[Key] = []

    def get_contents(self) -> dict[Key, Any]:
        """What the attributes hold, some levels deep."""
        return {
            (id(child), name): frozen(value, depth=4)
            for child in self.modules
            for name, value in attributes(child).items()
        }

    def __call__(self, kind: str, module: torch.nn.Module, name: str, *_: object) -> Any:  # noqa: ANN401
        """Hears of an access."""
        value = attributes(module).get(name, UNSET)
        key = (id(module), name)
        if key not in self.accesses:
            # Only of the registered modules is it known that they had no such attribute.
            before = UNSET if module in self.modules else value
            self.accesses[key] = Access(module, name, glance(before))
        access = self.accesses[key]
        if kind == READ:
            access.look(value)
            access.reads.append(where())
            access.read_back |= bool(access.how)
        else:
            access.seen = glance(value)
            access.writes.append(where())
            access.values.append((frozen(value, depth=4), value))
            access.how.add(kind)
        return UNSET

    def finish(self) -> None:
        """Sees what the call has left behind."""
        contents = self.get_contents()
        for key, access in self.accesses.items():
            access.look(attributes(access.module).get(access.name, UNSET))
            if not access.how and self.contents.get(key) != contents.get(key):
                access.how.add(IN_PLACE)  # deeper than a glance sees
        self.written = [
            key
            for key, access in self.accesses.items()
            # What a property writes is seen itself.
            if access.how and not isinstance(getattr(type(access.module), key[1], None), property)
        ]


# ------------------------------------------------------------------- Calls in threads


class Subject:
    """A module, and the requests whose results are known from calls one after the other."""

    def __init__(self, module: torch.nn.Module, requests: list[Request]) -> None:
        self.module = module
        self.requests = requests
        self.inputs = [frozen(request) for request in requests]
        self.copies = False  # whether each call needs copies of its arguments
        self.results: list[Any] = []
        self.limit = LIMIT  # how long one thread waits for another one

    def call(self, i: int) -> Any:  # noqa: ANN401
        """Answers a request, and shows the result."""
        request = self.requests[i]
        args, kwargs = copy.deepcopy(request) if self.copies else request
        with torch.no_grad():  # which each thread has to say
            return frozen(self.module(*args, **kwargs))

    def trace(self, i: int) -> tuple[Any, Recorder]:
        """Answers a request, and returns what the call accessed."""
        recorder = Recorder(self.module)
        listeners[threading.get_ident()] = recorder
        start = time.monotonic()
        try:
            result = self.call(i)
            self.limit = max(self.limit, 20 * (time.monotonic() - start))
            recorder.finish()
            return result, recorder
        except STOPS as error:
            raise Problem(f"A call of the module, alone, raised:\n{tail(error)}") from error
        finally:
            del listeners[threading.get_ident()]

    def save(self) -> Callable[[], None]:
        """Returns what restores the attributes, since a crash may leave them astray."""
        saved = []
        for child in self.module.modules():
            held = [vars(child), *(vars(child).get(register) for register in REGISTERS)]
            saved += [(mapping, dict(mapping)) for mapping in held if isinstance(mapping, dict)]

        def restore() -> None:
            for mapping, content in saved:
                mapping.clear()
                mapping.update(content)

        return restore


def last_line(error: BaseException) -> str:
    """The last line of a traceback."""
    line = "".join(traceback.format_exception_only(type(error), error)).strip()
    return line if len(line) <= 300 else f"{line[:300]}..."


def tail(error: BaseException) -> str:
    """The end of a traceback in somebody's code."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename not in INSIDE and f.filename[0] != "<"
    ]
    return "".join(traceback.format_list(frames[-3:])) + last_line(error)


class Held(threading.Thread):
    """A call in a thread of its own, which stops at one access until it may go on.

    What it writes to other attributes, it reads itself, such that a mix-up is one of
    the attribute in question.
    """

    def __init__(
        self, subject: Subject, i: int, key: Key, reads: bool, ordinal: int | None
    ) -> None:
        super().__init__(daemon=True)
        self.subject, self.i, self.key, self.reads = subject, i, key, reads
        self.ordinal = ordinal  # of the access; None: the end of the call
        self.own: dict[Key, Any] = {}
        self.stopped, self.may_go_on = threading.Event(), threading.Event()
        self.outcome = f"did not end within {subject.limit:.0f} seconds"

    def __call__(self, kind: str, module: torch.nn.Module, name: str, *value: object) -> Any:  # noqa: ANN401
        """Hears of an access, and stops at the one that is sought."""
        key = (id(module), name)
        if key != self.key:
            if kind == READ:
                return self.own.get(key, UNSET)
            if not hasattr(inspect.getattr_static(type(module), name, None), "__set__"):
                self.own[key] = value[0] if value else UNSET
        elif self.reads == (kind == READ) and self.ordinal is not None:
            if self.ordinal == 0:
                self.stopped.set()
                self.may_go_on.wait(6 * self.subject.limit)
            self.ordinal -= 1
        return UNSET

    def run(self) -> None:
        """Calls, and notes how the call ended."""
        listeners[threading.get_ident()] = self
        try:
            result = self.subject.call(self.i)
            same = result == self.subject.results[self.i]
            self.outcome = "right" if same else "silently wrong"
        except BaseException as error:
            self.outcome = last_line(error)
        finally:
            del listeners[threading.get_ident()]
            self.stopped.set()


def interleave(one: Held, two: Held, hurry: bool) -> bool:
    """Holds one, lets the other one run up to its access, and lets both go on in turn.

    Returns:
        Whether neither had to wait for the other one, as for a lock. If that is known
        of the calls, `hurry` shortens the wait.
    """
    limit = one.subject.limit
    patience = limit / 20 if hurry else limit
    one.start()
    one.stopped.wait(limit)
    two.start()
    free = two.stopped.wait(patience)
    one.may_go_on.set()
    one.join(patience)
    free &= not one.is_alive()
    two.may_go_on.set()
    two.join(limit)
    one.join(limit)
    return free


def count(outcomes: list[str]) -> dict[str, int]:
    """Counts how calls ended."""
    right, wrong = outcomes.count("right"), outcomes.count("silently wrong")
    return {
        "calls": len(outcomes),
        "right": right,
        "crashed": len(outcomes) - right - wrong,
        "silently_wrong": wrong,
    }


def some(places: list[Place]) -> list[int]:
    """The ordinals of the first and the last access in each line."""
    first: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    for ordinal, place in enumerate(places):
        first.setdefault(place[:2], ordinal)
        last[place[:2]] = ordinal
    return sorted({*first.values(), *last.values()})


def force(subject: Subject, accesses: list[Access | None]) -> dict[str, Any]:
    """Forces the interleavings at one attribute.

    Args:
        subject: What is called.
        accesses: How each request accesses the attribute.
    """
    # First the requests whose mix-up would be silent, then some of other shapes.
    pairs = [
        (i, j)
        for i, one in enumerate(accesses)
        for j, two in enumerate(accesses)
        if i != j and one and one.reads and two and two.how
    ]
    inputs, results = subject.inputs, subject.results
    rank = {
        (i, j): (results[i] == results[j], outline(inputs[i]) != outline(inputs[j]))
        for i, j in pairs
    }
    pairs.sort(key=lambda pair: rank[pair])
    pairs = pairs[:2] + [pair for pair in pairs[2:] if rank[pair][1]][:1]

    outcomes: list[str] = []
    tried = left_out = blocked = 0
    reason = ""
    for i, j in pairs:
        one, two = accesses[i], accesses[j]
        assert one is not None and two is not None
        ends: list[int | None] = [*some(two.writes)]
        if two.how & {IN_PLACE, PAST_SETATTR}:
            ends.append(None)
        places = [(p, w) for p in some(one.reads) for w in ends]
        left_out += max(0, len(places) - (MAX_PAIRS - tried))
        for p, w in places[: MAX_PAIRS - tried]:
            restore = subject.save()
            key = (id(one.module), one.name)
            threads = [Held(subject, i, key, True, p), Held(subject, j, key, False, w)]
            blocked += not interleave(*threads, hurry=blocked > 0)
            restore()
            tried += 1
            ended = [thread.outcome for thread in threads]
            outcomes += ended
            bad = [k for k in (0, 1) if ended[k] != "right"]
            # A crash says more than a wrong result.
            bad.sort(key=lambda k: ended[k] == "silently wrong")
            if bad and not reason:
                held = "at its end" if w is None else f"after {shown_place(two.writes[w])}"
                what = ended[bad[0]].replace("silently wrong", "a silently wrong result")
                reason = (
                    f"thread 1 was held before {shown_place(one.reads[p])}, thread 2 {held}: "
                    f"thread {bad[0] + 1} ended with {what}"
                )
            if any(thread.is_alive() for thread in threads):
                break
        if reason:
            break
    return {
        "interleaved": {"pairs": tried, **count(outcomes), "left_out": left_out},
        "blocked": blocked,
        "reason": reason,
    }


def stress(subject: Subject, calls: int) -> dict[str, Any]:
    """Lets threads share the module at full speed."""
    outcomes: list[list[str]] = [[] for _ in range(STRESS_THREADS)]
    barrier = threading.Barrier(STRESS_THREADS)
    stop = threading.Event()

    def work(k: int) -> None:
        barrier.wait(LIMIT)
        for n in range(max(1, calls // STRESS_THREADS)):
            if stop.is_set():
                return
            i = (k + n) % len(subject.requests)
            try:
                same = subject.call(i) == subject.results[i]
                outcomes[k].append("right" if same else "silently wrong")
            except BaseException as error:
                outcomes[k].append(last_line(error))

    threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(STRESS_THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    restore = subject.save()
    try:
        for thread in threads:
            thread.start()
        for seconds in (STRESS_SECONDS, subject.limit):
            deadline = time.monotonic() + seconds
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            stop.set()
    finally:
        sys.setswitchinterval(interval)
    restore()
    ended = [outcome for part in outcomes for outcome in list(part)]
    errors = collections.Counter(o for o in ended if o not in ("right", "silently wrong"))
    return {
        "threads": STRESS_THREADS,
        **count(ended),
        "hung": sum(thread.is_alive() for thread in threads),
        "errors": [error for error, _ in errors.most_common(3)],
    }


# ------------------------------------------------------------------------- The audit


def audit(
    module: torch.nn.Module, requests: list[Request], calls: int, always: bool = True
) -> dict[str, Any]:
    """Traces the requests, forces interleavings, and stresses.

    Args:
        module: A module in evaluation mode.
        requests: Arguments of calls.
        calls: How many calls the stress makes.
        always: Whether to stress what writes nothing, too.
    """
    subject = Subject(module, requests)
    indices = range(len(requests))
    notes = []
    spare = None
    with contextlib.suppress(Exception):
        spare = copy.deepcopy(requests)
    with tracing(module):
        first = [subject.trace(i)[1] for i in indices]
        if [frozen(request) for request in requests] != subject.inputs:
            if spare is None:
                raise Problem("A call changes its arguments in place, and they cannot be copied.")
            subject.requests, subject.copies = spare, True
            notes.append("A call changes its arguments in place: each call was given copies.")
        subject.results = [subject.trace(i)[0] for i in indices]
        if not any(map(holds_something, subject.results)):
            raise Problem(
                "The calls of the module returned nothing to compare: return tensors, numbers "
                "or strings, or tuples, lists and dictionaries of them."
            )
        # In another order, such that what one call leaves to the next one shows.
        again = [subject.trace(i) for i in reversed(indices)][::-1]
        deterministic = [result for result, _ in again] == subject.results
        if deterministic and len(set(map(repr, subject.results))) == 1:
            notes.append("Every request has the same result: a mix-up of results cannot be seen.")
        # A module that is not registered, as in a list, is told from one that a call
        # makes for itself by being there in more than one call.
        known = {key[0] for recorder in first for key in recorder.accesses}
        paths = {id(child): path for path, child in reversed(list(module.named_modules()))}
        keys = dict.fromkeys(k for _, recorder in again for k in recorder.written if k[0] in known)
        writes = []
        for key in keys:
            accesses = [recorder.accesses.get(key) for _, recorder in again]
            writes.append(examine(subject, paths, accesses, deterministic))
        for key in dict.fromkeys(key for recorder in first for key in recorder.written):
            if key not in keys and key[0] in paths:
                accesses = [recorder.accesses.get(key) for recorder in first]
                writes.append(examine(subject, paths, accesses, deterministic, first=True))
    stressed = None
    if deterministic and (always or keys):
        stressed = stress(subject, calls)
    result = {"writes": writes, "stress": stressed, "nondeterministic": not deterministic}
    return {**result, "notes": notes}


def examine(
    subject: Subject,
    paths: dict[int, str],
    accesses: list[Access | None],
    deterministic: bool,
    first: bool = False,
) -> dict[str, Any]:
    """Reports one written attribute, and whether threads can take it from each other."""
    there = [access for access in accesses if access is not None]
    module, name = there[0].module, there[0].name
    how = set().union(*(access.how for access in there))
    reads = dict.fromkeys(place for access in there for place in access.reads)
    written = dict.fromkeys(place for access in there for place in access.writes)
    values = [value for access in there for value in access.values]
    shown = {repr(shown) for shown, _ in values}
    same = ""
    if len(shown) == 1 and "not shown" not in str(shown) and not how & {IN_PLACE, PAST_SETATTR}:
        same = f"both threads write the same value: {brief(values[0][1])}"
    interleaved = None
    if first:
        verdict = "not forced"
        reason = (
            "only first calls write it, and what threads do to each other's first calls was "
            "not tried: make a call before threads share the module"
        )
    elif not deterministic:
        verdict, reason = "not forced", NOT_DETERMINISTIC
    elif not reads:
        verdict = "not read back"
        reason = "no call reads it; it is left in the module for the caller, who gets any call's"
    else:
        forced = force(subject, accesses)
        interleaved, reason = forced["interleaved"], forced["reason"]
        if reason:
            verdict = "confirmed"
        elif how & {IN_PLACE, PAST_SETATTR}:
            verdict = "not forced"
            reason = (
                "the places of the changes are not known; a whole call before each read gave "
                "the right results, and the rest is left to the stress"
            )
        else:
            verdict, reason = "refuted", same or "every interleaving gave the right results"
            if not any(access.read_back for access in there):
                verdict, reason = "not read back", f"it is read before it is written; {reason}"
        if forced["blocked"]:
            reason += f"; in {forced['blocked']} of them, one thread waited for the other (a lock?)"
    return {
        "submodule": paths.get(id(module), "(not registered)"),
        "class": type(module).__name__,
        "attribute": name,
        "how": next(h for h in (WRITE, DELETE, PAST_SETATTR, IN_PLACE) if h in how),
        "written": [[shown_file(file), line, function] for file, line, function in written],
        "read": [[shown_file(file), line, function] for file, line, function in reads],
        "first_call_only": first,
        "interleaved": interleaved,
        "verdict": verdict,
        "reason": reason,
    }


def brief(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} and shape {list(value.shape)}"
    if value is UNSET:
        return "none, it is deleted"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def environment() -> dict[str, Any]:
    """What this runs on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": getattr(sys.modules.get("torch_geometric"), "__version__", None),
        # An extension that does not know of free threading turns the lock on again.
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


# ---------------------------------------------------------------------------- Layers


def layers(names: list[str], calls: int) -> dict[str, Any]:
    """Audits each layer in each form in which it infers."""
    sys.path.insert(0, str(Path(__file__).parent))
    import layers as known

    unknown = sorted(set(names) - set(known.names()))
    if unknown:
        raise Problem(
            f"No layer {', '.join(unknown)}: PyG {known.torch_geometric.__version__} and "
            f"layers.py have {', '.join(known.names())}. Name one of these."
        )
    found: dict[str, Any] = {}
    for name in names or known.names():
        # Two requests of the same shapes, and one of other shapes.
        drawn = [known.forms(name, 12345), known.forms(name, 54321), known.forms(name, 7, nodes=9)]
        results: dict[str, Any] = {}
        for form in drawn[0]:
            requests: list[Request] = [((), arguments[form]) for arguments in drawn]
            try:
                layer = known.get_layer(name, form).eval()
                results[form] = audit(layer, requests, calls, always=not results)
            except Exception as error:
                results[form] = {"error": last_line(error.__cause__ or error)}
        found[name] = {"forms": results}
    return {**environment(), "layers": found}


# ----------------------------------------------------------------------------- Model


def find(option: str, given: str) -> Any:  # noqa: ANN401
    """Imports what `package.module:factory` names."""
    module_name, _, path = given.partition(":")
    if not module_name or not path:
        raise Problem(
            f"{option} is {given!r}, and should be package.module:factory, such as "
            "serving.models:get_model: a module to import, a colon, and a function in it."
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise Problem(
                f"{option} is {given!r}, and there is no module {error.name!r}. It is sought in "
                f"the working directory, {Path.cwd()}, and on PYTHONPATH. Run this where "
                f"`import {module_name}` works, or set PYTHONPATH."
            ) from None
        raise Problem(f"The import of {module_name!r} failed:\n{tail(error)}") from None
    except STOPS as error:
        raise Problem(f"The import of {module_name!r} failed:\n{tail(error)}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            there = [n for n, value in vars(found).items() if callable(value) and n[0] != "_"]
            raise Problem(
                f"{option} is {given!r}, and {module_name} has no {part!r}. It has "
                f"{', '.join(there) or 'nothing to call'}."
            )
        found = getattr(found, part)
    if not callable(found):
        raise Problem(
            f"{option} is {given!r}, which is a {type(found).__name__}. Name a function that "
            "takes no arguments, and returns what is to be used."
        )
    return found


def make(option: str, given: str, factory: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Calls somebody's factory."""
    try:
        with torch.no_grad():
            return factory()
    except STOPS as error:
        raise Problem(
            f"{option}, {given}(), was called without arguments, and raised:\n{tail(error)}"
        ) from None


def as_request(value: object) -> Request:
    """Arguments of a call: a tuple has those by position, a dictionary those by name."""
    if isinstance(value, tuple):
        return value, {}
    return ((), value) if isinstance(value, dict) else ((value,), {})


def get_classes(module: torch.nn.Module) -> list[dict[str, Any]]:
    """The classes of all submodules, and what they inherit from, outside of `torch.nn`."""
    classes = dict.fromkeys(cls for child in module.modules() for cls in type(child).__mro__)
    found = []
    for cls in classes:
        if re.match(r"(torch\.nn\.|(builtins|typing|abc)$)", cls.__module__):
            continue
        try:
            file = shown_file(inspect.getfile(cls))
        except (TypeError, OSError):
            file = None
        found.append({"class": cls.__qualname__, "module": cls.__module__, "file": file})
    return found


def model(given_model: str, given_inputs: str, calls: int) -> dict[str, Any]:
    """Audits somebody's model on somebody's inputs."""
    factory, get_inputs = find("MODEL", given_model), find("INPUTS", given_inputs)
    torch.manual_seed(0)
    module = factory
    if not isinstance(factory, torch.nn.Module):
        module = make("MODEL", given_model, factory)
    if not isinstance(module, torch.nn.Module):
        raise Problem(
            f"MODEL, {given_model}(), returned a {type(module).__name__}. Return the "
            "torch.nn.Module that threads share."
        )
    module.eval()
    requests = []
    for i in range(NUM_INPUTS):
        torch.manual_seed(i)
        requests.append(as_request(make("INPUTS", given_inputs, get_inputs)))
    shown = [frozen(request) for request in requests]
    if all(other == shown[0] for other in shown):
        raise Problem(
            f"INPUTS, {given_inputs}(), returned the same inputs {NUM_INPUTS} times, bit for bit: "
            "if threads mixed up their calls, nobody could see it. It is called after "
            f"torch.manual_seed(0) to ({NUM_INPUTS - 1}); draw the inputs with torch.rand() and "
            "its like, or return other ones in each call."
        )
    audited = audit(module, requests, calls)
    training = [path or "the model" for path, child in module.named_modules() if child.training]
    if training:
        audited["notes"].append(f"In training after eval(): {', '.join(training[:5])}.")
    return {
        **environment(),
        "requests": len(requests),
        "modules": len(list(module.modules())),
        "classes": get_classes(module),
        **audited,
    }


def main() -> int:
    """Runs a mode, and prints what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    mode = modes.add_parser("layers")
    mode.add_argument("--layer", action="append", default=[])
    mode.add_argument("--calls", type=int, default=CALLS["layers"])
    mode = modes.add_parser("model")
    mode.add_argument("model")
    mode.add_argument("inputs")
    mode.add_argument("--calls", type=int, default=CALLS["model"])
    options = parser.parse_args()

    # What is printed meanwhile must not get between us and who reads the last line.
    out = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    torch.set_num_threads(1)
    try:
        if options.mode == "layers":
            result = layers(options.layer, options.calls)
        else:
            # A module of the user's may have the name of one of ours.
            sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
            sys.path.insert(0, str(Path.cwd()))
            result = model(options.model, options.inputs, options.calls)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 2
    with os.fdopen(out, "w") as stream:
        print(json.dumps(result), file=stream)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(status)  # what hangs does not keep us
    sys.exit(status)
