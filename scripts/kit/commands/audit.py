"""`audit`: say whether threads can share a model, or the layers of a PyG."""

import functools
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from kit import environments, pages, patching, releases, sources
from kit.audit import advice, outside, page, running, survey, text
from kit.audit.model import Options, audit_model
from kit.audit.verdict import Verdict, Word, judge
from kit.console import (
    Command,
    find_python,
    help_of,
    json_option,
    out,
    print_path,
    progress,
    source_of,
    source_options,
    torch_options,
    write_json,
)
from kit.errors import ProofError, TreeError, UsageError
from kit.places import door, need_checkout
from kit.releases import Catalogue, Release


def _model_options(command: Command) -> Command:
    """Adds the options of the audit of a model."""
    for option in (
        json_option,
        click.option(
            "--allow",
            multiple=True,
            metavar="CLASS.NAME",
            help="It is harmless. Repeatable; CLASS.*, @FILE.",
        ),
        click.option(
            "--tolerance",
            type=float,
            default=0.0,
            metavar="X",
            help="How far two results of a call may differ.",
        ),
        click.option("--grad", is_flag=True, hidden=True, help="Record gradients."),
        click.option(
            "--calls", type=int, metavar="N", hidden=True, help="How many calls threads make."
        ),
        click.option(
            "--method",
            "methods",
            multiple=True,
            metavar="NAME[=M:F]",
            help="Call this one (on inputs of M:F). Repeatable.",
        ),
        click.option(
            "--explainer",
            metavar="MODULE:FACTORY",
            help="Explain it meanwhile, with what this returns.",
        ),
        click.option(
            "--inputs",
            metavar="MODULE:FACTORY",
            help="Its arguments: a tuple, a dict, one value.",
        ),
        click.option("--model", metavar="MODULE:FACTORY", help="Audit what this returns."),
    ):
        command = option(command)
    return command


@click.command(
    **help_of(
        "Say whether threads can share a model, or the layers of a PyG. Safe: no call took what "
        "another one had written, for these inputs; C++ code is not seen.",
        "kit.sh audit --model serving:get_model --inputs serving:get_inputs",
        "kit.sh audit 2.8.1           # or --installed, or --path DIR",
        exits="1 not safe, or not shown to be",
    )
)
@click.argument("version", required=False, metavar="[PYG-VERSION]")
@_model_options
@click.option("--installed", is_flag=True, help="The PyG of your own environment.")
@click.option(
    "--path",
    "tree",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="That of a checkout or site-packages.",
)
@click.option("--layer", "layers", multiple=True, hidden=True, help="This class alone. Repeatable.")
@click.option("--static", is_flag=True, hidden=True, help="Read the sources, run nothing.")
@click.option("--all", "show_all", is_flag=True, hidden=True, help="Show what is harmless, too.")
@click.option(
    "--survey",
    "all_releases",
    is_flag=True,
    hidden=True,
    help="Audit every release, into docs/audit.md.",
)
@click.option(
    "--outside",
    "only_outside",
    is_flag=True,
    hidden=True,
    help="Of the survey, only what changes a model from outside.",
)
@click.option(
    "--render", is_flag=True, hidden=True, help="Make docs/audit.md anew from docs/audit.json."
)
@functools.partial(source_options, hidden=True)
@torch_options
def audit(
    version: str | None,
    model: str | None,
    inputs: str | None,
    explainer: str | None,
    methods: tuple[str, ...],
    calls: int | None,
    grad: bool,
    tolerance: float,
    allow: tuple[str, ...],
    json_file: Path | None,
    installed: bool,
    tree: Path | None,
    layers: tuple[str, ...],
    static: bool,
    show_all: bool,
    all_releases: bool,
    only_outside: bool,
    render: bool,
    torch: str,
    python: Path | None,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Says whether threads can share a model, or the layers of a PyG."""
    asked = [version, installed, tree, model, all_releases, only_outside, render]
    if sum(map(bool, asked)) != 1:
        raise UsageError(
            "What is to be audited? Name one of: a PYG-VERSION, --installed, --path DIR, "
            "--model with --inputs, --survey, --outside."
        )
    if bool(model) != bool(inputs):
        raise UsageError("--model and --inputs go together: a model is run on its inputs.")
    if explainer is not None and not model:
        raise UsageError("--explainer goes with --model and --inputs: it explains that model.")
    catalogue = releases.load()
    allowed = _read_allowed(allow)
    if all_releases or only_outside or render:
        need_checkout("audit --survey")
        _survey_all(catalogue, (all_releases, only_outside), python, (kind, git_url, offline))
    elif model and inputs:
        options = Options(methods, calls, grad, tolerance, explainer)
        python = running.user_python(python)
        _audit_model(catalogue, python, (model, inputs), options, allowed, (show_all, json_file))
    else:
        which, where = (version, tree, installed, layers), (python, "" if static else torch)
        source = (kind, git_url, offline)
        _audit_layers(catalogue, which, where, source, (show_all, json_file), allowed)


def _audit_layers(
    catalogue: Catalogue,
    which: tuple[str | None, Path | None, bool, tuple[str, ...]],
    where: tuple[Path | None, str],
    source_options: tuple[str, str, bool],
    show: tuple[bool, Path | None],
    allowed: frozenset[str],
) -> None:
    """Audits the layers of a release, a tree or an installation; without a torch, reads alone."""
    (version, tree, installed, layers), (python, torch) = which, where
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name, progress() as notify:
        source = source_of(*source_options, notify)
        root, release, python = _find_tree(
            catalogue, source, (version, tree), Path(name), python, installed
        )
        if not torch:
            python = None
        elif python is None:
            python = find_python(release, None, torch, source.cache, offline=source.offline)
        notify("Reading its sources ...")
        label = release.version if release else str(root)
        result = survey.survey(
            root, label, python, path=not installed, notify=notify, layers=layers
        )
    _show_survey(result, catalogue, release, root if version is None else None, show, allowed)


def _read_allowed(entries: Sequence[str]) -> frozenset[str]:
    """The attributes that are allowed, those in files as well.

    Raises:
        UsageError: If a file cannot be read, or something is no attribute of a class.
    """
    names: list[str] = []
    for word in entries:
        if not word.startswith("@"):
            names.append(word)
            continue
        try:
            lines = Path(word[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--allow {word}: the file cannot be read ({error}). Expected one CLASS.ATTRIBUTE "
                f"a line; what follows a # is a comment."
            ) from None
        names += [line.split("#")[0].strip() for line in lines]
    for name in filter(None, names):
        if "." not in name:
            raise UsageError(
                f"--allow {name}: expected CLASS.ATTRIBUTE, such as GATv2Conv._alpha, or CLASS.* "
                f"for all attributes of a class."
            )
    return frozenset(filter(None, names))


def _find_tree(
    catalogue: Catalogue,
    source: sources.Source,
    asked: tuple[str | None, Path | None],
    folder: Path,
    python: Path | None,
    installed: bool,
) -> tuple[Path, Release | None, Path | None]:
    """The PyG to audit, its release if it is a known one, and the interpreter to run it with."""
    version, tree = asked
    release: Release | None = None
    if version is not None:
        release = catalogue.find(version)
        root = folder / "pristine"
        sources.materialize(release, source, root)
    elif tree is not None:
        root = tree.absolute()
    else:
        python = running.user_python(python)
        place = running.find_installed(python)
        if place is None:
            raise TreeError(
                f"{python} has no PyG: 'import torch_geometric' would fail. Activate the "
                f"environment that has it, or name its interpreter: --python PATH."
            )
        root = place
    if release is None:
        known = patching.identify(root, catalogue)
        release = known[-1] if known else None
    return root, release, python if version is None or python is not None else None


# The layers of a PyG.


def _show_survey(
    result: survey.Survey,
    catalogue: Catalogue,
    release: Release | None,
    tree: Path | None,
    how: tuple[bool, Path | None],
    allowed: frozenset[str],
) -> None:
    show_all, json_file = how
    judged = survey.judge(result, allowed)
    races, left_out = judged.races, judged.left_out
    names = sorted({finding.cls for finding in races})
    data = {"races": names, "left_out": sorted({f.cls for f in left_out}), **asdict(result)}
    if not write_json(json_file, data):
        _print_survey(result, release, races, show_all)
        if races:
            out.print(Text("What to do", style="bold"))
            _show_tree_advice(races, catalogue, release, tree)
        for finding in dict.fromkeys(f.cls for f in left_out):
            reason = next(f.reason for f in left_out if f.cls == finding)
            out.print(
                Text(f"Not counted, since it matters only to who uses it: {finding}. {reason}")
            )
        if judged.allowed:
            shown = ", ".join(sorted({f"{f.cls}.{f.attribute}" for f in judged.allowed}))
            out.print(Text(f"Allowed: {shown}"))
    if names:
        raise ProofError(f"Threads cannot share: {', '.join(names)}.")


def _print_survey(
    result: survey.Survey,
    release: Release | None,
    races: Sequence[survey.Finding],
    show_all: bool,
) -> None:
    name = f"PyG {release.version}" if release else f"The PyG in {result.release}"
    ran = f", torch {result.torch}, Python {result.python}" if result.torch else ", read only"
    out.print(Text.assemble((name, "bold"), ran))
    count = len({finding.cls for finding in races})
    if races:
        out.print(Text(f"Threads cannot share {count} of its classes.", style="bold red"))
    else:
        out.print(Text("Threads can share its layers.", style="bold green"))
    for finding in result.findings if show_all else races:
        _show_finding(finding)
    if not show_all:
        others = [page.word_of(finding) for finding in result.findings if not finding.races]
        counts = ", ".join(f"{word} {others.count(word)}" for word in dict.fromkeys(sorted(others)))
        out.print(f"Other attributes that calls write: {counts or 'none'} (--all shows them).")
    if result.layers:
        out.print(f"{len(result.layers)} layers and models were run.")
    for failed, error in result.failed.items():
        out.print(Text(f"Read only, as it could not be run: {failed} ({error})", style="dim"))


def _show_finding(finding: survey.Finding) -> None:
    word = page.word_of(finding)
    out.print(Text.assemble("  ", (finding.cls, "bold"), f": {finding.attribute} ({word})"))
    for label, places in (("written", finding.written), ("read", finding.read)):
        for place in places[:3]:
            out.print(Text(f"    {label:8}{place}"))
    if finding.verdict == "confirmed":
        out.print(
            Text(
                f"    forced  {finding.crashed} calls crashed, "
                f"{finding.silently_wrong} silently wrong",
                style="red",
            )
        )
    else:
        out.print(Text(f"    {finding.reason}", style="dim"))


def _show_tree_advice(
    races: Sequence[survey.Finding],
    catalogue: Catalogue,
    release: Release | None,
    tree: Path | None,
) -> None:
    """How to be rid of each race: a patch of the kit's, an upgrade, or a lock."""
    fixes = {
        finding.cls: advice.find_fixes(catalogue, release, finding.written[0].rpartition(":")[0])
        for finding in races
    }
    patched = [cls for cls, each in fixes.items() if each.series]
    if patched and release is not None:
        command = [*door("apply"), release.version]
        command += ["--tree", str(tree)] if tree is not None else []
        out.print(f"  Patch {', '.join(patched)}:")
        out.print(Text(f"    {shlex.join(command)}"))
    for version in dict.fromkeys(each.release for each in fixes.values() if each.release):
        layers = [cls for cls in fixes if fixes[cls].release == version]
        out.print(f"  Or upgrade: upstream has fixed {', '.join(layers)} in {version}.")
    rest = [cls for cls, each in fixes.items() if not each.series and not each.release]
    if rest:
        out.print(f"  No patch here and no release fixes {', '.join(rest)}.")
    out.print(f"  {'Until then' if len(rest) < len(fixes) else 'Or'}, let one call at a time in:")
    out.print(Text("    lock = threading.Lock()  # one a model"))
    out.print(Text("    with lock:\n        result = model(...)"))


# A model.


def as_data(
    verdict: Verdict, what_to_do: Sequence[advice.Advice], report: dict[str, Any]
) -> dict[str, Any]:
    """All that is known of a model, for JSON."""
    return {
        "verdict": verdict.word.value,
        "reasons": [{**asdict(each), "cause": each.cause.value} for each in verdict.reasons],
        "conditions": list(verdict.conditions),
        "basis": verdict.basis,
        "allowed": list(verdict.allowed),
        "advice": [asdict(each) for each in what_to_do],
        "report": report,
    }


def _audit_model(
    catalogue: Catalogue,
    python: Path,
    names: tuple[str, str],
    options: Options,
    allowed: frozenset[str],
    how: tuple[bool, Path | None],
) -> None:
    show_all, json_file = how
    model, inputs = names
    with progress() as notify:
        notify(f"Running {model} with {python} ...")
        report = audit_model(python, model, inputs, options, notify)
    root = Path(report["installed"]) if report["installed"] else None
    known = patching.identify(root, catalogue) if root is not None else []
    verdict = judge(report, allowed)
    what_to_do = advice.advise(verdict, report, catalogue, known[-1] if known else None, root)
    if not write_json(json_file, as_data(verdict, what_to_do, report)):
        for line, style in text.lines_of(model, verdict, report, show_all=show_all):
            out.print(Text(line, style=style))
        if what_to_do:
            out.print(Text("What to do", style="bold"))
        for each in what_to_do:
            out.print(Text(f"  {each.text}"))
            for line in each.lines:
                out.print(Text(f"      {line}"))
    if verdict.word is not Word.SAFE:
        places = [place for reason in verdict.reasons for place in reason.places]
        about = [reason.name or reason.cause.value for reason in verdict.reasons]
        where = f" ({places[0]})" if places else ""
        what = ", ".join(list(dict.fromkeys(about))[:5])
        raise ProofError(f"{verdict.word.value.capitalize()}: {what}{where}.")


def _survey_all(
    catalogue: Catalogue,
    parts: tuple[bool, bool],
    python: Path | None,
    source_options: tuple[str, str, bool],
) -> None:
    """Writes the page of all releases; with neither part, from the data that there are."""
    everything, only_outside = parts
    surveys, machine = ([], pages.machine()) if everything else page.load()
    measured = [] if everything or only_outside else outside.load()
    if everything or only_outside:
        with progress() as notify:
            source = source_of(*source_options, notify)
            if python is None:
                python = find_python(
                    None,
                    None,
                    environments.TORCH,
                    source.cache,
                    extensions=True,
                    offline=source.offline,
                )
        with progress() as notify:
            for release in catalogue.releases:
                with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
                    root = Path(name) / "pristine"
                    sources.materialize(release, source, root)
                    if everything:
                        notify(f"PyG {release.version}: reading and running its layers ...")
                        surveys.append(survey.survey(root, release.version, python, notify=notify))
                    notify(f"PyG {release.version}: predicting while others work ...")
                    measured.append(outside.measure(root, release.version, python))
    files = {
        page.DATA: page.dump(surveys, machine),
        outside.DATA: outside.dump(measured),
        page.PAGE: page.render(surveys, machine, measured),
        page.PICTURE: page.draw(surveys),
    }
    for file in pages.write(files):
        print_path(file)
    if faults := list(page.problems(surveys, measured, catalogue)):
        raise ProofError(" ".join(faults))
