"""Git in a clone of PyG, as the user: with their name and their settings."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kit import places, sources
from kit.errors import SourceError, ToolError, TreeError, UsageError
from kit.processes import last_lines, run
from kit.releases import Release

REPOSITORY = "pyg-team/pytorch_geometric"
MAIN = "master"

# Where branches are made, unless the user names a repository, and what goes with each.
BUILD = places.build_folder() / "upstream"


def git(*arguments: str | Path, cwd: Path, stdin: str | None = None) -> str:
    """Runs git, and returns its output.

    Raises:
        ToolError: If it fails.
    """
    result = run(["git", "-c", f"core.hooksPath={os.devnull}", *arguments], cwd=cwd, stdin=stdin)
    if result.returncode == 0:
        return result.stdout
    said = last_lines(result.stderr)
    if "tell me who you are" in result.stderr or "empty ident" in result.stderr:
        raise ToolError(
            "Git does not know who you are, and the commit is to be yours: set "
            "'git config --global user.name' and 'user.email', and call this again."
        )
    raise ToolError(
        f"'git {arguments[0]}' failed in {cwd}: {said} The branches of the repository are as they "
        f"were."
    )


def resolve(repository: Path, ref: str) -> str:
    """Returns the commit that a name stands for; "" where there is none."""
    result = run(["git", "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], cwd=repository)
    return result.stdout.strip()


def changed(repository: Path, base: str, head: str) -> list[str]:
    """Returns the files that differ between two commits."""
    return git("diff", "--name-only", base, head, cwd=repository).splitlines()


@contextlib.contextmanager
def worktree(repository: Path, commit: str) -> Iterator[Path]:
    """Checks a commit out beside a repository, whose own work tree is left alone."""
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        tree = Path(name) / "tree"
        git("worktree", "add", "--quiet", "--detach", tree, commit, cwd=repository)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", tree, cwd=repository)


def find(repo: Path | None, source: sources.Source) -> Path:
    """Returns the user's clone, or one of the kit's own, which is made where there is none.

    Raises:
        TreeError: If what the user named is no repository.
        SourceError: If upstream's cannot be cloned.
    """
    if repo is not None:
        result = run(["git", "rev-parse", "--git-dir"], cwd=repo) if repo.is_dir() else None
        if result is None or result.returncode != 0:
            raise TreeError(
                f"{repo} is no git repository. Expected a clone of PyG; without --repo, one is "
                "made in build/upstream."
            )
        return repo.absolute()
    clone = BUILD / "pytorch_geometric"
    if clone.exists():
        return clone
    source.notify(f"Cloning {source.git_url} (minutes) ...")
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".clone-", dir=BUILD) as name:
        made = Path(name) / "clone"
        # Blobs come when they are asked for: the history of PyG is long.
        command = ["git", "clone", "--quiet", "--filter=blob:none", "--single-branch"]
        result = run([*command, "--", source.git_url, made], env=sources.GIT_REMOTE)
        if result.returncode != 0:
            raise SourceError(
                f"{source.git_url} could not be cloned: {last_lines(result.stderr)} Check the "
                f"address and the network, or name a clone of yours: --repo DIR."
            )
        made.rename(clone)
    return clone


def _fetch(repository: Path, source: sources.Source, ref: str) -> str:
    source.notify(f"Fetching {ref} from {source.git_url} ...")
    command = ["git", "fetch", "--quiet", "--no-tags", "--", source.git_url, ref]
    result = run(command, cwd=repository, env=sources.GIT_REMOTE)
    if result.returncode != 0:
        raise SourceError(
            f"{ref} could not be fetched from {source.git_url}: {last_lines(result.stderr)} Check "
            f"the address and the network, or name a commit that {repository} has: --base REF."
        )
    return resolve(repository, "FETCH_HEAD")


def find_base(
    repository: Path, ref: str | None, release: Release | None, source: sources.Source
) -> str:
    """Returns the commit that a branch starts from.

    Args:
        repository: The clone.
        ref: What the user named.
        release: The release that is patched; None for upstream's main branch.
        source: Where to fetch what the clone lacks.

    Raises:
        UsageError: If there is no such commit, or none is pinned.
        SourceError: If it cannot be fetched.
    """
    if ref is not None:
        commit = resolve(repository, ref)
        if not commit:
            raise UsageError(
                f"{repository} has no commit '{ref}'. Name a branch, a tag or a commit that "
                f"'git rev-parse' knows there."
            )
        return commit
    if release is None:
        return _fetch(repository, source, "HEAD")
    if release.commit is None:
        raise UsageError(
            f"No commit is pinned for PyG {release.version}. Name the one to start from: "
            f"--base REF."
        )
    return resolve(repository, release.commit) or _fetch(repository, source, release.commit)
