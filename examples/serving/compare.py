"""Serves a model on a PyG release, as it is and patched, and compares both under load.

`run.sh` calls it, with the kit on the path.
"""

import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import load
import psutil
from kit import environments, pages, releases, transactions
from kit.errors import KitError, ToolError, TreeError, UsageError
from kit.processes import git, last_lines
from kit.releases import ROOT, Release
from rich.console import Console
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent

# The trees, as the table calls them.
TREES = {"pristine": "unpatched", "patched": "patched"}

# In seconds: until a server answers (torch is read from a cold disk, once), and until it
# has ended.
START_LIMIT = 120
END_LIMIT = 5

# Of the processors, in percent, before the servers start: more than this is other programs'.
BUSY = 20.0

EPILOG = """
\b
Exit codes:
  0    the patched server gave only right answers
  1    it did not
  2    the command line is wrong: an unknown version or option
  3    the release could not be downloaded
  4    the place for --json cannot be written
  5    this machine lacks something, or a server did not start or stay
  130  interrupted; the servers have ended, and nothing is left
"""

out = Console(highlight=False, width=min(Console().width, 80))
err = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Server:
    """A server of the model that has been started.

    Attributes:
        tree: The PyG that it uses.
        process: The server.
        log: The file with what it says.
    """

    tree: Path
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait(self, limit: float) -> tuple[str, dict[str, Any]]:
        """Waits until it answers; returns its URL, and what it says of itself.

        Raises:
            ToolError: If it ends, takes too long, or uses another PyG.
        """
        deadline = time.monotonic() + limit
        # Uvicorn has chosen a free port and says which, so none can be taken.
        while not (match := re.search(r"running on (http://[\d.:]+)", self._said())):
            if self.process.poll() is not None:
                raise ToolError(self._failed("ended before it answered"))
            if time.monotonic() > deadline:
                raise ToolError(self._failed(f"did not answer within {limit:g} seconds"))
            time.sleep(0.05)
        try:
            health = load.Client(match[1]).health()
        except load.LoadError as error:
            raise ToolError(self._failed(f"started, but {str(error).rstrip('.')}")) from None
        file = Path(health["torch_geometric_file"])
        if not file.resolve().is_relative_to(self.tree.resolve()):
            raise ToolError(self._failed(f"uses another PyG, {file}"))
        return match[1], health

    def failed(self, error: load.LoadError) -> ToolError:
        """Returns the error to end with when the load could not be run."""
        return ToolError(self._failed(f"did not stand the load: {str(error).rstrip('.')}"))

    def _said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _failed(self, how: str) -> str:
        said = last_lines(self._said(), 4)
        return f"The server on the {self.tree.name} PyG {how}. It said: {said or '(nothing)'}"


@contextlib.contextmanager
def serve(python: Path, tree: Path) -> Iterator[Server]:
    """Starts a server of the model on a free port of the loopback, and ends it at last."""
    command: list[str | Path] = [python, "-m", "uvicorn", "app:app", "--app-dir", HERE]
    command += ["--host", "127.0.0.1", "--port", "0", "--workers", "1"]
    command += ["--no-access-log", "--no-use-colors"]
    # One thread a request, from its first operator on: app.py says why.
    own = environments.pyg_variables(python, tree)
    log = tree.with_name(f"{tree.name}.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this program alone, which ends the server in its turn.
            start_new_session=True,
        )
    try:
        yield Server(tree, process, log)
    finally:
        process.terminate()
        try:
            process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Comparison:
    """How the calls of both trees ended.

    Attributes:
        health: What each server said of itself.
        same_answers: Whether both gave the same bytes to requests that were alone.
        rounds: The rounds in the order in which they were run: the tree, and how it ended.
        explained: The same of rounds in which another client asked for explanations.
    """

    health: dict[str, dict[str, Any]]
    same_answers: bool
    rounds: list[tuple[str, load.Outcome]]
    explained: list[tuple[str, load.Outcome]]

    def of(self, tree: str) -> list[load.Outcome]:
        """The rounds of a tree."""
        return [outcome for name, outcome in self.rounds if name == tree]

    def of_explained(self, tree: str) -> load.Outcome:
        """The rounds of a tree with explanations, as if of one."""
        return load.total([outcome for name, outcome in self.explained if name == tree])

    @property
    def holds(self) -> bool:
        """Whether the patched server gave only right answers."""
        both = (load.total(self.of("patched")), self.of_explained("patched"))
        return self.same_answers and all(
            outcome.right == outcome.requests > 0 and not outcome.failed for outcome in both
        )


def compare(
    python: Path,
    trees: Sequence[Path],
    clients: int,
    seconds: float,
    rounds: int,
    notify: Callable[[str], None],
) -> Comparison:
    """Serves the model on each tree, and loads the servers in turns.

    Args:
        python: An interpreter with torch, what PyG needs, and uvicorn.
        trees: The trees of PyG, named as in `TREES`.
        clients: How many clients ask at the same time.
        seconds: How long a round takes.
        rounds: How many there are, a tree; and as many with explanations meanwhile.
        notify: Is told what is under way.

    Raises:
        ToolError: If a server does not start, or stops answering.
    """
    with contextlib.ExitStack() as stack:
        notify("Starting the servers ...")
        servers = {tree.name: stack.enter_context(serve(python, tree)) for tree in trees}
        urls, health, expected = {}, {}, {}
        for name, server in servers.items():
            urls[name], health[name] = server.wait(START_LIMIT)
        requests = load.make_requests(health["patched"]["features"])
        for name, server in servers.items():
            try:
                expected[name] = load.expect(urls[name], requests)
            except load.LoadError as error:
                raise server.failed(error) from None
        # First one, then the other, then the other way round: what grows warm or slow
        # meanwhile counts for both.
        order = list(itertools.islice(itertools.cycle([*servers, *reversed(servers)]), 2 * rounds))
        # What an explanation leaves in a model must not reach the other rounds: they come first.
        turns = [*((name, False) for name in order), *((name, True) for name in order)]
        outcomes: dict[bool, list[tuple[str, load.Outcome]]] = {False: [], True: []}
        for number, (name, explains) in enumerate(turns, start=1):
            what = f"{TREES[name]}{', explained meanwhile' if explains else ''}"
            notify(f"Round {number} of {len(turns)}: {what}, {seconds:g} seconds ...")
            try:
                outcome = load.run(urls[name], requests, expected[name], clients, seconds, explains)
            except load.LoadError as error:
                raise servers[name].failed(error) from None
            outcomes[explains].append((name, outcome))
    same = expected["pristine"] == expected["patched"]
    return Comparison(health, same, outcomes[False], outcomes[True])


def busy_warning() -> str:
    """Returns what to say where other programs are at work, which takes about a second."""
    busy = psutil.cpu_percent(interval=1.0)
    if busy <= BUSY:
        return ""
    return (
        f"warning: other programs take {busy:.0f} % of the processors: latencies and rates will "
        f"mean little, and threads meet less often."
    )


def make_table(comparison: Comparison) -> Table:
    """Returns a table of how the calls ended, a column a tree."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for heading in TREES.values():
        table.add_column(heading, justify="right")
    totals = {tree: load.total(comparison.of(tree)) for tree in TREES}
    table.add_row("requests/s", *(f"{outcome.rate:,.0f}" for outcome in totals.values()))
    # How much of a difference is noise: the slowest and the fastest round.
    spread = [[outcome.rate for outcome in comparison.of(tree)] for tree in TREES]
    table.add_row("  by round", *(f"{min(rates):,.0f} to {max(rates):,.0f}" for rates in spread))
    # An error comes early, so many of them make a server fast.
    right = (outcome.right / outcome.seconds for outcome in totals.values())
    table.add_row("right answers/s", *(f"{rate:,.0f}" for rate in right))
    for percent in (50, 95, 99):
        cells = (load.percentile(outcome.latencies, percent) for outcome in totals.values())
        texts = ("-" if cell is None else f"{cell:,.1f} ms" for cell in cells)
        table.add_row(f"p{percent}", *texts)
    for kind in ("right", "errors", "wrong"):
        counts = [getattr(outcome, kind) for outcome in totals.values()]
        style = "red" if kind != "right" and any(counts) else ""
        name = "error" if kind == "errors" else kind
        table.add_row(f"{name} answers", *(f"{count:,}" for count in counts), style=style)
    explained = [comparison.of_explained(tree) for tree in TREES]
    table.add_row("while explained:")
    for kind in ("right", "errors", "wrong", "explanations", "failed"):
        counts = [getattr(outcome, kind) for outcome in explained]
        is_bad = kind not in ("right", "explanations") and any(counts)
        table.add_row(f"  {kind}", *(f"{count:,}" for count in counts), style="red" * is_bad)
    return table


def verdict(comparison: Comparison, release: Release) -> str:
    """Returns how the calls ended, in a sentence."""
    before, after = (load.total(comparison.of(tree)) for tree in TREES)
    bad = [f"{o.errors + o.wrong:,} of {o.requests:,} answers" for o in (before, after)]
    if not comparison.same_answers:
        return "The patches change what the model answers to a request that is alone."
    explained = [comparison.of_explained(tree) for tree in TREES]
    bad_explained = [f"{o.errors + o.wrong:,} of {o.requests:,}" for o in explained]
    if not comparison.holds:
        return (
            f"The patched server gave errors or wrong answers: {bad[1]}, and {bad_explained[1]} "
            f"while it explained, with {explained[1].failed:,} failed explanations."
        )
    return (
        f"{_of_predictions(before, after, bad, release)} While graphs were explained, "
        f"{bad_explained[0]} predictions were errors or wrong, unpatched, and none of "
        f"{explained[1].requests:,}, patched."
    )


def _of_predictions(
    before: load.Outcome, after: load.Outcome, bad: Sequence[str], release: Release
) -> str:
    if before.right < before.requests:
        return (
            f"Unpatched, {bad[0]} were errors or another request's; patched, all of "
            f"{after.requests:,} were right."
        )
    if release.status.get("gatv2_conv") == "affected":
        return (
            f"Both gave only right answers: the race was not met this time. "
            f"'scripts/kit.sh prove {release.version}' forces it."
        )
    return "Both gave only right answers: upstream has fixed GATv2Conv in this release."


def as_json(
    comparison: Comparison, release: Release, command: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """The whole of it, for `--json`."""
    return {
        "release": release.version,
        "command": command,
        "machine": pages.machine(),
        "versions": {
            **{key: comparison.health["patched"][key] for key in ("python", "torch")},
            **{name: importlib.metadata.version(name) for name in ("fastapi", "uvicorn")},
        },
        **settings,
        "same_answers": comparison.same_answers,
        "rounds": [{"tree": tree, **outcome.as_json()} for tree, outcome in comparison.rounds],
        "total": {tree: load.total(comparison.of(tree)).as_json() for tree in TREES},
        "explained": {tree: comparison.of_explained(tree).as_json() for tree in TREES},
        "holds": comparison.holds,
        "verdict": verdict(comparison, release),
    }


def prepare(release: Release, directory: Path) -> list[Path]:
    """Makes both trees in a directory, and lets this interpreter import torch."""
    extensions = ["--extensions"] if release.needs_extensions else []
    run_kit("env", "--python", sys.executable, "--link", *extensions)
    trees = [directory / name for name in TREES]
    # The archive on PyPI has all that is served.
    run_kit("apply", release.version, "--dest", str(trees[1]), "--source", "sdist")
    git("worktree", "add", "--quiet", trees[0], "pristine", cwd=trees[1])
    return trees


def run_kit(*arguments: str) -> None:
    """Runs a verb of the kit, and ends with its exit code where it fails: it has said why."""
    process = subprocess.Popen([ROOT / "scripts" / "kit.sh", *arguments], stdout=subprocess.DEVNULL)
    try:
        code = process.wait()
    except BaseException:
        # It undoes what it has begun.
        process.terminate()
        process.wait()
        raise
    if code != 0:
        sys.exit(code)


@click.command(epilog=EPILOG, context_settings={"max_content_width": 80})
@click.argument("version", default="2.4.0", metavar="[PYG-VERSION]")
@load.clients_option
@load.seconds_option
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=2,
    show_default=True,
    help="How many rounds of each server, in turns; and as many with explanations.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the result to this file as JSON.",
)
def cli(version: str, clients: int, seconds: float, rounds: int, json_file: Path | None) -> None:
    """Serve a GATv2 network on a PyG release, and compare it with the patched one under load.

    PYG-VERSION is a release from 1.7.1 on, 'latest' or 'nightly'; 2.4.0 unless
    named. Both servers run on this machine, and end with this command.
    """
    release = releases.load().find(version)
    if json_file is not None:
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            # Better now than after the measurement.
            with tempfile.TemporaryFile(dir=json_file.parent):
                pass
        except OSError as error:
            raise TreeError(
                f"Nothing can be written in {json_file.parent} ({error.strerror}). Name a file in "
                f"a directory of yours."
            ) from None
    settings = {"clients": clients, "seconds": seconds, "rounds_each": rounds}
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        trees = prepare(release, Path(name))
        if warning := busy_warning():
            notify(warning)
        comparison = compare(Path(sys.executable), trees, clients, seconds, rounds, notify)
    if json_file is not None:
        command = shlex.join(["examples/serving/run.sh", *sys.argv[1:]])
        result = as_json(comparison, release, command, settings)
        transactions.replace(json_file, (json.dumps(result, indent=2) + "\n").encode())
    health = comparison.health["patched"]
    out.print(f"[bold]PyG {release.version}[/], torch {health['torch']}, Python {health['python']}")
    out.print(f"{pages.machine()}; {clients} clients, {rounds} x {seconds:g} seconds each")
    out.print(make_table(comparison))
    out.print(Text(verdict(comparison, release), style="green" if comparison.holds else "red"))
    sys.exit(not comparison.holds)


def notify(message: str) -> None:
    """Tells what is under way."""
    err.print(Text(message), soft_wrap=True)


def main() -> NoReturn:
    """Runs the command line, and turns each foreseeable error into a message and an exit code."""
    for number in _INTERRUPTS:
        # Where the shell has it ignored, as for a job in the background, it stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        cli.main(prog_name="examples/serving/run.sh", standalone_mode=False)
    except KitError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        _fail(
            f"{error.format_message()} See 'examples/serving/run.sh --help'.", UsageError.exit_code
        )
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted. The servers have ended, and nothing is left.", 130)
    sys.exit(0)


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # A second one must not get in the way of ending the servers.
    for each in _INTERRUPTS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    err.print(Text.assemble(("error: ", "bold red"), message))
    sys.exit(code)


if __name__ == "__main__":
    main()
