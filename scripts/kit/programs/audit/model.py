"""Somebody's model: how it is imported, what it is called with, and what it is made of."""

import contextlib
import importlib.util
import inspect
import platform
import re
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch

from . import analysis, copying, explaining, firsts
from .calls import Problem, Request, Subject, shown_arguments
from .factories import find, make
from .places import shown_file
from .values import Tolerance, opaque_kinds, outline

NUM_INPUTS = 4
# As many are drawn for first calls, in as many seconds: some have the sizes of others.
MORE_INPUTS, MORE_SECONDS = 8, 1.0

# Methods that PyG's models document beside forward(), by the class that defines them.
DOCUMENTED = {
    "torch_geometric.nn.models.autoencoder.GAE": ["encode"],
    "torch_geometric.nn.models.lightgcn.LightGCN": ["get_embedding"],
    "torch_geometric.nn.models.rect.RECT_L": ["embed"],
}


def get_model(given: str) -> torch.nn.Module:
    """Makes the model, in evaluation mode."""
    factory = find("MODEL", given)
    torch.manual_seed(0)
    module = factory if isinstance(factory, torch.nn.Module) else make("MODEL", given, factory)
    if not isinstance(module, torch.nn.Module):
        raise Problem(
            f"MODEL, {given}(), returned a {type(module).__name__}. Return the torch.nn.Module "
            f"that threads share."
        )
    try:
        return module.eval()
    except NotImplementedError:  # of torch.export: it has one mode
        return module


def _draw(given: str, method: str, i: int) -> Request:
    torch.manual_seed(i)
    value = make("INPUTS", given, find("INPUTS", given))
    if type(value) is tuple:
        return Request(value, {}, method)
    if type(value) is dict:
        return Request((), value, method)
    return Request((value,), {}, method)


def draw_more(given: str, method: str) -> List[Request]:
    """Makes arguments of more calls, as long as that takes no time and does not fail."""
    requests = []
    deadline = time.monotonic() + MORE_SECONDS
    with contextlib.suppress(Problem):
        for i in range(NUM_INPUTS, NUM_INPUTS + MORE_INPUTS):
            if time.monotonic() > deadline:
                break
            requests.append(_draw(given, method, i))
    return requests


def get_requests(given: str, method: str) -> List[Request]:
    """Makes the arguments of some calls of a method."""
    requests = [_draw(given, method, i) for i in range(NUM_INPUTS)]
    shown = [shown_arguments(request) for request in requests]
    if all(other == shown[0] for other in shown):
        kinds = sorted(set().union(*map(opaque_kinds, shown)) - {"NoneType"})
        if kinds:
            raise Problem(
                "INPUTS, {}(), returned inputs that cannot be told apart: the audit cannot look "
                "into {}. Return other inputs in each call that hold tensors, numbers, texts, or "
                "objects with attributes.".format(given, ", ".join(kinds))
            )
        raise Problem(
            f"INPUTS, {given}(), returned the same inputs {NUM_INPUTS} times, bit for bit: if "
            f"threads mixed up their calls, nobody could see it. It is called after "
            f"torch.manual_seed(0) to ({NUM_INPUTS - 1}); draw the inputs with torch.rand() and "
            f"its like, or return other ones in each call."
        )
    return requests


def find_methods(
    module: torch.nn.Module, given: List[str], inputs: str
) -> List[Tuple[str, str, bool]]:
    """The methods to call: their names, what makes their arguments, whether somebody named them."""
    chosen = []
    for each in given:
        name, _, factory = each.partition("=")
        if not callable(getattr(module, name, None)):
            raise Problem(
                f"--method is {each!r}, and {type(module).__name__} has no method {name!r}."
            )
        chosen.append((name, factory or inputs, True))
    if chosen:
        return chosen
    documented = [
        name
        for cls in type(module).__mro__
        for name in DOCUMENTED.get(f"{cls.__module__}.{cls.__qualname__}", [])
    ]
    return [("forward", inputs, not documented), *((name, inputs, False) for name in documented)]


class Prepared:
    """A model with its requests.

    Attributes:
        subject: What is called.
        methods: The methods that are called.
        notes: What a reader has to know.
        is_lazy: Whether a first call had to make its parameters.
    """

    def __init__(self, module: torch.nn.Module, grad: Optional[bool], tolerance: float) -> None:
        self.subject = Subject(module, [], Tolerance(tolerance), bool(grad))
        self._may_try_grad = grad is None
        self.methods: List[str] = []
        self.notes: List[str] = []
        self.is_lazy = False
        self.firsts: List[firsts.Firsts] = []

    def add(self, method: str, inputs: str, is_named: bool) -> None:
        """Takes a method in, if it can be called.

        Raises:
            Problem: If it cannot, and somebody has named it.
        """
        requests = get_requests(inputs, method)
        subject = self.subject
        start = len(subject.requests)
        subject.requests = [*subject.requests, *requests]
        self.is_lazy |= any(
            torch.nn.parameter.is_lazy(parameter)
            for held in (subject.module.parameters(), subject.module.buffers())
            for parameter in held
        )
        more = draw_more(inputs, method)
        answered = firsts.answer(subject, start, more, self._may_try_grad)
        try:
            self._try_call(start)
        except Problem as problem:
            subject.requests = subject.requests[:start]
            if is_named:
                raise
            last = str(problem).splitlines()[-1]
            self.notes.append(f"{method}() was not called: it failed on these inputs: {last}")
            return
        self.firsts.append(answered)
        self.methods.append(method)

    def _try_call(self, i: int) -> None:
        """Calls once where that is needed to know how."""
        subject = self.subject
        if not self.is_lazy and not self._may_try_grad:
            return
        import copy

        module: torch.nn.Module = subject.module
        request = subject.requests[i]
        given = request.args, request.kwargs
        if not self.is_lazy:
            # The first call may leave something behind: it is another one's.
            copied = copying.copy_of(module)
            module = module if copied is None else copied
        try:
            request.args, request.kwargs = copy.deepcopy(given)
        except Exception:
            request.args, request.kwargs = given
        try:
            try:
                subject.alone(i, module)
            except Problem:
                if module is subject.module:
                    raise
                # A copy may not work, as one whose hooks know the original.
                module = subject.module
                subject.alone(i, module)
        except Problem as problem:
            if subject.grad or "grad" not in str(problem):
                raise
            subject.grad = True
            try:
                subject.alone(i, module)
            except Problem:
                subject.grad = False
                raise problem from None
            self.notes.append("Gradients are recorded: the model computes with them.")
        finally:
            request.args, request.kwargs = given


def get_classes(module: torch.nn.Module) -> List[Dict[str, Any]]:
    """The classes of all submodules, and what they inherit from, outside of torch."""
    classes = dict.fromkeys(cls for child in module.modules() for cls in type(child).__mro__)
    result = []
    for cls in classes:
        if re.match(r"(torch\.|(torch|builtins|typing|abc)$)", cls.__module__):
            continue
        try:
            file: Optional[str] = shown_file(inspect.getfile(cls))
        except (TypeError, OSError):
            file = None
        result.append({"class": cls.__qualname__, "module": cls.__module__, "file": file})
    return result


def get_thread_locals(module: torch.nn.Module) -> List[str]:
    """The attributes of submodules that each thread has to itself, as `Class.attribute`."""
    return sorted(
        {
            f"{cls.__name__}.{name}"
            for child in module.modules()
            for name, value in vars(child).items()
            if isinstance(value, threading.local)
            for cls in type(child).__mro__
        }
    )


def explains_copies() -> bool:
    """Whether the PyG in use, if any, has what its patched explainers use."""
    if "torch_geometric.nn" not in sys.modules:
        return False
    return importlib.util.find_spec("torch_geometric.nn.explained_copy") is not None


def environment() -> Dict[str, Any]:
    """What this runs on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": getattr(sys.modules.get("torch_geometric"), "__version__", None),
        # Whether it is patched such that explainers work on a copy.
        "explains_copies": explains_copies(),
        # An extension that does not know of free threading turns the lock on again.
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


def audit_model(
    given_model: str,
    inputs: str,
    methods: List[str],
    calls: Optional[int],
    grad: Optional[bool],
    tolerance: float,
    explainer: Optional[str],
    notify: Callable[[str], None],
) -> Dict[str, Any]:
    """Audits somebody's model on somebody's inputs, together with what explains it, if named."""
    notify("making the model and its inputs")
    find("INPUTS", inputs)
    module = get_model(given_model)
    prepared = Prepared(module, grad, tolerance)
    for name, factory, is_named in find_methods(module, methods, inputs):
        prepared.add(name, factory, is_named)
    if not prepared.methods:
        raise Problem("No method could be called. " + " ".join(prepared.notes))
    subject = prepared.subject
    if explainer is not None:
        explaining.check(explainer, subject)
    audited = analysis.audit(subject, calls, notify, first_results=prepared.firsts)
    explained = None
    if explainer is not None:
        compares = not audited["nondeterministic"]
        explained = explaining.audit(explainer, subject, calls, compares, notify)
    notes = [*prepared.notes, *audited.pop("notes")]
    training = [path or "the model" for path, child in module.named_modules() if child.training]
    if training:
        notes.append("In training after eval(): {}.".format(", ".join(training[:5])))
    shapes = {repr(outline(shown_arguments(request))) for request in subject.requests}
    kinds = sorted(
        {
            type(child).__name__
            for child in module.modules()
            if type(child).__module__.startswith("torch._dynamo")
        }
    )
    return {
        **environment(),
        "requests": len(subject.requests),
        "methods": prepared.methods,
        "modules": len(list(module.modules())),
        "classes": get_classes(module),
        "thread_locals": get_thread_locals(module),
        "lazy": prepared.is_lazy,
        "grad": subject.grad,
        "tolerance": tolerance,
        "one_shape": len(shapes) == len(prepared.methods),
        "compiled": bool(kinds),
        "notes": notes,
        "explained": explained,
        **audited,
    }
