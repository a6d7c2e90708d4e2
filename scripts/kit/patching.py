"""Checks, applies and reverses patches in a tree: all of them, or nothing.

The state of a file is read off its content: its git blob id is the one before
the patch, the one after it, or neither. `git apply` does the patching, on
copies; the tree gets the finished files (`transactions`).
"""

import enum
import errno
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from unidiff.patch import PatchedFile

from kit import transactions
from kit.errors import TreeError
from kit.processes import last_lines, run
from kit.releases import NO_BLOB, VERSION_FILE, Catalogue, Change, Patch, Release


class State(enum.Enum):
    """How a patch stands in a tree."""

    PRISTINE = "pristine"
    PATCHED = "patched"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Step:
    """A patch, how it stands in a tree, and where it is left out, why."""

    patch: Patch
    state: State
    reason: str = ""


def blob_id(data: bytes) -> str:
    """Returns the id that git gives to a file's content (`git hash-object`)."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def read(path: Path) -> bytes | None:
    """Returns the content of a file, or None where there is none.

    Raises:
        TreeError: If it is there and cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Nobody may ever write to a FIFO.
            raise OSError(errno.EINVAL, "it is a directory, a FIFO or a device")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TreeError(
            f"{path} cannot be read ({error.strerror}). Expected a plain, readable file there."
        ) from None


def blob_of(path: Path, known: Collection[str] = ()) -> str:
    """Returns the blob id of a file, or `NO_BLOB` where there is none.

    Args:
        path: The file.
        known: Blob ids to recognise. A file that is none of them, and ends each line with
            CRLF, is taken for what it is with LF, if that is one of them.

    Raises:
        TreeError: If it is there and cannot be read.
    """
    data = read(path)
    return NO_BLOB if data is None else blob_id(recognised(data, known)[0])


def recognised(data: bytes, known: Collection[str]) -> tuple[bytes, bool]:
    """The content as a release has it, and whether the line ends were CRLF in place of LF."""
    plain = data.replace(b"\r\n", b"\n")
    is_crlf = plain != data and plain.replace(b"\n", b"\r\n") == data
    if is_crlf and blob_id(data) not in known and blob_id(plain) in known:
        return plain, True
    return data, False


def identify(tree: Path, catalogue: Catalogue) -> list[Release]:
    """Returns the releases that a tree can be, by the content of its files.

    `VERSION_FILE` tells releases apart, save 2.3.0 from a git
    checkout of 2.3.1, whose tag still says 2.3.0. Where that file has been
    changed, the files that the patches touch decide.

    Raises:
        TreeError: If there is no PyG in it at all.
    """
    known = {blob for release in catalogue.releases for blob in release.version_blobs}
    version_blob = blob_of(tree / VERSION_FILE, known)
    if version_blob == NO_BLOB:
        above = tree.absolute().parent
        raise TreeError(
            f"{tree} holds no PyG: expected a directory with {VERSION_FILE} in it, "
            f"such as a checkout, an unpacked sdist, or site-packages."
            + (f" Name the one above it: {above}" if (above / VERSION_FILE).is_file() else "")
        )
    exact = [r for r in catalogue.releases if version_blob in r.version_blobs]
    return exact or [r for r in catalogue.releases if _fits_by_files(tree, r)]


def _fits_by_files(tree: Path, release: Release) -> bool:
    changes = [c for patch in release.patches for c in patch.changes if c.before != NO_BLOB]
    library = [c for c in changes if c.path.startswith("torch_geometric/")]
    return bool(library) and all(
        blob_of(tree / change.path, _known(change)) in _known(change) for change in library
    )


def _known(change: Change) -> tuple[str, str]:
    return change.before, change.after


def plan(tree: Path, patches: Sequence[Patch], *, installed: bool = False) -> list[Step]:
    """Finds how each patch stands in a tree, and changes nothing.

    Args:
        tree: The tree.
        patches: The patches.
        installed: Whether it is an installed PyG, which gets no tests.

    Raises:
        TreeError: If a file that a patch touches is neither as released nor as patched, or
            if some files of a patch are the one, and some the other; or if a link leads to
            such a file outside of the tree.
    """
    steps = []
    faults: list[str] = []
    for patch in patches:
        if installed and not patch.is_for_library:
            steps.append(Step(patch, State.LEFT_OUT, "an installed PyG has no tests"))
            continue
        faults += [fault for change in patch.changes if (fault := _leads_out(tree, change.path))]
        blobs = [(change, blob_of(tree / change.path, _known(change))) for change in patch.changes]
        strangers = [(change, blob) for change, blob in blobs if blob not in _known(change)]
        if all(
            change.path.startswith("test/") and change.before != NO_BLOB and blob == NO_BLOB
            for change, blob in blobs
        ):
            reason = f"this tree has no {patch.changes[0].path}"
            steps.append(Step(patch, State.LEFT_OUT, reason))
        elif strangers:
            faults += [_explain(tree, patch, change, blob) for change, blob in strangers]
        elif all(blob == change.before for change, blob in blobs):
            steps.append(Step(patch, State.PRISTINE))
        elif all(blob == change.after for change, blob in blobs):
            steps.append(Step(patch, State.PATCHED))
        else:
            faults.append(_explain_half(tree, patch, blobs))
    if faults:
        raise TreeError(" ".join(dict.fromkeys(faults)))
    return steps


def _leads_out(tree: Path, path: str) -> str:
    """What is wrong where a directory of a tree is a link to one elsewhere; "" if none is.

    A file that is a link gets a copy of its own in place of the link. A directory would have
    to be copied whole, and whoever made it a link wants what it points to in use.
    """
    for directory in reversed((tree / path).parents):
        if directory.is_symlink() and directory != tree and tree in directory.parents:
            target = directory.resolve()
            if not target.is_relative_to(tree.resolve()):
                return (
                    f"{directory} is a link to {target}, outside of the tree: others may use what "
                    f"is there. Patch it where it is (--tree), or put a copy in place of the link."
                )
    return ""


def _explain_half(tree: Path, patch: Patch, blobs: Sequence[tuple[Change, str]]) -> str:
    patched = [change.path for change, blob in blobs if blob == change.after]
    released = [change.path for change, blob in blobs if blob == change.before]
    return (
        f"{patch.name} is half applied to {tree}: {', '.join(patched)} as patched, but "
        f"{', '.join(released)} as released. Expected all of them in the same state. Put the "
        f"released content of the former back (in a checkout: git checkout -- FILE; else install "
        f"PyG again), and call this again."
    )


def _explain(tree: Path, patch: Patch, change: Change, blob: str) -> str:
    if blob == NO_BLOB:
        return f"{change.path} is missing from {tree}, and {patch.name} changes it."
    message = (
        f"{change.path} has local changes: expected blob {change.before[:10]} (as released) or "
        f"{change.after[:10]} (as patched), found {blob[:10]}."
    )
    raw = (tree / change.path).read_bytes()
    if b"\r\n" in raw and blob_id(raw.replace(b"\r\n", b"\n")) in (change.before, change.after):
        return (
            f"{change.path} ends some lines with CRLF and others with LF. Expected all as "
            f"released (LF), or all CRLF. Give it one kind of line ends, and call this again."
        )
    if change.before == NO_BLOB:
        return f"{message} Move that file away, and call this again."
    patched_file = next(f for f in patch.hunks if f.path == change.path)
    text = (tree / change.path).read_text(encoding="utf-8", errors="replace")
    misfit = _first_misfit(text, patched_file)
    if misfit:
        return (
            f"{message} {misfit} Undo the local change (in a checkout: git stash), or merge by "
            f"hand with 'git apply --reject {patch.file}'."
        )
    return (
        f"{message} Every hunk of the patch still fits, so 'git apply {patch.file}' would take "
        f"it as it is; the kit refuses, since its proof holds for the released file only."
    )


def _first_misfit(text: str, patched_file: PatchedFile) -> str:
    lines = text.splitlines()
    for number, hunk in enumerate(patched_file, start=1):
        expected = [line.value.rstrip("\n") for line in hunk if not line.is_added]
        width = len(expected)
        if any(lines[i : i + width] == expected for i in range(len(lines) - width + 1)):
            continue
        # The line to show is the first one that is nowhere near its place.
        start = hunk.source_start - 1
        nearby = lines[max(start - 50, 0) : start + width + 50]
        for offset, line in enumerate(expected):
            if line not in nearby:
                at = start + offset
                actual = lines[at].strip() if at < len(lines) else "the end of the file"
                return (
                    f"Hunk {number} of the patch expects '{line.strip()}' near line {at + 1}; "
                    f"found there: '{actual}'."
                )
        return f"Hunk {number} of the patch does not fit near line {hunk.source_start}."
    return ""


def apply(tree: Path, steps: Sequence[Step], *, reverse: bool = False) -> list[Patch]:
    """Brings every patch of a plan to the wanted state, and returns those that were not in it.

    Args:
        tree: The tree that `plan` looked at.
        steps: What `plan` returned.
        reverse: Whether to take the patches out instead.

    Raises:
        TreeError: If the tree cannot be written, or `git apply` fails. The tree is as it was.
    """
    todo = to_do(steps, reverse=reverse)
    transactions.write(contents(tree, todo, reverse=reverse), tree)
    return todo


def to_do(steps: Sequence[Step], *, reverse: bool = False) -> list[Patch]:
    """Returns the patches of a plan that are not in the wanted state."""
    wanted = State.PATCHED if reverse else State.PRISTINE
    return [step.patch for step in steps if step.state is wanted]


def contents(
    tree: Path, patches: Sequence[Patch], *, reverse: bool = False
) -> dict[Path, transactions.Wanted]:
    """Returns what the files of a tree are to hold once patches are applied, or taken out.

    `git apply` patches copies, which are checked against their recorded blob ids. The
    bytecode of each file is to go: Python may be told to use it without a look at the source.

    Raises:
        TreeError: If `git apply` fails, or there is no space for the copies.
    """
    files: dict[Path, transactions.Wanted] = {}
    if not patches:
        return files
    try:
        with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
            stage = Path(name)
            crlf: set[str] = set()
            for patch in patches:
                crlf |= _patch_copies(tree, stage, patch, reverse)
            for change in (change for patch in patches for change in patch.changes):
                copy, target = stage / change.path, tree / change.path
                data = copy.read_bytes() if copy.exists() else None
                if data is not None and change.path in crlf:
                    data = data.replace(b"\n", b"\r\n")
                files[target] = transactions.Wanted(data)
                files |= dict.fromkeys(bytecode_of(target), GONE)
    except OSError as error:
        raise TreeError(
            f"The patched copies could not be made in {error.filename or 'a temporary directory'} "
            f"({error.strerror}). The tree is as it was. TMPDIR=DIR names another place for them."
        ) from None
    return files


# What is wanted of bytecode.
GONE = transactions.Wanted(None, is_cache=True)


def bytecode_of(file: Path) -> list[Path]:
    """Returns the files that hold the bytecode of a Python file, of any version of Python."""
    # Not by `glob`, to which a name could be a pattern.
    try:
        files = sorted((file.parent / "__pycache__").iterdir())
    except OSError:
        return []
    return [f for f in files if f.name.startswith(f"{file.stem}.") and f.name.endswith(".pyc")]


def _patch_copies(tree: Path, stage: Path, patch: Patch, reverse: bool) -> set[str]:
    """Patches copies, and returns the paths of those that are to end their lines with CRLF."""
    crlf = set()
    for change in patch.changes:
        copy = stage / change.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = read(tree / change.path)
        if data is None:
            # A new file does as the rest of its tree does.
            is_crlf = b"\r\n" in (read(tree / VERSION_FILE) or b"")
        else:
            data, is_crlf = recognised(data, _known(change))
            if not copy.exists():
                copy.write_bytes(data)
        if is_crlf:
            crlf.add(change.path)
    result = git_apply(patch.file, stage, *(["--reverse"] if reverse else []))
    for change in patch.changes:
        expected = change.before if reverse else change.after
        actual = blob_of(stage / change.path)
        if result.returncode != 0 or actual != expected:
            if shutil.disk_usage(stage).free < _NO_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(stage.parent))
            raise TreeError(
                f"{patch.name} did not give what it records for {change.path}: expected blob "
                f"{expected[:10]}, found {actual[:10]} {last_lines(result.stderr)}. The tree is as "
                f"it was. 'scripts/kit.sh validate' says which patches are sound."
            )
    return crlf


# A disk with less than this, in bytes, counts as full where `git apply` fails.
_NO_SPACE = 1 << 16


def git_apply(patch_file: Path, stage: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Has `git apply` patch the files of a temporary directory, whatever the exit status."""
    # The patches to upstream's tests come without context. Their place is sure
    # all the same: the blob ids are checked before and after.
    command = ["git", "apply", "--unidiff-zero", "--whitespace=nowarn", *options]
    # No git repository around the stage may have a say.
    env = {"GIT_CEILING_DIRECTORIES": str(stage.parent), "GIT_CONFIG_GLOBAL": os.devnull}
    return run([*command, "--", patch_file], cwd=stage, env=env)
