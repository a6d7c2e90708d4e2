"""Builds wheels of the compiled extensions that PyG uses, and keeps them in the cache."""

import functools
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from packaging.specifiers import SpecifierSet

from kit import environments, places
from kit.building import machine, prebuilt
from kit.building.cuda import Target, check_cuda_wheel, variables
from kit.errors import SourceError, ToolError, UsageError
from kit.processes import pip, run_logged
from kit.releases import ROOT, read_toml

PINS = Path(__file__).with_name("extensions.toml")

# Is told the package, what it is doing, and whether that is its last word.
Progress = Callable[[str, str, bool], None]


@dataclass(frozen=True)
class Extension:
    """A pinned extension; `extensions.toml` explains the fields."""

    name: str
    version: str
    torch: str
    archive: str | None = None
    sha256: str | None = None
    git: str | None = None
    commit: str | None = None

    @property
    def label(self) -> str:
        """Its name and version, for people."""
        return f"{self.name} {self.version}"

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return self.name.replace("-", "_")


def pinned() -> dict[str, list[Extension]]:
    """Reads `extensions.toml`: versions by extension, the newest and the longest build first."""
    versions: dict[str, list[Extension]] = {}
    for record in read_toml(PINS)["extension"]:
        versions.setdefault(record["name"], []).append(Extension(**record))
    return versions


def select(names: Sequence[str]) -> list[Extension]:
    """Returns what a command line names, in the newest version: `all` for those on PyPI, `none`.

    Raises:
        UsageError: If a name is unknown.
    """
    known = {name: versions[0] for name, versions in pinned().items()}
    chosen: set[str] = set()
    for name in names:
        if name not in (*known, "all", "none"):
            raise UsageError(
                f"There is no extension '{name}'. Expected some of: {', '.join(known)}; or 'all' "
                f"(those that PyPI has), or 'none'."
            )
        chosen |= {e.name for e in known.values() if e.archive} if name == "all" else {name}
    return [extension for extension in known.values() if extension.name in chosen]


def fit(extensions: Sequence[Extension], torch: str) -> list[Extension]:
    """Returns the newest pinned versions of extensions that build with a version of torch.

    Raises:
        UsageError: If an extension has none.
    """
    versions = pinned()
    fitting = []
    for extension in extensions:
        known = versions[extension.name]
        fits = [e for e in known if SpecifierSet(e.torch).contains(torch, prereleases=True)]
        if not fits:
            oldest = known[-1]
            raise UsageError(
                f"{oldest.label}, the oldest version of it that is pinned, does not fit torch "
                f"{torch}: it needs torch {oldest.torch}. Name another torch with --torch, or "
                f"leave it out with --extensions."
            )
        fitting.append(fits[0])
    return fitting


def build_extensions(
    extensions: Sequence[Extension],
    target: Target,
    cache: Path,
    progress: Progress,
    *,
    offline: bool = False,
    find_links: str | None = None,
) -> list[Path]:
    """Returns the wheels of extensions from the cache, building those that it lacks, side by side.

    Args:
        extensions: Which.
        target: What for.
        cache: The download cache, which holds wheels too.
        progress: Is told how it goes.
        offline: Whether to use the cache alone.
        find_links: A wheel index or directory. Wheels from there are used where they fit.

    Raises:
        ToolError: If this machine lacks what a build needs, or one fails.
        SourceError: If one is to be built offline.
        ProofError: If a CUDA build does not hold what was asked for.
    """
    ready, unfit = _prebuilt(extensions, target, cache, progress, find_links, offline=offline)
    folders = {e.name: _folder(cache, e, target) for e in extensions if e.name not in ready}
    missing = [e for e in extensions if e.name in folders and not cached(folders[e.name])]
    for extension in extensions:
        if extension.name in folders and extension not in missing:
            reason = unfit.get(extension.name, "")
            progress(extension.label, f"from the cache{reason}", True)
    if missing and offline:
        raise SourceError(
            f"--offline was given, and the cache {cache} holds no wheel of {missing[0].label} "
            f"for {target.key}. Call this once without --offline."
        )
    if missing:
        jobs = machine.check(target, cache)
        for extension in missing:
            progress(extension.label, "waiting", False)
        tasks = [
            functools.partial(
                _build_one, e, target, folders[e.name], unfit.get(e.name, ""), progress
            )
            for e in missing
        ]
        _side_by_side(tasks, jobs)
    for name, folder in folders.items():
        wheel = cached(folder)
        assert wheel is not None
        ready[name] = wheel
    return [ready[extension.name] for extension in extensions]


def _prebuilt(
    extensions: Sequence[Extension],
    target: Target,
    cache: Path,
    progress: Progress,
    location: str | None,
    *,
    offline: bool,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Takes what fits from a location: the wheels by extension; and why there is none, in words."""
    ready: dict[str, Path] = {}
    unfit: dict[str, str] = {}
    if not location or not extensions:
        return ready, unfit
    location = prebuilt.check_location(location, offline=offline)
    machine.check_packages(target.interpreter, ("pip",))
    for extension in extensions:
        progress(extension.label, f"looking in {location}", False)
        folder = _folder(cache, extension, target).parent
        try:
            wheel = prebuilt.find(extension.name, extension.version, target, location, folder)
        except prebuilt.Unfit as reason:
            unfit[extension.name] = f" ({location}: {reason})"
        else:
            ready[extension.name] = wheel
            progress(extension.label, f"prebuilt, from {location}", True)
    return ready, unfit


def ensure_environment(
    target: Target,
    cache: Path,
    progress: Progress,
    *,
    names: Sequence[str] = ("all",),
    offline: bool = False,
    find_links: str | None = None,
) -> Path:
    """Returns an interpreter that has the extensions as well, building those on first use.

    Args:
        target: Its interpreter is that of a shared environment, beside which this one is made.
        cache: The download cache, which holds wheels too.
        progress: Is told how it goes.
        names: The extensions, as `select` takes them.
        offline: Whether to use the cache alone.
        find_links: As for `build_extensions`.

    Raises:
        KitError: As `build_extensions` does.
    """
    chosen = fit(select(names), target.interpreter.torch)
    wheels = build_extensions(
        chosen, target, cache, progress, offline=offline, find_links=find_links
    )
    directory = target.interpreter.path.parents[1]
    return environments.with_wheels(
        target.interpreter, wheels, directory.with_name(f"{directory.name}-extensions")
    )


def _folder(cache: Path, extension: Extension, target: Target) -> Path:
    return cache / "wheels" / f"{extension.name}-{extension.version}" / target.key


def cached(folder: Path) -> Path | None:
    """Returns the wheel in a folder, if there is one."""
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _side_by_side(tasks: Sequence[Callable[[threading.Event], None]], jobs: int) -> None:
    """Runs tasks in threads. Where one fails, or on Ctrl-C, the others are told to stop."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(task, stop) for task in tasks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _build_one(
    extension: Extension,
    target: Target,
    folder: Path,
    note: str,
    progress: Progress,
    stop: threading.Event,
) -> None:
    label = extension.label
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    with lock:
        if cached(folder):  # by another run, meanwhile
            progress(label, f"from the cache{note}", True)
            return
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as name:
            made = Path(name) / "wheel"
            arguments = _what_to_build(extension, Path(name) / "requirements.txt")
            _pip_wheel(label, arguments, made, target, progress, stop)
            wheel = cached(made)
            assert wheel is not None
            if target.cuda is not None and extension.archive:
                check_cuda_wheel(wheel, target.cuda)
            made.rename(folder)
        progress(label, f"built in {time.monotonic() - start:.0f} s{note}", True)


def _what_to_build(extension: Extension, requirements: Path) -> list[str | Path]:
    if extension.archive:
        exact = f"{extension.name}=={extension.version}"
        requirements.write_text(f"{exact} --hash=sha256:{extension.sha256}\n", encoding="utf-8")
        return ["--no-binary=:all:", "--require-hashes", "--requirement", requirements]
    return [f"{extension.name} @ git+{extension.git}@{extension.commit}"]


def _pip_wheel(
    label: str,
    arguments: Sequence[str | Path],
    dest: Path,
    target: Target,
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Has pip build one wheel into a directory, with the torch of the target.

    pip's own cache is off: it takes a CPU build for a CUDA build, and the build for
    one torch for that of another.
    """
    log = (
        (ROOT if places.IS_CHECKOUT else Path())
        / "build"
        / "logs"
        / f"{label.replace(' ', '-')}-{target.key}.log"
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*pip(target.interpreter.path, isolated=False), "wheel", "--verbose"]
    command += ["--no-cache-dir", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", dest, *arguments]
    pattern = re.compile(r"\S*?(\w+\.(?:cpp|cu))(?=\s)")

    def watch(line: str) -> None:
        # A compiler's command line names its source file.
        if " -c " in line and (match := pattern.search(line)):
            progress(label, f"compiling {match[1]}", False)

    progress(label, "getting its source", False)
    code = run_logged(command, log, env=variables(target), watch=watch, stop=stop)
    if code != 0:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise ToolError(
            f"{label} could not be built. The end of the log {log}:\n\n{end}\n\nExpected a C++17 "
            f"compiler that torch {target.interpreter.torch} supports, and PyPI to answer. Name "
            f"another compiler with CXX, check the network, or leave it out with --extensions."
        )
