"""What pull requests there are to be made: topics, and backports of a release."""

import ast
from dataclasses import dataclass
from pathlib import Path

from kit import records, releases
from kit.errors import UsageError
from kit.records import Field
from kit.releases import Catalogue, Patch, Release, read_toml

BACKPORT = "backport-"

# What a maintainer can paste, by file, and what the checks call it.
REPRODUCERS = {
    "reproducer.py": "reproducer",
    "reproducer_torchscript.py": "reproducer in TorchScript",
}


@dataclass(frozen=True)
class Topic:
    """What one pull request is about; `patches/upstream/topics.toml` explains the fields."""

    name: str
    subject: str
    message: str
    branch: str
    layer: str
    section: str
    entry: str
    tests: tuple[str, ...]
    held: str
    forced: str

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return folder() / self.name

    def patch(self, name: str) -> Patch | None:
        """One of its patches, such as `fix`, where it has that."""
        file = self.folder / f"{name}.patch"
        return Patch(f"upstream/{self.name}/{file.name}", file) if file.exists() else None

    @property
    def patches(self) -> list[Patch]:
        """What is applied, in order."""
        return [patch for name in ("fix", "testing", "test") if (patch := self.patch(name))]

    @property
    def all_patches(self) -> list[Patch]:
        """Those, and the way that was not taken."""
        return [*self.patches, *([other] if (other := self.patch("edge_updater")) else [])]

    @property
    def takes_list(self) -> bool:
        """Whether its fix passes the weights in a list."""
        fix = self.patch("fix")
        return fix is not None and "attention.append(" in fix.text

    @property
    def new_tests(self) -> list[str]:
        """The names of the tests that it adds."""
        names = [node.name for node in definitions(self.read("test.py"))]
        return [name for name in names if name.startswith("test_")]

    @property
    def reproducers(self) -> dict[str, str]:
        """The text of each of its reproducers, by file."""
        return {name: self.read(name) for name in REPRODUCERS if (self.folder / name).exists()}

    def read(self, name: str) -> str:
        """The text of one of its files."""
        return (self.folder / name).read_text(encoding="utf-8")


def folder() -> Path:
    """Returns where topics and templates lie."""
    return releases.PATCHES / "upstream"


_is_text = records.matches(r"(?s).*\S.*")

# What a topic holds; the comments of `topics.toml` explain the fields.
_TOPIC = {
    **{
        name: Field("a line of text", records.matches(r".*\S.*"))
        for name in ("subject", "branch", "layer", "section", "entry", "held", "forced")
    },
    "message": Field("text", _is_text),
    "tests": Field(
        "a list of files below test/", records.list_of(records.matches(r"test/.+"), at_least=1)
    ),
}


def load() -> list[Topic]:
    """Reads `patches/upstream/topics.toml`.

    Raises:
        TreeError: If it is malformed.
    """
    file = folder() / "topics.toml"
    topics = []
    for name, record in (read_toml(file) if file.exists() else {}).items():
        fields = records.check(file, f"topic {name}", record, _TOPIC)
        topics.append(Topic(name=name, **{**fields, "tests": tuple(fields["tests"])}))
    return topics


def find(name: str) -> Topic:
    """Returns a topic.

    Raises:
        UsageError: If there is none of that name.
    """
    topics = load()
    for topic in topics:
        if topic.name == name:
            return topic
    raise UsageError(
        f"There is no topic '{name}'. Expected one of: {', '.join(t.name for t in topics)}; or "
        f"{BACKPORT}VERSION, such as {BACKPORT}2.3.1. 'scripts/kit.sh upstream list' lists all."
    )


def find_backport(name: str, catalogue: Catalogue) -> Release | None:
    """Returns the release that a backport is for, or None for a topic.

    Raises:
        UsageError: If there is no such release, or nothing to be put right in it.
    """
    if not name.startswith(BACKPORT):
        return None
    release = catalogue.find(name.removeprefix(BACKPORT))
    if release.is_nightly:
        raise UsageError("For upstream's main branch, name a topic: there is nothing to backport.")
    return release


def definitions(text: str) -> list[ast.FunctionDef | ast.ClassDef]:
    """Returns the functions and classes that a module defines."""
    return [n for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
