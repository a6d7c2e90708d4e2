"""What is parsed, fed anything: it is read, or refused by an error of the kit's."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LAYER, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import releases, sources
from kit.errors import KitError, TreeError, UsageError
from kit.releases import Patch

lenient = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Pieces that parsers trip over, put anywhere.
pieces = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=10).map(lambda data: data.decode("latin-1")),
    st.sampled_from(
        [
            *("\n", "\n\n", "\r", "\0", "---\n", "diff --git ", "@@ -1 +1 @@\n", "index "),
            *("a/../../x", "=?utf-8?b?////?=", "Releases: ", ">=", "[[release]]\n", '"""'),
            *("\udcff", " " * 30),
        ]
    ),
)


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[float, int, str]]:
    """Where (as a share), how much goes, and what comes."""
    edit = st.tuples(st.floats(0, 1), st.integers(0, 40), pieces)
    return draw(st.lists(edit, min_size=1, max_size=3))


def edited(text: str, changes: list[tuple[float, int, str]]) -> bytes:
    for place, length, new in changes:
        at = int(place * len(text))
        text = text[:at] + new + text[at + length :]
    return (
        text.encode("utf-8", "surrogateescape")
        if _fits(text)
        else text.encode("latin-1", "replace")
    )


def _fits(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@pytest.fixture
def patch_text(world: World) -> str:
    return (world.patches / "gatv2_conv" / "1.8.0.patch").read_text()


@lenient
@given(edits())
def test_any_patch(patch_text: str, tmp_path: Path, changes: list[tuple[float, int, str]]) -> None:
    file = tmp_path / "any.patch"
    file.write_bytes(edited(patch_text, changes))
    patch = Patch("gatv2_conv/any.patch", file)
    for name in ("subject", "body", "author", "date", "releases", "hunks", "is_for_library"):
        with contextlib.suppress(TreeError):
            getattr(patch, name)
    with contextlib.suppress(TreeError):
        patch.fits("1.8.0")
    with contextlib.suppress(TreeError):
        patch.fields()
    with contextlib.suppress(TreeError):
        for change in patch.changes:
            assert not change.path.startswith("/")
            assert ".." not in change.path.split("/")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "torch_geometric/../../x"])
def test_a_patch_of_a_file_outside_of_its_tree(patch_text: str, tmp_path: Path, path: str) -> None:
    file = tmp_path / "any.patch"
    file.write_text(patch_text.replace(LAYER, path))
    with pytest.raises(TreeError, match="the line 'diff --git'"):
        _ = Patch("gatv2_conv/any.patch", file).changes


@pytest.fixture
def own_patches(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    own = tmp_path / "patches"
    shutil.copytree(world.patches, own)
    monkeypatch.setattr(releases, "PATCHES", own)
    yield own


@lenient
@given(edits())
def test_any_pins(own_patches: Path, changes: list[tuple[float, int, str]]) -> None:
    pins = own_patches / "releases.toml"
    text = pins.read_text()
    try:
        pins.write_bytes(edited(text, changes))
        with contextlib.suppress(KitError):
            releases.load()
    finally:
        pins.write_text(text)


@given(st.text(max_size=30))
def test_any_version(name: str) -> None:
    with contextlib.suppress(UsageError):
        _catalogue().find(name)


def _catalogue() -> releases.Catalogue:
    global _loaded
    _loaded = _loaded or releases.load()
    return _loaded


_loaded: releases.Catalogue | None = None


@given(st.text(max_size=30))
def test_any_address(url: str) -> None:
    for before in ("", "-", "ext::", "--upload-pack="):
        try:
            taken = sources.check_url(before + url)
        except UsageError:
            continue
        assert not before
        assert not taken.startswith("-")
