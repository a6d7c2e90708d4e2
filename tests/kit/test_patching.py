"""All or nothing: whatever goes wrong on the way, a tree is left as it was."""

from pathlib import Path
from typing import Any

import pytest
from conftest import AFTER, LAYER, tree_of
from kit import patching
from kit.errors import TreeError
from kit.releases import Catalogue


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


def test_a_link_is_followed(tree: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.py"
    (tree / LAYER).rename(target)
    (tree / LAYER).symlink_to(target)
    patching.apply(tree, patching.plan(tree, catalogue.find("1.8.0").patches))
    assert (tree / LAYER).is_symlink()
    assert target.read_text() == AFTER


def test_blob_id_is_gits(tmp_path: Path) -> None:
    assert patching.blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert patching.blob_of(tmp_path / "missing") == "0" * 40
