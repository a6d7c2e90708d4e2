"""The command line: verbs, messages, exit codes. Nothing else prints."""

import contextlib
import dataclasses
import json
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kit import (
    adding,
    benching,
    building,
    checking,
    checkouts,
    environments,
    patching,
    performance,
    proving,
    releases,
    reporting,
    sources,
    surveying,
    upstream,
    validating,
)
from kit.errors import KitError, ProofError, ToolError, TreeError, UsageError
from kit.processes import last_lines, run
from kit.releases import Catalogue, Patch, Release

EXIT_CODES = """
\b
Exit codes:
  0    done, or nothing left to do
  1    a proof or a validation found a fault
  2    the command line is wrong: an unknown version, series or option
  3    a release could not be had, or is not what its pin says
  4    the tree, or the place for it, is not in a state to work on
  5    this machine lacks something: git, Python 3.10.12, torch, ...
  130  interrupted; the tree is as it was
"""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> NoReturn:
    """Runs the command line, and turns each foreseeable error into a message and an exit code."""
    # SIGTERM as if by Ctrl-C: whatever is half done is undone on the way out.
    for number in _INTERRUPTS:
        # Where the shell has it ignored, as for a job in the background, it stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        code = cli.main(prog_name="scripts/kit.sh", standalone_mode=False)
    except KitError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        see = f" See '{where.command_path} --help'." if where else ""
        _fail(error.format_message() + see, UsageError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted. What was under way has been undone.", 130)
    except BrokenPipeError:
        # Somebody has read enough (`| head`). Python would complain at exit.
        sys.stderr.close()
        code = 0
    sys.exit(code or 0)


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # A second one must not get in the way of undoing.
    for each in _INTERRUPTS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    err.print(Text.assemble(("error: ", "bold red"), message))
    sys.exit(code)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Shows what is under way on a terminal, and as plain lines elsewhere."""
    if not err.is_terminal:
        yield lambda message: err.print(Text(message), soft_wrap=True)
        return
    with err.status("") as status:
        # A spinner that comes and goes within a blink is only noise.
        status.stop()

        def notify(message: str) -> None:
            status.update(Text(message))
            status.start()

        yield notify


@contextlib.contextmanager
def _build_progress() -> Iterator[Callable[[str, str, bool], None]]:
    """Shows what each package is doing, a line each with its time; elsewhere, a line a change."""
    if not err.is_terminal:
        seen: dict[str, str] = {}

        def say(package: str, state: str, done: bool) -> None:
            word = state.split()[0]
            if seen.get(package) != word:  # not each file that is compiled
                seen[package] = word
                err.print(Text(f"{package}: {state}"), soft_wrap=True)

        yield say
        return
    columns = (
        SpinnerColumn(finished_text="[green]+[/]"),
        TextColumn("{task.fields[package]}", style="bold"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=err) as display:
        tasks: dict[str, TaskID] = {}
        lock = threading.Lock()

        def update(package: str, state: str, done: bool) -> None:
            with lock:
                if package not in tasks:
                    tasks[package] = display.add_task(state, package=package, start=False, total=1)
            task = tasks[package]
            if state != "waiting":
                display.start_task(task)
            display.update(task, description=state, completed=int(done))

        yield update


def _torch_options(command: Command) -> Command:
    for option in (
        click.option(
            "--python",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Use this interpreter, with its own torch, instead.",
        ),
        click.option(
            "--torch", default=environments.TORCH, show_default=True, help="The version of torch."
        ),
    ):
        command = option(command)
    return command


_git_url_option = click.option(
    "--git-url",
    default=sources.UPSTREAM,
    envvar="PYG_THREADSAFE_GIT_URL",
    metavar="URL",
    help="The git repository to fetch from.  [default: upstream on GitHub]",
)


def _source_options(command: Command) -> Command:
    for option in (
        click.option("--offline", is_flag=True, help="Use the download cache alone."),
        _git_url_option,
        click.option(
            "--source",
            "kind",
            type=click.Choice([kind.value for kind in sources.Kind]),
            default="auto",
            envvar="PYG_THREADSAFE_SOURCE",
            help="Where to get PyG from: its git repository, its sdist on PyPI, or "
            "(auto) git where it answers within seconds, else the sdist.",
        ),
    ):
        command = option(command)
    return command


def _source(
    kind: str, git_url: str, offline: bool, notify: Callable[[str], None]
) -> sources.Source:
    return sources.Source(sources.Kind(kind), git_url, offline, sources.default_cache(), notify)


@click.group(
    epilog=EXIT_CODES, invoke_without_command=True, context_settings={"max_content_width": 80}
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Thread-safety patches for PyTorch Geometric (PyG)."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)


@cli.command(epilog=EXIT_CODES)
@click.argument("version", required=False, metavar="PYG-VERSION")
@click.option(
    "--dest",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to make the patched PyG.  [default: build/pyg-VERSION]",
)
@_source_options
@click.option(
    "--tree",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Patch this checkout, source tree or site-packages instead of making one.",
)
@click.option(
    "--only", multiple=True, metavar="SERIES", help="Take this series alone. May be repeated."
)
@click.option(
    "--with",
    "added",
    multiple=True,
    metavar="SERIES",
    help="Take this series as well, which is off by default. May be repeated.",
)
@click.option("--check", is_flag=True, help="Change nothing, say what would happen.")
@click.option("--reverse", is_flag=True, help="Take the patches out again.")
@click.option("--list", "show_list", is_flag=True, help="List the releases, or the patches of one.")
def apply(
    version: str | None,
    dest: Path | None,
    tree: Path | None,
    only: tuple[str, ...],
    added: tuple[str, ...],
    check: bool,
    reverse: bool,
    show_list: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Make a PyG release safe to share between threads.

    PYG-VERSION is a release from 1.7.1 on, 'latest', or 'nightly'. The result is
    a git repository: first the pristine release, then one commit a patch.
    """
    catalogue = releases.load()
    if show_list:
        _list(catalogue, version)
        return
    if version is None:
        raise UsageError(_missing_version(catalogue, tree))
    release = catalogue.find(version)
    patches = _select(release, catalogue, only, added, reverse)
    if tree is not None and dest is not None:
        raise UsageError("--tree and --dest exclude each other: one patches a tree, one makes one.")
    with _progress() as notify:
        source = _source(kind, git_url, offline, notify)
        if tree is not None:
            report = _apply_to_tree(tree, release, catalogue, patches, check, reverse)
        else:
            place = dest or releases.ROOT / "build" / f"pyg-{release.version}"
            report = _apply_to_checkout(place, release, patches, source, check, reverse)
    _show_report(report, release, catalogue, check, reverse)


def _missing_version(catalogue: Catalogue, tree: Path | None) -> str:
    newest = [r.version for r in catalogue.releases if r.affected()][-1]
    if tree is not None and (found := patching.identify(tree, catalogue)):
        words = " or ".join(release.version for release in found)
        return f"No PyG version was named. {tree} holds PyG {words}: name that one as well."
    return (
        f"No PyG version was named. Expected one such as {newest} (what 'pip show torch-geometric' "
        f"says); 'scripts/apply.sh --list' lists all."
    )


def _select(
    release: Release,
    catalogue: Catalogue,
    only: tuple[str, ...],
    added: tuple[str, ...],
    reverse: bool,
) -> list[Patch]:
    if only and added:
        raise UsageError("--only and --with exclude each other: --only may be repeated.")
    for name in (*only, *added):
        if name not in catalogue.series:
            raise UsageError(
                f"There is no series '{name}'. Expected one of: {', '.join(catalogue.series)}."
            )
        if name not in release.series():
            raise UsageError(
                f"PyG {release.version} takes no patch of the series {name}. It takes: "
                f"{', '.join(release.series())}."
            )
    wanted = {*only, *(needed for name in only for needed in catalogue.requires.get(name, ()))}
    if not only:
        # What is in the tree is taken out, asked for by name or not.
        wanted = {name for name in release.series() if reverse or name not in catalogue.optional}
    return [p for p in release.all_patches() if p.series in {*wanted, *added}]


@dataclasses.dataclass(frozen=True)
class Report:
    """What `apply` found and did.

    Attributes:
        tree: Where.
        origin: Where a new tree came from, in words.
        steps: How each patch stood before.
        is_checkout: Whether it is a repository of the kit's.
    """

    tree: Path
    origin: str
    steps: list[patching.Step]
    is_checkout: bool


def _apply_to_tree(
    tree: Path,
    release: Release,
    catalogue: Catalogue,
    patches: list[Patch],
    check: bool,
    reverse: bool,
) -> Report:
    found = patching.identify(tree, catalogue)
    if not found:
        raise TreeError(
            f"{tree} is none of the pinned releases: its torch_geometric/__init__.py and the files "
            f"to be patched have been changed. Expected PyG {release.version} as released. "
            f"'git apply' takes the files in patches/ by hand; README.md says how."
        )
    if release not in found:
        words = " or ".join(r.version for r in found)
        raise TreeError(
            f"{tree} holds PyG {words}, not {release.version}. Call this with that version, or "
            f"name another tree."
        )
    steps = patching.plan(tree, patches)
    if not check:
        patching.apply(tree, steps, reverse=reverse)
    return Report(tree, "", steps, is_checkout=False)


def _apply_to_checkout(
    place: Path,
    release: Release,
    patches: list[Patch],
    source: sources.Source,
    check: bool,
    reverse: bool,
) -> Report:
    checkout = checkouts.require(place, release, source)
    if checkout is not None:
        try:
            steps = patching.plan(place, patches)
        except TreeError as error:
            raise TreeError(
                f"{error} (If the kit's patches have changed since {_relative(place)} was made, "
                f"remove it, and it is made anew.)"
            ) from None
        if not check:
            checkouts.update(place, steps, reverse=reverse)
        return Report(place, "", steps, is_checkout=True)
    if reverse:
        raise TreeError(
            f"There is nothing to reverse at {_relative(place)}. 'scripts/apply.sh "
            f"{release.version}' makes it; --tree DIR names a tree elsewhere."
        )
    if check:
        with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
            origin, steps = checkouts.create(Path(name) / "tree", release, patches, source)
    else:
        origin, steps = checkouts.create(place, release, patches, source)
    return Report(place, origin, steps, is_checkout=True)


def _relative(path: Path) -> Path:
    """A path as short as it can be said from here."""
    absolute = path.absolute()
    here = Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def _show_report(
    report: Report, release: Release, catalogue: Catalogue, check: bool, reverse: bool
) -> None:
    tree = _relative(report.tree)
    out.print(Text.assemble((f"PyG {release.version}", "bold"), " in ", (str(tree), "bold")))
    if report.origin:
        out.print(f"  from {report.origin}")
        if "PyPI" in report.origin:
            out.print(
                "  (PyPI's archives have none of upstream's own tests; --source git has them)"
            )
    wanted = patching.State.PATCHED if reverse else patching.State.PRISTINE
    verb = ("would be " if check else "") + ("reversed" if reverse else "applied")
    for step in report.steps:
        if step.state is patching.State.LEFT_OUT:
            word, style = "left out", "yellow"
        elif step.state is wanted:
            word, style = verb, "green"
        else:
            word, style = ("not applied" if reverse else "already applied"), "cyan"
        note = f" ({step.reason})" if step.reason else ""
        out.print(Text.assemble("  ", (word, style), f": {step.patch.subject}{note}"))
    for layer in release.status:
        fixed = catalogue.fixed_in(layer)
        if release.status[layer] == "fixed" and fixed is not None:
            out.print(
                f"Upstream fixed {catalogue.classes[layer]} in {fixed.version}: its code needs "
                f"nothing, the test guards it."
            )
    changed = any(step.state is wanted for step in report.steps)
    if not changed:
        state = "without the patches" if reverse else "already patched"
        out.print(f"Nothing to do: this tree is {state}.")
    elif check:
        out.print("Nothing was changed (--check).")
    elif report.is_checkout and not reverse:
        quoted = shlex.quote(str(tree))
        out.print("Next:")
        for command, what in (
            (f"pip install {quoted if '/' in quoted else './' + quoted}", "install it"),
            (f"git -C {quoted} diff pristine", "see what was changed"),
            (f"scripts/kit.sh prove {release.version}", "see it race before, and not after"),
        ):
            out.print(Text.assemble(f"  {command}   ", (f"# {what}", "dim")))


def _list(catalogue: Catalogue, version: str | None) -> None:
    if version is not None:
        release = catalogue.find(version)
        out.print(f"[bold]PyG {release.version}[/] takes:")
        for patch in release.all_patches():
            out.print(Text.assemble("  ", (patch.series, "bold"), f": {patch.subject}"))
            note = "" if patch in release.patches else f"  (off by default: --with {patch.series})"
            out.print(Text(f"    patches/{patch.name}{note}", style="dim"))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("PyG", vertical="bottom")
    for name in catalogue.classes.values():
        # "Transformer" above "Conv": all layers fit side by side into 80 columns.
        table.add_column(re.sub(r"(?<=[a-z])(?=[A-Z])|(?=Conv$)", "\n", name), vertical="bottom")
    words = {"affected": Text("races", style="red"), "fixed": Text("fixed", style="green")}
    for release in catalogue.releases:
        found = (release.status.get(layer) for layer in catalogue.classes)
        word = "nightly" if release.is_nightly else release.version
        table.add_row(word, *(words.get(status or "", "") for status in found))
    out.print(table)
    out.print()
    for series, summary in catalogue.series.items():
        note = " (off by default)" if series in catalogue.optional else ""
        out.print(Text.assemble((series, "bold"), f": {summary}{note}"))


@cli.command(epilog=EXIT_CODES)
@click.argument("version", metavar="PYG-VERSION")
@_source_options
@_torch_options
@click.option("--latency/--no-latency", default=True, help="Whether to time both trees as well.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the measurements to this file as JSON; '-' for the terminal.",
)
def prove(
    version: str,
    torch: str,
    python: Path | None,
    latency: bool,
    json_file: Path | None,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Show the race on a pristine release, and its absence once patched.

    Two threads are forced to interleave, then eight threads share a layer, on the
    pristine tree and on the patched one. Then the latency of both is compared.
    """
    catalogue = releases.load()
    release = catalogue.find(version)
    to_terminal = str(json_file) == "-"
    if json_file is not None and not to_terminal:
        _make_parent(json_file)
    with _progress() as notify:
        source = _source(kind, git_url, offline, notify)
    python = _find_python(release, python, torch, source, offline)
    with _progress() as notify:
        proof = proving.prove(release, catalogue, source, python, notify, with_latency=latency)
    text = json.dumps(proof.as_json(), indent=2) + "\n"
    if to_terminal:
        click.echo(text, nl=False)
    else:
        _show_proof(proof, catalogue)
    if json_file is not None and not to_terminal:
        patching.replace(json_file, text.encode())
    if proof.problems():
        raise ProofError(" ".join(proof.problems()))


def _make_parent(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TreeError(
            f"{file.parent} cannot be made ({error.strerror}). Name a file in a directory of yours."
        ) from None


def _show_proof(proof: proving.Proof, catalogue: Catalogue) -> None:
    out.print(f"[bold]PyG {proof.release.version}[/], torch {proof.torch}, Python {proof.python}")
    table = Table(
        title="How the calls ended: right / crashed / silently wrong",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("layer", "tree"):
        table.add_column(heading)
    for heading in ("two threads, forced", "eight threads"):
        table.add_column(heading, justify="right")
    for layer in proof.layers:
        trees = {"pristine": layer.pristine, "patched": layer.patched}
        if layer.status == "fixed":
            trees = {"as released": layer.pristine}
        for tree, counts in trees.items():
            cells = [_outcomes(counts[row]) for row in ("interleaved", "stress")]
            name = catalogue.classes[layer.layer] if tree != "patched" else ""
            table.add_row(name, tree, *cells)
    out.print(table)
    if any(layer.latency for layer in proof.layers):
        out.print(_latency_table(proof, catalogue))
    if not proof.problems():
        affected, fixed = (
            ", ".join(catalogue.classes[f.layer] for f in proof.layers if f.status == status)
            for status in ("affected", "fixed")
        )
        out.print(
            f"[green]Proved:[/] as released, these race, and patched, they do not: {affected}."
        )
        if fixed:
            out.print(f"Threads can share these as upstream released them: {fixed}.")


def _outcomes(counts: dict[str, int]) -> Text:
    words = [str(counts[key]).rjust(4) for key in ("right", "crashed", "silently_wrong")]
    return Text(" / ".join(words), style="" if counts["right"] == counts["calls"] else "red")


def _latency_table(proof: proving.Proof, catalogue: Catalogue) -> Table:
    table = Table(title="Latency of inference, one thread", title_justify="left", box=None)
    table.pad_edge = False
    table.add_column("layer")
    for heading in ("edges", "pristine", "patched", "ratio", "quartiles"):
        table.add_column(heading, justify="right")
    for layer in proof.layers:
        for number, graph in enumerate((layer.latency or {}).values()):
            low, high = graph["ratio_quartiles"]
            table.add_row(
                "" if number else catalogue.classes[layer.layer],
                f"{graph['edges']:,}",
                f"{graph['pristine_ms']:.2f} ms",
                f"{graph['patched_ms']:.2f} ms",
                f"{graph['ratio']:.3f}",
                f"{low:.3f} to {high:.3f}",
            )
    return table


PARTS = ("layers", "growth", "threads", "served", "kit")

# Measured where it is asked for: the first one takes twenty minutes, the second one needs
# another Python.
LARGE, FREE_THREADED = "large", "free-threaded"


@cli.command(epilog=EXIT_CODES)
@click.argument("version", metavar="[PYG-VERSION]", required=False)
@_source_options
@_torch_options
@click.option("--full", is_flag=True, help="More processes, and large graphs.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice([*PARTS, LARGE, FREE_THREADED]),
    help="Measure this part of the page, and keep the others. May be repeated. The last two are "
    "not among those by default: 'large' takes twenty minutes, and 'free-threaded' needs a "
    "--python without the GIL.",
)
@click.option("--render", is_flag=True, help="Draw the page anew from docs/performance.json.")
def bench(
    version: str | None,
    torch: str,
    python: Path | None,
    full: bool,
    parts: tuple[str, ...],
    render: bool,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Measure what the patches cost, against what people run instead.

    With a version, times the layers of that release, and prints the ratios.
    Without one, measures what docs/performance.md shows, save for the parts 'large' and
    'free-threaded' (eight minutes), and writes that page with its pictures.
    """
    catalogue = releases.load()
    if version is not None and (parts or render):
        raise UsageError("--part and --render are for the page: name no PYG-VERSION with them.")
    release = catalogue.find(version) if version is not None else None
    if render:
        _write_performance(benching.read_data(), catalogue)
        return
    with _progress() as notify:
        source = _source(kind, git_url, offline, notify)
    processes = 10 if full else 5
    graphs = [benching.SMALL_GRAPH, benching.MIDDLE_GRAPH, benching.LARGE_GRAPH]

    def python_for(release: Release) -> Path:
        return _find_python(release, python, torch, source, offline)

    if release is not None:
        layers = [layer for layer in release.status if _has_patch(release, layer)]
        if not layers:
            raise UsageError(f"No patch changes a layer of PyG {release.version}.")
        job = benching.Bench(release, python_for(release), layers)
        graphs = graphs if full else graphs[:2]
        with _progress() as notify:
            seen = benching.measure_layers(job, catalogue, source, notify, processes, graphs)
        _show_ratios(seen, catalogue)
        return
    if FREE_THREADED in parts:
        tag = environments.describe(python or environments.current_python()).tag
        if not tag.endswith("t") or len(parts) > 1:
            raise UsageError(
                f"--part {FREE_THREADED} goes alone, and with a Python without the GIL that has "
                f"torch: --python PATH. 'scripts/kit.sh env --torch 2.9.1 --python python3.13t' "
                f"makes one."
            )
    kept = benching.read_data() if parts or benching.DATA.exists() else {}
    # What is not measured by default is kept; all else is measured anew.
    data = kept if parts else {k: v for k, v in kept.items() if k in (LARGE, FREE_THREADED)}
    command = "scripts/kit.sh bench" + " --full" * full
    newest = catalogue.find(benching.RACY)
    for part in parts or ((*PARTS, LARGE) if full else PARTS):
        found: dict[str, Any] = {}
        if part in ("layers", LARGE):
            sizes = graphs[2:] if part == LARGE else graphs[:2]
            for name, layers in benching.RELEASES.items():
                job = benching.Bench(catalogue.find(name), python_for(catalogue.find(name)), layers)
                with _progress() as notify:
                    seen = benching.measure_layers(
                        # Seconds a call, so that few calls are long enough.
                        *(job, catalogue, source, notify),
                        processes=processes if full or part == "layers" else 3,
                        graphs=sizes,
                    )
                ratios = found.get("ratios", []) + seen["ratios"]
                found = {**seen, "ratios": ratios}
        else:
            job = benching.Bench(newest, python_for(newest), ["gatv2_conv"])
            with _progress() as notify:
                if part == "growth":
                    sizes = benching.growth(full)
                    found = benching.measure_layers(
                        job, catalogue, source, notify, processes // 2, sizes, ["inference"]
                    )
                elif part in ("threads", FREE_THREADED):
                    found = benching.measure_threads(
                        job,
                        catalogue,
                        source,
                        notify,
                        seconds=4 if full else 1,
                        threads=[1, 2, 4, 8, 16],
                        free_threaded=part == FREE_THREADED,
                    )
                elif part == "served":
                    found = benching.measure_served(newest, notify, 10 if full else 3)
                else:
                    found = {"commands": benching.measure_kit(newest, notify)}
        if part == FREE_THREADED:
            found["python"] += "t"
        data[part] = {**found, **benching.stamp(f"{command} --part {part}")}
    _write_performance(data, catalogue)


def _find_python(
    release: Release, python: Path | None, torch: str, source: sources.Source, offline: bool
) -> Path:
    """The interpreter that was named, or the shared one, with the extensions where need be."""
    if python is not None:
        return python.absolute()
    with _progress() as notify:
        shared = environments.ensure(torch, environments.current_python(), notify)
    if release.needs_extensions:
        return _with_extensions(shared, source.cache, offline=offline)
    return shared


def _has_patch(release: Release, layer: str) -> bool:
    series = {patch.series for patch in release.all_patches() if patch.is_for_library}
    return bool({layer, f"{layer}_single_gather"} & series)


def _write_performance(data: dict[str, Any], catalogue: Catalogue) -> None:
    performance.draw(data, catalogue)
    text = json.dumps(data, indent=1, sort_keys=True) + "\n"
    page = performance.render(data, catalogue)
    for file, content in ((benching.DATA, text), (benching.PAGE, page)):
        patching.replace(file, content.encode())
    for file in (benching.DATA, benching.PAGE, *benching.PICTURES.values()):
        out.print(str(_relative(file)))


def _show_ratios(seen: dict[str, Any], catalogue: Catalogue) -> None:
    table = Table(
        title=f"Time against the unpatched layer, torch {seen['torch']}, one thread",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("layer", "edges", "", "variant"):
        table.add_column(heading)
    for heading in ("ratio", "95% interval", "memory"):
        table.add_column(heading, justify="right")
    for found in seen["ratios"]:
        if found["variant"] != benching.PRISTINE:
            table.add_row(
                catalogue.classes[found["layer"]],
                f"{found['edges']:,}",
                found["mode"].replace("inference", "infer").replace("training", "train"),
                found["variant"],
                f"{found['ratio']:.3f}",
                f"{found['low']:.3f} to {found['high']:.3f}",
                f"{found['memory_ratio']:.3f}",
            )
    out.print(table)


@cli.command("add-release", epilog=EXIT_CODES)
@click.argument("version", metavar="PYG-VERSION")
@_git_url_option
@click.option("--check", is_flag=True, help="Write nothing, show the record.")
def add_release(version: str, check: bool, git_url: str) -> None:
    """Pin a new PyG release or nightly build.

    Its archive comes from PyPI, its commit from the git repository. The patches that
    fit it, blob for blob, are taken; what a person must decide is listed at the end.
    """
    catalogue = releases.load()
    with _progress() as notify:
        addition = adding.add(version, catalogue, _source("auto", git_url, False, notify))
    out.print(Text(adding.format_record(addition.release)))
    for sentence in addition.found:
        out.print(Text(sentence))
    for path, text in addition.proposals.items():
        proposal = releases.ROOT / "build" / f"add-{version}" / path
        addition.worklist.append(f"The proposal for {path} is {_relative(proposal)}.")
        if not check:
            proposal.parent.mkdir(parents=True, exist_ok=True)
            proposal.write_text(text, encoding="utf-8")
    for patch in addition.fits:
        out.print(Text(f"{patch.name} names it from now on, in `Releases:`."))
    if not check:
        pins = releases.PATCHES / "releases.toml"
        text = adding.insert(pins.read_text(encoding="utf-8"), addition.release)
        patching.replace(pins, text.encode())
        for patch in addition.fits:
            patching.replace(patch.file, adding.with_release(patch, version).encode())
    addition.worklist += [
        "Name it in README.md, tox.ini and tests/kit/test_releases.py; 'scripts/test.sh --quick' "
        "says what is missing.",
        f"Run 'scripts/kit.sh validate' and 'scripts/kit.sh prove {version}'.",
    ]
    out.print("[bold]To do:[/]")
    for sentence in addition.worklist:
        out.print(Text(f"  - {sentence}"))


@cli.command(epilog=EXIT_CODES)
@_source_options
def validate(kind: str, git_url: str, offline: bool) -> None:
    """Check that every patch applies to its pinned releases.

    Each release is made from its source, and its patches are applied and reversed;
    the content before and after must be what the patches record. Only a git
    checkout has upstream's tests, so --source sdist leaves out the patches to them.
    """
    catalogue = releases.load()
    problems = 0
    count = left_out = 0
    start = time.monotonic()
    with _progress() as notify:
        source = _source(kind, git_url, offline, notify)
        for finding in validating.validate(catalogue, source):
            for problem in finding.problems:
                err.print(
                    Text.assemble(("fault: ", "red"), f"PyG {finding.release.version}: {problem}")
                )
            problems += len(finding.problems)
            count += len(finding.release.all_patches()) - len(finding.left_out)
            left_out += len(finding.left_out)
    if problems:
        raise ProofError(f"{problems} faults in patches/. Expected none.")
    note = f" Left out: {left_out}, which need --source git." if left_out else ""
    out.print(
        f"{len(catalogue.releases)} releases, {count} applications of {len(catalogue.patches())} "
        f"patches, all as recorded ({time.monotonic() - start:.0f} s).{note}"
    )


@cli.command(epilog=EXIT_CODES)
@click.argument("version", metavar="PYG-VERSION")
@click.option(
    "--cpu/--cuda",
    "cpu",
    default=None,
    help="Which build.  [default: --cuda where torch sees a GPU, else --cpu]",
)
@click.option(
    "--cuda-arch",
    "archs",
    default="",
    metavar="LIST",
    help="GPU architectures, such as '8.0;9.0'.  [default: those of the GPUs here]",
)
@click.option(
    "--extensions",
    default="all",
    show_default=True,
    metavar="LIST",
    help="Of torch-scatter, torch-sparse, torch-cluster, torch-spline-conv and pyg-lib those "
    "to build, with commas between; 'all' (but pyg-lib), or 'none'.",
)
@click.option(
    "--find-links",
    metavar="LOCATION",
    help="Take pyg-lib from this wheel index or directory instead of building it from git.",
)
@click.option(
    "--out",
    "dest",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where to put the wheels.  [default: build/wheels-VERSION-TORCH-BUILD]",
)
@_torch_options
@_source_options
def build(
    version: str,
    cpu: bool | None,
    archs: str,
    extensions: str,
    find_links: str | None,
    dest: Path | None,
    torch: str,
    python: Path | None,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Build wheels of a patched PyG and of the extensions it uses.

    The wheels are installed into a fresh environment and imported; those for CUDA
    are searched for device code of every architecture. With a GPU at hand, the
    threaded tests run on it too.
    """
    catalogue = releases.load()
    release = catalogue.find(version)
    words = extensions.replace(",", " ").split()
    chosen = building.select(words)
    if python is None:
        building.check_fit(chosen, torch)  # before anything is installed
    with _progress() as notify:
        if python is None:
            python = environments.ensure(torch, environments.current_python(), notify)
        source = _source(kind, git_url, offline, notify)
        interpreter = environments.describe(python.absolute(), with_torch=True)
    building.check_fit(chosen, interpreter.torch)
    if cpu is None:
        cpu = not interpreter.gpus
    if cpu and archs:
        raise UsageError("--cuda-arch goes with --cuda.")
    cuda = None if cpu else building.find_cuda(interpreter, re.findall(r"[^;,\s]+", archs))
    target = building.Target(interpreter, cuda)
    kind_of_build = "cpu" if cuda is None else f"cuda{cuda.version}"
    if dest is None:
        name = f"wheels-{release.version}-torch{interpreter.torch.split('+')[0]}-{kind_of_build}"
        dest = releases.ROOT / "build" / name
    with _build_progress() as progress:
        wheels = building.build_extensions(
            chosen, target, source.cache, progress, offline=offline, find_links=find_links
        )
        progress(f"PyG {release.version}", "building", False)
        wheels = [
            building.build_pyg(release, release.patches, source, dest),
            *building.copy(wheels, dest),
        ]
        progress(f"PyG {release.version}", "built", True)
    modules = ["torch_geometric", *(extension.module for extension in chosen)]
    with _progress() as notify, tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        notify("Installing the wheels into a fresh environment ...")
        environment = Path(name) / "environment"
        installed = building.check_installed(wheels, modules, target, environment)
        proof = None
        if cuda is not None and interpreter.gpus:
            proof = proving.prove(release, catalogue, source, installed, notify, device="cuda")
    torch_of = f"torch {interpreter.torch}, Python {interpreter.version}"
    out.print(Text.assemble((str(_relative(dest)), "bold"), f": for {torch_of}"))
    for wheel in wheels:
        out.print(Text(f"  {wheel.name}  {wheel.stat().st_size / 1e6:.1f} MB"))
        if cuda is not None and wheel != wheels[0]:
            out.print(Text(f"    {building.check_cuda_wheel(wheel, cuda)}", style="dim"))
    out.print(f"Installed and imported: {', '.join(modules)}.")
    if proof is not None:
        _show_proof(proof, catalogue)
    if cuda is not None and proof is None:
        out.print("No GPU is at hand, so the threaded tests did not run on one.")
    out.print("Next:")
    out.print(Text(f"  {building.pip_line(wheels, interpreter, _relative(dest))}"))
    if proof is not None and proof.problems():
        raise ProofError(" ".join(proof.problems()))


@cli.command(epilog=EXIT_CODES)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=reporting.RESULTS,
    metavar="DIR",
    help="Where the matrix left its results.  [default: build/matrix]",
)
@click.option(
    "--render",
    is_flag=True,
    help="Make page and picture anew from docs/status.json, and gather nothing.",
)
def report(results: Path, render: bool) -> None:
    """Gather what the matrix saw into docs/status.md, with a picture.

    The environments of tox leave their results in build/matrix.
    """
    catalogue = releases.load()
    if render:
        status = reporting.load(reporting.read_data())
    else:
        expected = _default_environments()
        status = reporting.gather(results, catalogue, expected, "scripts/kit.sh report")
    reporting.draw(status, catalogue, reporting.PICTURE)
    page = reporting.render(status, catalogue)
    for file, text in ((reporting.DATA, reporting.dump(status)), (reporting.PAGE, page)):
        patching.replace(file, text.encode())
        out.print(str(_relative(file)))
    out.print(str(_relative(reporting.PICTURE)))
    bad = [cell.environment for cell in status.cells if not cell.holds]
    out.print(
        f"{len(status.cells)} environments, {len(bad)} not as they must be, "
        f"{len(status.missing)} of the default list not run."
    )
    if bad:
        raise ProofError(f"Not as they must be: {', '.join(bad)}. {reporting.PAGE.name} says why.")


def _default_environments() -> list[str]:
    """The environments that tox runs by default; tox itself reads `tox.ini`."""
    command = [sys.executable, "-m", "tox", "list", "-d", "--no-desc", "-q"]
    result = run(command, cwd=releases.ROOT)
    if result.returncode != 0:
        raise ToolError(f"'tox list' failed: {last_lines(result.stderr)} Is tox.ini as committed?")
    return result.stdout.split()


@cli.command(epilog=EXIT_CODES)
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
@_source_options
@_torch_options
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
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name, _progress() as notify:
        source = _source(kind, git_url, offline, notify)
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
            python = environments.ensure(torch, environments.current_python(), notify)
            if release is not None and release.needs_extensions:
                python = _with_extensions(python, source.cache, offline=offline)
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
    with _progress() as notify:
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
        surveys, machine = [], reporting.machine()
        with _progress() as notify:
            source = _source(kind, git_url, offline, notify)
            shared = environments.ensure(environments.TORCH, environments.current_python(), notify)
        python = _with_extensions(shared, source.cache, offline=offline)
        with _progress() as notify:
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
        out.print(str(_relative(file)))
    out.print(str(_relative(surveying.PICTURE)))


@cli.command(epilog=EXIT_CODES)
@_torch_options
@click.option(
    "--extensions", is_flag=True, help="With torch-scatter and its like, built where need be."
)
@click.option("--link", is_flag=True, help="Let the environment of --python import from it.")
def env(torch: str, python: Path | None, extensions: bool, link: bool) -> None:
    """Make the shared environment for a torch, and print its interpreter.

    --python names the interpreter to make it with.
    """
    base = python or environments.current_python()
    with _progress() as notify:
        shared = environments.ensure(torch, base, notify)
    if extensions:
        shared = _with_extensions(shared, sources.default_cache(), offline=False)
    if link:
        environments.link(base, *environments.packages(shared))
    out.print(str(shared))


def _with_extensions(shared: Path, cache: Path, *, offline: bool) -> Path:
    """Returns the environment that has the extensions as well, building those on first use."""
    target = building.Target(environments.describe(shared, with_torch=True), None)
    chosen = building.select(["all"])
    building.check_fit(chosen, target.interpreter.torch)
    with _build_progress() as progress:
        wheels = building.build_extensions(chosen, target, cache, progress, offline=offline)
    directory = shared.parents[1]
    return environments.with_wheels(
        target.interpreter, wheels, directory.with_name(f"{directory.name}-extensions")
    )


@cli.group("upstream", epilog=EXIT_CODES, invoke_without_command=True)
@click.pass_context
def upstream_group(context: click.Context) -> None:
    """Prepare and check pull requests for PyG, and backports for a fork of it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)


@upstream_group.command("list", epilog=EXIT_CODES)
def list_topics() -> None:
    """List the pull requests that there are to be made."""
    for topic in upstream.load():
        out.print(Text.assemble((topic.name, "bold"), f": {topic.subject}"))
        prepared = upstream.read(topic.name)
        if prepared is not None:
            where = _relative(Path(prepared.repository))
            out.print(Text(f"  branch {prepared.branch} in {where}", style="dim"))
    affected = [release for release in releases.load().releases if release.affected()]
    versions = [release.version for release in affected if not release.is_nightly]
    out.print(
        Text.assemble(
            (f"{upstream.BACKPORT}VERSION", "bold"),
            f": the patches of a release, for a fork of PyG: {versions[0]} to {versions[-1]}",
        )
    )


@upstream_group.command("prepare", epilog=EXIT_CODES)
@click.argument("topic", metavar="TOPIC")
@click.option(
    "--repo",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Your clone of PyG.  [default: one is made in build/upstream]",
)
@_git_url_option
@click.option(
    "--base",
    metavar="REF",
    help="Where to start: a branch, tag or commit of that clone.  [default: upstream's main "
    "branch as it is now; of a backport, the release]",
)
@click.option(
    "--pr",
    "number",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="The number of the pull request, for the CHANGELOG.",
)
def prepare(
    topic: str, repo: Path | None, git_url: str, base: str | None, number: int | None
) -> None:
    """Make the branch, the patches and the description of a pull request.

    Nothing is pushed: the commands that do so are printed. Your own work tree and
    branches are left alone, and where main conflicts with a patch, both sides are
    shown, and nothing is made.
    """
    catalogue = releases.load()
    release = upstream.find_backport(topic, catalogue)
    prepared: upstream.Prepared | None
    with _progress() as notify:
        source = _source("auto", git_url, False, notify)
        if release is not None:
            if number is not None:
                raise UsageError("--pr is for upstream's CHANGELOG: a backport has no use for it.")
            prepared = upstream.prepare_backport(release, catalogue, source, repo, base)
        else:
            found = upstream.find(topic)
            prepared = upstream.prepare(found, catalogue, source, repo, base, number)
    if prepared is None:
        out.print(f"Nothing to do: {base or 'upstream'} has all of {topic} already.")
        return
    repository = _relative(Path(prepared.repository))
    out.print(Text.assemble((prepared.branch, "bold"), " in ", (str(repository), "bold")))
    paths = upstream.changed(Path(prepared.repository), prepared.base, prepared.head)
    out.print(f"  on {prepared.base[:12]}, {len(paths)} files changed:")
    for path in paths:
        out.print(Text(f"    {path}"))
    for name in prepared.left_out:
        out.print(
            Text.assemble("  ", ("left out", "yellow"), f": {name} (the base lacks its file)")
        )
    out.print("  its patches and its description:")
    for file in sorted(prepared.folder.iterdir()):
        if file.suffix in (".patch", ".md"):
            out.print(Text(f"    {_relative(file)}"))
    out.print("Next:")
    commands = [f"scripts/kit.sh upstream check {topic}", *upstream.next_commands(prepared)]
    if release is None and number is None:
        commands.append(f"scripts/kit.sh upstream prepare {topic} --pr NUMBER   # and push again")
    for command in commands:
        out.print(Text(f"  {command}"))


@upstream_group.command("check", epilog=EXIT_CODES)
@click.argument("topic", metavar="TOPIC")
@_torch_options
@click.option(
    "--record", is_flag=True, help="Time it too, and keep all in docs/upstream.md (minutes)."
)
def check_topic(topic: str, torch: str, python: Path | None, record: bool) -> None:
    """Check a prepared branch as upstream's CI would, and that it does what it says.

    yapf, isort, flake8 and ruff as upstream pins and sets them; upstream's tests of
    what is changed, before and after, with FULL_TEST=1 and without; the new tests
    fifty times, and once without the fix; the reproducer, before and after.
    """
    catalogue = releases.load()
    release = upstream.find_backport(topic, catalogue) or catalogue.find("nightly")
    if not topic.startswith(upstream.BACKPORT):
        upstream.find(topic)
    prepared = upstream.read(topic)
    if prepared is None:
        raise TreeError(
            f"There is no branch for {topic} yet: 'scripts/kit.sh upstream prepare {topic}' makes "
            f"it."
        )
    with _progress() as notify:
        source = _source("auto", sources.UPSTREAM, False, notify)
    if prepared.version and python is None:
        # Upstream's own tests of older releases import torch-sparse, even where PyG need not.
        release = dataclasses.replace(release, needs_extensions=True)
    python = _find_python(release, python, torch, source, offline=False)
    bad, checks = [], []
    seen: dict[str, Any] = {}
    out.print(f"[bold]{prepared.branch}[/], on {prepared.base[:12]}")
    with _progress() as notify:
        for done, found in checking.check(prepared, python, notify):
            mark = ("ok  ", "green") if done.holds else ("FAIL", "red")
            out.print(Text.assemble("  ", mark, " ", (done.name, "bold"), f": {done.detail}"))
            checks.append(dataclasses.asdict(done))
            for key, value in found.items():
                seen[key] = {**seen[key], **value} if isinstance(seen.get(key), dict) else value
            bad += [] if done.holds else [done.name]
    if bad:
        raise ProofError(f"Not as it must be: {', '.join(bad)}.")
    if record:
        described = environments.describe(python, with_torch=True)
        with _progress() as notify:
            cost = checking.measure(prepared, catalogue, python, notify)
        versions = {"torch": described.torch, "python": described.version}
        data = upstream.read_data()
        data[topic] = {
            "proof": {**seen, **versions, "base": prepared.base, "checks": checks},
            "cost": cost,
            **benching.stamp(f"scripts/kit.sh upstream check {topic} --record"),
        }
        text = json.dumps(data, indent=1, sort_keys=True) + "\n"
        for file, content in ((upstream.DATA, text), (upstream.PAGE, upstream.render(data))):
            patching.replace(file, content.encode())
            out.print(str(_relative(file)))
        if not prepared.version:
            # Its description quotes what has been recorded.
            body = prepared.folder / "body.md"
            patching.replace(body, upstream.describe(upstream.find(topic), prepared).encode())
            out.print(str(_relative(body)))
