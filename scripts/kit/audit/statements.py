"""What the statements of a method do to `self`, and under which guards."""

import ast
from collections.abc import Iterable, Mapping

from kit.audit.classes import Function, Module, Program
from kit.audit.expressions import NONE, Expressions, key_of
from kit.audit.notes import (
    ALWAYS,
    CACHED,
    MISSING,
    TRAINING,
    UNINITIALIZED,
    Guards,
    Path,
    Value,
    missing_key,
)


class Scan(Expressions):
    """Everything that one method does to `self`: its `notes`.

    Args:
        program: Where functions that are called are looked up; None: nowhere.
        module: The module of the method.
        function: The method, or a function that is given an object that is shared.
        shared: Which argument that object is; None: none.
        others: Further names that stand for what is shared, and the paths to call it by.
    """

    def __init__(
        self,
        program: Program | None,
        module: Module,
        function: Function,
        shared: int | None = 0,
        others: Mapping[str, Path] = NONE,
    ) -> None:
        super().__init__(program, module, function, shared, others)
        self._block(function.body)

    def _block(self, body: Iterable[ast.stmt]) -> None:
        guards, needs = self._guards, self._needs
        for node in body:
            self._statement(node)
        self._guards, self._needs = guards, needs

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.If):
            self._if(node)
        elif isinstance(node, ast.Assign):
            value = self._value(node.value)
            for target in node.targets:
                self._assign(target, value, node.value)
        elif isinstance(node, ast.AnnAssign):
            # An annotation alone assigns nothing.
            if node.value is not None:
                self._assign(node.target, self._value(node.value), node.value)
        elif isinstance(node, ast.AugAssign):
            self._augment(node)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                self._store(target, Value(), "", "del")
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self._bind_parts(node.target, node.iter)
            self._conditional(self._value(node.iter), frozenset(), node.body)
            self._block(node.orelse)
        elif isinstance(node, ast.While):
            test = self._value(node.test)
            self._conditional(test, self._facts(node.test, True), node.body)
            self._block(node.orelse)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                value = self._value(item.context_expr)
                if item.optional_vars is not None:
                    self._assign(item.optional_vars, value, item.context_expr)
            self._block(node.body)
        elif isinstance(node, ast.Try):
            self._try(node)
        elif isinstance(node, Function):
            # A nested function counts as a part of the method.
            names = dict(self._names)
            self._hide(node.args)
            self._block(node.body)
            self._names = {**names, node.name: Value(varies=True)}
        elif isinstance(node, ast.Expr):
            self._value(node.value, is_used=False)
        else:
            self._any(node)

    def _try(self, node: ast.Try) -> None:
        """`try: return self.a[key]` with `except KeyError`: there the key is missing."""
        facts: Guards = frozenset()
        loads = [n for s in node.body for n in ast.walk(s) if isinstance(n, ast.Subscript)]
        for load in loads:
            path = self._path(load.value)
            if path and isinstance(load.ctx, ast.Load):
                facts |= {missing_key(path, ast.unparse(load.slice))}
        self._block(node.body)
        for handler in node.handlers:
            is_lookup = handler.type is not None and "KeyError" in ast.unparse(handler.type)
            self._conditional(Value(varies=True), facts if is_lookup else frozenset(), handler.body)
        self._block(node.orelse)
        self._block(node.finalbody)

    def _any(self, node: ast.AST) -> None:
        """A statement that assigns nothing itself, such as `return`, `try` or `match`."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._statement(child)
            elif isinstance(child, ast.expr):
                self._value(child)
            else:
                self._any(child)

    def _if(self, node: ast.If) -> None:
        test = self._value(node.test)
        before = self._names
        branches = []
        for body, holds in ((node.body, True), (node.orelse, False)):
            self._names = dict(before)
            self._conditional(test, self._facts(node.test, holds), body)
            branches.append(self._names)
        self._names = {**branches[1], **branches[0]}
        for name in branches[0].keys() & branches[1].keys():
            one, other = branches[0][name], branches[1][name]
            self._names[name] = Value(
                one.varies or other.varies,
                one.needs | other.needs,
                one.path if one.path is not None else other.path,
            )
        # `if not self.training: return` guards all that follows in the block.
        for body, holds in ((node.body, False), (node.orelse, True)):
            if body and isinstance(body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break)):
                self._guard(test, self._facts(node.test, holds))

    def _conditional(self, test: Value, facts: Guards, body: Iterable[ast.stmt]) -> None:
        guards, needs = self._guards, self._needs
        self._guard(test, facts)
        self._block(body)
        self._guards, self._needs = guards, needs

    def _guard(self, test: Value, facts: Guards) -> None:
        self._guards |= facts
        self._needs |= test.needs
        if test.varies:
            self._guards -= {ALWAYS}

    def _facts(self, test: ast.expr, holds: bool) -> Guards:
        """What is known where a condition holds, or where it does not."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self._facts(test.operand, not holds)
        if isinstance(test, ast.BoolOp):
            each = [self._facts(value, holds) for value in test.values]
            # All of `a and b` holds, and none of `a or b` does where that is false.
            if isinstance(test.op, ast.And) == holds:
                return frozenset().union(*each)
            return each[0].intersection(*each[1:])
        if isinstance(test, ast.Compare):
            return self._facts_of_comparison(test, holds)
        if isinstance(test, ast.Call):
            name = ast.unparse(test.func)
            if holds and "uninitialized" in ast.unparse(test).lower():
                return frozenset({UNINITIALIZED})
            if name == "hasattr" and not holds and self._path(test.args[0]) is not None:
                owner = self._path(test.args[0]) or ()
                return frozenset({MISSING + ".".join([*owner, key_of(test.args[1])])})
        elif path := self._path(test):
            if holds and path[-1] == "training":
                return frozenset({TRAINING})
            if holds and path[-1] in ("cached", "cache"):
                return frozenset({CACHED})
            if not holds:
                return frozenset({MISSING + ".".join(path)})
        return frozenset()

    def _facts_of_comparison(self, test: ast.Compare, holds: bool) -> Guards:
        """The same of `self.a is None`, `key not in self.a`, and `self.a.get(key) is None`."""
        operator, right = test.ops[0], test.comparators[0]
        if isinstance(operator, (ast.In, ast.NotIn)):
            path = self._path(right)
            if path and isinstance(operator, ast.NotIn) == holds:
                return frozenset({missing_key(path, ast.unparse(test.left))})
        elif ast.unparse(right) == "None" and isinstance(operator, (ast.Is, ast.Eq)) == holds:
            path, lookup = self._path(test.left), self._made_from(test.left).lookup
            if lookup:
                return frozenset({missing_key(*lookup)})
            if path:
                return frozenset({MISSING + ".".join(path)})
        return frozenset()

    def _augment(self, node: ast.AugAssign) -> None:
        value = self._value(node.value)
        if isinstance(node.target, ast.Name):
            old = self._names.get(node.target.id, Value())
            self._names[node.target.id] = Value(
                old.varies or value.varies, old.needs | value.needs, old.path
            )
            return
        path = self._path(node.target)
        self._indices(node.target)
        if path:
            self.notes.reads.append((path, node.lineno, self._guards))
            # The new value depends on the old one: an update can get lost.
            self._write(path, node.target, "augmented assignment", Value(varies=True), "")
