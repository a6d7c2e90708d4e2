"""`audit`: say whether threads can share a model, or the layers of a PyG."""

import shlex
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from kit import environments, pages, patching, releases, sources, surveying
from kit.console import (
    EXIT_CODES,
    find_python,
    out,
    progress,
    source_of,
    source_options,
    torch_options,
)
from kit.errors import ProofError, TreeError, UsageError, shown
from kit.releases import Catalogue, Release


@click.command(epilog=EXIT_CODES)
@click.argument("version", required=False, metavar="PYG-VERSION")
@click.option("--installed", is_flag=True, help="Audit the PyG of your own environment.")
@click.option(
    "--path",
    "tree",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Audit this checkout, source tree or site-packages.",
)
@click.option("--model", metavar="MODULE:FACTORY", help="Audit the model that this returns.")
@click.option(
    "--inputs",
    metavar="MODULE:FACTORY",
    help="What returns arguments for the model: a tuple, a dictionary, or one value; other "
    "ones in each call.",
)
@click.option("--calls", type=int, metavar="N", help="How many calls threads make of the model.")
@click.option("--static", is_flag=True, help="Read the sources alone, and run nothing.")
@click.option("--all", "show_all", is_flag=True, help="Show what threads can live with, too.")
@click.option("--survey", is_flag=True, help="Audit every release, into docs/audit.md.")
@click.option("--render", is_flag=True, help="Make docs/audit.md anew from docs/audit.json.")
@source_options
@torch_options
def audit(
    version: str | None,
    installed: bool,
    tree: Path | None,
    model: str | None,
    inputs: str | None,
    calls: int | None,
    static: bool,
    show_all: bool,
    survey: bool,
    render: bool,
    torch: str,
    python: Path | None,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Say whether threads can share a model, or the layers of a PyG.

    The sources are read for writes to `self` that a forward pass can reach. Then
    each layer is run: traced, forced to interleave wherever a written attribute is
    read back, and stressed. With --model, your own model is, in your own environment
    (--python, or the active one), from the directory that you are in.
    """
    asked = [version, installed, tree, model, survey, render]
    if sum(map(bool, asked)) != 1:
        raise UsageError(
            "What is to be audited? Name one of: a PYG-VERSION, --installed, --path DIR, "
            "--model with --inputs, --survey."
        )
    if bool(model) != bool(inputs):
        raise UsageError("--model and --inputs go together: a model is run on its inputs.")
    catalogue = releases.load()
    if survey or render:
        _survey_all(catalogue, render, kind, git_url, offline)
        return
    if model and inputs:
        _audit_model(catalogue, surveying.user_python(python), model, inputs, calls)
        return
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name, progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        release: Release | None = None
        if version is not None:
            release = catalogue.find(version)
            root = Path(name) / "pristine"
            sources.materialize(release, source, root)
        elif tree is not None:
            root = tree.absolute()
        else:
            python = surveying.user_python(python)
            found = surveying.find_installed(python)
            if found is None:
                raise TreeError(
                    f"{python} has no PyG: 'import torch_geometric' would fail. Activate the "
                    f"environment that has it, or name its interpreter: --python PATH."
                )
            root = found
        if release is None:
            known = patching.identify(root, catalogue)
            release = known[-1] if known else None
        if not static and python is None:
            python = find_python(release, None, torch, source.cache, offline=offline)
        notify("Reading and running its layers ...")
        result = surveying.survey(
            root,
            release.version if release else str(root),
            None if static or python is None else python,
            path=not installed,
        )
    _show_survey(result, catalogue, release, root if version is None else None, show_all)
    races = sorted({finding.cls for finding in result.findings if finding.races})
    if races:
        raise ProofError(f"Threads cannot share: {', '.join(races)}.")


def _show_survey(
    result: surveying.Survey,
    catalogue: Catalogue,
    release: Release | None,
    tree: Path | None,
    show_all: bool,
) -> None:
    name = f"PyG {release.version}" if release else f"The PyG in {result.release}"
    ran = f", torch {result.torch}, Python {result.python}" if result.torch else ", read only"
    out.print(Text.assemble((name, "bold"), ran))
    races = [finding for finding in result.findings if finding.races]
    names = sorted({finding.cls for finding in races})
    if races:
        out.print(Text(f"Threads cannot share {len(names)} of its classes.", style="bold red"))
    else:
        out.print(Text("Threads can share its layers.", style="bold green"))
    for finding in result.findings if show_all else races:
        _show_finding(finding)
    if races:
        out.print(Text("What to do", style="bold"))
        _show_advice(names, catalogue, release, tree)
    if not show_all:
        words = [surveying.word_of(finding) for finding in result.findings if not finding.races]
        counts = ", ".join(f"{word} {words.count(word)}" for word in dict.fromkeys(sorted(words)))
        out.print(f"Other attributes that calls write: {counts or 'none'} (--all shows them).")
    if result.layers:
        out.print(f"{len(result.layers)} layers and models were run.")
    for failed, error in result.failed.items():
        out.print(Text(f"Read only, as it could not be run: {failed} ({error})", style="dim"))


def _show_finding(finding: surveying.Finding) -> None:
    word = surveying.word_of(finding)
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


def _show_advice(
    names: list[str], catalogue: Catalogue, release: Release | None, tree: Path | None
) -> None:
    """How to be rid of each race: a patch of the kit's, an upgrade, or a lock."""
    patched, fixed, rest = [], {}, []
    for name in names:
        series, version = surveying.advice(catalogue, release, name)
        if series:
            patched.append(name)
        if version:
            fixed[name] = version
        if not series and not version:
            rest.append(name)
    if patched and release is not None:
        where = f" --tree {shlex.quote(str(tree))}" if tree is not None else ""
        out.print(f"  Patch {', '.join(patched)}:")
        out.print(Text(f"    scripts/apply.sh {release.version}{where}"))
    for version in dict.fromkeys(fixed.values()):
        layers = [name for name in fixed if fixed[name] == version]
        out.print(f"  Or upgrade: upstream has fixed {', '.join(layers)} in {version}.")
    if rest:
        out.print(f"  No patch here and no release fixes {', '.join(rest)}.")
    out.print("  Until then, let one call at a time in:")
    out.print(Text("    lock = threading.Lock()  # one a model"))
    out.print(Text("    with lock:\n        result = model(...)"))


def _audit_model(
    catalogue: Catalogue, python: Path, model: str, inputs: str, calls: int | None
) -> None:
    with progress() as notify:
        notify(f"Running {model} with {python} ...")
        seen = surveying.survey_model(python, model, inputs, calls)
        root = surveying.find_installed(python)
        known = patching.identify(root, catalogue) if root is not None else []
    release = known[-1] if known else None
    stress = seen["stress"]
    races = [write for write in seen["writes"] if write["verdict"] == "confirmed"]
    open_ends = [
        write
        for write in seen["writes"]
        if write["verdict"] == "not forced" and not write["first_call_only"]
    ]
    bad = stress is not None and stress["right"] != stress["calls"]
    if races or bad:
        verdict = "Not safe: threads that share this model take each other's values."
    elif seen["nondeterministic"] or open_ends:
        verdict = "Not shown to be safe: no race was seen, but not everything could be tried."
    else:
        verdict = "Safe: no call of this model reads back what another one may have written."
    out.print(Text(verdict, style="bold green" if verdict.startswith("Safe") else "bold red"))
    pyg = f"PyG {seen['torch_geometric']}, " if seen["torch_geometric"] else ""
    out.print(
        f"{model}: {seen['modules']} modules; {pyg}torch {seen['torch']}, Python {seen['python']}"
    )
    out.print(Text("Evidence", style="bold"))
    for write in seen["writes"]:
        _show_write(write)
    if not seen["writes"]:
        out.print("  A call writes nothing to the model or to what it holds.")
    if stress is not None:
        out.print(
            f"  {stress['threads']} threads, {stress['calls']} calls: {stress['right']} right, "
            f"{stress['crashed']} crashed, {stress['silently_wrong']} silently wrong"
        )
    for note in seen["notes"]:
        out.print(Text(f"  {note}"))
    for finding in seen["unseen"]:
        out.print(
            Text(
                f"  Not seen on these inputs, but the source of {finding['cls']} can write "
                f"{finding['attribute']}: {finding['written'][0]}"
            )
        )
    names = sorted({write["class"] for write in races})
    if races or bad or open_ends:
        out.print(Text("What to do", style="bold"))
        _show_advice(names, catalogue, release, root)
    elif any(write["first_call_only"] for write in seen["writes"]):
        out.print(
            "Make one call before threads share it: the first one writes what later ones read."
        )
    if not verdict.startswith("Safe"):
        where = ", ".join(
            f"{write['submodule'] or 'the model'} ({write['class']}.{write['attribute']})"
            for write in races
        )
        raise ProofError(f"{verdict.split(':')[0]}: {where or 'see the evidence above'}.")


def _show_write(write: dict[str, Any]) -> None:
    where = write["submodule"] or "the model itself"
    name = Text.assemble("  ", (where, "bold"), f" ({write['class']}): {write['attribute']}")
    out.print(name)
    for label, places in (("written", write["written"]), ("read", write["read"])):
        for file, line, function in places[:3]:
            out.print(Text(f"    {label:8}{file}:{line} ({function})"))
    forced = write["interleaved"]
    if write["verdict"] == "confirmed":
        text = (
            f"    forced  {forced['right']} of {forced['calls']} calls right, "
            f"{forced['crashed']} crashed, {forced['silently_wrong']} silently wrong"
        )
        out.print(Text(text, style="red"))
    else:
        static = write.get("static")
        kind = f" ({static['kind']})" if static else ""
        out.print(Text(f"    {write['verdict']}{kind}: {write['reason']}", style="dim"))


def _survey_all(catalogue: Catalogue, render: bool, kind: str, git_url: str, offline: bool) -> None:
    if render:
        surveys, machine = surveying.load(surveying.DATA.read_text(encoding="utf-8"))
    else:
        surveys, machine = [], pages.machine()
        with progress() as notify:
            source = source_of(kind, git_url, offline, notify)
            python = find_python(
                None, None, environments.TORCH, source.cache, extensions=True, offline=offline
            )
        with progress() as notify:
            for release in catalogue.releases:
                notify(f"PyG {release.version}: reading and running its layers ...")
                with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
                    root = Path(name) / "pristine"
                    sources.materialize(release, source, root)
                    surveys.append(surveying.survey(root, release.version, python))
    page = surveying.render(surveys, machine)
    surveying.draw(surveys, surveying.PICTURE)
    for file, text in ((surveying.DATA, surveying.dump(surveys, machine)), (surveying.PAGE, page)):
        patching.replace(file, text.encode())
        out.print(str(shown(file)))
    out.print(str(shown(surveying.PICTURE)))
