"""What one function does to state that outlives its call: globals, closures, shared arguments."""

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from kit.audit.classes import Function, Module, Program
from kit.audit.expressions import NONE
from kit.audit.notes import Guards, Path, Value
from kit.audit.statements import Scan


class Outer(Scan):
    """Everything that one function does to `self` and to other names that outlive the call.

    Attributes:
        calls: What it calls, with the guards that hold there.

    Args:
        program: Where functions that are called are looked up; None: nowhere.
        module: The module of the function.
        function: The function.
        shared: Which argument is an object whose paths have no name before them; None: none.
        others: The other names, and the paths to call them by.
        holders: Those of `others` that are classes, functions or modules: their methods, such as
            `module.add()`, change nothing by their names.
        constant: Arguments that no call gives.
    """

    def __init__(
        self,
        program: Program | None,
        module: Module,
        function: Function,
        shared: int | None = 0,
        others: Mapping[str, Path] = NONE,
        holders: Collection[str] = (),
        constant: Collection[str] = (),
    ) -> None:
        self.calls: list[tuple[ast.Call, Guards]] = []
        self._others = others
        self._holders = {others[name] for name in holders if name in others}
        self._constant = set(constant)
        self._declared = declared_names(function)
        super().__init__(program, module, function, shared, others)

    def _outlives(self, node: ast.expr) -> Path | None:
        """The path of a name that outlives the call, where it still stands for that."""
        if not isinstance(node, ast.Name) or node.id not in self._others:
            return None
        path = self._others[node.id]
        return path if self._names.get(node.id, Value()).path == path else None

    def _evaluate(self, node: ast.expr, is_used: bool) -> Value:
        path = self._outlives(node)
        if path is not None:
            self.notes.reads.append((path, node.lineno, self._guards))
            return Value(needs=frozenset({path[0]}), path=path)
        if isinstance(node, ast.Name) and node.id in self._constant:
            return Value()
        return super()._evaluate(node, is_used)

    def _call(self, node: ast.Call, is_used: bool) -> Value:
        self.calls.append((node, self._guards))
        return super()._call(node, is_used)

    def _change(
        self, node: ast.Call, short: str, owner: Path, value: Value, is_used: bool
    ) -> Value:
        if owner in self._holders:
            return replace(value, varies=True)
        return super()._change(node, short, owner, value, is_used)

    def _assign(self, target: ast.expr, value: Value, source: ast.expr) -> None:
        path = self._outlives(target)
        if isinstance(target, ast.Name):
            self._constant.discard(target.id)
            if path is not None and target.id in self._declared:
                self._write(path, target, "assignment", value, ast.unparse(source))
                return
        super()._assign(target, value, source)

    def _augment(self, node: ast.AugAssign) -> None:
        path = self._outlives(node.target)
        if path is not None and isinstance(node.target, ast.Name):
            # Of a name that is not declared, it changes the object that it stands for.
            self._value(node.value)
            self.notes.reads.append((path, node.lineno, self._guards))
            self._write(path, node.target, "augmented assignment", Value(varies=True), "")
            return
        super()._augment(node)


def arguments_of(function: Function) -> list[ast.arg]:
    """The arguments that a function can be given by their places, and then by name alone."""
    arguments = function.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def declared_names(function: Function) -> set[str]:
    """The names that a function, or one inside it, declares `global` or `nonlocal`."""
    nodes = (node for node in ast.walk(function) if isinstance(node, (ast.Global, ast.Nonlocal)))
    return {name for node in nodes for name in node.names}


def bound_names(function: Function) -> set[str]:
    """The names that a function binds itself."""
    extra = [arg.arg for arg in (function.args.vararg, function.args.kwarg) if arg]
    bound = {argument.arg for argument in arguments_of(function)} | {*extra}
    declared: set[str] = set()
    for node in _own_nodes(function):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            declared.update(node.names)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.add(node.id)
        elif isinstance(node, (Function, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            bound.add(node.name)
    return bound - declared


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function, less those inside of further functions and classes."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (Function, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)
