"""Where PyG runs."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import VERSION_FILE, library, write
from kit import environments
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
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.chdir(lies_about)
    make_wheel(tmp_path / "wheels", "pyg_threadsafe_small", "VALUE = 'it is here'\n")
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (tmp_path / "wheels").as_uri(), **HOSTILE}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    python = environments.tools(["pyg_threadsafe_small==1.0"], Path(sys.executable), print)
    result = environments.run([python, "-I", "-c", "import pyg_threadsafe_small"])
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
