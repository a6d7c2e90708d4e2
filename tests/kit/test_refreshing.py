"""`refresh`: a change of the newest patch follows in its variants, whose own work stays."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    AFTER,
    BEFORE,
    LAYER,
    TEST_BEFORE,
    UPSTREAM_TEST,
    VERSION_FILE,
    World,
    git,
    make_patch,
    tree_of,
)
from kit import refreshing, releases
from kit.errors import KitError, SourceError, TreeError, UsageError
from kit.refreshing import Refresh
from kit.sources import Kind, Source
from test_adding import pin, publish

Make = Callable[..., Source]

# What upstream has made of the layer in each release that has a variant of its own.
SECOND = {"line 2\n": "upstream's second line\n"}
THIRTIETH = {**SECOND, "line 30\n": "upstream's thirtieth line\n"}
TESTS = {
    "1.9.1": f"import torch\n\n{TEST_BEFORE}",
    "1.9.2": f"import torch  # new\n\n{TEST_BEFORE}",
}
NAMES = ["gatv2_conv/1.8.0.patch", "gatv2_conv/1.9.1.patch", "gatv2_conv/1.9.2.patch"]


def changed(text: str, lines: dict[str, str]) -> str:
    for old, new in lines.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def variants(made: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose first series has three variants, in a git repository."""
    root = tmp_path_factory.mktemp("variants")
    for name in ("upstream", "index", "patches"):
        shutil.copytree(getattr(made, name), root / name)
    own = World(root / "upstream", root / "index", root / "patches", root / "cache")
    work = root / "work"
    work.mkdir()
    git("init", "-q", cwd=work)
    for version, lines in (("1.9.1", SECOND), ("1.9.2", THIRTIETH)):
        before, test = changed(BEFORE, lines), TESTS[version]
        files = {VERSION_FILE: f"__version__ = '{version}'\n", LAYER: before}
        publish(own, version, files, test)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(releases, "PATCHES", own.patches)
            pin(own, version, "2.0.0")
        message = f"Patch {version}\n\nWhat and why.\n\nBug: none\nReleases: {version}"
        target = own.patches / "gatv2_conv"
        after = changed(AFTER, lines)
        make_patch(work, target / f"{version}.patch", {LAYER: before}, {LAYER: after}, message)
        files = {UPSTREAM_TEST: test.replace("    assert conv._alpha is None\n", "")}
        make_patch(work, target / f"{version}-test.patch", {UPSTREAM_TEST: test}, files, message)
    git("init", "-q", cwd=own.patches)
    commit(own)
    return own


@pytest.fixture
def own(variants: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same, of one's own: what is in `patches/` may be changed."""
    shutil.copytree(variants.patches, tmp_path / "patches")
    monkeypatch.setattr(releases, "PATCHES", tmp_path / "patches")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(variants.index))
    return dataclasses.replace(variants, patches=tmp_path / "patches")


@pytest.fixture
def source(own: World) -> Make:
    def make(kind: str, offline: bool = False) -> Source:
        return Source(Kind(kind), own.upstream.as_uri(), offline, own.cache, lambda message: None)

    return make


def commit(own: World) -> None:
    git("add", "--all", cwd=own.patches)
    git("commit", "-qm", "patches", cwd=own.patches)


def edit(own: World, name: str, old: str, new: str) -> None:
    """What a person does in an editor: blob ids and line numbers are wrong afterwards."""
    file = own.patches / name
    text = file.read_text()
    assert text.count(old) == 1, text
    file.write_text(text.replace(old, new))


def refresh(source: Source, **options: str) -> Refresh:
    result = refreshing.refresh("gatv2_conv", releases.load(), source, **options)
    refreshing.write(result)
    return result


def results(source: Source) -> dict[str, str]:
    """What each patch of the series makes of the layer; they apply, and record what they give."""
    catalogue = releases.load()
    contents = {}
    for patch in releases.find_patches("gatv2_conv", catalogue):
        taker = next(r for r in catalogue.releases if patch in r.patches)
        (content,) = refreshing.read_variant(patch, taker, source).patched.values()
        contents[patch.name] = (content or b"").decode()
    return contents


COMMENTED = "+# a comment\n+attention.append(alpha)\n"
NEW = {"attention.append(alpha)\n": "# a comment\nattention.append(alpha)\n"}


def test_all_variants_follow(own: World) -> None:
    before = {name: (own.patches / name).read_text() for name in NAMES}
    edit(own, NAMES[-1], "+attention.append(alpha)\n", COMMENTED)
    git_url = ("--git-url", own.upstream.as_uri(), "--source", "git")
    check = own.run("refresh", "gatv2_conv", "--check", *git_url)
    assert "3 patches would be written" in check.stdout, check.stderr
    assert (own.patches / NAMES[0]).read_text() == before[NAMES[0]]
    ended = own.run("refresh", "gatv2_conv", *git_url)
    assert ended.returncode == 0, ended.stderr
    assert f"{NAMES[-1]} was edited by hand" in ended.stdout
    for name in NAMES[:-1]:
        assert f"{name} takes the change." in ended.stdout
    validated = own.run("validate", "gatv2_conv", *git_url)
    assert "all as recorded" in validated.stdout, validated.stderr
    for name in NAMES:
        text = (own.patches / name).read_text()
        # The head, and what upstream has of its own, are as they were.
        assert text.split("\ndiff --git ")[0] == before[name].split("\ndiff --git ")[0]
        assert text.replace(COMMENTED, "+attention.append(alpha)\n").count("\n") == before[
            name
        ].count("\n")
    again = own.run("refresh", "gatv2_conv", *git_url)
    assert f"{NAMES[0]} stays as it is." in again.stdout
    assert "To do" not in again.stdout


def test_what_a_variant_has_of_its_own_stays(own: World, source: Make) -> None:
    """Its patched file, not what upstream released, is what the change is merged into."""
    edit(own, NAMES[0], "+attention.append(alpha)\n", "+attention.append(alpha)\n+self.own = 1\n")
    refresh(source("git"), version="1.8.0")  # gives it its blob ids
    commit(own)
    edit(own, NAMES[-1], "-self._alpha = alpha\n+", "-self._alpha = alpha\n+# a comment\n+")
    result = refresh(source("git"))
    assert not result.worklist
    contents = results(source("git"))
    first = {
        "attention.append(alpha)\n": f"{NEW['attention.append(alpha)' + chr(10)]}self.own = 1\n"
    }
    assert contents[NAMES[0]] == changed(AFTER, first)
    assert contents[NAMES[1]] == changed(changed(AFTER, SECOND), NEW)
    assert contents[NAMES[2]] == changed(changed(AFTER, THIRTIETH), NEW)


def test_a_message_follows_without_the_own_fields(own: World, source: Make) -> None:
    own_fields = {name: (own.patches / name).read_text().splitlines()[:3] for name in NAMES}
    edit(own, NAMES[-1], "What and why.", "What, and why.")
    # These are each patch's own, whoever changes them in the newest one.
    edit(own, NAMES[-1], "Releases: 1.9.2", "Releases: 1.9.2, >=3.0")
    edit(own, NAMES[-1], "\nFrom: somebody", "\nFrom: somebody else")
    # Nothing is fetched: the hunks have not changed.
    result = refreshing.refresh("gatv2_conv", releases.load(), source("git", offline=True))
    refreshing.write(result)
    # The first one has another message, without that sentence.
    assert [path.name for path in result.patches] == ["1.9.1.patch"]
    assert len(result.worklist) == 1 and NAMES[0] in result.worklist[0]
    text = (own.patches / NAMES[1]).read_text()
    assert "\n\nWhat, and why.\n\n" in text
    assert "\nReleases: 1.9.1\n" in text and "Subject: [PATCH] Patch 1.9.1\n" in text
    assert text.splitlines()[:3] == own_fields[NAMES[1]]


def test_a_conflict_is_left_to_a_person(own: World, source: Make) -> None:
    edit(own, NAMES[0], "+attention.append(alpha)\n", "+attention.append(alpha)  # own\n")
    refresh(source("git"), version="1.8.0")
    commit(own)
    before = (own.patches / NAMES[0]).read_bytes()
    edit(own, NAMES[-1], "+attention.append(alpha)\n", "+attention.append(alpha)  # new\n")
    result = refresh(source("git"))
    assert (own.patches / NAMES[0]).read_bytes() == before
    (proposal,) = result.proposals
    assert proposal.is_relative_to(own.patches.parent / "build") and proposal.match(
        f"1.8.0/{LAYER}"
    )
    (sentence,) = result.worklist
    assert NAMES[0] in sentence and str(proposal) in sentence
    assert "attention.append(alpha)  # new\n" in results(source("git"))[NAMES[1]]
    text = proposal.read_text()
    assert f"<<<<<<< {NAMES[0]}\n" in text and f">>>>>>> {NAMES[-1]}\n" in text

    # Half resolved, it is neither taken nor overwritten.
    half = text.replace("line 1\n", "line 1, by hand\n", 1)
    proposal.write_text(half)
    assert refresh(source("git")).worklist == [sentence]
    assert proposal.read_text() == half

    resolved = AFTER.replace("(alpha)\n", "(alpha)  # own and new\n")
    proposal.write_text(resolved)
    assert not refresh(source("git")).worklist
    assert results(source("git"))[NAMES[0]] == resolved
    assert not proposal.exists()


def test_conflicts_are_resolved_one_by_one(own: World, source: Make) -> None:
    """What was resolved in its own way does not conflict again when the next one is."""
    old = "+attention.append(alpha)\n"
    for name in NAMES[:-1]:
        edit(own, name, old, "+attention.append(alpha)  # own\n")
        refresh(source("git"), version=Path(name).stem)
    # The second one was carried over to the first as well: it is the same.
    commit(own)
    edit(own, NAMES[-1], old, "+attention.append(alpha)  # new\n")
    proposals = list(refresh(source("git")).proposals)
    assert len(proposals) == 2
    contents = {}
    for number, file in enumerate(proposals, start=1):
        version = file.relative_to(own.patches.parent / "build").parts[1]
        lines = {} if version == "1.8.0" else SECOND
        contents[f"gatv2_conv/{version}.patch"] = changed(
            AFTER.replace("(alpha)\n", f"(alpha)  # resolved {number}\n"), lines
        )
        file.write_text(contents[f"gatv2_conv/{version}.patch"])
        assert len(refresh(source("git")).worklist) == 2 - number
    assert not any(file.exists() for file in proposals)
    assert {name: results(source("git"))[name] for name in contents} == contents


def test_patches_to_upstreams_tests_follow_too(own: World, source: Make) -> None:
    name = "gatv2_conv/1.9.2-test.patch"
    edit(own, name, "What and why.", "What, and why.")
    edit(own, name, "-    assert", "-    pass\n-    assert")
    text = (own.patches / name).read_text()
    # Without context, the line numbers have to be right.
    (own.patches / name).write_text(text.replace("@@ -5 +4,0 @@", "@@ -4,2 +3,0 @@"))
    before = tree_of(own.patches)
    with pytest.raises(SourceError, match=r"has no test/.*--source git"):
        refresh(source("sdist"))
    assert tree_of(own.patches) == before
    refresh(source("git"))
    contents = results(source("git"))
    assert contents["gatv2_conv/1.9.1-test.patch"] == "import torch\n\ndef test():\n"
    headers = [
        line
        for line in (own.patches / "gatv2_conv/1.9.1-test.patch").read_text().splitlines()
        if line.startswith("@@")
    ]
    assert headers == ["@@ -4,2 +3,0 @@"]


def test_committed_already(own: World, source: Make) -> None:
    edit(own, NAMES[-1], "+attention.append(alpha)\n", COMMENTED)
    refresh(source("git"), version="1.9.2")
    for name in NAMES[:-1]:
        git("checkout", "--", name, cwd=own.patches)
    commit(own)
    result = refresh(source("git"))
    assert not result.patches
    assert "Not changed since HEAD" in result.findings[0] and "--since" in result.findings[0]
    refresh(source("git"), since="HEAD~1")
    assert "# a comment\n" in results(source("git"))[NAMES[0]]


def test_another_patch_than_the_newest(own: World, source: Make) -> None:
    edit(own, NAMES[1], "+attention.append(alpha)\n", COMMENTED)
    assert not refresh(source("git")).patches
    refresh(source("git"), version="1.9.1")
    contents = results(source("git"))
    assert ["# a comment" in contents[name] for name in NAMES] == [True, True, False]


@pytest.mark.parametrize("failing_call", [1, 2, 3])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_all_or_nothing(
    own: World,
    source: Make,
    monkeypatch: pytest.MonkeyPatch,
    failing_call: int,
    error: BaseException,
) -> None:
    edit(own, NAMES[-1], "+attention.append(alpha)\n", COMMENTED)
    result = refreshing.refresh("gatv2_conv", releases.load(), source("git"))
    assert len(result.patches) == 3
    result.proposals[own.patches.parent / "build" / "new" / "file.py"] = b"new\n"
    before = tree_of(own.patches.parent)
    calls = 0
    real = Path.replace

    def failing(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise error
        return real(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(TreeError if isinstance(error, OSError) else KeyboardInterrupt):
        refreshing.write(result)
    assert tree_of(own.patches.parent) == before


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("-self._alpha = alpha", "-self._beta = alpha", "does not apply"),
        ("index ", "index 1", "the line 'index'"),
        ("Releases: 1.9.2", "Releases: 1.9.3", "No pinned release takes"),
    ],
)
def test_a_broken_patch_is_refused(
    own: World, source: Make, old: str, new: str, message: str
) -> None:
    edit(own, NAMES[-1], "+attention.append(alpha)\n", COMMENTED)
    edit(own, NAMES[-1], old, new)
    before = tree_of(own.patches)
    with pytest.raises(KitError, match=message):
        refresh(source("git"))
    assert tree_of(own.patches) == before


@pytest.mark.parametrize(
    "series, options, message",
    [
        ("gat", {}, "There is no series 'gat'. Expected one of: gatv2_conv, faster"),
        ("regression_test", {}, "has no variants"),
        ("gatv2_conv", {"version": "2.0.0"}, "has no patch of PyG 2.0.0"),
        ("gatv2_conv", {"version": "0.1"}, "is not covered"),
        ("gatv2_conv", {"since": "nothing"}, "'nothing' is no commit"),
        ("gatv2_conv", {"since": "--all"}, "'--all' is no commit"),
    ],
)
def test_refusals(
    own: World, source: Make, series: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        refreshing.refresh(series, releases.load(), source("git"), **options)


def test_a_patch_without_a_history(own: World, source: Make) -> None:
    git("rm", "-q", "--cached", NAMES[-1], cwd=own.patches)
    git("commit", "-qm", "without it", cwd=own.patches)
    with pytest.raises(UsageError, match="is not in HEAD"):
        refresh(source("git"))
    shutil.rmtree(own.patches / ".git")
    with pytest.raises(UsageError, match="is no commit"):
        refresh(source("git"))


LABELS = ("ours", "base", "theirs")


@pytest.mark.parametrize(
    "ours, base, theirs, merged",
    [
        (b"a\r\nb\nc\nd\n", b"a\nb\nc\nd\n", b"a\nb\nc\ne\n", b"a\r\nb\nc\ne\n"),
        (b"\xff\nb\nc\nd\n", b"a\nb\nc\nd\n", b"a\nb\nc\ne", b"\xff\nb\nc\ne"),
        (b"a\n", b"a\n", None, None),
        (None, b"a\n", b"a\n", None),
        (None, None, b"a\n", b"a\n"),
    ],
)
def test_merge(
    ours: bytes | None, base: bytes | None, theirs: bytes | None, merged: bytes | None
) -> None:
    assert refreshing.merge(ours, base, theirs, LABELS) == refreshing.Merge(merged, False)


def test_merge_of_a_file_that_is_gone_conflicts() -> None:
    assert refreshing.merge(None, b"a\n", b"b\n", LABELS).conflicts
    assert refreshing.merge(b"b\n", b"a\n", None, LABELS).conflicts
    with pytest.raises(KitError, match="Expected text files"):
        refreshing.merge(b"\0a", b"\0b", b"\0c", LABELS)


def test_diff_is_what_format_patch_writes(own: World) -> None:
    for name in NAMES:
        text = (own.patches / name).read_text()
        lines = {"1.8.0": {}, "1.9.1": SECOND, "1.9.2": THIRTIETH}[Path(name).stem]
        files = [{LAYER: changed(content, lines).encode()} for content in (BEFORE, AFTER)]
        diff = refreshing.format_diff(*files).decode()
        assert text.endswith(f"\n\n{diff}") and diff.startswith("diff --git ")


def test_diff_of_several_files() -> None:
    before = {"a": b"1\n", "b": b"2\n", "new": None}
    diff = refreshing.format_diff(before, {"a": b"1\n", "b": None, "new": b"3\n"}).decode()
    assert "a/a" not in diff
    assert "deleted file mode 100644" in diff and "new file mode 100644" in diff
