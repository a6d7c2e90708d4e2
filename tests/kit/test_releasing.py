"""A release of the kit: what its archives hold, and when there is none."""

import hashlib
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import kit
import pytest
from conftest import git
from kit import places, releasing
from kit.errors import TreeError
from kit.releases import ROOT


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A checkout whose CHANGELOG dates the version."""
    path = tmp_path / "checkout"
    path.mkdir()
    for name in ("LICENSE", "NOTICE", "README.md"):
        shutil.copy(ROOT / name, path / name)
    shutil.copytree(ROOT / "patches", path / "patches")
    (path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {kit.__version__} - 2026-12-01\n")
    git("init", "--quiet", cwd=path)
    git("add", "--all", cwd=path)
    git("commit", "--quiet", "-m", "all", cwd=path)
    return path


def test_archives(repository: Path, tmp_path: Path) -> None:
    first = releasing.make(tmp_path / "one", repository)
    second = releasing.make(tmp_path / "two", repository)
    whole, patches, sums = first
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    for line in sums.read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "one" / name).read_bytes()).hexdigest() == digest
    with tarfile.open(whole) as archive:
        assert f"pyg-threadsafe-{kit.__version__}/README.md" in archive.getnames()
    with tarfile.open(patches) as archive:
        names = archive.getnames()
        folder = f"pyg-threadsafe-patches-{kit.__version__}"
        member = archive.extractfile(f"{folder}/patches/gatv2_conv/2.3.0.patch")
        assert member is not None
        assert member.read() == (ROOT / "patches/gatv2_conv/2.3.0.patch").read_bytes()
    assert f"{folder}/NOTICE" in names and f"{folder}/README.md" not in names


def test_what_is_not_committed_is_not_released(repository: Path, tmp_path: Path) -> None:
    (repository / "README.md").write_text("else\n")
    with pytest.raises(TreeError, match="not committed"):
        releasing.make(tmp_path / "out", repository)
    assert not (tmp_path / "out").exists()


def test_a_version_without_a_date(repository: Path, tmp_path: Path) -> None:
    (repository / "CHANGELOG.md").write_text(f"## {kit.__version__} - unreleased\n")
    git("commit", "--quiet", "--all", "-m", "undated", cwd=repository)
    with pytest.raises(TreeError, match="YYYY-MM-DD"):
        releasing.make(tmp_path / "out", repository)


def test_the_command_prints_the_archives(
    repository: Path,
    tmp_path: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(releasing.make, "__defaults__", (repository,))
    monkeypatch.setattr(places, "ROOT", tmp_path)
    for options, folder in ((("--out", tmp_path / "out"), "out"), ((), "build/release")):
        assert call("release", *options) == 0
        printed = capsys.readouterr().out.splitlines()
        assert printed == sorted(map(str, (tmp_path / folder).iterdir()), key=printed.index)
        assert len(printed) == 3
