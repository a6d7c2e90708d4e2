"""What the commands share: consoles, progress, common options. It imports no command."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kit import environments, places, sources
from kit.building import extensions as built
from kit.building.cuda import Target
from kit.errors import shown
from kit.proving import Proof
from kit.releases import Catalogue, Release

EXIT_CODES = """
\b
Exit codes:
  0    done, or nothing left to do
  1    a proof or a check found a fault; apply --check: something would change
  2    the command line is wrong: an unknown version, series or option
  3    a release could not be downloaded, or is not what its pin says
  4    the tree, its place, or a file in patches/ is not in a state to work on
  5    this machine lacks something: git, Python 3.10, torch, disk space, ...
  130  interrupted; the tree is as it was
"""


class _Help(TypedDict):
    help: str
    short_help: str
    epilog: str


def help_of(text: str, *examples: str, exits: str) -> _Help:
    """Returns what a verb says of itself: what it is for, examples, and its own exit codes.

    Args:
        text: A sentence or two; the first one stands in the list of verbs.
        examples: Command lines, each with what it does behind a #.
        exits: The exit codes that this verb has reasons for, beside those of all.
    """
    lines = ["\b", *(places.as_called(f"$ scripts/{each}") for each in examples), "", text]
    # The list of verbs has room for a clause.
    first = re.split(r"[.,] |\.$", text)[0] + "."
    return {
        "help": "\n".join(lines),
        "short_help": first,
        "epilog": f"Exit codes: {exits}.",
    }


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401
        """Prints; a package names its commands as they are called there."""
        super().print(*map(_as_called, objects), **options)

    def on_broken_pipe(self) -> None:
        """Goes on without a reader (`| head -1`): the exit code is still that of the command."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _as_called(printed: Any) -> Any:  # noqa: ANN401
    text = str(printed) if isinstance(printed, (str, Text)) else ""
    if places.as_called(text) == text:
        return printed
    return Text(places.as_called(text))


def _console(*, stderr: bool) -> Console:
    # What is printed is what was given: no markup, no emoji, no colours of its own choice.
    console = _Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # A program reads it, or a file keeps it: nothing is wrapped or folded.
        console.soft_wrap = True
        console.width = 100_000
    return console


class _Place(click.Path):
    """A path that is named: `--tree ''` is a variable that is not set, not this directory."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # noqa: ANN401  # the types are click's
        if value == "":
            self.fail("it is empty. Expected a path; '.' is this directory.", param, ctx)
        return super().convert(cast("str", value), param, ctx)


# What may not be read is told by whoever reads it, as a state of the tree.
PLACE = _Place(path_type=Path, readable=False)

out = _console(stderr=False)
err = _console(stderr=True)

Command = TypeVar("Command", bound=Callable[..., Any])
Notify = Callable[[str], None]

# How the displays that are on the terminal are hidden, the innermost last. A terminal has
# room for one: `rich` raises `LiveError` where a second one starts.
_displays: list[Callable[[], None]] = []


@contextlib.contextmanager
def _display(stop: Callable[[], None]) -> Iterator[None]:
    for stop_outer in _displays:
        stop_outer()
    _displays.append(stop)
    try:
        yield
    finally:
        _displays.remove(stop)
        stop()


@contextlib.contextmanager
def progress() -> Iterator[Notify]:
    """Shows what is under way on a terminal, and as plain lines elsewhere. May be nested."""
    if not err.is_terminal:
        yield lambda message: err.print(Text(message))
        return
    status = err.status("")

    def notify(message: str) -> None:
        if _displays[-1] != status.stop:
            err.print(Text(message))  # above what is displayed
            return
        status.update(Text(message))
        # Not before there is something to say: a spinner that comes and goes is only noise.
        status.start()

    with _display(status.stop):
        yield notify


@contextlib.contextmanager
def build_progress() -> Iterator[built.Progress]:
    """Shows what each package is doing, a line each with its time; elsewhere, a line a change."""
    if not err.is_terminal:
        printed: dict[str, str] = {}

        def say(package: str, state: str, done: bool) -> None:
            verb = state.split()[0]
            if printed.get(package) != verb:  # not each file that is compiled
                printed[package] = verb
                err.print(Text(f"{package}: {state}"))

        yield say
        return
    columns = (
        SpinnerColumn(finished_text=Text("+", style="green")),
        TextColumn("{task.fields[package]}", style="bold", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    display = Progress(*columns, console=err)
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

    with _display(display.stop):
        display.start()
        yield update


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """Returns an empty table in the kit's style; `right` columns follow, aligned to the right."""
    empty = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in columns:
        empty.add_column(heading)
    for heading in right:
        empty.add_column(heading, justify="right")
    return empty


def print_path(path: Path) -> None:
    """Prints a path as messages show it."""
    out.print(Text(str(shown(path))))


def torch_options(command: Command) -> Command:
    """Adds `--torch` and `--python`."""
    for option in (
        click.option(
            "--python",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="An interpreter with a torch of its own.",
        ),
        click.option(
            "--torch",
            default=environments.TORCH,
            show_default=True,
            metavar="X",
            help="Its version.",
        ),
    ):
        command = option(command)
    return command


find_links_option = click.option(
    "--find-links",
    envvar="PYG_THREADSAFE_FIND_LINKS",
    metavar="LOCATION",
    help="Take extensions from this index or directory.",
)

git_url_option = click.option(
    "--git-url",
    default=sources.UPSTREAM,
    envvar="PYG_THREADSAFE_GIT_URL",
    metavar="URL",
    hidden=True,
    help="Fetch from here instead of GitHub.",
)


def source_options(command: Command, *, hidden: bool = False) -> Command:
    """Adds `--source`, `--git-url` and `--offline`."""
    for option in (
        click.option(
            "--offline", is_flag=True, hidden=hidden, help="Use the download cache alone."
        ),
        git_url_option,
        click.option(
            "--source",
            "kind",
            type=click.Choice([kind.value for kind in sources.Kind]),
            default="auto",
            hidden=hidden,
            envvar="PYG_THREADSAFE_SOURCE",
            help="Where PyG comes from; auto: git if it answers.",
        ),
    ):
        command = option(command)
    return command


def source_of(kind: str, git_url: str, offline: bool, notify: Notify) -> sources.Source:
    """Returns what the options of `source_options` describe."""
    url = sources.check_url(git_url)
    return sources.Source(sources.Kind(kind), url, offline, sources.default_cache(), notify)


def find_python(
    release: Release | None,
    python: Path | None,
    torch: str,
    cache: Path,
    *,
    extensions: bool | None = None,
    offline: bool = False,
) -> Path:
    """Returns the interpreter that was named, or the shared one, made on first use.

    Args:
        release: Is to run there; None for no special one.
        python: What the user named.
        torch: The version of torch in the shared environment.
        cache: The download cache, which holds the wheels of the extensions.
        extensions: Whether it needs the extensions; None where the release says so.
        offline: Whether to use the cache alone.
    """
    if python is not None:
        return python.absolute()
    with progress() as notify:
        shared = environments.ensure(torch, environments.current_python(), notify)
    if extensions is None:
        extensions = release is not None and release.needs_extensions
    return with_extensions(shared, cache, offline=offline) if extensions else shared


def with_extensions(
    shared: Path, cache: Path, *, names: str = "all", offline: bool = False
) -> Path:
    """Returns the environment that has the extensions as well, and shows how they are built."""
    with build_progress() as update:
        target = Target(environments.describe(shared, with_torch=True), None)
        location = os.environ.get("PYG_THREADSAFE_FIND_LINKS")
        return built.ensure_environment(
            target,
            cache,
            update,
            names=names.replace(",", " ").split(),
            offline=offline,
            find_links=location,
        )


def show_proof(proof: Proof, catalogue: Catalogue) -> None:
    """Prints how threaded calls ended on both trees, and what they cost."""
    versions = f", torch {proof.torch}, Python {proof.python}"
    out.print(Text.assemble((f"PyG {proof.release.version}", "bold"), versions))
    rows = table(
        *("layer", "tree"),
        right=("two threads, forced", "eight threads"),
        title="How the calls ended: right / crashed / silently wrong",
    )
    for layer in proof.layers:
        trees = {"pristine": layer.pristine, "patched": layer.patched}
        if layer.status == "fixed":
            trees = {"as released": layer.pristine}
        for tree, counts in trees.items():
            cells = [_outcomes(counts[row]) for row in ("interleaved", "stress")]
            name = catalogue.classes[layer.layer] if tree != "patched" else ""
            rows.add_row(name, tree, *cells)
    out.print(rows)
    if any(layer.scripted for layer in proof.layers):
        out.print(_scripted_table(proof, catalogue))
    if any(layer.latency for layer in proof.layers):
        out.print(_latency_table(proof, catalogue))
    if not proof.problems():
        affected, fixed = (
            ", ".join(catalogue.classes[p.layer] for p in proof.layers if p.status == status)
            for status in ("affected", "fixed")
        )
        out.print(
            Text.assemble(
                ("Proved:", "green"),
                f" as released, these race, and patched, they do not: {affected}.",
            )
        )
        if fixed:
            out.print(f"Threads can share these as upstream released them: {fixed}.")


def _scripted_table(proof: Proof, catalogue: Catalogue) -> Table:
    rows = table(
        *("layer", "tree"),
        right=("eight threads",),
        title="In TorchScript, which runs without the GIL; each in a process of its own",
    )
    for layer in proof.layers:
        for tree, counts in layer.scripted.items():
            name = catalogue.classes[layer.layer] if tree == "pristine" else ""
            died = Text(f"the process died: {counts.get('died')}", style="red")
            rows.add_row(name, tree, died if "died" in counts else _outcomes(counts))
    return rows


def _outcomes(counts: dict[str, int]) -> Text:
    numbers = [str(counts[key]).rjust(4) for key in ("right", "crashed", "silently_wrong")]
    return Text(" / ".join(numbers), style="" if counts["right"] == counts["calls"] else "red")


def _latency_table(proof: Proof, catalogue: Catalogue) -> Table:
    rows = table(
        "layer",
        right=("edges", "pristine", "patched", "ratio", "quartiles"),
        title="Latency of inference, one thread",
    )
    for layer in proof.layers:
        for number, graph in enumerate((layer.latency or {}).values()):
            low, high = graph["ratio_quartiles"]
            rows.add_row(
                "" if number else catalogue.classes[layer.layer],
                f"{graph['edges']:,}",
                f"{graph['pristine_ms']:.2f} ms",
                f"{graph['patched_ms']:.2f} ms",
                f"{graph['ratio']:.3f}",
                f"{low:.3f} to {high:.3f}",
            )
    return rows
