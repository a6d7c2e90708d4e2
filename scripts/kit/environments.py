"""The virtual environments that PyG runs in: one a Python and torch version, shared by all."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from kit.errors import ToolError
from kit.processes import last_lines, run
from kit.releases import ROOT, Release, read_toml

# The torch that proofs run on, unless another one is named.
TORCH = "2.13.0"

_DESCRIBE = """
import json, platform, sys, sysconfig
print(json.dumps({
    "tag": sys.implementation.cache_tag
    + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""),
    "site_packages": sysconfig.get_path("purelib"),
}))
"""


def ensure(torch: str, base: Path, notify: Callable[[str], None]) -> Path:
    """Returns the interpreter of the shared environment for a torch, making it on first use.

    It holds that torch, what PyG needs beside it, and pytest, but not PyG itself,
    which comes by path (`PYTHONPATH`), so that all releases share it.

    Args:
        torch: A version of torch, as on PyPI.
        base: The interpreter to make it with.
        notify: Is told that it takes a while.

    Raises:
        ToolError: If it cannot be made.
    """
    directory = ROOT / ".kit" / f"torch-{torch}-{_describe(base)['tag']}"
    python = directory / "bin" / "python"
    complete = directory / "made-from.json"
    wanted = json.dumps(read_toml(ROOT / "pyproject.toml")["dependency-groups"]["pyg"])
    directory.parent.mkdir(exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if complete.exists() and complete.read_text(encoding="utf-8") == wanted:
            return python
        notify(f"Installing torch {torch} into .kit/{directory.name} (first use, minutes) ...")
        shutil.rmtree(directory, ignore_errors=True)
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        commands: list[list[str | Path]] = [
            [base, "-m", "venv", directory],
            # Dependency groups need pip 25.1.
            [*pip, "--upgrade", "pip>=25.1"],
            [*pip, f"torch=={torch}", "--group", "pyg"],
        ]
        for command in commands:
            result = run(command, cwd=ROOT)
            if result.returncode != 0:
                raise ToolError(
                    f"The environment for torch {torch} could not be made: '{command[1]} "
                    f"{command[2]}' said: {last_lines(result.stderr, 1)} Check the network, the "
                    f"disk, and that torch {torch} has a wheel for this Python."
                )
        complete.write_text(wanted, encoding="utf-8")
    return python


def link(python: Path, shared: Path) -> None:
    """Lets one environment import what a shared one holds, through a `.pth` file.

    Args:
        python: The interpreter that is to see the packages.
        shared: The interpreter of the environment that holds them.
    """
    pth = Path(_describe(python)["site_packages"]) / "shared-torch.pth"
    pth.write_text(_describe(shared)["site_packages"] + "\n", encoding="utf-8")


def _describe(python: Path) -> dict[str, str]:
    result = run([python, "-c", _DESCRIBE])
    if result.returncode != 0:
        raise ToolError(f"{python} does not run: {last_lines(result.stderr)} Name a Python 3.")
    described: dict[str, str] = json.loads(result.stdout)
    return described


def check_imports(python: Path, tree: Path, release: Release) -> None:
    """Checks that an interpreter can import PyG from a tree.

    Raises:
        ToolError: If not, naming what is missing.
    """
    program = "import torch_geometric; print(torch_geometric.__file__)"
    result = run([python, "-c", program], env={"PYTHONPATH": str(tree)})
    if result.returncode == 0:
        return
    said = last_lines(result.stderr, 1)
    if release.needs_extensions:
        raise ToolError(
            f"PyG {release.version} needs torch-scatter and torch-sparse to be imported, and "
            f"{python} cannot: {said} Name an interpreter that has both, and what else this "
            f"release needs: --python PATH. The releases from 2.3.0 on need neither."
        )
    raise ToolError(f"{python} cannot import PyG {release.version} from {tree}: {said}")


def current_python() -> Path:
    """Returns the interpreter that the kit's own environment was made with."""
    return Path(getattr(sys, "_base_executable", sys.executable))
