"""Unpacks the archives of releases, and refuses what no release holds."""

import errno
import sys
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from kit.errors import SourceError

if sys.version_info >= (3, 12):
    import tarfile
else:
    # Python 3.10.0 to 3.11.3 (Debian 12 has 3.11.2) lacks the filters of tarfile.
    from backports import tarfile

# No release comes near, and a disk has room for it: 40 MB in 2,500 files are the most so far.
_MOST_BYTES, _MOST_FILES = 500_000_000, 50_000


def unpack(archive: Path, dest: Path, only: Collection[str] | None = None) -> None:
    """Unpacks an archive without its top folder; `only` names the files to take.

    Raises:
        SourceError: If it is damaged, or holds what a release does not: a path or a link that
            leads out of it, a device, or far too much. Then nothing is written.
    """
    try:
        if archive.suffix == ".whl":
            _unpack_wheel(archive, dest, only)
        else:
            _unpack_sdist(archive, dest, only)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise _bad_archive(archive, str(error) or type(error).__name__) from None
    except (NotImplementedError, RuntimeError, UnicodeError) as error:
        # A compression or an encryption that `zipfile` does not know.
        raise _bad_archive(archive, str(error)) from None
    except OSError as error:
        # An offset before the start of the file. Others are about the disk.
        if error.errno != errno.EINVAL:
            raise
        raise _bad_archive(archive, "a member lies outside of it") from None


def _unpack_wheel(archive: Path, dest: Path, only: Collection[str] | None) -> None:
    with zipfile.ZipFile(archive) as wheel:
        members = wheel.infolist()
        _check_size(archive, [member.file_size for member in members])
        for member in members:
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts:
                raise _bad_archive(archive, f"{member.filename} leads out of it")
        # Each is read whole first: its size may be a lie, and its checksum wrong.
        if wheel.testzip() is not None:
            raise _bad_archive(archive, f"{wheel.testzip()} is damaged")
        for member in members:
            name = member.filename
            # A wheel's metadata would make sources look like an installation.
            if name.startswith("torch_geometric/") and (only is None or name in only):
                wheel.extract(member, dest)


def _unpack_sdist(archive: Path, dest: Path, only: Collection[str] | None) -> None:
    with tarfile.open(archive) as sdist:
        members, sizes = [], []
        for member in sdist:
            if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
                raise _bad_archive(archive, f"{member.name} leads out of it")
            member.name = "/".join(PurePosixPath(member.name).parts[1:])
            sizes.append(member.size)
            _check_size(archive, sizes)
            if member.name:
                # Raises where it is a device, or a link that leads out.
                tarfile.data_filter(member, str(dest))
            if member.name and (only is None or member.name in only):
                members.append(member)
        for member in members:
            sdist.extract(member, dest, filter="data")


def _check_size(archive: Path, sizes: Sequence[int]) -> None:
    if sum(sizes) > _MOST_BYTES or len(sizes) > _MOST_FILES:
        raise _bad_archive(
            archive, f"it would unpack to more than {_MOST_BYTES:,} bytes or {_MOST_FILES:,} files"
        )


def _bad_archive(archive: Path, reason: str) -> SourceError:
    return SourceError(
        f"{archive.name} is no archive of a release: {reason}. Nothing was written. Expected plain "
        f"files below one folder, as PyPI has them; if it came from a mirror, ask its keeper."
    )
