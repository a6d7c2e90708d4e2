"""The records of data files: what is wrong is named by file, field and value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import World
from kit import records, releases
from kit.errors import TreeError
from kit.records import Field
from kit.upstream import topics

FIELDS = {
    "name": Field("a name", records.matches(r"\w+")),
    "sizes": Field("two numbers", records.list_of(lambda x: type(x) is int, 2), required=False),
    "table": Field("a table", records.table_of(records.matches("x")), required=False),
}


@pytest.mark.parametrize(
    "record",
    [{"name": "a"}, {"name": "a", "sizes": [1, 2, 3]}, {"name": "a", "table": {"key": "x"}}],
)
def test_valid(record: dict[str, Any]) -> None:
    assert records.check(Path("a.toml"), "one", record, FIELDS) is record


@pytest.mark.parametrize(
    "record, message",
    [
        ([], r"one is \[\]. Expected a table with the fields name, sizes"),
        ({}, "one, field 'name' is missing. Expected a name"),
        ({"name": "a b"}, "one, field 'name' is 'a b'. Expected a name"),
        ({"name": "a\n"}, "one, field 'name' is "),
        ({"name": None}, "one, field 'name' is "),
        ({"name": "a", "size": 1}, "one, unknown field 'size' is 1. Expected one of: name, sizes"),
        ({"name": "a", "sizes": [1]}, r"one, field 'sizes' is \[1\]. Expected two numbers"),
        ({"name": "a", "sizes": [1, "2"]}, "one, field 'sizes' is "),
        ({"name": "a", "table": {"key": "y"}}, "one, field 'table' is {'key': 'y'}"),
        ({"name": "a" * 500 + "!"}, r"one, field 'name' is 'a{76}\.\.\.\. Expected"),
    ],
)
def test_invalid(record: object, message: str) -> None:
    advice = r".* Correct the file, or restore it: 'git checkout -- a.toml'\.$"
    with pytest.raises(TreeError, match=rf"^a\.toml: {message}{advice}"):
        records.check(Path("a.toml"), "one", record, FIELDS)


TOPIC = {
    "subject": "Fix it",
    "message": "Why.\nAnd what.\n",
    "branch": "fix-it",
    "layer": "GATv2Conv",
    "section": "Fixed",
    "entry": "Fixed it",
    "tests": ["test/nn/conv/test_gatv2_conv.py"],
    "held": "a hook",
    "forced": "It fails.",
}


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("subject", None, "topic gatv2_conv, field 'subject' is missing"),
        ("subject", "", "topic gatv2_conv, field 'subject' is ''"),
        ("entry", "two\nlines", "topic gatv2_conv, field 'entry' is "),
        ("message", 1, "topic gatv2_conv, field 'message' is 1"),
        ("tests", [], r"topic gatv2_conv, field 'tests' is \[\]"),
        ("tests", "test/nn", "topic gatv2_conv, field 'tests' is 'test/nn'"),
        ("tests", ["src/a.py"], "topic gatv2_conv, field 'tests' is "),
        ("test", ["test/a.py"], "topic gatv2_conv, unknown field 'test'"),
    ],
)
def test_malformed_topic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: object, message: str
) -> None:
    monkeypatch.setattr(releases, "PATCHES", tmp_path)
    assert topics.load() == []
    write_topic(tmp_path, TOPIC)
    assert [topic.name for topic in topics.load()] == ["gatv2_conv"]
    record = {**TOPIC, field: value}
    write_topic(tmp_path, {key: value for key, value in record.items() if value is not None})
    with pytest.raises(TreeError, match=rf"topics\.toml: {message}"):
        topics.load()


def write_topic(patches: Path, record: Mapping[str, object]) -> None:
    file = patches / "upstream" / "topics.toml"
    file.parent.mkdir(exist_ok=True)
    # What Python writes of strings, numbers and lists of them is TOML as well.
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in record.items()]
    file.write_text("\n".join(["[gatv2_conv]", *lines]) + "\n")


def test_topics_that_are_no_tables(world: World, tmp_path: Path) -> None:
    patches = tmp_path / "patches"
    (patches / "upstream").mkdir(parents=True)
    (patches / "releases.toml").write_bytes((world.patches / "releases.toml").read_bytes())
    (patches / "upstream" / "topics.toml").write_text("gatv2_conv = 1\n")
    own = World(world.upstream, world.index, patches, world.cache)
    ended = own.run("upstream", "list")
    assert ended.returncode == 4
    assert "topic gatv2_conv is 1. Expected a table with the fields subject," in ended.stderr
