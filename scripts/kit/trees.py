"""A pristine and a patched tree of a release, side by side, for as long as something runs there."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import patching, sources
from kit.processes import git
from kit.releases import Patch, Release


@dataclass(frozen=True)
class Trees:
    """Both trees of a release; `folder` holds them, and is removed with them."""

    folder: Path
    pristine: Path
    patched: Path


@contextlib.contextmanager
def pristine_and_patched(
    release: Release, source: sources.Source, patches: Sequence[Patch]
) -> Iterator[Trees]:
    """Makes both trees of a release in a folder for temporary files.

    Args:
        release: The release.
        source: Where to get it from.
        patches: What the second tree is patched with.

    Raises:
        SourceError: If the release cannot be downloaded, or is not what its pin says.
    """
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        trees = Trees(Path(name), Path(name) / "pristine", Path(name) / "patched")
        sources.materialize(release, source, trees.patched)
        git("worktree", "add", "--quiet", trees.pristine, "pristine", cwd=trees.patched)
        patching.apply(trees.patched, patching.plan(trees.patched, patches))
        yield trees
