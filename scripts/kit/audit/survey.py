"""What the layers of a PyG write to `self` in a call, and what that does to threads.

Puts what their source says (`static`) and what they do (`programs/audit`) together.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.audit import static
from kit.audit.kinds import REVIEWED, Kind, Write, load_reviewed
from kit.audit.running import run_program
from kit.audit.verdict import is_allowed


@dataclass(frozen=True)
class Finding:
    """An attribute that calls write, of one class.

    Attributes:
        cls: The class.
        attribute: The attribute.
        kind: The static class, as the values of `kinds.Kind`; "" where only the run saw it.
        written: Places, as `file:line (method)`.
        read: Places, as `file:line`.
        verdict: `confirmed`, `refuted`, `not forced`, `not read back`; "" where it did not run.
        reason: Why, in words: of the run where there is a verdict, else of the rules.
        crashed: How many of the calls that were forced to interleave crashed.
        silently_wrong: How many of them returned something else.
    """

    cls: str
    attribute: str
    kind: str
    written: tuple[str, ...]
    read: tuple[str, ...]
    verdict: str = ""
    reason: str = ""
    crashed: int = 0
    silently_wrong: int = 0

    @property
    def only_if_used(self) -> bool:
        """Whether a person has found that it matters to nobody but who uses this very class."""
        return any(
            entry.cls == self.cls
            and entry.attribute in (self.attribute, "*")
            and entry.only_if_used
            for entry in load_reviewed()
        )

    @property
    def races(self) -> bool:
        """Whether threads take each other's value: seen, or by the rules where it was not tried."""
        untried = self.verdict in ("", "not forced")
        return self.verdict == "confirmed" or (self.kind == Kind.RACE.value and untried)


@dataclass
class Survey:
    """What was found in one tree.

    Attributes:
        release: The version of PyG, as its release is pinned, or as the tree says.
        python: The version of Python; "" where nothing ran.
        torch: The version of torch.
        layers: The names of the layers that ran.
        failed: Those that could not be run, with the error.
        racing: Of those that ran, the ones that hold a class which races.
        findings: The attributes that are written.
    """

    release: str
    python: str = ""
    torch: str = ""
    layers: list[str] = field(default_factory=list)
    racing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def survey(
    root: Path,
    release: str,
    python: Path | None,
    *,
    path: bool = True,
    notify: Callable[[str], None] = lambda message: None,
    layers: Sequence[str] = (),
) -> Survey:
    """Audits the layers of a tree.

    Args:
        root: The directory that holds `torch_geometric/`.
        release: What to call it.
        python: An interpreter that can import it; None reads the sources alone.
        path: Whether to put the tree on the interpreter's path, or to take the PyG it has.
        notify: Is told which layer runs.
        layers: The classes to audit alone; none of them means all.

    Raises:
        UsageError: If one of `layers` cannot be run.
        TreeError: If there is no PyG, or a file of it does not parse.
        ToolError: If the program that runs the layers fails.
    """
    read = by_attribute(static.audit_tree(root))
    if layers:
        read = {key: finding for key, finding in read.items() if finding.cls in layers}
    if python is None:
        return Survey(release, findings=[read[key] for key in sorted(read)])
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as home:
        # PyG 2.5.0 leaves compiled templates there, under names that all trees share.
        tree = root if path else None
        arguments = ["layers", *(f"--layer={name}" for name in layers)]
        ran = run_program(python, arguments, tree=tree, home=Path(home), notify=notify)
    result = Survey(release, ran["python"], ran["torch"])
    dynamic: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, layer in ran["layers"].items():
        forms = layer["forms"]
        errors = [form["error"] for form in forms.values() if "error" in form]
        if len(errors) == len(forms):
            result.failed[name] = errors[0]
            continue
        result.layers.append(name)
        writes = [write for form in forms.values() for write in form.get("writes", ())]
        if any(write["verdict"] == "confirmed" for write in writes):
            result.racing.append(name)
        for write in writes:
            if write["verdict"] in _VERDICTS:
                dynamic.setdefault((write["class"], write["attribute"]), []).append(write)
    result.findings = _join(read, dynamic)
    return result


@dataclass(frozen=True)
class Judged:
    """What races in a tree.

    Attributes:
        races: What counts against it.
        left_out: What matters only to who uses that very class.
        allowed: What the user says is harmless.
    """

    races: list[Finding]
    left_out: list[Finding]
    allowed: list[Finding]


def judge(result: Survey, allowed: Collection[str]) -> Judged:
    """Judges what was found in a tree.

    Args:
        result: What was found.
        allowed: The attributes that the user allows, as `Class.attribute` or `Class.*`.
    """
    racing = [finding for finding in result.findings if finding.races]
    left_out = [finding for finding in racing if finding.only_if_used]
    harmless = [f for f in racing if is_allowed(f"{f.cls}.{f.attribute}", allowed)]
    races = [finding for finding in racing if finding not in (*left_out, *harmless)]
    return Judged(races, left_out, harmless)


def by_attribute(writes: Iterable[Write]) -> dict[tuple[str, str], Finding]:
    """One finding an attribute, of the writes that the source can make."""
    order = [kind.value for kind in Kind]
    findings: dict[tuple[str, str], Finding] = {}
    for write in writes:
        # `model._mask` is one finding with what else is written to `model`'s parts.
        key = (write.cls, write.attribute)
        place = f"{write.file}:{write.line} ({write.method})"
        reads = tuple(f"{file}:{line}" for file, line in write.reads)
        new = Finding(*key, write.kind.value, (place,), reads, reason=write.reason)
        old = findings.get(key)
        if old is not None:
            worst = min(old, new, key=lambda each: order.index(each.kind))
            written = tuple(dict.fromkeys([*old.written, place]))
            reads = tuple(dict.fromkeys([*old.read, *reads]))
            new = Finding(*key, worst.kind, written, reads, reason=worst.reason)
        findings[key] = new
    return findings


# The verdict that counts, where the forms of a layer differ. First calls are left to the source.
_VERDICTS = ["confirmed", "with others", "carried", "refuted", "not forced", "not read back"]


def _join(
    read: Mapping[tuple[str, str], Finding],
    dynamic: Mapping[tuple[str, str], list[dict[str, Any]]],
) -> list[Finding]:
    """One finding an attribute, from what the source says and from what the run did."""
    joined = dict(read)
    # A write into an object that a layer holds is read as the layer's, and watched as the
    # object's: the line is the same.
    by_place = {place: key for key, finding in read.items() for place in finding.written}
    for own_key, writes in dynamic.items():
        places = [place for write in writes for place in _places(write["written"])]
        key = own_key
        if key not in read:
            key = next((by_place[place] for place in places if place in by_place), key)
        worst = min(writes, key=lambda write: _VERDICTS.index(write["verdict"]))
        forced = worst["interleaved"] or {"crashed": 0, "silently_wrong": 0}
        known = read.get(key) or Finding(*key, "", _places(worst["written"]), ())
        reads = known.read or tuple(f"{file}:{line}" for file, line, _ in worst["read"])
        joined[key] = Finding(
            *key,
            known.kind,
            known.written,
            reads,
            _word_of_verdict(worst["verdict"]),
            # What a person has found out says more than that it was not tried.
            known.reason if _is_reviewed(known) else worst["reason"],
            forced["crashed"],
            forced["silently_wrong"],
        )
    return [joined[key] for key in sorted(joined)]


def _word_of_verdict(verdict: str) -> str:
    """What comes of another attribute's mix-up is no race of this one."""
    return {"with others": "refuted", "carried": "not forced"}.get(verdict, verdict)


def _is_reviewed(finding: Finding) -> bool:
    return finding.reason.startswith(REVIEWED)


def _places(places: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    return tuple(f"{file}:{line} ({function})" for file, line, function in places)
