"""What a write to `self` means to threads that share the object: its kind, and why."""

import enum
from dataclasses import dataclass
from pathlib import Path

from kit import releases
from kit.audit.notes import (
    ALWAYS,
    CACHED,
    HOOK,
    MISSING,
    MISSING_KEY,
    TRAINING,
    UNINITIALIZED,
    RawWrite,
    missing_key,
)

TABLE = Path(__file__).with_name("audit.toml")
# How the reason begins where a person has decided.
REVIEWED = "Reviewed: "


class Kind(enum.Enum):
    """What a write means to threads that share the object; the worst comes first."""

    RACE = "race"
    UNREAD = "left for the caller"
    BENIGN = "benign race"
    MEMO = "cache by key"
    CACHE = "cache by request"
    LAZY = "lazy initialisation"
    TRAINING = "training only"
    IDEMPOTENT = "idempotent"


@dataclass(frozen=True)
class Write:
    """A write to `self` that a forward pass can reach.

    Attributes:
        cls: The class that defines the method.
        module: The module of the class.
        file: Its file, relative to the root.
        line: The line of the write.
        method: The method that holds the line.
        attribute: What is written; `a.b` is the attribute of an object that `self` holds.
        how: "assignment", "augmented assignment", "setattr", "del" or "in-place change".
        kind: What it means to threads that share the object.
        reason: What decided the kind, and why.
        reads: The (file, line) at which a reachable method reads it.
        conditional: Whether a condition that depends on the call decides if it is written.
    """

    cls: str
    module: str
    file: str
    line: int
    method: str
    attribute: str
    how: str
    kind: Kind
    reason: str
    reads: tuple[tuple[str, int], ...]
    conditional: bool = False


@dataclass(frozen=True)
class Reviewed:
    """A write that a person has classed, in `audit.toml`; it overrides the rules."""

    cls: str
    attribute: str
    kind: Kind
    reason: str
    only_if_used: bool = False


def load_reviewed() -> tuple[Reviewed, ...]:
    """Reads `audit.toml`."""
    return tuple(
        Reviewed(
            entry["class"],
            entry["attribute"],
            Kind(entry["kind"]),
            entry["reason"],
            entry.get("only_if_used", False),
        )
        for entry in releases.read_toml(TABLE).get("reviewed", [])
    )


def _settled(write: RawWrite, every: list[RawWrite]) -> Kind | None:
    """The kind that the guards of a write give it by themselves."""
    if TRAINING in write.guards:
        return Kind.TRAINING
    if CACHED in write.guards:
        return Kind.CACHE
    if write.guards & {HOOK, UNINITIALIZED}:
        return Kind.LAZY
    if _is_memo(write, every):
        return Kind.MEMO
    for guard in write.guards:
        if guard.startswith(MISSING) and not guard.startswith(MISSING_KEY):
            checked = [w for w in every if MISSING + ".".join(w.path) == guard]
            same = [w for w in every if w.path == write.path]
            # Nothing that is written once more later, or that asks about something else, such
            # as `if self.bias is None`.
            if checked and all(guard in w.guards for w in (*checked, *same)):
                return Kind.LAZY
    return None


def _is_memo(write: RawWrite, every: list[RawWrite]) -> bool:
    """Whether it adds an item under a check that its key is not there, and none is removed."""
    guard = missing_key(write.path, write.key)
    same = [w for w in every if w.path == write.path]
    changed = {".".join(w.path) for w in every}
    return (
        bool(write.key)
        and guard in write.guards
        and not write.needs & changed
        and all(w.key and missing_key(w.path, w.key) in w.guards for w in same)
    )


_REASONS = {
    Kind.TRAINING: "Only training writes it: it stands under `if self.training`.",
    Kind.CACHE: "Only a layer that was asked to cache writes it: it stands under `if self.cached`.",
    Kind.MEMO: "It adds an item under a check that its key is not there; nothing is removed.",
    Kind.LAZY: "Only the first call writes it: it stands under a check that it is not there yet.",
}


def classify(
    write: RawWrite, every: list[RawWrite], is_read: bool, in_training: bool
) -> tuple[Kind, str]:
    """The kind of a write among all that a forward pass reaches, and the reason."""
    kind = _settled(write, every)
    if kind is not None:
        return kind, _REASONS[kind]
    changed = {".".join(other.path) for other in every}
    alike = [w for w in every if w.path == write.path and _settled(w, every) is None]
    varies = any(w.value.varies or w.value.needs & changed or ALWAYS not in w.guards for w in alike)
    if not varies and len({(w.how, w.text) for w in alike}) == 1:
        return Kind.IDEMPOTENT, "Every call writes the same: nothing in it depends on the call."
    why = "The value depends on the call" if varies else "One call writes different values"
    if write.through:
        why = f"{why} (`{write.through}` writes it)"
    if in_training:
        return Kind.TRAINING, f"{why}, but only training reads it."
    if is_read:
        return Kind.RACE, f"{why}, and the forward pass reads it back."
    if len(write.path) > 1:
        return Kind.RACE, f"{why}, and the object that holds it is shared as well."
    return Kind.UNREAD, f"{why}, but nothing that the forward pass reaches reads it."
