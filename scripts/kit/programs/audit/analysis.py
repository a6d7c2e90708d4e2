"""The audit of one model: what calls leave behind, and what threads do to each other."""

import contextlib
import copy
import functools
import itertools
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import torch

from . import (
    branches,
    code,
    copying,
    describing,
    exploring,
    firsts,
    interleaving,
    listening,
    recording,
    scripted,
    state,
    stress,
)
from .calls import Problem, Subject, seed, shown_arguments, without_compiler
from .interleaving import HUNG, count
from .places import shown_place
from .recording import Access, Recorder
from .slots import SlotKey
from .values import holds_something, opaque_kinds

FORCING_SECONDS = 45.0  # for all slots together
FIRST_CALLS = 2  # copies of the model, each of which is called with another request first
SAME_KIND = 2  # slots of the same attribute of the same class that are forced; the others are alike

Notify = Callable[[str], None]


class Audit:
    """One audit; `run` returns what it saw, ready for JSON."""

    def __init__(
        self,
        subject: Subject,
        calls: Optional[int],
        notify: Notify,
        explores: bool = True,
        first_results: Sequence[firsts.Firsts] = (),
    ) -> None:
        self.subject = subject
        self.first_results = first_results
        self.explores = explores
        self.calls = calls
        self.notify = notify
        self.indices = range(len(subject.requests))
        self.watched = code.Watched()
        self.nodes: List[state.Node] = []
        self.by_id: Dict[int, state.Node] = {}
        self.inputs = [shown_arguments(request) for request in subject.requests]
        self.notes: List[str] = []
        self.uncompared: List[str] = []  # the types in results that cannot be compared
        self.random: Set[str] = set()
        self.is_deterministic = True
        self.is_carried = False
        self.traced: List[Recorder] = []
        self.fresh = copying.copy_of(subject.module)  # as it was before its first call

    def run(self) -> Dict[str, Any]:
        """Calls, traces, forces, and stresses.

        Raises:
            Problem: If the model cannot be called, or returns nothing to compare.
        """
        subject = self.subject
        self.notify("calling the model in one thread")
        arguments = self._call_alone()
        confuses = self.is_deterministic and firsts.confuses_new_arguments(subject)
        left = self._left_by_firsts() if self.is_deterministic else None
        methods = list(dict.fromkeys(request.method for request in subject.requests))
        result: Dict[str, Any] = {
            "arguments": arguments,
            "scripted": scripted.read_scripted(subject.module, methods),
            "graph_breaks": _graph_breaks(),
            "confuses_new_arguments": confuses,
        }
        plain = subject.results
        try:
            with without_compiler(), listening.following_pools():
                result.update(self._trace_and_force())
        finally:
            self.watched.restore()
        result["first_calls_differ"] |= left is not None
        result["left_by_first_calls"] = left or []
        subject.results = plain
        comparable = self.is_deterministic
        self.notify(f"letting {stress.THREADS} threads share the model")
        calls = self.calls if self.calls is not None else stress.usual_calls(subject)
        result["stress"] = stress.stress(subject, calls, comparable)
        result["stress"]["compared"] = comparable
        self._note_results(plain)
        result.update(
            nondeterministic=not self.is_deterministic,
            carried=self.is_carried,
            random=sorted(self.random),
            notes=self.notes,
            uncompared=self.uncompared,
            watched={
                "functions": len(self.watched.functions),
                "files": sorted(self.watched.files),
                "modules": len(list(subject.module.modules())),
            },
        )
        return result

    # Calls in one thread.

    def _call_alone(self) -> Dict[str, Any]:
        """Makes the calls whose results count, and sees whether arguments are changed."""
        subject = self.subject
        spare = None
        with contextlib.suppress(Exception):
            spare = copy.deepcopy([(r.args, r.kwargs) for r in subject.requests])
        for i in self.indices:
            self._with_chance(i)
        changed = [shown_arguments(r) for r in subject.requests] != self.inputs
        shared = False
        if changed:
            if spare is None:
                raise Problem("A call changes its arguments in place, and they cannot be copied.")
            shared = copying.shares_objects(subject.requests)
            for request, (args, kwargs) in zip(subject.requests, spare):
                request.args, request.kwargs = args, kwargs
            subject.copies = True
        subject.results = [self._with_chance(i) for i in self.indices]
        shown = [subject.tolerance.shown(result) for result in subject.results]
        self.uncompared = sorted(set().union(*map(opaque_kinds, shown)) - {"NoneType"})
        if not self.uncompared and not any(map(holds_something, shown)):
            raise Problem(
                "The calls of the model returned nothing to compare: return tensors, numbers "
                "or strings, or tuples, lists and dictionaries of them."
            )
        # In other orders, such that what one call leaves to the next one shows.
        orders = [*reversed(self.indices), *(i for i in self.indices for _ in range(2))]
        again = [(i, self._with_chance(i)) for i in orders]
        self.is_deterministic = all(subject.is_right(i, result) for i, result in again)
        return {"changed": changed, "shared": shared}

    def _with_chance(self, i: int) -> Any:
        """Answers a request, and notes which generators of random numbers that has used."""
        before = state.sources_of_chance()
        result = self.subject.alone(i)
        after = state.sources_of_chance()
        self.random |= {name for name in before if before[name] != after.get(name)}
        return result

    def _left_by_firsts(self) -> Optional[List[str]]:
        """What first calls leave outside of the model; None if no result depends on them."""
        differing = [each for each in self.first_results if firsts.differ(self.subject, each)]
        names = dict.fromkeys(name for each in differing for name in firsts.names_left(each))
        return list(names) if differing else None

    def _note_results(self, results: List[Any]) -> None:
        shown = [self.subject.tolerance.shown(result) for result in results]
        if self.is_deterministic and len(set(map(repr, shown))) == 1:
            self.notes.append(
                "Every request has the same result: a mix-up of results cannot be seen."
            )

    # Tracing.

    def _trace_and_force(self) -> Dict[str, Any]:
        subject = self.subject
        self.notify("watching what calls read and change")
        # Without a compiler, results may differ in the last bit.
        subject.results = [self._seeded(i) for i in self.indices]
        run = code.find_code(lambda: [self._seeded(i) for i in self.indices])
        self.watched.replace(run | self._code_of_classes())
        try:
            unwatched = self._trace()
            ran = self._follow()
        except Problem as problem:
            self.watched.restore()
            return describing.untraced(str(problem))
        slots = self._shared_slots()
        deadline = time.monotonic() + FORCING_SECONDS
        writes = self._examine_all(slots, deadline)
        first = self._first_calls(writes)
        explored = None
        some_confirmed = any(write["verdict"] == "confirmed" for write in writes)
        if self.explores and self.is_deterministic and not some_confirmed:
            explored = self._explore(bool(self.random or unwatched))
        writes += first["writes"]
        ran_lines = describing.ran_lines([*self.traced, *first["recorders"]])
        return {
            "writes": writes,
            "first_calls_differ": first["differ"],
            "locks": self._examine_locks(),
            "explored": explored,
            "unwatched": unwatched,
            "ran_lines": ran_lines,
            "branches": ran,
        }

    def _explore(self, many: bool) -> Dict[str, Any]:
        """Lets whole calls run at lines of others."""
        self.notify("letting whole calls run at lines of others")
        # The original code runs three times as fast; but only the rewritten one tells at once
        # that a call waits for a lock.
        takes_locks = any(recorder.locks for recorder in self.traced)
        with contextlib.ExitStack() as stack:
            if not takes_locks:
                stack.enter_context(self.watched.paused())
            return exploring.explore(self.subject, many)

    def _follow(self) -> Dict[str, Any]:
        """Which functions and lines ran outside of torch and PyG, on what objects."""
        tracer = branches.Tracer(self.by_id)
        with self.watched.paused():
            for i in self.indices:
                tracer.run(functools.partial(self._seeded, i))
        return tracer.shown()

    def _seeded(self, i: int) -> Any:
        """Answers a request; what is drawn at random is the same each time."""
        if self.random:
            seed(i)
        return self.subject.alone(i)

    def _code_of_classes(self) -> Set[Any]:
        """The code of the classes of all modules, such that branches not taken are rewritten."""
        codes = set()
        for child in self.subject.module.modules():
            for cls in type(child).__mro__:
                for value in vars(cls).values():
                    inner = getattr(value, "__code__", None)
                    if inner is not None and code.is_watched(inner.co_filename):
                        codes.add(inner)
        return codes

    def _trace(self) -> List[Dict[str, Any]]:
        """Traces every request twice, and returns what could not be watched."""
        subject = self.subject
        classes = {
            cls
            for child in subject.module.modules()
            for cls in type(child).__mro__
            if code.is_watched(code.file_of(cls))
        }
        self.nodes = state.walk(subject.module, state.roots(self.watched.functions, classes))
        self.by_id = state.find_path(self.nodes)
        storages = recording.storages_of(self.nodes)
        results, opaque, changed = [], {}, []
        for n in range(2):
            self.traced = []
            before = state.Snapshot(self.nodes) if n else None
            for i in self.indices:
                if self.random:
                    seed(i)
                result, recorder = recording.record(subject, i, storages)
                results.append((i, result))
                self.traced.append(recorder)
                opaque.update(recorder.opaque)
            changed = before.changed() if before is not None else []
        if self.is_deterministic and not all(subject.is_right(i, r) for i, r in results):
            with self.watched.paused():
                again = [self._seeded(i) for i in self.indices]
            if all(subject.is_right(i, again[i]) for i in self.indices):
                raise Problem("The model computes something else while its code is watched.")
            self.is_deterministic = False
        unwatched = describing.unwatched(self.by_id, self.watched, opaque)
        return [*unwatched, *describing.changed_unseen(self.traced, changed)]

    def _shared_slots(self) -> Dict[SlotKey, List[Optional[Access]]]:
        """The slots that calls change and share, with the accesses of each request."""
        arguments = set()
        for request in self.subject.requests:
            for value in copying.objects_in([request.args, request.kwargs]):
                arguments.add(id(value))
        own = self._held_by_thread()
        slots: Dict[SlotKey, List[Optional[Access]]] = {}
        for slot in dict.fromkeys(s for recorder in self.traced for s in recorder.written()):
            accesses = [recorder.accesses.get(slot) for recorder in self.traced]
            there = [access for access in accesses if access is not None]
            container = there[0].container
            by_others = len(there) > 1 and id(container) not in own | arguments
            if not self._is_reached(there[0]) and not by_others:
                continue  # made by the call, given to it, or the thread's own
            slots[slot] = accesses
        return slots

    def _held_by_thread(self) -> Set[int]:
        """What only this thread's calls access, as it is in variables of the thread: ids."""
        own = state.held_by_thread(self.nodes)
        written = {slot[0] for recorder in self.traced for slot in recorder.written()}
        own = {each for each in own & written if each not in self.by_id}
        if not own:
            return own
        storages = recording.storages_of(self.nodes)
        recorders: List[Recorder] = []

        def call() -> None:
            with contextlib.suppress(Exception):
                for i in self.indices:
                    if self.random:
                        seed(i)
                    recorders.append(recording.record(self.subject, i, storages)[1])

        # Another thread's variables may lead to the same objects.
        other = threading.Thread(target=call, daemon=True)
        other.start()
        other.join(len(self.indices) * self.subject.limit)
        if len(recorders) < len(self.indices):
            return set()
        return own - {slot[0] for recorder in recorders for slot in recorder.accesses}

    # What is shared.

    def _examine_all(
        self, slots: Dict[SlotKey, List[Optional[Access]]], deadline: float
    ) -> List[Dict[str, Any]]:
        groups: Dict[Any, List[Dict[str, Any]]] = {}
        for n, accesses in enumerate(slots.values()):
            there = [access for access in accesses if access is not None]
            described = describing.describe(self.by_id, there)
            key = (described["class"], described["attribute"], repr(described["written"]))
            known = groups.setdefault(key, [])
            if len(known) < SAME_KIND:
                self.notify(f"forcing calls to interleave: {n + 1} of {len(slots)}")
                known.append({**described, **self._examine(accesses, deadline)})
            else:
                known[0]["others"].append(described["submodule"])
        examined = list(itertools.chain.from_iterable(groups.values()))
        describing.explain_by_others(examined)
        return examined

    def _examine(self, accesses: List[Optional[Access]], deadline: float) -> Dict[str, Any]:
        """Whether threads can take a slot from each other."""
        there = [access for access in accesses if access is not None]
        same = describing.same_value(there)
        if not any(access.reads for access in there):
            reason = "no call reads it; it is left in the model for the caller, who gets any call's"
            return {"verdict": "not read back", "reason": reason, "same": bool(same)}
        if same:
            return {"verdict": "refuted", "reason": same, "same": True}
        threads = set().union(*(access.threads for access in there))
        if len(threads) == 1 and not threads & (listening.pooled | {listening.ident()}):
            reason = "one thread of the model's own does all that; calls hand it their work"
            return {"verdict": "refuted", "reason": reason, "same": False, "blocked": 1}
        if not self.is_deterministic:
            return self._examine_chance(there)
        forced = interleaving.force(self.subject, accesses, deadline)
        summary = {
            "interleaved": {
                "pairs": forced.pairs,
                **count(forced.outcomes),
                "left_out": forced.left_out,
                "took": forced.took,
            },
            "same": False,
        }
        return {**summary, **describing.judge(forced, any(access.read_back for access in there))}

    def _examine_chance(self, there: List[Access]) -> Dict[str, Any]:
        """The same of a model whose results cannot be compared."""
        if not self.random and any(access.read_first for access in there):
            self.is_carried = True
            reason = "what one call leaves there, the next one reads"
            return {"verdict": "carried", "reason": reason, "same": False}
        if any(access.read_back for access in there):
            reason = (
                "calls write different values to it and read them back; that was not forced, "
                "since the results of calls differ in one thread, too"
            )
            return {"verdict": "confirmed", "reason": reason, "same": False}
        reason = "it is read before it is written, and results cannot be compared"
        return {"verdict": "not forced", "reason": reason, "same": False}

    # First calls.

    def _first_calls(self, steady: List[Dict[str, Any]]) -> Dict[str, Any]:
        """What only the first call of a model writes, and whether it depends on the input."""
        known = {
            (submodule, write["class"], write["attribute"])
            for write in steady
            for submodule in (write["submodule"], *write["others"])
        }
        described: Dict[Any, Dict[str, Any]] = {}
        values: Dict[Any, Set[str]] = {}
        recorders: List[Recorder] = []
        differ = False
        for i in list(self.indices)[:FIRST_CALLS] if self.fresh is not None else []:
            module = copying.copy_of(self.fresh)
            if module is None:
                break
            seed(i if self.random else 0)
            nodes = state.walk(module, [])
            storages = recording.storages_of(nodes)
            before = state.Snapshot(nodes, with_tensors=False)
            try:
                result, recorder = recording.record(self.subject, i, storages, module)
            except Problem:
                break  # a copy does not work, as one whose hooks know the original
            recorders.append(recorder)
            differ |= self.is_deterministic and not self.subject.is_right(i, result)
            self.by_id = state.find_path([*nodes, *self.nodes])
            for slot in recorder.written():
                access = recorder.accesses[slot]
                if not self._is_reached(access):
                    continue
                each = describing.describe(self.by_id, [access])
                key = (each["submodule"], each["class"], each["attribute"])
                if key not in known:
                    described.setdefault(key, each)
                    values.setdefault(key, set()).add(repr(access.values))
            for node, name in before.changed_attributes():
                each = describing.out_of_sight(node, name)
                key = (each["submodule"], each["class"], each["attribute"])
                if key not in known:
                    described.setdefault(key, each)
        self.by_id = state.find_path(self.nodes)
        return {
            "writes": [
                {**each, **describing.first_call(len(values.get(key, ())) > 1)}
                for key, each in described.items()
            ],
            "recorders": recorders,
            "differ": differ,
        }

    def _is_reached(self, access: Access) -> bool:
        if isinstance(access.container, torch.Tensor):
            return True  # none but the tensors that the model holds are recorded
        return id(access.container) in self.by_id

    # Locks.

    def _examine_locks(self) -> List[Dict[str, Any]]:
        """Locks that calls take in opposite order, and what comes of it."""
        orders: Dict[Tuple[int, int], Tuple[int, Any, Any, Any]] = {}
        for i, recorder in enumerate(self.traced):
            for held, lock, place in recorder.locks:
                for first in held:
                    if first is not lock:
                        orders.setdefault((id(first), id(lock)), (i, first, lock, place))
        lines = []
        for (one, other), (i, first, second, place) in orders.items():
            opposite = orders.get((other, one))
            if opposite is None or one > other:
                continue
            j = opposite[0]
            if i == j:
                j = (i + 1) % len(self.subject.requests)
            threads = interleaving.force_locks(self.subject, (i, j), (second, first))
            outcomes = [thread.outcome for thread in threads or []]
            lines.append(
                {
                    "places": [shown_place(place), shown_place(opposite[3])],
                    "hung": HUNG in outcomes,
                    "outcomes": outcomes,
                }
            )
        return lines


def _graph_breaks() -> bool:
    """Whether torch.compile has left Python code between the graphs of a call."""
    utils = sys.modules.get("torch._dynamo.utils")
    return bool(utils is not None and sum(utils.counters["graph_break"].values()))


def audit(
    subject: Subject,
    calls: Optional[int] = None,
    notify: Notify = lambda _: None,
    explores: bool = True,
    first_results: Sequence[firsts.Firsts] = (),
) -> Dict[str, Any]:
    """Audits a model.

    Args:
        subject: A model in evaluation mode, and requests.
        calls: How many calls the stress makes; None for as many as take some seconds.
        notify: Is told what is going on.
        explores: Whether whole calls are run at lines of others as well.
        first_results: What requests return as the first calls of processes of their own.

    Raises:
        Problem: If the model cannot be called, or returns nothing to compare.
    """
    return Audit(subject, calls, notify, explores, first_results).run()
