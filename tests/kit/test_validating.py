"""The validator: it finds what is wrong with a patch or a pin."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import World
from kit import releases, validating
from kit.sources import Source

Make = Callable[..., Source]


def faults(source: Source) -> list[str]:
    found = validating.validate(releases.load(), source)
    # The small nightly has no archive of its own.
    return [problem for f in found if not f.release.is_nightly for problem in f.problems]


@pytest.fixture
def copied(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    patches = tmp_path / "patches"
    shutil.copytree(world.patches, patches)
    monkeypatch.setattr(releases, "PATCHES", patches)
    return patches


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("kind", ["git", "sdist"])
def test_sound(world: World, source: Make, kind: str) -> None:
    assert faults(source(kind)) == []
    first = next(validating.validate(releases.load(), source(kind)))
    assert first.left_out == (() if kind == "git" else ("gatv2_conv/1.8.0-test.patch",))


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("-self._alpha = alpha", "-self._alpha = beta", "did not give what it records"),
        ("+attention.append", "+attention.extend", "did not give what it records"),
        (" line 18\n", " line 81\n", "did not give what it records"),
    ],
)
def test_unsound_patch(copied: Path, source: Make, old: str, new: str, said: str) -> None:
    replace(copied / "gatv2_conv" / "1.8.0.patch", old, new)
    found = faults(source("sdist"))
    assert len(found) == 2 and said in found[0]


def test_wrong_blob(copied: Path, source: Make) -> None:
    patch = releases.load().patches()[0]
    replace(copied / patch.name, patch.changes[0].before, "1" * 40)
    assert "expected blob 1111111111" in faults(source("git"))[0]


def test_wrong_pins(copied: Path, source: Make) -> None:
    release = releases.load().releases[0]
    replace(copied / "releases.toml", release.version_blobs[0], "1" * 40)
    assert faults(source("sdist")) == ["torch_geometric/__init__.py is none of its version_blobs."]
    replace(copied / "releases.toml", release.sha256, "1" * 64)
    assert any("not what its pin says" in fault for fault in faults(source("sdist")))
