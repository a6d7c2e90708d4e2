"""Where PyG runs: one virtual environment a Python and torch version, and programs in it."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from packaging.version import Version

from kit import places
from kit.errors import ToolError, UsageError
from kit.processes import last_lines, pip, run
from kit.releases import ROOT, Release, read_toml

# The torch that proofs run on, unless another one is named.
TORCH = "2.13.0"

# What runs inside somebody's PyG environment. It imports nothing of the kit.
PROGRAMS = Path(__file__).parent / "programs"

_DESCRIBE = """
import sys
if sys.version_info < (3, 7):
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit("it is Python " + version + ", and what the kit runs there needs 3.7 or newer")
if sys.path[0] == "":
    del sys.path[0]  # the current directory, which may hold a json.py of the user's
import json, platform, sysconfig
described = {
    "path": sys.executable,
    "version": platform.python_version(),
    "tag": sys.implementation.cache_tag
    + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""),
    "platform": sysconfig.get_platform(),
    "site_packages": sysconfig.get_path("purelib"),
    "include": sysconfig.get_path("include"),
}
if "torch" in sys.argv:
    import torch
    gpus = range(torch.cuda.device_count())
    described["torch"] = described["torch_pin"] = torch.__version__
    try:
        from importlib.metadata import version
        described["torch_pin"] = version("torch")
    except ImportError:
        pass  # not in Python 3.7; or a torch that was not installed by pip
    described["cuda"] = torch.version.cuda
    described["gpus"] = [
        "{}.{}".format(*torch.cuda.get_device_capability(gpu)) for gpu in gpus
    ]
print(json.dumps(described))
"""


@dataclass(frozen=True)
class Interpreter:
    """What an interpreter says of itself.

    Attributes:
        path: Where it lies.
        version: Such as `3.11.7`.
        tag: Such as `cpython-311`; `cpython-313t` without the GIL.
        platform: Such as `linux-x86_64`.
        site_packages: Where its packages are.
        include: Where its C headers are.
        torch: The version of its torch with the build, such as `2.13.0+cpu`; "" if not asked for.
        torch_pin: The same as pip knows it: PyPI's `2.0.1` says of itself that it is `2.0.1+cu117`.
        cuda: The CUDA version of that build; None for a CPU build.
        gpus: The architectures of the GPUs that it sees, such as `9.0`.
    """

    path: Path
    version: str
    tag: str
    platform: str
    site_packages: Path
    include: Path
    torch: str = ""
    torch_pin: str = ""
    cuda: str | None = None
    gpus: tuple[str, ...] = ()


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
    directory = places.ENVIRONMENTS / f"torch-{torch}-{describe(base).tag}"
    group: list[str] = read_toml(ROOT / "pyproject.toml")["dependency-groups"]["pyg"]
    return _make(
        directory,
        json.dumps(group),
        f"Installing torch {torch} into .kit/{directory.name} (first use, minutes) ...",
        base,
        # Rather an older wheel than a newer source: few Pythons have all wheels.
        ["--prefer-binary", f"torch=={torch}", *of_its_time(torch), *group],
        f"Check the network, the disk, and that torch {torch} has a wheel for this Python.",
        notify,
    )


def tools(requirements: Sequence[str], base: Path, notify: Callable[[str], None]) -> Path:
    """Returns the interpreter of an environment with some tools, making it on first use.

    Args:
        requirements: What to install, such as `["yapf==0.43.0", "toml"]`.
        base: The interpreter to make it with.
        notify: Is told that it takes a while.

    Raises:
        ToolError: If it cannot be made.
    """
    name = "-".join(requirements).replace("==", "-")
    return _make(
        places.ENVIRONMENTS / f"{name}-{describe(base).tag}",
        json.dumps(list(requirements)),
        f"Installing {', '.join(requirements)} (first use) ...",
        base,
        list(requirements),
        "Check the network, and that PyPI has these versions for this Python.",
        notify,
    )


def _make(
    directory: Path,
    wanted: str,
    message: str,
    base: Path,
    requirements: Sequence[str],
    advice: str,
    notify: Callable[[str], None],
) -> Path:
    """Makes an environment with what pip installs, unless it is there."""

    def make(python: Path) -> None:
        notify(message)
        install = [*pip(python), "install", "--quiet"]
        commands: dict[str, list[str | Path]] = {
            "venv": [base, "-I", "-m", "venv", directory],
            # The one that comes with an old Python knows neither its newer wheels nor
            # the newest form of metadata.
            "pip": [*install, "--upgrade", "pip"],
            "pip install": [*install, *requirements],
        }
        for name, command in commands.items():
            result = run(command)
            if result.returncode != 0:
                raise ToolError(
                    f"The environment .kit/{directory.name} could not be made: '{name}' said: "
                    f"{last_lines(result.stderr, 1)} {advice}"
                )

    return make_once(directory, wanted, make)


def make_once(directory: Path, wanted: str, make: Callable[[Path], None]) -> Path:
    """Returns the interpreter of an environment, made anew where it is not there or does not run.

    Args:
        directory: Where it is. One that was made from something else is removed.
        wanted: What it is made from.
        make: Makes it, and is given the path that its interpreter will have.

    Raises:
        ToolError: If it has to be made, and nothing can be written there.
    """
    python, made_from = directory / "bin" / "python", directory / "made-from.json"

    def is_whole() -> bool:
        try:
            is_current = made_from.read_text(encoding="utf-8") == wanted
            return is_current and run([python, "-I", "-c", ""]).returncode == 0
        except FileNotFoundError:  # It is not there, or another run makes it anew just now.
            return False
        except ToolError:  # The Python that it was made with is gone, and its links lead nowhere.
            return False

    if is_whole():
        return python
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{directory}.lock").acquire()
    except OSError as error:
        raise ToolError(
            f"{directory} has to be made, and nothing can be written beside it "
            f"({error.strerror}). Make {directory.parent} writable, or use a clone of your own."
        ) from None
    with lock:
        if not is_whole():  # as another run may have made it meanwhile
            shutil.rmtree(directory, ignore_errors=True)
            make(python)
            made_from.write_text(wanted, encoding="utf-8")
    return python


def of_its_time(torch: str) -> list[str]:
    """Returns what pip must be told beside an older torch, which does not say so itself."""
    # Built before NumPy 2, and (up to 2.0) with pkg_resources in its build tools.
    return ["numpy<2", "setuptools<70"] if Version(torch) < Version("2.3") else []


def with_wheels(shared: Interpreter, wheels: Sequence[Path], directory: Path) -> Path:
    """Makes a small environment that imports what a shared one holds, and some wheels.

    Args:
        shared: The interpreter of the shared environment.
        wheels: What to install on top.
        directory: Where to make it. What was made there for the same wheels is kept.

    Returns:
        Its interpreter.

    Raises:
        ToolError: If it cannot be made.
    """

    def make(python: Path) -> None:
        install = [*pip(shared.path, isolated=False), "--python", python, "install", "--quiet"]
        install += ["--no-deps", "--no-index", *wheels]
        venv: list[str | Path] = [shared.path, "-I", "-m", "venv", "--without-pip", directory]
        for command in (venv, install):
            result = run(command)
            if result.returncode != 0:
                raise ToolError(
                    f"The wheels could not be installed in {directory}: "
                    f"{last_lines(result.stderr)} Check the disk."
                )
        link(python, shared.site_packages)

    wanted = json.dumps([str(shared.site_packages), *map(str, wheels)])
    return make_once(directory, wanted, make)


_LINK = "shared.pth"


def link(python: Path, *shared: Path) -> None:
    """Lets one environment import what others hold, through a `.pth` file.

    Args:
        python: The interpreter that is to see the packages.
        shared: Directories with packages, the first one first.
    """
    pth = describe(python).site_packages / _LINK
    pth.write_text("".join(f"{directory}\n" for directory in shared), encoding="utf-8")


def packages(python: Path) -> list[Path]:
    """Returns the directories that an environment of the kit's imports packages from."""
    own = describe(python).site_packages
    # Python does not follow a link in a directory that is itself linked to.
    linked = (own / _LINK).read_text(encoding="utf-8") if (own / _LINK).exists() else ""
    return [own, *map(Path, linked.splitlines())]


def describe(python: Path, *, with_torch: bool = False) -> Interpreter:
    """Asks an interpreter what it is, and for its torch.

    Raises:
        ToolError: If it does not run, or has no torch.
    """
    result = run([python, "-c", _DESCRIBE, *(["torch"] if with_torch else [])])
    printed = (result.stdout.splitlines() or [""])[-1]
    if result.returncode != 0 or not printed.startswith("{"):
        said = last_lines(result.stderr, 1)
        # What is no Python may say nothing, or repeat the whole program that it was given.
        said = f": {said.rstrip('.')}" if 0 < len(said) < 500 else ""
        raise ToolError(
            f"{python} cannot be used{said}. Name a Python 3"
            f"{' that has torch' if with_torch else ''}."
        )
    described = json.loads(printed)
    for name in ("path", "site_packages", "include"):
        described[name] = Path(described[name])
    described["gpus"] = tuple(described.get("gpus", ()))
    return Interpreter(**described)


def run_pyg(
    python: Path,
    *arguments: str | Path,
    tree: Path | None,
    home: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Runs `python ARGUMENTS` on a PyG, such that nothing of one run reaches the next.

    Args:
        python: An interpreter with torch and what PyG needs.
        arguments: What it is called with.
        tree: The PyG to import, in a folder that the kit made; None for the interpreter's own.
        home: Where PyG keeps what it caches; None for a place beside the tree, or, without a
            tree, the user's own.
        cwd: The directory to run in.
        env: More variables.
        timeout: Seconds after which it is killed.

    Raises:
        ToolError: If there is no such interpreter.
        subprocess.TimeoutExpired: If it ran for longer than `timeout`.
    """
    return run(
        [python, *arguments],
        cwd=cwd,
        env={**pyg_variables(python, tree, home), **(env or {})},
        timeout=timeout,
    )


def pyg_variables(
    python: Path, tree: Path | None = None, home: Path | None = None
) -> dict[str, str]:
    """Returns the environment variables of `run_pyg`; its arguments are described there."""
    # The first matrix product of a thread else runs on all cores, and rounds differently.
    variables = {"OMP_NUM_THREADS": "1"}
    if tree is not None:
        # PyG leaves compiled templates in the folder for temporary files, and 2.5.0 in its
        # home, under names that all trees share.
        variables |= {"PYTHONPATH": str(tree), "TMPDIR": str(tree.parent)}
        home = home or Path(f"{tree}.home")
    if home is not None:
        variables["PYG_HOME"] = str(home)
    if _is_free_threaded(python):
        # Packages that do not know of free threading would turn the GIL on again.
        variables["PYTHON_GIL"] = "0"
    return variables


@functools.cache
def _is_free_threaded(python: Path) -> bool:
    return describe(python).tag.endswith("t")


def result_of(process: "subprocess.CompletedProcess[str]") -> Any:  # noqa: ANN401
    """Returns what a program of the kit printed: one line of JSON, its last."""
    return json.loads(process.stdout.splitlines()[-1])


def check_imports(python: Path, tree: Path, release: Release) -> None:
    """Checks that an interpreter can import PyG from a tree.

    Raises:
        ToolError: If not, naming what is missing.
    """
    program = "import torch_geometric; print(torch_geometric.__file__)"
    result = run_pyg(python, "-c", program, tree=tree)
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


def named(python: Path) -> Path:
    """Returns the absolute path of an interpreter that a user names: a path, or a program on PATH.

    Raises:
        UsageError: If it is a directory, such as that of the environment.
    """
    if python.is_dir():
        inside = python / "bin" / "python"
        example = inside if inside.exists() else "~/service/venv/bin/python"
        raise UsageError(
            f"--python {python} is a directory. Expected an interpreter, such as {example}."
        )
    on_path = shutil.which(python) if python.name == str(python) and not python.exists() else None
    return Path(on_path) if on_path else python.absolute()


def current_python() -> Path:
    """Returns the interpreter that the kit's own environment was made with."""
    return Path(getattr(sys, "_base_executable", sys.executable))
