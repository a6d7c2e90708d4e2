"""Wheels of extensions and of a patched PyG: what is built, cached, proved and refused."""

import contextlib
import dataclasses
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import AFTER, BEFORE, LAYER, World
from kit import environments, sources
from kit.building import cuda as toolkit
from kit.building import extensions as building
from kit.building import wheels as pyg_wheels
from kit.building.cuda import Cuda, Target
from kit.building.extensions import Extension
from kit.environments import Interpreter
from kit.errors import KitError, ProofError, SourceError, ToolError, UsageError
from kit.releases import Catalogue
from packaging.specifiers import SpecifierSet

INTERPRETER = dataclasses.replace(
    environments.describe(Path(sys.executable)), torch="2.13.0+cpu", cuda=None
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
    monkeypatch.setattr(building, "_check_machine", lambda target, cache: 2)
    return folder


def make_extension(index: Path, name: str, setup: str = "") -> Extension:
    """An sdist whose `setup.py` runs some code, and makes a wheel with one module."""
    module = name.replace("-", "_")
    text = f"""
        import os, pathlib, sys, time
        from setuptools import setup
        if "bdist_wheel" in sys.argv:
            {textwrap.indent(textwrap.dedent(setup), " " * 12).strip() or "pass"}
        setup(name={name!r}, version="1.0", py_modules=[{module!r}])
    """
    path = index / f"{module}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        for member, content in (("setup.py", textwrap.dedent(text)), (f"{module}.py", "x = 1\n")):
            info = tarfile.TarInfo(f"{module}-1.0/{member}")
            info.size = len(content)
            sdist.addfile(info, io.BytesIO(content.encode()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Extension(name, "1.0", ">=2", archive=path.name, sha256=digest)


def build(
    extensions: Sequence[Extension], cache: Path, target: Target = TARGET, **options: object
) -> tuple[list[Path], dict[str, str]]:
    """Builds, and returns the wheels and the last word on each package."""
    last: dict[str, str] = {}
    wheels = building.build_extensions(
        extensions,
        target,
        cache,
        lambda package, state, done: last.update({package: state}),
        **options,  # type: ignore[arg-type]
    )
    return wheels, last


def wheels_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*.whl"))


def test_a_second_call_takes_the_cached_wheel(index: Path, tmp_path: Path) -> None:
    extension = make_extension(index, "tiny-one")
    first, last = build([extension], tmp_path / "cache")
    assert last["tiny-one 1.0"].startswith("built in")
    (index / "tiny_one-1.0.tar.gz").unlink()
    second, last = build([extension], tmp_path / "cache")
    assert last["tiny-one 1.0"] == "from the cache"
    assert first == second
    assert zipfile.ZipFile(first[0]).read("tiny_one.py") == b"x = 1\n"


def test_the_cache_tells_builds_apart(index: Path, tmp_path: Path) -> None:
    cuda = Cuda(Path("/cuda"), "13.0", ("9.0",), (), Path("/cuobjdump"))
    targets = [
        TARGET,
        Target(dataclasses.replace(INTERPRETER, torch="2.13.0+cu130"), None),
        Target(dataclasses.replace(INTERPRETER, torch="2.14.1+cpu"), None),
        Target(dataclasses.replace(INTERPRETER, tag="cpython-313t"), None),
        Target(dataclasses.replace(INTERPRETER, platform="linux-aarch64"), None),
        Target(INTERPRETER, cuda),
        Target(INTERPRETER, dataclasses.replace(cuda, version="12.4")),
        Target(INTERPRETER, dataclasses.replace(cuda, archs=("8.0", "9.0"))),
    ]
    assert len({target.key for target in targets}) == len(targets)
    extension = make_extension(index, "tiny-one")
    wheels = [build([extension], tmp_path / "cache", target)[0][0] for target in targets[:2]]
    assert len(set(wheels)) == 2


def test_pip_s_own_cache_is_not_asked(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    marker = tmp_path / "built"
    extension = make_extension(index, "tiny-one", f"pathlib.Path({str(marker)!r}).touch()")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-q"]
    subprocess.run([*command, "-w", str(tmp_path / "w"), "tiny-one"], check=True)
    assert list((tmp_path / "pip").rglob("*.whl"))
    marker.unlink()
    build([extension], tmp_path / "cache")
    assert marker.exists()


def test_packages_are_built_side_by_side(index: Path, tmp_path: Path) -> None:
    # Each waits for the other one: alone, neither would ever end.
    def setup(mine: str, other: str) -> str:
        return f"""
            pathlib.Path({str(tmp_path / mine)!r}).touch()
            end = time.monotonic() + 60
            while not pathlib.Path({str(tmp_path / other)!r}).exists():
                assert time.monotonic() < end, "built one after the other"
                time.sleep(0.05)
        """

    extensions = [
        make_extension(index, "tiny-one", setup("one", "two")),
        make_extension(index, "tiny-two", setup("two", "one")),
    ]
    wheels, _ = build(extensions, tmp_path / "cache")
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["tiny_one", "tiny_two"]


def test_a_failed_build_shows_the_end_of_its_log(index: Path, tmp_path: Path) -> None:
    extension = make_extension(index, "tiny-one", 'sys.exit("tiny.cpp:1: error: no such thing")')
    with pytest.raises(ToolError) as error:
        build([extension], tmp_path / "cache")
    assert "tiny-one 1.0 could not be built" in str(error.value)
    assert "tiny.cpp:1: error: no such thing" in str(error.value)
    (log,) = (tmp_path / "build" / "logs").iterdir()
    assert str(log) in str(error.value)
    assert wheels_in(tmp_path / "cache") == []


def test_one_failure_ends_the_other_builds(index: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    slow = f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(120)"
    fails = f"""
        while not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.05)
        sys.exit("no")
    """
    extensions = [make_extension(index, "slow", slow), make_extension(index, "fails", fails)]
    start = time.monotonic()
    with pytest.raises(ToolError, match=r"fails 1\.0 could not be built"):
        build(extensions, tmp_path / "cache")
    assert time.monotonic() - start < 60
    assert not alive(int(pid.read_text()))
    assert wheels_in(tmp_path / "cache") == []


def alive(pid: int) -> bool:
    """Whether a process runs on; one that has been killed may take a moment to end."""
    for _ in range(100):
        if not psutil.pid_exists(pid):
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                time.sleep(0.05)
                continue
        return False
    return True


def test_interrupted(index: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    slow = f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(120)"
    extension = make_extension(index, "slow", slow)
    program = f"""
        import dataclasses, pathlib, sys
        from kit import environments
        from kit.building import extensions as building
        from kit.building.cuda import Target
        from kit.building.extensions import Extension
        building.ROOT = pathlib.Path({str(tmp_path)!r})
        building._check_machine = lambda target, cache: 1
        python = environments.describe(pathlib.Path(sys.executable))
        target = Target(dataclasses.replace(python, torch="2.13.0+cpu"), None)
        extension = Extension(**{dataclasses.asdict(extension)!r})
        cache = pathlib.Path({str(tmp_path / "cache")!r})
        building.build_extensions([extension], target, cache, lambda *words: None)
    """
    env = {**os.environ, "PYTHONPATH": str(Path(building.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background may have been told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    end = time.monotonic() + 60
    while not pid.exists() or not pid.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert not alive(int(pid.read_text()))
    assert wheels_in(tmp_path / "cache") == []
    # And nothing is in the way of the next run.
    (index / "slow-1.0.tar.gz").unlink()
    build([make_extension(index, "slow")], tmp_path / "cache")
    assert wheels_in(tmp_path / "cache") == ["slow-1.0-py3-none-any.whl"]


def test_another_archive_is_refused(index: Path, tmp_path: Path) -> None:
    extension = dataclasses.replace(make_extension(index, "tiny-one"), sha256="0" * 64)
    with pytest.raises(ToolError, match="DO NOT MATCH THE HASHES"):
        build([extension], tmp_path / "cache")
    assert wheels_in(tmp_path / "cache") == []


def test_offline(index: Path, tmp_path: Path) -> None:
    extension = make_extension(index, "tiny-one")
    with pytest.raises(SourceError, match=r"holds no wheel of tiny-one 1\.0"):
        build([extension], tmp_path / "cache", offline=True)
    wheels, _ = build([extension], tmp_path / "cache")
    assert build([extension], tmp_path / "cache", offline=True)[0] == wheels


def test_what_pypi_has_not_comes_from_git_or_an_index(index: Path, tmp_path: Path) -> None:
    source = make_extension(index, "tiny-lib")
    shutil.unpack_archive(index / str(source.archive), tmp_path)
    repository = tmp_path / "tiny_lib-1.0"
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all of it"]):
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *identity, *words], cwd=repository, check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()
    (index / str(source.archive)).unlink()
    extension = Extension("tiny-lib", "1.0", ">=2", git=repository.as_uri(), commit=commit)
    (built,), _ = build([extension], tmp_path / "cache")
    shutil.copy(built, index)
    shutil.rmtree(repository)
    (found,), _ = build([extension], tmp_path / "other", find_links=str(index))
    assert found.read_bytes() == built.read_bytes()


def test_select() -> None:
    assert [e.name for e in building.select(["all"])] == [
        "torch-sparse",
        "torch-scatter",
        "torch-cluster",
        "torch-spline-conv",
    ]
    assert building.select(["none"]) == []
    assert [e.name for e in building.select(["pyg-lib", "torch-scatter"])] == [
        "torch-scatter",
        "pyg-lib",
    ]
    with pytest.raises(UsageError, match=r"no extension .torch-scater.\. Expected some of: torch-"):
        building.select(["torch-scater"])


def test_an_extension_that_does_not_fit_the_torch() -> None:
    building.check_fit(building.select(["all"]), "2.13.0+cpu")
    with pytest.raises(UsageError, match=r"torch-sparse 0\.6\.18, which is pinned, does not fit"):
        building.check_fit(building.select(["all"]), "1.9.0")
    with pytest.raises(UsageError, match=r"pyg-lib .* needs torch >=2.10"):
        building.check_fit(building.select(["pyg-lib"]), "2.9.1")


class TestMachine:
    """What is checked before anything is compiled."""

    @pytest.fixture(autouse=True)
    def restore(self, monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
        monkeypatch.undo()

    def test_enough(self, tmp_path: Path) -> None:
        if shutil.which("g++") is None:
            pytest.skip("this machine has no compiler, and the next test sees to that")
        assert building._check_machine(TARGET, tmp_path) >= 1

    def test_no_compiler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler -std=c++17")
        with pytest.raises(ToolError, match="no-such-compiler was not found"):
            building._check_machine(TARGET, tmp_path)

    def test_no_headers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", sys.executable)
        target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
        with pytest.raises(ToolError, match=r"headers of Python are missing: .*apt install"):
            building._check_machine(target, tmp_path)

    def test_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", sys.executable)
        target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
        (tmp_path / "Python.h").touch()
        monkeypatch.setattr(building, "_cores", lambda: 8)

        def available(size: int) -> None:
            memory = SimpleNamespace(available=size)
            monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

        available(5 * building.MEMORY_PER_JOB[False] + 1)
        assert building._check_machine(target, tmp_path) == 5
        available(100 * building.MEMORY_PER_JOB[False])
        assert building._check_machine(target, tmp_path) == 8
        available(building.MEMORY_PER_JOB[False] - 1)
        with pytest.raises(ToolError, match="Too little memory"):
            building._check_machine(target, tmp_path)

    def test_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", sys.executable)
        target = Target(dataclasses.replace(INTERPRETER, include=tmp_path), None)
        (tmp_path / "Python.h").touch()
        usage = SimpleNamespace(free=building.DISK - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
        with pytest.raises(ToolError, match="Too little disk space"):
            building._check_machine(target, tmp_path)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return path


def make_toolkit(home: Path, version: str = "13.0") -> Path:
    script(
        home / "bin" / "nvcc",
        f"""\
        if [ "$1" = --version ]; then echo "Cuda compilation tools, release {version}, V{version}"
        else echo '#$ _HERE_={home}/bin' >&2; fi
        """,
    )
    script(home / "bin" / "cuobjdump", 'grep "${1#--list-}" "$2"\n')
    return home


CUDA_TORCH = dataclasses.replace(INTERPRETER, torch="2.14.1+cu130", cuda="13.0")


def test_cuda_is_found_behind_a_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_toolkit(tmp_path / "cuda-13.0")
    script(tmp_path / "bin" / "nvcc", f'exec {home}/bin/nvcc "$@"\n')
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "packages" / "nvidia" / "cu13" / "include").mkdir(parents=True)
    torch = dataclasses.replace(CUDA_TORCH, site_packages=tmp_path / "packages", gpus=("9.0",) * 2)
    cuda = toolkit.find_cuda(torch, [])
    assert (cuda.home, cuda.version, cuda.archs) == (home, "13.0", ("9.0",))
    assert cuda.libraries == (tmp_path / "packages" / "nvidia" / "cu13",)
    variables = toolkit.variables(Target(torch, cuda))
    assert variables["FORCE_CUDA"] == "1"
    assert variables["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert variables["CPATH"].endswith("nvidia/cu13/include")


def test_a_cpu_build_is_one_where_a_gpu_is_at_hand() -> None:
    variables = toolkit.variables(TARGET)
    assert (variables["FORCE_ONLY_CPU"], variables["FORCE_CUDA"]) == ("1", "0")


@pytest.mark.parametrize(
    "torch, toolkit, archs, error, said",
    [
        (INTERPRETER, "13.0", ["9.0"], ToolError, "torch 2.13.0[+]cpu is a CPU build"),
        (CUDA_TORCH, None, ["9.0"], ToolError, "No CUDA toolkit was found: expected nvcc in"),
        (CUDA_TORCH, "12.4", ["9.0"], ToolError, "is 12.4, and torch 2.14.1.cu130 is built with"),
        (CUDA_TORCH, "13.0", [], UsageError, "No GPU was found, so its architecture must be named"),
        (CUDA_TORCH, "13.0", ["sm_90"], UsageError, "'sm_90' is not an architecture"),
    ],
)
def test_cuda_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    torch: Interpreter,
    toolkit: str | None,
    archs: list[str],
    error: type[KitError],
    said: str,
) -> None:
    if toolkit is not None:
        make_toolkit(tmp_path / "cuda", toolkit)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    with pytest.raises(error, match=said):
        toolkit.find_cuda(torch, archs)


@pytest.mark.parametrize(
    "objects, archs, said",
    [
        ({"a": "elf sm_90", "b": ""}, ["9.0"], None),
        ({"a": "elf sm_80 sm_90"}, ["8.0", "9.0"], None),
        ({"a": "elf sm_80"}, ["8.0", "9.0"], "holds device code for sm_80: expected sm_80, sm_90"),
        ({"a": "elf sm_90"}, ["9.0+PTX"], "expected compute_90, sm_90"),
        ({"a": "elf sm_90\nptx sm_90"}, ["9.0+PTX"], None),
        ({"a": "", "b": ""}, ["9.0"], "No object of .* holds device code"),
        ({"a": "elf sm_90 static"}, ["9.0"], "does not link against the CUDA runtime"),
    ],
)
def test_check_cuda_wheel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objects: dict[str, str],
    archs: list[str],
    said: str | None,
) -> None:
    home = make_toolkit(tmp_path / "cuda")
    # Objects are lists here of what cuobjdump and readelf would show.
    script(
        tmp_path / "bin" / "readelf",
        'grep -q static "$3" || echo "(NEEDED) Shared library: [libcudart.so.13]"\n',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, listed in objects.items():
            lines = [
                f"{line.split()[0]} file 1: x.{word}.{'cubin' if line[0] == 'e' else 'ptx'} {line}"
                for line in listed.splitlines()
                for word in line.split()[1:]
            ]
            archive.writestr(f"tiny/_{name}_cuda.so", "\n".join(lines))
        archive.writestr("tiny/__init__.py", "")
    cuda = Cuda(home, "13.0", tuple(archs), (), home / "bin" / "cuobjdump")
    if said is None:
        assert f"1 of {len(objects)} objects hold device code" in toolkit.check_cuda_wheel(
            wheel, cuda
        )
    else:
        with pytest.raises(ProofError, match=said):
            toolkit.check_cuda_wheel(wheel, cuda)


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
    paths = [str(Path(building.__file__).parents[2]), str(tmp_path / "stub")]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def test_build_a_patched_pyg(
    world: World, tmp_path: Path, torch_stub: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(world.index))
    words = ["1.8.0", "--source", "sdist", "--python", sys.executable, "--extensions", "none"]
    result = world.run("build", *words, "--out", tmp_path / "out", env=torch_stub)
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name == "torch_geometric-1.8.0+threadsafe.1-py2.py3-none-any.whl"
    before = wheel.read_bytes()
    assert world.run("build", *words, "--out", tmp_path / "out", env=torch_stub).returncode == 0
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
    "words, code, said",
    [
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
        (["1.8.0", "--extensions", "torch-scater"], 2, "There is no extension 'torch-scater'"),
        (["1.8.0", "--torch", "1.9.0"], 2, "does not fit torch 1.9.0"),
        (["1.8.0", "--python", sys.executable], 5, "Name a Python 3 that has torch"),
    ],
)
def test_refusals(world: World, words: list[str], code: int, said: str) -> None:
    result = world.run("build", *words, "--source", "sdist")
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["--cpu", "--cuda-arch", "9.0"], 2, "--cuda-arch goes with --cuda"),
        (["--cuda", "--cuda-arch", "9.0"], 5, "torch 2.13.0+cpu is a CPU build"),
        (["--offline"], 3, "holds no wheel of torch-sparse"),
    ],
)
def test_refusals_with_a_torch(
    world: World, torch_stub: dict[str, str], words: list[str], code: int, said: str
) -> None:
    given = ["build", "1.8.0", "--source", "sdist", "--python", sys.executable, *words]
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


def test_stop_ends_what_waits_for_its_turn() -> None:
    ran = []

    def fail(stop: threading.Event) -> None:
        raise ToolError("no")

    def wait(stop: threading.Event) -> None:
        ran.append(stop.wait(30))

    with pytest.raises(ToolError):
        building._side_by_side([fail, wait, wait, wait], jobs=1)
    assert ran in ([], [True])
