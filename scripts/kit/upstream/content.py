"""What goes into a branch: patches with three sides, tests, a line in the CHANGELOG."""

import ast
import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kit import sources
from kit.errors import TreeError
from kit.processes import last_lines, run
from kit.releases import NO_BLOB, Patch, Release
from kit.upstream.repository import REPOSITORY, git
from kit.upstream.topics import definitions

CHANGELOG = "CHANGELOG.md"


def supply_blobs(
    repository: Path, patches: Sequence[Patch], release: Release, source: sources.Source
) -> None:
    """Puts the files that patches are against into a repository that lacks them.

    A merge with three sides needs them. A shallow clone may not have them. (Upstream's
    tests are in no archive: where they have changed since, the patch fits, or it does not.)
    """
    source = dataclasses.replace(source, kind=sources.Kind.SDIST)
    for patch in patches:
        missing = [
            change
            for change in patch.changes
            if change.before != NO_BLOB
            and not change.path.startswith("test/")
            and run(["git", "cat-file", "-e", change.before], cwd=repository).returncode != 0
        ]
        if not missing:
            continue
        with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
            sources.extract(release, source, [change.path for change in missing], Path(name))
            for change in missing:
                if (Path(name) / change.path).exists():
                    git("hash-object", "-w", Path(name) / change.path, cwd=repository)


def merge(tree: Path, patch: Patch, base: str) -> None:
    """Applies a patch with three sides: the file it is against, the patched one, and the tree's.

    Raises:
        TreeError: If they conflict, with both sides.
    """
    # Without a look at the user's settings for whitespace; the patch is as it is.
    command = ["git", "apply", "--3way", "--unidiff-zero", "--whitespace=nowarn"]
    result = run([*command, patch.file], cwd=tree)
    if result.returncode == 0:
        return
    conflicts = git("diff", "--name-only", "--diff-filter=U", cwd=tree).split()
    advice = (
        "No branch was made, and the repository is as it was. Bring the patch up to date "
        "(CONTRIBUTING.md, 'From a finding to a merged pull request'), or name an older commit: "
        "--base REF."
    )
    if conflicts:
        sides = git("diff", "--diff-filter=U", cwd=tree)
        raise TreeError(
            f"{patch.name} conflicts with what {base[:9]} has made of {', '.join(conflicts)}. "
            f"Between <<<<<<< and =======, the base; between ======= and >>>>>>>, the patch:\n\n"
            f"{sides}\n{advice}"
        )
    raise TreeError(
        f"{patch.name} cannot be applied to {base[:9]}. git said: {last_lines(result.stderr)} "
        f"{advice}"
    )


def is_gone(tree: Path, patch: Patch) -> bool:
    """Whether a patch only removes lines, and none of them is there any more."""
    for file in patch.hunks:
        text = (tree / file.path).read_text(encoding="utf-8") if (tree / file.path).exists() else ""
        lines = [line for hunk in file for line in hunk]
        if any(line.is_added or line.value in text.splitlines(keepends=True) for line in lines):
            return False
    return True


def add_tests(existing: str, added: str, settings: Path) -> str:
    """Adds tests, the classes that they use, and what they import, to a test file.

    Args:
        existing: The file as it is; "" where there is none.
        added: Imports, classes and functions. Those that are there already are left out.
        settings: The tree whose `pyproject.toml` says how imports are sorted.
    """
    import isort  # not at the top: `apply` takes a second, and has no use for it

    there = {node.name for node in definitions(existing)}
    lines = added.splitlines()
    new = [
        "\n".join(lines[min(n.lineno for n in (node, *node.decorator_list)) - 1 : node.end_lineno])
        for node in definitions(added)
        if node.name not in there
    ]
    if not new:
        return existing
    if not existing:
        return added
    imports = [
        ast.unparse(node)
        for node in ast.parse(added).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    text = "\n\n\n".join([existing.rstrip("\n"), *new]) + "\n"
    config = isort.Config(settings_path=str(settings), add_imports=frozenset(imports))
    return str(isort.code(text, config=config))


def add_entry(text: str, section: str, entry: str) -> str:
    """Adds a line to a section of what is not released yet in a CHANGELOG.

    Raises:
        TreeError: If there is no such section.
    """
    unreleased = re.search(r"^## \[Unreleased\].*?(?=^## |\Z)", text, re.M | re.S)
    heading = unreleased and re.compile(rf"^### {section}\n+", re.M).search(
        text, unreleased.start(), unreleased.end()
    )
    if not heading:
        raise TreeError(
            f"{CHANGELOG} has no '### {section}' below '## [Unreleased]'. Expected upstream's "
            f"CHANGELOG between two releases. No branch was made."
        )
    rest = text[heading.end() :]
    gap = "" if rest.startswith("- ") else "\n"
    return f"{text[: heading.start()]}### {section}\n\n- {entry}\n{gap}{rest}"


def numbered(entry: str, number: int | None) -> str:
    """A line of the CHANGELOG, with the number of its pull request where there is one."""
    link = f" ([#{number}](https://github.com/{REPOSITORY}/pull/{number}))"
    return entry + (link if number else "")
