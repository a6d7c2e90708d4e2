"""What is noted of a method: its writes, reads and references, and under which guards."""

from dataclasses import dataclass, field

# Guards: what is known wherever a statement runs.
ALWAYS = "always"  # no condition on the way depends on the call
TRAINING = "training"
CACHED = "cached"
HOOK = "hook"  # a forward pre-hook that removes itself
UNINITIALIZED = "uninitialized"
MISSING = "missing "  # and the attribute that is checked for being there
MISSING_KEY = "missing key "  # and the attribute, and the key that is looked up in it

Path = tuple[str, ...]
Guards = frozenset[str]


def missing_key(path: Path, key: str) -> str:
    """The guard that a key is not in a container that `self` holds."""
    return f"{MISSING_KEY}{'.'.join(path)}[{key}]"


@dataclass(frozen=True)
class Value:
    """What an expression is made from.

    Attributes:
        varies: Whether it depends on an argument of the call.
        needs: The attributes of `self` that it depends on.
        path: Of which attribute of `self` it is another name.
        lookup: Of which attribute of `self` it is the item, and of which key: `self.a.get(k)`.
    """

    varies: bool = False
    needs: frozenset[str] = frozenset()
    path: Path | None = None
    lookup: tuple[Path, str] | None = None


@dataclass(frozen=True)
class RawWrite:
    """A write to `self`, before it is known what else the class does."""

    path: Path
    line: int
    how: str
    guards: Guards
    value: Value
    # Writes of the same text write the same, if nothing in it varies.
    text: str
    # The key, where an item is assigned; and what the value alone depends on.
    key: str = ""
    needs: Guards = frozenset()
    # The function that does it, where that is not the method itself.
    through: str = ""


@dataclass(frozen=True)
class Reference:
    """A method that is called or handed on: `self.name`, `super().name` or `base.name`."""

    name: str
    guards: Guards
    base: str | None = None
    is_super: bool = False


@dataclass
class Notes:
    """Everything that one method does to `self`, in the order of its statements.

    Attributes:
        writes: What it writes.
        reads: What it reads, with the line and the guards.
        references: The methods that it calls or hands on.
        pre_hooks: The methods that it registers as forward pre-hooks.
    """

    writes: list[RawWrite] = field(default_factory=list)
    reads: list[tuple[Path, int, Guards]] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    pre_hooks: set[str] = field(default_factory=set)
