"""A release of the kit: archives of a commit, and their checksums."""

import gzip
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import kit
from kit import transactions
from kit.errors import TreeError
from kit.processes import git
from kit.releases import ROOT

CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Archive:
    """An archive of a commit.

    Attributes:
        name: The file's name, without `.tar.gz`, and the folder inside.
        paths: What of the commit is in it; all of it where empty.
    """

    name: str
    paths: tuple[str, ...] = ()


def archives(version: str) -> list[Archive]:
    """Returns what a release is made of: the kit, and the patches alone, for `git am`."""
    return [
        Archive(f"pyg-threadsafe-{version}"),
        Archive(
            f"pyg-threadsafe-patches-{version}", ("patches", "LICENSE", "NOTICE", "CHANGELOG.md")
        ),
    ]


def make(dest: Path, repository: Path = ROOT) -> list[Path]:
    """Makes the archives of the commit that is checked out, the same bytes each time.

    Args:
        dest: The folder that they go to.
        repository: The checkout.

    Returns:
        The files: the archives, and `SHA256SUMS`.

    Raises:
        TreeError: If something is not committed, or the CHANGELOG does not date the version.
    """
    if git("status", "--porcelain", cwd=repository):
        raise TreeError(
            f"A release is made of a commit, and {repository} has changes that are not committed. "
            f"Commit or stash them."
        )
    version = kit.__version__
    changes = git("show", "HEAD:CHANGELOG.md", cwd=repository)
    if not re.search(rf"^## \[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d$", changes, re.M):
        raise TreeError(
            f"CHANGELOG.md should have a heading '## {version} - YYYY-MM-DD', the day of the "
            f"release, and has none. Write it, and commit."
        )
    files = {}
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as folder:
        for archive in archives(version):
            tar = Path(folder) / f"{archive.name}.tar"
            git(
                *("archive", "--format=tar", f"--prefix={archive.name}/", f"--output={tar}"),
                *("HEAD", *archive.paths),
                cwd=repository,
            )
            # Without the time: the same commit gives the same bytes.
            files[f"{archive.name}.tar.gz"] = gzip.compress(tar.read_bytes(), mtime=0)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    files[CHECKSUMS] = sums.encode()
    dest.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        transactions.replace(dest / name, content)
    return [dest / name for name in files]
