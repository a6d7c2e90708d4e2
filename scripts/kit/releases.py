"""`patches/releases.toml` and the patches it names."""

import dataclasses
import email
import email.utils
import re
import sys
from dataclasses import dataclass
from email.policy import default as email_policy
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

from kit import records
from kit.errors import UsageError
from kit.records import Field

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

_BLOBS = "the whole blob ids of the file before and after, as 'git format-patch --full-index' does"
_RELEASES = (
    "versions such as '2.3.0, 2.3.1', or one range such as '>=2.0.0' or '>=2.0.0,<2.5.0' (no blank "
    "within it), or both, separated by ', '"
)


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
        """The whole patch.

        Raises:
            TreeError: If it cannot be read. The other properties raise it, too, where what
                they are read off is malformed.
        """
        try:
            # With its line ends as they are: a diff may be of a file with others.
            return self.file.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise records.unreadable(self.file, error) from None

    @property
    def head(self) -> str:
        """What comes before the diff: the headers of a mail, and the commit message."""
        return re.split(r"^diff --git ", self.text, maxsplit=1, flags=re.MULTILINE)[0]

    @property
    def diff(self) -> str:
        """The rest."""
        return self.text[len(self.head) :]

    def _header(self, name: str, expected: str, pattern: str = r".+") -> str:
        headers = self.head.split("\n\n", 1)[0]
        try:
            # Not a plain search: git folds long lines, and encodes what is not ASCII.
            value = email.message_from_string(headers, policy=email_policy)[name]
            text = None if value is None else " ".join(str(value).split())
        except Exception as error:  # the parser has no base class for what it raises
            raise records.fault(self.file, f"header '{name}'", str(error), expected) from None
        if text is None or not re.fullmatch(pattern, text):
            raise records.fault(self.file, f"header '{name}'", text, expected)
        return text

    @property
    def subject(self) -> str:
        """The first line of the commit message."""
        subject = self._header("Subject", "the first line of the commit message")
        return re.sub(r"^\[PATCH\] ", "", subject)

    @property
    def body(self) -> str:
        """The rest of the commit message."""
        message = self.head.partition("\n\n")[2]
        return re.split(r"^---\n", message, maxsplit=1, flags=re.MULTILINE)[0].strip()

    @property
    def is_for_library(self) -> bool:
        """Whether it changes PyG itself, not its tests."""
        return "\ndiff --git a/torch_geometric/" in self.text

    @property
    def author(self) -> str:
        """Whose work it is, as `Name <address>`."""
        return self._header("From", "'Name <address>'", r"[^<>]* <[^<>]*>")

    @property
    def date(self) -> str:
        """When it was written, in the form of RFC 2822."""
        expected = "a date such as 'Mon, 23 Nov 2026 12:00:00 +0000'"
        date = self._header("Date", expected)
        try:
            email.utils.parsedate_to_datetime(date)
        except (TypeError, ValueError):
            raise records.fault(self.file, "header 'Date'", date, expected) from None
        return date

    def fields(self) -> dict[str, str]:
        """The `Name: value` lines at the end of the message, named after Debian's DEP-3."""
        lines = self.body.split("\n\n")[-1].splitlines()
        return dict(line.split(": ", 1) for line in lines if re.match(r"[A-Z][A-Za-z-]+: ", line))

    @cached_property
    def releases(self) -> list[str]:
        """What its `Releases:` field lists: versions, or a range such as `>=2.0.4`."""
        # Not by way of the whole message: every command reads this of every patch. An
        # indented line would continue the field, as in a mail.
        values = re.findall(r"^Releases:(.*(?:\n[ \t]+\S.*)*)$", self.head, flags=re.MULTILINE)
        if len(values) != 1:
            state = f"written {len(values)} times" if values else None
            raise records.fault(self.file, "field 'Releases'", state, f"it once, with {_RELEASES}")
        return [part.strip(" ") for part in values[0].split(", ")]

    @cached_property
    def _range(self) -> SpecifierSet | None:
        """The range in `Releases:`, if there is one."""
        ranges = []
        for part in self.releases:
            try:
                # packaging takes white space at both ends, such as that of a folded line.
                if not part or part != part.strip():
                    raise InvalidVersion(part)
                if part[0].isdigit():
                    parse_version(part)
                else:
                    ranges.append(SpecifierSet(part))
            except (InvalidVersion, InvalidSpecifier):
                raise records.fault(self.file, "field 'Releases'", part, _RELEASES) from None
        if len(ranges) > 1:
            value = ", ".join(self.releases)
            raise records.fault(self.file, "field 'Releases'", value, _RELEASES)
        return ranges[0] if ranges else None

    def fits(self, version: str) -> bool:
        """Whether its `Releases:` field covers a version."""
        if self._range is not None and self._range.contains(version, prereleases=True):
            return True
        wanted = parse_version(version)
        return any(parse_version(part) == wanted for part in self.releases if part[0].isdigit())

    @cached_property
    def hunks(self) -> PatchSet:
        """The parsed diff."""
        try:
            return PatchSet(self.text)
        except UnidiffParseError as error:
            raise records.fault(
                self.file, "the diff", str(error), "hunks as 'git format-patch' writes them"
            ) from None

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """The files it touches, read off its full `index` lines. There is one at least."""
        changes = []
        for section in re.split(r"^(?=diff --git )", self.diff, flags=re.MULTILINE):
            if not section:
                continue
            first = section.split("\n", 1)[0]
            paths = re.fullmatch(r"diff --git a/(\S+) b/\1", first)
            if not paths or paths[1].startswith("/") or ".." in paths[1].split("/"):
                expected = "'diff --git a/PATH b/PATH', with the same path below PyG's root twice"
                raise records.fault(self.file, "the line 'diff --git'", first, expected)
            index = re.search(r"^index (.*)$", section.split("\n@@ ", 1)[0], flags=re.MULTILINE)
            blobs = index and re.fullmatch(
                r"([0-9a-f]{40})\.\.([0-9a-f]{40})(?: [0-7]{6})?", index[1]
            )
            if not blobs:
                name = f"the line 'index' of {paths[1]}"
                raise records.fault(self.file, name, index and index[1], _BLOBS)
            changes.append(Change(paths[1], blobs[1], blobs[2]))
        if not changes:
            expected = "what 'git format-patch' writes: a line 'diff --git' for each file"
            raise records.fault(self.file, "the diff", None, expected)
        return tuple(changes)


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

    def find(self, name: str) -> Release:
        """Returns the release that a command line names.

        Args:
            name: A version as on PyPI, a tag of upstream's, `latest` or `nightly`.

        Raises:
            UsageError: If there is none, naming the nearest ones.
        """
        stable = [release for release in self.releases if not release.is_nightly]
        if name == "latest":
            return stable[-1]
        nightly = next((release for release in self.releases if release.is_nightly), None)
        if name == "nightly" and nightly is not None:
            return nightly
        for release in self.releases:
            if name in (release.version, release.tag) or _is_same(name, release.version):
                return release
        raise UsageError(_why_not(name, stable, nightly))

    def fixed_in(self, layer: str) -> Release | None:
        """The first release in which upstream has fixed a layer, if it has."""
        return next((r for r in self.releases if r.status.get(layer) == "fixed"), None)

    def patches(self) -> list[Patch]:
        """Every patch that some release takes, each once."""
        named = {patch.name: patch for release in self.releases for patch in release.all_patches()}
        return list(named.values())


def _why_not(name: str, stable: list[Release], nightly: Release | None) -> str:
    """Why no pinned release is called so, and which are near."""
    first, last = stable[0], stable[-1]
    hint = "'scripts/apply.sh --list' lists all."
    if name == "nightly":
        return f"No nightly build is pinned. Expected a release such as {last.version}. {hint}"
    try:
        version = Version(name)
    except InvalidVersion:
        return (
            f"'{name}' is not a version of PyG. Expected one such as {last.version}, or "
            f"'latest', or 'nightly'. {hint}"
        )
    if version < Version(first.version):
        return (
            f"PyG {name} is not covered: GATv2Conv came with PyG 1.7.1, and the kit's range "
            f"starts there. The nearest release is {first.version}. {hint}"
        )
    if version.is_devrelease and nightly is not None:
        return f"Of the nightly builds, only {nightly.version} is pinned ('nightly'). {hint}"
    if version > Version(last.version):
        return (
            f"PyG {name} is newer than the newest pinned release, {last.version}. "
            f"CONTRIBUTING.md says how to add a release. {hint}"
        )
    below = [r.version for r in stable if Version(r.version) < version][-1]
    above = next(r.version for r in stable if Version(r.version) > version)
    return f"There is no PyG {name}. The nearest releases are {below} and {above}. {hint}"


@cache
def parse_version(version: str) -> Version:
    """Returns a version, parsed once however often it is asked for.

    Raises:
        InvalidVersion: If it is none.
    """
    return Version(version)


def is_version(value: object) -> bool:
    """Whether a value is a version that packaging can compare."""
    try:
        return isinstance(value, str) and bool(Version(value))
    except InvalidVersion:
        return False


def _is_same(name: str, version: str) -> bool:
    return is_version(name) and Version(name) == Version(version)


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        TreeError: If it cannot be read, or is no TOML.
    """
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise records.unreadable(path, error) from None
    return data


_is_text = records.matches(r".*\S.*")
_is_name = records.matches(r"\w[\w-]*")
_is_blob = records.matches(r"[0-9a-f]{40}")

# What `releases.toml` holds; its own comments explain the fields.
_FILE = {
    "release": Field("the releases, as [[release]]", records.list_of(bool, at_least=1)),
    "classes": Field("the class of each layer, by series", records.table_of(_is_text)),
    "series": Field("a description of each series", records.table_of(_is_text)),
    "optional": Field("a list of series", records.list_of(_is_name), required=False),
    "requires": Field(
        "a list of series for each series named there",
        records.table_of(records.list_of(_is_name)),
        required=False,
    ),
}
_RECORD = {
    "version": Field("a version as on PyPI, such as '2.4.0'", is_version),
    "tag": Field("a tag of upstream's", records.matches(r"[\w.][\w.+-]*"), required=False),
    "commit": Field("the 40 hexadecimal digits of a commit", _is_blob, required=False),
    "archive": Field(
        "the name of the file on PyPI, such as 'torch_geometric-2.4.0.tar.gz'",
        records.matches(r"(torch_geometric|pyg_nightly)-[\w.-]+\.(tar\.gz|whl)"),
    ),
    "sha256": Field("64 hexadecimal digits", records.matches(r"[0-9a-f]{64}")),
    "version_blobs": Field(
        f"a list of git blob ids, of 40 hexadecimal digits, of {VERSION_FILE}",
        records.list_of(_is_blob, at_least=1),
    ),
    "needs_extensions": Field("true or false", lambda value: isinstance(value, bool)),
    "undeclared": Field("a list of packages on PyPI", records.list_of(_is_text), required=False),
}


def _read_pins() -> dict[str, Any]:
    """Reads `releases.toml`, and checks each field, and what the fields say of each other."""
    file = PATCHES / "releases.toml"
    data = records.check(file, "", read_toml(file), _FILE)
    series = ", ".join(data["series"])
    for field in ("classes", "optional", "requires"):
        for name in data.get(field, ()):
            if name not in data["series"]:
                raise records.fault(file, f"field '{field}'", name, f"a series: {series}")
    for needed in data.get("requires", {}).values():
        for name in needed:
            if name not in data["series"]:
                raise records.fault(file, "field 'requires'", name, f"a series: {series}")
    before = ""
    for number, record in enumerate(data["release"], start=1):
        name = f"release number {number}"
        if isinstance(record, dict) and "version" in record:
            name = f"release {record['version']}"
        version: str = records.check(file, name, record, _RECORD)["version"]
        if before and parse_version(version) <= parse_version(before):
            expected = "the releases in order, the oldest first, each once"
            raise records.fault(file, f"the release after {before}", version, expected)
        before = version
    if not any(record["archive"].startswith("torch_geometric-") for record in data["release"]):
        raise records.fault(file, "a release that is no nightly build", None, "one at least")
    return data


def load() -> Catalogue:
    """Reads `patches/releases.toml`, and which patches say that they fit which release.

    Raises:
        TreeError: If the file, or the head of a patch, is malformed.
    """
    data = _read_pins()
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
    """The patches of a series, in the order in which they are applied.

    Raises:
        TreeError: If the name of a file is not a version.
    """
    files = list((PATCHES / series).glob("*.patch"))
    if series == "regression_test":
        # What all of them need comes first.
        order = {name: number for number, name in enumerate(("helpers", *catalogue.classes))}
        files.sort(key=lambda file: order.get(file.stem, len(order)))
    else:
        for file in files:
            if not is_version(file.stem.removesuffix("-test")):
                expected = "the first release that it fits, such as 2.4.0.patch or 2.4.0-test.patch"
                raise records.fault(file, "the file name", file.name, expected)
        files.sort(key=lambda f: (f.stem.endswith("-test"), Version(f.stem.removesuffix("-test"))))
    return [Patch(f"{series}/{file.name}", file) for file in files]
