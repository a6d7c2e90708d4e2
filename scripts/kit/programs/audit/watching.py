"""Hears of every read and change that rewritten code makes, and tells who listens."""

import builtins
import collections
import operator
import sys
from collections.abc import Iterator
from typing import Any, Callable, Dict, Optional

import torch

from .listening import Listener, current, enter, lock_method
from .slots import (
    ASSIGNMENT,
    CHANGES,
    CONTAINERS,
    CONTENT,
    DELETED,
    DELETION,
    HARMLESS,
    IN_PLACE,
    LOCKS,
    QUIET,
    REGISTERS,
    SKIPPED,
    UNSET,
    find_slot,
    where_content_is,
)

# What rewritten code calls --------------------------------------------------------------


def read(owner: Any, name: str) -> Any:
    """`owner.name`."""
    listener = current()
    if listener is None or type(owner) in SKIPPED:
        return getattr(owner, name)
    return _read(listener, owner, name, UNSET)


def _read(listener: Listener, owner: Any, name: str, default: Any) -> Any:
    if isinstance(owner, torch.Tensor):
        # Its own attributes, but neither its shape nor its methods.
        held = getattr(owner, "__dict__", None)
        if not held or name not in held:
            return getattr(owner, name) if default is UNSET else getattr(owner, name, default)
    slot = find_slot(owner, name)
    if slot is not None and name not in QUIET:
        answer = listener.reading(slot[0], slot[1], owner)
        if answer is not UNSET:
            if answer is not DELETED:
                return answer
            if default is not UNSET:
                return default
            raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}")
    value = getattr(owner, name) if default is UNSET else getattr(owner, name, default)
    if name == "__dict__" or (name in REGISTERS and isinstance(owner, torch.nn.Module)):
        if isinstance(value, dict):
            listener.namespaces[id(value)] = value, owner
    elif slot is not None:
        listener.holds(value, slot[0], slot[1], owner)
    return value


def use(value: Any) -> Any:
    """A value that is iterated over, searched, or passed to a function."""
    listener = current()
    if listener is not None and isinstance(value, (*CONTAINERS, torch.Tensor)):
        listener.reading(value, CONTENT, value)
    return value


def _namespace_key(listener: Listener, value: Any, key: Any) -> Optional[Any]:
    """Of a `__dict__` the object, if the key is an attribute."""
    known = listener.namespaces.get(id(value))
    return known[1] if known is not None and isinstance(key, str) else None


def item(value: Any, key: Any) -> Any:
    """`value[key]`."""
    listener = current()
    if listener is None or type(value) in SKIPPED:
        return value[key]
    owner = _namespace_key(listener, value, key)
    if owner is not None:
        answer = listener.reading(value, key, owner)
        if answer is not UNSET and answer is not DELETED:
            return answer
        result = value[key]
        listener.holds(result, value, key, owner)
        return result
    if where_content_is(value) is None:
        return value[key]
    if isinstance(value, collections.defaultdict) and key not in value:
        result = value[key]  # which adds it
        listener.wrote(value, CONTENT, value, (key, result), IN_PLACE)
        return result
    listener.reading(value, CONTENT, value)
    result = value[key]
    listener.holds(result, value, CONTENT, value)
    return result


class Target:
    """Stands in for an object while one of its attributes or items is assigned."""

    __slots__ = ("_listener", "_value")

    def __init__(self, listener: Listener, value: Any) -> None:
        object.__setattr__(self, "_listener", listener)
        object.__setattr__(self, "_value", value)

    def __getattribute__(self, name: str) -> Any:
        get = object.__getattribute__
        return _read(get(self, "_listener"), get(self, "_value"), name, UNSET)

    def __setattr__(self, name: str, value: Any) -> None:
        get = object.__getattribute__
        _assign(get(self, "_listener"), get(self, "_value"), name, value)

    def __delattr__(self, name: str) -> None:
        get = object.__getattribute__
        _delete(get(self, "_listener"), get(self, "_value"), name)

    def __getitem__(self, key: Any) -> Any:
        return item(object.__getattribute__(self, "_value"), key)

    def __setitem__(self, key: Any, value: Any) -> None:
        get = object.__getattribute__
        listener, target = get(self, "_listener"), get(self, "_value")
        owner = _namespace_key(listener, target, key)
        target[key] = value
        if owner is not None:
            listener.wrote(target, key, owner, value, ASSIGNMENT)
        elif where_content_is(target) is not None:
            listener.wrote(target, CONTENT, target, (key, value), IN_PLACE)

    def __delitem__(self, key: Any) -> None:
        get = object.__getattribute__
        listener, target = get(self, "_listener"), get(self, "_value")
        owner = _namespace_key(listener, target, key)
        del target[key]
        if owner is not None:
            listener.wrote(target, key, owner, UNSET, DELETION)
        elif where_content_is(target) is not None:
            listener.wrote(target, CONTENT, target, (key, UNSET), IN_PLACE)


def target(value: Any) -> Any:
    """What to assign an attribute or item of, in place of a value."""
    listener = current()
    return value if listener is None else Target(listener, value)


def _assign(listener: Listener, owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)
    if isinstance(owner, torch.Tensor) and name == "data":
        listener.wrote(owner, CONTENT, owner, value, IN_PLACE)
    elif not isinstance(owner, torch.Tensor) or name not in ("grad", "requires_grad"):
        slot = find_slot(owner, name)
        if slot is not None:
            listener.wrote(slot[0], slot[1], owner, value, ASSIGNMENT)


def _delete(listener: Listener, owner: Any, name: str) -> None:
    slot = find_slot(owner, name)
    delattr(owner, name)
    if slot is not None:
        listener.wrote(slot[0], slot[1], owner, UNSET, DELETION)


def inplace(value: Any, name: str, operand: Any) -> Any:
    """`value += operand` and its like; the name is that of the operator in `ast`."""
    result = _INPLACE[name](value, operand)
    listener = current()
    if listener is not None and result is value and where_content_is(value) is not None:
        listener.wrote(value, CONTENT, value, operand, IN_PLACE)
    return result


_INPLACE: Dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.iadd,
    "Sub": operator.isub,
    "Mult": operator.imul,
    "MatMult": operator.imatmul,
    "Div": operator.itruediv,
    "FloorDiv": operator.ifloordiv,
    "Mod": operator.imod,
    "Pow": operator.ipow,
    "LShift": operator.ilshift,
    "RShift": operator.irshift,
    "BitOr": operator.ior,
    "BitXor": operator.ixor,
    "BitAnd": operator.iand,
}


def method(owner: Any, name: str) -> Any:
    """`owner.name`, which is called at once."""
    listener = current()
    kind = type(owner)
    if listener is None or kind in SKIPPED:
        return getattr(owner, name)
    if isinstance(owner, torch.Tensor):
        if name.endswith("_") and not name.startswith("_") and name not in HARMLESS:
            return _Change(listener, owner, name)
        listener.reading(owner, CONTENT, owner)
        return getattr(owner, name)
    if isinstance(owner, CONTAINERS) or where_content_is(owner) is not None:
        if name in CHANGES:
            return _Change(listener, owner, name)
        listener.reading(owner, CONTENT, owner)
        return getattr(owner, name)
    if isinstance(owner, LOCKS):
        return lock_method(listener, owner, name)
    if isinstance(owner, Iterator) and name in ("send", "throw", "__next__"):
        return lambda *args: _go_on(listener, owner, lambda: getattr(owner, name)(*args))
    if name in ("__setattr__", "__delattr__"):
        return _Setter(listener, owner, name)
    return _read(listener, owner, name, UNSET)


def _go_on(listener: Listener, iterator: Any, step: Callable[[], Any]) -> Any:
    """A step of an iterator: from where it was to where it is next."""
    listener.reading(iterator, CONTENT, iterator)
    result = step()
    listener.wrote(iterator, CONTENT, iterator, result, IN_PLACE)
    return result


class _Change:
    """A method that changes its object, such as `list.append` or `Tensor.copy_`."""

    __slots__ = ("_listener", "_name", "_owner")

    def __init__(self, listener: Listener, owner: Any, name: str) -> None:
        self._listener, self._owner, self._name = listener, owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        listener, owner = self._listener, self._owner
        # Several of these look at what is there, as `setdefault` and `pop` do.
        if self._name in ("setdefault", "pop", "popitem", "popleft", "remove", "insert"):
            listener.reading(owner, CONTENT, owner)
        known = listener.namespaces.get(id(owner))
        before = dict(owner) if known is not None else {}
        result = getattr(owner, self._name)(*args, **kwargs)
        if known is None:
            listener.wrote(owner, CONTENT, owner, (self._name, args, kwargs), IN_PLACE)
            return result
        for key in {*before, *owner}:
            now = owner.get(key, UNSET)
            if before.get(key, UNSET) is not now and isinstance(key, str):
                how = DELETION if now is UNSET else ASSIGNMENT
                listener.wrote(owner, key, known[1], now, how)
        return result


class _Setter:
    """`object.__setattr__`, that of a base, or that of an object."""

    __slots__ = ("_listener", "_name", "_owner")

    def __init__(self, listener: Listener, owner: Any, name: str) -> None:
        self._listener, self._owner, self._name = listener, owner, name

    def __call__(self, *args: Any) -> None:
        given = args
        changed = self._owner
        if isinstance(changed, type) and len(args) == (3 if self._name == "__setattr__" else 2):
            changed, given = args[0], args[1:]
        slot = find_slot(changed, given[0]) if self._name == "__delattr__" else None
        getattr(self._owner, self._name)(*args)
        if self._name == "__setattr__":
            slot = find_slot(changed, given[0])
        if slot is not None:
            value = given[1] if len(given) > 1 else UNSET
            how = DELETION if value is UNSET else ASSIGNMENT
            self._listener.wrote(slot[0], slot[1], changed, value, how)


# Functions that are called by a plain name, and variables.


def function(called: Any) -> Any:
    """A function by whose name an attribute can be reached."""
    listener = current()
    if listener is None:
        return called
    try:
        make = _FUNCTIONS.get(called)
    except TypeError:  # not hashable
        make = None
    return called if make is None else make(listener)


def _getattr(listener: Listener) -> Any:
    def get(owner: Any, name: str, default: Any = UNSET) -> Any:
        if type(owner) in SKIPPED:
            return getattr(owner, name) if default is UNSET else getattr(owner, name, default)
        return _read(listener, owner, name, default)

    return get


def _hasattr(listener: Listener) -> Any:
    def has(owner: Any, name: str) -> bool:
        try:
            _getattr(listener)(owner, name)
        except AttributeError:
            return False
        return True

    return has


def _vars(listener: Listener) -> Any:
    def variables(*owner: Any) -> Any:
        if not owner:  # the caller's local variables
            return sys._getframe(1).f_locals
        held = vars(owner[0])
        if isinstance(held, dict):
            listener.namespaces[id(held)] = held, owner[0]
        return held

    return variables


def _next(listener: Listener) -> Any:
    def advance(*args: Any) -> Any:
        return _go_on(listener, args[0], lambda: next(*args))

    return advance


_FUNCTIONS: Dict[Any, Callable[[Listener], Any]] = {
    getattr: _getattr,
    hasattr: _hasattr,
    setattr: lambda listener: lambda owner, name, value: _assign(listener, owner, name, value),
    delattr: lambda listener: lambda owner, name: _delete(listener, owner, name),
    vars: _vars,
    next: _next,
}


def variable(namespace: Dict[str, Any], name: str) -> Any:
    """A global variable."""
    listener = current()
    if listener is not None:
        answer = listener.reading(namespace, name, namespace)
        if answer is not UNSET and answer is not DELETED:
            return answer
    if name in namespace:
        value = namespace[name]
    elif hasattr(builtins, name):
        value = getattr(builtins, name)
    else:
        raise NameError(f"name {name!r} is not defined")
    if listener is not None:
        listener.holds(value, namespace, name, namespace)
    return value


def stored(namespace: Dict[str, Any], name: str) -> None:
    """A global variable was assigned or deleted."""
    listener = current()
    if listener is not None:
        value = namespace.get(name, UNSET)
        how = DELETION if value is UNSET else ASSIGNMENT
        listener.wrote(namespace, name, namespace, value, how)


def _cell(holder: Any, name: str) -> Any:
    return holder.__closure__[holder.__code__.co_freevars.index(name)]


def closed(holder: Any, name: str) -> Any:
    """A variable of a closure; `holder` is a function that does nothing but hold it."""
    listener = current()
    cell = _cell(holder, name)
    if listener is not None:
        answer = listener.reading(cell, name, holder)
        if answer is not UNSET and answer is not DELETED:
            return answer
    try:
        value = cell.cell_contents
    except ValueError:
        raise NameError(f"free variable {name!r} referenced before assignment") from None
    if listener is not None:
        listener.holds(value, cell, name, holder)
    return value


def bound(holder: Any, name: str) -> None:
    """A variable of a closure was assigned."""
    listener = current()
    if listener is not None:
        cell = _cell(holder, name)
        listener.wrote(cell, name, holder, cell.cell_contents, ASSIGNMENT)


HOOKS: Dict[str, Any] = {
    "__kit_read__": read,
    "__kit_method__": method,
    "__kit_item__": item,
    "__kit_target__": target,
    "__kit_inplace__": inplace,
    "__kit_use__": use,
    "__kit_enter__": enter,
    "__kit_function__": function,
    "__kit_global__": variable,
    "__kit_stored__": stored,
    "__kit_cell__": closed,
    "__kit_bound__": bound,
    "__kit_globals__": builtins.globals,
    "__kit_slice__": slice,
}
