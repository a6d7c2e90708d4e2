"""Proves that every patch applies to its pinned releases and gives the recorded blobs."""

import dataclasses
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import patching, releases, sources
from kit.errors import KitError, UsageError
from kit.releases import NO_BLOB, VERSION_FILE, Catalogue, Patch, Release
from kit.upstream import topics


@dataclass(frozen=True)
class Task:
    """The patches of a release that are to be checked."""

    release: Release
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Result:
    """How the patches of one release did.

    Attributes:
        release: The release.
        patches: Those that were checked.
        problems: What does not hold, in sentences.
        left_out: The names of the patches that this source has no files for.
    """

    release: Release
    patches: tuple[Patch, ...]
    problems: tuple[str, ...]
    left_out: tuple[str, ...]


def choose(catalogue: Catalogue, names: Sequence[str]) -> list[Task]:
    """Returns what a command line asks for.

    Args:
        catalogue: The releases.
        names: Versions and series. Of several versions, each is taken, and so of series; of
            both, the patches of these series on these versions. None of them means all.

    Raises:
        UsageError: If one is neither a release nor a series, or a release takes none of the
            series.
    """
    series = {name for name in names if name in catalogue.series}
    versions = [_find(catalogue, name) for name in names if name not in series]
    tasks = []
    for release in catalogue.releases:
        if versions and release not in versions:
            continue
        patches = tuple(p for p in release.all_patches() if not series or p.series in series)
        if patches or not series:
            tasks.append(Task(release, patches))
        elif versions:
            raise UsageError(
                f"PyG {release.version} takes no patch of {', '.join(sorted(series))}. It takes: "
                f"{', '.join(release.series())}."
            )
    if not tasks:
        raise UsageError(f"No release takes a patch of {', '.join(sorted(series))}.")
    return tasks


def _find(catalogue: Catalogue, name: str) -> Release:
    try:
        return catalogue.find(name)
    except UsageError as error:
        if releases.is_version(name):
            raise
        raise UsageError(
            f"{error} Nor is there such a series. Expected one of: {', '.join(catalogue.series)}."
        ) from None


def find_unpinned(catalogue: Catalogue, series: Collection[str]) -> list[str]:
    """Returns what patches name in `Releases:` that is not pinned, in sentences."""
    pinned = {releases.parse_version(release.version) for release in catalogue.releases}
    return [
        f"{patch.name} names {version} in its field 'Releases', which is not pinned. Expected a "
        f"version of patches/releases.toml."
        for name in catalogue.series
        if not series or name in series
        for patch in releases.find_patches(name, catalogue)
        for version in patch.releases
        if version[0].isdigit() and releases.parse_version(version) not in pinned
    ]


def validate(task: Task, source: sources.Source) -> Result:
    """Applies and reverses patches on the pristine files of a release.

    Args:
        task: What to check. Nothing else is fetched.
        source: Where the pristine tree comes from. Only a git checkout has
            upstream's tests, and so the files of the patches to them.
    """
    if source.kind is sources.Kind.GIT and task.release.commit is None:
        source = dataclasses.replace(source, kind=sources.Kind.SDIST)
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        try:
            return _validate_one(task, source, Path(name) / "tree")
        except KitError as error:
            return Result(task.release, task.patches, (str(error),), ())


def _validate_one(task: Task, source: sources.Source, tree: Path) -> Result:
    problems = []
    release, patches = task.release, task.patches
    touched = {change.path for patch in patches for change in patch.changes}
    sources.extract(release, source, {VERSION_FILE, *touched}, tree)
    if patching.blob_of(tree / VERSION_FILE) not in release.version_blobs:
        problems.append(f"{VERSION_FILE} is none of its version_blobs.")
    steps = patching.plan(tree, patches)
    problems += [
        f"{step.patch.name} is in the pristine release already."
        for step in steps
        if step.state is patching.State.PATCHED
    ]
    patching.apply(tree, steps)
    patching.apply(tree, patching.plan(tree, patches), reverse=True)
    if patching.plan(tree, patches) != steps:
        problems.append("Reversing the patches does not give the pristine release back.")
    if release.is_nightly:
        whole = patches == release.all_patches()
        series = {patch.series for patch in patches}
        for topic in topics.load():
            if whole or topic.name in series:
                problems += _validate_topic(topic, release, source, tree.parent / topic.name)
    left_out = [s.patch.name for s in steps if s.state is patching.State.LEFT_OUT]
    return Result(release, patches, tuple(problems), tuple(left_out))


def _validate_topic(
    topic: topics.Topic, release: Release, source: sources.Source, directory: Path
) -> list[str]:
    """The patches of a pull request are against the nightly build, too, each on its own."""
    problems = []
    for patch in topic.all_patches:
        tree = directory / patch.file.stem
        sources.extract(release, source, [change.path for change in patch.changes], tree)
        if any(
            change.path.startswith("test/")
            and change.before != NO_BLOB
            and not (tree / change.path).exists()
            for change in patch.changes
        ):
            continue  # this source has no tests, and such a patch can change the library as well
        try:
            patching.apply(tree, patching.plan(tree, [patch]))
        except KitError as error:
            problems.append(str(error))
    return problems
