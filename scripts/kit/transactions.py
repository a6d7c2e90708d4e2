"""Writes files of a tree: all of them or none, whatever ends the run.

Each new file is written beside its target, as the target is: owner, mode, extended
attributes. Then the targets are set aside by another name, and the new files renamed into
place. To undo this is to rename, which needs no space. A journal in the tree says what is
under way: where a run is killed, `recover()` finishes or undoes it in the next one.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import records
from kit.errors import KitError, TreeError
from kit.records import Field

JOURNAL = ".pyg-threadsafe-journal"
_DRAFT = f"{JOURNAL}-draft"
_NEW, _OLD = ".pyg-threadsafe-new-", ".pyg-threadsafe-old-"

# How long a run waits for another one on the same tree, in seconds.
LOCK_TIMEOUT = 60.0


@dataclass(frozen=True)
class Wanted:
    """What is to be at a path.

    Attributes:
        data: The content of a file; None for no file.
        link: In place of a file: where a symbolic link is to point to.
        mtime_ns: When the file was changed last; None for now.
        is_cache: Whether others may write it at any time, as Python does its bytecode.
    """

    data: bytes | None
    link: str | None = None
    mtime_ns: int | None = None
    is_cache: bool = False


@dataclass(frozen=True)
class _Entry:
    """A path below the top of the tree, and what was and will be there, as `_state` says it."""

    path: str
    before: str
    after: str
    is_cache: bool


@dataclass(frozen=True)
class _Journal:
    top: Path
    entries: Sequence[_Entry]
    made: Sequence[str]
    note: Mapping[str, str]

    def paths(self, entry: _Entry) -> tuple[Path, Path, Path]:
        """The target, the new file beside it, and the old one."""
        target = self.top / entry.path
        return target, target.with_name(_NEW + target.name), target.with_name(_OLD + target.name)


# Told whether the files are as wanted (else they are as before), with the note of the journal.
Settle = Callable[[Mapping[str, str], bool], None]


@contextlib.contextmanager
def locked(
    top: Path,
    notify: Callable[[str], None] = lambda message: None,
    *,
    shared: bool = False,
    timeout: float = LOCK_TIMEOUT,
) -> Iterator[None]:
    """Holds the lock of a tree, which ends with the process. It needs no file, and leaves none.

    Args:
        top: The tree.
        notify: Is told that another run has it.
        shared: Whether others that only look may have it as well.
        timeout: How long to wait for another run, in seconds.

    Raises:
        TreeError: If another run holds it for longer than that, or it cannot be locked.
    """
    try:
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TreeError(
            f"{top} cannot be opened ({error.strerror}). Expected a directory that you may read."
        ) from None
    try:
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        end, told = time.monotonic() + timeout, False
        while True:
            try:
                fcntl.flock(descriptor, operation)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TreeError(
                        f"Another run has been at work in {top} for {timeout:.0f} s. Call "
                        f"this again once it has ended."
                    ) from None
            except OSError as error:
                raise TreeError(
                    f"{top} cannot be locked ({error.strerror}), so two runs at once could not "
                    f"be told apart. Patch a copy on another file system."
                ) from None
            if not told:
                notify(f"Waiting for another run in {top} ...")
                told = True
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def write(
    files: Mapping[Path, Wanted],
    top: Path,
    *,
    settle: Settle = lambda note, done: None,
    note: Mapping[str, str] | None = None,
) -> None:
    """Brings every file to what is wanted, or none. Call it with the lock held.

    Args:
        files: What is wanted, by path. Directories are made, and removed once they are empty.
        top: The tree below which the files lie. It stays.
        settle: Is called once the files are in place, and again where that is undone.
        note: What `settle` needs. It is kept in the journal.

    Raises:
        TreeError: If one cannot be written. The message says whether all is as it was.
    """
    entries, wanted = [], {}
    for path, want in files.items():
        entry = _Entry(str(path.relative_to(top)), _state(path), _state_of(want), want.is_cache)
        if entry.before != entry.after:
            entries.append(entry)
            wanted[entry] = want
    parents = dict.fromkeys(
        directory
        for entry in entries
        if entry.after
        for directory in reversed((top / entry.path).parents)
        if not directory.exists()
    )
    made = [str(directory.relative_to(top)) for directory in parents if directory != top]
    journal = _Journal(top, entries, made, dict(note or {}))
    if not entries:
        settle(journal.note, True)
        return
    try:
        _start(journal)
        for name in made:
            _make_directory(top / name)
        for entry in entries:
            target, new, _ = journal.paths(entry)
            if entry.after:
                _stage(new, target, wanted[entry])
        for entry in entries:
            _swap(journal, entry)
        _check_in_place(journal)
        settle(journal.note, True)
    except BaseException as error:
        _take_back(journal, settle, error)
        raise
    try:
        _finish(journal)
    except OSError as error:
        raise TreeError(
            f"All files of {top} are in place, but {error.filename} cannot be removed "
            f"({error.strerror}). Call this again, and it is."
        ) from None


def _take_back(journal: _Journal, settle: Settle, error: BaseException) -> None:
    """Undoes, and turns an `OSError` into a message that says whether that worked."""
    reason = _reason(error)
    try:
        _undo(journal)
        settle(journal.note, False)
        for name in (_DRAFT, JOURNAL):
            (journal.top / name).unlink(missing_ok=True)
        wrong = [e.path for e in journal.entries if _state(journal.top / e.path) != e.before]
        if wrong:
            raise OSError(errno.EIO, "not as before", wrong[0])
    except (OSError, KitError) as second:
        raise TreeError(
            f"{journal.top} could not be changed ({reason}), and undoing it failed "
            f"({_reason(second)}). {journal.top / JOURNAL} says what was under "
            f"way: call this again once the disk can be written, and it is put right."
        ) from None
    if isinstance(error, OSError):
        raise TreeError(
            f"{error.filename or journal.top} cannot be written ({error.strerror}). The tree is "
            f"as it was. Check its permissions and the space on its disk."
        ) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return str(error) or type(error).__name__


def recover(top: Path, settle: Settle = lambda note, done: None) -> str:
    """Puts right what a run that was killed has left. Call it with the lock held.

    Returns:
        "finished" or "undone"; "" where there was nothing.

    Raises:
        TreeError: If it cannot be done.
    """
    with contextlib.suppress(OSError):
        (top / _DRAFT).unlink()
    journal = _read(top)
    if journal is None:
        return ""
    try:
        done = all(
            _state(top / entry.path) == entry.after
            for entry in journal.entries
            if not entry.is_cache
        )
        if not done:
            _undo(journal)
        settle(journal.note, done)
        if done:
            _finish(journal)
        else:
            (top / JOURNAL).unlink()
    except OSError as error:
        raise TreeError(
            f"A run in {top} was cut off, and what it left cannot be put right "
            f"({error.strerror}: {error.filename}). Check the permissions and the space on the "
            f"disk, and call this again."
        ) from None
    return "finished" if done else "undone"


def is_cut_off(top: Path) -> bool:
    """Whether a run was killed there, and none has put that right."""
    return os.path.lexists(top / JOURNAL)


def _start(journal: _Journal) -> None:
    for entry in journal.entries:
        for path in journal.paths(entry)[1:]:
            if os.path.lexists(path):
                # Not of a run that the journal speaks of.
                path.unlink()
    content = {
        "format": 1,
        "entries": [asdict(entry) for entry in journal.entries],
        "made": list(journal.made),
        "note": dict(journal.note),
    }
    # Not `replace()`: what that leaves when it is killed has a name that nobody knows.
    draft = journal.top / _DRAFT
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(journal.top / JOURNAL)


_is_path = records.matches(r"(?!/)(?!(.*/)?\.\.(/|$)).+")
_FIELDS = {
    "format": Field("1", lambda value: value == 1),
    "entries": Field("a list of records", records.list_of(lambda e: isinstance(e, dict))),
    "made": Field("a list of paths in the tree", records.list_of(_is_path)),
    "note": Field("a table of strings", records.table_of(lambda v: isinstance(v, str))),
}
_ENTRY = {
    "path": Field("a path in the tree", _is_path),
    "before": Field("a string", lambda value: isinstance(value, str)),
    "after": Field("a string", lambda value: isinstance(value, str)),
    "is_cache": Field("true or false", lambda value: isinstance(value, bool)),
}


def _read(top: Path) -> _Journal | None:
    file = top / JOURNAL
    if not os.path.lexists(file):
        return None
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise ValueError("it is no plain file")
        content: Any = json.loads(file.read_bytes())
        records.check(file, "", content, _FIELDS)
        entries = [_Entry(**records.check(file, "", e, _ENTRY)) for e in content["entries"]]
        for name in (*(e.path for e in entries), *content["made"]):
            if not (top / name).parent.resolve().is_relative_to(top.resolve()):
                raise ValueError(f"{name} leads out of the tree")
    except (OSError, ValueError, RecursionError, TreeError) as error:
        raise TreeError(
            f"{file} should say what a run that was cut off has left, and cannot be understood "
            f"({str(error)[:200]}). If you did not make it: install PyG again, and remove {file}."
        ) from None
    return _Journal(top, entries, content["made"], content["note"])


def _state(path: Path) -> str:
    """What is at a path: "" for nothing, or a word for a link or the content of a file."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISLNK(mode):
        return f"link {path.readlink()}"
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _state_of(wanted: Wanted) -> str:
    if wanted.link is not None:
        return f"link {wanted.link}"
    return "" if wanted.data is None else f"sha256 {hashlib.sha256(wanted.data).hexdigest()}"


def _stage(new: Path, target: Path, wanted: Wanted) -> None:
    if wanted.link is not None:
        new.symlink_to(wanted.link)
        return
    assert wanted.data is not None
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(wanted.data)
        file.flush()
        os.fsync(file.fileno())
    if target.exists():
        _keep_owner(new, target.stat(), target)
        # Mode, ACLs and other extended attributes, flags; then the time of this change.
        shutil.copystat(target, new)
        now = time.time_ns()
        os.utime(new, ns=(now, wanted.mtime_ns if wanted.mtime_ns is not None else now))
    else:
        parent = target.parent.stat()
        _keep_owner(new, parent, target)
        new.chmod(stat.S_IMODE(parent.st_mode) & 0o666)


def _keep_owner(new: Path, like: os.stat_result, target: Path) -> None:
    made = new.stat()
    if (made.st_uid, made.st_gid) == (like.st_uid, like.st_gid):
        return
    try:
        os.chown(new, like.st_uid, like.st_gid)
    except PermissionError:
        raise TreeError(
            f"{target} belongs to user {like.st_uid} and group {like.st_gid}, and you may not "
            f"give a file to them, so that the patched one would belong to somebody else. The "
            f"tree is as it was. Call this as that user, or as root."
        ) from None


def _make_directory(directory: Path) -> None:
    directory.mkdir()
    parent = directory.parent.stat()
    _keep_owner(directory, parent, directory)
    directory.chmod(stat.S_IMODE(parent.st_mode))


def _swap(journal: _Journal, entry: _Entry) -> None:
    target, new, old = journal.paths(entry)
    if entry.before:
        _set_aside(target, old, keep=bool(entry.after))
        if not entry.is_cache and _state(old) != entry.before:
            raise TreeError(
                f"{target} was changed while it was to be patched. The tree is as it was. Call "
                f"this again."
            )
    if entry.after:
        new.replace(target)


def _set_aside(target: Path, old: Path, *, keep: bool) -> None:
    """Gives a file another name. It keeps its own meanwhile, where the file system can do that."""
    with contextlib.suppress(FileNotFoundError):
        if keep:
            try:
                os.link(target, old, follow_symlinks=False)
                return
            except (OSError, NotImplementedError):
                pass
        target.rename(old)


def _check_in_place(journal: _Journal) -> None:
    for entry in journal.entries:
        path = journal.top / entry.path
        if not entry.is_cache and _state(path) != entry.after:
            raise OSError(errno.EIO, "read back, it is not what was written", str(path))


def _undo(journal: _Journal) -> None:
    for entry in journal.entries[::-1]:
        target, new, old = journal.paths(entry)
        if os.path.lexists(new):
            new.unlink()
        state = _state(target)
        if os.path.lexists(old):
            if entry.is_cache or state in (entry.after, ""):
                old.replace(target)
            # It is the file of before, by two names; or somebody has put a new one there since.
            old.unlink(missing_ok=True)
        elif not entry.before and state and state == entry.after:
            target.unlink()
    for name in reversed(journal.made):
        with contextlib.suppress(OSError):
            (journal.top / name).rmdir()


def _finish(journal: _Journal) -> None:
    """Removes what is not needed any more; the journal last."""
    for entry in journal.entries:
        target, new, old = journal.paths(entry)
        old.unlink(missing_ok=True)
        new.unlink(missing_ok=True)
        if not entry.after:
            target.unlink(missing_ok=True)
            _remove_empty_directories(target.parent, journal.top)
    (journal.top / JOURNAL).unlink(missing_ok=True)


def _remove_empty_directories(directory: Path, top: Path) -> None:
    while directory != top and top in directory.parents:
        try:
            directory.rmdir()
        except OSError:
            return
        directory = directory.parent


def replace(target: Path, data: bytes) -> None:
    """Writes one file in one step, so that nobody ever sees half of it; its mode stays."""
    descriptor, name = tempfile.mkstemp(prefix=".pyg-threadsafe-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if target.exists():
            shutil.copymode(target, name)
        else:
            Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
