"""Hears of every read and change that rewritten code makes.

The state of an object is a number of slots: a container and a key. The attribute of an
object is a slot of its `__dict__`, a global variable one of its module's, a class
attribute one of the class. What a list, a dictionary, a set, or a tensor holds is one
slot, with the key `CONTENT`.
"""

import builtins
import collections
import contextlib
import operator
import sys
import threading
import types
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch

UNSET = object()
CONTENT = None  # the key of what a container holds

ASSIGNMENT, DELETION, IN_PLACE = "assignment", "deletion", "in-place change"

SlotKey = Tuple[int, Optional[str]]  # the id of a container, and a key

_REGISTERS = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (dict, list, set, collections.deque)
CHANGES = frozenset(
    "append appendleft extend extendleft insert remove pop popleft clear sort reverse rotate "
    "update popitem setdefault move_to_end subtract add discard intersection_update "
    "difference_update symmetric_difference_update __setitem__ __delitem__ fill put resize "
    "itemset partition".split()
)
# What changes no number in a tensor.
_HARMLESS = frozenset({"requires_grad_", "retain_grad", "share_memory_", "rename_", "detach_"})
_LOCKS: Tuple[type, ...] = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    getattr(threading, "_RLock", threading.Condition),
)
# Attributes of these are methods and parts that do not change.
_SKIPPED = {
    *(int, float, bool, str, bytes, complex, tuple, type(None), range, slice, frozenset),
    *(torch.Size, torch.dtype, torch.device, type(super(int, 1))),
    *(types.BuiltinFunctionType, types.MethodType),
}
_MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)

# Every object has these. Attributes such as `__mu__`, which PyG's modules have, are reported.
_QUIET = {name for name in dir(torch.nn.Module) if name.startswith("__")} | {"__name__"}

# Who is told of what a thread does, by the thread's identifier.
listeners: Dict[int, "Listener"] = {}
_ident = threading.get_ident


class Listener:
    """Hears of what one thread does to slots and locks. Each subclass does something with it."""

    def __init__(self) -> None:
        self.held: List[Any] = []  # the locks, in their order
        # The __dict__ of objects that code has asked for: its keys are attributes.
        self.namespaces: Dict[int, Tuple[Any, Any]] = {}

    def reading(self, container: Any, key: Optional[str], owner: Any) -> Any:  # noqa: ANN401
        """Is told before a slot is read, and may answer in its place (UNSET: no answer)."""
        return UNSET

    def wrote(self, container: Any, key: Optional[str], owner: Any, value: Any, how: str) -> None:  # noqa: ANN401
        """Is told after a slot was changed."""

    def holds(self, value: Any, container: Any, key: Optional[str], owner: Any) -> None:  # noqa: ANN401
        """Is told what was read."""

    def waits(self, lock: Any) -> None:  # noqa: ANN401
        """Is told that another thread has the lock; with None, that it has it now."""

    def acquiring(self, lock: Any) -> None:  # noqa: ANN401
        """Is told before a lock is acquired."""

    def is_abandoned(self) -> bool:
        """Whether to give up waiting for a lock."""
        return False


class Abandoned(BaseException):
    """Raised in a thread that waits for a lock it will never get."""


def namespace_of(owner: Any) -> Optional[Dict[str, Any]]:  # noqa: ANN401
    """The `__dict__` of an object, if it has one."""
    if isinstance(owner, type):
        return None
    try:
        held = object.__getattribute__(owner, "__dict__")
    except Exception:
        return None
    return held if isinstance(held, dict) else None


def find_slot(owner: Any, name: str) -> Optional[Tuple[Any, str]]:  # noqa: ANN401
    """Where an object has an attribute: a container and a key; None where it is computed."""
    if isinstance(owner, type):
        for base in owner.__mro__:
            if name in vars(base):
                return base, name
        return owner, name
    held = namespace_of(owner)
    if held is not None:
        if name in held:
            return held, name
        if isinstance(owner, torch.nn.Module):
            for register in _REGISTERS:
                registered = held.get(register)
                if isinstance(registered, dict) and name in registered:
                    return registered, name
    for base in type(owner).__mro__:
        if name in vars(base):
            value = vars(base)[name]
            if isinstance(value, _MEMBERS):
                return (owner, name) if isinstance(value, types.MemberDescriptorType) else None
            if isinstance(value, types.FunctionType) or hasattr(type(value), "__get__"):
                return None  # a method or a property: its own code is watched
            return base, name
    return (owner if held is None else held), name


def storage_of(value: torch.Tensor) -> int:
    """What tensors that share their memory have in common."""
    try:
        storage = getattr(value, "untyped_storage", None) or value.storage
        return int(storage().data_ptr())
    except Exception:  # sparse tensors and others without one
        return 0


def where_content_is(value: Any) -> Optional[Any]:  # noqa: ANN401
    """The container whose content is that of a value, if others may change it."""
    if isinstance(value, _CONTAINERS):
        return value
    if isinstance(value, torch.Tensor):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return value
    return None


# What rewritten code calls --------------------------------------------------------------


def read(owner: Any, name: str) -> Any:  # noqa: ANN401
    """`owner.name`."""
    listener = listeners.get(_ident())
    if listener is None or type(owner) in _SKIPPED:
        return getattr(owner, name)
    return _read(listener, owner, name, UNSET)


def _read(listener: Listener, owner: Any, name: str, default: Any) -> Any:  # noqa: ANN401
    if isinstance(owner, torch.Tensor):
        # Its own attributes, but neither its shape nor its methods.
        held = getattr(owner, "__dict__", None)
        if not held or name not in held:
            return getattr(owner, name) if default is UNSET else getattr(owner, name, default)
    slot = find_slot(owner, name)
    if slot is not None and name not in _QUIET:
        answer = listener.reading(slot[0], slot[1], owner)
        if answer is not UNSET:
            if answer is not DELETED:
                return answer
            if default is not UNSET:
                return default
            raise AttributeError(
                "{!r} object has no attribute {!r}".format(type(owner).__name__, name)
            )
    value = getattr(owner, name) if default is UNSET else getattr(owner, name, default)
    if name == "__dict__" or (name in _REGISTERS and isinstance(owner, torch.nn.Module)):
        if isinstance(value, dict):
            listener.namespaces[id(value)] = value, owner
    elif slot is not None:
        listener.holds(value, slot[0], slot[1], owner)
    return value


DELETED = object()  # the answer to a read of what was deleted


def use(value: Any) -> Any:  # noqa: ANN401
    """A value that is iterated over, searched, or passed to a function."""
    listener = listeners.get(_ident())
    if listener is not None:
        if isinstance(value, _CONTAINERS):
            listener.reading(value, CONTENT, value)
        elif isinstance(value, torch.Tensor):
            listener.reading(value, CONTENT, value)
    return value


def _namespace_key(listener: Listener, value: Any, key: Any) -> Optional[Any]:  # noqa: ANN401
    """Of a `__dict__` the object, if the key is an attribute."""
    known = listener.namespaces.get(id(value))
    return known[1] if known is not None and isinstance(key, str) else None


def item(value: Any, key: Any) -> Any:  # noqa: ANN401
    """`value[key]`."""
    listener = listeners.get(_ident())
    if listener is None or type(value) in _SKIPPED:
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

    def __init__(self, listener: Listener, value: Any) -> None:  # noqa: ANN401
        object.__setattr__(self, "_listener", listener)
        object.__setattr__(self, "_value", value)

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        get = object.__getattribute__
        return _read(get(self, "_listener"), get(self, "_value"), name, UNSET)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        get = object.__getattribute__
        _assign(get(self, "_listener"), get(self, "_value"), name, value)

    def __delattr__(self, name: str) -> None:
        get = object.__getattribute__
        _delete(get(self, "_listener"), get(self, "_value"), name)

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401
        return item(object.__getattribute__(self, "_value"), key)

    def __setitem__(self, key: Any, value: Any) -> None:  # noqa: ANN401
        get = object.__getattribute__
        listener, target = get(self, "_listener"), get(self, "_value")
        owner = _namespace_key(listener, target, key)
        target[key] = value
        if owner is not None:
            listener.wrote(target, key, owner, value, ASSIGNMENT)
        elif where_content_is(target) is not None:
            listener.wrote(target, CONTENT, target, (key, value), IN_PLACE)

    def __delitem__(self, key: Any) -> None:  # noqa: ANN401
        get = object.__getattribute__
        listener, target = get(self, "_listener"), get(self, "_value")
        owner = _namespace_key(listener, target, key)
        del target[key]
        if owner is not None:
            listener.wrote(target, key, owner, UNSET, DELETION)
        elif where_content_is(target) is not None:
            listener.wrote(target, CONTENT, target, (key, UNSET), IN_PLACE)


def target(value: Any) -> Any:  # noqa: ANN401
    """What to assign an attribute or item of, in place of a value."""
    listener = listeners.get(_ident())
    return value if listener is None else Target(listener, value)


def _assign(listener: Listener, owner: Any, name: str, value: Any) -> None:  # noqa: ANN401
    setattr(owner, name, value)
    if isinstance(owner, torch.Tensor) and name == "data":
        listener.wrote(owner, CONTENT, owner, value, IN_PLACE)
    elif not isinstance(owner, torch.Tensor) or name not in ("grad", "requires_grad"):
        slot = find_slot(owner, name)
        if slot is not None:
            listener.wrote(slot[0], slot[1], owner, value, ASSIGNMENT)


def _delete(listener: Listener, owner: Any, name: str) -> None:  # noqa: ANN401
    slot = find_slot(owner, name)
    delattr(owner, name)
    if slot is not None:
        listener.wrote(slot[0], slot[1], owner, UNSET, DELETION)


def inplace(value: Any, name: str, operand: Any) -> Any:  # noqa: ANN401
    """`value += operand` and its like; the name is that of the operator in `ast`."""
    result = _INPLACE[name](value, operand)
    listener = listeners.get(_ident())
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


def method(owner: Any, name: str) -> Any:  # noqa: ANN401
    """`owner.name`, which is called at once."""
    listener = listeners.get(_ident())
    kind = type(owner)
    if listener is None or kind in _SKIPPED:
        return getattr(owner, name)
    if isinstance(owner, torch.Tensor):
        if name.endswith("_") and not name.startswith("_") and name not in _HARMLESS:
            return _Change(listener, owner, name)
        listener.reading(owner, CONTENT, owner)
        return getattr(owner, name)
    if isinstance(owner, _CONTAINERS) or where_content_is(owner) is not None:
        if name in CHANGES:
            return _Change(listener, owner, name)
        listener.reading(owner, CONTENT, owner)
        return getattr(owner, name)
    if isinstance(owner, _LOCKS):
        return _lock_method(listener, owner, name)
    if name in ("__setattr__", "__delattr__"):
        return _Setter(listener, owner, name)
    return _read(listener, owner, name, UNSET)


class _Change:
    """A method that changes its object, such as `list.append` or `Tensor.copy_`."""

    __slots__ = ("_listener", "_name", "_owner")

    def __init__(self, listener: Listener, owner: Any, name: str) -> None:  # noqa: ANN401
        self._listener, self._owner, self._name = listener, owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
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

    def __init__(self, listener: Listener, owner: Any, name: str) -> None:  # noqa: ANN401
        self._listener, self._owner, self._name = listener, owner, name

    def __call__(self, *args: Any) -> None:  # noqa: ANN401
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


# Locks.


def enter(value: Any) -> Any:  # noqa: ANN401
    """The context manager of a `with`."""
    listener = listeners.get(_ident())
    if listener is None or not isinstance(value, _LOCKS):
        return value
    return _Entered(listener, value)


class _Entered:
    """A lock that is held while a block runs."""

    def __init__(self, listener: Listener, lock: Any) -> None:  # noqa: ANN401
        self._listener, self._lock = listener, lock

    def __enter__(self) -> Any:  # noqa: ANN401
        acquire(self._listener, self._lock)
        return True if not isinstance(self._lock, threading.Condition) else self._lock

    def __exit__(self, *_: object) -> None:
        release(self._listener, self._lock)


def acquire(listener: Listener, lock: Any) -> None:  # noqa: ANN401
    """Acquires a lock, and says so if that has to wait."""
    listener.acquiring(lock)
    if not lock.acquire(False):
        listener.waits(lock)
        while not _acquire_for(lock, 0.05):
            if listener.is_abandoned():
                raise Abandoned
        listener.waits(None)
    listener.held.append(lock)


def _acquire_for(lock: Any, seconds: float) -> bool:  # noqa: ANN401
    return bool(lock.acquire(True, seconds))


def release(listener: Listener, lock: Any) -> None:  # noqa: ANN401
    """Releases a lock."""
    for i in range(len(listener.held) - 1, -1, -1):
        if listener.held[i] is lock:
            del listener.held[i]
            break
    lock.release()


def _lock_method(listener: Listener, lock: Any, name: str) -> Any:  # noqa: ANN401
    if name in ("acquire", "__enter__"):

        def acquire_it(blocking: bool = True, timeout: float = -1) -> bool:
            if blocking and timeout in (-1, None):
                acquire(listener, lock)
                return True
            got = bool(lock.acquire(blocking, timeout))
            if got:
                listener.held.append(lock)
            return got

        return acquire_it
    if name in ("release", "__exit__"):
        return lambda *_: release(listener, lock)
    return getattr(lock, name)


# Functions that are called by a plain name, and variables.


def function(called: Any) -> Any:  # noqa: ANN401
    """A function by whose name an attribute can be reached."""
    listener = listeners.get(_ident())
    if listener is None:
        return called
    return _FUNCTIONS.get(called, lambda _: called)(listener)


def _getattr(listener: Listener) -> Any:  # noqa: ANN401
    def get(owner: Any, name: str, default: Any = UNSET) -> Any:  # noqa: ANN401
        if type(owner) in _SKIPPED:
            return getattr(owner, name) if default is UNSET else getattr(owner, name, default)
        return _read(listener, owner, name, default)

    return get


def _hasattr(listener: Listener) -> Any:  # noqa: ANN401
    def has(owner: Any, name: str) -> bool:  # noqa: ANN401
        try:
            _getattr(listener)(owner, name)
        except AttributeError:
            return False
        return True

    return has


def _vars(listener: Listener) -> Any:  # noqa: ANN401
    def variables(*owner: Any) -> Any:  # noqa: ANN401
        if not owner:  # the caller's local variables
            return sys._getframe(1).f_locals
        held = vars(owner[0])
        if isinstance(held, dict):
            listener.namespaces[id(held)] = held, owner[0]
        return held

    return variables


def _next(listener: Listener) -> Any:  # noqa: ANN401
    def advance(*args: Any) -> Any:  # noqa: ANN401
        result = next(*args)
        listener.wrote(args[0], CONTENT, args[0], result, IN_PLACE)
        return result

    return advance


_FUNCTIONS: Dict[Any, Callable[[Listener], Any]] = {
    getattr: _getattr,
    hasattr: _hasattr,
    setattr: lambda listener: lambda owner, name, value: _assign(listener, owner, name, value),
    delattr: lambda listener: lambda owner, name: _delete(listener, owner, name),
    vars: _vars,
    next: _next,
}


def variable(namespace: Dict[str, Any], name: str) -> Any:  # noqa: ANN401
    """A global variable."""
    listener = listeners.get(_ident())
    if listener is not None:
        answer = listener.reading(namespace, name, namespace)
        if answer is not UNSET and answer is not DELETED:
            return answer
    if name in namespace:
        value = namespace[name]
    elif hasattr(builtins, name):
        value = getattr(builtins, name)
    else:
        raise NameError("name {!r} is not defined".format(name))
    if listener is not None:
        listener.holds(value, namespace, name, namespace)
    return value


def stored(namespace: Dict[str, Any], name: str) -> None:
    """A global variable was assigned or deleted."""
    listener = listeners.get(_ident())
    if listener is not None:
        value = namespace.get(name, UNSET)
        how = DELETION if value is UNSET else ASSIGNMENT
        listener.wrote(namespace, name, namespace, value, how)


def _cell(holder: Any, name: str) -> Any:  # noqa: ANN401
    return holder.__closure__[holder.__code__.co_freevars.index(name)]


def closed(holder: Any, name: str) -> Any:  # noqa: ANN401
    """A variable of a closure; `holder` is a function that does nothing but hold it."""
    listener = listeners.get(_ident())
    cell = _cell(holder, name)
    if listener is not None:
        answer = listener.reading(cell, name, holder)
        if answer is not UNSET and answer is not DELETED:
            return answer
    try:
        value = cell.cell_contents
    except ValueError:
        raise NameError("free variable {!r} referenced before assignment".format(name)) from None
    if listener is not None:
        listener.holds(value, cell, name, holder)
    return value


def bound(holder: Any, name: str) -> None:  # noqa: ANN401
    """A variable of a closure was assigned."""
    listener = listeners.get(_ident())
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


@contextlib.contextmanager
def listening(listener: Listener) -> Any:  # noqa: ANN401
    """Tells a listener of what this thread does."""
    listeners[_ident()] = listener
    try:
        yield listener
    finally:
        listeners.pop(_ident(), None)

