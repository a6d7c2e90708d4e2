"""Checks, applies and reverses patches in a tree: all of them, or nothing.

The state of a file is read off its content: its git blob id is the one before
the patch, the one after it, or neither. `git apply` does the patching, on
copies; the tree gets the finished files.
"""

import contextlib
import email.utils
import enum
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unidiff.patch import PatchedFile

from kit.errors import TreeError
from kit.processes import git, last_lines, run
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


def blob_of(path: Path) -> str:
    """Returns the blob id of a file, or `NO_BLOB` where there is none.

    Raises:
        TreeError: If it is there and cannot be read.
    """
    try:
        return blob_id(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return NO_BLOB
    except OSError as error:
        raise TreeError(
            f"{path} cannot be read ({error.strerror}). Expected a plain, readable file there."
        ) from None


def is_installed(tree: Path) -> bool:
    """Whether a tree is an installation (`site-packages`) rather than sources."""
    return any(any(tree.glob(f"{name}-*.dist-info")) for name in ("torch_geometric", "pyg_nightly"))


def identify(tree: Path, catalogue: Catalogue) -> list[Release]:
    """Returns the releases that a tree can be, by the content of its files.

    `VERSION_FILE` tells releases apart, save 2.3.0 from a git
    checkout of 2.3.1, whose tag still says 2.3.0. Where that file has been
    changed, the files that the patches touch decide.

    Raises:
        TreeError: If there is no PyG in it at all.
    """
    version_blob = blob_of(tree / VERSION_FILE)
    if version_blob == NO_BLOB:
        raise TreeError(
            f"{tree} holds no PyG: expected a directory with {VERSION_FILE} in it, "
            f"such as a checkout, an unpacked sdist, or site-packages."
        )
    exact = [r for r in catalogue.releases if version_blob in r.version_blobs]
    return exact or [r for r in catalogue.releases if _fits_by_files(tree, r)]


def _fits_by_files(tree: Path, release: Release) -> bool:
    changes = [c for patch in release.patches for c in patch.changes if c.before != NO_BLOB]
    library = [c for c in changes if c.path.startswith("torch_geometric/")]
    return bool(library) and all(
        blob_of(tree / change.path) in (change.before, change.after) for change in library
    )


def plan(tree: Path, patches: Sequence[Patch]) -> list[Step]:
    """Finds how each patch stands in a tree, and changes nothing.

    Raises:
        TreeError: If a file that a patch touches is neither as released nor as patched, or
            if some files of a patch are the one, and some the other.
    """
    installed = is_installed(tree)
    steps = []
    faults: list[str] = []
    for patch in patches:
        if installed and not patch.is_for_library:
            steps.append(Step(patch, State.LEFT_OUT, "an installed PyG has no tests"))
            continue
        blobs = [(change, blob_of(tree / change.path)) for change in patch.changes]
        strangers = [
            (change, blob) for change, blob in blobs if blob not in (change.before, change.after)
        ]
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
        raise TreeError(" ".join(faults))
    return steps


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
                found = lines[at].strip() if at < len(lines) else "the end of the file"
                return (
                    f"Hunk {number} of the patch expects '{line.strip()}' near line {at + 1}; "
                    f"found there: '{found}'."
                )
        return f"Hunk {number} of the patch does not fit near line {hunk.source_start}."
    return ""


def apply(tree: Path, steps: Sequence[Step], *, reverse: bool = False) -> list[Patch]:
    """Brings every patch of a plan to the wanted state, and returns those that were not in it.

    Files are patched as copies, checked against their recorded blob ids, and
    only then moved into place. Whatever goes wrong, an interruption included,
    the tree is left as it was.

    Args:
        tree: The tree that `plan` looked at.
        steps: What `plan` returned.
        reverse: Whether to take the patches out instead.

    Raises:
        TreeError: If the tree cannot be written, or `git apply` fails.
    """
    wanted = State.PATCHED if reverse else State.PRISTINE
    todo = [step.patch for step in steps if step.state is wanted]
    if not todo:
        return []
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        stage = Path(name)
        for patch in todo:
            _patch_copies(tree, stage, patch, reverse)
        try:
            _move_into_place(tree, stage, [c for patch in todo for c in patch.changes])
        except OSError as error:
            raise TreeError(
                f"{error.filename or tree} cannot be written ({error.strerror}). The tree is as it "
                f"was. Check its permissions and the space on its disk."
            ) from None
    return todo


def _patch_copies(tree: Path, stage: Path, patch: Patch, reverse: bool) -> None:
    for change in patch.changes:
        copy = stage / change.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (tree / change.path).exists() and not copy.exists():
            shutil.copyfile(tree / change.path, copy)
    result = git_apply(patch.file, stage, *(["--reverse"] if reverse else []))
    for change in patch.changes:
        expected = change.before if reverse else change.after
        found = blob_of(stage / change.path)
        if result.returncode != 0 or found != expected:
            raise TreeError(
                f"{patch.name} did not give what it records for {change.path}: expected blob "
                f"{expected[:10]}, found {found[:10]} {last_lines(result.stderr)}. The tree is as "
                f"it was. 'scripts/kit.sh validate' says which patches are sound."
            )


def git_apply(patch_file: Path, stage: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Has `git apply` patch the files of a temporary directory, whatever the exit status."""
    # The patches to upstream's tests come without context. Their place is sure
    # all the same: the blob ids are checked before and after.
    command = ["git", "apply", "--unidiff-zero", "--whitespace=nowarn", *options]
    # No git repository around the stage may have a say.
    env = {"GIT_CEILING_DIRECTORIES": str(stage.parent), "GIT_CONFIG_GLOBAL": os.devnull}
    return run([*command, patch_file], cwd=stage, env=env)


def _move_into_place(tree: Path, stage: Path, changes: Sequence[Change]) -> None:
    # A link is followed: what it points to is the file in use.
    write_all(
        {
            (tree / change.path).resolve(): (
                (stage / change.path).read_bytes() if (stage / change.path).exists() else None
            )
            for change in changes
        },
        tree.resolve(),
    )


def write_all(files: Mapping[Path, bytes | None], top: Path) -> None:
    """Writes all of some files, or none: a failure or an interruption undoes what was done.

    Args:
        files: The new content of each; None removes it, and what directories that empties.
        top: The directory below which they lie. It stays.

    Raises:
        OSError: If one cannot be written.
    """
    before = {path: path.read_bytes() if path.exists() else None for path in files}
    made: list[Path] = []
    try:
        for path, data in files.items():
            if data is not None:
                made += _make_directories(path.parent)
                replace(path, data)
            elif path.exists():
                path.unlink()
                _remove_empty_directories(path.parent, top)
    except BaseException:
        for path, data in before.items():
            if data is None:
                # Not `missing_ok`: a file in the place of its directory is another error.
                if path.exists():
                    path.unlink()
            elif not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace(path, data)
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


def replace(target: Path, data: bytes) -> None:
    """Writes a file in one step, so that nobody ever sees half of it; its mode stays."""
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


def _make_directories(directory: Path) -> list[Path]:
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _remove_empty_directories(directory: Path, top: Path) -> None:
    for candidate in _up_to(directory, top):
        try:
            candidate.rmdir()
        except OSError:
            return


def _up_to(directory: Path, top: Path) -> Iterator[Path]:
    while directory != top and top in directory.parents:
        yield directory
        directory = directory.parent


def commit(tree: Path, patches: Sequence[Patch], *, reverse: bool = False) -> None:
    """Commits applied (or reversed) patches in a repository of the kit's, one commit each."""
    if not patches:
        return
    # By one `git fast-import`, since `git commit` reads the whole tree, each time.
    identity = "pyg-threadsafe <maintainers@pyg-threadsafe.example>"
    now = email.utils.formatdate(localtime=True)
    head = git("rev-parse", "HEAD", cwd=tree).strip()
    stream = bytearray()
    for number, patch in enumerate(reversed(patches) if reverse else patches):
        author, date = (identity, now) if reverse else (patch.author, patch.date)
        message = f"{patch.subject}\n\n{patch.body}\n"
        if reverse:
            message = f'Revert "{patch.subject}"\n\nThis takes {patch.name} out again.\n'
        text = message.encode()
        stream += f"commit {_NEW}\nauthor {author} {date}\ncommitter {identity} {now}\n".encode()
        stream += b"data %d\n%b" % (len(text), text)
        stream += f"from {head}\n".encode() if number == 0 else b""
        for change in patch.changes:
            file = tree / change.path
            if not file.exists():
                stream += f"D {change.path}\n".encode()
                continue
            data = file.read_bytes()
            mode = "100755" if os.access(file, os.X_OK) else "100644"
            stream += f"M {mode} inline {change.path}\ndata {len(data)}\n".encode() + data + b"\n"
    options = ["--quiet", "--force", "--date-format=rfc2822"]
    git("fast-import", *options, cwd=tree, stdin=stream.decode())
    paths = [change.path for patch in patches for change in patch.changes]
    git("update-ref", "HEAD", _NEW, cwd=tree)
    git("update-ref", "-d", _NEW, cwd=tree)
    # What else the user has staged stays staged.
    git("reset", "--quiet", "--", *paths, cwd=tree)


# Where new commits grow until all of them are there.
_NEW = "refs/pyg-threadsafe/new"
