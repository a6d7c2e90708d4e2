"""Finds the code that a call runs, and puts its rewritten form in its place."""

import contextlib
import dis
import gc
import linecache
import os
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

import torch

from . import rewriting, slots, watching
from .places import INSIDE, shown_file

# Of torch, only the layers are rewritten: they may write to themselves, as weight_norm does.
TORCH = str(Path(torch.__file__).parent.absolute())
_LAYERS = tuple(
    str(Path(TORCH, *parts)) + os.sep
    for parts in (("nn", "modules"), ("nn", "utils"), ("ao", "nn"))
)
# How attributes are looked up, and how a module is called, is watched from outside.
_ACCESS = {
    *("__getattribute__", "__getattr__", "__setattr__", "__delattr__", "__call__"),
    *("_call_impl", "_wrapped_call_impl", "_slow_forward", "named_modules", "named_parameters"),
}


def _roots(*names: str) -> List[str]:
    paths = (sysconfig.get_paths().get(name) for name in names)
    return [str(Path(path).absolute()) + os.sep for path in paths if path]


_LIBRARY = tuple(_roots("stdlib", "platstdlib"))
_PACKAGES = tuple(_roots("purelib", "platlib"))
# Packages of numbers, whose objects are values to a model.
_LEFT_OUT = {"numpy", "scipy", "pandas", "sympy", "sklearn", "numba", "jax", "triton", "opt_einsum"}


def file_of(cls: type) -> str:
    """The file of a class."""
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", None) or "<unknown>.py"


def is_watched(file: str) -> bool:
    """Whether the code of a file is rewritten: not Python's own, nor torch's but its layers."""
    if file.startswith("<frozen") or file in INSIDE - {INSIDE_MODULE}:
        return False
    if not file.endswith(".py"):
        return True  # made by exec, as by torch.fx, or without a source
    path = str(Path(file).absolute())
    if path.startswith(TORCH + os.sep):
        return path.startswith(_LAYERS)
    parts = Path(file).parts
    for name in ("site-packages", "dist-packages"):
        if name in parts:
            return parts[parts.index(name) + 1] not in _LEFT_OUT
    return not path.startswith(_LIBRARY) or path.startswith(_PACKAGES)


INSIDE_MODULE = torch.nn.Module.__init__.__code__.co_filename


def find_code(call: Callable[[], Any]) -> Set[types.CodeType]:
    """The code of all Python functions that a call runs."""
    ran: Set[types.CodeType] = set()

    def profile(frame: types.FrameType, event: str, _: object) -> None:
        if event == "call":
            ran.add(frame.f_code)

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(previous)
    return ran


class Watched:
    """Code that was rewritten.

    Attributes:
        files: The files, as they are shown, with the number of functions of each.
        without_source: Functions that ran and could not be rewritten, as `file (function)`.
        functions: The functions whose code has been replaced.
    """

    def __init__(self) -> None:
        self.files: Dict[str, int] = {}
        self.without_source: List[str] = []
        self.functions: List[types.FunctionType] = []
        self._originals: List[Any] = []
        self.namespaces: Dict[int, Dict[str, Any]] = {}

    def replace(self, ran: Set[types.CodeType]) -> None:
        """Rewrites the files of some code, all functions of each.

        Args:
            ran: The code that a call has run.
        """
        files = {code.co_filename for code in ran if is_watched(code.co_filename)}
        by_file: Dict[str, List[types.FunctionType]] = {}
        for function in all_functions():
            if function.__code__.co_filename in files:
                by_file.setdefault(function.__code__.co_filename, []).append(function)
        of_files = [function for functions in by_file.values() for function in functions]
        rewriting.install(watching.HOOKS, [function.__globals__ for function in of_files])
        replaced: Set[types.CodeType] = set()
        for file in sorted(files):
            functions = by_file.get(file, [])
            pairs = _pairs_of(file, functions)
            for function in functions:
                new = pairs.get(function.__code__)
                if new is not None and function.__name__ not in _skipped(file):
                    self._originals.append((function, function.__code__))
                    self.functions.append(function)
                    self.namespaces[id(function.__globals__)] = function.__globals__
                    function.__code__ = new
            replaced.update(pairs)
            self.files[shown_file(file)] = len(functions)
        for code in ran - replaced:
            is_module = code.co_name == "<module>" or code.co_filename == INSIDE_MODULE
            if is_watched(code.co_filename) and not is_module and not _is_trivial(code):
                shown = f"{shown_file(code.co_filename)}:{code.co_firstlineno} ({code.co_name})"
                self.without_source.append(shown)
        self.without_source.sort()

    def restore(self) -> None:
        """Puts the original code back."""
        for function, code in self._originals:
            function.__code__ = code
        self._originals.clear()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The original code, for a while."""
        rewritten = [(function, function.__code__) for function, _ in self._originals]
        for function, code in self._originals:
            function.__code__ = code
        try:
            yield
        finally:
            for function, code in rewritten:
                function.__code__ = code


def _skipped(file: str) -> Set[str]:
    return _ACCESS if file == INSIDE_MODULE else set()


def _is_trivial(code: types.CodeType) -> bool:
    """Whether code can change nothing but an object that it makes itself.

    That is so of what `dataclass` and `namedtuple` generate.
    """
    if code.co_filename == "<string>" and code.co_name in ("__init__", "__new__"):
        return True
    operations = {instruction.opname for instruction in dis.get_instructions(code)}
    changes = {"STORE_ATTR", "STORE_SUBSCR", "STORE_GLOBAL", "STORE_DEREF"}
    changes |= {"DELETE_ATTR", "DELETE_SUBSCR", "DELETE_GLOBAL"}
    names = set(code.co_names)
    return not operations & changes and not names & (slots.CHANGES | {"setattr"})


def all_functions() -> List[types.FunctionType]:
    """Every function of the process."""
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:
        gc.unfreeze()
    functions = [held for held in gc.get_objects() if type(held) is types.FunctionType]
    if is_frozen:
        gc.freeze()
    return functions


def _pairs_of(
    file: str, functions: List[types.FunctionType]
) -> Dict[types.CodeType, types.CodeType]:
    namespace = functions[0].__globals__ if functions else {}
    source = "".join(linecache.getlines(file, namespace))
    if not source:
        return {}
    # Compiling takes most of the time; a process may audit many models.
    known = _known_pairs.get(file)
    if known is None or known[0] != source:
        known = source, rewriting.compile_pairs(source, file, namespace) or {}
        _known_pairs[file] = known
    return known[1]


_known_pairs: Dict[str, Tuple[str, Dict[types.CodeType, types.CodeType]]] = {}
