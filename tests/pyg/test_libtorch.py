"""The example in C++: threads share a scripted model without Python."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import HERE, Warm

EXAMPLE = HERE.parents[1] / "examples" / "libtorch"

CALLS = 20_000

pytestmark = [
    pytest.mark.usefixtures("on_nightly"),
    pytest.mark.skipif(
        find_spec("torch_sparse") is not None,
        reason="the model needs no extension: the environment without them runs it",
    ),
]


@pytest.fixture(scope="module")
def serve(warm: dict[str, Warm], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, and beside it an archive from each tree."""
    directory = tmp_path_factory.mktemp("libtorch")
    flags = warm["pristine"].run(EXAMPLE / "flags.py")
    assert flags.returncode == 0, flags.stderr
    program = directory / "serve"
    command = ["c++", EXAMPLE / "serve.cpp", "-o", program, *flags.stdout.splitlines()]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    for tree, python in warm.items():
        files = (directory / f"{tree}.pt", directory / "requests.pt")
        result = python.run(EXAMPLE / "export.py", *files)
        assert result.returncode == 0, result.stderr
    return program


def ends(program: Path, tree: str, times: int) -> Iterator[str]:
    """How runs end: what they print, or the signal."""
    command = [program, program.with_name(f"{tree}.pt"), program.with_name("requests.pt")]
    for _ in range(times):
        result = subprocess.run(
            [*command, str(CALLS)],
            capture_output=True,
            text=True,
            env={"OMP_NUM_THREADS": "1"},
            timeout=600,
        )
        yield result.stdout.strip() if result.returncode == 0 else str(result.returncode)


def test_patched(serve: Path) -> None:
    assert set(ends(serve, "patched", 3)) == {f"{CALLS} 0 0"}


def test_pristine(serve: Path) -> None:
    """A race that nothing forces: one run of many is enough."""
    assert any(end != f"{CALLS} 0 0" for end in ends(serve, "pristine", 50))
