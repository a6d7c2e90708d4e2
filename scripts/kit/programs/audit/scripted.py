"""Reads what TorchScript code does to the attributes of its modules.

TorchScript runs without Python's lock: two threads that assign the same attribute at once
also write the same reference count, whatever the values are. The code of a scripted module
is at hand as a graph, so nothing needs to be met by luck.
"""

import ast
import contextlib
import importlib
import importlib.util
import linecache
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch

from .places import shown_file

# Operations that give a view of the same memory.
_VIEWS = re.compile(
    r"aten::(detach|view|t|transpose|squeeze|unsqueeze|select|slice|expand|permute)$"
)
_LIST_CHANGES = {"aten::append", "aten::_set_item", "aten::insert", "aten::extend", "aten::clear"}
_LIST_CHANGES |= {"aten::pop", "aten::Delete", "aten::remove", "aten::setdefault", "aten::update"}
_LOCATION = re.compile(r'File "([^"]+)", line (\d+)')


def scripted_modules(module: torch.nn.Module) -> List[Tuple[str, Any]]:
    """The outermost TorchScript modules of a model, with their paths."""
    outermost: List[Tuple[str, Any]] = []
    for path, child in module.named_modules():
        is_inside = any(path.startswith(p + ".") or not p for p, _ in outermost)
        if isinstance(child, torch.jit.ScriptModule) and not is_inside:
            outermost.append((path, child))
    return outermost


def read_scripted(module: torch.nn.Module, methods: List[str]) -> List[Dict[str, Any]]:
    """The changes of attributes that the TorchScript modules of a model make in a call.

    Args:
        module: The model.
        methods: The methods of the model that are called.
    """
    changes: Dict[Tuple[Any, ...], Dict[str, Any]] = {}
    for path, child in scripted_modules(module):
        for graph in _graphs_of(child, ["forward"] if path else methods):
            for change in _changes(graph, child, []):
                change["submodule"] = ".".join(filter(None, (path, change["submodule"])))
                key = (change["submodule"], change["attribute"], change["file"], change["line"])
                if key not in changes or not change["conditional"]:
                    changes[key] = change
    return list(changes.values())


def _graphs_of(module: Any, methods: List[str]) -> List[Any]:
    """The graphs of some methods, those of each overload, with all that they call inside."""
    graphs = []
    for name in module._c._method_names():
        if name in methods or any(name.startswith(method + "__") for method in methods):
            graph = module._c._get_method(name).graph.copy()
            torch._C._jit_pass_inline(graph)
            graphs.append(graph)
    return graphs


def _changes(block: Any, module: Any, conditions: List[Any]) -> Iterator[Dict[str, Any]]:
    before = None  # the last node that has a place
    for node in block.nodes():
        kind = node.kind()
        inputs = list(node.inputs())
        before = node if _LOCATION.search(node.sourceRange()) else before
        if kind == "prim::SetAttr":
            yield _change((node, before), module, _path_of(inputs[0]), node.s("name"), conditions)
        elif kind in _LIST_CHANGES or re.match(r"aten::[a-z]\w*[a-z0-9]_$", kind):
            path = _path_of(inputs[0])
            if path:
                yield _change((node, before), module, path[:-1], path[-1], conditions)
        for n, inner in enumerate(node.blocks()):
            if kind != "prim::If":
                yield from _changes(inner, module, conditions)
                continue
            # The first block of an `if` is the one where the condition holds.
            holds = _evaluate(inputs[0], module)
            if holds is None or bool(holds) == (n == 0):
                yield from _changes(
                    inner, module, conditions if holds is not None else [*conditions, n]
                )


_UNKNOWN = object()


def _evaluate(value: Any, module: Any) -> Any:
    """A condition that depends on no argument; None where it does, or is not understood."""
    known = _value_of(value, module)
    return None if known is _UNKNOWN else bool(known)


def _value_of(value: Any, module: Any) -> Any:
    node = value.node()
    kind = node.kind()
    inputs = list(node.inputs())
    if kind == "prim::Constant":
        return value.toIValue()
    if kind == "prim::GetAttr":
        owner: Any = module
        for name in _path_of(value) or ["<unknown>"]:
            owner = getattr(owner, name, _UNKNOWN)
        return owner
    parts = [_value_of(part, module) for part in inputs] if kind in _OPERATORS else [_UNKNOWN]
    if any(part is _UNKNOWN for part in parts):
        return _UNKNOWN
    return _OPERATORS[kind](*parts)


_OPERATORS: Dict[str, Callable[..., Any]] = {
    "aten::__not__": lambda one: not one,
    "aten::__is__": lambda one, other: one is other,
    "aten::__isnot__": lambda one, other: one is not other,
    "aten::eq": lambda one, other: one == other,
    "aten::ne": lambda one, other: one != other,
}


def _path_of(value: Any) -> Optional[List[str]]:
    """The attributes that lead from the module to a value; None where it is none of them."""
    names: List[str] = []
    while True:
        node = value.node()
        kind = node.kind()
        if kind == "prim::GetAttr":
            names.insert(0, node.s("name"))
            value = next(iter(node.inputs()))
        elif kind == "prim::Param":
            return names if value.debugName().startswith("self") or names else None
        elif _VIEWS.match(kind) or kind in ("prim::unchecked_cast", "aten::__getitem__"):
            value = next(iter(node.inputs()))
        else:
            return None


def _change(
    nodes: Tuple[Any, Any],
    module: Any,
    path: Optional[List[str]],
    name: str,
    conditions: List[Any],
) -> Dict[str, Any]:
    owner: Any = module
    for part in path or []:
        owner = getattr(owner, part, owner)
    file, line = _place_of(nodes, name)
    cls, source = _source_of(owner)
    archived = False
    if source is not None:
        line = _line_at_hand(source, name)
        file, archived = source, line is None
    return {
        "submodule": ".".join(path or []),
        "class": cls,
        "attribute": name,
        "file": file and (file if source else shown_file(file)),
        "line": line,
        "conditional": bool(conditions),
        # It was scripted from another file than the one at hand.
        "archived": archived,
    }


def _source_of(owner: Any) -> Tuple[str, Optional[str]]:
    """The class that a module was scripted from, and its file, if that is PyG's.

    The places of a graph are those of the machine that it was scripted on, and for a layer
    that PyG compiles, of a template.
    """
    cls = str(getattr(owner, "original_name", type(owner).__name__))
    if not isinstance(owner, torch.jit.ScriptModule):
        return cls, None
    # __torch__.torch_geometric.nn.conv.fa_conv.___torch_mangle_3.FAConv
    qualified = str(owner._c._type().qualified_name())
    names = [part for part in qualified.split(".") if not part.startswith("__")]
    if names[:1] == ["torch_geometric"]:
        return cls, "/".join(names[:-1]) + ".py"
    # What `jittable()` returns up to 2.4.0 is of a class and a module of this name.
    compiled = re.match(r"(\w+)Jittable_\w+$", cls)
    if compiled is None:
        return cls, None
    cls = compiled.group(1)
    with contextlib.suppress(ImportError, AttributeError):
        module = getattr(importlib.import_module("torch_geometric.nn"), cls).__module__
        return cls, str(module).replace(".", "/") + ".py"
    return cls, "torch_geometric"  # which is not at hand


def _line_at_hand(source: str, name: str) -> Optional[int]:
    """The line of PyG's file at hand where a call assigns an attribute; None if it has none."""
    module = str(Path(source).with_suffix("")).replace("/", ".")
    spec = None
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse("".join(linecache.getlines(spec.origin)))
    lines = [
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name != "__init__"
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name
    ]
    # Where it is reset comes after where it is set, in PyG's layers: the message is below.
    return max(lines) if lines else None


def _place_of(nodes: Tuple[Any, Any], name: str) -> Tuple[Optional[str], Optional[int]]:
    """Where an attribute is assigned: that has no place itself, and what is around it has one."""
    node, before = nodes
    around = [node, before, *(part.node() for part in reversed(list(node.inputs())))]
    matches = [_LOCATION.search(each.sourceRange()) for each in around if each is not None]
    places = [(match.group(1), int(match.group(2))) for match in matches if match]
    assigns = re.compile(rf"self\.{re.escape(name)}\b.*=|self\.{re.escape(name)}\.\w+_?\(")
    for file, line in places:
        lines = enumerate(linecache.getlines(file), 1)
        numbers = [number for number, text in lines if assigns.search(text)]
        if numbers:
            # At or after what was computed before it.
            return file, min(numbers, key=lambda number: (number < line, abs(number - line)))
    return places[0] if places else (None, None)
