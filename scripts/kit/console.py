"""What the commands share: consoles, progress, common options. It imports no command."""

import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kit import environments, places, releases, sources, transactions
from kit.building import extensions as built
from kit.building.cuda import Target
from kit.errors import TreeError, UsageError, shown
from kit.proving import Proof
from kit.releases import Catalogue, Release

# One line each in docs/details.md.
EXIT_CODES = (
    "Exit codes: 0 done, 1 a fault was found, 2 wrong usage, 3 no download, 4 the tree or its "
    "place, 5 this machine lacks something, 130 interrupted."
)

# https://no-color.org; here it stands for any escape code, those of progress as well.
_NO_COLOR = bool(os.environ.get("NO_COLOR"))

# Where the context of a command line keeps that `--quiet` was given.
_QUIET = "kit.quiet"


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
    # What is printed is what was given: no markup, no emoji, no colours of its own choice. A
    # terminal is one, whatever FORCE_COLOR says: programs and logs read what is no terminal.
    stream = sys.stderr if stderr else sys.stdout
    console = _Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=stream is not None and stream.isatty(),
        color_system=None if _NO_COLOR else "auto",
    )
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


class _Python(_Place):
    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # noqa: ANN401
        return environments.named(super().convert(value, param, ctx))


# What may not be read is told by whoever reads it, as a state of the tree.
PLACE = _Place(path_type=Path, readable=False)
PYTHON = _Python(path_type=Path, readable=False)

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


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def _is_live() -> bool:
    """Whether there is a terminal on which what was written can be replaced."""
    return err.is_terminal and not err.is_dumb_terminal and not _NO_COLOR


@contextlib.contextmanager
def progress() -> Iterator[Notify]:
    """Shows what is under way on a terminal, and as plain lines elsewhere. May be nested."""
    if _is_quiet():
        yield lambda message: None
        return
    if not _is_live():
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
    if _is_quiet():
        yield lambda package, state, done: None
        return
    if not _is_live():
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


def add_quiet(command: click.Command) -> click.Command:
    """Adds `--quiet` to a command, and to all that are below it; returns it."""

    def keep(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            context.meta[_QUIET] = True  # which a context shares with those below it

    command.params.append(
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=keep,
            help="Show no progress: results and errors alone.",
        )
    )
    if isinstance(command, click.Group):
        for each in command.commands.values():
            add_quiet(each)
    return command


def _check_json(
    context: click.Context, parameter: click.Parameter, file: Path | None
) -> Path | None:
    """Checks the place for JSON before anything that takes minutes."""
    if file is None or str(file) == "-":
        return file
    if str(file) in ("latest", "nightly") or releases.is_version(str(file)):
        raise UsageError(
            f"--json {file} would write a file of that name. Name the PYG-VERSION before --json, "
            f"or a file by another name."
        )
    parent = next(folder for folder in file.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise TreeError(
            f"--json {file}: nothing can be written in {parent}. Name a file in a directory of "
            f"yours."
        )
    return file


json_option = click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    callback=_check_json,
    metavar="[FILE]",
    help="Print JSON, and that alone; or write it to FILE.",
)


def write_json(file: Path | None, data: object) -> bool:
    """Writes what `--json` asks for, and says whether that was the standard output.

    Args:
        file: What `json_option` gives: `-` is the standard output, None is nothing.
        data: What is known.

    Raises:
        TreeError: If the file cannot be written.
    """
    if file is None:
        return False
    content = json.dumps(data, indent=1)
    if str(file) == "-":
        # Whole lines on a terminal, too: they may be copied from there.
        out.print(Text(content), soft_wrap=True)
        return True
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        transactions.replace(file, f"{content}\n".encode())
    except OSError as error:
        raise TreeError(
            f"--json {file}: it cannot be written ({error.strerror}). Name a file in a directory "
            f"of yours."
        ) from None
    return False


def torch_options(command: Command) -> Command:
    """Adds `--torch` and `--python`."""
    for option in (
        click.option(
            "--python",
            type=PYTHON,
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
        return python
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
        if affected:
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
