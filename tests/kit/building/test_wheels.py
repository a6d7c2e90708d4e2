"""The wheel of a patched PyG, and `build` as a person calls it."""

import dataclasses
import functools
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
from kit.building.cuda import Target
from kit.commands import build as command
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
    # That wheel alone: whatever torch is there stays.
    assert result.stdout.splitlines()[-1] == f"  pip install --no-deps {tmp_path / 'out'}/*.whl"
    assert "for each torch and Python that this release runs on" in result.stdout
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
        (["1.8.0", "--torch", "1.8.0"], 2, "does not fit torch 1.8.0"),
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


def test_pyg_alone_wants_no_torch(world: World, tmp_path: Path) -> None:
    arguments = ["1.8.0", "--source", "sdist", "--extensions", "none", "--out", tmp_path / "out"]
    result = world.run("build", *arguments)
    assert result.returncode == 0, result.stderr
    assert "not imported: that takes a torch" in result.stdout
    assert result.stdout.splitlines()[-1] == f"  pip install --no-deps {tmp_path / 'out'}/*.whl"
    assert "Installing torch" not in result.stderr


def test_pip_line(tmp_path: Path) -> None:
    wheels = [tmp_path / "a.whl", tmp_path / "b.whl"]
    for wheel in wheels:
        wheel.touch()
    line = functools.partial(pyg_wheels.pip_line, wheels, keeps_torch=False)
    assert line(INTERPRETER, tmp_path) == f"pip install torch==2.13.0+cpu {tmp_path}/*.whl"
    # Not what somebody else has put there.
    (tmp_path / "other.whl").touch()
    old = dataclasses.replace(INTERPRETER, torch="1.13.1+cu117", torch_pin="1.13.1")
    both = f"{tmp_path}/a.whl {tmp_path}/b.whl"
    assert line(old, tmp_path) == f"pip install torch==1.13.1 'numpy<2' 'setuptools<70' {both}"
    # In the environment that they were built in, nothing else is touched.
    ngc = dataclasses.replace(INTERPRETER, torch="2.1.0a0+32f93b1", torch_pin="2.1.0a0+32f93b1")
    assert line(ngc, tmp_path, keeps_torch=True) == (
        f"pip install --no-deps torch==2.1.0a0+32f93b1 {both}"
    )


def test_what_is_printed_of_extensions(
    tmp_path: Path, catalogue: Catalogue, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [tmp_path / "a.whl", tmp_path / "b.whl"]
    for wheel in made:
        wheel.touch()
    cuda = {"torch": "2.1.0+cu118", "torch_pin": "2.1.0+cu118", "cuda": "11.8"}
    torch = dataclasses.replace(INTERPRETER, **cuda)
    result = command._Result(made, {"b.whl"}, ["torch_geometric"], None)
    for keeps in (False, True):
        command._show(result, Target(torch, None), tmp_path, catalogue, keeps_torch=keeps)
        printed = capsys.readouterr().out
        assert "b.whl  0.0 MB  prebuilt\n" in printed
        assert "a.whl  0.0 MB\n" in printed
        assert (
            "torch 2.1.0+cu118 is a build for CUDA, and what was built here is for CPUs" in printed
        )
        assert "torch==2.1.0+cu118 " in printed
        assert ("pip replaces any other torch by 2.1.0+cu118" in printed) is not keeps
