"""What a call returns as the first one of its process, and with arguments that are new objects.

What one call leaves to all later ones may be anywhere: in a global, in a class, in what a
function has memoised, in a library. In a process of its own, each call is the first one.
"""

import functools
import gc
import time
import types
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch

from . import children, code, state
from .calls import Problem, Request, Subject
from .values import frozen

SECONDS = 20.0  # for one child
ALL_SECONDS = 6.0  # after so many, no more children are started
ROUNDS = 3  # of calls with new arguments
MOST_ITEMS, MOST_NUMBERS = 1_000, 1_000_000  # of what is compared, in containers and tensors


class Firsts(NamedTuple):
    """What some requests return.

    Attributes:
        start: The number of the first of them that the subject has.
        alone: Of each the result as the first call of a process; None where there is none.
        left: What each of these calls has left in globals, classes and closures, by name.
        in_order: Of each the result after all others in their order; None if that failed.
    """

    start: int
    alone: List[Optional[Any]]
    left: List[Dict[str, str]]
    in_order: Optional[List[Any]]


def answer(subject: Subject, start: int, more: List[Request], may_try_grad: bool) -> Firsts:
    """Answers requests, each in a process of its own, and all of them in one.

    Args:
        subject: What is called, before its first call.
        start: The first of its requests to answer.
        more: Requests that it has not.
        may_try_grad: Whether to record gradients where a call fails without.
    """
    requests = [*subject.requests[start:], *more]
    alone: List[Optional[Any]] = [None] * len(requests)
    if not children.can_fork():
        return Firsts(start, alone, [], None)
    every = Subject(subject.module, requests, subject.tolerance, subject.grad)

    def first(i: int) -> Any:
        try:
            return every.alone(i)
        except Problem as problem:
            if every.grad or not may_try_grad or "grad" not in str(problem):
                raise
            every.grad = True
            return every.alone(i)

    def in_order() -> Any:
        every.copies = True
        for i in range(len(requests)):
            first(i)
        return [every.alone(i) for i in range(len(requests))]

    def first_and_left(i: int) -> Any:
        results: List[Any] = []
        left = _left_by(lambda: results.append(first(i)), subject.module, of_code)
        return results[0], left

    deadline = time.monotonic() + ALL_SECONDS
    ordered = children.run(in_order, SECONDS).value
    left = []
    # By identity: code is compared by all that it holds.
    of_code: Dict[int, List[types.FunctionType]] = {}
    for function in code.all_functions() if ordered is not None else ():
        of_code.setdefault(id(function.__code__), []).append(function)
    for i in range(len(requests) if ordered is not None else 0):
        if time.monotonic() > deadline:
            break
        value = children.run(functools.partial(first_and_left, i), SECONDS).value
        if value is not None:
            alone[i] = value[0]
            left.append(value[1])
    return Firsts(start, alone, left, ordered)


def _left_by(
    call: Callable[[], Any],
    module: torch.nn.Module,
    of_code: Dict[int, List[types.FunctionType]],
) -> Dict[str, str]:
    """Calls, and shows what is then in the globals, classes and closures of the code that ran.

    Args:
        call: What to call, in a child.
        module: The model.
        of_code: Every function that there is before the call, by the address of its code.
    """
    # Only what is made from here on is looked through for functions: there are a million objects.
    gc.freeze()
    ran = [each for each in code.find_code(call) if code.is_watched(each.co_filename)]
    addresses = {id(each) for each in ran}
    made = [each for each in gc.get_objects() if type(each) is types.FunctionType]
    functions = [each for address in addresses for each in of_code.get(address, ())]
    functions += [each for each in made if id(each.__code__) in addresses]
    classes = {cls for child in module.modules() for cls in type(child).__mro__}
    classes = {cls for cls in classes if code.is_watched(code.file_of(cls))}
    left = {}
    for node in state.roots(functions, classes):
        parts = dict(state.parts_of(node.value)) if node.owner == "(closure)" else {"": node.value}
        for name, value in parts.items():
            shown = ".".join(filter(None, (state.name_of(node.module), node.path, name)))
            if _is_small(value):
                left[shown] = repr(frozen(value, depth=4))
    return left


def _is_small(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return int(value.numel()) <= MOST_NUMBERS
    return not isinstance(value, (dict, list, set, tuple)) or len(value) <= MOST_ITEMS


def names_left(firsts: Firsts) -> List[str]:
    """What differs by which call came first, such as `module.variable`, in the order of names."""
    names = sorted({name for each in firsts.left for name in each})
    return [name for name in names if len({each[name] for each in firsts.left if name in each}) > 1]


def differ(subject: Subject, firsts: Firsts) -> bool:
    """Whether what a call returns depends on which one was the first.

    Where the calls of another process differ in any case, as by its number, that says nothing.
    """
    if firsts.in_order is None:
        return False
    known = subject.results[firsts.start : firsts.start + len(firsts.in_order)]
    same = subject.tolerance.same
    if not all(same(one, other) for one, other in zip(firsts.in_order, known)):
        return False
    pairs = zip(firsts.alone, firsts.in_order)
    return any(one is not None and not same(one, other) for one, other in pairs)


def confuses_new_arguments(subject: Subject) -> bool:
    """Whether a call takes its arguments for those of another one, which are gone.

    So does what keeps values by the address of an argument (`id()`, `data_ptr()`), which a later
    one has again.
    """

    def count_wrong() -> int:
        if not all(subject.is_right(i, subject.alone(i)) for i in indices):
            return 0
        subject.copies = True
        return sum(
            not subject.is_right(i, subject.alone(i)) for _ in range(ROUNDS) for i in indices
        )

    indices = range(len(subject.requests))
    too_slow = subject.seconds * len(subject.requests) * (ROUNDS + 1) > ALL_SECONDS
    if subject.copies or too_slow or not children.can_fork():
        return False
    return bool(children.run(count_wrong, SECONDS).value)
