"""What `apply` does: chooses the patches for a release, and applies them to a tree or makes one."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import checkouts, installations, interrupts, patching, sources, transactions
from kit.errors import TreeError, UsageError, shown
from kit.patching import State, Step
from kit.releases import Catalogue, Patch, Release


@dataclass(frozen=True)
class Report:
    """What `apply` found and did.

    Attributes:
        tree: The tree.
        origin: Where a new tree came from, in words; "" for one that was there.
        steps: Each patch, with its state before.
        is_checkout: Whether the tree is a repository of the kit's.
        is_installed: Whether it is an installed PyG.
        recovered: What became of a run that had been cut off: "finished", "undone", or "".
        links: The links to other trees that have become files of this one.
    """

    tree: Path
    origin: str
    steps: list[Step]
    is_checkout: bool
    is_installed: bool = False
    recovered: str = ""
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class How:
    """What to do with a tree.

    Attributes:
        check: Whether to change nothing.
        reverse: Whether to take the patches out.
        only: The series that were named.
        is_installed: Whether an interpreter imports PyG from the tree.
        notify: Is told what takes longer.
    """

    check: bool = False
    reverse: bool = False
    only: tuple[str, ...] = ()
    is_installed: bool = False
    notify: Callable[[str], None] = lambda message: None


def missing_version(catalogue: Catalogue) -> str:
    """Returns the message for a call without a version, and without a tree that tells it."""
    newest = [r.version for r in catalogue.releases if r.affected() and not r.is_nightly][-1]
    return (
        f"No PyG version was named. Expected one such as {newest} (what 'pip show torch-geometric' "
        f"says), or --installed; 'scripts/apply.sh --list' lists all."
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


def find_release(tree: Path, catalogue: Catalogue, version: str | None) -> Release:
    """Returns the release that a tree holds, by its content.

    Args:
        tree: The tree.
        catalogue: The pinned releases.
        version: What the user calls it; None where that is left to the content.

    Raises:
        TreeError: If it is none of the pinned releases, or not the one that was named.
        UsageError: If there is no such version, or the content does not tell two apart.
    """
    named = catalogue.find(version) if version is not None else None
    candidates = patching.identify(tree, catalogue)
    if not candidates:
        expected = f"PyG {named.version}" if named else "a PyG"
        raise TreeError(
            f"{tree} is none of the pinned releases: its torch_geometric/__init__.py and the files "
            f"to be patched have been changed. Expected {expected} as released. "
            f"'git apply' takes the files in patches/ by hand; README.md says how."
        )
    versions = " or ".join(release.version for release in candidates)
    if named is None and len(candidates) > 1:
        candidates = _by_metadata(tree, candidates) or candidates
    if named is None and len(candidates) > 1:
        raise UsageError(
            f"No PyG version was named. {tree} holds PyG {versions}: name that one as well."
        )
    if named is not None and named not in candidates:
        raise TreeError(
            f"{tree} holds PyG {versions}, not {named.version}. Call this with that version, or "
            f"name another tree."
        )
    return named or candidates[0]


def _by_metadata(tree: Path, candidates: Sequence[Release]) -> list[Release]:
    """Those of some releases that the metadata of an installation names."""
    info = installations.info_of(tree)
    stated = info.name.split("-")[1] if info and info.name.count("-") else ""
    version = stated.removesuffix(".dist-info").removesuffix(".egg-info").split("+")[0]
    return [release for release in candidates if release.version == version]


def apply_to_tree(
    tree: Path,
    release: Release,
    catalogue: Catalogue,
    patches: Sequence[Patch],
    how: How,
) -> Report:
    """Applies patches to a tree that is there, or takes them out, or only says how they stand.

    Raises:
        TreeError: If it cannot be written.
    """
    is_installed = how.is_installed or installations.is_installation(tree)
    with transactions.locked(tree, how.notify, shared=how.check):
        recovered = _recover(tree, how)
        steps = patching.plan(tree, patches, installed=is_installed)
        if how.reverse:
            steps = _without_needed(tree, steps, release, catalogue, how, installed=is_installed)
        links: list[str] = []
        if not how.check:
            links = _write(tree, release, steps, how, is_installed=is_installed)
    return Report(tree, "", steps, False, is_installed, recovered, tuple(links))


def _write(
    tree: Path, release: Release, steps: Sequence[Step], how: How, *, is_installed: bool
) -> list[str]:
    """Brings a tree to what is wanted, and reads it back. Returns the links that were broken."""
    with interrupts.deferred():
        todo = patching.to_do(steps, reverse=how.reverse)
        files = patching.contents(tree, todo, reverse=how.reverse)
        links = [f"{path} -> {path.readlink()}" for path in files if path.is_symlink()]
        patched = [step.patch for step in steps if step.state is State.PATCHED]
        stale = installations.stale_bytecode(tree, patched)
        if installations.keeps_books(tree, is_installed=is_installed):
            files = installations.books(tree, release, files)
        transactions.write({**files, **dict.fromkeys(stale, patching.GONE)}, tree)
        _check_state(tree, todo, reverse=how.reverse, installed=is_installed)
        interrupts.ignore()
    return [] if how.reverse else links


def _check_state(tree: Path, patches: Sequence[Patch], *, reverse: bool, installed: bool) -> None:
    """Reads the tree back: nothing is claimed that the disk does not say."""
    wanted = State.PRISTINE if reverse else State.PATCHED
    for step in patching.plan(tree, patches, installed=installed):
        if step.state is not wanted:
            raise TreeError(
                f"{step.patch.name} was written to {tree}, and is {step.state.value} now: "
                f"something else is at work there. Call this again once that has ended."
            )


def _recover(tree: Path, how: How) -> str:
    if not how.check:
        return transactions.recover(tree, checkouts.settler(tree))
    if transactions.is_cut_off(tree):
        raise TreeError(
            f"A run in {tree} was cut off, so that some files may be patched and others not. Call "
            f"this without --check: it finishes or undoes that first."
        )
    return ""


def _without_needed(
    tree: Path,
    steps: Sequence[Step],
    release: Release,
    catalogue: Catalogue,
    how: How,
    *,
    installed: bool,
) -> list[Step]:
    """Leaves out of what is to be reversed what other patches of the tree still need.

    Raises:
        UsageError: If that is what was asked for by name.
    """
    going = {step.patch.series for step in steps}
    others = [p for p in release.all_patches() if p.series not in going and p.is_for_library]
    staying = {
        step.patch.series
        for step in patching.plan(tree, others, installed=installed)
        if step.state is State.PATCHED
    }
    needed = {
        name: [series for series in sorted(staying) if name in catalogue.requires.get(series, ())]
        for name in going
    }
    for name in how.only:
        if needed[name]:
            raise UsageError(
                f"{name} is needed by {', '.join(needed[name])}, which would stay. Name those as "
                f"well (--only may be repeated), or leave --only out: then all patches go."
            )
    return [step for step in steps if not needed[step.patch.series]]


def apply_to_checkout(
    place: Path,
    release: Release,
    catalogue: Catalogue,
    patches: Sequence[Patch],
    source: sources.Source,
    how: How,
) -> Report:
    """The same for a repository of the kit's, which is made where there is none.

    Raises:
        TreeError: If something else is there, or it cannot be written.
        SourceError: If the release cannot be downloaded.
    """
    if checkouts.require(place, release, source) is not None:
        return _update_checkout(place, release, catalogue, patches, how)
    if how.reverse:
        raise TreeError(
            f"There is nothing to reverse at {shown(place)}. 'scripts/apply.sh "
            f"{release.version}' makes it; --tree DIR names a tree elsewhere."
        )
    if how.check:
        with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
            origin, steps = checkouts.create(Path(name) / "tree", release, patches, source)
    else:
        origin, steps = checkouts.create(place, release, patches, source)
    return Report(place, origin, steps, is_checkout=True)


def _update_checkout(
    place: Path, release: Release, catalogue: Catalogue, patches: Sequence[Patch], how: How
) -> Report:
    with transactions.locked(place, how.notify, shared=how.check):
        recovered = _recover(place, how)
        try:
            steps = patching.plan(place, patches)
        except TreeError as error:
            raise TreeError(
                f"{error} (If the kit's patches have changed since {shown(place)} was made, remove "
                f"it, and it is made anew.)"
            ) from None
        if how.reverse:
            steps = _without_needed(place, steps, release, catalogue, how, installed=False)
        if not how.check:
            with interrupts.deferred():
                checkouts.update(place, steps, reverse=how.reverse)
                todo = patching.to_do(steps, reverse=how.reverse)
                _check_state(place, todo, reverse=how.reverse, installed=False)
                interrupts.ignore()
    return Report(place, "", steps, is_checkout=True, recovered=recovered)
