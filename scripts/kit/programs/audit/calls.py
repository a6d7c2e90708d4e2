"""A model, and the calls whose results are known from calls one after the other."""

import contextlib
import copy
import dataclasses
import importlib
import random
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch

from .places import tail
from .values import Tolerance, frozen

LIMIT = 10.0  # seconds that one thread waits for another one, or more if calls are slow
REGISTERS = ("_parameters", "_buffers", "_modules")
STOPS = (Exception, SystemExit)  # how somebody's code may end


class Problem(Exception):
    """What a stranger has to be told, in one paragraph."""


@dataclasses.dataclass
class Request:
    """The arguments of a call, and the method that is called."""

    args: Tuple[Any, ...]
    kwargs: Dict[str, Any]
    method: str = "forward"


class Subject:
    """A model, and requests with their results.

    Attributes:
        module: The model.
        requests: What it is called with.
        copies: Whether each call is given copies of its arguments.
        grad: Whether gradients are recorded.
        results: Of each request the result, as `Tolerance` keeps it.
        limit: The seconds that one thread waits for another one.
        seconds: How long a call takes, in one thread.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        requests: List[Request],
        tolerance: Optional[Tolerance] = None,
        grad: bool = False,
    ) -> None:
        self.module = module
        self.requests = requests
        self.tolerance = tolerance or Tolerance()
        self.copies = False
        self.grad = grad
        self.results: List[Any] = []
        self.limit = LIMIT
        self.seconds = 0.0

    def arguments(self, i: int) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
        """What a request is called with: copies, where a call changes its arguments."""
        request = self.requests[i]
        given = request.args, request.kwargs
        return copy.deepcopy(given) if self.copies else given

    def call(self, i: int, module: Optional[torch.nn.Module] = None) -> Any:
        """Answers a request, and keeps the result in a form that can be compared."""
        request = self.requests[i]
        args, kwargs = self.arguments(i)
        called = self.module if module is None else module
        # forward() has hooks, which only a call of the module itself runs.
        method = called if request.method == "forward" else getattr(called, request.method)
        with torch.enable_grad() if self.grad else torch.no_grad():  # which each thread has to say
            return self.tolerance.keep(method(*args, **kwargs))

    def alone(self, i: int, module: Optional[torch.nn.Module] = None) -> Any:
        """The same, in one thread: a failure is one of the model's.

        Raises:
            Problem: If the call fails.
        """
        start = time.monotonic()
        try:
            result = self.call(i, module)
        except STOPS as error:
            raise Problem("A call of the model, alone, raised:\n" + tail(error)) from error
        self.seconds = time.monotonic() - start
        self.limit = max(self.limit, 20 * self.seconds)
        return result

    def is_right(self, i: int, result: Any) -> bool:
        """Whether a result is the one of the request."""
        return self.tolerance.same(result, self.results[i])

    def save(self) -> Callable[[], None]:
        """Returns what restores the attributes, since a crash may leave them astray."""
        saved: List[Tuple[Dict[str, Any], Dict[str, Any]]] = []
        for child in self.module.modules():
            held = [vars(child), *(vars(child).get(register) for register in REGISTERS)]
            saved += [(mapping, dict(mapping)) for mapping in held if isinstance(mapping, dict)]

        def restore() -> None:
            for mapping, content in saved:
                mapping.clear()
                mapping.update(content)

        return restore


def seed(number: int) -> None:
    """Seeds every global generator of random numbers."""
    torch.manual_seed(number)
    random.seed(number)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed(number)


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """Runs compiled models as the Python code that they were compiled from."""
    compiler = getattr(torch, "compiler", None)
    set_stance = getattr(compiler, "set_stance", None)
    if "torch._dynamo" not in sys.modules:
        yield
    elif set_stance is not None:
        with set_stance("force_eager"):
            yield
    else:  # torch 2.0 to 2.5; `config.disable` acts on what is compiled later only.
        eval_frame: Any = importlib.import_module("torch._dynamo.eval_frame")
        before = eval_frame.set_eval_frame
        eval_frame.set_eval_frame = lambda callback: None
        try:
            yield
        finally:
            eval_frame.set_eval_frame = before


def shown_arguments(request: Request) -> Any:
    """The arguments of a request, such that a change of them shows."""
    return frozen([list(request.args), request.kwargs])
