"""What is said of a model, line by line, each with its style for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from kit.audit.verdict import Verdict, Word

Line = tuple[str, str]  # the text, and its style

_HEADLINES = {
    Word.SAFE: "Safe: no call took what another one had written",
    Word.NOT_SAFE: "Not safe",
    Word.NOT_SHOWN: "Not shown to be safe: nothing went wrong, but not all could be ruled out",
}


def lines_of(
    model: str, verdict: Verdict, report: Mapping[str, Any], *, show_all: bool
) -> Iterator[Line]:
    """The verdict, its reasons or conditions, and the evidence.

    Args:
        model: How the user calls it.
        verdict: What is said of it.
        report: What the program saw.
        show_all: Whether to show what every call writes alike, too.
    """
    is_safe = verdict.word is Word.SAFE
    conditions = verdict.conditions if is_safe else ()
    headline = _HEADLINES[verdict.word] + (", if" if conditions else ".")
    yield headline, "bold green" if is_safe else "bold red"
    for condition in conditions:
        yield f"  - {condition}", ""
    for reason in verdict.reasons:
        yield f"  - {reason.text}", ""
    pyg = f"PyG {report['torch_geometric']}, " if report["torch_geometric"] else ""
    versions = f"{pyg}torch {report['torch']}, Python {report['python']}"
    yield f"{model}: {report['modules']} modules; {versions}", ""
    yield f"It rests on {verdict.basis}.", ""
    yield "Evidence", "bold"
    yield from _evidence(report, show_all)
    if verdict.allowed:
        yield f"  Allowed: {', '.join(verdict.allowed)}", ""


def _evidence(report: Mapping[str, Any], show_all: bool) -> Iterator[Line]:
    hidden = [write for write in report["writes"] if write["same"] and not show_all]
    for write in report["writes"]:
        if write not in hidden:
            yield from _of_write(write)
    if not report["writes"]:
        yield "  A call writes nothing that another one can see.", ""
    if hidden:
        yield f"  {len(hidden)} more, to which every call writes the same (--all shows them).", ""
    stress = report["stress"]
    right = f"{stress['right']} right" if stress["compared"] else f"{stress['right']} ended"
    yield (
        f"  {stress['threads']} threads, {stress['calls']} calls: {right}, {stress['crashed']} "
        f"crashed, {stress['silently_wrong']} silently wrong, {stress['hung']} threads hung",
        "",
    )
    for error in stress["errors"]:
        yield f"    {error}", "red"
    if report.get("explained"):
        yield from _of_explaining(report["explained"])
    for note in report["notes"]:
        yield f"  {note}", ""
    for file in report["unread"]:
        yield f"  {file} was run, but its source was not read: it does not parse here.", ""


def _of_explaining(explained: Mapping[str, Any]) -> Iterator[Line]:
    yield f"  {explained['explainer']} explains", "bold"
    for what, ends in (
        ("predictions between its steps", explained["predictions"]),
        ("explanations, two at once", explained["at_once"]),
        (f"of both by {explained['stress']['threads']} threads", explained["stress"]),
    ):
        counts = (
            f"{ends['right']} right, {ends['crashed']} crashed, {ends['silently_wrong']} silently "
            f"wrong, {ends['hung']} hung"
        )
        yield f"    {ends['calls']} {what}: {counts}", ""
        for error in ends["errors"]:
            yield f"      {error}", "red"
    if explained["predictions"]["right"] < explained["predictions"]["calls"]:
        for file, line, function in explained["stack"][:3]:
            yield f"    held    {file}:{line} ({function})", ""


def _of_write(write: Mapping[str, Any]) -> Iterator[Line]:
    where = write["submodule"] or "the model itself"
    more = f" and {len(write['others'])} more" if write["others"] else ""
    yield f"  {where}{more} ({write['class']}): {write['attribute']}", "bold"
    for label, places in (("written", write["written"]), ("read", write["read"])):
        for file, line, function in places[:3]:
            yield f"    {label:8}{file}:{line} ({function})", ""
    forced = write["interleaved"]
    if write["verdict"] == "confirmed" and forced:
        yield (
            f"    forced  {forced['right']} of {forced['calls']} calls right, "
            f"{forced['crashed']} crashed, {forced['silently_wrong']} silently wrong",
            "red",
        )
    else:
        kind = f" ({write['kind']} by its source)" if write["kind"] else ""
        yield f"    {write['verdict']}{kind}: {write['reason']}", "dim"
