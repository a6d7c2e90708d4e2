"""`patches/releases.toml` and the patches it names."""

import dataclasses
import email.message
import re
import sys
from dataclasses import dataclass
from email.policy import default as email_policy
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version
from unidiff.patch import PatchSet

from kit.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "patches"

# The file that tells releases apart: it holds `__version__`.
VERSION_FILE = "torch_geometric/__init__.py"

# The blob id that git writes where a file does not exist.
NO_BLOB = "0" * 40


@dataclass(frozen=True)
class Change:
    """What a patch does to one file: its path and its git blob ids before and after."""

    path: str
    before: str
    after: str


@dataclass(frozen=True)
class Patch:
    """A patch in `git format-patch` form.

    Attributes:
        name: Its path below `patches/`, such as `gatv2_conv/2.4.0.patch`.
        file: Where it lies.
    """

    name: str
    file: Path

    @property
    def series(self) -> str:
        """The series it belongs to: the folder it lies in."""
        return PurePosixPath(self.name).parts[0]

    @cached_property
    def text(self) -> str:
        """The whole patch."""
        return self.file.read_text(encoding="utf-8")

    @cached_property
    def _message(self) -> email.message.EmailMessage:
        return email.message_from_string(self.text, policy=email_policy)

    @property
    def subject(self) -> str:
        """The first line of the commit message."""
        return re.sub(r"^\[PATCH\] ", "", " ".join(str(self._message["Subject"]).split()))

    @property
    def body(self) -> str:
        """The rest of the commit message."""
        payload = self._message.get_payload()
        assert isinstance(payload, str)
        return re.split(r"^(?:---\n|diff --git )", payload, maxsplit=1, flags=re.MULTILINE)[
            0
        ].strip()

    @property
    def is_for_library(self) -> bool:
        """Whether it changes PyG itself, not its tests."""
        return "\ndiff --git a/torch_geometric/" in self.text

    @property
    def author(self) -> str:
        """Whose work it is, as `Name <address>`."""
        return str(self._message["From"])

    @property
    def date(self) -> str:
        """When it was written, in the form of RFC 2822."""
        return str(self._message["Date"])

    def fields(self) -> dict[str, str]:
        """The `Name: value` lines at the end of the message, named after Debian's DEP-3."""
        lines = self.body.split("\n\n")[-1].splitlines()
        return dict(line.split(": ", 1) for line in lines if re.match(r"[A-Z][A-Za-z-]+: ", line))

    @cached_property
    def releases(self) -> list[str]:
        """The words of its `Releases:` field: versions, or specifiers such as `>=2.0.4`."""
        # Not by way of the whole message: every command reads this of every patch.
        match = re.search(r"^Releases: ?(.*)$", self.text, flags=re.MULTILINE)
        return [word for word in match[1].split(", ") if word] if match else []

    def fits(self, version: str) -> bool:
        """Whether its `Releases:` field covers a version."""
        return version in self.releases or any(
            SpecifierSet(word).contains(version, prereleases=True)
            for word in self.releases
            if not word[0].isdigit()
        )

    @cached_property
    def hunks(self) -> PatchSet:
        """The parsed diff."""
        return PatchSet(self.text)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The files it touches, read off its full `index` lines."""
        found = re.findall(
            r"^diff --git a/(\S+) b/\1\n"
            r"(?:new file mode \d+\n)?"
            r"index ([0-9a-f]{40})\.\.([0-9a-f]{40})",
            self.text,
            flags=re.MULTILINE,
        )
        return tuple(Change(*match) for match in found)


@dataclass(frozen=True)
class Release:
    """A pinned PyG release; `patches/releases.toml` explains most of the fields.

    Attributes:
        status: What became of each layer: `affected` where a patch changes it, `fixed` (by
            upstream) where only its threaded test fits. A layer is left out where the
            release does not have it, or has it from before it kept a value of a call.
        patches: Those whose `Releases:` field names it, in the order of application.
        optional: The same of the series that are taken only where the user asks for them.
    """

    version: str
    tag: str | None
    commit: str | None
    archive: str
    sha256: str
    version_blobs: tuple[str, ...]
    needs_extensions: bool
    status: dict[str, str]
    patches: tuple[Patch, ...]
    optional: tuple[Patch, ...] = ()
    undeclared: tuple[str, ...] = ()

    @property
    def project(self) -> str:
        """Its name on PyPI."""
        return "pyg-nightly" if self.archive.startswith("pyg_nightly-") else "torch-geometric"

    @property
    def is_nightly(self) -> bool:
        """Whether it is the pinned nightly build."""
        return self.project == "pyg-nightly"

    def affected(self) -> list[str]:
        """The layers that race in it, as named in `status`."""
        return [layer for layer, status in self.status.items() if status == "affected"]

    def series(self) -> list[str]:
        """The series that there are for it, in order, the optional ones last."""
        return list(dict.fromkeys(patch.series for patch in self.all_patches()))

    def all_patches(self) -> tuple[Patch, ...]:
        """All patches that there are for it."""
        return (*self.patches, *self.optional)


@dataclass(frozen=True)
class Catalogue:
    """All pinned releases, oldest first, and what `patches/releases.toml` says of all of them.

    Attributes:
        releases: The releases.
        series: What each series is for.
        classes: The class of each layer.
        requires: The series that a series cannot do without, where a release has them.
        optional: The series that are taken only where the user asks for them.
    """

    releases: tuple[Release, ...]
    series: dict[str, str]
    classes: dict[str, str]
    requires: dict[str, list[str]]
    optional: tuple[str, ...] = ()

    def find(self, word: str) -> Release:
        """Returns the release that a version word names.

        Args:
            word: A version as on PyPI, a tag of upstream's, `latest` or `nightly`.

        Raises:
            UsageError: If there is none, naming the nearest ones.
        """
        stable = [release for release in self.releases if not release.is_nightly]
        if word == "latest":
            return stable[-1]
        if word == "nightly":
            return next(release for release in self.releases if release.is_nightly)
        for release in self.releases:
            if word in (release.version, release.tag) or _same(word, release.version):
                return release
        raise UsageError(self._why_not(word, stable))

    def _why_not(self, word: str, stable: list[Release]) -> str:
        first, last = stable[0], stable[-1]
        hint = "'scripts/apply.sh --list' lists all."
        try:
            version = Version(word)
        except InvalidVersion:
            return (
                f"'{word}' is not a version of PyG. Expected one such as {last.version}, or "
                f"'latest', or 'nightly'. {hint}"
            )
        if version < Version(first.version):
            return (
                f"PyG {word} is not covered: GATv2Conv came with PyG 1.7.1, and the kit's range "
                f"starts there. The nearest release is {first.version}. {hint}"
            )
        if version.is_devrelease:
            nightly = next(release for release in self.releases if release.is_nightly)
            return f"Of the nightly builds, only {nightly.version} is pinned ('nightly'). {hint}"
        if version > Version(last.version):
            return (
                f"PyG {word} is newer than the newest pinned release, {last.version}. "
                f"CONTRIBUTING.md says how to add a release. {hint}"
            )
        below = [r.version for r in stable if Version(r.version) < version][-1]
        above = next(r.version for r in stable if Version(r.version) > version)
        return f"There is no PyG {word}. The nearest releases are {below} and {above}. {hint}"

    def fixed_in(self, layer: str) -> Release | None:
        """The first release in which upstream has fixed a layer, if it has."""
        return next((r for r in self.releases if r.status.get(layer) == "fixed"), None)

    def patches(self) -> list[Patch]:
        """Every patch that some release takes, each once."""
        found = {patch.name: patch for release in self.releases for patch in release.all_patches()}
        return list(found.values())


def _same(word: str, version: str) -> bool:
    try:
        return Version(word) == Version(version)
    except InvalidVersion:
        return False


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file."""
    data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return data


def load() -> Catalogue:
    """Reads `patches/releases.toml`, and which patches say that they fit which release."""
    data = read_toml(PATCHES / "releases.toml")
    classes: dict[str, str] = data["classes"]
    optional = tuple(data.get("optional", ()))
    catalogue = Catalogue((), data["series"], classes, data.get("requires", {}), optional)
    patches = [patch for series in catalogue.series for patch in find_patches(series, catalogue)]
    releases = []
    for record in data["release"]:
        version = record["version"]
        fitting = [patch for patch in patches if patch.fits(version)]
        takes = tuple(patch for patch in fitting if patch.series not in optional)
        changed = {patch.series for patch in takes if patch.is_for_library}
        tested = {patch.file.stem for patch in takes if patch.series == "regression_test"}
        releases.append(
            Release(
                version=version,
                tag=record.get("tag"),
                commit=record.get("commit"),
                archive=record["archive"],
                sha256=record["sha256"],
                version_blobs=tuple(record["version_blobs"]),
                needs_extensions=record["needs_extensions"],
                status={
                    layer: "affected" if layer in changed else "fixed"
                    for layer in classes
                    if layer in changed | tested
                },
                patches=takes,
                optional=tuple(patch for patch in fitting if patch.series in optional),
                undeclared=tuple(record.get("undeclared", ())),
            )
        )
    return dataclasses.replace(catalogue, releases=tuple(releases))


def find_patches(series: str, catalogue: Catalogue) -> list[Patch]:
    """The patches of a series, in the order in which they are applied."""
    files = list((PATCHES / series).glob("*.patch"))
    if series == "regression_test":
        # What all of them need comes first.
        order = {name: number for number, name in enumerate(("helpers", *catalogue.classes))}
        files.sort(key=lambda file: order.get(file.stem, len(order)))
    else:
        files.sort(key=lambda f: (f.stem.endswith("-test"), Version(f.stem.removesuffix("-test"))))
    return [Patch(f"{series}/{file.name}", file) for file in files]
