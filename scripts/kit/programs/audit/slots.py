"""The slots that the state of objects is made of: where an attribute or an item is kept.

The attribute of an object is a slot of its `__dict__`, a global variable one of its
module's, a class attribute one of the class. What a list, a dictionary, a set, or a tensor
holds is one slot, with the key `CONTENT`.
"""

import collections
import threading
import types
from typing import Any, Dict, Optional, Tuple

import torch

DELETED = object()  # the answer to a read of what was deleted
UNSET = object()
CONTENT = None  # the key of what a container holds

ASSIGNMENT, DELETION, IN_PLACE = "assignment", "deletion", "in-place change"

SlotKey = Tuple[int, Optional[str]]  # the id of a container, and a key

REGISTERS = ("_parameters", "_buffers", "_modules")
CONTAINERS = (dict, list, set, collections.deque)
CHANGES = frozenset(
    [
        "append",
        "appendleft",
        "extend",
        "extendleft",
        "insert",
        "remove",
        "pop",
        "popleft",
        "clear",
        "sort",
        "reverse",
        "rotate",
        "update",
        "popitem",
        "setdefault",
        "move_to_end",
        "subtract",
        "add",
        "discard",
        "intersection_update",
        "difference_update",
        "symmetric_difference_update",
        "__setitem__",
        "__delitem__",
        "fill",
        "put",
        "resize",
        "itemset",
        "partition",
    ]
)
# What changes no number in a tensor.
HARMLESS = frozenset({"requires_grad_", "retain_grad", "share_memory_", "rename_", "detach_"})
LOCKS: Tuple[type, ...] = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    getattr(threading, "_RLock", threading.Condition),
)
# Attributes of these are methods and parts that do not change.
SKIPPED = {
    *(int, float, bool, str, bytes, complex, tuple, type(None), range, slice, frozenset),
    *(torch.Size, torch.dtype, torch.device, type(super(int, 1))),
    *(types.BuiltinFunctionType, types.MethodType),
}
_MEMBERS = (types.MemberDescriptorType, types.GetSetDescriptorType)

# Every object has these. Attributes such as `__mu__`, which PyG's modules have, are reported.
QUIET = {name for name in dir(torch.nn.Module) if name.startswith("__")} | {"__name__"}


def namespace_of(owner: Any) -> Optional[Dict[str, Any]]:
    """The `__dict__` of an object, if it has one."""
    if isinstance(owner, type):
        return None
    try:
        held = object.__getattribute__(owner, "__dict__")
    except Exception:
        return None
    return held if isinstance(held, dict) else None


def find_slot(owner: Any, name: str) -> Optional[Tuple[Any, str]]:
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
            for register in REGISTERS:
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
    """What tensors that share their memory have in common: where it begins.

    It is not asked of `untyped_storage()`: in free-threaded Python, torch 2.9.1 ends the process
    where the object that this returns is freed by another thread than the one that made it.
    """
    try:
        if not value.numel():
            return 0  # has no address
        return int(value.data_ptr() - value.storage_offset() * value.element_size())
    except Exception:  # sparse tensors and others without one
        return 0


def where_content_is(value: Any) -> Optional[Any]:
    """The container whose content is that of a value, if others may change it."""
    if isinstance(value, CONTAINERS):
        return value
    if isinstance(value, torch.Tensor):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return value
    return None
