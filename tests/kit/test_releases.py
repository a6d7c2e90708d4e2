"""The pins and the patches themselves, as they stand in `patches/`."""

import dataclasses
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import World
from kit import releases
from kit.errors import TreeError, UsageError
from kit.releases import NO_BLOB, PATCHES, ROOT, Catalogue, Change, Patch
from kit.upstream import topics
from packaging.version import Version

# What PyPI has, yanked releases left out.
# fmt: off
VERSIONS = [
    "1.7.1", "1.7.2", "2.0.0", "2.0.1", "2.0.2", "2.0.3", "2.0.4", "2.1.0.post1", "2.2.0",
    "2.3.0", "2.3.1", "2.4.0", "2.5.0", "2.5.1", "2.5.2", "2.5.3", "2.6.0", "2.6.1", "2.7.0",
    "2.8.0", "2.8.0.post1", "2.8.1",
]
# fmt: on


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def all_patches() -> list[Patch]:
    return releases.load().patches()


def test_every_release_is_pinned_in_order(pinned: Catalogue) -> None:
    versions = [release.version for release in pinned.releases]
    assert versions[:-1] == VERSIONS
    assert pinned.releases[-1].is_nightly
    assert versions == sorted(versions, key=Version)


def test_pins_are_whole(pinned: Catalogue) -> None:
    for release in pinned.releases:
        assert re.fullmatch(r"[0-9a-f]{64}", release.sha256)
        assert release.version in release.archive
        assert all(re.fullmatch(r"[0-9a-f]{40}", blob) for blob in release.version_blobs)
        assert set(release.status) <= set(pinned.classes)
        assert release.commit is None or re.fullmatch(r"[0-9a-f]{40}", release.commit)
    assert [r.version for r in pinned.releases if r.commit is None] == ["2.8.1"]
    assert [r.version for r in pinned.releases if r.tag is None] == [pinned.releases[-1].version]
    for field in ("sha256", "archive"):
        counts = Counter(getattr(release, field) for release in pinned.releases)
        assert max(counts.values()) == 1


# From which release on a layer races, and since when it does not. Found by the audit.
RACES = {
    "gatv2_conv": ("1.7.1", "2.5.0"),
    "transformer_conv": ("2.0.0", None),
    "fa_conv": ("1.7.1", None),
    "rgat_conv": ("2.0.4", None),
    "lpformer": ("2.7.0", None),
    "gat_conv": ("1.7.1", "2.1.0.post1"),
    "hypergraph_conv": ("1.7.1", "2.0.4"),
    "autoencoder": ("1.7.1", None),
    "to_hetero_with_bases": ("2.0.0", None),
    "explainer": ("1.7.1", None),
}


@pytest.mark.parametrize("layer", RACES)
def test_status(pinned: Catalogue, layer: str) -> None:
    first, fixed = RACES[layer]
    for release in pinned.releases:
        expected = None if Version(release.version) < Version(first) else "affected"
        if fixed is not None and Version(release.version) >= Version(fixed):
            expected = "fixed"
        assert release.status.get(layer) == expected
    result = pinned.fixed_in(layer)
    assert (result.version if result else None) == fixed


def test_a_release_takes_what_its_status_says(pinned: Catalogue) -> None:
    assert set(RACES) == set(pinned.classes)
    for release in pinned.releases:
        names = [patch.name for patch in release.patches]
        tests = [f"regression_test/{layer}.patch" for layer in release.status]
        assert names[-len(tests) - 1 :] == ["regression_test/helpers.patch", *tests]
        series = [name for name in release.series() if name in pinned.classes]
        assert series == release.affected()
        for layer in release.affected():
            assert len([p for p in release.patches if p.series == layer and p.is_for_library]) == 1
        # What a series needs is there.
        for name in release.affected():
            assert set(pinned.requires.get(name, [])) <= set(release.series())
        # One patch a file, so that its state can be read off the file.
        paths = [change.path for patch in release.patches for change in patch.changes]
        assert len(paths) == len(set(paths))
    assert set(pinned.series) == {patch.series for patch in pinned.patches()}
    for needed in pinned.requires.values():
        assert set(needed) <= set(pinned.series)


def test_optional_series_are_not_taken_unasked(pinned: Catalogue) -> None:
    assert pinned.optional
    for release in pinned.releases:
        assert not {patch.series for patch in release.patches} & set(pinned.optional)
        assert {patch.series for patch in release.optional} <= set(pinned.optional)
    # What an optional series is for, the others have made safe to share.
    for name in pinned.optional:
        takers = [r for r in pinned.releases if name in r.series()]
        assert takers
        assert all(r.status["gatv2_conv"] == "fixed" for r in takers)


def test_what_uses_the_mixin_requires_it(pinned: Catalogue) -> None:
    users = {p.series for p in pinned.patches() if "Conv(AttentionMixin, " in p.text}
    assert users
    on_copies = {p.series for p in pinned.patches() if "+    @on_copy" in p.text}
    assert on_copies == {"explainer"}
    assert pinned.requires == {
        **{name: ["attention_mixin"] for name in users},
        **{name: ["explained_copy"] for name in on_copies},
    }


def test_every_patch_file_is_taken(pinned: Catalogue) -> None:
    result = {str(path.relative_to(PATCHES)) for path in PATCHES.rglob("*.patch")}
    forwarded = [patch for topic in topics.load() for patch in topic.all_patches]
    assert result == {patch.name for patch in [*pinned.patches(), *forwarded]}


@pytest.mark.parametrize("patch", all_patches(), ids=lambda patch: patch.name)
class TestPatch:
    """Each patch, read without the kit."""

    def test_header(self, patch: Patch, pinned: Catalogue) -> None:
        assert patch.text.startswith("From " + NO_BLOB)
        assert patch.subject
        assert len(patch.body.split("\n\n")) >= 2, "says why"
        fields = patch.fields()
        assert fields["Bug"] == "https://github.com/pyg-team/pytorch_geometric/issues/8741"
        assert fields["Origin"] and fields["Forwarded"]
        # `Releases:` says what releases.toml says.
        takers = [r.version for r in pinned.releases if patch in r.all_patches()]
        assert [r.version for r in pinned.releases if patch.fits(r.version)] == takers

    def test_name_is_the_first_release_it_fits(self, patch: Patch, pinned: Catalogue) -> None:
        first = next(r.version for r in pinned.releases if patch in r.all_patches())
        stem = patch.file.stem.removesuffix("-test")
        if patch.series == "regression_test":
            assert stem in (*pinned.classes, "helpers")
        else:
            assert stem == first

    def test_index_lines_are_full(self, patch: Patch) -> None:
        assert len(patch.changes) == patch.text.count("\ndiff --git ") == len(patch.hunks)
        for change in patch.changes:
            assert change.before != change.after

    def test_patches_to_upstreams_tests_have_no_context(self, patch: Patch) -> None:
        if patch.is_for_library or patch.changes[0].before == NO_BLOB:
            return
        lines = [line for file in patch.hunks for hunk in file for line in hunk]
        assert lines
        for line in lines:
            assert line.is_removed and line.value.strip() == "assert conv._alpha is None"
        headers = [line for line in patch.text.splitlines() if line.startswith("@@")]
        assert all(line.endswith(" @@") for line in headers)

    def test_no_shared_state_is_left(self, patch: Patch) -> None:
        added = [
            line.value for file in patch.hunks for hunk in file for line in hunk if line.is_added
        ]
        code = "".join(added)
        # These keep values by thread, for code that no argument reaches.
        by_thread = ("attention_mixin", "hypergraph_conv", "to_hetero_with_bases")
        if patch.is_for_library and patch.series not in by_thread:
            assert not re.search(r"threading|Lock|local\(|global |self\._alpha", code)
        # A lock is no answer, but for what a layer that was loaded needs to be made once.
        code = code.replace("\n_lock = threading.Lock()\n", "")
        assert not re.search(r"Lock|global ", code)


def test_a_message_says_what_and_why_in_a_few_lines(pinned: Catalogue) -> None:
    learned = (ROOT / "examples" / "new-layer" / "solution").rglob("*.patch")
    for patch in (*pinned.patches(), *(Patch(file.name, file) for file in learned)):
        *message, fields = patch.body.split("\n\n")
        assert fields == "\n".join(f"{name}: {value}" for name, value in patch.fields().items())
        assert 1 <= len("\n\n".join(message).splitlines()) <= 15, patch.name


def test_one_patch_a_variant(pinned: Catalogue) -> None:
    library = [patch for patch in pinned.patches() if patch.is_for_library]
    # A patch of several files is one a distinct set of them.
    changed = [tuple(change.before for change in patch.changes) for patch in library]
    changed = [blobs for blobs in changed if set(blobs) != {NO_BLOB}]
    assert len(set(changed)) == len(changed)
    result = Counter(patch.series for patch in library)
    assert result["gatv2_conv"] == 8
    needed = {name for names in pinned.requires.values() for name in names}
    assert set(result) == {*pinned.classes, *needed, *pinned.optional}


@pytest.mark.parametrize(
    "name, version",
    [
        ("2.4.0", "2.4.0"),
        ("2.4", "2.4.0"),
        ("v2.4.0", "2.4.0"),
        ("2.1.0", "2.1.0.post1"),
        ("2.1.0.post1", "2.1.0.post1"),
        ("2.8.0", "2.8.0"),
        ("latest", "2.8.1"),
    ],
)
def test_version_names(pinned: Catalogue, name: str, version: str) -> None:
    assert pinned.find(name).version == version


def test_nightly(pinned: Catalogue) -> None:
    assert pinned.find("nightly") is pinned.releases[-1]
    stable = dataclasses.replace(pinned, releases=pinned.releases[:-1])
    with pytest.raises(UsageError, match="No nightly build is pinned"):
        stable.find("nightly")


PATCH = """From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: =?UTF-8?q?J=C3=B6rg?= <joerg@example.org>
Date: Mon, 23 Nov 2026 12:00:00 +0000
Subject: [PATCH] Make it safe to share between threads, with a subject that is
 long

Why.

Bug: none
Releases: 1.8.0, 1.9

diff --git a/torch_geometric/a.py b/torch_geometric/a.py
index 1111111111111111111111111111111111111111..2222222222222222222222222222222222222222 100644
--- a/torch_geometric/a.py
+++ b/torch_geometric/a.py
@@ -1 +1 @@
-a
+b
"""


def read(tmp_path: Path, text: str | bytes) -> Patch:
    file = tmp_path / "1.8.0.patch"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Patch("some/1.8.0.patch", file)


def test_a_patch_is_read(tmp_path: Path) -> None:
    patch = read(tmp_path, PATCH)
    assert patch.subject == "Make it safe to share between threads, with a subject that is long"
    assert patch.author == "J\u00f6rg <joerg@example.org>"
    assert patch.body == "Why.\n\nBug: none\nReleases: 1.8.0, 1.9"
    assert patch.fields() == {"Bug": "none", "Releases": "1.8.0, 1.9"}
    assert patch.changes == (Change("torch_geometric/a.py", "1" * 40, "2" * 40),)
    assert patch.head + patch.diff == PATCH


@pytest.mark.parametrize(
    "field, fitting, others",
    [
        ("1.8.0, 1.9", ["1.8.0", "1.9.0"], ["1.9.1", "2.0.0"]),
        (">=2.0.0", ["2.0.0", "2.9.0.dev20260818"], ["1.9.0"]),
        (">=2.0.0,<2.5.0", ["2.0.0", "2.4.0"], ["2.5.0", "1.9.0"]),
        ("1.8.0, >=2.0.4", ["1.8.0", "2.1.0.post1"], ["1.9.0", "2.0.3"]),
    ],
)
def test_fits(tmp_path: Path, field: str, fitting: list[str], others: list[str]) -> None:
    patch = read(tmp_path, PATCH.replace("1.8.0, 1.9", field))
    assert all(patch.fits(version) for version in fitting)
    assert not any(patch.fits(version) for version in others)


@pytest.mark.parametrize(
    "field",
    [
        *("nightly", "2.4.x", "1.8.0,1.9.0", "1.8.0, ", ", 1.8.0", "1.8.0,, 1.9.0", "", " "),
        *(">=2.0.0, <2.5.0", ">= two", "==", "1.8.0 1.9.0", "1.8.0,\n 1.9.0", "1.8.0\n\t, 1.9.0"),
        *("1.8.0\nReleases: 1.9.0", "\u0661.8.0", "\u00b2.0", "1.8.0\r"),
    ],
)
def test_a_malformed_releases_field(tmp_path: Path, field: str) -> None:
    patch = read(tmp_path, PATCH.replace("Releases: 1.8.0, 1.9", f"Releases: {field}"))
    with pytest.raises(TreeError, match=r"1.8.0.patch: field 'Releases' is .*Expected .*>=2.0.0"):
        patch.fits("1.8.0")


@pytest.mark.parametrize(
    "old, new, attribute, message",
    [
        ("Releases: 1.8.0, 1.9\n", "", "releases", "field 'Releases' is missing"),
        ("1" * 40, "1" * 12, "changes", "the line 'index' of torch_geometric/a.py is '111"),
        ("index ", "similarity ", "changes", "the line 'index' of .* is missing"),
        (" b/torch_geometric/a.py\nindex", " b/b.py\nindex", "changes", "the line 'diff --git'"),
        ("torch_geometric/a.py", "../a.py", "changes", "the line 'diff --git' is 'diff --git a/.."),
        ("diff --git", "diff", "changes", "the diff is missing"),
        ("@@ -1 +1 @@", "@@ -1 +1,2 @@", "hunks", "the diff is "),
        ("From: ", "Form: ", "author", "header 'From' is missing"),
        ("<joerg@example.org>", "", "author", "header 'From' is 'J"),
        ("Mon, 23 Nov 2026 12:00:00 +0000", "soon", "date", "header 'Date' is 'soon'"),
        ("Subject: ", "X: ", "subject", "header 'Subject' is missing"),
        ("=?UTF-8?q?J=C3=B6rg?=", "\udcff", "author", "cannot be read .'utf-8' codec"),
    ],
)
def test_a_malformed_patch(
    tmp_path: Path, old: str, new: str, attribute: str, message: str
) -> None:
    assert old in PATCH
    text = PATCH.replace(old, new).encode(errors="surrogateescape")
    with pytest.raises(TreeError, match=rf"1\.8\.0\.patch.*{message}.*Expected "):
        getattr(read(tmp_path, text), attribute)


def test_a_patch_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.8.0.patch").mkdir()
    with pytest.raises(TreeError, match=r"1\.8\.0\.patch cannot be read \(Is a directory\)"):
        Patch("some/1.8.0.patch", tmp_path / "1.8.0.patch").fits("1.8.0")


@pytest.fixture
def copied(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    patches = tmp_path / "patches"
    shutil.copytree(world.patches, patches)
    monkeypatch.setattr(releases, "PATCHES", patches)
    return patches


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            'version = "1.9.0"',
            'version = "nineteen"',
            "release nineteen, field 'version' is 'ninet",
        ),
        ('version = "1.9.0"', "version = 1.9", "release 1.9, field 'version' is 1.9"),
        ('version = "1.9.0"\n', "", "release number 2, field 'version' is missing"),
        ('version = "1.9.0"', 'version = "1.8"', "the release after 1.8.0 is '1.8'"),
        ('tag = "1.9.0"', 'tag = "--all"', "release 1.9.0, field 'tag' is '--all'"),
        ('tag = "1.9.0"', 'tog = "1.9.0"', "release 1.9.0, unknown field 'tog'"),
        ("torch_geometric-1.9.0.tar", "../1.9.0.tar", "release 1.9.0, field 'archive' is '../1"),
        ("needs_extensions = true", 'needs_extensions = "no"', "field 'needs_extensions' is 'no'"),
        ("sha256 = ", "sha256 = 1 #", "field 'sha256' is 1"),
        ("commit = ", "commit = [] #", r"field 'commit' is \[\]"),
        ("version_blobs = ", "version_blobs = [] #", r"field 'version_blobs' is \[\]"),
        ("version_blobs = ", "version_blobs = [1] #", r"field 'version_blobs' is \[1\]"),
        ('optional = ["faster"]', 'optional = ["slower"]', "field 'optional' is 'slower'"),
        ('optional = ["faster"]', "optional = 1", "field 'optional' is 1"),
        ('gatv2_conv = "GATv2Conv"', 'gat_conv = "GATConv"', "field 'classes' is 'gat_conv'"),
        ('gatv2_conv = "GATv2Conv"', "gatv2_conv = 2", "field 'classes' is {'gatv2_conv': 2}"),
        ("[series]", "[requires]\nnothing = []\n[series]", "field 'requires' is 'nothing'"),
        ("[series]", '[requires]\nfaster = ["x"]\n[series]', "field 'requires' is 'x'"),
        ("[series]", "[serious]", "unknown field 'serious'"),
        ("[[release]]", "[[released]]", "unknown field 'released'"),
        ("[[release]]", "[[release", "cannot be read .*line 1"),
        ("[[release]]", "\udcff", "cannot be read .'utf-8' codec"),
    ],
)
def test_malformed_pins(copied: Path, old: str, new: str, message: str) -> None:
    file = copied / "releases.toml"
    text = file.read_text()
    assert old in text
    file.write_bytes(text.replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(TreeError, match=rf"releases\.toml.*{message}.*Expected .*git checkout"):
        releases.load()


def test_no_pins(copied: Path) -> None:
    (copied / "releases.toml").unlink()
    with pytest.raises(TreeError, match=r"cannot be read \(No such file"):
        releases.load()


@pytest.mark.parametrize("name", ["newest.patch", "1.8.0-tests.patch", ".patch"])
def test_a_patch_that_is_not_named_by_a_release(copied: Path, name: str) -> None:
    (copied / "gatv2_conv" / "1.8.0-test.patch").rename(copied / "gatv2_conv" / name)
    with pytest.raises(TreeError, match=r"the file name is '.*Expected the first release"):
        releases.load()


@pytest.mark.parametrize(
    "verb", ["apply --list", "audit 1.8.0", "refresh gatv2_conv", "prove 1.8.0", "upstream list"]
)
def test_every_verb_says_what_is_malformed(world: World, copied: Path, verb: str) -> None:
    file = copied / "gatv2_conv" / "1.8.0.patch"
    file.write_text(file.read_text().replace("Releases: 1.8.0", "Releases: nightly"))
    ended = dataclasses.replace(world, patches=copied).run(*verb.split())
    assert ended.returncode == 4
    assert f"error: {file}: field 'Releases' is 'nightly'. Expected versions" in ended.stderr
