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
