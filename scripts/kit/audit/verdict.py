"""The verdict on a model: a pure function of what the program saw and what the source says.

Three words. A model is *safe* where all that its calls share was watched, and no call took
what another one had written; *not safe* where one did, or died, or hung; and *not shown to
be safe* where something could not be watched, compared, or tried.
"""

import enum
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Word(enum.Enum):
    """A verdict in a word or some."""

    SAFE = "safe"
    NOT_SAFE = "not safe"
    NOT_SHOWN = "not shown to be safe"

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        return 0 if self is Word.SAFE else 1


class Cause(enum.Enum):
    """Why a model is not safe, or not shown to be."""

    # Not safe.
    MIXED_UP = "mixed up"
    CARRIED = "carried"
    FIRST_CALL = "first call"
    IDENTITY = "kept by address"
    DEADLOCK = "deadlock"
    NO_GIL = "written without a lock"
    WRONG = "wrong"
    CRASHED = "crashed"
    HUNG = "hung"
    DIED = "died"
    ARGUMENTS = "arguments"
    EXPLAINED = "explained"
    # Not shown.
    RANDOM = "random"
    UNWATCHED = "unwatched"
    UNTRIED = "untried"
    UNREACHED = "unreached"


NOT_SAFE = (
    Cause.MIXED_UP,
    Cause.CARRIED,
    Cause.FIRST_CALL,
    Cause.IDENTITY,
    Cause.DEADLOCK,
    Cause.NO_GIL,
    Cause.WRONG,
    Cause.CRASHED,
    Cause.HUNG,
    Cause.DIED,
    Cause.ARGUMENTS,
    Cause.EXPLAINED,
)


@dataclass(frozen=True)
class Reason:
    """One thing that keeps a model from being safe.

    Attributes:
        cause: Of what kind it is.
        text: A sentence for the reader.
        name: The attribute, as `Class.attribute`; "" where there is none.
        places: The lines that write it, as `file:line`.
    """

    cause: Cause
    text: str
    name: str = ""
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What is said of a model.

    Attributes:
        word: The verdict.
        reasons: Why it is not safe, or not shown to be; the gravest first.
        conditions: Under which a safe model is safe.
        basis: What the verdict rests on, in a sentence.
        allowed: The attributes that the user allows, and that would have counted.
    """

    word: Word
    reasons: tuple[Reason, ...]
    conditions: tuple[str, ...]
    basis: str
    allowed: tuple[str, ...]


def judge(report: Mapping[str, Any], allowed: Collection[str] = ()) -> Verdict:
    """Says whether threads can share a model.

    Args:
        report: What `programs/audit` printed of the model, with the writes that its source
            can make in `static` (see `kit.audit.survey.join`).
        allowed: Attributes whose writes do not count, as `Class.attribute`.
    """
    reasons = [
        *_of_writes(report),
        *_of_other_evidence(report),
        *_of_stress(report["stress"]),
        *_of_explaining(report.get("explained")),
        *_of_what_was_not_seen(report),
        *_of_source(report),
    ]
    left_out = {reason.name for reason in reasons if is_allowed(reason.name, allowed)}
    reasons = [reason for reason in reasons if reason.name not in left_out or not reason.name]
    reasons.sort(key=lambda reason: list(Cause).index(reason.cause))
    unsafe = [reason for reason in reasons if reason.cause in NOT_SAFE]
    word = Word.NOT_SAFE if unsafe else Word.NOT_SHOWN if reasons else Word.SAFE
    return Verdict(
        word,
        tuple(dict.fromkeys(reasons)),
        tuple(_conditions(report)),
        _basis(report),
        tuple(sorted(left_out)),
    )


def is_allowed(name: str, allowed: Collection[str]) -> bool:
    """Whether the user allows an attribute, by its name or by `Class.*`."""
    return bool(name) and (name in allowed or f"{name.split('.')[0]}.*" in allowed)


def name_of(write: Mapping[str, Any]) -> str:
    """An attribute as `Class.attribute`."""
    return f"{write['class']}.{write['attribute']}".rstrip(".")


def places_of(write: Mapping[str, Any]) -> tuple[str, ...]:
    """The lines that write an attribute."""
    return tuple(f"{file}:{line}" for file, line, _ in write["written"])


def _of_writes(report: Mapping[str, Any]) -> Iterator[Reason]:
    some_confirmed = any(write["verdict"] == "confirmed" for write in report["writes"])
    for write in report["writes"]:
        name, places, verdict = name_of(write), places_of(write), write["verdict"]
        if verdict == "confirmed" and _is_in_one_graph(write, report):
            text = (
                f"As Python code, threads take each other's {name}. It was compiled into one "
                f"graph, which may keep the value to itself, and that cannot be watched."
            )
            yield Reason(Cause.UNWATCHED, text, name, places)
        elif verdict == "confirmed":
            text = f"Threads take each other's {name}: {write['reason']}."
            yield Reason(Cause.MIXED_UP, text, name, places)
        elif verdict == "carried":
            text = f"A call reads {name} as another call has left it."
            cause = Cause.CARRIED if report["carried"] else Cause.RANDOM
            yield Reason(cause, text, name, places)
        elif verdict == "not forced":
            yield Reason(Cause.UNTRIED, f"{name}: {write['reason']}.", name, places)
        elif verdict == "with others" and not some_confirmed:
            text = f"Threads take each other's values, {name} among them: {write['reason']}."
            yield Reason(Cause.MIXED_UP, text, name, places)
        elif verdict == "first call" and _may_come_again(write):
            text = (
                f"Only first calls wrote {name} on these inputs, and what they write depends on "
                f"the call: others may write it again, such as inputs of another size."
            )
            yield Reason(Cause.UNTRIED, text, name, places)


def _is_in_one_graph(write: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether torch.compile has made one graph of the code that writes an attribute."""
    return "_orig_mod" in write["submodule"].split(".") and not report["graph_breaks"]


def _may_come_again(write: Mapping[str, Any]) -> bool:
    """Whether what a first call wrote may be written again by later ones."""
    kind = write.get("kind", "")
    return kind == "race" or (bool(write["depends_on_input"]) and kind not in _HARMLESS_FIRST)


_HARMLESS_FIRST = ("lazy initialisation", "cache by key", "idempotent", "cache by request")


def _of_other_evidence(report: Mapping[str, Any]) -> Iterator[Reason]:
    if report["first_calls_differ"] and not report["nondeterministic"]:
        names = [name_of(write) for write in report["writes"] if write["first_call_only"]]
        names += [name for name in report.get("left_by_first_calls", ()) if name not in names]
        outside = ": something is kept outside of it, as by a library or a memoised function"
        about = f" ({', '.join(names[:5])})" if names else outside
        places = tuple(p for w in report["writes"] if w["first_call_only"] for p in places_of(w))
        text = f"What a call returns depends on which call came first{about}."
        yield Reason(Cause.FIRST_CALL, text, places=places)
    if report.get("confuses_new_arguments"):
        text = (
            "Arguments that are equal, but new objects, get another result: something is kept by "
            "the address of an argument (`id()`, `data_ptr()`), which a later one has again."
        )
        yield Reason(Cause.IDENTITY, text)
    for locks in report["locks"]:
        one, other = locks["places"]
        if locks["hung"]:
            text = f"Two calls wait for each other's lock forever: {one} and {other}."
            yield Reason(Cause.DEADLOCK, text, places=(one, other))
    for change in report["scripted"]:
        name, file = f"{change['class']}.{change['attribute']}", change["file"]
        place = f"{file}:{change['line'] or '?'}"
        if change.get("archived"):
            text = (
                f"TorchScript code writes {name} without Python's lock. It was made from another "
                f"{file} than the one at hand: an archive keeps the code of its time."
            )
        else:
            text = f"TorchScript code writes {name} ({place}) without Python's lock."
        cause = Cause.UNREACHED if change["conditional"] else Cause.NO_GIL
        yield Reason(cause, text, name, (place,))
    explored = report["explored"]
    if explored and explored["reason"]:
        about = (
            f", and calls use the generator of {', '.join(report['random'])}"
            if report["random"]
            else ""
        )
        places = tuple(f"{file}:{line}" for file, line, _ in explored["blamed"])
        after = f" The lines that ran just before are {' and '.join(places)}." if places else ""
        text = f"Calls disturb each other: {explored['reason']}{about}.{after}"
        yield Reason(Cause.WRONG, text, places=places)
    if report["arguments"]["changed"] and report["arguments"]["shared"]:
        text = "A call changes its arguments in place, and the inputs share what it changes."
        yield Reason(Cause.ARGUMENTS, text)


def _of_stress(stress: Mapping[str, Any]) -> Iterator[Reason]:
    about = f"of {stress['calls']} calls by {stress['threads']} threads"
    if stress["died"]:
        yield Reason(
            Cause.DIED, f"The process died of {stress['died']} while threads called the model."
        )
    if stress["hung"]:
        yield Reason(
            Cause.HUNG, f"{stress['hung']} of {stress['threads']} threads never came back."
        )
    if stress["crashed"]:
        errors = f": {stress['errors'][0]}" if stress["errors"] else ""
        yield Reason(Cause.CRASHED, f"{stress['crashed']} {about} raised an error{errors}.")
    if stress["silently_wrong"]:
        text = f"{stress['silently_wrong']} {about} returned a silently wrong result."
        yield Reason(Cause.WRONG, text)


def _of_explaining(explained: Mapping[str, Any] | None) -> Iterator[Reason]:
    """What goes wrong while the model is explained, and after."""
    if explained is None:
        return
    places = tuple(f"{file}:{line}" for file, line, _ in explained["stack"])

    def because(text: str) -> Reason:
        return Reason(Cause.EXPLAINED, text, places=places)

    changes = _changes(explained["changed"])
    predictions, at_once = explained["predictions"], explained["at_once"]
    if number := predictions["crashed"] + predictions["silently_wrong"]:
        yield because(
            f"While one thread explains, others predict wrongly: {number} of "
            f"{predictions['calls']} predictions.{changes}"
        )
    if predictions["hung"]:
        text = f"{predictions['hung']} predictions that began while it was explained never ended."
        yield Reason(Cause.HUNG, text, places=places)
    if explained["explanation"] != "right":
        yield because(
            f"If others predict meanwhile, an explanation ends with another result than alone: "
            f"{explained['explanation']}.{'' if number else changes}"
        )
    if number := at_once["calls"] - at_once["right"]:
        yield because(
            f"Explanations disturb each other: of {at_once['calls']} that were made two at once, "
            f"{number} ended with another result than alone."
        )
    if explained["afterwards"] != "right":
        left = _changes(explained["left"], "It leaves")
        yield because(
            f"Once explained, it predicts wrongly from then on, in one thread, too.{left}"
        )
    if explained["after_a_failure"] not in ("right", ""):
        text = (
            "If an explanation fails, the model predicts wrongly from then on, in one thread, too."
        )
        yield because(text)
    yield from _of_serving(explained, because)
    if explained["uncompared"]:
        kinds = ", ".join(explained["uncompared"])
        yield Reason(Cause.UNWATCHED, f"Explanations hold what cannot be compared: {kinds}.")
    elif not explained["compared"]:
        text = (
            "The same explanation comes out differently each time, with the generators seeded, "
            "too, so that mix-ups of explanations could not be seen."
        )
        yield Reason(Cause.RANDOM, text)


def _of_serving(explained: Mapping[str, Any], because: Callable[[str], Reason]) -> Iterator[Reason]:
    stress = explained["stress"]
    about = f"of {stress['calls']} predictions and explanations by {stress['threads']} threads"
    if stress["died"]:
        text = f"The process died of {stress['died']} while threads predicted and explained."
        yield Reason(Cause.DIED, text)
    if stress["hung"]:
        text = f"{stress['hung']} of {stress['threads']} threads that did both never came back."
        yield Reason(Cause.HUNG, text)
    if stress["crashed"]:
        error = stress["errors"][0].rstrip(".")
        yield because(f"{stress['crashed']} {about} raised an error: {error}.")
    if stress["silently_wrong"]:
        yield because(f"{stress['silently_wrong']} {about} returned a silently wrong result.")


def _changes(changed: Sequence[Mapping[str, Any]], what: str = "It changes") -> str:
    """Which attributes an explanation changes in which modules, as a sentence of its own."""
    modules: dict[tuple[str, str], list[str]] = {}
    for each in changed:
        for path in each["modules"]:
            modules.setdefault((path, each["class"]), []).append(each["attribute"])
    alike: dict[tuple[str, ...], list[str]] = {}
    for (path, cls), attributes in modules.items():
        where = f"{path or 'the model itself'} ({cls})"
        alike.setdefault(tuple(sorted(attributes)), []).append(where)
    texts = [
        f"{_enumerate(attributes, 6)} of {', '.join(where[:3])}"
        + (f" and {len(where) - 3} more" if len(where) > 3 else "")
        for attributes, where in list(alike.items())[:3]
    ]
    return f" {what} {'; '.join(texts)}." if texts else ""


def _of_what_was_not_seen(report: Mapping[str, Any]) -> Iterator[Reason]:
    if report["nondeterministic"] and not report["carried"]:
        if report["random"]:
            generators = ", ".join(report["random"])
            text = (
                f"Calls draw random numbers ({generators}), so their results could not be compared."
            )
        else:
            text = (
                "The same call returns another result each time, and the cause is not known: the "
                "time, an address, or the order of sums on a GPU (try --tolerance)."
            )
        yield Reason(Cause.RANDOM, text)
    elif report["nondeterministic"]:
        yield Reason(
            Cause.CARRIED, "What a call returns depends on the calls before it, in one thread, too."
        )
    if report["uncompared"]:
        kinds = ", ".join(report["uncompared"])
        yield Reason(Cause.UNWATCHED, f"Results hold what cannot be compared: {kinds}.")
    for thing in report["unwatched"]:
        kind = f", a {thing['kind']}" if thing["kind"] else ""
        yield Reason(Cause.UNWATCHED, f"{thing['name']}{kind}: {thing['why']}.", thing["name"])


def _of_source(report: Mapping[str, Any]) -> Iterator[Reason]:
    """What the source can write, and the run neither did nor ruled out."""
    for write in report["writes"]:
        if write.get("kind") == "race" and write["verdict"] == "refuted" and write["same"]:
            text = (
                f"{name_of(write)} depends on the call by its source, and every call wrote the "
                f"same value on these inputs: use inputs that differ more, in their sizes, too."
            )
            yield Reason(Cause.UNREACHED, text, name_of(write), places_of(write))
        if write["verdict"] == "not read back" and not write["same"] and write.get("source_reads"):
            text = (
                f"Calls write {name_of(write)}, and none of them read it on these inputs, but the "
                f"source can ({write['source_reads'][0]})."
            )
            yield Reason(Cause.UNREACHED, text, name_of(write), places_of(write))
    for entry in report.get("static", ()):
        # A branch that no condition of the call decides was taken by none of them.
        if entry["kind"] == "race" and not entry["ran"] and entry["conditional"]:
            name = f"{entry['class']}.{entry['attribute']}"
            text = f"The source can write {name} ({entry['written'][0]}), and these calls did not."
            yield Reason(Cause.UNREACHED, text, name, tuple(entry["written"]))


def _conditions(report: Mapping[str, Any]) -> Iterator[str]:
    if report["lazy"] or any(write["first_call_only"] for write in report["writes"]):
        names = [name_of(write) for write in report["writes"] if write["first_call_only"]]
        what = f" writes {_enumerate(names)}" if names else " makes its parameters"
        yield f"one call is made before threads share it: the first one{what}"
    unread = [name_of(write) for write in report["writes"] if write["verdict"] == "not read back"]
    if unread:
        yield f"nobody reads {_enumerate(unread)} after a call: it may be another call's"
    if report["arguments"]["changed"]:
        yield "callers do not share their arguments: a call changes them in place"
    refuted = [
        name_of(write)
        for write in report["writes"]
        if write["verdict"] == "refuted" and not write["same"] and not write.get("blocked")
    ]
    if refuted:
        yield (
            f"calls are like these: each one writes {_enumerate(refuted)}, and that changed no "
            f"result"
        )
    yield from _conditions_of_explaining(report)
    if report["compiled"]:
        yield "it was compiled for the shapes of all requests before threads share it"


def _conditions_of_explaining(report: Mapping[str, Any]) -> Iterator[str]:
    explained = report.get("explained")
    if explained is not None and explained["random"]:
        generators = ", ".join(explained["random"])
        yield (
            f"nobody needs the same explanation twice: it draws from a generator of random numbers "
            f"that all threads share ({generators})"
        )
    if not any(each["class"] == "MessagePassing" for each in report["classes"]):
        return
    explains_copies = report.get("explains_copies")
    if explained is not None and not explains_copies:
        yield "nobody explains it in another way: PyG's explainers set masks on its layers"
    elif explained is None and explains_copies:
        yield (
            "nobody calls `set_masks()` on it meanwhile, nor explains it while something else "
            "refers to its modules: what PyG's explainers else do, they do to a copy"
        )
    elif explained is None:
        yield (
            "nobody explains it meanwhile: PyG's explainers set masks on its layers (--explainer "
            "audits both together)"
        )


def _enumerate(names: Sequence[str], most: int = 3) -> str:
    shown = [f"`{name}`" for name in dict.fromkeys(names)]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def _basis(report: Mapping[str, Any]) -> str:
    stress, watched = report["stress"], report["watched"]
    forced = sum((write["interleaved"] or {}).get("calls", 0) for write in report["writes"])
    explored = (report["explored"] or {}).get("points", 0)
    methods = ", ".join(f"{method}()" for method in report["methods"])
    seconds = "" if stress["seconds"] is None else f" in {stress['seconds']} s"
    explained = report.get("explained")
    explaining = (
        f"; {explained['predictions']['calls']} predictions forced between the steps of an "
        f"explanation, {explained['at_once']['calls']} explanations two at once, "
        f"{explained['stress']['calls']} of both by {explained['stress']['threads']} threads"
        if explained
        else ""
    )
    return (
        f"{methods} of {report['requests']} requests; {watched['modules']} modules and "
        f"{watched['functions']} functions of {len(watched['files'])} files watched; {forced} "
        f"calls forced to interleave at what is written, {explored} at other lines; "
        f"{stress['calls']} calls by {stress['threads']} threads{seconds}{explaining}"
    )
