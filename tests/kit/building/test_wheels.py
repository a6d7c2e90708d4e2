"""The wheel of a patched PyG, and `build` as a person calls it."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import AFTER, BEFORE, LAYER, World
from kit import sources
from kit.building import wheels as pyg_wheels
from kit.releases import Catalogue
from packaging.specifiers import SpecifierSet

from .conftest import INTERPRETER


def test_build_a_patched_pyg(
    world: World, tmp_path: Path, torch_stub: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(world.index))
    arguments = ["1.8.0", "--source", "sdist", "--python", sys.executable, "--extensions", "none"]
    result = world.run("build", *arguments, "--out", tmp_path / "out", env=torch_stub)
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name == "torch_geometric-1.8.0+threadsafe.1-py2.py3-none-any.whl"
    before = wheel.read_bytes()
    assert world.run("build", *arguments, "--out", tmp_path / "out", env=torch_stub).returncode == 0
    assert wheel.read_bytes() == before
    assert f"pip install torch==2.13.0 {tmp_path / 'out'}/*.whl" in result.stdout
    assert "Installed and imported: torch_geometric." in result.stdout
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True)
    assert (site / LAYER).read_text() == AFTER
    # pip tells it from upstream's, and it still is a 1.8.0.
    (info,) = site.glob("*.dist-info")
    assert "\nVersion: 1.8.0+threadsafe.1\n" in (info / "METADATA").read_text()
    assert SpecifierSet("==1.8.0").contains("1.8.0+threadsafe.1")
    assert "__version__ = '1.8.0'" in (site / "torch_geometric" / "__init__.py").read_text()


def test_a_release_that_is_on_pypi_as_a_wheel_only(
    world: World, catalogue: Catalogue, source: Callable[[str], sources.Source], tmp_path: Path
) -> None:
    release = catalogue.find("1.8.0")
    shutil.unpack_archive(world.index / release.archive, tmp_path)
    archives = world.cache / "archives"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    env = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
    tree = str(tmp_path / "torch_geometric-1.8.0")
    subprocess.run([*command, "-w", str(archives), tree], env=env, check=True)
    (archive,) = archives.iterdir()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    wheel_only = dataclasses.replace(
        release, archive=archive.name, sha256=digest, undeclared=("six",)
    )
    wheel = pyg_wheels.build_pyg(wheel_only, release.patches, source("sdist"), tmp_path / "out")
    assert wheel.name == "torch_geometric-1.8.0+threadsafe.1-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel) as patched, zipfile.ZipFile(archive) as pristine:
        assert pristine.read(LAYER).decode() == BEFORE
        assert patched.read(LAYER).decode() == AFTER
        # What upstream's own metadata forgets, pip now installs.
        metadata = "torch_geometric-1.8.0+threadsafe.1.dist-info/METADATA"
        assert "\nRequires-Dist: six\n" in patched.read(metadata).decode()


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
        (["1.8.0", "--extensions", "torch-scater"], 2, "There is no extension 'torch-scater'"),
        (["1.8.0", "--torch", "1.9.0"], 2, "does not fit torch 1.9.0"),
        (["1.8.0", "--python", sys.executable], 5, "Name a Python 3 that has torch"),
    ],
)
def test_refusals(world: World, arguments: list[str], code: int, said: str) -> None:
    result = world.run("build", *arguments, "--source", "sdist")
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["--cpu", "--cuda-arch", "9.0"], 2, "--cuda-arch goes with --cuda"),
        (["--cuda", "--cuda-arch", "9.0"], 5, "torch 2.13.0+cpu is a CPU build"),
        (["--offline"], 3, "holds no wheel of torch-sparse"),
    ],
)
def test_refusals_with_a_torch(
    world: World, torch_stub: dict[str, str], arguments: list[str], code: int, said: str
) -> None:
    given = ["build", "1.8.0", "--source", "sdist", "--python", sys.executable, *arguments]
    result = world.run(*given, env=torch_stub)
    assert result.returncode == code, result.stderr
    assert said in result.stderr


def test_pip_line(tmp_path: Path) -> None:
    wheels = [tmp_path / "a.whl", tmp_path / "b.whl"]
    for wheel in wheels:
        wheel.touch()
    line = pyg_wheels.pip_line(wheels, INTERPRETER, tmp_path)
    assert line == f"pip install torch==2.13.0 {tmp_path}/*.whl"
    # Not what somebody else has put there.
    (tmp_path / "other.whl").touch()
    old = dataclasses.replace(INTERPRETER, torch="1.13.1+cu117")
    line = pyg_wheels.pip_line(wheels, old, tmp_path)
    assert line == (
        f"pip install torch==1.13.1 'numpy<2' 'setuptools<70' {tmp_path}/a.whl {tmp_path}/b.whl"
    )
