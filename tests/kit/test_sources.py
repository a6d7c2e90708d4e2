"""Archives are unpacked into their folder, and nowhere else."""

import io
import tarfile
from pathlib import Path

import pytest
from kit import sources


@pytest.mark.parametrize(
    ("name", "link"), [("x-1.0/../../outside", ""), ("x-1.0/link/outside", "../..")]
)
def test_unpack_stays_in_its_folder(tmp_path: Path, name: str, link: str) -> None:
    """On a Python whose own tarfile has no filters, too."""
    archive, dest = tmp_path / "x-1.0.tar.gz", tmp_path / "in" / "dest"
    with tarfile.open(archive, "w:gz") as sdist:
        if link:
            linked = tarfile.TarInfo("x-1.0/link")
            linked.type, linked.linkname = tarfile.SYMTYPE, link
            sdist.addfile(linked)
        member = tarfile.TarInfo(name)
        member.size = 4
        sdist.addfile(member, io.BytesIO(b"text"))
    with pytest.raises(sources.tarfile.FilterError):
        sources.unpack(archive, dest)
    assert list(tmp_path.rglob("outside")) == []
