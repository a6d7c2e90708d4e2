"""What `apply` does: chooses the patches for a release, and applies them to a tree or makes one."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import checkouts, patching, sources
from kit.errors import TreeError, UsageError, shown
from kit.releases import Catalogue, Patch, Release


@dataclass(frozen=True)
class Report:
    """What `apply` found and did.

    Attributes:
        tree: The tree.
        origin: Where a new tree came from, in words; "" for one that was there.
        steps: Each patch, with its state before.
        is_checkout: Whether the tree is a repository of the kit's.
    """

    tree: Path
    origin: str
    steps: list[patching.Step]
    is_checkout: bool


def missing_version(catalogue: Catalogue, tree: Path | None) -> str:
    """Returns the message for a call without a version."""
    newest = [r.version for r in catalogue.releases if r.affected()][-1]
    if tree is not None and (candidates := patching.identify(tree, catalogue)):
        versions = " or ".join(release.version for release in candidates)
        return f"No PyG version was named. {tree} holds PyG {versions}: name that one as well."
    return (
        f"No PyG version was named. Expected one such as {newest} (what 'pip show torch-geometric' "
        f"says); 'scripts/apply.sh --list' lists all."
    )


def select(
    release: Release,
    catalogue: Catalogue,
    only: Sequence[str] = (),
    added: Sequence[str] = (),
    *,
    reverse: bool = False,
) -> list[Patch]:
    """Returns the patches of a release that a command line asks for, in order.

    Args:
        release: The release.
        catalogue: The pinned releases.
        only: Series to take alone, with what they require; none means all that are on by default.
        added: Series to take as well, though they are off by default.
        reverse: Whether the patches are to be taken out: then the optional ones count too.

    Raises:
        UsageError: If a series does not exist, or this release takes no patch of it.
    """
    if only and added:
        raise UsageError("--only and --with exclude each other: --only may be repeated.")
    for name in (*only, *added):
        if name not in catalogue.series:
            raise UsageError(
                f"There is no series '{name}'. Expected one of: {', '.join(catalogue.series)}."
            )
        if name not in release.series():
            raise UsageError(
                f"PyG {release.version} takes no patch of the series {name}. It takes: "
                f"{', '.join(release.series())}."
            )
    wanted = {*only, *(needed for name in only for needed in catalogue.requires.get(name, ()))}
    if not only:
        # What is in the tree is taken out, asked for by name or not.
        wanted = {name for name in release.series() if reverse or name not in catalogue.optional}
    return [p for p in release.all_patches() if p.series in {*wanted, *added}]


def apply_to_tree(
    tree: Path,
    release: Release,
    catalogue: Catalogue,
    patches: Sequence[Patch],
    *,
    check: bool = False,
    reverse: bool = False,
) -> Report:
    """Applies patches to a tree that is there, or takes them out, or only says how they stand.

    Raises:
        TreeError: If it is not a tree of this release, or cannot be written.
    """
    candidates = patching.identify(tree, catalogue)
    if not candidates:
        raise TreeError(
            f"{tree} is none of the pinned releases: its torch_geometric/__init__.py and the files "
            f"to be patched have been changed. Expected PyG {release.version} as released. "
            f"'git apply' takes the files in patches/ by hand; README.md says how."
        )
    if release not in candidates:
        versions = " or ".join(r.version for r in candidates)
        raise TreeError(
            f"{tree} holds PyG {versions}, not {release.version}. Call this with that version, or "
            f"name another tree."
        )
    steps = patching.plan(tree, patches)
    if not check:
        patching.apply(tree, steps, reverse=reverse)
    return Report(tree, "", steps, is_checkout=False)


def apply_to_checkout(
    place: Path,
    release: Release,
    patches: Sequence[Patch],
    source: sources.Source,
    *,
    check: bool = False,
    reverse: bool = False,
) -> Report:
    """The same for a repository of the kit's, which is made where there is none.

    Raises:
        TreeError: If something else is there, or it cannot be written.
        SourceError: If the release cannot be downloaded.
    """
    if checkouts.require(place, release, source) is not None:
        return _update_checkout(place, patches, check=check, reverse=reverse)
    if reverse:
        raise TreeError(
            f"There is nothing to reverse at {shown(place)}. 'scripts/apply.sh "
            f"{release.version}' makes it; --tree DIR names a tree elsewhere."
        )
    if check:
        with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
            origin, steps = checkouts.create(Path(name) / "tree", release, patches, source)
    else:
        origin, steps = checkouts.create(place, release, patches, source)
    return Report(place, origin, steps, is_checkout=True)


def _update_checkout(
    place: Path, patches: Sequence[Patch], *, check: bool, reverse: bool
) -> Report:
    try:
        steps = patching.plan(place, patches)
    except TreeError as error:
        raise TreeError(
            f"{error} (If the kit's patches have changed since {shown(place)} was made, remove it, "
            f"and it is made anew.)"
        ) from None
    if not check:
        checkouts.update(place, steps, reverse=reverse)
    return Report(place, "", steps, is_checkout=True)
