"""All or nothing: whatever goes wrong on the way, a tree is left as it was."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import AFTER, BEFORE, LAYER, World, git, library, make_patch, tree_of, write
from kit import patching
from kit.errors import TreeError
from kit.releases import Catalogue, Patch


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("failing_call", [1, 2, 3])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_while_writing(
    tree: Path,
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    reverse: bool,
    failing_call: int,
    error: BaseException,
) -> None:
    patches = catalogue.find("1.8.0").patches
    if reverse:
        patching.apply(tree, patching.plan(tree, patches))
    before = tree_of(tree)
    calls = 0

    def failing(real: Any) -> Any:
        def replacement(*arguments: Any, **kwargs: Any) -> Any:
            nonlocal calls
            # The tree alone: the stage, elsewhere, works with the same functions.
            if str(arguments[0]).startswith(str(tree)):
                calls += 1
                if calls == failing_call:
                    raise error
            return real(*arguments, **kwargs)

        return replacement

    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    monkeypatch.setattr(Path, "rmdir", failing(Path.rmdir))
    monkeypatch.setattr(Path, "unlink", failing(Path.unlink))
    expected = TreeError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        patching.apply(tree, patching.plan(tree, patches), reverse=reverse)
    monkeypatch.undo()
    assert tree_of(tree) == before


def test_a_patch_that_does_not_give_its_blob(
    tree: Path, catalogue: Catalogue, tmp_path: Path
) -> None:
    patch = catalogue.find("1.8.0").patches[0]
    file = tmp_path / "wrong.patch"
    file.write_text(patch.text.replace("+attention.append(alpha)", "+attention.append(beta)"))
    wrong = type(patch)(patch.name, file)
    before = tree_of(tree)
    with pytest.raises(TreeError, match="did not give what it records"):
        patching.apply(tree, patching.plan(tree, [wrong]))
    assert tree_of(tree) == before


def test_a_link_becomes_a_file_of_its_own(tree: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    """What it points to may be what all environments share, as with uv's links."""
    target = tmp_path / "elsewhere.py"
    (tree / LAYER).rename(target)
    (tree / LAYER).symlink_to(target)
    patching.apply(tree, patching.plan(tree, catalogue.find("1.8.0").patches))
    assert not (tree / LAYER).is_symlink()
    assert (tree / LAYER).read_text() == AFTER
    assert target.read_text() == BEFORE


def test_blob_id_is_gits(tmp_path: Path) -> None:
    assert patching.blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert patching.blob_of(tmp_path / "missing") == "0" * 40


@pytest.fixture
def two_files(tmp_path: Path) -> Patch:
    """A patch that changes one file, and adds another one."""
    work = tmp_path / "work"
    work.mkdir()
    git("init", "-q", cwd=work)
    file = tmp_path / "two.patch"
    make_patch(work, file, {"a.py": "a\n"}, {"a.py": "A\n", "b.py": "B\n"}, "Two files")
    return Patch("two/files.patch", file)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_half_applied_patch_is_named(tmp_path: Path, two_files: Patch, reverse: bool) -> None:
    files = {"a.py": "a\n", "b.py": "B\n"} if reverse else {"a.py": "A\n"}
    tree = tmp_path / "tree"
    write(tree, files)
    before = tree_of(tree)
    patched, released = ("b.py", "a.py") if reverse else ("a.py", "b.py")
    expected = rf"two/files.patch is half applied to .*: {patched} as patched, but {released} as"
    with pytest.raises(TreeError, match=expected):
        patching.plan(tree, [two_files])
    assert tree_of(tree) == before


def test_a_patch_of_two_files_is_applied_and_reversed(tmp_path: Path, two_files: Patch) -> None:
    tree = tmp_path / "tree"
    write(tree, {"a.py": "a\n"})
    (step,) = patching.plan(tree, [two_files])
    assert step.state is patching.State.PRISTINE
    patching.apply(tree, [step])
    (step,) = patching.plan(tree, [two_files])
    assert step.state is patching.State.PATCHED
    patching.apply(tree, [step], reverse=True)
    assert tree_of(tree) == {"a.py": b"a\n"}


def test_every_verb_names_a_half_applied_patch(world: World, tmp_path: Path) -> None:
    """Not only `plan()`: `apply`, with its exit code, in an own world."""
    patches = tmp_path / "patches"
    shutil.copytree(world.patches, patches)
    work = tmp_path / "work"
    work.mkdir()
    git("init", "-q", cwd=work)
    other = "torch_geometric/nn/conv/other.py"
    message = "Two files\n\nWhy.\n\nReleases: 1.8.0, 1.9.0"
    before, after = {LAYER: BEFORE}, {LAYER: AFTER, other: "new\n"}
    make_patch(work, patches / "gatv2_conv" / "1.8.0.patch", before, after, message)
    own = dataclasses.replace(world, patches=patches)
    tree = tmp_path / "tree"
    write(tree, {**library("1.8.0"), other: "new\n"})
    content = tree_of(tree)
    for options in ([], ["--check"], ["--reverse"], ["--only", "gatv2_conv"]):
        ended = own.apply("1.8.0", "--tree", tree, *options)
        assert ended.returncode == 4, ended.stdout
        assert "gatv2_conv/1.8.0.patch is half applied" in ended.stderr
        assert tree_of(tree) == content
