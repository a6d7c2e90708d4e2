"""Describes what was watched, ready for JSON: slots, verdicts on them, what was out of sight."""

import itertools
from typing import Any, Dict, List, Set, Tuple

import torch

from . import code, recording, slots, state
from .interleaving import Forced
from .places import shown_file, shown_place
from .recording import Access, Recorder
from .slots import ASSIGNMENT, DELETION, IN_PLACE
from .values import OPAQUE


def describe(by_id: Dict[int, state.Node], there: List[Access]) -> Dict[str, Any]:
    """Which slot it is, and where it is read and written."""
    access = there[0]
    node = by_id.get(id(access.container)) or by_id.get(id(access.owner))
    attribute = access.key
    if node is None:
        owner, holder = "(not registered)", access.owner
        path = attribute or ""
    else:
        owner, holder = node.owner, node.module
        # What a container holds is told by the container.
        path = ".".join(filter(None, (node.path, attribute)))
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


def out_of_sight(node: state.Node, name: str) -> Dict[str, Any]:
    """An attribute that was changed in code that is not watched, as by `cached_property`."""
    return {
        "submodule": node.owner,
        "class": state.name_of(node.module),
        "attribute": ".".join(filter(None, (node.path, name))),
        "how": ASSIGNMENT,
        "written": [],
        "read": [],
        "read_back": False,
        "read_first": False,
        "others": [],
        "interleaved": None,
    }


def first_call(depends: bool) -> Dict[str, Any]:
    """What is said of a slot that only first calls write."""
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


def judge(forced: Forced, read_back: bool) -> Dict[str, Any]:
    """The verdict on a slot whose accesses were forced to interleave."""
    if forced.reason and forced.apart:
        verdict, reason = "confirmed", forced.reason
    elif forced.reason:
        verdict = "with others"
        reason = "a mix-up there comes from what else is written; " + forced.reason
    elif forced.left_out:
        verdict = "not forced"
        every = forced.left_out + forced.pairs
        reason = f"{forced.left_out} of {every} interleavings were not tried, for lack of time"
    else:
        verdict, reason = "refuted", "every interleaving gave the right results"
        if not read_back:
            reason = "it is read before it is written; " + reason
    if forced.blocked:
        reason += f"; in {forced.blocked} of them, one thread waited for the other (a lock)"
    return {"verdict": verdict, "reason": reason, "blocked": forced.blocked}


def explain_by_others(writes: List[Dict[str, Any]]) -> None:
    """Clears slots of mix-ups that are explained by another slot.

    While two calls are held at a slot, they run freely elsewhere, so that it is chance whether
    a race there shows. Where no call took the value of the other one from the slot itself,
    that says nothing of it.
    """
    if not any(write["verdict"] == "confirmed" for write in writes):
        return
    for write in writes:
        if write["verdict"] == "with others" and not write["interleaved"]["took"]:
            write["verdict"] = "refuted"


def same_value(there: List[Access]) -> str:
    """What to say if every call writes the same value; "" if they do not."""
    if any(how != ASSIGNMENT for access in there for how in access.how):
        return ""
    values = [value for access in there for value in access.values]
    shown = {repr(value) for value in values}
    # A new container is another one in each call, and calls go on to fill it.
    is_container = values[0][0] in ("list", "dict", "set", "deque", "OrderedDict", "defaultdict")
    if len(shown) != 1 or OPAQUE in str(values[0]) or is_container:
        return ""
    return "every call writes the same value: " + there[0].texts[0]


def ran_lines(recorders: List[Recorder]) -> Dict[str, List[int]]:
    """The lines that changed something, by file."""
    lines: Dict[str, Set[int]] = {}
    for recorder in recorders:
        for access in recorder.accesses.values():
            for file, line, _ in access.writes:
                lines.setdefault(shown_file(file), set()).add(line)
    return {file: sorted(numbers) for file, numbers in lines.items()}


def untraced(problem: str) -> Dict[str, Any]:
    """What is known where the rewritten code does not do what the original does."""
    thing = {
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
        "unwatched": [thing],
        "ran_lines": {},
        "branches": {"files": {}, "objects": []},
    }


def unwatched(
    by_id: Dict[int, state.Node], watched: code.Watched, opaque: Dict[int, Tuple[Any, Any]]
) -> List[Dict[str, Any]]:
    """Objects that calls use and that cannot be looked at, and code without a source."""
    things: List[Dict[str, Any]] = []
    for key, (value, place) in opaque.items():
        node = by_id.get(key)
        if node is not None:
            name = ".".join(filter(None, (state.name_of(node.module), node.path)))
            why = "its state cannot be looked at"
            things.append(
                {
                    "what": "object",
                    "name": name,
                    "kind": type(value).__name__,
                    "why": why,
                    "where": shown_place(place),
                }
            )
    for shown in watched.without_source:
        why = "its source cannot be read"
        things.append({"what": "function", "name": shown, "kind": "", "why": why, "where": shown})
    return things


def changed_unseen(traced: List[Recorder], changed: List[state.Node]) -> List[Dict[str, Any]]:
    """Shared objects that are different after calls, and that no watched code has changed."""
    explained = set()
    for recorder in traced:
        for access in recorder.accesses.values():
            if access.writes:
                explained |= {id(access.container), id(access.owner)}
                if isinstance(access.container, torch.Tensor):
                    explained.add(recording.slot_key(access.container, None)[0])
    things = []
    for node in changed:
        held = slots.namespace_of(node.value)
        ids = {id(node.value), id(held) if held is not None else 0}
        if isinstance(node.value, torch.Tensor):
            ids.add(slots.storage_of(node.value))
        if ids & explained:
            continue
        name = ".".join(filter(None, (state.name_of(node.module), node.path)))
        things.append(
            {
                "what": "change",
                "name": name,
                "kind": type(node.value).__name__,
                "why": "calls change it, and not in Python code that can be watched",
                "where": node.owner,
            }
        )
    return things
