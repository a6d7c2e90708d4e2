"""Wheels that somebody else has built: taken where they fit, and else not."""

import contextlib
import dataclasses
import functools
import http.server
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import environments
from kit.building import prebuilt
from kit.building.cuda import Cuda, Target
from kit.building.extensions import Extension
from kit.errors import SourceError, UsageError

from .conftest import INTERPRETER
from .test_extensions import build, make_extension


@pytest.fixture
def stub(tmp_path: Path) -> Target:
    """A Python that imports something called torch."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "stub")]
    subprocess.run(command, check=True)
    python = tmp_path / "stub" / "bin" / "python"
    environments.link(python, INTERPRETER.site_packages)
    (environments.describe(python).site_packages / "torch.py").touch()
    return Target(dataclasses.replace(INTERPRETER, path=python), None)


def make_wheel(
    folder: Path, version: str = "1.0", *, name: str = "tiny-one", library: bytes = b""
) -> Path:
    module = name.replace("-", "_")
    folder.mkdir(exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{module}.py", "x = 2\n")
        if library:
            wheel.writestr(f"{module}_cpu.so", library)
        info = f"{module}-{version}.dist-info"
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{info}/METADATA", about)
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        names = [*wheel.namelist(), f"{info}/RECORD"]
        wheel.writestr(f"{info}/RECORD", "".join(f"{each},,\n" for each in names))
    return path


EXTENSION = Extension("tiny-one", "1.0", ">=2", archive="tiny_one-1.0.tar.gz", sha256="0" * 64)


def test_what_fits_is_taken_and_kept_under_its_hash(stub: Target, tmp_path: Path) -> None:
    made = make_wheel(tmp_path / "wheels")
    cache = tmp_path / "cache"
    (taken,), last = build([EXTENSION], cache, stub, find_links=str(made.parent))
    assert taken.read_bytes() == made.read_bytes()
    assert prebuilt.is_prebuilt(taken)
    assert last == {"tiny-one 1.0": f"prebuilt, from {made.parent}"}
    # It is never taken for one that was built here, nor another wheel for this one.
    with pytest.raises(SourceError, match="holds no wheel of tiny-one"):
        build([EXTENSION], cache, stub, offline=True)
    make_wheel(tmp_path / "others")
    with zipfile.ZipFile(tmp_path / "others" / made.name, "a") as wheel:
        wheel.writestr("more.py", "")
    (other,), _ = build([EXTENSION], cache, stub, find_links=str(tmp_path / "others"), offline=True)
    assert other.parent != taken.parent
    assert sorted(path.name for path in taken.parents[1].iterdir()) == sorted(
        [taken.parent.name, other.parent.name]
    )


@pytest.mark.parametrize(
    "version, library, reason",
    [
        ("1.0+pt20cpu", b"", "is for another torch than 2.13.0+cpu"),
        ("1.0+pt213cu118", b"", "is for another torch than 2.13.0+cpu"),
        ("1.0", b"no library", "does not load with torch 2.13.0+cpu"),
        ("1.1", b"", "no wheel of 1.0 for"),
    ],
)
def test_what_does_not_fit_is_built(
    index: Path, stub: Target, tmp_path: Path, version: str, library: bytes, reason: str
) -> None:
    made = make_wheel(tmp_path / "wheels", version, library=library)
    extension = make_extension(index, "tiny-one")
    (wheel,), last = build([extension], tmp_path / "cache", stub, find_links=str(made.parent))
    assert not prebuilt.is_prebuilt(wheel)
    assert zipfile.ZipFile(wheel).read("tiny_one.py") == b"x = 1\n"
    assert last["tiny-one 1.0"].startswith("built in")
    assert reason in last["tiny-one 1.0"]
    # The next call says it of the one in the cache as well.
    _, last = build([extension], tmp_path / "cache", stub, find_links=str(made.parent))
    assert last["tiny-one 1.0"].startswith("from the cache (")


def test_the_one_for_this_torch_is_taken_among_others(stub: Target, tmp_path: Path) -> None:
    for local in ("pt213cpu", "pt213cu130", "pt29cpu", "zzz"):
        make_wheel(tmp_path / "wheels", f"1.0+{local}")
    (taken,), _ = build([EXTENSION], tmp_path / "cache", stub, find_links=str(tmp_path / "wheels"))
    assert taken.name == "tiny_one-1.0+pt213cpu-py3-none-any.whl"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_an_index(stub: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_wheel(tmp_path / "wheels", "1.0+pt213cpu")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with served(made.parent) as address:
        (taken,), _ = build([EXTENSION], tmp_path / "cache", stub, find_links=address)
        assert taken.read_bytes() == made.read_bytes()
        with pytest.raises(SourceError, match="nothing could not be read: Could not fetch URL"):
            build([EXTENSION], tmp_path / "cache", stub, find_links=f"{address}nothing")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:1/ could not be read"):
        build([EXTENSION], tmp_path / "cache", stub, find_links="http://127.0.0.1:1/")


@pytest.mark.parametrize(
    "location, offline, said",
    [
        ("no/such/place", False, "names no/such/place, and there is no such directory"),
        ("https://example.org/whl", True, "--offline was given, and --find-links names https"),
    ],
)
def test_locations_that_are_refused(location: str, offline: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prebuilt.check_location(location, offline=offline)


def test_a_location_that_pip_cannot_search(
    stub: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "wheels")
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: there is no space left\n")
    monkeypatch.setattr(prebuilt, "run", lambda *_, **__: failed)
    with pytest.raises(SourceError, match=r"could not be searched for tiny-one: .*no space left"):
        prebuilt.find("tiny-one", "1.0", stub, str(tmp_path / "wheels"), tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_wheel_without_device_code_does_not_fit_a_gpu(stub: Target, tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels")
    cuda = Cuda(tmp_path, "13.0", ("9.0",), (), tmp_path / "cuobjdump")
    with pytest.raises(prebuilt.Unfit, match=r"No object of tiny_one-1\.0.* holds device code"):
        prebuilt.find(
            *("tiny-one", "1.0", Target(stub.interpreter, cuda)),
            *(str(tmp_path / "wheels"), tmp_path / "kept"),
        )
