"""Makes branches: of a topic on upstream's main branch, or with the patches of a release."""

import dataclasses
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from kit import sources
from kit.errors import TreeError, UsageError
from kit.processes import run
from kit.releases import NO_BLOB, Catalogue, Patch, Release
from kit.upstream import content, page, repository
from kit.upstream.prepared import Prepared, read
from kit.upstream.repository import git, resolve, worktree
from kit.upstream.topics import BACKPORT, Topic


def prepare(
    topic: Topic,
    catalogue: Catalogue,
    source: sources.Source,
    repo: Path | None,
    base: str | None,
    number: int | None,
) -> Prepared | None:
    """Makes the branch of a topic, its patches and its description, or nothing.

    Args:
        topic: What it is about.
        catalogue: The pinned releases: the patches are against the nightly build.
        source: Where to fetch upstream's main branch from.
        repo: A clone; None for one of the kit's own.
        base: Where to start; None for upstream's main branch.
        number: The number of the pull request, once there is one.

    Returns:
        The branch; None where the base has it all.

    Raises:
        KitError: If it cannot be made.
    """
    clone = repository.find(repo, source)
    if resolve(clone, f"refs/heads/{topic.branch}"):
        if number is None:
            raise _exists(clone, topic.branch)
        prepared = _fill_in(topic, clone, number)
    else:
        commit = repository.find_base(clone, base, None, source)
        nightly = catalogue.find("nightly")
        content.supply_blobs(clone, topic.patches, nightly, source)
        with worktree(clone, commit) as tree:
            for patch in topic.patches:
                if not content.is_gone(tree, patch):
                    content.merge(tree, patch, commit)
            _write(tree, topic.tests[0], content.add_tests, topic.read("test.py"), tree)
            if not git("status", "--porcelain", cwd=tree):
                return None
            entry = content.numbered(topic.entry, number)
            _write(tree, content.CHANGELOG, content.add_entry, topic.section, entry)
            head = _commit(tree, f"{topic.subject}\n\n{topic.message}")
        prepared = Prepared(
            topic=topic.name,
            subject=topic.subject,
            repository=str(clone),
            branch=topic.branch,
            base=commit,
            head=head,
            target=repository.MAIN,
            tests=list(topic.tests),
            new_tests=topic.new_tests,
            has_fix=topic.patch("fix") is not None,
        )
    _finish(prepared, page.describe(topic, prepared), topic.reproducers)
    return prepared


def _exists(clone: Path, branch: str) -> TreeError:
    return TreeError(
        f"{clone} has a branch '{branch}' already. --pr NUMBER fills in the number of its "
        f"pull request; 'git -C {shlex.quote(str(clone))} branch -D {branch}' removes it."
    )


def _write(tree: Path, path: str, change: Callable[..., str], *arguments: object) -> None:
    file = tree / path
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(change(before, *arguments), encoding="utf-8", newline="")
    git("add", "--force", path, cwd=tree)


def _commit(tree: Path, message: str, *options: str) -> str:
    git("commit", "--quiet", "--file=-", *options, cwd=tree, stdin=message)
    return git("rev-parse", "HEAD", cwd=tree).strip()


def _fill_in(topic: Topic, clone: Path, number: int) -> Prepared:
    """Adds a commit with the number of the pull request to a branch."""
    prepared = read(topic.name)
    head = resolve(clone, f"refs/heads/{topic.branch}")
    if prepared is None or Path(prepared.repository) != clone:
        raise _exists(clone, topic.branch)
    with worktree(clone, head) as tree:
        if f"- {topic.entry}" not in (tree / content.CHANGELOG).read_text(encoding="utf-8"):
            raise TreeError(
                f"{content.CHANGELOG} of {topic.branch} has no line '- {topic.entry}' any more. "
                f"Expected it there, to add the number to; nothing was changed."
            )
        pattern = rf"^- {re.escape(topic.entry)}(?: \(\[#\d+\]\(\S+\)\))?$"
        _write(
            tree,
            content.CHANGELOG,
            lambda text: re.sub(
                pattern, lambda _: f"- {content.numbered(topic.entry, number)}", text, flags=re.M
            ),
        )
        if git("status", "--porcelain", cwd=tree):
            head = _commit(tree, "Update CHANGELOG.md\n")
    return dataclasses.replace(prepared, head=head)


def prepare_backport(
    release: Release,
    catalogue: Catalogue,
    source: sources.Source,
    repo: Path | None,
    base: str | None,
) -> Prepared:
    """Makes a branch with the patches of a release, for a fork of PyG.

    Args:
        release: The release.
        catalogue: The pinned releases.
        source: Where to get the release from.
        repo: A clone; None for one of the kit's own.
        base: Where to start; None for the release.

    Raises:
        KitError: If it cannot be made.
    """
    clone = repository.find(repo, source)
    branch = f"thread-safety-{release.version}"
    if resolve(clone, f"refs/heads/{branch}"):
        raise _exists(clone, branch)
    commit = repository.find_base(clone, base, release, source)
    content.supply_blobs(clone, release.patches, release, source)
    with worktree(clone, commit) as tree:
        taken, left_out = _commit_patches(tree, release, base or commit[:9], commit)
        head = git("rev-parse", "HEAD", cwd=tree).strip()
    if not taken:
        raise UsageError(f"{base or commit[:9]} has all patches of PyG {release.version} already.")
    new = [c.path for p in taken for c in p.changes if c.before == NO_BLOB and "/test_" in c.path]
    # The test of `torch_geometric/nn/conv/a.py` is `test/nn/conv/test_a.py`.
    library = [Path(c.path) for p in taken if p.is_for_library for c in p.changes]
    own = [f"test/{'/'.join(file.parts[1:-1])}/test_{file.name}" for file in library]
    prepared = Prepared(
        topic=f"{BACKPORT}{release.version}",
        subject=f"Make the layers of PyG {release.version} safe to share between threads",
        repository=str(clone),
        branch=branch,
        base=commit,
        head=head,
        target=base or "YOUR-BRANCH",
        tests=[*new, *own],
        new_tests=[],
        has_fix=True,
        version=release.version,
        left_out=tuple(left_out),
    )
    reproducer = page.fill_in(
        "backport/reproducer.py.jinja",
        layer="GATv2Conv" if "gatv2_conv" in release.affected() else "TransformerConv",
    )
    text = page.describe_backport(prepared, release, catalogue, taken, reproducer)
    _finish(prepared, text, {"reproducer.py": reproducer})
    return prepared


def _commit_patches(
    tree: Path, release: Release, named: str, commit: str
) -> tuple[list[Patch], list[str]]:
    """Commits the patches of a release, one each.

    Returns:
        Those that changed something, and the names of those that the base has no files for.
    """
    taken, left_out = [], []
    for patch in release.patches:
        if all(c.before != NO_BLOB and not (tree / c.path).exists() for c in patch.changes):
            if patch.is_for_library:
                raise TreeError(
                    f"{named} has no {patch.changes[0].path}. Expected a commit of PyG "
                    f"{release.version}, or of a fork of it. No branch was made."
                )
            left_out.append(patch.name)
            continue
        content.merge(tree, patch, commit)
        if git("status", "--porcelain", cwd=tree):
            options = [f"--author={patch.author}", f"--date={patch.date}"]
            _commit(tree, f"{patch.subject}\n\n{patch.body}\n", *options)
            taken.append(patch)
    return taken, left_out


def _finish(prepared: Prepared, description: str, reproducers: dict[str, str]) -> None:
    """Makes or moves the branch, and writes what goes with it: both, or neither."""
    repository.BUILD.mkdir(parents=True, exist_ok=True)
    clone = Path(prepared.repository)
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=repository.BUILD) as name:
        made = Path(name) / "made"
        git(
            *("format-patch", "--quiet", "-o", made),
            f"{prepared.base}..{prepared.head}",
            cwd=clone,
        )
        for file, text in (
            ("body.md", description),
            *reproducers.items(),
            ("prepared.json", json.dumps(asdict(prepared), indent=2) + "\n"),
        ):
            (made / file).write_text(text, encoding="utf-8")
        # Where it is checked out, git refuses to move it: the user's files would lag behind.
        git("branch", "--force", prepared.branch, prepared.head, cwd=clone)
        shutil.rmtree(prepared.folder, ignore_errors=True)
        made.rename(prepared.folder)


def next_commands(prepared: Prepared) -> list[str]:
    """The commands that push a branch and open its pull request, to be run by a person."""
    clone = Path(prepared.repository)
    # It fails where there is no remote.
    command = ["git", "config", "--get-regexp", r"^remote\..*\.url$"]
    remotes = run(command, cwd=clone).stdout.splitlines()
    remote, owner = (
        f"git@github.com:YOUR-LOGIN/{repository.REPOSITORY.split('/')[1]}.git",
        "YOUR-LOGIN",
    )
    for line in remotes:
        key, url = line.split(" ", 1)
        match = re.search(r"github\.com[:/]([^/]+)/", url)
        if match and match[1] != repository.REPOSITORY.split("/")[0]:
            remote, owner = key.split(".")[1], match[1]
            break
    into = f"{owner}/pytorch_geometric" if prepared.version else repository.REPOSITORY
    push = ["git", "-C", str(clone), "push", remote, prepared.branch]
    create = ["gh", "pr", "create", "--repo", into, "--base", prepared.target]
    create += ["--head", f"{owner}:{prepared.branch}", "--title", prepared.subject]
    create += ["--body-file", str(prepared.folder / "body.md")]
    return [shlex.join(push), shlex.join(create)]
