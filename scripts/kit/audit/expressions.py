"""What the expressions of a method do to `self`, and what their values are made from."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from kit.audit.classes import Function, Module, Program
from kit.audit.notes import ALWAYS, Guards, Notes, Path, RawWrite, Reference, Value

# What `propagate` calls; it can be generated from a template, out of sight.
_HOOKS = {
    "propagate": ("message", "aggregate", "update", "message_and_aggregate", "edge_update"),
    "edge_updater": ("edge_update",),
}
_MUTATORS = re.compile(r"(append|extend|add|update|pop|clear|insert|remove|setdefault|popitem)$")
# What gives a view of the same memory, or an object's own parts.
_VIEWS = re.compile(r"(detach|view|t|transpose|squeeze|unsqueeze|narrow|select|expand|permute)$")
_PARTS = {"modules", "children", "parameters", "buffers", "values"}
_NAMED_PARTS = {f"named_{name}" for name in _PARTS} | {"items"}
# Calls that give every thread the same value for the same arguments.
_PURE = re.compile(r"(len|int|float|bool|str|tuple|list|dict|set|min|max|abs|sum|range|sorted)$")
_RANDOM = re.compile(r"rand|normal|uniform|bernoulli|multinomial|dropout|empty|time|seed|uuid")

NONE: Mapping[str, Path] = MappingProxyType({})


class Expressions:
    """Looks at expressions, and at what is assigned to."""

    def __init__(
        self,
        program: Program | None,
        module: Module,
        function: Function,
        shared: int | None = 0,
        others: Mapping[str, Path] = NONE,
    ) -> None:
        self.notes = Notes()
        self._program = program
        self._module = module
        arguments = function.args
        names = [*arguments.posonlyargs, *arguments.args]
        further = [*arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        every = [argument.arg for argument in (*names, *further) if argument]
        self._names = {name: Value(varies=True) for name in every}
        self._names.update({name: Value(path=path) for name, path in others.items()})
        if shared is not None:
            self._names[names[shared].arg] = Value(path=())
        self._guards: Guards = frozenset({ALWAYS})
        self._needs: frozenset[str] = frozenset()

    def _refer(self, name: str) -> None:
        for reached in (name, *_HOOKS.get(name, ())):
            self.notes.references.append(Reference(reached, self._guards))

    def _path(self, node: ast.expr) -> Path | None:
        """Of which attribute of `self` an expression is another name, or a part."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, Value()).path
        if isinstance(node, ast.Attribute):
            path = self._path(node.value)
            return path if path is None or node.attr in ("data", "T") else (*path, node.attr)
        if isinstance(node, ast.Subscript):
            path = self._path(node.value)
            if path and path[-1] == "__dict__":
                return (*path[:-1], key_of(node.slice))
            return path or None
        if isinstance(node, ast.NamedExpr):
            return self._path(node.value)
        if isinstance(node, ast.IfExp):
            return self._path(node.body) or self._path(node.orelse)
        if isinstance(node, ast.BoolOp):
            return self._path(node.values[0])
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and _VIEWS.match(node.func.attr):
                return self._path(node.func.value) or None
            name = ast.unparse(node.func)
            if name == "getattr" and len(node.args) > 1:
                path = self._path(node.args[0])
                return None if path is None else (*path, key_of(node.args[1]))
            if name in ("type", "vars") and len(node.args) == 1:
                path = self._path(node.args[0])
                attr = "__class__" if name == "type" else "__dict__"
                return None if path is None else (*path, attr)
        return None

    def _indices(self, node: ast.expr) -> None:
        """Reads what a chain such as `self.x[f(y)].z` has in brackets, not the chain itself."""
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
            if isinstance(node, ast.Subscript):
                self._value(node.slice)
            if isinstance(node, ast.Call):
                for argument in node.args:
                    self._value(argument)
                node = node.func
            else:
                node = node.value
        if not isinstance(node, ast.Name):
            self._value(node)

    def _value(self, node: ast.expr, is_used: bool = True) -> Value:
        """Notes what an expression reads, calls and changes, and says what it is made from."""
        return self._evaluate(node, is_used)

    def _made_from(self, node: ast.expr) -> Value:
        """What an expression is made from. What it does is noted where it stands itself."""
        notes, self.notes = self.notes, Notes()
        try:
            return self._value(node)
        finally:
            self.notes = notes

    def _evaluate(self, node: ast.expr, is_used: bool) -> Value:
        if isinstance(node, ast.Name):
            return self._names.get(node.id, Value())
        if isinstance(node, ast.NamedExpr):
            value = self._value(node.value)
            self._assign(node.target, value, node.value)
            return value
        if isinstance(node, ast.Call):
            return self._call(node, is_used)
        path = self._path(node)
        if path and isinstance(node, (ast.Attribute, ast.Subscript)):
            self.notes.reads.append((path, node.lineno, self._guards))
            self._refer(path[0])
            self._indices(node)
            inner = [self._made_from(n.slice) for n in _subscripts(node)]
            needs = frozenset({path[0], ".".join(path)}).union(*(v.needs for v in inner))
            return Value(any(v.varies for v in inner), needs, path)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("super("):
            self.notes.references.append(Reference(node.attr, self._guards, is_super=True))
            return Value(varies=True)
        if isinstance(node, ast.Lambda):
            names = dict(self._names)
            self._hide(node.args)
            self._value(node.body)
            self._names = names
            return Value(varies=True)
        names = dict(self._names)
        for generator in getattr(node, "generators", []):
            self._bind_parts(generator.target, generator.iter)
        parts: list[Value] = []
        self._collect(node, parts)
        if hasattr(node, "generators"):
            self._names = names
        return replace(_combine(parts), path=path)

    def _collect(self, node: ast.AST, parts: list[Value]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                parts.append(self._value(child))
            else:  # keyword, comprehension
                self._collect(child, parts)

    def _call(self, node: ast.Call, is_used: bool) -> Value:
        function = node.func
        name = ast.unparse(function)
        short = name.split(".")[-1]
        first = self._path(node.args[0]) if node.args else None
        if short in ("setattr", "__setattr__", "delattr", "__delattr__") and first is not None:
            value = _combine([self._value(argument) for argument in node.args[2:]])
            how = "del" if "del" in short else "setattr"
            text = ast.unparse(node.args[2]) if node.args[2:] else ""
            self._write((*first, key_of(node.args[1])), node, how, value, text)
            return Value()
        owner = self._path(function.value) if isinstance(function, ast.Attribute) else None
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        value = _combine([self._value(argument) for argument in arguments])
        if owner and (_MUTATORS.match(short) or is_in_place(short)):
            return self._change(node, short, owner, value, is_used)
        self._call_that_writes(node, name, owner, first, value)
        self._helper(node, name)
        callee = Value()
        if owner is not None or not isinstance(function, ast.Name):
            callee = self._value(function)
        if isinstance(function, ast.Attribute) and first == () and owner is None:
            base = ast.unparse(function.value)
            self.notes.references.append(Reference(short, self._guards, base=base))
        made = _combine([value, callee])
        varies = made.varies or not self._is_pure(node, owner)
        lookup = None
        if owner and short == "get" and node.args:
            lookup = (owner, ast.unparse(node.args[0]))
        return replace(made, varies=varies, path=self._path(node), lookup=lookup)

    def _change(
        self, node: ast.Call, short: str, owner: Path, value: Value, is_used: bool
    ) -> Value:
        """A method that changes its object, which `self` holds."""
        function = node.func
        assert isinstance(function, ast.Attribute)
        self._indices(function.value)
        if is_used and short != "add":
            self.notes.reads.append((owner, node.lineno, self._guards))
        if short in ("pop", "popitem", "remove", "add_", "sub_", "mul_", "div_"):
            value = Value(varies=True)
        text = short + ast.unparse(node).partition(short)[2]
        self._write(owner, node, "in-place change", value, text)
        self._helper(node, ast.unparse(function))
        return replace(Value(value.varies, value.needs | {owner[0]}), path=owner)

    def _call_that_writes(
        self, node: ast.Call, name: str, owner: Path | None, first: Path | None, value: Value
    ) -> None:
        """A call that writes an attribute by its name, or what it is given."""
        short = name.split(".")[-1]
        text = ast.unparse(node).partition(short)[2]
        if short in ("__setattr__", "__delattr__") and node.args:
            how = "del" if "del" in short else "setattr"
            holder = () if name.startswith("super(") else owner
            if holder is not None:
                self._write((*holder, key_of(node.args[0])), node, how, value, text)
        elif owner is not None and re.match(r"register_(buffer|parameter|module)$", short):
            self._write((*owner, key_of(node.args[0])), node, "setattr", value, text)
        elif first and is_in_place(short) and name.split(".")[0] not in self._names:
            self._write(first, node, "in-place change", Value(varies=True), text)
        for keyword in node.keywords:
            if keyword.arg == "out":
                path = self._path(keyword.value)
                self._write(path, keyword.value, "in-place change", value, text)
        if owner == () and re.match(r"register_forward_pre_hook$", short):
            paths = [self._path(argument) for argument in node.args]
            self.notes.pre_hooks |= {path[0] for path in paths if path}

    def _is_pure(self, node: ast.Call, owner: Path | None) -> bool:
        """Whether a call gives the same value to every thread that gives the same arguments."""
        name = ast.unparse(node.func)
        if _RANDOM.search(name):
            return False
        if isinstance(node.func, ast.Name):
            return _PURE.match(name) is not None
        # `self.weight.norm()` and `torch.zeros(2)` are; `self.encode()` need not be.
        return bool(owner) or name.split(".")[0] in ("torch", "math")

    def _helper(self, node: ast.Call, name: str) -> None:
        """Notes what a function does to `self`, or to what `self` holds, if it is given that."""
        shared = [(i, self._path(argument)) for i, argument in enumerate(node.args)]
        shared = [(i, path) for i, path in shared if path is not None]
        if not shared or not re.fullmatch(r"[\w.]+", name) or name.startswith("super"):
            return
        # One call deep is enough: a function that is looked into looks into no other.
        called = self._program.resolve(self._module, name) if self._program else None
        if not isinstance(called, Function):
            return
        for i, path in shared:
            if path is not None and i < len(called.args.args):
                for write in type(self)(None, self._module, called, i).notes.writes:
                    target = (*path, *write.path)
                    self._write(target, node, "in-place change", Value(varies=True), "")
                    if target:
                        self.notes.writes[-1] = replace(self.notes.writes[-1], through=name)

    # Targets.

    def _assign(self, target: ast.expr, value: Value, source: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._names[target.id] = value
        elif isinstance(target, ast.Starred):
            self._assign(target.value, replace(value, path=None), source)
        elif isinstance(target, (ast.Tuple, ast.List)):
            if isinstance(source, (ast.Tuple, ast.List)) and len(source.elts) == len(target.elts):
                pairs = list(zip(target.elts, source.elts, strict=True))
                # All of the right side comes before any of the left.
                values = [self._made_from(item) for _, item in pairs]
                for (item, part), made in zip(pairs, values, strict=True):
                    self._assign(item, made, part)
            else:
                for i, item in enumerate(target.elts):
                    text = ast.Subscript(source, ast.Constant(i), ast.Load())
                    self._assign(item, value, ast.copy_location(text, source))
        else:
            self._store(target, value, ast.unparse(source), "assignment")

    def _store(self, target: ast.expr, value: Value, text: str, how: str) -> None:
        if isinstance(target, ast.Name):  # `del name`
            return
        path = self._path(target)
        self._indices(target)
        key = ""
        if isinstance(target, ast.Subscript):
            key = ast.unparse(target.slice)
            is_dict = (self._path(target.value) or ("",))[-1] == "__dict__"
            index = self._made_from(target.slice)
            value = Value(value.varies or index.varies, value.needs | index.needs)
            text = f"[{ast.unparse(target.slice)}] {text}"
            if how == "assignment":
                how = "setattr" if is_dict else "in-place change"
        elif isinstance(target, ast.Attribute) and target.attr == "data":
            how = "in-place change"
        self._write(path, target, how, value, text, key)

    def _write(
        self,
        path: Path | None,
        node: ast.expr,
        how: str,
        value: Value,
        text: str,
        key: str = "",
    ) -> None:
        if not path:
            return
        if len(path) == 1 and how == "assignment":
            self.notes.references.append(Reference(f"{path[0]}.setter", self._guards))
        needs = value.needs | self._needs
        # A local name may stand for something else elsewhere.
        local = any(name in self._names for name in re.findall(r"(?<![.\w])\w+", text))
        text = f"{text} in line {node.lineno}" if local and "self." not in text else text
        self.notes.writes.append(
            RawWrite(
                path,
                node.lineno,
                how,
                self._guards,
                Value(value.varies, needs),
                text,
                key,
                value.needs,
            )
        )

    def _bind_parts(self, target: ast.expr, source: ast.expr) -> None:
        """Binds the names of a `for`: what `self` holds is shared, its parts as well."""
        call = source if isinstance(source, ast.Call) else None
        name = ast.unparse(call.func).split(".")[-1] if call else ""
        names = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
        if call and call.args and name in ("enumerate", "zip") and len(names) > 1:
            inner = names[1:] if name == "enumerate" else names
            self._assign(names[0], self._value(source), source)
            for item, part in zip(inner, call.args, strict=False):
                self._bind_parts(item, part)
            return
        holder: ast.expr = source
        if call and isinstance(call.func, ast.Attribute) and name in _PARTS | _NAMED_PARTS:
            holder = call.func.value
        elif call and call.args and name in ("reversed", "list", "tuple", "sorted"):
            holder = call.args[0]
        value = replace(self._made_from(source), path=self._path(holder))
        if names and name in _NAMED_PARTS:
            self._assign(names[0], replace(value, path=None), source)
            target = names[1]
        self._assign(target, value, source)

    def _hide(self, arguments: ast.arguments) -> None:
        """Takes the arguments of a nested function for arguments of the call."""
        for argument in ast.walk(arguments):
            if isinstance(argument, ast.arg):
                self._names[argument.arg] = Value(varies=True)


def _subscripts(node: ast.expr) -> Iterator[ast.Subscript]:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Subscript):
            yield node
        node = node.value


def _combine(parts: Iterable[Value]) -> Value:
    values = list(parts)
    needs = frozenset[str]().union(*(value.needs for value in values))
    return Value(any(value.varies for value in values), needs)


def key_of(node: ast.expr) -> str:
    """The name of an attribute that is given as a value."""
    is_constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(ast.literal_eval(node)) if is_constant else f"<{ast.unparse(node)}>"


def is_in_place(name: str) -> bool:
    """Whether a method or function of torch changes its tensor, by its name."""
    return re.fullmatch(r"[a-z]\w*[a-z0-9]_", name) is not None
