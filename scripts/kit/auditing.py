"""Finds the writes to `self` that a forward pass can reach, and classes them.

Nothing is imported or run: the analysis reads the syntax trees alone. A thread that
shares a layer with another one can see whatever such a write leaves behind.

Three passes. `_Scan` reads one method and lists what it does to `self`: writes, reads,
references to other methods, each with the guards that it stands under. `_View` takes a
class with the methods of all its bases, and walks from `forward` along the references.
`_classify` gives a reached write its kind.
"""

import ast
import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from kit import releases
from kit.errors import TreeError

TABLE = Path(__file__).with_name("audit.toml")
# How the reason begins where a person has decided.
REVIEWED = "Reviewed: "


class Kind(enum.Enum):
    """What a write means to threads that share the object; the worst comes first."""

    RACE = "race"
    UNREAD = "left for the caller"
    BENIGN = "benign race"
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


@dataclass(frozen=True)
class Reviewed:
    """A write that a person has classed, in `audit.toml`; it overrides the rules."""

    cls: str
    attribute: str
    kind: Kind
    reason: str


# The names of bases that make a class a module where their source is not at hand.
_MODULE_BASES = {"Module", "MessagePassing", "Aggregation", "LightningModule"}
# What runs a forward pass: an autoencoder is run as `encode` and `decode`.
_ENTRIES = ("forward", "__call__", "encode", "decode", "inference", "predict", "predict_step")
# Public methods that prepare a module rather than run it.
_PREPARES = re.compile(
    r"reset|register|set_|load|save|from_|to(_|$)|train|eval$|jittable|extra_repr|apply$|detach$"
)
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

_ALWAYS = "always"  # no condition on the way depends on the call
_TRAINING = "training"
_CACHED = "cached"
_HOOK = "hook"  # a forward pre-hook that removes itself
_UNINITIALIZED = "uninitialized"
_MISSING = "missing "  # and the attribute that is checked for being there

_Path = tuple[str, ...]
_Guards = frozenset[str]
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def load_reviewed() -> tuple[Reviewed, ...]:
    """Reads `audit.toml`."""
    return tuple(
        Reviewed(entry["class"], entry["attribute"], Kind(entry["kind"]), entry["reason"])
        for entry in releases.read_toml(TABLE).get("reviewed", [])
    )


def unused(reviewed: Iterable[Reviewed], writes: Iterable[Write]) -> list[Reviewed]:
    """The entries of the table that none of the writes bears out."""
    found = {(write.cls, name) for write in writes for name in (write.attribute, "*")}
    return [entry for entry in reviewed if (entry.cls, entry.attribute) not in found]


def audit_tree(root: Path, package: str = "torch_geometric/nn") -> list[Write]:
    """Audits the modules of PyG.

    Args:
        root: The directory that holds `torch_geometric/`.
        package: The part of it to audit.

    Raises:
        TreeError: If there is no PyG, or a file of it does not parse.
    """
    files = sorted((root / package).rglob("*.py"))
    if not files:
        raise TreeError(f"{root / package} holds no Python files: expected a part of PyG there.")
    return audit_files(root, files)


def audit_files(root: Path, files: Iterable[Path]) -> list[Write]:
    """Audits the modules in some files, such as a user's own models.

    Args:
        root: The directory that holds `torch_geometric/`, where bases are looked up.
        files: What to audit.

    Raises:
        TreeError: If there is no PyG, or a file does not parse.
    """
    if not (root / releases.VERSION_FILE).is_file():
        raise TreeError(
            f"{root} holds no PyG: expected a directory with {releases.VERSION_FILE} in it, "
            f"such as a checkout, an unpacked sdist, or site-packages."
        )
    program = _Program(root)
    modules = [program.add(file) for file in files]
    worst: dict[tuple[str, str, str, int], Write] = {}
    reviewed = {(entry.cls, entry.attribute): entry for entry in load_reviewed()}
    order = list(Kind)
    for cls in (cls for module in modules for cls in module.classes):
        mro = program.mro(cls)
        if not program.is_module(mro):
            continue
        for write in _View(program, mro).writes():
            entry = reviewed.get((write.cls, write.attribute), reviewed.get((write.cls, "*")))
            if entry and write.module.startswith("torch_geometric."):
                reason = REVIEWED + entry.reason
                write = replace(write, kind=entry.kind, reason=reason)
            key = (write.file, write.cls, write.attribute, write.line)
            other = worst.get(key, write)
            reads = tuple(sorted({*write.reads, *other.reads}))
            chosen = min(other, write, key=lambda w: order.index(w.kind))
            worst[key] = replace(chosen, reads=reads)
    audited = {module.file for module in modules}
    return [write for _, write in sorted(worst.items()) if write.file in audited]


# Files, names and classes ---------------------------------------------------------------


@dataclass(eq=False)
class _Class:
    module: "_Module"
    node: ast.ClassDef
    # By name; a setter is `name.setter`.
    methods: dict[str, _Function] = field(default_factory=dict)


@dataclass(eq=False)
class _Module:
    name: str
    file: str
    classes: list[_Class] = field(default_factory=list)
    functions: dict[str, _Function] = field(default_factory=dict)
    # What a name stands for, with dots, and the modules imported with a star.
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)


class _Program:
    """The files that are audited, and those of PyG that they import."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, _Module | None] = {}
        self._scans: dict[int, _Scan] = {}

    def add(self, file: Path) -> _Module:
        """Reads a file; its module is named after its place in its package."""
        if file.is_relative_to(self.root):
            parts = list(file.relative_to(self.root).with_suffix("").parts)
        else:
            parts = [file.stem]
            for directory in file.parents:
                if not (directory / "__init__.py").exists():
                    break
                parts.insert(0, directory.name)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        known = self._modules.get(name)
        return known if known is not None else self._read(name, file)

    def _read(self, name: str, file: Path) -> _Module:
        try:
            tree = ast.parse(file.read_bytes(), filename=str(file))
        except OSError as error:
            raise TreeError(
                f"{file} cannot be read ({error.strerror}). Expected a readable file there."
            ) from None
        except (SyntaxError, ValueError) as error:
            raise TreeError(
                f"{file} does not parse ({error}). Expected Python that this interpreter can "
                f"read: repair the file, or leave it out."
            ) from None
        inside = file.is_relative_to(self.root)
        shown = file.relative_to(self.root) if inside else file
        module = self._modules[name] = _Module(name, shown.as_posix())
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in _top_level(tree.body):
            _note(module, node, package)
        return module

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            self._modules[name] = None
            path = self.root.joinpath(*name.split("."))
            candidates = (path / "__init__.py", path.with_suffix(".py"))
            # Only PyG: beside it in site-packages lies torch, which is not audited.
            if name.split(".")[0] == "torch_geometric":
                for file in candidates:
                    if file.is_file():
                        return self._read(name, file)
        return self._modules[name]

    def resolve(self, module: _Module, name: str, seen: _Path = ()) -> _Class | _Function | str:
        """What a dotted name in a module stands for; itself, in full, where that is not known."""
        head, _, rest = name.partition(".")
        if f"{module.name}:{name}" in seen:
            return name
        seen = (*seen, f"{module.name}:{name}")
        if not rest:
            for cls in reversed(module.classes):
                if cls.node.name == head:
                    return cls
            if head in module.functions:
                return module.functions[head]
        if head in module.imports:
            full = f"{module.imports[head]}.{rest}" if rest else module.imports[head]
            parts = full.split(".")
            for length in range(len(parts) - 1, 0, -1):
                target = self._module(".".join(parts[:length]))
                if target is not None:
                    found = self.resolve(target, ".".join(parts[length:]), seen)
                    return full if isinstance(found, str) else found
            return full
        for star in module.stars:
            target = self._module(star)
            found = self.resolve(target, name, seen) if target else name
            if not isinstance(found, str):
                return found
        return name

    def mro(self, cls: _Class) -> list["_Class | str"]:
        """A class and its bases in the order of lookup; those not at hand by their names."""
        order: list[_Class | str] = [cls]
        for base in cls.node.bases:
            found = self.resolve(cls.module, ast.unparse(base).split("[")[0])
            if found is cls or isinstance(found, _Function):
                continue
            order += self.mro(found) if isinstance(found, _Class) else [found]
        # Of a base that several paths lead to, the last mention counts.
        return [base for i, base in enumerate(order) if base not in order[i + 1 :]]

    def is_module(self, mro: list["_Class | str"]) -> bool:
        """Whether a class derives from `torch.nn.Module`."""
        names = [base for base in mro if isinstance(base, str)]
        return any(
            name.split(".")[-1] in _MODULE_BASES or name.startswith("torch.nn.") for name in names
        )

    def scan(self, module: _Module, function: _Function) -> "_Scan":
        """What a method does; scanned once, however many classes inherit it."""
        if id(function) not in self._scans:
            self._scans[id(function)] = _Scan(self, module, function)
        return self._scans[id(function)]


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if`, `try` and `with` included."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            for name in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from _top_level(handler.body)


def _note(module: _Module, node: ast.stmt, package: str) -> None:
    if isinstance(node, ast.ClassDef):
        cls = _Class(module, node)
        for item in _top_level(node.body):
            if isinstance(item, _Function):
                decorators = {ast.unparse(decorator) for decorator in item.decorator_list}
                name = item.name
                for accessor in ("setter", "deleter"):
                    if f"{name}.{accessor}" in decorators:
                        name = f"{name}.{accessor}"
                if "staticmethod" not in decorators and (item.args.posonlyargs or item.args.args):
                    cls.methods[name] = item
            elif isinstance(item, ast.Assign) and isinstance(item.value, ast.Name):
                for target in item.targets:
                    if isinstance(target, ast.Name) and item.value.id in cls.methods:
                        cls.methods[target.id] = cls.methods[item.value.id]
        module.classes.append(cls)
    elif isinstance(node, _Function):
        module.functions[node.name] = node
    elif isinstance(node, ast.Import):
        for alias in node.names:
            head = alias.name if alias.asname else alias.name.split(".")[0]
            module.imports[alias.asname or head] = head
    elif isinstance(node, ast.ImportFrom):
        parents = package.split(".")
        start = parents[: len(parents) - node.level + 1] if node.level else []
        source = ".".join([*start, *([node.module] if node.module else [])])
        for alias in node.names:
            if alias.name == "*":
                module.stars.append(source)
            else:
                module.imports[alias.asname or alias.name] = f"{source}.{alias.name}"


# One method -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """What an expression is made from.

    Attributes:
        varies: Whether it depends on an argument of the call.
        needs: The attributes of `self` that it depends on.
        path: Of which attribute of `self` it is another name.
    """

    varies: bool = False
    needs: frozenset[str] = frozenset()
    path: _Path | None = None


@dataclass(frozen=True)
class _RawWrite:
    path: _Path
    line: int
    how: str
    guards: _Guards
    value: _Value
    # Writes of the same text write the same, if nothing in it varies.
    text: str
    # The function that does it, where that is not the method itself.
    through: str = ""


@dataclass(frozen=True)
class _Reference:
    """A method that is called or handed on: `self.name`, `super().name` or `base.name`."""

    name: str
    guards: _Guards
    base: str | None = None
    is_super: bool = False


class _Scan:
    """Everything that one method does to `self`, in the order of its statements."""

    def __init__(
        self, program: _Program | None, module: _Module, function: _Function, shared: int = 0
    ) -> None:
        self.writes: list[_RawWrite] = []
        self.reads: list[tuple[_Path, int, _Guards]] = []
        self.references: list[_Reference] = []
        self.pre_hooks: set[str] = set()
        self._program = program
        self._module = module
        arguments = function.args
        names = [*arguments.posonlyargs, *arguments.args]
        others = [*arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        every = [argument.arg for argument in (*names, *others) if argument]
        self._names = {name: _Value(varies=True) for name in every}
        self._names[names[shared].arg] = _Value(path=())
        self._guards: _Guards = frozenset({_ALWAYS})
        self._needs: frozenset[str] = frozenset()
        self._block(function.body)

    # Statements.

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
                self._store(target, _Value(), "", "del")
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
        elif isinstance(node, _Function):
            # A nested function counts as a part of the method.
            names = dict(self._names)
            self._hide(node.args)
            self._block(node.body)
            self._names = {**names, node.name: _Value(varies=True)}
        elif isinstance(node, ast.Expr):
            self._value(node.value, is_used=False)
        else:
            self._any(node)

    def _hide(self, arguments: ast.arguments) -> None:
        """Takes the arguments of a nested function for arguments of the call."""
        for argument in ast.walk(arguments):
            if isinstance(argument, ast.arg):
                self._names[argument.arg] = _Value(varies=True)

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
            self._names[name] = _Value(
                one.varies or other.varies,
                one.needs | other.needs,
                one.path if one.path is not None else other.path,
            )
        # `if not self.training: return` guards all that follows in the block.
        for body, holds in ((node.body, False), (node.orelse, True)):
            if body and isinstance(body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break)):
                self._guard(test, self._facts(node.test, holds))

    def _conditional(self, test: _Value, facts: _Guards, body: Iterable[ast.stmt]) -> None:
        guards, needs = self._guards, self._needs
        self._guard(test, facts)
        self._block(body)
        self._guards, self._needs = guards, needs

    def _guard(self, test: _Value, facts: _Guards) -> None:
        self._guards |= facts
        self._needs |= test.needs
        if test.varies:
            self._guards -= {_ALWAYS}

    def _facts(self, test: ast.expr, holds: bool) -> _Guards:
        """What is known where a condition holds, or where it does not."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self._facts(test.operand, not holds)
        if isinstance(test, ast.BoolOp):
            each = [self._facts(value, holds) for value in test.values]
            # All of `a and b` holds, and none of `a or b` does where that is false.
            if isinstance(test.op, ast.And) == holds:
                return frozenset().union(*each)
            return each[0].intersection(*each[1:])
        if isinstance(test, ast.Compare) and ast.unparse(test.comparators[0]) == "None":
            path = self._path(test.left)
            if path and isinstance(test.ops[0], (ast.Is, ast.Eq)) == holds:
                return frozenset({_MISSING + ".".join(path)})
        elif isinstance(test, ast.Call):
            name = ast.unparse(test.func)
            if holds and "uninitialized" in ast.unparse(test).lower():
                return frozenset({_UNINITIALIZED})
            if name == "hasattr" and not holds and self._path(test.args[0]) is not None:
                owner = self._path(test.args[0]) or ()
                return frozenset({_MISSING + ".".join([*owner, _key(test.args[1])])})
        elif path := self._path(test):
            if holds and path[-1] == "training":
                return frozenset({_TRAINING})
            if holds and path[-1] in ("cached", "cache"):
                return frozenset({_CACHED})
            if not holds:
                return frozenset({_MISSING + ".".join(path)})
        return frozenset()

    # Targets.

    def _assign(self, target: ast.expr, value: _Value, source: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._names[target.id] = value
        elif isinstance(target, ast.Starred):
            self._assign(target.value, replace(value, path=None), source)
        elif isinstance(target, (ast.Tuple, ast.List)):
            if isinstance(source, (ast.Tuple, ast.List)) and len(source.elts) == len(target.elts):
                pairs = list(zip(target.elts, source.elts, strict=True))
                # All of the right side comes before any of the left.
                values = [self._value(item, is_read=False) for _, item in pairs]
                for (item, part), found in zip(pairs, values, strict=True):
                    self._assign(item, found, part)
            else:
                for i, item in enumerate(target.elts):
                    text = ast.Subscript(source, ast.Constant(i), ast.Load())
                    self._assign(item, value, ast.copy_location(text, source))
        else:
            self._store(target, value, ast.unparse(source), "assignment")

    def _store(self, target: ast.expr, value: _Value, text: str, how: str) -> None:
        if isinstance(target, ast.Name):  # `del name`
            return
        path = self._path(target)
        self._indices(target)
        if isinstance(target, ast.Subscript):
            is_dict = (self._path(target.value) or ("",))[-1] == "__dict__"
            index = self._value(target.slice, is_read=False)
            value = _Value(value.varies or index.varies, value.needs | index.needs)
            text = f"[{ast.unparse(target.slice)}] {text}"
            if how == "assignment":
                how = "setattr" if is_dict else "in-place change"
        elif isinstance(target, ast.Attribute) and target.attr == "data":
            how = "in-place change"
        self._write(path, target, how, value, text)

    def _write(
        self, path: _Path | None, node: ast.expr, how: str, value: _Value, text: str
    ) -> None:
        if not path:
            return
        if len(path) == 1 and how == "assignment":
            self.references.append(_Reference(f"{path[0]}.setter", self._guards))
        needs = value.needs | self._needs
        # A local name may stand for something else elsewhere.
        local = any(name in self._names for name in re.findall(r"(?<![.\w])\w+", text))
        text = f"{text} in line {node.lineno}" if local and "self." not in text else text
        self.writes.append(
            _RawWrite(path, node.lineno, how, self._guards, _Value(value.varies, needs), text)
        )

    def _augment(self, node: ast.AugAssign) -> None:
        value = self._value(node.value)
        if isinstance(node.target, ast.Name):
            old = self._names.get(node.target.id, _Value())
            self._names[node.target.id] = _Value(
                old.varies or value.varies, old.needs | value.needs, old.path
            )
            return
        path = self._path(node.target)
        self._indices(node.target)
        if path:
            self.reads.append((path, node.lineno, self._guards))
            # The new value depends on the old one: an update can get lost.
            self._write(path, node.target, "augmented assignment", _Value(varies=True), "")

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
        value = replace(self._value(source, is_read=False), path=self._path(holder))
        if names and name in _NAMED_PARTS:
            self._assign(names[0], replace(value, path=None), source)
            target = names[1]
        self._assign(target, value, source)

    # Expressions.

    def _path(self, node: ast.expr) -> _Path | None:
        """Of which attribute of `self` an expression is another name, or a part."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id, _Value()).path
        if isinstance(node, ast.Attribute):
            path = self._path(node.value)
            return path if path is None or node.attr in ("data", "T") else (*path, node.attr)
        if isinstance(node, ast.Subscript):
            path = self._path(node.value)
            if path and path[-1] == "__dict__":
                return (*path[:-1], _key(node.slice))
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
                return None if path is None else (*path, _key(node.args[1]))
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

    def _value(self, node: ast.expr, is_used: bool = True, is_read: bool = True) -> _Value:
        """Notes what an expression reads, calls and changes, and says what it is made from."""
        noted = (len(self.reads), len(self.references), len(self.writes))
        value = self._evaluate(node, is_used)
        if not is_read:  # It is noted already, or will be.
            del self.reads[noted[0] :], self.references[noted[1] :], self.writes[noted[2] :]
        return value

    def _evaluate(self, node: ast.expr, is_used: bool) -> _Value:
        if isinstance(node, ast.Name):
            return self._names.get(node.id, _Value())
        if isinstance(node, ast.NamedExpr):
            value = self._value(node.value)
            self._assign(node.target, value, node.value)
            return value
        if isinstance(node, ast.Call):
            return self._call(node, is_used)
        path = self._path(node)
        if path and isinstance(node, (ast.Attribute, ast.Subscript)):
            self.reads.append((path, node.lineno, self._guards))
            self._refer(path[0])
            self._indices(node)
            inner = [self._value(n.slice, is_read=False) for n in _subscripts(node)]
            needs = frozenset({path[0], ".".join(path)}).union(*(v.needs for v in inner))
            return _Value(any(v.varies for v in inner), needs, path)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("super("):
            self.references.append(_Reference(node.attr, self._guards, is_super=True))
            return _Value(varies=True)
        if isinstance(node, ast.Lambda):
            names = dict(self._names)
            self._hide(node.args)
            self._value(node.body)
            self._names = names
            return _Value(varies=True)
        names = dict(self._names)
        for generator in getattr(node, "generators", []):
            self._bind_parts(generator.target, generator.iter)
        parts: list[_Value] = []
        self._collect(node, parts)
        if hasattr(node, "generators"):
            self._names = names
        return replace(_combine(parts), path=path)

    def _collect(self, node: ast.AST, parts: list[_Value]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                parts.append(self._value(child))
            else:  # keyword, comprehension
                self._collect(child, parts)

    def _call(self, node: ast.Call, is_used: bool) -> _Value:
        function = node.func
        name = ast.unparse(function)
        short = name.split(".")[-1]
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        first = self._path(node.args[0]) if node.args else None
        if short in ("setattr", "__setattr__", "delattr", "__delattr__") and first is not None:
            value = _combine([self._value(argument) for argument in node.args[2:]])
            how = "del" if "del" in short else "setattr"
            text = ast.unparse(node.args[2]) if node.args[2:] else ""
            self._write((*first, _key(node.args[1])), node, how, value, text)
            return _Value()
        owner = self._path(function.value) if isinstance(function, ast.Attribute) else None
        parts = [self._value(argument) for argument in arguments]
        value = _combine(parts)
        text = ast.unparse(node).partition(short)[2]
        if short in ("__setattr__", "__delattr__") and node.args:
            how = "del" if "del" in short else "setattr"
            holder = () if name.startswith("super(") else owner
            if holder is not None:
                self._write((*holder, _key(node.args[0])), node, how, value, text)
        elif owner is not None and re.match(r"register_(buffer|parameter|module)$", short):
            self._write((*owner, _key(node.args[0])), node, "setattr", value, text)
        elif owner and (_MUTATORS.match(short) or _is_in_place(short)):
            assert isinstance(function, ast.Attribute)
            self._indices(function.value)
            if is_used and short != "add":
                self.reads.append((owner, node.lineno, self._guards))
            if short in ("pop", "popitem", "remove", "add_", "sub_", "mul_", "div_"):
                value = _Value(varies=True)
            self._write(owner, node, "in-place change", value, short + text)
            return replace(_Value(value.varies, value.needs | {owner[0]}), path=owner)
        elif first and _is_in_place(short) and name.split(".")[0] not in self._names:
            self._write(first, node, "in-place change", _Value(varies=True), text)
        for keyword in node.keywords:
            if keyword.arg == "out":
                self._write(
                    self._path(keyword.value), keyword.value, "in-place change", value, text
                )
        if owner == () and re.match(r"register_forward_pre_hook$", short):
            paths = [self._path(argument) for argument in node.args]
            self.pre_hooks |= {path[0] for path in paths if path}
        self._helper(node, name)
        callee = _Value()
        if owner is not None or not isinstance(function, ast.Name):
            callee = self._value(function)
        if isinstance(function, ast.Attribute) and first == () and owner is None:
            base = ast.unparse(function.value)
            self.references.append(_Reference(short, self._guards, base=base))
        found = _combine([value, callee])
        varies = found.varies or not self._is_pure(node, owner)
        return replace(found, varies=varies, path=self._path(node))

    def _is_pure(self, node: ast.Call, owner: _Path | None) -> bool:
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
        found = self._program.resolve(self._module, name) if self._program else None
        if not isinstance(found, _Function):
            return
        for i, path in shared:
            if path is not None and i < len(found.args.args):
                for write in _Scan(None, self._module, found, i).writes:
                    target = (*path, *write.path)
                    self._write(target, node, "in-place change", _Value(varies=True), "")
                    if target:
                        self.writes[-1] = replace(self.writes[-1], through=name)

    def _refer(self, name: str) -> None:
        for reached in (name, *_HOOKS.get(name, ())):
            self.references.append(_Reference(reached, self._guards))


def _subscripts(node: ast.expr) -> Iterator[ast.Subscript]:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Subscript):
            yield node
        node = node.value


def _combine(parts: Iterable[_Value]) -> _Value:
    values = list(parts)
    needs = frozenset[str]().union(*(value.needs for value in values))
    return _Value(any(value.varies for value in values), needs)


def _key(node: ast.expr) -> str:
    """The name of an attribute that is given as a value."""
    is_constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(ast.literal_eval(node)) if is_constant else f"<{ast.unparse(node)}>"


def _is_in_place(name: str) -> bool:
    return re.fullmatch(r"[a-z]\w*[a-z0-9]_", name) is not None


# One class ------------------------------------------------------------------------------


class _View:
    """A class with the methods of all its bases, and those that a forward pass reaches."""

    def __init__(self, program: _Program, mro: list[_Class | str]) -> None:
        self._program = program
        self._mro = [base for base in mro if isinstance(base, _Class)]
        # The guards that hold on every way to a method.
        self._reached: dict[tuple[int, str], _Guards] = {}
        # A forward pass can be torch's own, as of a subclass of `torch.nn.Linear`.
        plain = all(
            base.split(".")[-1] in _MODULE_BASES
            for base in mro
            if isinstance(base, str) and base.startswith("torch.nn.")
        )
        self._walk(plain)

    def _find(self, name: str, start: int = 0) -> tuple[int, str] | None:
        for i in range(start, len(self._mro)):
            if name in self._mro[i].methods:
                return i, name
        return None

    def _scan(self, method: tuple[int, str]) -> _Scan:
        cls = self._mro[method[0]]
        return self._program.scan(cls.module, cls.methods[method[1]])

    def _walk(self, plain: bool) -> None:
        always = frozenset({_ALWAYS})
        todo = [(found, always) for name in _ENTRIES if (found := self._find(name))]
        if not todo and plain and self._mro[0].node.name != "MessagePassing":
            # Without a forward pass, a module is run through its public methods.
            names = {name for base in self._mro for name in base.methods}
            public = [n for n in sorted(names) if not n.startswith("_") and not _PREPARES.match(n)]
            todo = [(found, always) for name in public if (found := self._find(name))]
        for i, base in enumerate(self._mro):
            hooks = {hook for name in base.methods for hook in self._scan((i, name)).pre_hooks}
            for hook in sorted(hooks):
                if found := self._find(hook):
                    removes = any("hook" in w.path[-1] for w in self._scan(found).writes)
                    todo.append((found, always | ({_HOOK} if removes else set())))
        while todo:
            method, guards = todo.pop()
            known = self._reached.get(method)
            if known is not None and known <= guards:
                continue
            self._reached[method] = guards if known is None else known & guards
            for reference in self._scan(method).references:
                found = self._follow(method[0], reference)
                if found:
                    passed = self._both(reference.guards, self._reached[method])
                    todo.append((found, passed))

    def _follow(self, owner: int, reference: _Reference) -> tuple[int, str] | None:
        start = 0
        if reference.is_super:
            start = owner + 1
        elif reference.base is not None:
            base = self._program.resolve(self._mro[owner].module, reference.base)
            if base not in self._mro:
                return None
            start = self._mro.index(base)
        return self._find(reference.name, start)

    @staticmethod
    def _both(inner: _Guards, outer: _Guards) -> _Guards:
        """The guards inside a method and on the way to it; `always` must be in both."""
        return (inner | outer) - (frozenset({_ALWAYS}) - (inner & outer))

    def writes(self) -> Iterator[Write]:
        """The writes that a forward pass of this class reaches."""
        raw = []
        reads = []
        for method, guards in self._reached.items():
            scan = self._scan(method)
            file = self._mro[method[0]].module.file
            for write in scan.writes:
                # What has a setter is written by the setter.
                if not (len(write.path) == 1 and self._find(f"{write.path[0]}.setter")):
                    raw.append((method, replace(write, guards=self._both(write.guards, guards))))
            reads += [
                (path, file, line, self._both(inner, guards)) for path, line, inner in scan.reads
            ]
        every = [write for _, write in raw]
        for (owner, name), write in raw:
            touching = [r for r in reads if r[0][: len(write.path)] == write.path]
            in_training = bool(touching) and all(_TRAINING in r[3] for r in touching)
            kind, reason = _classify(write, every, bool(touching), in_training)
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
            )


def _settled(write: _RawWrite, every: list[_RawWrite]) -> Kind | None:
    """The kind that the guards of a write give it by themselves."""
    if _TRAINING in write.guards:
        return Kind.TRAINING
    if _CACHED in write.guards:
        return Kind.CACHE
    if write.guards & {_HOOK, _UNINITIALIZED}:
        return Kind.LAZY
    for guard in write.guards:
        if guard.startswith(_MISSING):
            checked = [w for w in every if _MISSING + ".".join(w.path) == guard]
            same = [w for w in every if w.path == write.path]
            # Nothing that is written once more later, or that asks about something else, such
            # as `if self.bias is None`.
            if checked and all(guard in w.guards for w in (*checked, *same)):
                return Kind.LAZY
    return None


_REASONS = {
    Kind.TRAINING: "Only training writes it: it stands under `if self.training`.",
    Kind.CACHE: "Only a layer that was asked to cache writes it: it stands under `if self.cached`.",
    Kind.LAZY: "Only the first call writes it: it stands under a check that it is not there yet.",
}


def _classify(
    write: _RawWrite, every: list[_RawWrite], is_read: bool, in_training: bool
) -> tuple[Kind, str]:
    """The kind of a write among all that a forward pass reaches, and the reason."""
    kind = _settled(write, every)
    if kind is not None:
        return kind, _REASONS[kind]
    changed = {".".join(other.path) for other in every}
    alike = [w for w in every if w.path == write.path and _settled(w, every) is None]
    varies = any(
        w.value.varies or w.value.needs & changed or _ALWAYS not in w.guards for w in alike
    )
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
