"""The audit of one model: what calls leave behind, and what threads do to each other."""

import contextlib
import copy
import itertools
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import torch

from . import code, exploring, interleaving, recording, scripted, state, stress, watching
from .calls import Problem, Subject, copy_of, seed, shown_arguments, without_compiler
from .interleaving import HUNG, RIGHT, Forced, count
from .places import shown_file, shown_place
from .recording import Access, Recorder
from .values import OPAQUE, holds_something, opaque_kinds
from .watching import ASSIGNMENT, DELETION, IN_PLACE, SlotKey

FORCING_SECONDS = 45.0  # for all slots together
FIRST_CALLS = 2  # copies of the model, each of which is called with another request first
SAME_KIND = 2  # slots of the same attribute of the same class that are forced; the others are alike

Notify = Callable[[str], None]


class Audit:
    """One audit; `run` returns what it saw, ready for JSON."""

    def __init__(self, subject: Subject, calls: Optional[int], notify: Notify) -> None:
        self.subject = subject
        self.calls = calls
        self.notify = notify
        self.indices = range(len(subject.requests))
        self.watched = code.Watched()
        self.nodes: List[state.Node] = []
        self.by_id: Dict[int, state.Node] = {}
        self.inputs = [shown_arguments(request) for request in subject.requests]
        self.notes: List[str] = []
        self.random: Set[str] = set()
        self.is_deterministic = True
        self.is_carried = False
        self.traced: List[Recorder] = []
        self.fresh = copy_of(subject.module)  # as it was before its first call

    def run(self) -> Dict[str, Any]:
        """Calls, traces, forces, and stresses.

        Raises:
            Problem: If the model cannot be called, or returns nothing to compare.
        """
        subject = self.subject
        self.notify("calling the model in one thread")
        arguments = self._call_alone()
        methods = list(dict.fromkeys(request.method for request in subject.requests))
        result: Dict[str, Any] = {
            "arguments": arguments,
            "scripted": scripted.read_scripted(subject.module, methods),
            "graph_breaks": _graph_breaks(),
        }
        plain = subject.results
        try:
            with without_compiler():
                result.update(self._trace_and_force())
        finally:
            self.watched.restore()
        subject.results = plain
        comparable = self.is_deterministic
        self.notify("letting {} threads share the model".format(stress.THREADS))
        calls = self.calls if self.calls is not None else stress.usual_calls(subject)
        result["stress"] = stress.stress(subject, calls, comparable)
        result["stress"]["compared"] = comparable
        self._note_results(plain)
        result.update(
            nondeterministic=not self.is_deterministic,
            carried=self.is_carried,
            random=sorted(self.random),
            notes=self.notes,
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
            shared = _shares_objects(subject)
            for request, (args, kwargs) in zip(subject.requests, spare):  # noqa: B905
                request.args, request.kwargs = args, kwargs
            subject.copies = True
        subject.results = [self._with_chance(i) for i in self.indices]
        shown = [subject.tolerance.shown(result) for result in subject.results]
        if not any(map(holds_something, shown)):
            raise Problem(
                "The calls of the model returned nothing to compare: return tensors, numbers "
                "or strings, or tuples, lists and dictionaries of them."
            )
        # In another order, such that what one call leaves to the next one shows.
        again = [self._with_chance(i) for i in reversed(self.indices)][::-1]
        self.is_deterministic = all(subject.is_right(i, again[i]) for i in self.indices)
        return {"changed": changed, "shared": shared}

    def _with_chance(self, i: int) -> Any:  # noqa: ANN401
        """Answers a request, and notes which generators of random numbers that has used."""
        before = state.sources_of_chance()
        result = self.subject.alone(i)
        after = state.sources_of_chance()
        self.random |= {name for name in before if before[name] != after.get(name)}
        return result

    def _note_results(self, results: List[Any]) -> None:
        shown = [self.subject.tolerance.shown(result) for result in results]
        if self.is_deterministic and len(set(map(repr, shown))) == 1:
            self.notes.append("Every request has the same result: a mix-up of results cannot be seen.")
        kinds = sorted(set().union(*map(opaque_kinds, shown)) - {"NoneType"})
        if kinds:
            self.notes.append(
                "Parts of the results cannot be compared: {}.".format(", ".join(kinds))
            )

    # Tracing.

    def _trace_and_force(self) -> Dict[str, Any]:
        subject = self.subject
        self.notify("watching what calls read and change")
        # Without a compiler, results may differ in the last bit.
        subject.results = [self._seeded(i) for i in self.indices]
        ran = code.find_code(lambda: [self._seeded(i) for i in self.indices])
        self.watched.replace(ran | self._code_of_classes())
        try:
            unwatched = self._trace()
        except Problem as problem:
            self.watched.restore()
            return _untraced(str(problem), self.watched)
        slots = self._shared_slots()
        deadline = time.monotonic() + FORCING_SECONDS
        writes = self._examine_all(slots, deadline)
        first = self._first_calls(writes)
        explored = None
        if self.is_deterministic and not any(w["verdict"] == "confirmed" for w in writes):
            self.notify("letting whole calls run at lines of others")
            explored = exploring.explore(self.subject, bool(self.random or unwatched))
        writes += first["writes"]
        ran_lines = _ran_lines([*self.traced, *first["recorders"]])
        return {
            "writes": writes,
            "first_calls_differ": first["differ"],
            "locks": self._examine_locks(),
            "explored": explored,
            "unwatched": unwatched,
            "ran_lines": ran_lines,
        }

    def _seeded(self, i: int) -> Any:  # noqa: ANN401
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
            if code.is_watched(_file_of(cls))
        }
        self.nodes = state.walk(
            subject.module, state.roots(self.watched.functions, classes)
        )
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
            raise Problem("The model computes something else while its code is watched.")
        return [*self._unwatched(opaque), *self._changed_unseen(changed)]

    def _unwatched(self, opaque: Dict[int, Tuple[Any, Any]]) -> List[Dict[str, Any]]:
        """Objects that calls use and that cannot be looked at, and code without a source."""
        found: List[Dict[str, Any]] = []
        for key, (value, place) in opaque.items():
            node = self.by_id.get(key)
            if node is not None:
                name = ".".join(filter(None, (state.name_of(node.module), node.path)))
                why = "its state cannot be looked at"
                found.append(
                    {
                        "what": "object",
                        "name": name,
                        "kind": type(value).__name__,
                        "why": why,
                        "where": shown_place(place),
                    }
                )
        for shown in self.watched.without_source:
            why = "its source cannot be read"
            found.append(
                {"what": "function", "name": shown, "kind": "", "why": why, "where": shown}
            )
        return found

    def _changed_unseen(self, changed: List[state.Node]) -> List[Dict[str, Any]]:
        """Shared objects that are different after calls, and that no watched code has changed."""
        explained = set()
        for recorder in self.traced:
            for access in recorder.accesses.values():
                if access.writes:
                    explained |= {id(access.container), id(access.owner)}
                    if isinstance(access.container, torch.Tensor):
                        explained.add(recording.slot_key(access.container, None)[0])
        found = []
        for node in changed:
            held = watching.namespace_of(node.value)
            ids = {id(node.value), id(held) if held is not None else 0}
            if isinstance(node.value, torch.Tensor):
                ids.add(watching.storage_of(node.value))
            if ids & explained:
                continue
            name = ".".join(filter(None, (state.name_of(node.module), node.path)))
            found.append(
                {
                    "what": "change",
                    "name": name,
                    "kind": type(node.value).__name__,
                    "why": "calls change it, and not in Python code that can be watched",
                    "where": node.owner,
                }
            )
        return found

    def _shared_slots(self) -> Dict[SlotKey, List[Optional[Access]]]:
        """The slots that calls change and share, with the accesses of each request."""
        arguments = set()
        for request in self.subject.requests:
            for value in _objects_in([request.args, request.kwargs]):
                arguments.add(id(value))
        slots: Dict[SlotKey, List[Optional[Access]]] = {}
        for slot in dict.fromkeys(s for recorder in self.traced for s in recorder.written()):
            accesses = [recorder.accesses.get(slot) for recorder in self.traced]
            there = [access for access in accesses if access is not None]
            container = there[0].container
            if not self._is_reached(there[0]) and (len(there) < 2 or id(container) in arguments):
                continue  # made by the call, or given to it
            slots[slot] = accesses
        return slots

    # What is shared.

    def _examine_all(
        self, slots: Dict[SlotKey, List[Optional[Access]]], deadline: float
    ) -> List[Dict[str, Any]]:
        groups: Dict[Any, List[Dict[str, Any]]] = {}
        for n, (slot, accesses) in enumerate(slots.items()):
            there = [access for access in accesses if access is not None]
            described = self._describe(there)
            key = (described["class"], described["attribute"], repr(described["written"]))
            known = groups.setdefault(key, [])
            if len(known) < SAME_KIND:
                self.notify("forcing calls to interleave: {} of {}".format(n + 1, len(slots)))
                known.append({**described, **self._examine(accesses, deadline)})
            else:
                known[0]["others"].append(described["submodule"])
        return list(itertools.chain.from_iterable(groups.values()))

    def _describe(self, there: List[Access]) -> Dict[str, Any]:
        """Which slot it is, and where it is read and written."""
        access = there[0]
        node = self.by_id.get(id(access.container)) or self.by_id.get(id(access.owner))
        attribute = access.key
        if node is None:
            owner, holder = "(not registered)", access.owner
            path = attribute or ""
        else:
            owner, holder = node.owner, node.module
            # What a container holds is told by the container.
            is_own = attribute is None or (access.container is node.value and attribute is None)
            path = node.path if is_own else ".".join(filter(None, (node.path, attribute or "")))
        if isinstance(access.container, type):
            owner, holder, path = "(class attribute)", access.container, attribute or ""
        elif isinstance(access.owner, dict) and access.owner is access.container and attribute:
            owner, holder, path = "(global)", access.owner, attribute
        elif type(access.container).__name__ == "cell":
            owner, holder, path = "(closure)", access.owner, attribute or ""
        how = set(itertools.chain.from_iterable(each.how for each in there))
        reads = dict.fromkeys(place for each in there for place in each.reads)
        written = dict.fromkeys(place for each in there for place in each.writes)
        return {
            "submodule": owner,
            "class": state.name_of(holder),
            "attribute": path,
            "how": next(h for h in (ASSIGNMENT, DELETION, IN_PLACE) if h in how),
            "written": [[shown_file(file), line, function] for file, line, function in written],
            "read": [[shown_file(file), line, function] for file, line, function in reads],
            "read_back": any(each.read_back for each in there),
            "read_first": any(each.read_first for each in there),
            "others": [],
            "first_call_only": False,
            "depends_on_input": False,
            "interleaved": None,
        }

    def _examine(self, accesses: List[Optional[Access]], deadline: float) -> Dict[str, Any]:
        """Whether threads can take a slot from each other."""
        there = [access for access in accesses if access is not None]
        same = _same_value(there)
        if not any(access.reads for access in there):
            reason = "no call reads it; it is left in the model for the caller, who gets any call's"
            return {"verdict": "not read back", "reason": reason, "same": bool(same)}
        if same:
            return {"verdict": "refuted", "reason": same, "same": True}
        if not self.is_deterministic:
            return self._examine_chance(there)
        forced = interleaving.force(self.subject, accesses, deadline)
        seen = {
            "interleaved": {
                "pairs": forced.pairs,
                **count(forced.outcomes),
                "left_out": forced.left_out,
            },
            "same": False,
        }
        return {**seen, **_judge(forced, any(access.read_back for access in there))}

    def _examine_chance(self, there: List[Access]) -> Dict[str, Any]:
        """The same of a model whose results cannot be compared."""
        if any(access.read_back for access in there):
            reason = (
                "calls write different values to it and read them back; that was not forced, "
                "since the results of calls differ in one thread, too"
            )
            return {"verdict": "confirmed", "reason": reason, "same": False}
        self.is_carried |= not self.random
        reason = "what one call writes, the next one reads"
        return {"verdict": "carried", "reason": reason, "same": False}

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
            module = copy_of(self.fresh)
            if module is None:
                break
            seed(i if self.random else 0)
            nodes = state.walk(module, [])
            storages = recording.storages_of(nodes)
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
                each = self._describe([access])
                key = (each["submodule"], each["class"], each["attribute"])
                if key not in known:
                    described.setdefault(key, each)
                    values.setdefault(key, set()).add(repr(access.values))
        self.by_id = state.find_path(self.nodes)
        return {
            "writes": [
                {**each, **_first_call(len(values[key]) > 1)} for key, each in described.items()
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
        found = []
        for (one, other), (i, first, second, place) in orders.items():
            opposite = orders.get((other, one))
            if opposite is None or one > other:
                continue
            j = opposite[0]
            if i == j:
                j = (i + 1) % len(self.subject.requests)
            threads = interleaving.force_locks(self.subject, (i, j), (second, first))
            outcomes = [thread.outcome for thread in threads or []]
            found.append(
                {
                    "places": [shown_place(place), shown_place(opposite[3])],
                    "hung": HUNG in outcomes,
                    "outcomes": outcomes,
                }
            )
        return found


def _first_call(depends: bool) -> Dict[str, Any]:
    reason = "only first calls write it: make a call before threads share the model"
    if depends:
        reason = "only first calls write it, and what they write depends on the request"
    return {
        "first_call_only": True,
        "depends_on_input": depends,
        "verdict": "first call",
        "reason": reason,
        "same": False,
    }


def _untraced(problem: str, watched: code.Watched) -> Dict[str, Any]:
    """What is known where the rewritten code does not do what the original does."""
    found = {
        "what": "model",
        "name": "the model",
        "kind": "",
        "why": problem,
        "where": "",
    }
    return {
        "writes": [],
        "first_calls_differ": False,
        "locks": [],
        "explored": None,
        "unwatched": [found],
        "ran_lines": {},
    }


def _judge(forced: Forced, read_back: bool) -> Dict[str, Any]:
    """The verdict on a slot whose accesses were forced to interleave."""
    if forced.reason and forced.apart:
        verdict, reason = "confirmed", forced.reason
    elif forced.reason:
        verdict = "with others"
        reason = "a mix-up there comes from what else is written; " + forced.reason
    elif forced.left_out:
        verdict = "not forced"
        reason = "{} of {} interleavings were not tried, for lack of time".format(
            forced.left_out, forced.left_out + forced.pairs
        )
    else:
        verdict, reason = "refuted", "every interleaving gave the right results"
        if not read_back:
            reason = "it is read before it is written; " + reason
    if forced.blocked:
        reason += "; in {} of them, one thread waited for the other (a lock)".format(forced.blocked)
    return {"verdict": verdict, "reason": reason, "blocked": forced.blocked}


def _same_value(there: List[Access]) -> str:
    """What to say if every call writes the same value; "" if they do not."""
    if any(how != ASSIGNMENT for access in there for how in access.how):
        return ""
    values = [value for access in there for value in access.values]
    shown = {repr(value) for value in values}
    if len(shown) != 1 or OPAQUE in str(values[0]):
        return ""
    return "every call writes the same value: " + there[0].texts[0]


def _ran_lines(recorders: List[Recorder]) -> Dict[str, List[int]]:
    """The lines that changed something, by file."""
    lines: Dict[str, Set[int]] = {}
    for recorder in recorders:
        for access in recorder.accesses.values():
            for file, line, _ in access.writes:
                lines.setdefault(shown_file(file), set()).add(line)
    return {file: sorted(found) for file, found in lines.items()}


def _objects_in(value: Any) -> List[Any]:  # noqa: ANN401
    """All objects that a value is made of."""
    found: List[Any] = []
    todo, known = [value], set()
    while todo and len(found) < 100_000:
        part = todo.pop()
        if id(part) in known:
            continue
        known.add(id(part))
        found.append(part)
        if not isinstance(part, (torch.Tensor, str, bytes, int, float, type, torch.nn.Module)):
            todo += [inner for _, inner in state._parts(part)]
            held = watching.namespace_of(part)
            todo += [held] if held is not None else []
    return found


def _shares_objects(subject: Subject) -> bool:
    """Whether two requests are given the same tensor or container."""
    counts: Dict[int, int] = {}
    for request in subject.requests:
        # The outer containers are those of the request itself.
        values = [*request.args, *request.kwargs.values()]
        inner = {id(v): v for value in values for v in _objects_in(value)}
        for key, value in inner.items():
            if isinstance(value, (torch.Tensor, list, dict, set)):
                counts[key] = counts.get(key, 0) + 1
    return any(count > 1 for count in counts.values())


def _graph_breaks() -> bool:
    """Whether torch.compile has left Python code between the graphs of a call."""
    utils = sys.modules.get("torch._dynamo.utils")
    return bool(utils is not None and sum(utils.counters["graph_break"].values()))


def _file_of(cls: type) -> str:
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", None) or "<unknown>.py"


def audit(subject: Subject, calls: Optional[int] = None, notify: Notify = lambda _: None) -> Dict[str, Any]:
    """Audits a model.

    Args:
        subject: A model in evaluation mode, and requests.
        calls: How many calls the stress makes; None for as many as take some seconds.
        notify: Is told what is going on.

    Raises:
        Problem: If the model cannot be called, or returns nothing to compare.
    """
    return Audit(subject, calls, notify).run()


__all__ = ["RIGHT", "audit", "copy_of"]
