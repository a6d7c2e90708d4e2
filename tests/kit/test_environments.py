"""Where PyG runs."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import VERSION_FILE, library, write
from kit import environments, places, processes
from kit.building import extensions
from kit.errors import ToolError
from kit.releases import Catalogue
from test_scripts import HOSTILE, make_wheel


@pytest.mark.parametrize("needs_extensions", [True, False])
def test_missing_extensions_are_named(
    catalogue: Catalogue, tmp_path: Path, needs_extensions: bool
) -> None:
    write(tmp_path, {**library("1.8.0"), VERSION_FILE: "import torch_sparse\n"})
    release = dataclasses.replace(catalogue.find("1.8.0"), needs_extensions=needs_extensions)
    with pytest.raises(ToolError) as error:
        environments.check_imports(Path(sys.executable), tmp_path, release)
    assert "No module named 'torch_sparse'" in str(error.value)
    assert ("needs torch-scatter and torch-sparse" in str(error.value)) == needs_extensions


@pytest.mark.parametrize("tag, lock", [("cpython-311", None), ("cpython-313t", "0")])
def test_the_lock_stays_off_where_python_can_do_without(
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tag: str,
    lock: str | None,
) -> None:
    monkeypatch.setattr(environments, "describe", lambda python: SimpleNamespace(tag=tag))
    variables = environments.pyg_variables(tmp_path / tag, tmp_path)
    assert variables.get("PYTHON_GIL") == lock
    assert variables["PYTHONPATH"] == str(tmp_path)


@pytest.fixture
def lies_about(tmp_path: Path) -> Path:
    """A folder with modules that no program of the kit should import."""
    folder = tmp_path / "lies about"
    folder.mkdir()
    for name in ("json", "pip", "platform", "venv"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('not the real {name}')\n")
    return folder


def test_describe_from_any_directory(lies_about: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lies_about)
    python = environments.describe(Path(sys.executable))
    assert python.version == ".".join(map(str, sys.version_info[:3]))


def test_tools_whatever_the_user_has_set(
    lies_about: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ENVIRONMENTS", tmp_path / ".kit")
    monkeypatch.chdir(lies_about)
    make_wheel(tmp_path / "wheels", "pyg_threadsafe_small", "VALUE = 'it is here'\n")
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (tmp_path / "wheels").as_uri(), **HOSTILE}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    python = environments.tools(["pyg_threadsafe_small==1.0"], Path(sys.executable), print)
    result = processes.run([python, "-I", "-c", "import pyg_threadsafe_small"])
    assert result.returncode == 0, result.stderr
    with pytest.raises(ToolError, match="'pip install' said: ERROR: No matching distribution"):
        environments.tools(["pyg_threadsafe_small==2.0"], Path(sys.executable), print)


def test_an_older_python_is_told_so(tmp_path: Path) -> None:
    python = tmp_path / "python"
    older = "import sys; sys.version_info = (3, 6, 15)"
    # Runs what it is given, as if it were older.
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{older}\n$2"\n')
    python.chmod(0o755)
    with pytest.raises(
        ToolError, match=r"it is Python 3\.6\.15, and what the kit runs there needs"
    ):
        environments.describe(python)


@pytest.fixture
def places_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where shared environments go, and an index that has what they hold: nothing real."""
    monkeypatch.setattr(places, "ENVIRONMENTS", tmp_path / ".kit")
    files = {"pyproject.toml": '[dependency-groups]\npyg = ["pyg_threadsafe_small"]\n'}
    write(tmp_path, files)
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    make_wheel(tmp_path / "wheels", "pyg_threadsafe_small", "VALUE = 'it is here'\n")
    version = "from types import SimpleNamespace\n__version__ = '1.0'\n"
    torch = "version = SimpleNamespace(cuda=None)\ncuda = SimpleNamespace(device_count=int)\n"
    make_wheel(tmp_path / "wheels", "torch", version + torch)
    for name in ("numpy", "setuptools"):  # which an old torch wants
        make_wheel(tmp_path / "wheels", name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / ".kit"


def test_the_shared_environment(
    places_of_our_own: Path,
    tmp_path: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made once, linked to an environment of the user's, and with wheels on top."""
    assert call("env", "--torch", "1.0") == 0
    printed = capsys.readouterr()
    python = Path(printed.out.strip())
    assert python.is_relative_to(places_of_our_own) and "Installing torch 1.0" in printed.err
    own = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", own], check=True)
    assert call("env", "--torch", "1.0", "--python", own / "bin" / "python", "--link") == 0
    assert capsys.readouterr().err == ""
    program = "import torch, pyg_threadsafe_small; print(torch.__version__)"
    command = [str(own / "bin" / "python"), "-I", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "1.0\n"

    def built(names: list[extensions.Extension], *_: object, **__: object) -> list[Path]:
        assert [each.name for each in names] == ["torch-scatter"]
        make_wheel(tmp_path / "built", "torch_scatter", "")
        return list((tmp_path / "built").iterdir())

    monkeypatch.setattr(extensions, "build_extensions", built)
    monkeypatch.setattr(extensions, "fit", lambda chosen, torch: chosen)
    for _ in range(2):
        assert call("env", "--torch", "1.0", "--extensions=torch-scatter") == 0
        python = Path(capsys.readouterr().out.strip())
        assert python.parents[1].name.endswith("-extensions")
        program = "import torch, torch_scatter"
        assert subprocess.run([python, "-I", "-c", program]).returncode == 0
    (tmp_path / "built" / "torch_scatter-1.0-py3-none-any.whl").write_text("no wheel")
    described = environments.describe(python)
    with pytest.raises(ToolError, match=r"The wheels could not be installed in .*Check the disk\."):
        environments.with_wheels(described, list((tmp_path / "built").iterdir()), tmp_path / "e")


def test_a_torch_that_there_is_not(
    places_of_our_own: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("env", "--torch", "9.9") == 5
    said = capsys.readouterr().err
    assert "'pip install' said: ERROR: No matching distribution found for torch==9.9" in said
    assert "Check the network, the disk, and that torch 9.9 has a wheel for this Python." in said


def take_away(python: Path) -> None:
    """Takes away what an environment runs on, as `pyenv uninstall` does: links lead nowhere."""
    for link in python.parent.glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere")


def test_an_environment_whose_interpreter_is_gone(
    places_of_our_own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made anew, as is what was made on top of it; while they run, both are kept."""
    make_wheel(tmp_path / "built", "torch_scatter", "")
    wheels = list((tmp_path / "built").iterdir())
    told: list[str] = []

    def make() -> Path:
        shared = environments.ensure("1.0", Path(sys.executable), told.append)
        described = environments.describe(shared, with_torch=True)
        return environments.with_wheels(described, wheels, places_of_our_own / "on-top")

    python = make()
    take_away(python)
    take_away(environments.ensure("1.0", Path(sys.executable), told.append))
    assert make() == python
    assert subprocess.run([python, "-I", "-c", "import torch, torch_scatter"]).returncode == 0
    assert len(told) == 2
    # Another user, who may read the clone and not write there, uses them as well.
    monkeypatch.setattr(environments, "FileLock", None)
    assert make() == python
    assert len(told) == 2


def test_an_environment_that_another_user_would_have_to_make(
    places_of_our_own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(environments, "FileLock", refuse)
    with pytest.raises(ToolError, match="nothing can be written beside it"):
        environments.ensure("1.0", Path(sys.executable), print)
