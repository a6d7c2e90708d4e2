"""The wheel of a patched PyG, and `build` as a person calls it."""

import dataclasses
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from conftest import AFTER, BEFORE, LAYER, World
from kit import environments, proving, sources
from kit.building import cuda as toolkit
from kit.building import wheels as pyg_wheels
from kit.building.cuda import Cuda, Target
from kit.commands import build as command
from kit.errors import ProofError, ToolError
from kit.processes import run
from kit.releases import Catalogue, Release
from packaging.specifiers import SpecifierSet
from test_proving import proof

from .conftest import INTERPRETER
from .test_prebuilt import make_wheel


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
    arguments = ["1.8.0", "--source", "sdist", "--extensions", "none"]
    result = world.run("build", *arguments, "--out", tmp_path / "out")
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
    version = "2.1.0+cu118"
    torch = dataclasses.replace(INTERPRETER, torch=version, torch_pin=version, cuda="11.8")
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


@pytest.mark.parametrize("gpus, right", [((), 0), (("9.0",), 100), (("9.0",), 99)])
def test_the_threaded_tests_run_on_a_gpu(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    gpus: tuple[str, ...],
    right: int,
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(world.index))
    interpreter = dataclasses.replace(
        INTERPRETER, torch="2.14.1+cu130", torch_pin="2.14.1", cuda="13.0", gpus=gpus
    )
    cuda = Cuda(tmp_path, "13.0", ("9.0",), (), tmp_path / "cuobjdump")
    describe = environments.describe

    def described(python: Path, *, with_torch: bool = False) -> environments.Interpreter:
        return interpreter if with_torch else describe(python)

    def proved(release: Release, *_: object, device: str) -> proving.Proof:
        assert device == "cuda"
        layers = [proof("affected", (0, 0), (right, right))]
        return proving.Proof(release, "3.11.7", "2.14.1+cu130", True, layers)

    monkeypatch.setattr(environments, "describe", described)
    monkeypatch.setattr(toolkit, "find_cuda", lambda interpreter, archs: cuda)
    monkeypatch.setattr(proving, "prove", proved)
    options = ("--cuda", "--python", sys.executable, "--source", "sdist", "--extensions", "none")
    code = call("build", "1.8.0", *options, "--out", tmp_path / "out")
    printed = capsys.readouterr()
    assert code == (right == 99), printed.err
    assert ("No GPU is at hand, so the threaded tests did not run on" in printed.out) is (not gpus)
    assert ("Proved: as released, these race" in printed.out) is (right == 100)
    assert ("the patched release races" in printed.err) is (right == 99)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("setup", r"The wheel of PyG 1\.8\.0 could not be built\. pip said: .*its build backend"),
        ("wheel", r"'wheel unpack' failed: .*no such tool"),
    ],
)
def test_a_wheel_that_cannot_be_made(
    world: World,
    catalogue: Catalogue,
    source: Callable[[str], sources.Source],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    said: str,
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(world.index))
    release = catalogue.find("1.8.0")
    materialize = sources.materialize

    def without_a_backend(release: Release, source: sources.Source, tree: Path) -> None:
        materialize(release, source, tree)
        (tree / "pyproject.toml").write_text("[build-system]\nrequires = [\n")

    def without_wheel(
        command: Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        if "unpack" in command:
            return subprocess.CompletedProcess([], 1, "", "no such tool\n")
        return run(command, env=env)

    if wrong == "setup":
        monkeypatch.setattr(sources, "materialize", without_a_backend)
    else:
        monkeypatch.setattr(pyg_wheels, "run", without_wheel)
    with pytest.raises(ToolError, match=said):
        pyg_wheels.build_pyg(release, release.patches, source("sdist"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wheels_that_cannot_be_imported(tmp_path: Path) -> None:
    made = make_wheel(tmp_path / "wheels")
    with (
        pytest.raises(ProofError, match=r"install, and cannot be imported: .*No module named 'no"),
        pyg_wheels.installed([made], ["nowhere"], Target(INTERPRETER, None)),
    ):
        pass


def test_where_wheels_go(catalogue: Catalogue, tmp_path: Path) -> None:
    release, cuda = catalogue.find("1.8.0"), Cuda(tmp_path, "13.0", (), (), tmp_path)
    no_torch = dataclasses.replace(INTERPRETER, torch="")
    for interpreter, built, name in (
        (no_torch, None, "wheels-1.8.0"),
        (INTERPRETER, None, "wheels-1.8.0-torch2.13.0-cpu"),
        (INTERPRETER, cuda, "wheels-1.8.0-torch2.13.0-cuda13.0"),
    ):
        assert pyg_wheels.folder_name(release, Target(interpreter, built)) == name
