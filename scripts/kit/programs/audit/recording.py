"""Records what one call reads and changes."""

import contextlib
import dataclasses
from typing import Any, Dict, List, Optional, Set, Tuple

import torch

from . import listening, slots, state
from .calls import Subject
from .listening import Listener
from .places import Place, where
from .slots import CONTENT, SlotKey
from .values import brief, frozen

_TENSOR = "<tensor>"


def slot_key(container: Any, key: Optional[str]) -> SlotKey:
    """What tells one slot from another: tensors that share their memory have one together."""
    if isinstance(container, torch.Tensor) and key is CONTENT:
        return slots.storage_of(container) or id(container), _TENSOR
    return id(container), key


@dataclasses.dataclass
class Access:
    """How one call accesses one slot: places in their order.

    Attributes:
        container: What holds the slot; kept, so that its id stays its own.
        key: The attribute; None for what a container holds.
        owner: The object whose attribute it is.
        reads: Where it is read.
        writes: Where it is changed.
        values: What is written, as `frozen` shows it.
        texts: The same in a few words.
        how: In what ways it is changed.
        threads: The threads that do, by their identifiers.
        read_first: Whether the call reads it before it changes it.
        read_back: Whether the call reads it after it has changed it.
    """

    container: Any
    key: Optional[str]
    owner: Any
    reads: List[Place] = dataclasses.field(default_factory=list)
    writes: List[Place] = dataclasses.field(default_factory=list)
    values: List[Any] = dataclasses.field(default_factory=list)
    texts: List[str] = dataclasses.field(default_factory=list)
    how: List[str] = dataclasses.field(default_factory=list)
    threads: Set[int] = dataclasses.field(default_factory=set)
    read_first: bool = False
    read_back: bool = False


class Recorder(Listener):
    """Listens to one call.

    Args:
        storages: The memory of the tensors that calls share. Others are made by the call.
    """

    def __init__(self, storages: Set[int]) -> None:
        super().__init__()
        self.accesses: Dict[SlotKey, Access] = {}
        self.opaque: Dict[int, Tuple[Any, Place]] = {}
        # The locks held, the one acquired then, and where.
        self.locks: List[Tuple[Tuple[Any, ...], Any, Place]] = []
        self._storages = storages
        self._opaque_types: Dict[type, bool] = {}

    def _find(self, container: Any, key: Optional[str], owner: Any) -> Optional[Access]:
        slot = slot_key(container, key)
        access = self.accesses.get(slot)
        if access is None:
            if slot[1] == _TENSOR and slot[0] not in self._storages:
                return None
            access = self.accesses[slot] = Access(container, key, owner)
        return access

    def reading(self, container: Any, key: Optional[str], owner: Any) -> Any:
        """Notes a read."""
        access = self._find(container, key, owner)
        if access is not None:
            access.reads.append(where(3))
            access.threads.add(listening.ident())
            access.read_back |= bool(access.writes)
            access.read_first |= not access.writes
        return slots.UNSET

    def wrote(self, container: Any, key: Optional[str], owner: Any, value: Any, how: str) -> None:
        """Notes a change."""
        access = self._find(container, key, owner)
        if access is not None:
            # Adding to a container, or to a tensor, goes on from what is there.
            is_new = how != slots.IN_PLACE or _method_of(value) in _STARTS_ANEW
            access.read_first |= not access.writes and not is_new
            access.writes.append(where(3))
            access.threads.add(listening.ident())
            access.values.append(frozen(None if value is slots.UNSET else value, depth=5))
            access.texts.append("none" if value is slots.UNSET else brief(value))
            access.how.append(how)

    def holds(self, value: Any, container: Any, key: Optional[str], owner: Any) -> None:
        """Notes a read of what a tensor holds, and of an object that cannot be looked at."""
        if isinstance(value, torch.Tensor):
            self.reading(value, CONTENT, value)
            return
        kind = type(value)
        known = self._opaque_types.get(kind)
        if known is None:
            known = self._opaque_types[kind] = state.is_opaque(value)
        if known:
            self.opaque[id(value)] = value, where(3)

    def acquiring(self, lock: Any) -> None:
        """Notes in which order locks are taken."""
        self.locks.append((tuple(self.held), lock, where(3)))

    def written(self) -> List[SlotKey]:
        """The slots that the call changed."""
        return [slot for slot, access in self.accesses.items() if access.writes]


_STARTS_ANEW = {"clear", "copy_", "fill_", "zero_"}


def _method_of(value: Any) -> str:
    """The method that made an in-place change; "" if that was none."""
    return value[0] if isinstance(value, tuple) and value and isinstance(value[0], str) else ""


def record(
    subject: Subject, i: int, storages: Set[int], module: Optional[torch.nn.Module] = None
) -> Tuple[Any, Recorder]:
    """Answers a request, and returns the result and what the call accessed."""
    recorder = Recorder(storages)
    with listening.listening(recorder, to_all=True):
        result = subject.alone(i, module)
    return result, recorder


def storages_of(nodes: List[state.Node]) -> Set[int]:
    """The memory of the tensors among some objects."""
    identities = set()
    for node in nodes:
        if isinstance(node.value, torch.Tensor):
            with contextlib.suppress(Exception):
                identities.add(slots.storage_of(node.value) or id(node.value))
    return identities
