"""The validator: it finds what is wrong with a patch or a pin."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import World
from kit import releases, validating
from kit.errors import UsageError
from kit.sources import Source

Make = Callable[..., Source]


def faults(source: Source, *names: str) -> list[str]:
    # The small nightly has no archive of its own.
    tasks = [
        task for task in validating.choose(releases.load(), names) if not task.release.is_nightly
    ]
    return [p for task in tasks for p in validating.validate(task, source).problems]


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
    tasks = validating.choose(releases.load(), ["1.8.0"])
    (task,) = tasks
    assert validating.validate(task, source(kind)).left_out == (
        () if kind == "git" else ("gatv2_conv/1.8.0-test.patch",)
    )


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
    problems = faults(source("sdist"))
    assert len(problems) == 2 and said in problems[0]


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


@pytest.mark.parametrize(
    "names, expected",
    [
        ([], {"1.8.0": 3, "1.9.0": 3, "2.0.0": 2, "2.1.0.dev20260101": 1}),
        (["1.9"], {"1.9.0": 3}),
        (["latest", "1.8.0"], {"1.8.0": 3, "2.0.0": 2}),
        (["gatv2_conv"], {"1.8.0": 2, "1.9.0": 2}),
        (["faster", "gatv2_conv"], {"1.8.0": 2, "1.9.0": 2, "2.0.0": 1}),
        (["regression_test", "1.8.0", "2.0.0"], {"1.8.0": 1, "2.0.0": 1}),
    ],
)
def test_choose(world: World, names: list[str], expected: dict[str, int]) -> None:
    tasks = validating.choose(releases.load(), names)
    assert {task.release.version: len(task.patches) for task in tasks} == expected


@pytest.mark.parametrize(
    "names, message",
    [
        (["gat"], "'gat' is not a version .* Nor is there such a series. Expected one of: gatv2"),
        (["3.0.0"], "PyG 3.0.0 is newer than"),
        (["faster", "1.8.0"], "PyG 1.8.0 takes no patch of faster. It takes: gatv2_conv"),
    ],
)
def test_choose_refuses(world: World, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validating.choose(releases.load(), names)


def test_nothing_else_is_fetched(copied: Path, source: Make) -> None:
    assert faults(source("sdist"), "faster") == []
    archives = source("sdist").cache / "archives"
    assert [path.name for path in archives.glob("*.tar.gz")] == ["torch_geometric-2.0.0.tar.gz"]
    # What is wrong elsewhere is not looked for.
    replace(copied / "gatv2_conv" / "1.8.0.patch", "-self._alpha", "-self._beta")
    assert faults(source("sdist"), "faster", "regression_test", "2.0.0") == []


def test_what_is_not_pinned(copied: Path) -> None:
    replace(copied / "gatv2_conv" / "1.8.0.patch", "Releases: 1.8.0, ", "Releases: 1.8.1, 1.8, ")
    catalogue = releases.load()
    (problem,) = validating.find_unpinned(catalogue, [])
    assert "gatv2_conv/1.8.0.patch names 1.8.1" in problem
    assert validating.find_unpinned(catalogue, ["faster"]) == []


def test_verdict(world: World, copied: Path) -> None:
    """The verb, with its exit codes."""
    own = dataclasses.replace(world, patches=copied)

    def run(*names: str) -> tuple[int, str]:
        ended = own.run("validate", "--source", "sdist", *names)
        return ended.returncode, ended.stdout + ended.stderr

    code, said = run("gatv2_conv", "1.8.0")
    assert (code, "1 releases, 1 applications of 2 patches" in said) == (0, True), said
    assert "Left out: 1, which need --source git." in said
    assert run("gat")[0] == 2
    replace(copied / "gatv2_conv" / "1.8.0.patch", "Releases: 1.8.0, ", "Releases: 1.8.1, 1.8.0, ")
    code, said = run("1.8.0")
    assert (code, "fault: gatv2_conv/1.8.0.patch names 1.8.1" in said) == (1, True), said
    replace(copied / "gatv2_conv" / "1.8.0.patch", "Releases: 1.8.1", "Releases: nightly")
    code, said = run()
    assert (code, "'nightly'" in said) == (1, True), said
