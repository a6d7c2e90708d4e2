"""Copies of models, and what the arguments of calls are made of."""

import asyncio
import copy
import re
import selectors
import socket
import threading
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import torch

from . import slots, state
from .calls import Request


def copy_of(module: torch.nn.Module) -> Optional[torch.nn.Module]:
    """A copy of a model, or None where it cannot be copied.

    Locks are not copied but made anew; other objects that refuse to be copied are shared, and
    so is what holds a file descriptor: a copy would close that of the model.
    """
    shared: List[type] = [asyncio.AbstractEventLoop, selectors.BaseSelector, socket.socket]
    for _ in range(5):
        memo: Dict[int, Any] = {}
        for value in _parts_of(module, tuple(shared)):
            makes = [
                make for make in (threading.Lock, threading.RLock) if type(value) is type(make())
            ]
            memo[id(value)] = makes[0]() if makes else value
        try:
            return copy.deepcopy(module, memo)
        except TypeError as error:
            match = re.search(r"(?:pickle|copy) '?([\w.]+)'? object", str(error))
            kinds = [k for k in _kinds_in(module) if match and _is_named(k, match.group(1))]
            if not kinds:
                return None
            shared += kinds
        except Exception:
            return None
    return None


PRIMITIVE_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def _is_named(kind: type, name: str) -> bool:
    return name in (kind.__name__, f"{kind.__module__}.{kind.__name__}")


def _kinds_in(module: torch.nn.Module) -> Set[type]:
    return {type(node.value) for node in state.walk(module, [])}


def _parts_of(module: torch.nn.Module, kinds: Tuple[type, ...]) -> Iterator[Any]:
    for node in state.walk(module, []):
        if isinstance(node.value, (*PRIMITIVE_LOCKS, *kinds)):
            yield node.value


def objects_in(value: Any) -> List[Any]:
    """All objects that a value is made of."""
    objects: List[Any] = []
    todo, known = [value], set()
    while todo and len(objects) < 100_000:
        part = todo.pop()
        if id(part) in known:
            continue
        known.add(id(part))
        objects.append(part)
        if not isinstance(part, (torch.Tensor, str, bytes, int, float, type, torch.nn.Module)):
            todo += [inner for _, inner in state.parts_of(part)]
            held = slots.namespace_of(part)
            todo += [held] if held is not None else []
    return objects


def shares_objects(requests: List[Request]) -> bool:
    """Whether two requests are given the same tensor or container."""
    counts: Dict[int, int] = {}
    for request in requests:
        # The outer containers are those of the request itself.
        values = [*request.args, *request.kwargs.values()]
        inner = {id(v): v for value in values for v in objects_in(value)}
        for key, value in inner.items():
            if isinstance(value, (torch.Tensor, list, dict, set)):
                counts[key] = counts.get(key, 0) + 1
    return any(count > 1 for count in counts.values())
