"""What layers write to `self` in a call, and what that does to threads: read, and run.

Puts the static audit (auditing.py) and the dynamic one (programs/audit.py) together,
for one tree, for a user's model, and for the page in the docs on all releases.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit import auditing, environments
from kit.auditing import Kind, Write
from kit.errors import ToolError, UsageError
from kit.processes import last_lines, run
from kit.releases import ROOT, Catalogue, Release

PROGRAM = Path(__file__).parent / "programs" / "audit.py"

# The page on all releases, what it is made from, and its picture.
PAGE = ROOT / "docs" / "audit.md"
DATA = ROOT / "docs" / "audit.json"
PICTURE = ROOT / "docs" / "audit.svg"

# What the program exits with where the user's model or inputs cannot be used.
_UNUSABLE = 2


@dataclass(frozen=True)
class Finding:
    """An attribute that calls write, of one class.

    Attributes:
        cls: The class.
        attribute: The attribute.
        kind: The static class, in the words of `auditing.Kind`; "" where only the run saw it.
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


def survey(root: Path, release: str, python: Path | None, *, path: bool = True) -> Survey:
    """Audits the layers of a tree.

    Args:
        root: The directory that holds `torch_geometric/`.
        release: What to call it.
        python: An interpreter that can import it; None reads the sources alone.
        path: Whether to put the tree on the interpreter's path, or to take the PyG it has.

    Raises:
        TreeError: If there is no PyG, or a file of it does not parse.
        ToolError: If the program that runs the layers fails.
    """
    static = _by_attribute(auditing.audit_tree(root))
    if python is None:
        return Survey(release, findings=[static[key] for key in sorted(static)])
    seen = _run(python, ["layers"], {"PYTHONPATH": str(root)} if path else {})
    result = Survey(release, seen["python"], seen["torch"])
    dynamic: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, layer in seen["layers"].items():
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
            dynamic.setdefault((write["class"], write["attribute"]), []).append(write)
    result.findings = _join(static, dynamic)
    return result


def _by_attribute(writes: Iterable[Write]) -> dict[tuple[str, str], Finding]:
    order = [kind.value for kind in Kind]
    found: dict[tuple[str, str], Finding] = {}
    for write in writes:
        # `model._mask` is one finding with what else is written to `model`'s parts.
        key = (write.cls, write.attribute)
        place = f"{write.file}:{write.line} ({write.method})"
        reads = tuple(f"{file}:{line}" for file, line in write.reads)
        new = Finding(*key, write.kind.value, (place,), reads, reason=write.reason)
        old = found.get(key)
        if old is not None:
            worst = min(old, new, key=lambda each: order.index(each.kind))
            written = tuple(dict.fromkeys([*old.written, place]))
            read = tuple(dict.fromkeys([*old.read, *reads]))
            new = Finding(*key, worst.kind, written, read, reason=worst.reason)
        found[key] = new
    return found


# The verdict that counts, where the forms of a layer differ.
_VERDICTS = ["confirmed", "refuted", "not forced", "not read back"]


def _join(
    static: dict[tuple[str, str], Finding], dynamic: dict[tuple[str, str], list[dict[str, Any]]]
) -> list[Finding]:
    """One finding an attribute, from what was read and from what was seen."""
    found = dict(static)
    # A write into an object that a layer holds is read as the layer's, and seen as the
    # object's: the line is the same.
    by_place = {place: key for key, finding in static.items() for place in finding.written}
    for seen_key, writes in dynamic.items():
        places = [place for write in writes for place in _places(write["written"])]
        key = seen_key
        if key not in static:
            key = next((by_place[place] for place in places if place in by_place), key)
        worst = min(writes, key=lambda write: _VERDICTS.index(write["verdict"]))
        forced = worst["interleaved"] or {"crashed": 0, "silently_wrong": 0}
        known = static.get(key) or Finding(*key, "", _places(worst["written"]), ())
        read = known.read or tuple(f"{file}:{line}" for file, line, _ in worst["read"])
        found[key] = Finding(
            *key,
            known.kind,
            known.written,
            read,
            worst["verdict"],
            # What a person has found out says more than that it was not tried.
            known.reason if _is_reviewed(known) else worst["reason"],
            forced["crashed"],
            forced["silently_wrong"],
        )
    return [found[key] for key in sorted(found)]


def _is_reviewed(finding: Finding) -> bool:
    return finding.reason.startswith(auditing.REVIEWED)


def _places(places: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    return tuple(f"{file}:{line} ({function})" for file, line, function in places)


def survey_model(python: Path, model: str, inputs: str, calls: int | None) -> dict[str, Any]:
    """Runs a user's model under the tracer, and says what it writes.

    Args:
        python: The interpreter in which the model runs.
        model: `package.module:factory` of the model.
        inputs: `package.module:factory` of its arguments, called once a request.
        calls: How many calls eight threads make; None for the default.

    Returns:
        What `programs/audit.py` says, each write with its static finding in `static`,
        where there is one.

    Raises:
        UsageError: If the model or its inputs cannot be used; the message says why.
        ToolError: If the program fails.
    """
    options = [] if calls is None else ["--calls", str(calls)]
    # The user's own path stays: it is where their modules are found.
    seen: dict[str, Any] = _run(python, ["model", model, inputs, *options], {})
    static = _static_of(python, seen["classes"])
    for write in seen["writes"]:
        finding = static.get((write["class"], write["attribute"]))
        write["static"] = finding and {"kind": finding.kind, "reason": finding.reason}
    # What a forward pass can write on other inputs.
    written = {(write["class"], write["attribute"]) for write in seen["writes"]}
    classes = {each["class"] for each in seen["classes"]}
    seen["unseen"] = [
        asdict(finding)
        for key, finding in static.items()
        if key not in written and finding.cls in classes and finding.kind == Kind.RACE.value
    ]
    return seen


def _static_of(python: Path, classes: list[dict[str, Any]]) -> dict[tuple[str, str], Finding]:
    installed = find_installed(python)
    if installed is None:
        return {}
    files = set()
    for each in classes:
        if each["file"]:
            known = installed / each["file"]
            files.add(known if known.exists() else Path(each["file"]).absolute())
    sources = sorted(file for file in files if file.suffix == ".py" and file.exists())
    return _by_attribute(auditing.audit_files(installed, sources))


def find_installed(python: Path) -> Path | None:
    """Returns the directory that holds the PyG that an interpreter imports, if it has one.

    Raises:
        ToolError: If the interpreter cannot be run.
    """
    code = (
        "import importlib.util as u; s = u.find_spec('torch_geometric');"
        "print(s.submodule_search_locations[0] if s else '')"
    )
    result = run([python, "-c", code])
    if result.returncode != 0:
        raise ToolError(f"{python} cannot be run: {last_lines(result.stderr)}")
    found = result.stdout.strip()
    return Path(found).parent if found else None


def user_python(given: Path | None) -> Path:
    """The interpreter of the user's own environment: the one named, or the one in use."""
    if given is not None:
        return given.absolute()
    environment = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    return Path(environment, "bin", "python") if environment else Path("python3")


def _run(python: Path, words: list[str], env: dict[str, str]) -> Any:  # noqa: ANN401
    variables = dict(env)
    if python.is_absolute() and environments.describe(python).tag.endswith("t"):
        # Packages that do not know of free threading would turn the lock on again.
        variables["PYTHON_GIL"] = "0"
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as home:
        if words[0] == "layers":  # a user's model may need what lies at home
            # PyG 2.5.0 leaves compiled templates there, under names that all trees share.
            variables["PYG_HOME"] = home
        result = run([python, PROGRAM, *words], env=variables)
    if result.returncode == _UNUSABLE:
        raise UsageError(result.stderr.strip())
    if result.returncode != 0:
        raise ToolError(f"The audit could not be run with {python}: {last_lines(result.stderr)}")
    return json.loads(result.stdout.splitlines()[-1])


# All releases ###########################################################################


def dump(surveys: list[Survey], machine: str) -> str:
    """The data of the page, as JSON with a line a release."""
    lines = ",\n".join(json.dumps(asdict(each), sort_keys=True) for each in surveys)
    return f'{{"machine": {json.dumps(machine)}, "surveys": [\n{lines}\n]}}\n'


def load(text: str) -> tuple[list[Survey], str]:
    """Reads what `dump` wrote."""
    data = json.loads(text)
    surveys = []
    for each in data["surveys"]:
        findings = [
            Finding(**{**f, "written": tuple(f["written"]), "read": tuple(f["read"])})
            for f in each.pop("findings")
        ]
        surveys.append(Survey(**each, findings=findings))
    return surveys, data["machine"]


# The words of a cell, the worst first, with the letter and the colour of the picture.
WORDS = {
    "race": ("#c8373a", "a call-dependent value is read back, in the class or in one that it "
             "holds, and threads that were forced to interleave took each other's"),
    "race, not run": ("#e9a03b", "a race by the rules; the audit cannot run it, or could not "
                      "force it"),
    "refuted": ("#9fb7d4", "a race by the rules, but every interleaving gave the right results"),
    "benign race": ("#b7c9a8", "threads can take each other's value, and it changes no result but "
                    "by rounding"),
    "left for the caller": ("#d9c8e3", "written, and read by the caller alone"),
    "cache by request": ("#cfd8dc", "with `cached=True`, or its like"),
    "lazy initialisation": ("#cfd8dc", "by the first call"),
    "training only": ("#cfd8dc", "not at inference"),
    "idempotent": ("#cfd8dc", "every thread writes the same"),
    "writes nothing": ("#4c9f70", "a call leaves nothing in the layer"),
}  # fmt: skip


def word_of(finding: Finding) -> str:
    """The word for a finding in the table."""
    if finding.verdict == "confirmed":
        return "race"
    if finding.kind in ("", Kind.RACE.value):
        if finding.verdict in ("refuted", "not read back"):
            return "refuted"
        return "race, not run" if finding.kind else "idempotent"
    return finding.kind


def words_of(found: Survey) -> dict[str, str]:
    """The worst word of each class that writes, and of each layer that ran and does not."""
    order = list(WORDS)
    words = dict.fromkeys(found.layers, "writes nothing") | dict.fromkeys(found.racing, "race")
    for finding in found.findings:
        word = word_of(finding)
        old = words.get(finding.cls, "writes nothing")
        words[finding.cls] = min(old, word, key=order.index)
    return words


def render(surveys: list[Survey], machine: str) -> str:
    """The page, in Markdown."""
    tables = {found.release: words_of(found) for found in surveys}
    names = sorted({name for words in tables.values() for name in words}, key=str.lower)
    newest = surveys[-1]
    lines = [
        "# What the layers of PyG leave in `self`",
        "",
        "Made by `scripts/kit.sh audit --survey`; nothing here is typed by hand. Each pinned "
        "release, as upstream made it, is read (`scripts/kit/auditing.py`: every write to `self` "
        "that a forward pass can reach, in all of `torch_geometric.nn`), and its layers are run "
        "(`scripts/kit/programs/audit.py`: traced, forced to interleave wherever a written "
        f"attribute is read back, and stressed), on {machine} with torch {newest.torch} and "
        f"Python {newest.python}. The data are in [audit.json](audit.json).",
        "",
        "![Layers by releases: races, and writes that threads can live with](audit.svg)",
        "",
        "## What races",
        "",
        "Confirmed: two threads that were forced to interleave took each other's value.",
        "",
        "| class | attribute | releases | written, in the last of them | read back |",
        "|---|---|---|---|---|",
        *_rows(surveys, {"race"}),
        "",
        "Races by the rules that the audit did not force, with what is known of each:",
        "",
        "| class | attributes | releases | written, in the last of them | what is known |",
        "|---|---|---|---|---|",
        *_rows(surveys, {"race, not run"}, with_reason=True),
        "",
        "## All layers by all releases",
        "",
        *(f"- **{word}**: {text}." for word, (_, text) in WORDS.items()),
        "",
        "Of a class with several attributes, the worst one counts. A cell is empty where a "
        "release does not have the class, or where it writes nothing and the audit has no way "
        "to run it.",
        "",
    ]
    heads = [_short(found.release) for found in surveys]
    lines += ["| class | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    shown = {"writes nothing": "·"}
    for name in names:
        cells = [tables[found.release].get(name, "") for found in surveys]
        lines.append(f"| {name} | " + " | ".join(shown.get(c, c) for c in cells) + " |")
    failed = {
        name: error
        for found in surveys
        for name, error in found.failed.items()
        if not any(name in other.layers for other in surveys)
    }
    lacking = sorted({name for found in surveys for name in found.failed})
    lines += [
        "",
        "· stands for *writes nothing*. Where a package such as pyg-lib was missing, some of these "
        f"could be read only: {', '.join(lacking) or 'none'}. Nowhere could be run: "
        f"{', '.join(sorted(failed)) or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def _rows(surveys: list[Survey], words: set[str], with_reason: bool = False) -> list[str]:
    by_key: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    for found in surveys:
        for finding in found.findings:
            if word_of(finding) in words:
                # Of what could not be forced, one reason for a class is enough.
                key = (finding.cls, "" if with_reason else finding.attribute)
                by_key.setdefault(key, []).append((found.release, finding))
    order = [found.release for found in surveys]
    rows = []
    for (cls, _), seen in sorted(by_key.items()):
        finding = seen[-1][1]
        attributes = ", ".join(f"`{name}`" for name in sorted({f.attribute for _, f in seen}))
        places = "<br>".join(f"`{place}`" for place in finding.written[:3])
        last = finding.reason if with_reason else f"`{finding.read[0]}`"
        span = _span(list(dict.fromkeys(release for release, _ in seen)), order)
        rows.append(f"| `{cls}` | {attributes} | {span} | {places} | {last} |")
    return rows


def _span(releases: list[str], order: list[str]) -> str:
    """Releases in a row, as from and to."""
    spans: list[list[str]] = []
    for release in releases:
        if spans and order.index(spans[-1][-1]) + 1 == order.index(release):
            spans[-1].append(release)
        else:
            spans.append([release])
    return ", ".join(s[0] if len(s) == 1 else f"{s[0]} to {_short(s[-1])}" for s in spans)


def _short(release: str) -> str:
    return re.sub(r"\.dev\d+$", ".dev", release)


def draw(surveys: list[Survey], file: Path) -> None:
    """Draws the picture: a cell a class and release, in the colour of its word."""
    # Here, since only this needs it, and it takes long to import.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch, Rectangle

    matplotlib.rcParams.update(
        {"svg.hashsalt": "pyg-threadsafe", "svg.fonttype": "none", "font.size": 8}
    )
    tables = [words_of(found) for found in surveys]
    order = list(WORDS)
    names = {name for words in tables for name in words}
    worst = {
        name: min(order.index(words[name]) for words in tables if name in words) for name in names
    }
    # What races first; then what writes less, each in the order of the alphabet.
    rows = sorted(names, key=lambda name: (worst[name], name.lower()))
    figure, axis = pyplot.subplots(figsize=(3.2 + 0.32 * len(surveys), 1.9 + 0.17 * len(rows)))
    for y, name in enumerate(rows):
        for x, words in enumerate(tables):
            if name in words:
                colour = WORDS[words[name]][0]
                axis.add_patch(Rectangle((x + 0.05, y + 0.06), 0.9, 0.88, color=colour, lw=0))
    axis.set_xlim(0, len(surveys))
    axis.set_ylim(len(rows), 0)
    axis.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axis.set_xticks(
        [x + 0.5 for x in range(len(surveys))],
        [_short(found.release) for found in surveys],
        rotation=90,
    )
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    # Words of one colour share an entry.
    entries: dict[str, list[str]] = {}
    for word, (colour, _) in WORDS.items():
        entries.setdefault(colour, []).append(word)
    handles = [Patch(color=colour, label=", ".join(words)) for colour, words in entries.items()]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 1.0 / figure.get_figheight(), 1, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


# What to do #############################################################################


def advice(
    catalogue: Catalogue, release: Release | None, cls: str
) -> tuple[str | None, str | None]:
    """How to be rid of a race in a layer of PyG.

    Returns:
        The series of the kit that takes it out of this release, and the release in which
        upstream has fixed it; None where there is none.
    """
    series = next((name for name, known in catalogue.classes.items() if known == cls), None)
    if series is None:
        return None, None
    fixed = catalogue.fixed_in(series)
    patched = release is not None and release.status.get(series) == "affected"
    return series if patched else None, fixed.version if fixed else None
