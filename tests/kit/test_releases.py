"""The pins and the patches themselves, as they stand in `patches/`."""

import re
from collections import Counter

import pytest
from kit import releases
from kit.releases import NO_BLOB, PATCHES, Catalogue, Patch
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
}


@pytest.mark.parametrize("layer", RACES)
def test_status(pinned: Catalogue, layer: str) -> None:
    first, fixed = RACES[layer]
    for release in pinned.releases:
        expected = None if Version(release.version) < Version(first) else "affected"
        if fixed is not None and Version(release.version) >= Version(fixed):
            expected = "fixed"
        assert release.status.get(layer) == expected
    found = pinned.fixed_in(layer)
    assert (found.version if found else None) == fixed


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
    assert pinned.requires == {name: ["attention_mixin"] for name in pinned.requires}
    assert set(pinned.requires) == users


def test_every_patch_file_is_taken(pinned: Catalogue) -> None:
    found = {str(path.relative_to(PATCHES)) for path in PATCHES.rglob("*.patch")}
    forwarded = [patch for topic in topics.load() for patch in topic.all_patches]
    assert found == {patch.name for patch in [*pinned.patches(), *forwarded]}


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
        if patch.is_for_library and patch.series not in ("attention_mixin", "to_hetero_with_bases"):
            # These two are what keeps values by thread, for code that no argument reaches.
            assert not re.search(r"threading|Lock|local\(|global |self\._alpha", code)
        assert not re.search(r"Lock|global ", code)


def test_one_patch_a_variant(pinned: Catalogue) -> None:
    library = [patch for patch in pinned.patches() if patch.is_for_library]
    changed = [change.before for patch in library for change in patch.changes]
    changed = [blob for blob in changed if blob != NO_BLOB]
    assert len(set(changed)) == len(changed)
    found = Counter(patch.series for patch in library)
    assert found["gatv2_conv"] == 8
    assert set(found) == {*pinned.classes, "attention_mixin", *pinned.optional}


@pytest.mark.parametrize(
    "word, version",
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
def test_version_words(pinned: Catalogue, word: str, version: str) -> None:
    assert pinned.find(word).version == version


def test_nightly(pinned: Catalogue) -> None:
    assert pinned.find("nightly") is pinned.releases[-1]
