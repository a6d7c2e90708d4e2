"""What a class does to `self` in a forward pass: the methods that one reaches, and their writes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from kit.audit.classes import MODULE_BASES, Class, Function, Module, Program
from kit.audit.kinds import Write, classify
from kit.audit.notes import ALWAYS, HOOK, TRAINING, Guards, Notes, Reference
from kit.audit.statements import Scan

# What runs a forward pass: an autoencoder is run as `encode` and `decode`.
ENTRIES = ("forward", "__call__", "encode", "decode", "inference", "predict", "predict_step")
# Public methods that prepare a module rather than run it.
_PREPARES = re.compile(
    r"reset|register|set_|load|save|from_|to(_|$)|train|eval$|jittable|extra_repr|apply$|detach$"
)


class Scanner:
    """Scans each method once, however many classes inherit it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._scans: dict[int, Notes] = {}

    def scan(self, module: Module, function: Function) -> Notes:
        """What a method does."""
        if id(function) not in self._scans:
            self._scans[id(function)] = Scan(self.program, module, function).notes
        return self._scans[id(function)]


class View:
    """A class with the methods of all its bases, and those that a forward pass reaches.

    Args:
        scanner: What looks at methods.
        mro: The class and its bases, as `Program.mro` returns them.
        entries: The methods that are called from outside.
    """

    def __init__(
        self, scanner: Scanner, mro: list[Class | str], entries: Sequence[str] = ENTRIES
    ) -> None:
        self._scanner = scanner
        self._entries = entries
        self._mro = [base for base in mro if isinstance(base, Class)]
        # The guards that hold on every way to a method.
        self._reached: dict[tuple[int, str], Guards] = {}
        # A forward pass can be torch's own, as of a subclass of `torch.nn.Linear`.
        plain = all(
            base.split(".")[-1] in MODULE_BASES
            for base in mro
            if isinstance(base, str) and base.startswith("torch.nn.")
        )
        self._walk(plain)

    def _find(self, name: str, start: int = 0) -> tuple[int, str] | None:
        for i in range(start, len(self._mro)):
            if name in self._mro[i].methods:
                return i, name
        return None

    def _scan(self, method: tuple[int, str]) -> Notes:
        cls = self._mro[method[0]]
        return self._scanner.scan(cls.module, cls.methods[method[1]])

    def _walk(self, plain: bool) -> None:
        todo = self._starts(plain)
        while todo:
            method, guards = todo.pop()
            known = self._reached.get(method)
            if known is not None and known <= guards:
                continue
            self._reached[method] = guards if known is None else known & guards
            for reference in self._scan(method).references:
                reached = self._follow(method[0], reference)
                if reached:
                    passed = self._both(reference.guards, self._reached[method])
                    todo.append((reached, passed))

    def _starts(self, plain: bool) -> list[tuple[tuple[int, str], Guards]]:
        """The methods that are called from outside, with the guards that hold there."""
        always = frozenset({ALWAYS})
        names = [name for name in self._entries if self._find(name)]
        if not names and plain and self._mro[0].node.name != "MessagePassing":
            # Without a forward pass, a module is run through its public methods.
            every = sorted({name for base in self._mro for name in base.methods})
            names = [n for n in every if not n.startswith("_") and not _PREPARES.match(n)]
        todo = [(method, always) for name in names if (method := self._find(name))]
        for i, base in enumerate(self._mro):
            hooks = {hook for name in base.methods for hook in self._scan((i, name)).pre_hooks}
            for hook in sorted(hooks):
                if method := self._find(hook):
                    removes = any("hook" in w.path[-1] for w in self._scan(method).writes)
                    todo.append((method, always | ({HOOK} if removes else set())))
        return todo

    def _follow(self, owner: int, reference: Reference) -> tuple[int, str] | None:
        start = 0
        if reference.is_super:
            start = owner + 1
        elif reference.base is not None:
            base = self._scanner.program.resolve(self._mro[owner].module, reference.base)
            if base not in self._mro:
                return None
            start = self._mro.index(base)
        return self._find(reference.name, start)

    @staticmethod
    def _both(inner: Guards, outer: Guards) -> Guards:
        """The guards inside a method and on the way to it; `always` must be in both."""
        return (inner | outer) - (frozenset({ALWAYS}) - (inner & outer))

    def writes(self) -> Iterator[Write]:
        """The writes that a forward pass of this class reaches."""
        raw = []
        reads = []
        for method, guards in self._reached.items():
            notes = self._scan(method)
            file = self._mro[method[0]].module.file
            for write in notes.writes:
                # What has a setter is written by the setter.
                if not (len(write.path) == 1 and self._find(f"{write.path[0]}.setter")):
                    raw.append((method, replace(write, guards=self._both(write.guards, guards))))
            reads += [
                (path, file, line, self._both(inner, guards)) for path, line, inner in notes.reads
            ]
        every = [write for _, write in raw]
        for (owner, name), write in raw:
            touching = [r for r in reads if r[0][: len(write.path)] == write.path]
            in_training = bool(touching) and all(TRAINING in r[3] for r in touching)
            kind, reason = classify(write, every, bool(touching), in_training)
            cls = self._mro[owner]
            yield Write(
                cls.node.name,
                cls.module.name,
                cls.module.file,
                write.line,
                name,
                ".".join(write.path),
                write.how,
                kind,
                reason,
                tuple(sorted({(file, line) for _, file, line, _ in touching})),
                ALWAYS not in write.guards,
            )
