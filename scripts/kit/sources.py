"""Gets a pristine release: from upstream's git repository, or from PyPI."""

import contextlib
import enum
import functools
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock
from packaging.version import Version

from kit.archives import unpack
from kit.errors import SourceError, ToolError, UsageError
from kit.processes import git, last_lines, pip, run
from kit.releases import Release

UPSTREAM = "https://github.com/pyg-team/pytorch_geometric.git"

# How long `auto` waits for the git remote to answer, in seconds.
ANSWER_TIMEOUT = 5.0

# A shallow fetch of one commit is about 10 MB. In seconds.
FETCH_TIMEOUT = 600.0


class Kind(enum.Enum):
    """Where a pristine tree comes from."""

    AUTO = "auto"
    SDIST = "sdist"
    GIT = "git"


@dataclass(frozen=True)
class Source:
    """Where to get releases from, and how.

    Attributes:
        kind: Where from.
        git_url: The repository for `Kind.GIT`.
        offline: Whether to use the cache alone.
        cache: The download cache. Two runs may use it at once.
        notify: Is told what takes longer.
    """

    kind: Kind
    git_url: str
    offline: bool
    cache: Path
    notify: Callable[[str], None]


def default_cache() -> Path:
    """Returns the download cache: `PYG_THREADSAFE_CACHE`, or the platform's place for caches."""
    named = os.environ.get("PYG_THREADSAFE_CACHE")
    # Absolute: git and pip run in other directories.
    return Path(named).absolute() if named else platformdirs.user_cache_path("pyg-threadsafe")


def check_url(url: str) -> str:
    """Returns the address of a git repository, if that is all it is.

    Raises:
        UsageError: If git would take it for an option, or for a program to run.
    """
    if not url or url.startswith("-") or re.match(r"[A-Za-z0-9][A-Za-z0-9+.-]*::", url):
        raise UsageError(
            f"--git-url '{url}' is no address of a git repository. Expected one such as "
            f"{UPSTREAM}, or a path; what begins with a dash, and transports that run programs "
            f"('ext::'), are refused."
        )
    # Absolute: git runs in other directories.
    return str(Path(url).absolute()) if "://" not in url and Path(url).is_dir() else url


def materialize(release: Release, source: Source, dest: Path) -> str:
    """Makes a git repository whose one commit, tagged `pristine`, is a release.

    Args:
        release: The release.
        source: Where to get it from.
        dest: The directory to make. It must not exist.

    Returns:
        Where it came from, in words.

    Raises:
        SourceError: If it cannot be downloaded, or is not what its pin says.
    """
    kind = source.kind if source.kind is not Kind.AUTO else _choose(release, source)
    branch = f"init.defaultBranch=pyg-{release.version}"
    git("-c", branch, "init", "--quiet", "--template=", dest, cwd=dest.parent)
    if kind is Kind.GIT:
        repository = _cached_commit(release, source)
        git("fetch", "--quiet", "--depth=1", repository.as_uri(), "refs/heads/pinned", cwd=dest)
        git("-c", "checkout.workers=0", "reset", "--quiet", "--hard", "FETCH_HEAD", cwd=dest)
        origin = f"upstream's git repository, commit {repository.stem[:12]}, as pinned"
    else:
        unpack(archive(release, source), dest)
        # As one pack, instead of a file for each file.
        git("-c", "core.bigFileThreshold=1", "add", "--all", "--force", cwd=dest)
        message = f"PyG {release.version}, as on PyPI ({release.archive})"
        git("commit", "--quiet", f"--message={message}", cwd=dest)
        origin = f"PyPI, {release.archive}, sha256 {release.sha256[:12]}, as pinned"
    git("tag", "pristine", cwd=dest)
    git("config", "pyg-threadsafe.release", release.version, cwd=dest)
    git("config", "pyg-threadsafe.source", kind.value, cwd=dest)
    return origin


def extract(release: Release, source: Source, paths: Collection[str], dest: Path) -> None:
    """Writes some files of a pristine release below a directory, those of them that it has.

    Raises:
        SourceError: If the release cannot be downloaded, or is not what its pin says.
    """
    kind = source.kind if source.kind is not Kind.AUTO else _choose(release, source)
    if kind is Kind.GIT:
        extract_commit(release, source, paths, dest)
    else:
        unpack(archive(release, source), dest, paths)


def extract_commit(release: Release, source: Source, paths: Collection[str], dest: Path) -> None:
    """Like `extract`, from git."""
    repository = _cached_commit(release, source)
    for path in git("ls-tree", "-r", "--name-only", "pinned", *paths, cwd=repository).split():
        file = dest / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(git("cat-file", "blob", f"pinned:{path}", cwd=repository), newline="")


def find_tag(version: str, source: Source) -> tuple[str | None, str | None]:
    """Looks a release up in the git repository: its tag, and the commit that this points to.

    A nightly build has none. The tag of a post-release may be that of its base.
    """
    parsed = Version(version)
    if parsed.is_devrelease:
        return None, None
    for tag in dict.fromkeys((version, parsed.base_version)):
        refs = [f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"]
        try:
            command = ["git", "ls-remote", "--", source.git_url, *refs]
            lines = run(command, env=GIT_REMOTE, timeout=FETCH_TIMEOUT).stdout.splitlines()
        except subprocess.TimeoutExpired:
            return version, None
        # An annotated tag is an object of its own; the second line is its commit.
        if lines:
            return tag, lines[-1].split()[0]
    return version, None


def _choose(release: Release, source: Source) -> Kind:
    """What is in the cache, git first; else git where it answers within seconds; else PyPI."""
    if release.commit and _commit_path(release, source.cache).exists():
        return Kind.GIT
    if source.offline or (source.cache / "archives" / release.archive).exists():
        return Kind.SDIST
    if release.commit and _answers(source):
        return Kind.GIT
    return Kind.SDIST


@functools.cache
def _answers(source: Source) -> bool:
    source.notify(f"Asking {source.git_url} ...")
    try:
        command = ["git", "ls-remote", "--exit-code", "--", source.git_url, "HEAD"]
        return run(command, env=GIT_REMOTE, timeout=ANSWER_TIMEOUT).returncode == 0
    except subprocess.TimeoutExpired:
        return False


# Nothing may ask for a password. The user's own settings (proxy, credentials,
# certificates) count here, unlike in a tree of the kit's own.
# Transports that run programs stay off, whatever the settings or a redirection say.
GIT_REMOTE = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
}


@contextlib.contextmanager
def _locked(path: Path, what: str, source: Source) -> Iterator[None]:
    """Holds the lock of a cache entry, which two runs may want at once."""
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            source.notify(f"Waiting for another run that gets {what} ...")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        raise SourceError(
            f"The download cache {source.cache} cannot be written ({error.strerror}). Expected a "
            f"directory of yours, on a disk with space; PYG_THREADSAFE_CACHE=DIR names another one."
        ) from None


def _commit_path(release: Release, cache: Path) -> Path:
    return cache / "git" / f"{release.commit}.git"


def _cached_commit(release: Release, source: Source) -> Path:
    """Returns a bare repository in the cache whose branch `pinned` is the release's commit."""
    if release.commit is None:
        raise SourceError(
            f"No commit is pinned for PyG {release.version}, so there is nothing to check a git "
            f"checkout against. Use its sdist: --source sdist."
        )
    path = _commit_path(release, source.cache)
    with _locked(path, f"commit {release.commit[:10]}", source):
        _check_owner(path)
        if path.exists():
            if _is_sound(path, release.commit):
                return path
            if source.offline:
                raise SourceError(
                    f"{path} is not what was fetched: expected commit {release.commit}, whole and "
                    f"with nothing else. Call this once without --offline to replace it."
                )
            shutil.rmtree(path)
        if source.offline:
            raise SourceError(
                f"--offline was given, and the cache {source.cache} does not hold commit "
                f"{release.commit[:10]} of PyG {release.version}. Call this once without --offline."
            )
        with _partial(path) as name:
            partial = Path(name) / "repository.git"
            git("init", "--quiet", "--template=", "--bare", partial, cwd=path.parent)
            _fetch(release, source, partial)
            git("update-ref", "refs/heads/pinned", release.commit, cwd=partial)
            partial.rename(path)
    return path


# All that git needs to know of a bare repository. What else one says is not read.
_BARE = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"


def _is_sound(repository: Path, commit: str) -> bool:
    """Whether a repository in the cache is as it was fetched; its settings are made so."""
    try:
        (repository / "config").write_text(_BARE, encoding="utf-8")
        for name in ("hooks", "info", "objects/info/alternates", "objects/info/http-alternates"):
            if (repository / name).is_dir() and not (repository / name).is_symlink():
                shutil.rmtree(repository / name)
            else:
                (repository / name).unlink(missing_ok=True)
        pinned = git("rev-parse", "--verify", "refs/heads/pinned", cwd=repository).strip()
        if pinned != commit:
            return False
        # Each object is hashed anew, and none is missing.
        git("fsck", "--full", "--no-dangling", "--no-progress", commit, cwd=repository)
    except (OSError, ToolError):
        return False
    return True


def _check_owner(path: Path) -> None:
    """Refuses what another user has put into the cache, as git would, by name."""
    if path.exists() and path.stat().st_uid != os.geteuid():
        raise SourceError(
            f"{path} belongs to user {path.stat().st_uid}, and you are user {os.geteuid()}: "
            f"another user could change it while it is used. PYG_THREADSAFE_CACHE=DIR names a "
            f"cache of yours."
        )


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[str]:
    """A folder for what is being got for a cache entry; call it with the lock of the entry held."""
    prefix = f"{path.name}.partial-"
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as name:
        yield name


def _fetch(release: Release, source: Source, repository: Path) -> None:
    source.notify(f"Fetching PyG {release.version} from {source.git_url} ...")
    assert release.commit is not None

    def fetch(ref: str) -> "subprocess.CompletedProcess[str]":
        command = ["git", "fetch", "--quiet", "--no-tags", "--depth=1", "--"]
        command += [source.git_url, ref]
        try:
            return run(command, cwd=repository, env=GIT_REMOTE, timeout=FETCH_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise SourceError(
                f"{source.git_url} did not send PyG {release.version} within "
                f"{FETCH_TIMEOUT:.0f} s. Try again, or use the sdist: --source sdist."
            ) from None

    result = fetch(release.commit)
    if result.returncode == 0:
        return
    # Not every server hands out a commit by its id; its tag does as well, as
    # long as it still points to the pinned commit.
    if release.tag and fetch(f"refs/tags/{release.tag}").returncode == 0:
        actual = git("rev-parse", "FETCH_HEAD^{commit}", cwd=repository).strip()
        if actual == release.commit:
            return
        raise SourceError(
            f"The tag {release.tag} of {source.git_url} is not the pinned commit: expected "
            f"{release.commit}, found {actual}. Use upstream's repository, or --source sdist."
        )
    raise SourceError(
        f"PyG {release.version} could not be fetched from {source.git_url}: expected commit "
        f"{release.commit}; git said: {last_lines(result.stderr)} Check the address and the "
        f"network, or use the sdist: --source sdist."
    )


def archive(release: Release, source: Source) -> Path:
    """Returns the release's archive in the cache, checked against its pin.

    Raises:
        SourceError: If it cannot be downloaded, or is not what its pin says.
    """
    path = source.cache / "archives" / release.archive
    with _locked(path, release.archive, source):
        if path.exists():
            if path.is_file() and sha256(path) == release.sha256:
                return path
            # Only a finished download is ever moved here: the disk, or somebody,
            # has changed it since.
            if source.offline:
                raise SourceError(
                    f"{path} is not what its pin says: expected sha256 {release.sha256}, found "
                    f"{sha256(path) if path.is_file() else 'a directory'}. Call this once without "
                    f"--offline to replace it."
                )
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if source.offline:
            raise SourceError(
                f"--offline was given, and the cache {source.cache} does not hold "
                f"{release.archive}. Call this once without --offline."
            )
        with _partial(path) as name:
            downloaded = _download(release, source, Path(name))
            actual = sha256(downloaded)
            if actual != release.sha256:
                raise _hash_mismatch(release, f"found {actual}")
            downloaded.rename(path)
    return path


def _download(release: Release, source: Source, directory: Path) -> Path:
    """Has pip download an archive; it checks the hash before it runs anything of an sdist's."""
    source.notify(f"Downloading {release.archive} from PyPI ...")
    form = "--only-binary=:all:" if release.archive.endswith(".whl") else "--no-binary=:all:"
    requirement = f"{release.project}=={release.version} --hash=sha256:{release.sha256}"
    result = _pip_download(f"{requirement}\n", directory, form, "--require-hashes")
    path = directory / release.archive
    if "DO NOT MATCH THE HASHES" in result.stderr:
        got = [line.split()[-1] for line in result.stderr.splitlines() if "Got" in line]
        raise _hash_mismatch(release, f"found {got[0]}" if got else "found another")
    if not path.exists():
        raise _not_downloaded(release.archive, result)
    return path


def download_new(project: str, version: str, source: Source, directory: Path) -> Path:
    """Downloads an archive that is not pinned yet: the sdist, or the wheel where there is none.

    Raises:
        SourceError: If PyPI does not have it.
    """
    source.notify(f"Downloading {project} {version} from PyPI ...")
    for form in ("--no-binary=:all:", "--only-binary=:all:"):
        result = _pip_download(f"{project}=={version}\n", directory, form)
        archives = [*directory.glob("*.tar.gz"), *directory.glob("*.whl")]
        if archives:
            return archives[0]
    raise _not_downloaded(f"{project} {version}", result)


def _pip_download(
    requirement: str, directory: Path, *options: str
) -> "subprocess.CompletedProcess[str]":
    """Runs pip, which knows the user's index, proxy and certificates."""
    requirements = directory / "requirements.txt"
    requirements.write_text(requirement, encoding="utf-8")
    command = [*pip(sys.executable), "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--ignore-requires-python", "--retries=2", *options]
    command += ["--requirement", requirements, "--dest", directory]
    try:
        return run(command, env={"PIP_NO_CACHE_DIR": "1"}, timeout=FETCH_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise SourceError(
            f"PyPI, or the mirror that pip uses, did not send {requirement.split()[0]} within "
            f"{FETCH_TIMEOUT:.0f} s. Check the network, and try again."
        ) from None


def _not_downloaded(what: str, result: "subprocess.CompletedProcess[str]") -> SourceError:
    lines = result.stderr.splitlines()
    said = next((line for line in reversed(lines) if line.startswith("ERROR")), "nothing")
    return SourceError(
        f"{what} could not be downloaded from PyPI. pip said: {said[:200]} Check the network, and "
        f"'pip config list' for an index, a proxy or a mirror without it; or use --source git."
    )


def _hash_mismatch(release: Release, actual: str) -> SourceError:
    return SourceError(
        f"{release.archive} is not what its pin says: expected sha256 {release.sha256}, {actual}. "
        f"It was not unpacked. If pip uses a mirror, ask its keeper; otherwise please report this."
    )


def sha256(path: Path) -> str:
    """Returns the sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
