"""Reads what TorchScript code does to the attributes of its modules.

TorchScript runs without Python's lock: two threads that assign the same attribute at once
also write the same reference count, whatever the values are. The code of a scripted module
is at hand as a graph, so nothing needs to be met by luck.
"""

import re
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch

from .places import shown_file

# Operations that give a view of the same memory.
_VIEWS = re.compile(r"aten::(detach|view|t|transpose|squeeze|unsqueeze|select|slice|expand|permute)$")
_LIST_CHANGES = {"aten::append", "aten::_set_item", "aten::insert", "aten::extend", "aten::clear"}
_LIST_CHANGES |= {"aten::pop", "aten::Delete", "aten::remove", "aten::setdefault", "aten::update"}
_LOCATION = re.compile(r'File "([^"]+)", line (\d+)')


def scripted_modules(module: torch.nn.Module) -> List[Tuple[str, Any]]:
    """The outermost TorchScript modules of a model, with their paths."""
    found: List[Tuple[str, Any]] = []
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            if not any(path == p or path.startswith(p + ".") or not p for p, _ in found):
                found.append((path, child))
    return found


def read_scripted(module: torch.nn.Module, methods: List[str]) -> List[Dict[str, Any]]:
    """The changes of attributes that the TorchScript modules of a model make in a call.

    Args:
        module: The model.
        methods: The methods of the model that are called.
    """
    changes: Dict[Tuple[Any, ...], Dict[str, Any]] = {}
    for path, child in scripted_modules(module):
        for method in methods if not path else ["forward"]:
            graph = _graph_of(child, method)
            for change in _changes(graph.block() if hasattr(graph, "block") else graph, child, []):
                change["submodule"] = ".".join(filter(None, (path, change["submodule"])))
                key = (change["submodule"], change["attribute"], change["file"], change["line"])
                changes.setdefault(key, change)
    return list(changes.values())


def _graph_of(module: Any, method: str) -> Any:  # noqa: ANN401
    called = getattr(module, method, None)
    graph = getattr(called, "inlined_graph", None)
    return graph if graph is not None else module.inlined_graph


def _changes(block: Any, module: Any, conditions: List[Any]) -> Iterator[Dict[str, Any]]:  # noqa: ANN401
    for node in block.nodes():
        kind = node.kind()
        inputs = list(node.inputs())
        if kind == "prim::SetAttr":
            yield _change(node, module, _path_of(inputs[0]), node.s("name"), conditions)
        elif kind in _LIST_CHANGES or re.match(r"aten::[a-z]\w*[a-z0-9]_$", kind):
            path = _path_of(inputs[0])
            if path:
                yield _change(node, module, path[:-1], path[-1], conditions)
        for n, inner in enumerate(node.blocks()):
            # The first block of an `if` is the one where the condition holds.
            around = [*conditions, inputs[0] if n == 0 else None] if kind == "prim::If" else conditions
            yield from _changes(inner, module, around)


def _path_of(value: Any) -> Optional[List[str]]:  # noqa: ANN401
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
    node: Any, module: Any, path: Optional[List[str]], name: str, conditions: List[Any]  # noqa: ANN401
) -> Dict[str, Any]:
    owner: Any = module
    for part in path or []:
        owner = getattr(owner, part, owner)
    match = _LOCATION.search(node.sourceRange())
    return {
        "submodule": ".".join(path or []),
        "class": getattr(owner, "original_name", type(owner).__name__),
        "attribute": name,
        "file": shown_file(match.group(1)) if match else None,
        "line": int(match.group(2)) if match else None,
        "in_training": any(_is_training(value) for value in conditions),
        "conditional": bool(conditions),
    }


def _is_training(condition: Any) -> bool:  # noqa: ANN401
    """Whether a condition is that the module is in training."""
    if condition is None:
        return False
    node = condition.node()
    return bool(node.kind() == "prim::GetAttr" and node.s("name") == "training")
