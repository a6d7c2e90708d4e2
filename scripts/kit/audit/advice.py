"""What to do about a race: keyed by the file that is written, whatever the class is called."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from kit.audit.model import absolute
from kit.audit.verdict import Cause, Reason, Verdict, Word, name_of
from kit.places import door
from kit.releases import Catalogue, Release


@dataclass(frozen=True)
class Advice:
    """A thing to do: a sentence, and commands or code below it."""

    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fixes:
    """How PyG is rid of the races in one of its files.

    Attributes:
        series: The patch series that changes it in this release; "" if there is none.
        release: A later release in which upstream has fixed it; "" if there is none.
    """

    series: str = ""
    release: str = ""


def find_fixes(catalogue: Catalogue, release: Release | None, file: str) -> Fixes:
    """Finds what mends a file of PyG.

    Args:
        catalogue: The releases and patches.
        release: The one at hand; None where it is none of them.
        file: The file, as `torch_geometric/...`.
    """
    if release is None:
        return Fixes()
    series = next(
        (
            patch.series
            for patch in release.patches
            if release.status.get(patch.series) == "affected"
            and any(change.path == file for change in patch.changes)
        ),
        "",
    )
    fixed = catalogue.fixed_in(series) if series else None
    is_newer = fixed is not None and Version(fixed.version) > Version(release.version)
    return Fixes(series, fixed.version if fixed is not None and is_newer else "")


def advise(
    verdict: Verdict,
    report: Mapping[str, Any],
    catalogue: Catalogue,
    release: Release | None,
    tree: Path | None,
) -> list[Advice]:
    """Says what to do about a model that is not safe, or not shown to be.

    Args:
        verdict: What is said of it.
        report: What the program saw.
        catalogue: The releases and patches.
        release: The release of PyG that it runs on, if it is a known one.
        tree: Where that lies.
    """
    return list(dict.fromkeys(_advise(verdict, report, catalogue, release, tree)))


def _advise(
    verdict: Verdict,
    report: Mapping[str, Any],
    catalogue: Catalogue,
    release: Release | None,
    tree: Path | None,
) -> Iterator[Advice]:
    if verdict.word is Word.SAFE:
        return
    reasons = verdict.reasons
    writes = {name_of(write): write for write in report["writes"]}
    to_come = False
    archived = {each["file"] for each in report["scripted"] if each.get("archived")}
    for file, of_file in _by_file(reasons).items():
        if file in archived:
            yield _script_again(file, release, tree)
        elif file.startswith("torch_geometric/"):
            fixes = find_fixes(catalogue, release, file)
            to_come |= bool(fixes.series or fixes.release)
            yield from _for_pyg(file, of_file, fixes, release, tree, writes)
        else:
            yield from _for_own_code(file, of_file, writes, tree)
    if any(reason.cause is Cause.EXPLAINED for reason in reasons):
        yield from _for_explaining(report, catalogue, release, tree)
    yield from _by_cause(reasons, report)
    if any(reason.cause in _LOCKABLE for reason in reasons):
        yield _lock(to_come)


def _by_file(reasons: Sequence[Reason]) -> dict[str, list[Reason]]:
    """The reasons by the file that is written."""
    files: dict[str, list[Reason]] = {}
    for reason in reasons:
        for file in dict.fromkeys(place.rpartition(":")[0] for place in reason.places):
            if reason.cause in _CODE and not file.startswith("<"):
                files.setdefault(file, []).append(reason)
    return files


_CODE = (
    Cause.MIXED_UP,
    Cause.WRONG,
    Cause.NO_GIL,
    Cause.UNTRIED,
    Cause.UNREACHED,
    Cause.FIRST_CALL,
)
_LOCKABLE = (Cause.MIXED_UP, Cause.NO_GIL, Cause.WRONG, Cause.CRASHED)


def _for_pyg(
    file: str,
    reasons: Sequence[Reason],
    fixes: Fixes,
    release: Release | None,
    tree: Path | None,
    writes: Mapping[str, Mapping[str, Any]],
) -> Iterator[Advice]:
    names = ", ".join(dict.fromkeys(reason.name for reason in reasons if reason.name))
    if fixes.series and release is not None:
        command = [*door("apply"), release.version]
        command += ["--tree", str(tree)] if tree is not None else []
        text = f"Patch PyG: {fixes.series} mends {file}, which writes {names}, in subclasses, too."
        if any(reason.cause is Cause.NO_GIL for reason in reasons):
            text += " Then script the model again."
        yield Advice(text, (shlex.join(command),))
        for reason in reasons:
            write = writes.get(reason.name)
            others = [r for r in write["read"] if r[0] != file] if write else []
            if others:
                places = ", ".join(f"{f}:{line}" for f, line, _ in others)
                yield Advice(
                    f"{places} reads {reason.name}, which the patch takes away: let it take the "
                    f"value from what the layer returns (return_attention_weights=True)."
                )
    if fixes.release:
        yield Advice(f"Or upgrade PyG to {fixes.release}, where upstream has fixed {file}.")
    if not fixes.series and not fixes.release:
        yield Advice(f"{file} is PyG's, and no patch here and no later release changes {names}.")


def _script_again(file: str, release: Release | None, tree: Path | None) -> Advice:
    """For an archive that was scripted from another PyG than the one at hand."""
    where = f"Patch the PyG that the model is scripted with ({file}), script the model again, and "
    text = f"{where}ship that archive: patching PyG where an archive is loaded changes nothing."
    if release is None:
        return Advice(text)
    command = [*door("apply"), release.version]
    command += ["--tree", str(tree)] if tree is not None else []
    return Advice(text, (shlex.join(command),))


def _for_explaining(
    report: Mapping[str, Any], catalogue: Catalogue, release: Release | None, tree: Path | None
) -> Iterator[Advice]:
    """Lets explanations work on a copy: by the patch of the kit's, or by hand."""
    files = {file for file, _, _ in report["explained"]["stack"]}
    is_pygs = any(find_fixes(catalogue, release, file).series == "explainer" for file in files)
    patches = is_pygs and release is not None and not report.get("explains_copies")
    if patches and release is not None:
        command = [*door("apply"), release.version]
        command += ["--tree", str(tree)] if tree is not None else []
        yield Advice(
            "Patch PyG: with the series explainer, its explainers work on a structural copy of the "
            "model, with the same parameters.",
            (shlex.join([*command, "--only", "explainer"]),),
        )
    elif is_pygs:
        yield Advice(
            "The explainers of this PyG are patched, and work on a copy unless something else "
            "refers to the modules of the model, such as a closure, a hook, or what "
            "torch.compile returns."
        )
    yield Advice(
        f"{'Until then' if patches else 'Or'}, explain a copy, one explanation at a time. What is "
        f"loaded or trained later has to be copied again.",
        (
            "explainer = make_explainer(copy.deepcopy(model))",
            "lock = threading.Lock()  # one an explainer",
            "with lock:",
            "    explanation = explainer(...)",
        ),
    )


def _for_own_code(
    file: str,
    reasons: Sequence[Reason],
    writes: Mapping[str, Mapping[str, Any]],
    tree: Path | None,
) -> Iterator[Advice]:
    path = absolute(file, tree)
    for reason in reasons:
        places = [place for place in reason.places if place.rpartition(":")[0] == file]
        package = _package_of(path)
        whose = f"the code of the package {package}" if package else "your own code"
        attribute = reason.name.partition(".")[2] or reason.name
        what = f"{', '.join(places[:3])} writes {attribute}" if attribute else ", ".join(places)
        text = (
            f"{what}: this is {whose}. Keep the value local to the call: pass it as an argument, "
            f"or return it."
        )
        if package:
            text += " Tell its authors, and let one call at a time in until they have changed it."
        write = writes.get(reason.name)
        yield Advice(text, tuple(_rewritten(path, write, attribute)))


def _package_of(path: Path) -> str:
    """The installed package that a file belongs to; "" if it is none."""
    for name in ("site-packages", "dist-packages"):
        if name in path.parts:
            return path.parts[path.parts.index(name) + 1]
    return ""


def _rewritten(path: Path, write: Mapping[str, Any] | None, attribute: str) -> Iterator[str]:
    """The lines that write and read an attribute of `self`, and how they read with a local name."""
    if write is None or not attribute.isidentifier():
        return
    try:
        source = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    places = [(f, line) for f, line, _ in (*write["written"], *write["read"])]
    numbers = sorted({line for f, line in places if Path(f).name == path.name})
    before = [source[n - 1] for n in numbers if 0 < n <= len(source)][:4]
    name = attribute.lstrip("_") or attribute
    after = [re.sub(rf"\bself\.{re.escape(attribute)}\b", name, line) for line in before]
    if before != after:
        functions = {function for _, _, function in write["written"] + write["read"]}
        yield from (f"- {line.strip()}" for line in before)
        yield from (f"+ {line.strip()}" for line in after)
        if len(functions) > 1:
            yield f"  (and hand `{name}` from {' to '.join(sorted(functions))} as an argument)"


def _by_cause(reasons: Sequence[Reason], report: Mapping[str, Any]) -> Iterator[Advice]:
    causes = {reason.cause for reason in reasons}
    if Cause.CARRIED in causes:
        yield Advice(
            "It carries state from one call to the next: give each caller a copy of its own. A "
            "lock would order the calls, and one caller would still get what another one left.",
            ("model_of_caller = copy.deepcopy(model)",),
        )
    if Cause.DEADLOCK in causes or Cause.HUNG in causes:
        yield Advice("Take the locks in one order, in every call; or take one lock for all.")
    if Cause.FIRST_CALL in causes:
        yield Advice(
            "What the first call caches is taken for every later one: switch the cache off, such "
            "as `cached=False`, or serve one graph only, and make one call before threads start."
        )
    if Cause.IDENTITY in causes:
        yield Advice(
            "Do not keep values by `id()` or `data_ptr()` of an argument: that is another one's "
            "once it is gone. Keep them by what it holds, or in a `weakref.WeakKeyDictionary`."
        )
    if report["random"] and causes & {Cause.WRONG, Cause.RANDOM, Cause.MIXED_UP}:
        yield Advice(
            "Random numbers come from a generator that all threads share. To draw the same in "
            "each call, make one in the call, and pass it to what draws.",
            ("generator = torch.Generator().manual_seed(0)", "torch.rand(3, generator=generator)"),
        )
    if Cause.NO_GIL in causes:
        yield Advice(
            "TorchScript runs without Python's lock: a write to an attribute can end the process. "
            "Take the write out of the class, then script it again; or share the eager model."
        )
    if Cause.ARGUMENTS in causes:
        yield Advice("Give each call arguments of its own, or let the model change a copy.")
    if Cause.UNREACHED in causes or Cause.UNTRIED in causes:
        yield Advice(
            "To find out, let the inputs reach these lines: other sizes, other options. What you "
            "know to be harmless can be allowed: --allow CLASS.attribute."
        )


def _lock(to_come: bool) -> Advice:
    text = "let one call at a time in. It costs what threads were to bring: all wait for one."
    return Advice(
        f"{'Until then' if to_come else 'Or'}, {text}",
        ("lock = threading.Lock()  # one a model", "with lock:", "    result = model(...)"),
    )
