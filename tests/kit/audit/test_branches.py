"""What functions can write in branches that did not run."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from kit.audit import branches

TEXT = """
    import torch

    last = {}
    scale = None

    class Keeper:
        limit = 5

        def __init__(self):
            self.mean = None

        def run(self, x):
            y = x.relu()
            if x.max() > 5:
                self.mean = x.mean()
                y = y - self.mean
            return y

        def note(self, x):
            if x.max() > 5:
                self.largest = x.max()

        def put(self, value):
            self.value = value

        @classmethod
        def of_class(cls, x):
            if x.max() > 5:
                cls.limit = x.max()
            return x / cls.limit

    def item(x):
        if x.max() > 5:
            last[
                "mean"
            ] = x.mean()
            return x - last["mean"]
        return x

    def statement(x):
        global scale
        if x.max() > 5:
            scale = x.max()
            return x / scale
        return x

    def memo(n):
        if n > 5:
            if n not in last:
                last[n] = n * 2
            return last[n]
        return 1

    def registry(kind):
        known = last.get(kind)
        if known is not None:
            return known
        for each in kind.bases:
            if each.name not in last:
                last[each.key] = each
        last[kind] = last[kind.base]
        return last[kind]

    def own(x):
        last = {}
        if x.max() > 5:
            last["mean"] = x.mean()
        return last

    def given(kept, x):
        if x.max() > 5:
            kept["mean"] = x.mean()
            return kept["mean"]
        return x

    def option(x, keep=False, *, most=None):
        if keep or most:
            last["x"] = x
        return last

    def other(x):
        return option(x)

    def fails(x):
        if x.max() > 5:
            raise ValueError("too large")
        return x

    def calls(x, keeper):
        if x.max() > 5:
            remember(x)
            keeper.put(x)
            return keeper.value - last["mean"]
        return x

    def remember(x):
        last.update(mean=x.mean())

    def make():
        mean = None

        def centre(x):
            nonlocal mean
            if x.max() > 5:
                mean = x.mean()
                return x - mean
            return x

        return centre
"""


class Source:
    """A file, and what is said to have run of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "own.py"
        self.path.write_text(dedent(TEXT), encoding="utf-8")
        self.lines = self.path.read_text(encoding="utf-8").splitlines()

    def line(self, text: str) -> int:
        """The first line that begins so."""
        return next(i for i, line in enumerate(self.lines, 1) if line.strip().startswith(text))

    def place(self, text: str) -> str:
        """The same, as it is shown."""
        return f"own.py:{self.line(text)}"

    def function(self, name: str, **known: list[str]) -> dict[str, Any]:
        """A function that ran."""
        line = self.line(f"def {name}(")
        if self.lines[line - 2].strip().startswith("@"):
            line -= 1
        return {"name": name, "line": line, "shared": [], "free": [], "own": [], **known}

    def unmade(
        self,
        *functions: dict[str, Any],
        lines: tuple[int, ...] = (),
        objects: Any = (),
        shown: str = "own.py",
    ) -> dict[str, list[str]]:
        """The writes that were not made, by name, with their lines."""
        told = {"lines": lines, "functions": functions, "state": ["last"], "holders": ["Keeper"]}
        given = {"files": {shown: told}, "objects": objects}
        writes, unread = branches.writes_not_made(given, None, lambda file: self.path)
        assert unread == []
        for write in writes:
            assert write["kind"] == "race" and write["conditional"] and not write["ran"]
        return {f"{write['class']}.{write['attribute']}": write["written"] for write in writes}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_a_method_of_a_shared_object(source: Source) -> None:
    run = source.function("run", shared=["self"])
    assert source.unmade(run) == {"Keeper.mean": [source.place("self.mean = x")]}
    assert source.unmade(source.function("run")) == {}  # made by the call


def test_what_each_thread_has_to_itself(source: Source) -> None:
    run = source.function("run", shared=["self"], own=["self.mean"])
    assert source.unmade(run) == {}


def test_a_line_that_ran(source: Source) -> None:
    line = source.line("self.mean = x")
    assert source.unmade(source.function("run", shared=["self"]), lines=(line,)) == {}
    # One line of a statement is enough.
    line = source.line("] = x.mean()")
    assert source.unmade(source.function("item"), lines=(line,)) == {}


def test_what_nobody_reads(source: Source) -> None:
    assert source.unmade(source.function("note", shared=["self"])) == {}


def test_the_class_of_a_class_method(source: Source) -> None:
    expected = {"own.Keeper.limit": [source.place("cls.limit =")]}
    assert source.unmade(source.function("of_class")) == expected


def test_global_variables(source: Source) -> None:
    expected = {"own.last": [source.place("last[")]}
    assert source.unmade(source.function("item")) == expected
    expected = {"own.scale": [source.place("scale = x")]}
    assert source.unmade(source.function("statement")) == expected


@pytest.mark.parametrize("name", ["memo", "own", "given", "fails"])
def test_what_harms_nobody(source: Source, name: str) -> None:
    assert source.unmade(source.function(name)) == {}


def test_a_registry_of_an_installed_package(source: Source) -> None:
    registry = source.function("registry")
    places = [source.place("last[each.key]"), source.place("last[kind]")]
    assert source.unmade(registry) == {"own.last": places}
    assert source.unmade(registry, shown="lib/site-packages/own.py") == {}
    item = source.function("item")
    assert source.unmade(item, shown="lib/site-packages/own.py") != {}


def test_an_option_that_no_call_gives(source: Source) -> None:
    assert source.unmade(source.function("option")) == {}
    with source.path.open("a", encoding="utf-8") as stream:
        stream.write("\n\ndef another(x):\n    return option(x, most=x.max() > 5)\n")
    expected = {"own.last": [source.place('last["x"]')]}
    assert source.unmade(source.function("option")) == expected


def test_an_object_that_is_given(source: Source) -> None:
    given = source.function("given", shared=["kept"])
    assert source.unmade(given) == {"given.kept": [source.place("kept[")]}


def test_a_closure(source: Source) -> None:
    centre = source.function("centre", free=["mean"])
    place = source.place("mean = x.mean()")
    assert source.unmade(centre) == {"make.mean": [place]}
    # Made by the call, it is a part of what made it.
    assert source.unmade(centre, source.function("make")) == {}


def test_what_a_branch_calls(source: Source) -> None:
    keeper = {"class": "Keeper", "file": "own.py", "names": ["keeper"]}
    unmade = source.unmade(source.function("calls"), objects=[keeper])
    assert unmade["Keeper.value"] == [source.place("self.value")]
    assert unmade["own.last"] == [source.place("last.update")]


def test_a_file_that_does_not_parse(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def f(:\n", encoding="utf-8")
    told: dict[str, list[object]] = {"lines": [], "functions": [], "state": [], "holders": []}
    given = {"files": {"own.py": told}, "objects": []}
    assert branches.writes_not_made(given, None, lambda file: path) == ([], [str(path)])
