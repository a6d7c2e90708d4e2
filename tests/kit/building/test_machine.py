"""What a build needs of this machine, checked before anything is compiled."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from kit import environments
from kit.building import machine
from kit.building.cuda import Target
from kit.errors import ToolError, TreeError, UsageError

from .conftest import INTERPRETER, TARGET


@pytest.fixture(autouse=True)
def restore(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    monkeypatch.undo()


def test_enough(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("this machine has no compiler, and the next test sees to that")
    assert machine.check(TARGET, tmp_path) >= 1


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -std=c++17")
    with pytest.raises(ToolError, match="no-such-compiler was not found"):
        machine.check(TARGET, tmp_path)


def test_no_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
    with pytest.raises(ToolError, match=r"headers of Python are missing: .*apt install"):
        machine.check(target, tmp_path)


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(machine, "_cores", lambda: 8)

    def available(size: int) -> None:
        memory = SimpleNamespace(available=size)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    available(5 * machine.MEMORY_PER_JOB[False] + 1)
    assert machine.check(target, tmp_path) == 5
    available(100 * machine.MEMORY_PER_JOB[False])
    assert machine.check(target, tmp_path) == 8
    available(machine.MEMORY_PER_JOB[False] - 1)
    with pytest.raises(ToolError, match="Too little memory"):
        machine.check(target, tmp_path)


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
    (tmp_path / "Python.h").touch()
    usage = SimpleNamespace(free=machine.DISK - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ToolError, match="Too little disk space"):
        machine.check(target, tmp_path)


def test_max_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    (tmp_path / "Python.h").touch()
    target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
    memory = SimpleNamespace(available=100 * machine.MEMORY_PER_JOB[False])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(machine, "_cores", lambda: 8)
    monkeypatch.setenv("MAX_JOBS", "3")
    assert machine.check(target, tmp_path) == 3
    monkeypatch.setenv("MAX_JOBS", "all")
    with pytest.raises(UsageError, match="MAX_JOBS is 'all'"):
        machine.check(target, tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """An interpreter without pip and setuptools, as uv makes it."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")]
    subprocess.run(command, check=True)
    return tmp_path / "bare" / "bin" / "python"


def test_what_wheels_are_built_with_is_missing(bare: Path) -> None:
    interpreter = environments.describe(bare)
    with pytest.raises(ToolError) as error:
        machine.check_packages(interpreter, ("pip", "setuptools", "wheel", "pkg_resources"))
    assert f"{bare} has no pip, no setuptools, no wheel, and wheels are built with" in str(
        error.value
    )
    assert f"uv pip install --python {bare} pip setuptools wheel." in str(error.value)
    # A setuptools that makes wheels itself is enough; and pip is there.
    site = interpreter.site_packages
    (site / "pip").mkdir()
    (site / "pip" / "__init__.py").touch()
    with pytest.raises(ToolError, match=r"-m pip install setuptools wheel\."):
        machine.check_packages(interpreter, ("pip", "setuptools", "wheel"))
    (site / "setuptools" / "command").mkdir(parents=True)
    for name in ("__init__", "command/__init__", "command/bdist_wheel"):
        (site / "setuptools" / f"{name}.py").touch()
    machine.check_packages(interpreter, ("pip", "setuptools", "wheel"))


def test_an_old_torch_wants_pkg_resources(bare: Path) -> None:
    interpreter = dataclasses.replace(environments.describe(bare), torch="2.0.1+cu117")
    utils = interpreter.site_packages / "torch" / "utils"
    utils.mkdir(parents=True)
    (utils.parent / "__init__.py").touch()
    (utils / "cpp_extension.py").write_text("from pkg_resources import packaging\n")
    with pytest.raises(
        ToolError, match=r"torch 2\.0\.1\+cu117 builds with pkg_resources, and .*<70"
    ):
        machine.check_packages(interpreter, ("pkg_resources",))
    (utils / "cpp_extension.py").write_text("print('No CUDA runtime is found')\n")
    machine.check_packages(interpreter, ("pkg_resources",))


def test_looking_for_pip_does_not_stop_setuptools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to Python 3.11, setuptools cannot be imported in a process that has looked for pip."""
    utils = tmp_path / "torch" / "utils"
    utils.mkdir(parents=True)
    (utils.parent / "__init__.py").touch()
    (utils / "cpp_extension.py").write_text("import setuptools\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    interpreter = environments.describe(Path(sys.executable))
    machine.check_packages(interpreter, ("pip", "setuptools", "wheel", "pkg_resources"))


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    (tmp_path / "Python.h").touch()
    target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
    with pytest.raises(TreeError, match=r"cannot be written \(Not a directory\)\. PYG_THREADSAFE_"):
        machine.check(target, tmp_path / "Python.h" / "cache")


def test_an_interpreter_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="false cannot be used: "):
        machine.find_missing(dataclasses.replace(INTERPRETER, path=Path("/usr/bin/false")), ["pip"])
