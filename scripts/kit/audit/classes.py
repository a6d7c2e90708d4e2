"""The classes of some files, and of those of PyG that they import: syntax trees alone."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kit.errors import TreeError

# The names of bases that make a class a module where their source is not at hand.
MODULE_BASES = {"Module", "MessagePassing", "Aggregation", "LightningModule"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(eq=False)
class Class:
    """A class, and its methods."""

    module: "Module"
    node: ast.ClassDef
    # By name; a setter is `name.setter`.
    methods: dict[str, Function] = field(default_factory=dict)


@dataclass(eq=False)
class Module:
    """A file, and what its names stand for."""

    name: str
    file: str
    classes: list[Class] = field(default_factory=list)
    functions: dict[str, Function] = field(default_factory=dict)
    # What a name stands for, with dots, and the modules imported with a star.
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    tree: ast.Module = field(default_factory=lambda: ast.Module([], []))


class Program:
    """The files that are audited, and those of PyG that they import."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}

    def add(self, file: Path) -> Module:
        """Reads a file; its module is named after its place in its package."""
        if self.root is not None and file.is_relative_to(self.root):
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

    def _read(self, name: str, file: Path) -> Module:
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
        shown = file
        if self.root is not None and file.is_relative_to(self.root):
            shown = file.relative_to(self.root)
        module = self._modules[name] = Module(name, shown.as_posix(), tree=tree)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in _top_level(tree.body):
            _note(module, node, package)
        return module

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            self._modules[name] = None
            if self.root is None:
                return None
            path = self.root.joinpath(*name.split("."))
            candidates = (path / "__init__.py", path.with_suffix(".py"))
            # Only PyG: beside it in site-packages lies torch, which is not audited.
            if name.split(".")[0] == "torch_geometric":
                for file in candidates:
                    if file.is_file():
                        return self._read(name, file)
        return self._modules[name]

    def resolve(
        self, module: Module, name: str, visited: tuple[str, ...] = ()
    ) -> Class | Function | str:
        """What a dotted name in a module stands for; itself, in full, where that is not known."""
        head, _, rest = name.partition(".")
        if f"{module.name}:{name}" in visited:
            return name
        visited = (*visited, f"{module.name}:{name}")
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
                    resolved = self.resolve(target, ".".join(parts[length:]), visited)
                    return full if isinstance(resolved, str) else resolved
            return full
        for star in module.stars:
            target = self._module(star)
            resolved = self.resolve(target, name, visited) if target else name
            if not isinstance(resolved, str):
                return resolved
        return name

    def mro(self, cls: Class) -> list[Class | str]:
        """A class and its bases in the order of lookup; those not at hand by their names."""
        order: list[Class | str] = [cls]
        for base in cls.node.bases:
            resolved = self.resolve(cls.module, ast.unparse(base).split("[")[0])
            if resolved is cls or isinstance(resolved, Function):
                continue
            order += self.mro(resolved) if isinstance(resolved, Class) else [resolved]
        # Of a base that several paths lead to, the last mention counts.
        return [base for i, base in enumerate(order) if base not in order[i + 1 :]]

    def is_module(self, mro: list[Class | str]) -> bool:
        """Whether a class derives from `torch.nn.Module`."""
        names = [base for base in mro if isinstance(base, str)]
        return any(
            name.split(".")[-1] in MODULE_BASES or name.startswith("torch.nn.") for name in names
        )


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if`, `try` and `with` included."""
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            for name in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from _top_level(handler.body)


def _note(module: Module, node: ast.stmt, package: str) -> None:
    if isinstance(node, ast.ClassDef):
        cls = Class(module, node)
        for item in _top_level(node.body):
            if isinstance(item, Function):
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
    elif isinstance(node, Function):
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
