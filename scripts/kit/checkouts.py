"""The git repositories that the kit makes: a pristine release, then one commit a patch."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import patching, sources
from kit.errors import TreeError
from kit.processes import git, run
from kit.releases import Patch, Release


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

    Raises:
        TreeError: If the tree cannot be written.
        ToolError: If git cannot commit.
    """
    head = git("rev-parse", "HEAD", cwd=path).strip()
    done = patching.apply(path, steps, reverse=reverse)
    try:
        patching.commit(path, done, reverse=reverse)
    except BaseException:
        patching.apply(path, patching.plan(path, done), reverse=not reverse)
        # Not --hard: what else is in the tree is the user's.
        git("reset", "--quiet", "--soft", head, cwd=path)
        paths = [change.path for patch in done for change in patch.changes]
        git("reset", "--quiet", head, "--", *paths, cwd=path)
        raise


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        directory = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise TreeError(
            f"{error.filename} cannot be made ({error.strerror}). Name another place with --dest "
            f"DIR."
        ) from None
    try:
        tree = Path(directory) / "tree"
        origin = sources.materialize(release, source, tree)
        steps = patching.plan(tree, patches)
        patching.commit(tree, patching.apply(tree, steps))
        try:
            # Fails where another run has put one there in the meantime.
            tree.rename(path)
        except OSError as error:
            raise TreeError(
                f"{path} cannot be put in place ({error.strerror}). Is another run making it? Call "
                f"this again once it is done."
            ) from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return origin, steps
