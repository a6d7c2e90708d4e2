"""What is the same: shows values such that equal means equal bit for bit."""

import collections
import contextlib
import copyreg
import enum
import hashlib
import types
from collections.abc import Mapping
from typing import Any, Dict, Iterator, List, Set, Tuple

import torch

# Shown where a value has a part that cannot be compared.
OPAQUE = "not shown"

_NEW: Any = vars(copyreg)["__newobj__"]
_PLAIN = (bool, int, str, bytes, torch.dtype, torch.device, torch.Size, range, slice)
_CODE = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
)


def frozen(value: object, depth: int = 12) -> Any:
    """Shows a value such that equal means equal bit for bit (and NaN equals NaN).

    Objects are shown with their attributes, those in `__slots__` as well.
    """
    return _Freezer().freeze(value, depth)


class _Freezer:
    """Shows one value; objects that hold themselves are shown once."""

    def __init__(self) -> None:
        self._around: Set[int] = set()

    def freeze(self, value: Any, depth: int) -> Any:
        """Shows a part of the value."""
        kind = type(value).__name__
        if isinstance(value, torch.Tensor):
            return frozen_tensor(value)
        if isinstance(value, (float, complex)):
            return (kind, repr(value))
        if isinstance(value, enum.Enum):
            return (kind, value.name)
        if value is None or isinstance(value, _PLAIN):
            return (kind, str(value) if isinstance(value, (range, slice)) else value)
        if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
            data = hashlib.sha256(value.tobytes()).digest()
            return (kind, str(value.dtype), tuple(value.shape), data)
        if isinstance(value, _CODE):
            return (kind, getattr(value, "__qualname__", getattr(value, "__name__", "")))
        if id(value) in self._around:
            return ("circle", kind)  # what it refers back to is being shown
        if depth == 0:
            return (OPAQUE, kind)
        self._around.add(id(value))
        try:
            return self._freeze_parts(value, kind, depth - 1)
        finally:
            self._around.discard(id(value))

    def _freeze_parts(self, value: Any, kind: str, depth: int) -> Any:
        if isinstance(value, Mapping):
            items = [(repr(key), self.freeze(item, depth)) for key, item in list(value.items())]
            return (kind, *sorted(items, key=lambda item: item[0]))
        if isinstance(value, (set, frozenset)):
            return (kind, *sorted((self.freeze(item, depth) for item in list(value)), key=repr))
        # A subclass may have a length and items of its own, as e3nn's irreps.
        if isinstance(value, (list, tuple)):
            parts = [self.freeze(item, depth) for item in items_of(value)]
            return (kind, *parts, *self._extra(value, depth))
        if isinstance(value, collections.deque):
            return (kind, *[self.freeze(item, depth) for item in list(value)])
        if kind == "SparseTensor" and hasattr(value, "coo"):
            return (kind, self.freeze([value.sparse_sizes(), value.coo()], depth))
        if isinstance(value, torch.nn.Module):
            return (OPAQUE, kind)
        if isinstance(value, torch.Generator):
            return (kind, frozen_tensor(value.get_state()))
        held = attributes(value)
        if held or hasattr(value, "__dict__") or slot_names(type(value)):
            return (kind, self.freeze(held, depth))
        return self._freeze_reduced(value, kind, depth)

    def _extra(self, value: Any, depth: int) -> List[Any]:
        """The attributes that a subclass of a list or tuple has beside its items."""
        held = getattr(value, "__dict__", None)
        return [self.freeze(dict(held), depth)] if held else []

    def _freeze_reduced(self, value: Any, kind: str, depth: int) -> Any:
        """An object of a C extension, by what it is pickled as."""
        if isinstance(value, (types.GeneratorType, types.CoroutineType)):
            return (OPAQUE, kind)
        with contextlib.suppress(Exception):
            reduced = value.__reduce_ex__(2)
            if isinstance(reduced, str):
                return (kind, reduced)
            function, arguments, *rest = reduced
            # What has no state but its class tells nothing of what C code keeps.
            if function is not _NEW or len(arguments) > 1 or any(rest):
                state = [arguments, *(part for part in rest[:1])]
                return (kind, self.freeze(state, depth))
        return (OPAQUE, kind)


def frozen_reduced(value: object) -> Any:
    """What an object of a C extension holds, by what it is pickled as."""
    if isinstance(value, torch.Generator):
        return frozen_tensor(value.get_state())
    return _Freezer()._freeze_reduced(value, type(value).__name__, 3)


def slot_names(kind: type) -> List[str]:
    """The names of the attributes that a class keeps in `__slots__`, mangled as they are."""
    names: List[str] = []
    for base in kind.__mro__:
        declared = vars(base).get("__slots__", ())
        for name in [declared] if isinstance(declared, str) else list(declared):
            if name in ("__dict__", "__weakref__"):
                continue
            if name.startswith("__") and not name.endswith("__"):
                name = "_{}{}".format(base.__name__.lstrip("_"), name)
            names.append(name)
    return names


def attributes(value: object) -> Dict[str, Any]:
    """The attributes that an object holds itself, in its `__dict__` and in `__slots__`."""
    held: Dict[str, Any] = {}
    with contextlib.suppress(Exception):
        held.update(object.__getattribute__(value, "__dict__"))
    for name in slot_names(type(value)):
        with contextlib.suppress(Exception):
            held[name] = object.__getattribute__(value, name)
    return held


_BASES: Tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque)


def items_of(value: Any) -> List[Any]:
    """The items of a container as its base has them, whatever a subclass makes of them."""
    for base in _BASES:
        if isinstance(value, base):
            return list(base.__iter__(value))
    return []


def frozen_tensor(value: torch.Tensor) -> Any:
    """A tensor of any layout, with the bytes of its parts."""
    if torch.nn.parameter.is_lazy(value):
        return ("uninitialized",)
    value = value.detach()
    if type(value) is not torch.Tensor:
        value = value.as_subclass(torch.Tensor)
    if value.is_quantized:
        value = value.int_repr()
    if value.is_meta:
        return ("meta", str(value.dtype), tuple(value.shape))
    layout = str(value.layout)
    if value.layout == torch.sparse_coo:
        value = value.coalesce()
        return (layout, tuple(value.shape), frozen([value.indices(), value.values()]))
    if layout in ("torch.sparse_csr", "torch.sparse_bsr"):  # torch 1.9 has no such attributes
        parts = [value.crow_indices(), value.col_indices(), value.values()]
        return (layout, tuple(value.shape), frozen(parts))
    if layout in ("torch.sparse_csc", "torch.sparse_bsc"):
        parts = [value.ccol_indices(), value.row_indices(), value.values()]
        return (layout, tuple(value.shape), frozen(parts))
    shape, dtype = tuple(value.shape), str(value.dtype)
    if value.is_complex():
        conjugated = getattr(value, "resolve_conj", None)  # torch 1.9 has no lazy ones
        value = torch.view_as_real(value if conjugated is None else conjugated())
    value = value.cpu()
    if value.is_floating_point() and value.isnan().any():
        value = torch.where(value.isnan(), torch.full_like(value, float("nan")), value)
    # NumPy does not know all types, and torch 1.9 keeps the size of numbers in a view.
    same_size = _BY_SIZE[value.element_size()]
    data = value.contiguous().flatten().view(same_size).numpy() if value.numel() else b""
    return ("tensor", dtype, shape, hashlib.sha256(data).digest())


_BY_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        return kind not in (OPAQUE, "NoneType") and any(map(holds_something, shown))
    return isinstance(shown, bytes)


def opaque_kinds(shown: object) -> Set[str]:
    """The types of the parts that `frozen` could not show."""
    if not isinstance(shown, (tuple, list)):
        return set()
    if len(shown) == 2 and shown[0] == OPAQUE:
        return {str(shown[1])}
    return set().union(*map(opaque_kinds, shown)) if shown else set()


class Tolerance:
    """Compares results: bit for bit, or within a distance that the user allows.

    Attributes:
        limit: The largest absolute and relative difference of two numbers; 0 for none.
    """

    def __init__(self, limit: float = 0.0) -> None:
        self.limit = limit

    def keep(self, value: object) -> Any:
        """What to keep of a result in order to compare others with it."""
        shown = frozen(value)
        if not self.limit:
            return shown
        return shown, [tensor.detach().clone() for tensor in tensors(value)]

    def same(self, one: Any, other: Any) -> bool:
        """Whether two kept results are the same."""
        if not self.limit or one == other:
            return bool(one == other)
        (shown, values), (other_shown, other_values) = one, other
        if outline(shown) != outline(other_shown) or len(values) != len(other_values):
            return False
        return all(
            torch.allclose(a, b, rtol=self.limit, atol=self.limit, equal_nan=True)
            if a.is_floating_point() or a.is_complex()
            else torch.equal(a, b)
            for a, b in zip(values, other_values)
        )

    def shown(self, kept: Any) -> Any:
        """What `frozen` showed of a kept result."""
        return kept[0] if self.limit else kept


def tensors(value: object, depth: int = 12) -> Iterator[torch.Tensor]:
    """The dense tensors in a value, in the order in which it holds them."""
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided:
            yield value
    elif depth == 0 or value is None or isinstance(value, (*_PLAIN, *_CODE, torch.nn.Module)):
        return
    elif isinstance(value, Mapping):
        for item in list(value.values()):
            yield from tensors(item, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in items_of(value):
            yield from tensors(item, depth - 1)
    else:
        for item in attributes(value).values():
            yield from tensors(item, depth - 1)


def brief(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} and shape {list(value.shape)}"
    if isinstance(value, (bool, int, float, str, type(None))):
        text = repr(value)
        return text if len(text) <= 60 else text[:60] + "..."
    return f"a {type(value).__name__}"
