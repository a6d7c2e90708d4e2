"""Which functions a call runs outside of torch and PyG, which of their lines, on what objects.

The source of these is read afterwards: a branch that was not taken can write to what calls share.
"""

import sys
import types
from pathlib import Path
from typing import Any, Callable, Dict, List, Set

import torch

from . import code, state
from .places import shown_file
from .values import attributes

MOST_LOOKS = 50  # at the arguments of one function; later calls are given the same ones, mostly

# What is no state, or is made for threads.
_FIXED = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)


def is_read(file: str) -> bool:
    """Whether a file's functions count: not torch's, nor PyG's, whose layers are reviewed."""
    if not file.endswith(".py") or not code.is_watched(file):
        return False
    path = str(Path(file).absolute())
    package = getattr(sys.modules.get("torch_geometric"), "__file__", None)
    inside = (code.TORCH, str(Path(package).parent.absolute()) if package else code.TORCH)
    return not path.startswith(tuple(folder + "/" for folder in inside))


def is_state(value: Any) -> bool:
    """Whether an object can keep what a call leaves there for another thread."""
    return not isinstance(value, (*_FIXED, *state.LEAVES)) and not state.is_safe(value)


class Function:
    """What is known of a function that ran.

    Attributes:
        code: Its code.
        namespace: The global variables that it sees.
        shared: The arguments that were objects which calls share.
        free: The variables of its closure that hold state.
        own: Of `shared`, the attributes that threads do not share, as `argument.attribute`.
    """

    def __init__(self, frame: types.FrameType) -> None:
        self.code = frame.f_code
        self.namespace = frame.f_globals
        self.shared: Set[str] = set()
        self.free: Set[str] = set()
        self.own: Set[str] = set()
        self._looks = 0

    def look(self, frame: types.FrameType, by_id: Dict[int, state.Node]) -> None:
        """Looks at what a call is given."""
        self._looks += 1
        if self._looks > MOST_LOOKS:
            return
        given = self.code.co_varnames[: self.code.co_argcount + self.code.co_kwonlyargcount]
        variables = frame.f_locals
        for i, name in enumerate(given):
            value = variables.get(name)
            if id(value) not in by_id or not is_state(value):
                continue
            # What a module's own methods write to it is read already.
            is_own = i == 0 and hasattr(type(value), self.code.co_name)
            if is_own and isinstance(value, torch.nn.Module):
                continue
            self.shared.add(name)
            held = attributes(value)
            kept = (key for key in held if state.is_safe(held[key]))
            self.own.update(f"{name}.{key}" for key in kept)
        for name in self.code.co_freevars:
            if name != "__class__" and is_state(variables.get(name)):
                self.free.add(name)

    def shown(self) -> Dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "name": self.code.co_name,
            "line": self.code.co_firstlineno,
            "shared": sorted(self.shared),
            "free": sorted(self.free),
            "own": sorted(self.own),
        }


class Tracer:
    """Follows calls by `sys.settrace`.

    Args:
        by_id: The objects that calls share.
    """

    def __init__(self, by_id: Dict[int, state.Node]) -> None:
        self.functions: Dict[types.CodeType, Function] = {}
        self.lines: Dict[str, Set[int]] = {}
        self._by_id = by_id
        self._is_read: Dict[str, bool] = {}

    def run(self, call: Callable[[], Any]) -> None:
        """Makes a call, and follows it."""
        previous = sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        finally:
            sys.settrace(previous)

    def _enter(self, frame: types.FrameType, event: str, _: object) -> Any:
        file = frame.f_code.co_filename
        known = self._is_read.get(file)
        if known is None:
            known = self._is_read[file] = is_read(file)
        if not known:
            return None
        function = self.functions.get(frame.f_code)
        if function is None:
            function = self.functions[frame.f_code] = Function(frame)
        function.look(frame, self._by_id)
        lines = self.lines.setdefault(file, set())

        def line(frame: types.FrameType, event: str, _: object) -> Any:
            lines.add(frame.f_lineno)
            return line

        return line

    def shown(self) -> Dict[str, Any]:
        """What ran, ready for JSON: by file, and the classes of the objects that calls share."""
        files: Dict[str, Any] = {}
        for function in self.functions.values():
            file = function.code.co_filename
            shown = files.setdefault(
                shown_file(file),
                {"lines": sorted(self.lines[file]), "functions": [], "state": [], "holders": []},
            )
            shown["functions"].append(function.shown())
            names = set(function.namespace)
            values = {name: function.namespace[name] for name in names if name[:2] != "__"}
            shown["state"] = sorted(name for name in values if is_state(values[name]))
            shown["holders"] = sorted(name for name in values if _holds(values[name]))
        return {"files": files, "objects": self._objects()}

    def _objects(self) -> List[Dict[str, Any]]:
        objects: Dict[type, Set[str]] = {}
        for node in self._by_id.values():
            kind = type(node.value)
            if not isinstance(node.value, torch.nn.Module) and is_read(code.file_of(kind)):
                objects.setdefault(kind, set()).add(node.path.split(".")[-1])
        return [
            {
                "class": cls.__qualname__.split(".")[-1],
                "file": shown_file(code.file_of(cls)),
                "names": sorted(names - {""}),
            }
            for kind, names in objects.items()
            for cls in kind.__mro__
            if is_read(code.file_of(cls))
        ]


def _holds(value: Any) -> bool:
    """Whether a class, function or module has attributes that code of the user's may set."""
    if isinstance(value, types.ModuleType):
        return is_read(getattr(value, "__file__", None) or "")
    if isinstance(value, types.FunctionType):
        return is_read(value.__code__.co_filename)
    return isinstance(value, type) and is_read(code.file_of(value))
