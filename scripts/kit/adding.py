"""Pins a new release: finds where it comes from, and which patches fit it."""

import dataclasses
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import InvalidVersion, Version

from kit import patching, refreshing, releases, sources
from kit.errors import UsageError
from kit.releases import VERSION_FILE, Catalogue, Patch, Release

# From this release on, PyG can be imported without torch-scatter and torch-sparse.
_WITHOUT_EXTENSIONS = Version("2.3.0")


@dataclass
class Addition:
    """A release that is to be pinned.

    Attributes:
        release: Its record.
        fits: The patches that fit it, blob for blob, and do not name it yet.
        findings: What was found, in sentences.
        worklist: What a person must do or decide, in sentences.
        proposals: Patched files of new variants, by path; conflicts are marked. None where
            there is no such file any more.
    """

    release: Release
    fits: list[Patch] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    worklist: list[str] = field(default_factory=list)
    proposals: dict[str, bytes | None] = field(default_factory=dict)


def add(version: str, catalogue: Catalogue, source: sources.Source) -> Addition:
    """Finds out all that `releases.toml` says of a release, and writes nothing.

    Args:
        version: As on PyPI; a development release is a nightly build.
        catalogue: The releases that are pinned already.
        source: The repository to look the tag up in, and the cache.

    Raises:
        UsageError: If it is pinned already.
        SourceError: If PyPI does not have it.
    """
    try:
        wanted = Version(version)
    except InvalidVersion:
        raise UsageError(f"'{version}' is not a version. Expected one as on PyPI.") from None
    oldest = catalogue.releases[0].version
    if wanted < Version(oldest):
        raise UsageError(f"PyG {version} is older than {oldest}, where the kit's range starts.")
    if any(Version(release.version) == wanted for release in catalogue.releases):
        raise UsageError(f"PyG {version} is pinned already. Remove its record to pin it anew.")
    patches = [p for series in catalogue.series for p in releases.find_patches(series, catalogue)]
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        root = Path(name)
        project = "pyg-nightly" if wanted.is_devrelease else "torch-geometric"
        archive = sources.download_new(project, version, source, root)
        tag, commit = sources.find_tag(version, source)
        release = Release(
            version=version,
            tag=tag,
            commit=commit,
            archive=archive.name,
            sha256=sources.sha256(archive),
            version_blobs=(),
            needs_extensions=wanted < _WITHOUT_EXTENSIONS,
            status={},
            patches=(),
        )
        paths = {VERSION_FILE, *(c.path for p in patches for c in p.changes)}
        tree = root / "archive"
        sources.unpack(archive, tree, paths)
        trees = [tree]
        addition = Addition(release)
        if commit is None:
            addition.worklist.append(
                f"No tag {version} was found at {source.git_url}. Look the commit up, compare its "
                f"torch_geometric/ with the archive's, and add `commit`."
            )
        else:
            trees.append(root / "git")
            sources.extract_commit(release, source, paths, trees[1])
            for path in sorted(p for p in paths if not p.startswith("test/") and p != VERSION_FILE):
                if len({patching.blob_of(tree / path) for tree in trees}) > 1:
                    addition.worklist.append(f"{path} is not the same on PyPI as in the tag {tag}.")
        blobs = dict.fromkeys(patching.blob_of(tree / VERSION_FILE) for tree in trees)
        addition.release = dataclasses.replace(release, version_blobs=tuple(blobs))
        for series in catalogue.series:
            ours = [patch for patch in patches if patch.series == series]
            _choose_patches(addition, catalogue, series, ours, trees, source)
        return addition


def _choose_patches(
    addition: Addition,
    catalogue: Catalogue,
    series: str,
    patches: list[Patch],
    trees: list[Path],
    source: sources.Source,
) -> None:
    """Finds which patches of a series fit, and what upstream has done meanwhile."""
    library = [patch for patch in patches if patch.is_for_library]
    if not library:
        return  # new files, which fit every release
    name = catalogue.classes.get(series, series)
    fits = [patch for patch in library if _fits(patch, trees[0])]
    if fits:
        tests = [patch for patch in patches if not patch.is_for_library]
        addition.findings.append(f"{name}: {fits[0].name} fits, blob for blob.")
        chosen = [fits[0], *_choose_test(addition, tests, fits[0], catalogue, trees)]
        version = addition.release.version
        addition.fits += [patch for patch in chosen if not patch.fits(version)]
    elif not (trees[0] / library[-1].changes[0].path).exists():
        addition.findings.append(f"{name}: this release does not have it.")
    elif series in catalogue.optional and not _has_removed_lines(library[-1], trees[0]):
        addition.findings.append(f"{series}: nothing in this release to change.")
    elif series not in catalogue.classes or _still_races(library, trees[0]):
        _propose(addition, name, library[-1], catalogue, trees[0], source)
    else:
        addition.findings.append(f"{name} does not race: upstream has fixed it.")


def _fits(patch: Patch, tree: Path) -> bool:
    return all(patching.blob_of(tree / change.path) == change.before for change in patch.changes)


def _choose_test(
    addition: Addition,
    tests: list[Patch],
    library: Patch,
    catalogue: Catalogue,
    trees: list[Path],
) -> list[Patch]:
    """The patch to upstream's own test, which git has, and PyPI has not."""
    if not tests:
        return []
    if len(trees) == 2:
        fits = [patch for patch in tests if _fits(patch, trees[1])]
        if not fits and _still_races(tests, trees[1]):
            addition.worklist.append(
                f"No patch to {tests[0].changes[0].path} fits: make one for this variant."
            )
        return fits[:1]
    neighbour = [r for r in catalogue.releases if library in r.patches][-1]
    guessed = [patch for patch in tests if patch in neighbour.patches]
    addition.worklist += [
        f"{patch.name} is what PyG {neighbour.version} takes. Check it against the tag: "
        f"scripts/kit.sh validate --source git."
        for patch in guessed
    ]
    return guessed


def _still_races(patches: Iterable[Patch], tree: Path) -> bool:
    """Whether a file still has the shared state that patches take out of it."""
    for patch in patches:
        for file in patch.hunks:
            path = tree / file.path
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            removed = "".join(line.value for hunk in file for line in hunk if line.is_removed)
            # What it assigns, and what a test asserts of it.
            names = re.findall(r"^\s*(?:assert )?(?:self|conv)(\.\w+)(?= =| is)", removed, re.M)
            if any(re.search(rf"{re.escape(name)} (?:=|is) ", text) for name in names):
                return True
    return False


def _has_removed_lines(patch: Patch, tree: Path) -> bool:
    """Whether the files have, somewhere, all the lines that a patch removes."""
    for file in patch.hunks:
        lines = (tree / file.path).read_text(encoding="utf-8").splitlines()
        removed = [line.value for hunk in file for line in hunk if line.is_removed]
        if not {line.strip() for line in removed} <= {line.strip() for line in lines}:
            return False
    return True


def _propose(
    addition: Addition,
    name: str,
    patch: Patch,
    catalogue: Catalogue,
    tree: Path,
    source: sources.Source,
) -> None:
    """Merges the newest patch of a series into a variant that none of them fits."""
    neighbour = [r for r in catalogue.releases if patch in r.all_patches()][-1]
    variant = refreshing.read_variant(patch, neighbour, source)
    ours = refreshing.read_files(tree, list(variant.pristine))
    labels = ("upstream", "base", "patched")
    merges = refreshing.merge_files(ours, variant.pristine, variant.patched, labels)
    paths = ", ".join(merges)
    addition.proposals |= {path: merged.content for path, merged in merges.items()}
    conflicts = (
        "with conflicts, which are marked"
        if any(merged.conflicts for merged in merges.values())
        else "without a conflict"
    )
    addition.findings.append(f"{name}: no patch fits, since upstream has changed {paths}.")
    addition.worklist.append(
        f"{patch.name} merges into the new {paths} {conflicts}. Review the proposal, and make a "
        f"patch of it."
    )


def proposal_file(addition: Addition, path: str) -> Path:
    """Returns where the proposal for a file of PyG's is written."""
    return refreshing.build_folder() / f"add-{addition.release.version}" / path


def write(addition: Addition) -> None:
    """Writes the record, the `Releases:` fields of the patches that fit, and the proposals.

    Raises:
        TreeError: If one of them cannot be written. Then none is.
    """
    pins = releases.PATCHES / "releases.toml"
    text = insert(pins.read_text(encoding="utf-8"), addition.release)
    files: dict[Path, bytes | None] = {pins: text.encode()}
    for patch in addition.fits:
        files[patch.file] = with_release(patch, addition.release.version).encode()
    for path, content in addition.proposals.items():
        if content is not None:
            files[proposal_file(addition, path)] = content
    refreshing.write_files(files)


def format_record(release: Release) -> str:
    """A release as `releases.toml` writes it."""

    def quoted(values: Iterable[str]) -> str:
        listed = [f'"{value}"' for value in values]
        if len(listed) < 2:
            return f"[{''.join(listed)}]"
        return "[\n" + "".join(f"    {value},\n" for value in listed) + "]"

    lines = [f'version = "{release.version}"']
    lines += [f'tag = "{release.tag}"'] if release.tag else []
    lines += [f'commit = "{release.commit}"'] if release.commit else []
    lines += [
        f'archive = "{release.archive}"',
        f'sha256 = "{release.sha256}"',
        f"version_blobs = {quoted(release.version_blobs)}",
        f"needs_extensions = {str(release.needs_extensions).lower()}",
        *([f"undeclared = {quoted(release.undeclared)}"] if release.undeclared else []),
    ]
    return "[[release]]\n" + "\n".join(lines) + "\n"


def insert(text: str, release: Release) -> str:
    """Puts a record at its place in the text of `releases.toml`; the rest stays as it is."""
    blocks = text.rstrip("\n").split("\n\n")
    place = len(blocks)
    for number, block in enumerate(blocks):
        match = re.search(r'^\[\[release\]\]\nversion = "([^"]+)"', block, flags=re.MULTILINE)
        if match and Version(match[1]) > Version(release.version):
            place = number
            break
    blocks.insert(place, format_record(release).rstrip("\n"))
    return "\n\n".join(blocks) + "\n"


def with_release(patch: Patch, version: str) -> str:
    """The text of a patch that names one more release."""
    return re.sub(
        r"^(Releases: .*)$", rf"\g<1>, {version}", patch.text, count=1, flags=re.MULTILINE
    )
