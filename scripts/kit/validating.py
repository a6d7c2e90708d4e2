"""Proves that every patch applies to its pinned releases and gives the recorded blobs."""

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit import patching, sources
from kit.errors import KitError
from kit.releases import VERSION_FILE, Catalogue, Release
from kit.upstream import topics


@dataclass(frozen=True)
class Result:
    """How the patches of one release did.

    Attributes:
        release: The release.
        problems: What does not hold, in sentences.
        left_out: The names of the patches that this source has no files for.
    """

    release: Release
    problems: tuple[str, ...]
    left_out: tuple[str, ...]


def validate(catalogue: Catalogue, source: sources.Source) -> Iterator[Result]:
    """Applies and reverses the patches of every release, on the pristine files.

    Args:
        catalogue: The releases.
        source: Where the pristine trees come from. Only a git checkout has
            upstream's tests, and so the files of the patches to them.
    """
    for release in catalogue.releases:
        used = source
        if source.kind is sources.Kind.GIT and release.commit is None:
            used = dataclasses.replace(source, kind=sources.Kind.SDIST)
        with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
            try:
                yield _validate_one(release, used, Path(name) / "tree")
            except KitError as error:
                yield Result(release, (str(error),), ())


def _validate_one(release: Release, source: sources.Source, tree: Path) -> Result:
    problems = []
    touched = {change.path for patch in release.all_patches() for change in patch.changes}
    sources.extract(release, source, {VERSION_FILE, *touched}, tree)
    if patching.blob_of(tree / VERSION_FILE) not in release.version_blobs:
        problems.append(f"{VERSION_FILE} is none of its version_blobs.")
    steps = patching.plan(tree, release.all_patches())
    problems += [
        f"{step.patch.name} is in the pristine release already."
        for step in steps
        if step.state is patching.State.PATCHED
    ]
    patching.apply(tree, steps)
    patched = patching.plan(tree, release.all_patches())
    patching.apply(tree, patched, reverse=True)
    if patching.plan(tree, release.all_patches()) != steps:
        problems.append("Reversing the patches does not give the pristine release back.")
    if release.is_nightly:
        for topic in topics.load():
            problems += _validate_topic(topic, release, source, tree.parent / topic.name)
    left_out = [s.patch.name for s in steps if s.state is patching.State.LEFT_OUT]
    return Result(release, tuple(problems), tuple(left_out))


def _validate_topic(
    topic: topics.Topic, release: Release, source: sources.Source, directory: Path
) -> list[str]:
    """The patches of a pull request are against the nightly build, too, each on its own."""
    problems = []
    for patch in topic.all_patches:
        tree = directory / patch.file.stem
        sources.extract(release, source, [change.path for change in patch.changes], tree)
        try:
            patching.apply(tree, patching.plan(tree, [patch]))
        except KitError as error:
            problems.append(str(error))
    return problems
