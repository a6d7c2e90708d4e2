"""Carries a change of a patch over to the older variants of its series, by merges with three sides.

What the patch was before the change comes from the history of `patches/`. Its variants keep
what is their own: only the difference between both versions is merged into them. (Merging the
whole new patch into what upstream released would conflict wherever a variant had to be made
by hand, and where it did not conflict, could undo what was made by hand.)
"""

import dataclasses
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit import patching, releases, sources, transactions
from kit.errors import SourceError, ToolError, TreeError, UsageError, shown
from kit.processes import git, last_lines, run
from kit.releases import NO_BLOB, Catalogue, Patch, Release

# The content of files, by path below PyG's root; None where there is none.
Files = Mapping[str, bytes | None]

# What stays a variant's own, whatever becomes of it in the patch whose change it takes.
_OWN = re.compile(r"^(?:From [0-9a-f]{40} .*|From: .*|Date: .*|Releases: .*)$", re.MULTILINE)
_MARKERS = re.compile(rb"^(?:<{7}|={7}|>{7})(?: |$)", re.MULTILINE)


@dataclass(frozen=True)
class Merge:
    """What a merge with three sides gives; where they conflict, with both sides marked."""

    content: bytes | None
    conflicts: bool


@dataclass(frozen=True)
class Variant:
    """What a patch makes of the files that it touches."""

    pristine: Files
    patched: Files


@dataclass
class Refresh:
    """What becomes of a series.

    Attributes:
        patches: The new text of patches, by file.
        findings: What was done, in sentences.
        worklist: What a person must do, in sentences.
        proposals: Files in which both sides are marked, to be resolved by a person; None for
            one that has been, and is removed.
    """

    patches: dict[Path, bytes] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    worklist: list[str] = field(default_factory=list)
    proposals: dict[Path, bytes | None] = field(default_factory=dict)


def build_folder() -> Path:
    """Returns where proposals are written: `build/`, beside `patches/`."""
    return releases.PATCHES.parent / "build"


def merge(
    ours: bytes | None, base: bytes | None, theirs: bytes | None, labels: Sequence[str]
) -> Merge:
    """Merges two changes of one file.

    Args:
        ours: The file after the one change; None where there is none.
        base: The file before both.
        theirs: The file after the other change.
        labels: What the three are called where they conflict.

    Raises:
        ToolError: If git cannot merge them, as it cannot what is no text.
    """
    if theirs in (base, ours):
        return Merge(ours, conflicts=False)
    if ours == base:
        return Merge(theirs, conflicts=False)
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        files = [Path(name) / side for side in ("ours", "base", "theirs")]
        for file, content in zip(files, (ours, base, theirs), strict=True):
            file.write_bytes(content or b"")
        options = [option for label in labels for option in ("-L", label)]
        # Into the first file: what is printed would go through a decoder.
        result = run(["git", "merge-file", *options, *files])
        # The exit status is the number of conflicts, up to 127.
        if not 0 <= result.returncode <= 127:
            raise ToolError(
                f"'git merge-file' could not merge {labels[0]} and {labels[2]}: "
                f"{last_lines(result.stderr)} Expected text files and git 2.25 or newer."
            )
        return Merge(files[0].read_bytes(), conflicts=result.returncode > 0)


def merge_files(ours: Files, base: Files, theirs: Files, labels: Sequence[str]) -> dict[str, Merge]:
    """Merges each of some files that are in `base` or in `theirs`."""
    return {
        path: merge(ours.get(path), base.get(path), theirs.get(path), labels)
        for path in {**base, **theirs}
    }


def read_variant(
    patch: Patch, release: Release, source: sources.Source, *, is_edited: bool = False
) -> Variant:
    """Applies a patch to the released files that it touches.

    Args:
        patch: The patch.
        release: The release that it is for.
        source: Where to get that from.
        is_edited: Whether it may have been edited by hand, so that what its hunks give, and
            not what it records, is taken.

    Raises:
        SourceError: If the release cannot be downloaded, or this source lacks a file.
        TreeError: If the patch is not against the files of the release, or does not apply.
    """
    paths = [change.path for change in patch.changes]
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        tree = Path(name) / "tree"
        tree.mkdir()
        sources.extract(release, source, paths, tree)
        pristine = read_files(tree, paths)
        for change in patch.changes:
            blob = patching.blob_of(tree / change.path)
            if blob == NO_BLOB and change.path.startswith("test/") and blob != change.before:
                raise SourceError(
                    f"The archive of PyG {release.version} on PyPI has no {change.path}, which "
                    f"{patch.name} changes. Upstream's tests are in its git repository only: "
                    f"--source git."
                )
            if blob != change.before:
                raise TreeError(
                    f"{patch.name} is not against {change.path} of PyG {release.version}: it "
                    f"records blob {change.before[:10]}, and the release has {blob[:10]}. "
                    f"'scripts/kit.sh validate {patch.series}' says which patches fit."
                )
        if is_edited:
            _apply_edited(tree, patch)
        else:
            patching.apply(tree, patching.plan(tree, [patch]))
        return Variant(pristine, read_files(tree, paths))


def _apply_edited(tree: Path, patch: Patch) -> None:
    # Who edits a hunk does not count its lines. Without context, the counts say where it goes.
    options = ["--recount"] if patch.is_for_library else []
    result = patching.git_apply(patch.file, tree, *options)
    if result.returncode != 0:
        raise TreeError(
            f"{patch.name} does not apply: {last_lines(result.stderr)} Expected a patch whose "
            f"context lines, and those that it removes, are upstream's. Correct them, and call "
            f"this again; nothing was changed."
        )


def read_files(tree: Path, paths: Sequence[str]) -> dict[str, bytes | None]:
    """Returns the content of some files of a tree."""
    return {path: (tree / path).read_bytes() if (tree / path).exists() else None for path in paths}


def format_diff(before: Files, after: Files, *, with_context: bool = True) -> bytes:
    """Returns the difference as `git format-patch --full-index` writes it.

    Args:
        before: The files as upstream released them.
        after: The files as they are to be.
        with_context: Whether hunks have context, which patches to upstream's tests do not.
    """
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        repository, output = Path(name) / "repository", Path(name) / "output"
        git("init", "--quiet", "--template=", repository, cwd=Path(name))
        trees = []
        for files in (before, after):
            for path, content in files.items():
                file = repository / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.unlink(missing_ok=True)
                if content is not None:
                    file.write_bytes(content)
            git("add", "--all", "--force", cwd=repository)
            trees.append(git("write-tree", cwd=repository).strip())
        options = ["-r", "-p", "--full-index", f"-U{3 if with_context else 0}"]
        git("diff-tree", *options, f"--output={output}", *trees, cwd=repository)
        diff = output.read_bytes()
    # git puts a line of the file behind `@@`: context, too.
    return diff if with_context else re.sub(rb"^(@@ .*? @@).*", rb"\1", diff, flags=re.MULTILINE)


def refresh(
    series: str,
    catalogue: Catalogue,
    source: sources.Source,
    version: str | None = None,
    since: str = "HEAD",
) -> Refresh:
    """Merges what has changed in a patch into the older variants of its series; writes nothing.

    A patch that was edited by hand gets the blob ids of what its hunks give.

    Args:
        series: The series.
        catalogue: The pinned releases.
        source: Where to get their files from.
        version: The release whose patch has changed; None for the newest patch.
        since: The commit in the history of `patches/` that has it as it was before.

    Raises:
        UsageError: If there is no such series, release or commit.
        SourceError: If a release cannot be downloaded.
        TreeError: If a patch does not apply.
    """
    if series not in catalogue.series:
        raise UsageError(
            f"There is no series '{series}'. Expected one of: {', '.join(catalogue.series)}."
        )
    if series == "regression_test":
        raise UsageError(
            "regression_test has no variants: each of its patches adds a file, and fits every "
            "release from the first on that it names. Change that patch alone."
        )
    release = catalogue.find(version) if version else None
    result = Refresh()
    patches = releases.find_patches(series, catalogue)
    chosen = [patch for patch in patches if release is None or patch in release.all_patches()]
    if not chosen:
        of = f" of PyG {release.version}" if release else ""
        raise UsageError(f"The series {series} has no patch{of}. 'scripts/apply.sh --list' shows.")
    unchanged = []
    # The patches to PyG itself, and those to upstream's own tests, which git alone has.
    for is_for_library in (True, False):
        variants = [patch for patch in patches if patch.is_for_library is is_for_library]
        changed = [patch for patch in chosen if patch.is_for_library is is_for_library]
        if changed:
            older = variants[: variants.index(changed[-1])]
            with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
                chain = _Chain(changed[-1], since, catalogue, source, result, Path(name))
                if not chain.refresh(older):
                    unchanged.append(changed[-1].name)
    if unchanged and not (result.findings or result.worklist):
        result.findings.append(
            f"Not changed since {since}: {', '.join(unchanged)}. Expected a change there, to carry "
            f"over. If it is committed already, name the commit before it: --since COMMIT; if it "
            f"is in another patch of the series, a release of that one: --from PYG-VERSION."
        )
    return result


@dataclass
class _Chain:
    """The variants of one file, of which one has changed."""

    newest: Patch
    since: str
    catalogue: Catalogue
    source: sources.Source
    result: Refresh
    folder: Path
    resolved: list[Path] = field(default_factory=list)

    def refresh(self, older: Sequence[Patch]) -> bool:
        """Merges what has changed into each older variant, and returns whether anything has."""
        before = self._before()
        if before is not None and before.text == self.newest.text:
            return False
        diffs_differ = before is None or before.diff != self.newest.diff
        theirs = self._read_newest() if diffs_differ else None
        if not older:
            self.result.findings.append(f"{self.newest.name} has no older variants.")
            return True
        if before is None:
            raise UsageError(
                f"{shown(self.newest.file)} is not in {self.since}, so what has changed in it is "
                f"not known. Commit it as it was, or name a commit that has it: --since COMMIT."
            )
        if [c.path for c in before.changes] != [c.path for c in self.newest.changes] or [
            c.before for c in before.changes
        ] != [c.before for c in self.newest.changes]:
            raise TreeError(
                f"{self.newest.name} is against other files than in {self.since}. Expected a "
                f"change of what it makes of the same files: make the variants by hand."
            )
        base = self._read(before, is_edited=True) if theirs else None
        # A proposal is for this very change: another one gets another folder.
        key = patching.blob_id(self._text_of_newest())[:10]
        proposals = build_folder() / f"refresh-{self.newest.series}-{key}"
        for patch in reversed(older):
            sides = (base, theirs) if base and theirs else None
            self._carry_over(before, patch, sides, proposals / patch.file.stem)
        # Not before all are: those patches conflict again whenever this is called.
        if not self.result.worklist:
            self.result.proposals |= dict.fromkeys(self.resolved)
        return True

    def _text_of_newest(self) -> bytes:
        return self.result.patches.get(self.newest.file, self.newest.text.encode())

    def _before(self) -> Patch | None:
        """The patch as it is in the history; None where it is not."""
        folder = self.newest.file.parent
        commit = run(["git", "rev-parse", "--verify", f"{self.since}^{{commit}}"], cwd=folder)
        if self.since.startswith("-") or commit.returncode != 0:
            raise UsageError(
                f"'{self.since}' is no commit of the git repository that {shown(folder)} lies in. "
                f"git said: {last_lines(commit.stderr)} Expected one that has the patches as they "
                f"were before the change: --since COMMIT."
            )
        name = self.newest.file.name
        content = run(["git", "cat-file", "blob", f"{self.since}:./{name}"], cwd=folder)
        if content.returncode != 0:
            return None
        file = self.folder / name
        file.write_text(content.stdout, encoding="utf-8", newline="")
        return Patch(self.newest.name, file)

    def _release_of(self, patch: Patch) -> Release:
        """The newest release that takes a patch, and that the source can have."""
        takers = [
            release
            for release in self.catalogue.releases
            if patch.name in [taken.name for taken in release.all_patches()]
        ]
        if self.source.kind is sources.Kind.GIT:
            takers = [release for release in takers if release.commit] or takers
        if not takers:
            raise TreeError(
                f"No pinned release takes {patch.name}: none is in its field 'Releases'. Expected "
                f"one of patches/releases.toml there."
            )
        return takers[-1]

    def _read_newest(self) -> Variant:
        """Reads the patch that has changed, and puts right what an edit by hand leaves wrong."""
        newest = self.newest
        try:
            return self._read(newest)
        except TreeError:
            variant = self._read(newest, is_edited=True)
        diff = format_diff(variant.pristine, variant.patched, with_context=newest.is_for_library)
        self.result.patches[newest.file] = newest.head.encode() + diff
        self.result.findings.append(
            f"{newest.name} was edited by hand: it gets the blob ids and line numbers of what its "
            f"hunks give."
        )
        return variant

    def _read(self, patch: Patch, *, is_edited: bool = False) -> Variant:
        return read_variant(patch, self._release_of(patch), self.source, is_edited=is_edited)

    def _carry_over(
        self, before: Patch, patch: Patch, sides: tuple[Variant, Variant] | None, proposals: Path
    ) -> None:
        """Merges the change into one variant: the new text of the patch, or proposals."""
        labels = (patch.name, f"{self.newest.name} in {self.since}", self.newest.name)
        head, diff = patch.head.encode(), patch.diff.encode()
        heads = [_with_own_fields(p.head, patch).encode() for p in (before, self.newest)]
        merges = {"MESSAGE": merge(head, heads[0], heads[1], labels)}
        ours = None
        if sides is not None:
            paths = [change.path for change in patch.changes]
            if paths != list(sides[0].patched):
                self.result.worklist.append(
                    f"{patch.name} changes {', '.join(paths)}, not {', '.join(sides[0].patched)}: "
                    f"carry the change over by hand."
                )
                return
            ours = self._read(patch)
            base, theirs = sides
            merges |= merge_files(ours.patched, base.patched, theirs.patched, labels)
        resolved = self._resolve(patch, merges, proposals)
        if resolved is None:
            return
        head = resolved.pop("MESSAGE") or head
        if ours is not None and resolved != ours.patched:
            diff = format_diff(ours.pristine, resolved, with_context=patch.is_for_library)
        if not diff:
            self.result.worklist.append(f"Nothing is left of {patch.name}: remove it.")
        elif head + diff == patch.text.encode():
            self.result.findings.append(f"{patch.name} stays as it is.")
        else:
            if ours is not None:
                self._check(patch, head + diff)
            self.result.patches[patch.file] = head + diff
            self.result.findings.append(f"{patch.name} takes the change.")

    def _resolve(
        self, patch: Patch, merges: Mapping[str, Merge], proposals: Path
    ) -> dict[str, bytes | None] | None:
        """What a patch is to give; None where a person has conflicts to resolve first."""
        contents: dict[str, bytes | None] = {}
        todo = []
        for path, merged in merges.items():
            contents[path] = merged.content
            if not merged.conflicts:
                continue
            file = proposals / path
            if not file.exists():
                self.result.proposals[file] = merged.content
                todo.append(file)
                continue
            contents[path] = file.read_bytes()
            if _MARKERS.search(contents[path] or b""):
                todo.append(file)
            else:
                self.resolved.append(file)
        if not todo:
            return contents
        files = ", ".join(str(shown(file)) for file in todo)
        self.result.worklist.append(
            f"{patch.name} conflicts with the change. Resolve what is marked in {files}, and call "
            f"this again."
        )
        return None

    def _check(self, patch: Patch, text: bytes) -> None:
        """Sees that a new patch gives what it records, before anything is written."""
        file = self.folder / f"new-{patch.file.name}"
        file.write_bytes(text)
        self._read(dataclasses.replace(patch, file=file))


def _with_own_fields(head: str, patch: Patch) -> str:
    """A patch's head with the `From:`, `Date:` and `Releases:` of another one."""
    own = {line.split(" ", 1)[0]: line for line in _OWN.findall(patch.head)}
    return _OWN.sub(lambda match: own.get(match[0].split(" ", 1)[0], match[0]), head)


def write(result: Refresh) -> None:
    """Writes the patches and the proposals.

    Raises:
        TreeError: If one of them cannot be written. Then none is.
    """
    write_files({**result.patches, **result.proposals})


def write_files(files: Mapping[Path, bytes | None]) -> None:
    """Writes files in `patches/` and `build/`: all of them, or none.

    Raises:
        TreeError: If one of them cannot be written.
    """
    top = releases.PATCHES.parent
    with transactions.locked(top):
        transactions.recover(top)
        transactions.write({path: transactions.Wanted(data) for path, data in files.items()}, top)
