"""Runs the program that audits, in the environment that has the model or the layers."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kit import environments
from kit.errors import ToolError, UsageError
from kit.processes import last_lines, run, run_watched

PROGRAM = Path(__file__).parents[1] / "programs" / "audit"

# What the program exits with where the user's model or inputs cannot be used.
_UNUSABLE = 2
_PROGRESS = "progress: "


class ProgramDied(ToolError):
    """The program was ended by a signal.

    Attributes:
        signal: Its name, such as `SIGSEGV`.
        during: What the program was doing; "" if it has not said.
    """

    def __init__(self, message: str, name: str, during: str) -> None:
        super().__init__(message)
        self.signal = name
        self.during = during


def run_program(
    python: Path,
    arguments: Sequence[str],
    *,
    tree: Path | None = None,
    home: Path | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Runs `programs/audit`, and returns what it printed.

    Args:
        python: The interpreter.
        arguments: What the program is called with.
        tree: The PyG to import; None for the interpreter's own.
        home: Where PyG keeps what it caches; None for the user's own place.
        notify: Is told what the program is doing.

    Raises:
        UsageError: If the user's model or inputs cannot be used; the message says why.
        ProgramDied: If a signal ended the program.
        ToolError: If it fails otherwise.
    """
    during = ""
    said: list[str] = []

    def watch(line: str) -> None:
        nonlocal during
        if line.startswith(_PROGRESS):
            during = line[len(_PROGRESS) :].strip()
            notify(during)
        else:
            said.append(line)

    variables = environments.pyg_variables(python, tree, home)
    if tree is None:
        # The user's own model may count on its own number of threads; the program sets one.
        variables.pop("OMP_NUM_THREADS", None)
    status, output = run_watched([python, PROGRAM, *arguments], env=variables, watch=watch)
    text = "".join(said)
    if status == _UNUSABLE:
        raise UsageError(text.strip())
    if status < 0:
        name = signal.Signals(-status).name
        raise ProgramDied(
            f"The process of the audit died of {name} while {during or 'it started'}. It ran with "
            f"{python}: check that the model runs there alone.",
            name,
            during,
        )
    if status != 0 and last_lines(text, 1).startswith("ModuleNotFoundError"):
        raise ToolError(
            f"{python} cannot run the audit: {last_lines(text, 1)}. Activate the environment of "
            f"the service, or name its interpreter: --python PATH."
        )
    if status != 0:
        raise ToolError(f"The audit could not be run with {python}: {last_lines(text)}")
    printed: dict[str, Any] = json.loads(output.splitlines()[-1])
    return printed


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
    # Its sitecustomize may have printed before.
    package = (result.stdout.splitlines() or [""])[-1]
    return Path(package).parent if package else None


def user_python(given: Path | None) -> Path:
    """The interpreter of the user's own environment: the one named, or the one in use."""
    if given is not None:
        return given
    environment = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    return Path(environment, "bin", "python") if environment else Path("python3")
