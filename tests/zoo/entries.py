"""What the zoo knows of a model: its truth, and what the audit must say of it."""

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

SAFE, NOT_SAFE, NOT_SHOWN = "safe", "not safe", "not shown to be safe"

# How threaded calls of a model end that is not safe.
FAILURES = {
    "wrong": "some calls silently return another result",
    "crash": "some calls raise",
    "hang": "calls wait for each other forever",
    "killed": "the process dies of a signal",
    "leaks": "a call gets what an earlier caller has left, with or without threads",
}

# The modules of the zoo, in the order of the page; `packages` needs an environment of its own.
FAMILIES = (
    "attributes",
    "containers",
    "elsewhere",
    "branches",
    "memory",
    "hooks",
    "locks",
    "workers",
    "carried",
    "randomness",
    "plain",
    "arguments",
    "layers",
    "vendored",
    "compiled",
)

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """A model and its truth.

    Attributes:
        factory: Makes the model.
        inputs: Makes the arguments of a call; other ones in each call.
        failure: One of `FAILURES`, the one that `truth.py` meets first; empty where the
            model is safe.
        verdicts: What the audit may say. Mostly one, and never `SAFE` of what is not.
        says: What must be in its text: regular expressions.
        methods: The methods that are called, if not `forward`.
        patched: Whether it takes the patched PyG rather than the one as released.
        grad: Whether a call needs gradients to be recorded.
        lazy: Whether the first call makes its parameters.
        quick: Whether it is among the few that each run of the suite audits.
        checked: Why `truth.py` cannot check it, and what the truth rests on instead.
        truth_inputs: What the truth is checked on, where that takes more than the
            audit is given.
    """

    factory: Callable[..., Any]
    inputs: Callable[..., Any]
    failure: str
    verdicts: tuple[str, ...]
    says: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    patched: bool = False
    grad: bool = False
    lazy: bool = False
    quick: bool = False
    checked: str = ""
    truth_inputs: Callable[..., Any] | None = None

    @property
    def family(self) -> str:
        """The file that holds it."""
        return self.factory.__module__.rpartition(".")[2]

    @property
    def name(self) -> str:
        """Its name, such as `attributes.KeepsMean`."""
        return f"{self.family}.{self.factory.__name__}"

    @property
    def model(self) -> str:
        """What `audit --model` is given."""
        return f"{self.factory.__module__}:{self.factory.__name__}"

    @property
    def why(self) -> str:
        """The truth in a line: how its docstring begins."""
        return (inspect.getdoc(self.factory) or "").split("\n")[0]

    @property
    def blamed(self) -> list[str]:
        """The lines that the audit must name, as `file:line`.

        They end with `# blame` in the model's own source, or with `# blame` and its
        name elsewhere in the file.
        """
        source, start = inspect.getsourcelines(self.factory)
        file = Path(inspect.getsourcefile(self.factory) or "")
        own = range(start, start + len(source))
        return [
            f"{file.parent.name}/{file.name}:{number}"
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
            for marker in re.findall(r"# blame(?: (\w+))?$", line)
            if (marker or (self.factory.__name__ if number in own else "")) == self.factory.__name__
        ]


_entries: list[Entry] = []


def safe(inputs: Callable[..., Any], **noted: Any) -> Callable[[Factory], Factory]:
    """Notes a model that threads can share."""
    return _note(inputs, "", (SAFE,), noted)


def unsafe(failure: str, inputs: Callable[..., Any], **noted: Any) -> Callable[[Factory], Factory]:
    """Notes a model that threads cannot share."""
    assert failure in FAILURES, f"{failure!r}: expected one of {', '.join(FAILURES)}"
    return _note(inputs, failure, (NOT_SAFE,), noted)


def _note(
    inputs: Callable[..., Any], failure: str, verdicts: tuple[str, ...], noted: dict[str, Any]
) -> Callable[[Factory], Factory]:
    def note(factory: Factory) -> Factory:
        entry = Entry(factory, inputs, failure, noted.pop("verdicts", verdicts), **noted)
        assert not (failure and SAFE in entry.verdicts), f"{factory.__name__} is not safe"
        _entries.append(entry)
        return factory

    return note


def load(families: tuple[str, ...] = FAMILIES) -> list[Entry]:
    """Imports families, and returns their models in order. Some of them import PyG."""
    for family in families:
        importlib.import_module(f"zoo.{family}")
    chosen = [entry for entry in _entries if entry.family in families]
    return sorted(chosen, key=lambda entry: families.index(entry.family))
