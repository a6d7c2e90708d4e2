"""The git repositories that the kit makes: a pristine release, then one commit a patch."""

import contextlib
import email.utils
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import interrupts, patching, sources, transactions
from kit.errors import TreeError
from kit.processes import ALONE, git, run
from kit.releases import NO_BLOB, Patch, Release

# It was the kit's when it was made; its settings can have been changed since.
_git = functools.partial(git, env=ALONE)


@dataclass(frozen=True)
class Checkout:
    """A repository of the kit's.

    Attributes:
        path: Where it lies.
        release: The version it holds.
        source: `git` or `sdist`.
    """

    path: Path
    release: str
    source: str


def find(path: Path) -> Checkout | None:
    """Returns the kit's repository at a path, or None where the path is free.

    Raises:
        TreeError: If something else is there.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if path.stat().st_uid != os.geteuid():
        raise TreeError(
            f"{path} belongs to user {path.stat().st_uid}, and you are user {os.geteuid()}: git "
            f"would not trust its settings. Call this as that user, or name another place with "
            f"--dest DIR."
        )
    if (path / ".git").is_dir():
        command = ["git", "config", "--local", "--get-regexp", r"^pyg-threadsafe\."]
        output = run(command, cwd=path).stdout
        config = dict(line.split(" ", 1) for line in output.splitlines())
        if "pyg-threadsafe.release" in config:
            return Checkout(
                path, config["pyg-threadsafe.release"], config.get("pyg-threadsafe.source", "")
            )
    raise TreeError(
        f"{path} is not empty, and the kit did not make it. Name another place with --dest DIR, or "
        f"patch what is there with --tree {path}."
    )


def require(path: Path, release: Release, source: sources.Source) -> Checkout | None:
    """Like `find`, but the repository must be of a release, and from the source asked for.

    Raises:
        TreeError: If it is not.
    """
    checkout = find(path)
    if checkout is None:
        return None
    if checkout.release != release.version:
        raise TreeError(
            f"{path} holds PyG {checkout.release}, not {release.version}. Name another place with "
            f"--dest DIR, or remove it first."
        )
    if source.kind is not sources.Kind.AUTO and checkout.source != source.kind.value:
        raise TreeError(
            f"{path} was made with --source {checkout.source}, not {source.kind.value}. Name "
            f"another place with --dest DIR, or remove it first."
        )
    return checkout


def update(path: Path, steps: Sequence[patching.Step], *, reverse: bool) -> None:
    """Applies or reverses patches in a repository of the kit's, and commits them, or does nothing.

    Call it with the lock of the tree held.

    Raises:
        TreeError: If the tree cannot be written.
        ToolError: If git cannot commit.
    """
    todo = patching.to_do(steps, reverse=reverse)
    if not todo:
        return
    files = patching.contents(path, todo, reverse=reverse)
    before = _git("rev-parse", "HEAD", cwd=path).strip()
    after = _make_commits(path, todo, files, reverse=reverse)
    paths = [change.path for patch in todo for change in patch.changes]
    note = {"before": before, "after": after, "paths": "\n".join(paths)}
    transactions.write(files, path, settle=settler(path), note=note)


def settler(path: Path) -> transactions.Settle:
    """Returns what moves the branch of a repository along with its files, or back."""

    def settle(note: Mapping[str, str], done: bool) -> None:
        if not {"before", "after", "paths"} <= set(note):
            return
        start, end = (note["before"], note["after"]) if done else (note["after"], note["before"])
        head = _git("rev-parse", "HEAD", cwd=path).strip()
        if head == start:
            _git("update-ref", "HEAD", end, start, cwd=path)
        elif head != end:
            return
        # What else the user has staged stays staged. By ids: nothing reads the work tree, so
        # that no filter of the repository's own is run.
        lines = []
        for name in note["paths"].split("\n"):
            entry = _git("ls-tree", end, "--", name, cwd=path).strip()
            mode, blob = (entry.split()[0], entry.split()[2]) if entry else ("0", NO_BLOB)
            lines.append(f"{mode} {blob}\t{name}\n")
        # git reads a file that is as young as the index all the same, through the filters. With
        # an index that is younger than all of them, it does not.
        index = path / _git("rev-parse", "--git-path", "index", cwd=path).strip()
        later = time.time() + 60
        if index.exists():
            os.utime(index, (later, later))
        _git("update-index", "--index-info", cwd=path, stdin="".join(lines))
        _git("update-ref", "-d", _NEW, cwd=path)

    return settle


# Where new commits grow until all of them are there.
_NEW = "refs/pyg-threadsafe/new"


def _make_commits(
    tree: Path,
    patches: Sequence[Patch],
    files: Mapping[Path, transactions.Wanted],
    *,
    reverse: bool = False,
) -> str:
    """Makes a commit for each applied (or reversed) patch, and returns the last one's id."""
    # By one `git fast-import`, since `git commit` reads the whole tree, each time.
    identity = "pyg-threadsafe <maintainers@pyg-threadsafe.example>"
    now = email.utils.formatdate(localtime=True)
    head = _git("rev-parse", "HEAD", cwd=tree).strip()
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
            data = files[file].data
            if data is None:
                stream += f"D {change.path}\n".encode()
                continue
            mode = "100755" if os.access(file, os.X_OK) else "100644"
            stream += f"M {mode} inline {change.path}\ndata {len(data)}\n".encode() + data + b"\n"
    options = ["--quiet", "--force", "--date-format=rfc2822"]
    _git("fast-import", *options, cwd=tree, stdin=stream.decode())
    return _git("rev-parse", _NEW, cwd=tree).strip()


def create(
    path: Path, release: Release, patches: Sequence[Patch], source: sources.Source
) -> tuple[str, list[patching.Step]]:
    """Makes a repository of a release and its patches, whole or not at all.

    Returns:
        Where the release came from, in words, and how each patch stood in it.

    Raises:
        SourceError: If the release cannot be downloaded.
        TreeError: If the place cannot be written.
    """
    path = path.absolute()
    prefix = f".{path.name}.pyg-threadsafe-"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path.parent, prefix)
        directory = tempfile.mkdtemp(prefix=prefix, dir=path.parent)
    except OSError as error:
        raise TreeError(
            f"{error.filename or path} cannot be made ({error.strerror}). Name another place with "
            f"--dest DIR."
        ) from None
    try:
        with transactions.locked(Path(directory)):
            tree = Path(directory) / "tree"
            origin = sources.materialize(release, source, tree)
            steps = patching.plan(tree, patches)
            update(tree, steps, reverse=False)
            with interrupts.deferred():
                try:
                    # Fails where another run has put one there in the meantime.
                    tree.rename(path)
                except OSError as error:
                    raise TreeError(
                        f"{path} cannot be put in place ({error.strerror}). Is another run making "
                        f"it? Call this again once it is done."
                    ) from None
                interrupts.ignore()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return origin, steps


def _remove_left(parent: Path, prefix: str) -> None:
    """Removes what runs that were killed have left: whose lock nobody holds."""
    for left in parent.iterdir():
        if not left.name.startswith(prefix) or not left.is_dir():
            continue
        with contextlib.suppress(TreeError, OSError), transactions.locked(left, timeout=0):
            # One that has just been made is not locked yet.
            if any(left.iterdir()) or time.time() - left.stat().st_mtime > _JUST_MADE:
                shutil.rmtree(left, ignore_errors=True)


# In seconds.
_JUST_MADE = 10.0
