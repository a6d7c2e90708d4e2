"""A machine that has what a build needs, and a stand-in for torch."""

import dataclasses
import os
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import World
from kit import environments
from kit.building import extensions as building
from kit.building import machine
from kit.building.cuda import Target

INTERPRETER = dataclasses.replace(
    environments.describe(Path(sys.executable)),
    torch="2.13.0+cpu",
    torch_pin="2.13.0+cpu",
    cuda=None,
)


TARGET = Target(INTERPRETER, None)


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of the tests' own, and a machine that has what a build needs."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(building, "ROOT", tmp_path)
    monkeypatch.setattr(machine, "check", lambda target, cache: 2)
    return folder


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return path


@pytest.fixture
def torch_stub(world: World, tmp_path: Path) -> dict[str, str]:
    """The variables with which Python finds something that says it is torch."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "torch.py").write_text(
        "from types import SimpleNamespace\n"
        "__version__ = '2.13.0+cpu'\n"
        "version = SimpleNamespace(cuda=None)\n"
        "cuda = SimpleNamespace(device_count=lambda: 0)\n"
    )
    for name in ("torch_scatter", "torch_sparse"):  # which PyG up to 2.2.0 imports
        (tmp_path / "stub" / f"{name}.py").touch()
    paths = [str(Path(building.__file__).parents[2]), str(tmp_path / "stub")]
    return {"PYTHONPATH": os.pathsep.join(paths)}
