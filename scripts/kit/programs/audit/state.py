"""Walks over the state that calls of a model can share, and compares it."""

import collections
import contextvars
import sys
import threading
import types
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import torch

from . import slots
from .values import OPAQUE, attributes, frozen, frozen_reduced, frozen_tensor, items_of

# Not more objects than this: a model that holds a data set holds millions.
MOST = 200_000

# Objects of these modules are made for threads, or are no state of a model's.
SAFE = {
    "queue",
    "_queue",
    "_thread",
    "threading",
    "logging",
    "_contextvars",
    "weakref",
    "_weakref",
}
SAFE |= {"re", "enum", "concurrent.futures.thread", "multiprocessing.synchronize"}

LEAVES = (
    *(int, float, bool, str, bytes, complex, type(None), range, slice, type),
    *(torch.Size, torch.dtype, torch.device),
    *(types.BuiltinFunctionType, types.ModuleType),
)


def is_safe(value: Any) -> bool:
    """Whether each thread has an object to itself, or it is made for threads."""
    return isinstance(value, threading.local) or type(value).__module__ in SAFE


class Node(NamedTuple):
    """An object that calls can reach.

    Attributes:
        value: The object.
        module: The module that holds it, or what else does: a class, a file, a function.
        owner: How that is shown: the path of the submodule, or such as `(global)`.
        path: The attributes that lead from there to it, as `state.last`.
    """

    value: Any
    module: Any
    owner: str
    path: str


def name_of(module: Any) -> str:
    """How to call a holder of state: the class of a module, the name of a file's module."""
    if isinstance(module, (type, types.FunctionType)):
        return str(module.__qualname__)
    if isinstance(module, dict):
        return str(module.get("__name__", "?"))
    return type(module).__name__


def parts_of(value: Any) -> Iterator[Tuple[str, Any]]:
    """What an object holds, by name; "" for the items of a container."""
    if isinstance(value, types.FunctionType):
        for item in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield "", item
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            try:
                yield name, cell.cell_contents
            except ValueError:
                continue
        yield from value.__dict__.items()
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
    elif isinstance(value, dict):
        for item in list(value.values()):
            yield "", item
        yield from attributes(value).items()
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        for item in items_of(value):
            yield "", item
        yield from attributes(value).items()
    else:
        yield from attributes(value).items()


def walk(module: torch.nn.Module, extra: List[Node]) -> List[Node]:
    """All objects that calls of a model can reach through what it holds.

    Args:
        module: The model.
        extra: What else to begin with: global variables, functions, classes.
    """
    modules = [Node(child, child, path, "") for path, child in module.named_modules()]
    return _walk([*modules, *extra])


def _walk(starts: List[Node]) -> List[Node]:
    nodes: List[Node] = []
    known: Set[int] = set()
    todo = collections.deque(starts)
    while todo and len(nodes) < MOST:
        node = todo.popleft()
        value = node.value
        if id(value) in known or isinstance(value, LEAVES):
            continue
        if isinstance(value, types.FunctionType) and not _has_state(value):
            continue
        known.add(id(value))
        nodes.append(node)
        if isinstance(value, torch.Tensor) or is_safe(value):
            continue
        is_new = isinstance(value, torch.nn.Module) and value is not node.module
        holder, owner, start = node.module, node.owner, node.path
        if is_new:  # not registered, as in a list
            holder, owner, start = value, ".".join(filter(None, (node.owner, node.path))), ""
            nodes[-1] = Node(value, value, owner, "")
        for name, part in parts_of(value):
            if isinstance(value, torch.nn.Module) and name in slots.REGISTERS:
                nodes.append(Node(part, holder, owner, ""))
                known.add(id(part))
                inner: Any = part.items()
            else:
                inner = [(name, part)]
            for key, held in inner:
                todo.append(Node(held, holder, owner, ".".join(filter(None, (start, key)))))
    return nodes


def held_by_thread(nodes: List[Node]) -> Set[int]:
    """What this thread has in variables of its own: the ids of objects and of their `__dict__`.

    Args:
        nodes: Where to look for objects of `threading.local`; of context variables, all count.
    """
    values = [vars(node.value) for node in nodes if isinstance(node.value, threading.local)]
    values += contextvars.copy_context().values()
    return set(find_path(_walk([Node(each, each, "", "") for each in values])))


def _has_state(function: types.FunctionType) -> bool:
    return bool(
        function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function)
    )


def roots(functions: List[types.FunctionType], classes: Set[type]) -> List[Node]:
    """Where state outside of the model begins, of some functions and classes.

    Those are the global variables that the functions name, what their closures and their
    defaults hold, and the attributes of the classes.
    """
    nodes: List[Node] = []
    for function in functions:
        if _has_state(function):
            nodes.append(Node(function, function, "(closure)", ""))
        for name in _names(function.__code__):
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            fixed = (types.ModuleType, types.FunctionType, type, *LEAVES)
            if not isinstance(value, fixed) and not name.startswith("__kit_"):
                nodes.append(Node(value, function.__globals__, "(global)", name))
    for cls in classes:
        for name, value in list(vars(cls).items()):
            if not name.startswith("__") and not isinstance(value, _OF_CLASSES):
                nodes.append(Node(value, cls, "(class attribute)", name))
    return nodes


_OF_CLASSES = (types.FunctionType, property, staticmethod, classmethod, *LEAVES)


def _names(code: types.CodeType) -> Set[str]:
    """The global names that code mentions; rewritten code has them as texts."""
    names = set(code.co_names)
    for value in code.co_consts:
        if isinstance(value, str):
            names.add(value)
        elif isinstance(value, types.CodeType):
            names |= _names(value)
    return names


def shallow(value: Any, with_tensors: bool) -> Any:
    """What an object holds itself, such that a change shows: identities, and plain values."""
    if is_safe(value):
        return None
    if isinstance(value, torch.Tensor):
        if not with_tensors:
            try:
                return ("version", value._version)
            except RuntimeError:  # tensors of inference mode have none
                return ("version", 0)
        return frozen_tensor(value), _grad_of(value)
    if isinstance(value, dict):
        return [(_item(key), _item(part)) for key, part in list(value.items())]
    if isinstance(value, (set, frozenset)):
        return sorted((_item(part) for part in list(value)), key=repr)
    if isinstance(value, (list, tuple, collections.deque)):
        return [_item(part) for part in (*items_of(value), *attributes(value).values())]
    if isinstance(value, types.FunctionType):
        return [_item(part) for _, part in parts_of(value)]
    if isinstance(value, torch.nn.Module):
        return [(name, _item(part)) for name, part in vars(value).items()]
    held = [(name, _item(part)) for name, part in attributes(value).items()]
    if held and not _has_c_state(type(value)):
        return held
    return held, frozen_reduced(value)


def _grad_of(value: torch.Tensor) -> Any:
    grad = value.grad if value.is_leaf else None
    return None if grad is None else frozen_tensor(grad)


def _has_c_state(kind: type) -> bool:
    """Whether an object may have state beside its attributes, from a base that is written in C."""
    bases = (base for base in kind.__mro__ if base is not object)
    return any(not base.__flags__ & _HEAP_TYPE for base in bases)


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a `class` statement, mostly


def _item(value: Any) -> Any:
    if isinstance(value, (int, float, bool, str, bytes, complex, type(None))):
        return (type(value).__name__, repr(value))
    return id(value)


class Snapshot:
    """The shared state at one time. It keeps what it saw alive, so that identities hold."""

    def __init__(self, nodes: List[Node], with_tensors: bool = True) -> None:
        self.nodes = nodes
        self._with_tensors = with_tensors
        self._alive = [(node.value, _alive(node.value)) for node in nodes]
        self.shown = [shallow(node.value, with_tensors) for node in nodes]
        self._named = [_named(node.value) for node in nodes]

    def changed_attributes(self) -> Iterator[Tuple[Node, str]]:
        """The attributes of objects that were set or replaced since."""
        for node, before in zip(self.nodes, self._named):
            for name, part in _named(node.value).items():
                if before.get(name) != part:
                    yield node, name

    def changed(self) -> List[Node]:
        """The objects that are different now."""
        return [
            node
            for node, before in zip(self.nodes, self.shown)
            if shallow(node.value, self._with_tensors) != before
        ]


def _named(value: Any) -> Dict[str, Any]:
    """The attributes of an object, with what tells whether one was replaced."""
    held = slots.namespace_of(value) or {}
    return {name: _item(part) for name, part in held.items()}


def _alive(value: Any) -> Any:
    """References to what an object holds."""
    if isinstance(value, torch.Tensor):
        return None
    return [part for _, part in parts_of(value)]


def is_opaque(value: Any) -> bool:
    """Whether an object has state that cannot be looked at, as that of a C extension can."""
    if isinstance(value, (*LEAVES, torch.Tensor, torch.nn.Module, *slots.LOCKS)):
        return False
    if isinstance(value, (dict, list, tuple, set, frozenset, collections.deque, type)):
        return False
    if type(value) is object:  # a mark, such as "not given"
        return False
    if callable(value) and not isinstance(value, _STATEFUL):
        return False
    if is_safe(value):
        return False
    shown = frozen(value, depth=1)
    return isinstance(shown, tuple) and shown[0] == OPAQUE


_STATEFUL = (torch.ScriptObject,) if hasattr(torch, "ScriptObject") else ()


def sources_of_chance() -> Dict[str, Any]:
    """The state of each global generator of random numbers."""
    import random

    states: Dict[str, Any] = {
        "torch": frozen_tensor(torch.get_rng_state()),
        "random": hash(random.getstate()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["torch.cuda"] = [frozen_tensor(each) for each in torch.cuda.get_rng_state_all()]
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        states["numpy.random"] = frozen(numpy.random.get_state())
    return states


def find_path(nodes: List[Node]) -> Dict[int, Node]:
    """The nodes by the ids of their objects, and of the `__dict__` of those that have one."""
    by_id: Dict[int, Node] = {}
    for node in nodes:
        by_id.setdefault(id(node.value), node)
        held: Optional[Dict[str, Any]] = slots.namespace_of(node.value)
        if held is not None:
            by_id.setdefault(id(held), node)
            if isinstance(node.value, torch.nn.Module):
                for register in slots.REGISTERS:
                    if isinstance(held.get(register), dict):
                        by_id[id(held[register])] = node
    return by_id
