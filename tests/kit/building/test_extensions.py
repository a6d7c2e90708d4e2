"""Wheels of extensions: built, cached, refused."""

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
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from kit.building import extensions as building
from kit.building.cuda import Cuda, Target
from kit.building.extensions import Extension
from kit.errors import SourceError, ToolError, UsageError

from .conftest import INTERPRETER, TARGET


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
    extensions: Sequence[Extension],
    cache: Path,
    target: Target = TARGET,
    *,
    offline: bool = False,
    find_links: str | None = None,
) -> tuple[list[Path], dict[str, str]]:
    """Builds, and returns the wheels and the last word on each package."""
    last: dict[str, str] = {}
    wheels = building.build_extensions(
        extensions,
        target,
        cache,
        lambda package, state, done: last.update({package: state}),
        offline=offline,
        find_links=find_links,
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
        building.machine.check = lambda target, cache: 1
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


def test_what_pypi_has_not_comes_from_git(index: Path, tmp_path: Path) -> None:
    source = make_extension(index, "tiny-lib")
    shutil.unpack_archive(index / str(source.archive), tmp_path)
    repository = tmp_path / "tiny_lib-1.0"
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all of it"]):
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=repository, check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()
    (index / str(source.archive)).unlink()
    extension = Extension("tiny-lib", "1.0", ">=2", git=repository.as_uri(), commit=commit)
    (built,), _ = build([extension], tmp_path / "cache")
    assert zipfile.ZipFile(built).read("tiny_lib.py") == b"x = 1\n"


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
    newest = building.select(["all"])
    assert building.fit(newest, "2.13.0+cpu") == newest
    # Each torch has the versions of its time.
    old = building.fit(building.select(["torch-sparse", "torch-scatter"]), "1.12.1+cu102")
    assert [e.label for e in old] == ["torch-sparse 0.6.15", "torch-scatter 2.0.9"]
    oldest = building.fit(building.select(["torch-sparse", "torch-scatter"]), "1.9.1+cu102")
    assert [e.label for e in oldest] == ["torch-sparse 0.6.12", "torch-scatter 2.0.9"]
    with pytest.raises(UsageError, match=r"torch-sparse 0\.6\.12, .* does not fit torch 1\.8\.0"):
        building.fit(building.select(["all"]), "1.8.0")
    with pytest.raises(UsageError, match=r"pyg-lib .* needs torch >=2.10"):
        building.fit(building.select(["pyg-lib"]), "2.9.1")


def test_stop_ends_what_waits_for_its_turn() -> None:
    ran = []

    def fail(stop: threading.Event) -> None:
        raise ToolError("no")

    def wait(stop: threading.Event) -> None:
        ran.append(stop.wait(30))

    with pytest.raises(ToolError):
        building._side_by_side([fail, wait, wait, wait], jobs=1)
    assert ran in ([], [True])
