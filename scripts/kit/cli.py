"""The door: the group of commands, and errors turned into messages and exit codes."""

import importlib
import io
import os
import sys
from typing import NoReturn

import click
from rich.text import Text

from kit import __version__, interrupts, places
from kit.console import EXIT_CODES, add_quiet, err
from kit.errors import KitError, ToolError, UsageError

# With it, the shell asks for what completes a line: click has it.
COMPLETE = "_PYG_THREADSAFE_COMPLETE"


def main() -> NoReturn:
    """Runs the command line, and turns each foreseeable error into a message and an exit code."""
    interrupts.listen()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A locale that lacks a letter of a path is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Somebody has read enough (`| head`).
        _discard_output()
    except OSError as error:
        _discard_output()
        _fail(f"Standard output cannot be written ({error.strerror}).", ToolError.exit_code)
    sys.exit(code)


def _run() -> int:
    try:
        return cli.main(prog_name=places.PROGRAM, complete_var=COMPLETE, standalone_mode=False) or 0
    except KitError as error:
        _fail(str(error), error.exit_code)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        see = f" See '{where.command_path} --help'." if where else ""
        _fail(error.format_message() + see, UsageError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted. What was under way has been undone.", 130)
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{where}{error.strerror or error}. Expected a file system and streams that work: "
            f"check the path, its permissions and the space on the disk.",
            ToolError.exit_code,
        )


def _discard_output() -> None:
    # Python would else try again at exit, and complain.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


def _fail(message: str, code: int) -> NoReturn:
    try:
        err.print(Text.assemble(("error: ", "bold red"), places.as_called(message)))
    except OSError:
        # There is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
    sys.exit(code)


# What the kit itself is looked after with: named in the help, in a line.
UPKEEP = (
    *("env", "validate", "example-layer", "add-release", "refresh", "release"),
    *("report", "packages", "mutate", "zoo"),
)
VERBS = ("doctor", "apply", "audit", "build", "prove", "bench", "soak", "upstream", *UPKEEP)


class _Verbs(click.Group):
    """The verbs in the order of their use, on one screen of 80 x 24.

    Each is the command of the module of its name in `kit.commands`, which is imported when it
    is called for: all of them take longer to import than `apply` takes to apply.
    """

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in VERBS and name not in self.commands:
            name_in_python = name.replace("-", "_")
            module = importlib.import_module(f"kit.commands.{name_in_python}")
            self.add_command(add_quiet(getattr(module, name_in_python)))
        return super().get_command(context, name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [
            (name, command.get_short_help_str(limit=70))
            for name in VERBS
            if name not in UPKEEP and (command := self.get_command(context, name))
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"To look after the kit itself: {', '.join(UPKEEP)}.")


@click.group(
    cls=_Verbs,
    epilog=EXIT_CODES,
    invoke_without_command=True,
    context_settings={"max_content_width": 80},
)
@click.version_option(__version__, message="pyg-threadsafe %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Thread-safety patches for PyTorch Geometric (PyG)."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)


add_quiet(cli)
