"""Archives: what no release holds is refused, and nothing is written."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import archives
from kit.errors import SourceError


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 4
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = size if kind == tarfile.REGTYPE else 0
    return made


def sdist(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for each in (member("x-1.0/good.py"), *members):
            archive.addfile(each, io.BytesIO(b"text" if each.size else b""))
    return path


@pytest.mark.parametrize(
    "bad",
    [
        [member("x-1.0/../../outside")],
        [member("/outside")],
        [member("x-1.0/link", tarfile.SYMTYPE, "../.."), member("x-1.0/link/outside")],
        [member("x-1.0/link", tarfile.SYMTYPE, "/etc")],
        [member("x-1.0/link", tarfile.LNKTYPE, "../../outside")],
        [member("x-1.0/device", tarfile.CHRTYPE)],
        [member("x-1.0/fifo", tarfile.FIFOTYPE)],
    ],
)
def test_what_leads_out_or_is_no_file(tmp_path: Path, bad: list[tarfile.TarInfo]) -> None:
    """On a Python whose own tarfile has no filters, too."""
    archive, dest = sdist(tmp_path / "x-1.0.tar.gz", *bad), tmp_path / "in" / "dest"
    with pytest.raises(SourceError, match="is no archive of a release"):
        archives.unpack(archive, dest)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MOST_BYTES", 1000)
    archive = tmp_path / "x-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.addfile(member("x-1.0/zeros", size=1001), io.BytesIO(bytes(1001)))
    wheel = tmp_path / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("torch_geometric/zeros", bytes(1001))
    many = sdist(tmp_path / "y-1.0.tar.gz", *(member(f"x-1.0/{i}") for i in range(20)))
    for each in (archive, wheel):
        with pytest.raises(SourceError, match="more than 1,000 bytes"):
            archives.unpack(each, tmp_path / "dest")
    monkeypatch.setattr(archives, "_MOST_FILES", 20)
    with pytest.raises(SourceError, match="or 20 files"):
        archives.unpack(many, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("name", ["torch_geometric/../../outside", "/torch_geometric/outside"])
def test_a_wheel_that_leads_out(tmp_path: Path, name: str) -> None:
    wheel = tmp_path / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as zipped:
        zipped.writestr("torch_geometric/good.py", "")
        zipped.writestr(name, "")
    with pytest.raises(SourceError, match="leads out of it"):
        archives.unpack(wheel, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def good_sdist(folder: Path) -> Path:
    return sdist(folder / "x-1.0.tar.gz")


def good_wheel(folder: Path) -> Path:
    wheel = folder / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("torch_geometric/good.py", "text" * 50)
    return wheel


@pytest.mark.parametrize("make", [good_sdist, good_wheel])
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_any_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
    make: Callable[[Path], Path],
    place: int,
    value: int,
    cut: bool,
) -> None:
    root = tmp_path_factory.mktemp("damage")
    archive = make(root)
    data = bytearray(archive.read_bytes())
    data[place % len(data)] = value
    archive.write_bytes(data[: place % len(data)] if cut else data)
    try:
        archives.unpack(archive, root / "dest")
    except SourceError:
        assert not (root / "dest").exists()
    assert {path.name for path in root.iterdir()} <= {archive.name, "dest"}


@given(st.binary(max_size=300), st.sampled_from(["x.tar.gz", "x.whl"]))
def test_any_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / name).write_bytes(content)
    with pytest.raises(SourceError, match="is no archive of a release"):
        archives.unpack(root / name, root / "dest")
    assert not (root / "dest").exists()
