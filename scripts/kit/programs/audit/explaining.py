"""Explains a model while others predict with it: is each prediction right, and each explanation?

One thread explains. Where it enters or leaves a function, it is held until another thread has
predicted once with the same model, or has explained it. Then threads do both at full speed.
"""

import contextlib
import functools
import threading
import time
import types
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Set, Tuple

import torch

from . import copying, stress
from .calls import STOPS, Problem, Subject, seed, without_compiler
from .factories import find, make
from .holding import (
    TIMES,
    At,
    Elsewhere,
    Holder,
    Slot,
    at_point,
    attributes_of,
    differing,
    own_chance,
    spread,
    stack_of,
)
from .interleaving import HUNG, RIGHT, WRONG, count
from .places import last_line, tail
from .state import sources_of_chance
from .values import holds_something, opaque_kinds

AT_ONCE = 6  # how often an explanation is held until another one has been made
SECONDS = 45.0  # what all of that may take, after which it is left out

Notify = Callable[[str], None]


class Failure(Exception):
    """What an explanation is made to fail with."""


class Explainer:
    """What explains a model: what somebody's factory returns for it.

    Attributes:
        subject: The model, and the requests that are explained.
        results: The explanation of each of the first two requests, as `Tolerance` keeps it.
        random: The generators that it draws from. It is seeded then, so that the same
            explanation can be made twice.
        compared: Whether the same explanation is the same each time.
        seconds: How long one takes.
    """

    def __init__(self, given: str, subject: Subject, module: torch.nn.Module) -> None:
        made = make("EXPLAINER", given, find("EXPLAINER", given), module)
        self.subject = subject
        self._explain = _function_of(given, made)
        self.results: List[Any] = []
        self.random: Set[str] = set()
        self.compared = True
        self.seconds = 0.0

    def explain(self, i: int) -> Any:
        """Explains a request, and keeps the explanation in a form that can be compared."""
        args, kwargs = self.subject.arguments(i)
        if self.random:
            seed(i)
        with torch.enable_grad():
            return self.subject.tolerance.keep(self._explain(*args, **kwargs))

    def alone(self, i: int) -> Any:
        """The same, in one thread: a failure is one of the explainer's.

        Raises:
            Problem: If it fails, or returns nothing to compare.
        """
        before, start = sources_of_chance(), time.monotonic()
        try:
            result = self.explain(i)
        except STOPS as error:
            raise Problem(
                f"The explainer, alone, was called with the arguments of the model, and raised:\n"
                f"{tail(error)}\nIf it needs other ones, let the factory return a function that "
                f"passes them, such as lambda x, edge_index: explainer(x, edge_index, index=2)."
            ) from error
        self.seconds = time.monotonic() - start
        after = sources_of_chance()
        if not self.random:  # else all are seeded
            self.random = {name for name in before if before[name] != after.get(name)}
        shown = self.subject.tolerance.shown(result)
        if not holds_something(shown):
            raise Problem("The explainer returned nothing to compare: let it return what it found.")
        return result

    def is_right(self, i: int, result: Any) -> bool:
        """Whether an explanation is the one of a request; of what cannot be compared, each is."""
        return not self.compared or self.subject.tolerance.same(result, self.results[i])


def _function_of(given: str, made: Any) -> Callable[..., Any]:
    """What explains one request, with the arguments of the model."""
    whole: Any = getattr(made, "explain_graph", None)  # of the explainers of old releases
    if callable(whole):
        return whole  # type: ignore[no-any-return,unused-ignore]
    if any(cls.__name__ == "ExplainerAlgorithm" for cls in type(made).__mro__):
        raise Problem(
            f"EXPLAINER, {given}(), returned a {type(made).__name__}, which is an algorithm. "
            f"Return what uses it: torch_geometric.explain.Explainer(model, algorithm, ...)."
        )
    if not callable(made):
        raise Problem(
            f"EXPLAINER, {given}(), returned {'None' if made is None else _kind(made)}, "
            f"which cannot be called. Return what explains a request when it is called with the "
            f"arguments of the model: an Explainer of PyG's, or a function."
        )
    return made  # type: ignore[no-any-return]


def _kind(value: object) -> str:
    return f"an object of the type {type(value).__name__}"


def check(given: str, subject: Subject) -> None:
    """Explains once, before the long audit of the model, so that mistakes show at once.

    It works on a copy: what is seen of first calls must be those of the audit.

    Raises:
        Problem: If the explainer cannot be made or used.
    """
    copied = copying.copy_of(subject.module)
    with contextlib.suppress(Problem):
        if copied is not None:
            Explainer(given, subject, copied).alone(0)
            return
    restore = subject.save()  # a copy may not work, as one whose hooks know the original
    Explainer(given, subject, subject.module).alone(0)
    restore()


class Audit:
    """One audit of a model with its explainer; `run` returns what it saw, ready for JSON."""

    def __init__(self, given: str, subject: Subject, compares: bool, notify: Notify) -> None:
        self.given = given
        self.subject = subject
        self.compares = compares
        self.notify = notify
        self.holder = Holder()
        self.deadline = time.monotonic() + SECONDS
        self.before = attributes_of(subject.module)
        self._restore_attributes = subject.save()
        held = [*subject.module.parameters(), *subject.module.buffers()]
        self._values = [(tensor, tensor.detach().clone()) for tensor in held]

    def run(self, calls: Optional[int]) -> Dict[str, Any]:
        """Explains alone, while others predict, twice at once, in vain, and at full speed.

        Raises:
            Problem: If the explainer cannot be made or used.
        """
        subject = self.subject
        self.notify("explaining the model in one thread")
        explainer = self.explainer = Explainer(self.given, subject, subject.module)
        points = self._explain_alone()
        afterwards, left = self._predict_after()
        self.notify("letting others predict while one thread explains")
        report = {
            "explainer": self.given,
            "random": sorted(explainer.random),
            "compared": explainer.compared,
            "uncompared": self.uncompared,
            "afterwards": afterwards,
            "left": left,
            **self._hold(points),
        }
        report["at_once"] = self._explain_at_once(points)
        report["after_a_failure"] = self._fail()
        service = Service(explainer, self.compares)
        usual = stress.usual_calls(service)
        report["stress"] = stress.stress(service, usual if calls is None else calls, compare=True)
        self.restore()
        return report

    def restore(self) -> None:
        """Gives the model its attributes back, and its parameters and buffers their values."""
        self._restore_attributes()
        for tensor, value in self._values:
            with contextlib.suppress(Exception):  # such as of a kind that cannot be compared
                if not torch.equal(tensor, value):
                    tensor.data.copy_(value)

    def _explain_alone(self) -> FrozenSet[int]:
        """Makes the explanations that count, and says where to hold the first one."""
        explainer, shown = self.explainer, self.subject.tolerance.shown
        first = explainer.alone(0)  # only now it is known whether it draws random numbers
        self.uncompared = sorted(opaque_kinds(shown(first)) - {"NoneType"})
        explainer.results = [explainer.alone(i) for i in (0, 1)]
        again, points = self.holder.choose(lambda: explainer.explain(0))
        explainer.compared = not self.uncompared and explainer.is_right(0, again)
        return points

    def _predict_after(self) -> Tuple[str, List[Dict[str, Any]]]:
        """How the model predicts after explanations, in one thread, and what they have left."""
        outcome = self._predict()
        left = differing(self.before, attributes_of(self.subject.module))
        self.restore()
        return outcome, _described(left if outcome != RIGHT else [])

    def _predict(self, i: int = 0) -> str:
        try:
            return RIGHT if self._is_right(i, self.subject.call(i)) else WRONG
        except BaseException as error:
            return last_line(error)

    def _is_right(self, i: int, result: Any) -> bool:
        return not self.compares or self.subject.is_right(i, result)

    def _hold(self, points: FrozenSet[int]) -> Dict[str, Any]:
        """Lets others predict while one thread explains, at many of its lines."""
        subject = self.subject
        self.before = attributes_of(subject.module)
        elsewhere = Elsewhere(subject.seconds, subject.limit, self._is_right)
        changed: Dict[bool, Dict[Slot, None]] = {True: {}, False: {}}
        stacks: Dict[bool, List[List[Any]]] = {}
        # Where the explanation has changed the model, and where in which attributes.
        self.changing: List[int] = []
        self.states: Dict[FrozenSet[Slot], List[int]] = {}

        def at(ordinal: int, frame: types.FrameType, event: str) -> None:
            if ordinal not in points or time.monotonic() > self.deadline:
                return
            now = differing(self.before, attributes_of(subject.module))
            i = len(elsewhere.outcomes) % len(subject.requests)
            with own_chance():
                is_right = elsewhere.do(subject.call, i) in ("", RIGHT)
            if now or not is_right:
                self.changing.append(ordinal)
                self.states.setdefault(frozenset(now), []).append(ordinal)
                changed[is_right].update(dict.fromkeys(now))
                stacks.setdefault(is_right, stack_of(frame))

        outcome = self._explain(at)
        predictions = elsewhere.end()
        self.restore()
        errors = [each for each in elsewhere.outcomes if each not in (RIGHT, WRONG, HUNG)]
        some_wrong = False in stacks
        return {
            "predictions": {**predictions, "errors": list(dict.fromkeys(errors))[:3]},
            # Where a prediction went wrong, or else where the explanation changed the model.
            "stack": stacks.get(not some_wrong, []),
            "changed": _described(list(changed[not some_wrong])),
            "explanation": outcome,
        }

    def _explain(self, at: At) -> str:
        explainer = self.explainer
        try:
            explanation = self.holder.run(lambda: explainer.explain(0), at)
            return RIGHT if explainer.is_right(0, explanation) else WRONG
        except BaseException as error:
            return last_line(error)

    def _explain_at_once(self, points: FrozenSet[int]) -> Dict[str, Any]:
        """Lets a whole explanation run at some lines of another one."""
        explainer = self.explainer
        outcomes: List[str] = []
        limit = max(self.subject.limit, 20 * explainer.seconds)
        for point in sorted(spread(self.changing or sorted(points), AT_ONCE)):
            if time.monotonic() > self.deadline:
                break
            elsewhere = Elsewhere(explainer.seconds, limit, explainer.is_right)
            with_another = at_point(point, functools.partial(elsewhere.do, explainer.explain, 1))
            outcomes.append(self._explain(with_another))
            elsewhere.end()
            # What has waited drew its random numbers after others: it cannot be compared.
            is_apart = elsewhere.waited and explainer.random
            outcomes += [end for end in elsewhere.outcomes if not is_apart or end != WRONG]
            self.restore()
            if elsewhere.waited:
                break  # as it would each time
        errors = [each for each in outcomes if each not in (RIGHT, WRONG, HUNG)]
        return {**count(outcomes), "errors": list(dict.fromkeys(errors))[:3]}

    def _fail(self) -> str:
        """How the model predicts once an explanation has failed; "" if that could not be tried.

        It fails with each set of attributes changed: the masks that PyG clears before it sets them
        do no harm. What is changed most comes first.
        """
        worst = ""
        states = sorted(self.states.items(), key=lambda state: len(state[0]), reverse=True)
        chosen = [point for _, points in states for point in spread(points, TIMES)]
        for n, point in enumerate(chosen):
            # What is slow fails a few times all the same.
            is_late = n >= TIMES and time.monotonic() > self.deadline
            if worst not in ("", RIGHT) or is_late:
                break
            if self._explain(at_point(point, _raise)) == RIGHT:
                continue  # it went on all the same
            outcome = self._predict()
            worst = outcome if worst in ("", RIGHT) else worst
            self.restore()
        return worst


def _described(slots: List[Slot]) -> List[Dict[str, Any]]:
    """The attributes by their classes, each with the modules that it was changed in."""
    modules: Dict[Tuple[str, str], List[str]] = {}
    for path, kind, name in slots:
        modules.setdefault((kind, name), []).append(path)
    return [
        {"class": kind, "attribute": name, "modules": paths}
        for (kind, name), paths in modules.items()
    ]


def _raise() -> None:
    raise Failure


class Service(Subject):
    """Answers that are predictions, and at times an explanation.

    Explanations that draw random numbers are made one at a time, for threads share the
    generators. Who would have to wait predicts.
    """

    def __init__(self, explainer: Explainer, compares: bool) -> None:
        subject = explainer.subject
        super().__init__(
            subject.module,
            [*subject.requests, subject.requests[0]],
            subject.tolerance,
            subject.grad,
        )
        self._explainer, self._predictor, self._compares = explainer, subject, compares
        self._turn = threading.Lock()
        self.limit = max(subject.limit, 20 * explainer.seconds)
        predicting = subject.seconds * len(subject.requests)
        self.seconds = (predicting + explainer.seconds) / len(self.requests)

    def call(self, i: int, module: Optional[torch.nn.Module] = None) -> Any:
        """Explains in turn, and predicts else."""
        predictions = len(self._predictor.requests)
        if i < predictions:
            return i, self._predictor.call(i)
        if not self._explainer.random:
            return i, self._explainer.explain(0)
        if self._turn.acquire(False):
            try:
                return i, self._explainer.explain(0)
            finally:
                self._turn.release()
        return 0, self._predictor.call(0)

    def is_right(self, i: int, result: Any) -> bool:
        """Whether a prediction or an explanation is the one of its request."""
        which, kept = result
        if which == len(self._predictor.requests):
            return self._explainer.is_right(0, kept)
        return not self._compares or self._predictor.is_right(which, kept)


def audit(
    given: str, subject: Subject, calls: Optional[int], compares: bool, notify: Notify
) -> Dict[str, Any]:
    """Audits a model together with what explains it.

    Args:
        given: `package.module:factory` of the explainer; it is called with the model.
        subject: The model, and requests. The first two are explained.
        calls: How many calls the stress makes; None for as many as take some seconds.
        compares: Whether predictions can be compared.
        notify: Is told what is going on.

    Raises:
        Problem: If the explainer cannot be made or used.
    """
    with without_compiler():
        plain = subject.results
        subject.results = [subject.alone(i) for i in range(len(subject.requests))]
        try:
            return Audit(given, subject, compares, notify).run(calls)
        finally:
            subject.results = plain
