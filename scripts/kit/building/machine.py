"""What a build needs of this machine, checked before anything is compiled."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from kit.building.cuda import Target
from kit.environments import Interpreter
from kit.errors import ToolError, TreeError, UsageError
from kit.processes import last_lines, run

# What one compiler needs, measured with torch 2.13.0 (CPU) and 2.14.1 (CUDA 13.0).
MEMORY_PER_JOB = {False: 3 * 2**30, True: 4 * 2**30}
DISK = 2 * 2**30  # bytes, for the temporary files of all builds


def check(target: Target, cache: Path) -> int:
    """Returns how many compilers may run at once.

    Raises:
        ToolError: If there is no compiler, or too little memory or disk.
    """
    compiler = os.environ.get("CXX", "g++" if sys.platform != "darwin" else "clang++")
    if shutil.which(compiler.split()[0]) is None:
        raise ToolError(
            f"No C++ compiler: {compiler.split()[0]} was not found. On Debian and Ubuntu: apt "
            f"install g++. Or name one: CXX=clang++."
        )
    check_packages(target.interpreter, ("pip", "setuptools", "wheel", "pkg_resources"))
    include = target.interpreter.include
    if not (include / "Python.h").exists():
        raise ToolError(
            f"The headers of Python are missing: expected {include / 'Python.h'}. On Debian and "
            f"Ubuntu: apt install python3-dev."
        )
    needed = MEMORY_PER_JOB[target.cuda is not None]
    available = psutil.virtual_memory().available
    if available < needed:
        raise ToolError(
            f"Too little memory: a compiler needs up to {needed / 2**30:.0f} GiB, and "
            f"{available / 2**30:.1f} GiB are free. Close something, or build on another machine: "
            f"the wheels can be copied."
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TreeError(
            f"The cache {cache} cannot be written ({error.strerror}). PYG_THREADSAFE_CACHE=DIR "
            f"names another one."
        ) from None
    for place in (Path(tempfile.gettempdir()), cache):
        free = shutil.disk_usage(place).free
        if free < DISK:
            raise ToolError(
                f"Too little disk space: the builds need {DISK / 2**30:.0f} GiB, and {place} has "
                f"{free / 2**30:.1f} GiB. TMPDIR and PYG_THREADSAFE_CACHE name other places."
            )
    return max(1, min(_cores(), int(available // needed), _max_jobs()))


def _max_jobs() -> int:
    """As many compilers as the user lets PyTorch run at once, each of one core."""
    named = os.environ.get("MAX_JOBS", "")
    if not named:
        return sys.maxsize
    if not named.isdecimal() or int(named) < 1:
        raise UsageError(f"MAX_JOBS is '{named}'. Expected a number from 1 on.")
    return int(named)


# torch's build tools import pkg_resources, or not: they know it best. They come first, since
# setuptools leaves distutils to Python itself once somebody looks for pip.
_FIND_MISSING = """
import importlib.util, sys
names = sys.argv[1:]
without = []
if "pkg_resources" in names:
    names.remove("pkg_resources")
    try:
        import torch.utils.cpp_extension
    except ImportError as error:
        if error.name == "pkg_resources":
            without.append(error.name)
missing = [name for name in names if importlib.util.find_spec(name) is None]
if "wheel" in missing and importlib.util.find_spec("setuptools") is not None:
    if importlib.util.find_spec("setuptools.command.bdist_wheel") is not None:
        missing.remove("wheel")
print(*(missing or without))
"""


def check_packages(interpreter: Interpreter, names: Sequence[str]) -> None:
    """Checks that an interpreter has what wheels are built with.

    Raises:
        ToolError: If it has not, with what is missing.
    """
    missing = find_missing(interpreter, names)
    if not missing:
        return
    if missing == ["pkg_resources"]:
        raise ToolError(
            f"torch {interpreter.torch} builds with pkg_resources, and the setuptools of "
            f"{interpreter.path} is too new to have it. Install an older one there: "
            f"'setuptools<70'."
        )
    raise ToolError(
        f"{interpreter.path} has no {', no '.join(missing)}, and wheels are built with "
        f"{'it' if len(missing) == 1 else 'them'}. An environment that uv has made comes without. "
        f"Install what is missing: {_install_line(interpreter.path, missing)}."
    )


def find_missing(interpreter: Interpreter, names: Sequence[str]) -> list[str]:
    """Returns those of some packages that an interpreter does not have.

    Raises:
        ToolError: If it does not run.
    """
    result = run([interpreter.path, "-c", _FIND_MISSING, *names])
    if result.returncode != 0:
        raise ToolError(f"{interpreter.path} cannot be used: {last_lines(result.stderr, 1)}")
    # A CUDA build of torch 1.9 prints a line of its own before it, if there is no GPU.
    return result.stdout.splitlines()[-1].split()


def _install_line(python: Path, missing: Sequence[str]) -> str:
    if "pip" in missing:
        return f"uv pip install --python {python} {' '.join(missing)}"
    return f"{python} -m pip install {' '.join(missing)}"


def _cores() -> int:
    # As few as this process may use, in a container say.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
