"""What functions that ran can write to what calls share, in branches that did not run.

The methods of modules are read whole (`static`). This reads what else a call has run: functions,
closures, methods of other objects; and what these call where they did not go.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.audit.classes import Class, Function, Module, Program
from kit.audit.kinds import Kind, classify
from kit.audit.notes import ALWAYS, TRAINING, Guards, RawWrite
from kit.audit.notes import Path as Attributes
from kit.audit.outer import Outer, arguments_of, bound_names, declared_names
from kit.errors import TreeError

# Of what classes the objects are that calls share, and under which names they are held.
Objects = Sequence[Mapping[str, Any]]


@dataclass(eq=False)
class Definition:
    """A function in its file."""

    file: "File"
    function: Function
    cls: Class | None
    around: tuple[Function, ...]
    # What is known of it if it ran, as the program says it.
    ran: Mapping[str, Any] | None = None
    is_followed: bool = False

    @property
    def first(self) -> str:
        """The argument that stands for the object, or for the class."""
        arguments = arguments_of(self.function) if self.cls else []
        return arguments[0].arg if arguments and not self._is("staticmethod") else ""

    def _is(self, decorator: str) -> bool:
        return any(ast.unparse(each) == decorator for each in self.function.decorator_list)

    @property
    def is_of_class(self) -> bool:
        """Whether its first argument is the class."""
        return bool(self.first) and self._is("classmethod")


@dataclass(eq=False)
class File:
    """A file with functions that ran."""

    shown: str
    module: Module
    traced: Mapping[str, Any]
    definitions: list[Definition] = field(default_factory=list)
    lines: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        classes = {cls.node: cls for cls in self.module.classes}
        self._index(self.module.tree.body, None, (), classes)
        by_line = {
            (_first_line(definition.function), definition.function.name): definition
            for definition in self.definitions
        }
        for each in self.traced["functions"]:
            definition = by_line.get((each["line"], each["name"]))
            if definition is not None:
                definition.ran = each
        # A statement of several lines ran if one of them did.
        ran = set(self.traced["lines"])
        for node in ast.walk(self.module.tree):
            if isinstance(node, ast.stmt):
                body = getattr(node, "body", None) or getattr(node, "cases", None)
                last = _start(body[0]) - 1 if body else node.end_lineno or node.lineno
                lines = range(node.lineno, max(last, node.lineno) + 1)
                if not ran.isdisjoint(lines):
                    self.lines.update(lines)

    def _index(
        self,
        nodes: Sequence[ast.AST],
        cls: ast.ClassDef | None,
        around: tuple[Function, ...],
        classes: Mapping[ast.ClassDef, Class],
    ) -> None:
        for node in nodes:
            if isinstance(node, Function):
                self.definitions.append(
                    Definition(self, node, classes.get(cls) if cls else None, around)
                )
                self._index(node.body, None, (*around, node), classes)
            elif isinstance(node, ast.ClassDef):
                self._index(node.body, node, around, classes)
            elif not isinstance(node, ast.expr):
                self._index(list(ast.iter_child_nodes(node)), cls, around, classes)

    @property
    def is_installed(self) -> bool:
        """Whether it is a part of an installed package."""
        return not {"site-packages", "dist-packages"}.isdisjoint(Path(self.shown).parts)

    def starts(self) -> Iterator[Definition]:
        """The functions that ran, less those that are a part of another one that did."""
        ran = {definition.function for definition in self.definitions if definition.ran is not None}
        for definition in self.definitions:
            if definition.ran is not None and ran.isdisjoint(definition.around):
                yield definition


def _first_line(function: Function) -> int:
    return min([function.lineno, *(each.lineno for each in function.decorator_list)])


def _start(node: ast.stmt | ast.match_case) -> int:
    if isinstance(node, ast.match_case):
        return node.pattern.lineno
    return _first_line(node) if isinstance(node, Function) else node.lineno


class Walk:
    """The functions that a call has run, and those that they call where they did not go."""

    def __init__(self, program: Program, files: Sequence[File], objects: Objects) -> None:
        self._program = program
        self._definitions = {
            definition.function: definition for file in files for definition in file.definitions
        }
        self._scans: dict[Definition, Outer] = {}
        self.reached: dict[Definition, Guards] = {}
        self._objects = [
            (cls, each["names"])
            for each in objects
            for file in files
            for cls in file.module.classes
            if file.shown == each["file"] and cls.node.name == each["class"]
        ]
        self._given = _given([file.module.tree for file in files])
        todo = [(definition, frozenset({ALWAYS})) for file in files for definition in file.starts()]
        while todo:
            definition, guards = todo.pop()
            known = self.reached.get(definition)
            if known is not None and known <= guards:
                continue
            self.reached[definition] = guards if known is None else known & guards
            for other, inner in self._called(definition):
                if other.ran is None:
                    other.is_followed = True
                    todo.append((other, both(inner, self.reached[definition])))

    def scan(self, definition: Definition) -> Outer:
        """What a function does."""
        if definition not in self._scans:
            others = self._names(definition)
            is_object = bool(definition.first) and not definition.is_of_class
            self._scans[definition] = Outer(
                self._program,
                definition.file.module,
                definition.function,
                0 if is_object else None,
                others,
                [
                    *definition.file.traced["holders"],
                    *([definition.first] if definition.is_of_class else []),
                ],
                self._constant(definition),
            )
        return self._scans[definition]

    def _names(self, definition: Definition) -> dict[str, Attributes]:
        """The names in a function that stand for what outlives the call."""
        module, traced = definition.file.module, definition.file.traced
        ran = definition.ran or {"shared": (), "free": ()}
        names: dict[str, Attributes] = {}
        bound = bound_names(definition.function)
        for name in {
            *traced["state"],
            *traced["holders"],
            *declared_names(definition.function),
        } - bound:
            full = module.imports.get(name, f"{module.name}.{name}")
            names[name] = (f"{full.rpartition('.')[0]}:{full.rpartition('.')[2]}",)
        free = {*ran["free"], *declared_names(definition.function)} - bound
        for outer in definition.around:
            for name in bound_names(outer) - bound:
                names.pop(name, None)
                if name in free:
                    names[name] = (f"{outer.name}:{name}",)
        for name in ran["shared"]:
            if name != definition.first:
                names[name] = (f"{definition.function.name}:{name}",)
        if definition.is_of_class and definition.cls:
            names[definition.first] = (f"{module.name}:{definition.cls.node.name}",)
        return names

    def _constant(self, definition: Definition) -> set[str]:
        """The arguments that keep their defaults, as no call in these files gives them."""
        given = self._given.get(definition.function.name)
        arguments = definition.function.args
        if given is None or (
            definition.cls and self._program.is_module(self._program.mro(definition.cls))
        ):
            return set()
        positional = [*arguments.posonlyargs, *arguments.args]
        first = len(positional) - len(arguments.defaults)
        optional = {arg.arg: i for i, arg in enumerate(positional) if i >= first}
        named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        optional.update({arg.arg: len(positional) for arg, value in named if value is not None})
        count, names = given
        count += bool(definition.first)
        return {name for name, i in optional.items() if i >= count and name not in names}

    def _called(self, definition: Definition) -> Iterator[tuple[Definition, Guards]]:
        scan = self.scan(definition)
        if definition.cls is not None:
            mro = [base for base in self._program.mro(definition.cls) if isinstance(base, Class)]
            for reference in scan.notes.references:
                for base in mro[1:] if reference.is_super else mro:
                    method = self._definitions.get(
                        base.methods.get(reference.name, definition.function)
                    )
                    if method is not None and method is not definition:
                        yield method, reference.guards
                        break
        for call, guards in scan.calls:
            if call.lineno not in definition.file.lines:
                for other in self._targets(definition, call):
                    yield other, guards

    def _targets(self, definition: Definition, call: ast.Call) -> Iterator[Definition]:
        """What a call that was not made can call, by its name."""
        name = ast.unparse(call.func)
        is_dotted = all(part.isidentifier() for part in name.split("."))
        resolved = self._program.resolve(definition.file.module, name) if is_dotted else ""
        if isinstance(resolved, Function) and resolved in self._definitions:
            yield self._definitions[resolved]
        elif isinstance(call.func, (ast.Attribute, ast.Name)):
            short = name.split(".")[-1]
            for cls, held_as in self._objects:
                for wanted in [short, *(["__call__"] if short in held_as else [])]:
                    if wanted in cls.methods and cls.methods[wanted] in self._definitions:
                        yield self._definitions[cls.methods[wanted]]


def _given(trees: Sequence[ast.Module]) -> dict[str, tuple[int, set[str]]]:
    """Of each name that is called, how many arguments it is given at most, and which by name."""
    given: dict[str, tuple[int, set[str]]] = {}
    for tree in trees:
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            names = {keyword.arg or "**" for keyword in call.keywords}
            # What stands behind a star can be any number of arguments.
            many = "**" in names or any(isinstance(each, ast.Starred) for each in call.args)
            count, known = given.get(ast.unparse(call.func).split(".")[-1], (0, set()))
            count = max(count, 1000 if many else len(call.args))
            given[ast.unparse(call.func).split(".")[-1]] = count, known | names
    return given


def both(inner: Guards, outer: Guards) -> Guards:
    """The guards inside a function and on the way to it; `always` must be in both."""
    return (inner | outer) - (frozenset({ALWAYS}) - (inner & outer))


@dataclass
class Scope:
    """What reaches one piece of state: writes, reads."""

    writes: list[tuple[Definition, RawWrite]] = field(default_factory=list)
    reads: list[tuple[Attributes, Guards]] = field(default_factory=list)


def writes_not_made(
    branches: Mapping[str, Any], installed: Path | None, absolute: Callable[[str], Path]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The writes to what calls share that lie in branches that no call took.

    Args:
        branches: What `programs/audit` says of the functions that ran.
        installed: The directory that holds PyG.
        absolute: Where a file lies.

    Returns:
        The writes, as `static` lists them in a report, and the files that do not parse here.
    """
    program = Program(installed)
    files, unread = [], []
    for shown, traced in sorted(branches["files"].items()):
        path = absolute(shown)
        try:
            files.append(File(shown, program.add(path), traced))
        except TreeError:
            unread.append(str(path))
    walk = Walk(program, files, branches["objects"])
    result: dict[tuple[str, str], dict[str, Any]] = {}
    outside = _read_from_outside(walk)
    for scope in _scopes(program, walk).values():
        every = [write for _, write in scope.writes]
        for definition, write in scope.writes:
            if write.line in definition.file.lines or ALWAYS in write.guards:
                continue
            if definition.file.is_installed and _registers(write):
                continue
            touching = [r for r in scope.reads if r[0][: len(write.path)] == write.path]
            training = bool(touching) and all(TRAINING in guards for _, guards in touching)
            is_read = bool(touching) or write.path[-1] in outside
            kind, reason = classify(write, every, is_read, training)
            if kind is not Kind.RACE:
                continue
            holder, attribute = _name(definition, write)
            place = f"{definition.file.shown}:{write.line}"
            entry = result.setdefault(
                (holder, attribute),
                {
                    **{"class": holder, "attribute": attribute, "kind": kind.value},
                    **{"reason": reason, "written": [], "ran": False, "conditional": True},
                },
            )
            entry["written"] = sorted({*entry["written"], place})
    return list(result.values()), unread


def _registers(write: RawWrite) -> bool:
    """Whether it sets an item of a global under a key that is computed: a registry, or a cache.

    Of installed packages, that is believed: they guard it in ways that cannot be told by the
    source of one function, as einops does its backends.
    """
    is_constant = write.key[:1] in "'\"" or write.key.isdigit()
    return ":" in write.path[0] and bool(write.key) and not is_constant


def _scopes(program: Program, walk: Walk) -> dict[object, Scope]:
    scopes: dict[object, Scope] = {}
    for definition, guards in walk.reached.items():
        notes = walk.scan(definition).notes
        # What classes inherit from each other are one piece of state.
        bases = (
            [b for b in program.mro(definition.cls) if isinstance(b, Class)]
            if definition.cls
            else []
        )
        family = bases[-1] if bases else None

        def scope(path: Attributes, family: Class | None = family) -> Scope:
            return scopes.setdefault(path[0] if ":" in path[0] else family, Scope())

        for write in notes.writes:
            if _is_shared(program, definition, write.path):
                inner = RawWrite(**{**vars(write), "guards": both(write.guards, guards)})
                scope(write.path).writes.append((definition, inner))
        for path, _, inner_guards in notes.reads:
            scope(path).reads.append((path, both(inner_guards, guards)))
    return scopes


def _is_shared(program: Program, definition: Definition, path: Attributes) -> bool:
    """Whether what a path begins with is shared."""
    ran = definition.ran or {"shared": (), "own": ()}
    name = path[0].partition(":")[2] if ":" in path[0] else definition.first
    rest = path[1:] if ":" in path[0] else path
    if f"{name}.{'.'.join(rest[:1])}" in ran["own"]:
        return False
    if ":" in path[0] or path[0] == "__class__":
        return True
    is_module = definition.cls is not None and program.is_module(program.mro(definition.cls))
    return name in ran["shared"] or (definition.is_followed and not is_module)


def _read_from_outside(walk: Walk) -> set[str]:
    """The attributes that functions read of other objects than their own."""
    names = set()
    for definition in walk.reached:
        nodes = list(ast.walk(definition.function))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                base = node.value.id if isinstance(node.value, ast.Name) else ""
                if id(node) not in called and base not in {
                    definition.first,
                    *definition.file.module.imports,
                }:
                    names.add(node.attr)
    return names - {""}


def _name(definition: Definition, write: RawWrite) -> tuple[str, str]:
    """What holds the state, and the attribute."""
    holder, _, name = write.path[0].rpartition(":")
    if holder:
        return holder, ".".join([name, *write.path[1:]])
    return definition.cls.node.name if definition.cls else definition.function.name, ".".join(
        write.path
    )
