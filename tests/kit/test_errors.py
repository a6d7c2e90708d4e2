"""The errors, and how a path is shown in one."""

import inspect
from pathlib import Path

import pytest
from kit import errors
from kit.errors import KitError, shown


def test_a_path_is_short_where_it_lies_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "build" / "tree") == Path("build/tree")
    assert shown(Path("build")) == Path("build")
    assert shown(tmp_path.parent) == tmp_path.parent


def test_a_path_where_the_working_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert shown(Path("tree")) == Path("tree")
    monkeypatch.undo()


def test_a_class_an_exit_code() -> None:
    classes = [
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, KitError) and each is not KitError
    ]
    assert sorted(each.exit_code for each in classes) == [1, 2, 3, 4, 5]
    for each in classes:
        assert str(each("Expected a, found b. Do c.")) == "Expected a, found b. Do c."
