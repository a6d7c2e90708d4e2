"""Pull requests: branches on upstream's main branch, or on a release in a company's fork."""

import ast
import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import releases, reporting, sources
from kit.errors import SourceError, ToolError, TreeError, UsageError
from kit.processes import last_lines, run
from kit.releases import NO_BLOB, ROOT, Catalogue, Patch, Release, read_toml

REPOSITORY = "pyg-team/pytorch_geometric"
MAIN = "master"
CHANGELOG = "CHANGELOG.md"

# Where branches are made, unless the user names a repository, and what goes with each.
BUILD = ROOT / "build" / "upstream"

# What `check --record` saw, as a page.
PAGE = ROOT / "docs" / "upstream.md"
DATA = ROOT / "docs" / "upstream.json"

BACKPORT = "backport-"


@dataclass(frozen=True)
class Topic:
    """What one pull request is about; `patches/upstream/topics.toml` explains the fields."""

    name: str
    subject: str
    message: str
    branch: str
    layer: str
    section: str
    entry: str
    tests: tuple[str, ...]
    held: str
    forced: str

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return _folder() / self.name

    def patch(self, name: str) -> Patch | None:
        """One of its patches, such as `fix`, where it has that."""
        file = self.folder / f"{name}.patch"
        return Patch(f"upstream/{self.name}/{file.name}", file) if file.exists() else None

    @property
    def patches(self) -> list[Patch]:
        """What is applied, in order."""
        return [patch for name in ("fix", "test") if (patch := self.patch(name))]

    @property
    def all_patches(self) -> list[Patch]:
        """Those, and the way that was not taken."""
        return [*self.patches, *([other] if (other := self.patch("edge_updater")) else [])]

    @property
    def takes_list(self) -> bool:
        """Whether its fix lets the weights travel in a list."""
        fix = self.patch("fix")
        return fix is not None and "attention.append(" in fix.text

    @property
    def new_tests(self) -> list[str]:
        """The names of the tests that it adds."""
        return [function.name for function in _functions(self.read("test.py"))]

    def read(self, name: str) -> str:
        """The text of one of its files."""
        return (self.folder / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Prepared:
    """A branch that has been made. Kept beside its patches, for `check`.

    Attributes:
        topic: The name of the topic.
        subject: The title of the pull request.
        repository: The repository with the branch.
        branch: Its name.
        base: The commit that it starts from.
        head: Its last commit.
        target: The branch to merge it into.
        tests: The test files that are about it.
        new_tests: The names of the tests that it adds to the first file, or the new files.
        has_fix: Whether it changes the library.
        version: The PyG release of a backport; "" for a topic.
        left_out: The patches that the base has no files for.
    """

    topic: str
    subject: str
    repository: str
    branch: str
    base: str
    head: str
    target: str
    tests: list[str]
    new_tests: list[str]
    has_fix: bool
    version: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its patches and its description lie."""
        return BUILD / self.topic


def _folder() -> Path:
    return releases.PATCHES / "upstream"


def load() -> list[Topic]:
    """Reads `patches/upstream/topics.toml`."""
    file = _folder() / "topics.toml"
    return [
        Topic(name=name, **{**fields, "tests": tuple(fields["tests"])})
        for name, fields in (read_toml(file) if file.exists() else {}).items()
    ]


def find(name: str) -> Topic:
    """Returns a topic.

    Raises:
        UsageError: If there is none of that name.
    """
    topics = load()
    for topic in topics:
        if topic.name == name:
            return topic
    raise UsageError(
        f"There is no topic '{name}'. Expected one of: {', '.join(t.name for t in topics)}; or "
        f"{BACKPORT}VERSION, such as {BACKPORT}2.3.1. 'scripts/kit.sh upstream list' lists all."
    )


def find_backport(name: str, catalogue: Catalogue) -> Release | None:
    """Returns the release that a backport is for, or None for a topic.

    Raises:
        UsageError: If there is no such release, or nothing to be put right in it.
    """
    if not name.startswith(BACKPORT):
        return None
    release = catalogue.find(name.removeprefix(BACKPORT))
    if release.is_nightly:
        raise UsageError("For upstream's main branch, name a topic: there is nothing to backport.")
    return release


# Git in the user's repository, as the user: with their name, and their settings.


def _git(*arguments: str | Path, cwd: Path, stdin: str | None = None) -> str:
    result = run(["git", "-c", f"core.hooksPath={os.devnull}", *arguments], cwd=cwd, stdin=stdin)
    if result.returncode == 0:
        return result.stdout
    said = last_lines(result.stderr)
    if "tell me who you are" in result.stderr or "empty ident" in result.stderr:
        raise ToolError(
            "Git does not know who you are, and the commit is to be yours: set "
            "'git config --global user.name' and 'user.email', and call this again."
        )
    raise ToolError(
        f"'git {arguments[0]}' failed in {cwd}: {said} The branches of the repository are as they "
        f"were."
    )


def _resolve(repository: Path, ref: str) -> str:
    result = run(["git", "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], cwd=repository)
    return result.stdout.strip()


def changed(repository: Path, base: str, head: str) -> list[str]:
    """The files that differ between two commits."""
    return _git("diff", "--name-only", base, head, cwd=repository).splitlines()


@contextlib.contextmanager
def worktree(repository: Path, commit: str) -> Iterator[Path]:
    """Checks a commit out beside a repository, whose own work tree is left alone."""
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        tree = Path(name) / "tree"
        _git("worktree", "add", "--quiet", "--detach", tree, commit, cwd=repository)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", tree, cwd=repository)


def _repository(repo: Path | None, source: sources.Source) -> Path:
    """The user's clone, or one of the kit's own."""
    if repo is not None:
        result = run(["git", "rev-parse", "--git-dir"], cwd=repo) if repo.is_dir() else None
        if result is None or result.returncode != 0:
            raise TreeError(
                f"{repo} is no git repository. Expected a clone of PyG; without --repo, one is "
                "made in build/upstream."
            )
        return repo.absolute()
    clone = BUILD / "pytorch_geometric"
    if clone.exists():
        return clone
    source.notify(f"Cloning {source.git_url} (minutes) ...")
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".clone-", dir=BUILD) as name:
        made = Path(name) / "clone"
        # Blobs come when they are asked for: the history of PyG is long.
        command = ["git", "clone", "--quiet", "--filter=blob:none", "--single-branch"]
        result = run([*command, source.git_url, made], env=sources.GIT_REMOTE)
        if result.returncode != 0:
            raise SourceError(
                f"{source.git_url} could not be cloned: {last_lines(result.stderr)} Check the "
                f"address and the network, or name a clone of yours: --repo DIR."
            )
        made.rename(clone)
    return clone


def _fetch(repository: Path, source: sources.Source, ref: str) -> str:
    source.notify(f"Fetching {ref} from {source.git_url} ...")
    command = ["git", "fetch", "--quiet", "--no-tags", source.git_url, ref]
    result = run(command, cwd=repository, env=sources.GIT_REMOTE)
    if result.returncode != 0:
        raise SourceError(
            f"{ref} could not be fetched from {source.git_url}: {last_lines(result.stderr)} Check "
            f"the address and the network, or name a commit that {repository} has: --base REF."
        )
    return _resolve(repository, "FETCH_HEAD")


def _find_base(
    repository: Path, ref: str | None, release: Release | None, source: sources.Source
) -> str:
    if ref is not None:
        commit = _resolve(repository, ref)
        if not commit:
            raise UsageError(
                f"{repository} has no commit '{ref}'. Name a branch, a tag or a commit that "
                f"'git rev-parse' knows there."
            )
        return commit
    if release is None:
        return _fetch(repository, source, "HEAD")
    if release.commit is None:
        raise UsageError(
            f"No commit is pinned for PyG {release.version}. Name the one to start from: "
            f"--base REF."
        )
    return _resolve(repository, release.commit) or _fetch(repository, source, release.commit)


# What goes into a branch.


def _supply_blobs(
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
                    _git("hash-object", "-w", Path(name) / change.path, cwd=repository)


def _merge(tree: Path, patch: Patch, base: str) -> None:
    """Applies a patch with three sides: the file it is against, the patched one, and the tree's.

    Raises:
        TreeError: If they conflict, with both sides.
    """
    # Without a look at the user's settings for whitespace; the patch is as it is.
    command = ["git", "apply", "--3way", "--unidiff-zero", "--whitespace=nowarn"]
    result = run([*command, patch.file], cwd=tree)
    if result.returncode == 0:
        return
    conflicts = _git("diff", "--name-only", "--diff-filter=U", cwd=tree).split()
    advice = (
        "No branch was made, and the repository is as it was. Bring the patch up to date "
        "(CONTRIBUTING.md, 'From a finding to a merged pull request'), or name an older commit: "
        "--base REF."
    )
    if conflicts:
        sides = _git("diff", "--diff-filter=U", cwd=tree)
        raise TreeError(
            f"{patch.name} conflicts with what {base[:9]} has made of {', '.join(conflicts)}. "
            f"Between <<<<<<< and =======, the base; between ======= and >>>>>>>, the patch:\n\n"
            f"{sides}\n{advice}"
        )
    raise TreeError(
        f"{patch.name} cannot be applied to {base[:9]}. git said: {last_lines(result.stderr)} "
        f"{advice}"
    )


def _is_gone(tree: Path, patch: Patch) -> bool:
    """Whether a patch only removes lines, and none of them is there any more."""
    for file in patch.hunks:
        text = (tree / file.path).read_text(encoding="utf-8") if (tree / file.path).exists() else ""
        lines = [line for hunk in file for line in hunk]
        if any(line.is_added or line.value in text.splitlines(keepends=True) for line in lines):
            return False
    return True


def _functions(text: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]


def add_tests(existing: str, added: str, settings: Path) -> str:
    """Adds test functions, and what they import, to a test file.

    Args:
        existing: The file as it is; "" where there is none.
        added: Imports and functions. Functions that are there already are left out.
        settings: The tree whose `pyproject.toml` says how imports are sorted.
    """
    import isort  # not at the top: `apply` takes a second, and has no use for it

    there = {function.name for function in _functions(existing)}
    lines = added.splitlines()
    functions = [
        "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in _functions(added)
        if node.name not in there
    ]
    if not functions:
        return existing
    if not existing:
        return added
    imports = [
        ast.unparse(node)
        for node in ast.parse(added).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    text = "\n\n\n".join([existing.rstrip("\n"), *functions]) + "\n"
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
    repository = _repository(repo, source)
    if _resolve(repository, f"refs/heads/{topic.branch}"):
        if number is None:
            raise _exists(repository, topic.branch)
        prepared = _fill_in(topic, repository, number)
    else:
        commit = _find_base(repository, base, None, source)
        nightly = catalogue.find("nightly")
        _supply_blobs(repository, topic.patches, nightly, source)
        with worktree(repository, commit) as tree:
            for patch in topic.patches:
                if not _is_gone(tree, patch):
                    _merge(tree, patch, commit)
            _write(tree, topic.tests[0], add_tests, topic.read("test.py"), tree)
            if not _git("status", "--porcelain", cwd=tree):
                return None
            entry = numbered(topic.entry, number)
            _write(tree, CHANGELOG, add_entry, topic.section, entry)
            head = _commit(tree, f"{topic.subject}\n\n{topic.message}")
        prepared = Prepared(
            topic=topic.name,
            subject=topic.subject,
            repository=str(repository),
            branch=topic.branch,
            base=commit,
            head=head,
            target=MAIN,
            tests=list(topic.tests),
            new_tests=topic.new_tests,
            has_fix=topic.patch("fix") is not None,
        )
    _finish(prepared, describe(topic, prepared), topic.read("reproducer.py"))
    return prepared


def _exists(repository: Path, branch: str) -> TreeError:
    return TreeError(
        f"{repository} has a branch '{branch}' already. --pr NUMBER fills in the number of its "
        f"pull request; 'git -C {shlex.quote(str(repository))} branch -D {branch}' removes it."
    )


def _write(tree: Path, path: str, change: Callable[..., str], *arguments: object) -> None:
    file = tree / path
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(change(before, *arguments), encoding="utf-8", newline="")
    _git("add", "--force", path, cwd=tree)


def _commit(tree: Path, message: str, *options: str) -> str:
    _git("commit", "--quiet", "--file=-", *options, cwd=tree, stdin=message)
    return _git("rev-parse", "HEAD", cwd=tree).strip()


def _fill_in(topic: Topic, repository: Path, number: int) -> Prepared:
    """Adds a commit with the number of the pull request to a branch."""
    prepared = read(topic.name)
    head = _resolve(repository, f"refs/heads/{topic.branch}")
    if prepared is None or Path(prepared.repository) != repository:
        raise _exists(repository, topic.branch)
    with worktree(repository, head) as tree:
        if f"- {topic.entry}" not in (tree / CHANGELOG).read_text(encoding="utf-8"):
            raise TreeError(
                f"{CHANGELOG} of {topic.branch} has no line '- {topic.entry}' any more. Expected "
                f"it there, to add the number to; nothing was changed."
            )
        pattern = rf"^- {re.escape(topic.entry)}(?: \(\[#\d+\]\(\S+\)\))?$"
        _write(
            tree,
            CHANGELOG,
            lambda text: re.sub(
                pattern, lambda _: f"- {numbered(topic.entry, number)}", text, flags=re.M
            ),
        )
        if _git("status", "--porcelain", cwd=tree):
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
    repository = _repository(repo, source)
    branch = f"thread-safety-{release.version}"
    if _resolve(repository, f"refs/heads/{branch}"):
        raise _exists(repository, branch)
    commit = _find_base(repository, base, release, source)
    _supply_blobs(repository, release.patches, release, source)
    taken, left_out = [], []
    with worktree(repository, commit) as tree:
        for patch in release.patches:
            if all(c.before != NO_BLOB and not (tree / c.path).exists() for c in patch.changes):
                if patch.is_for_library:
                    raise TreeError(
                        f"{base or commit[:9]} has no {patch.changes[0].path}. Expected a commit "
                        f"of PyG {release.version}, or of a fork of it. No branch was made."
                    )
                left_out.append(patch.name)
                continue
            _merge(tree, patch, commit)
            if _git("status", "--porcelain", cwd=tree):
                options = [f"--author={patch.author}", f"--date={patch.date}"]
                head = _commit(tree, f"{patch.subject}\n\n{patch.body}\n", *options)
                taken.append(patch)
    if not taken:
        raise UsageError(f"{base or commit[:9]} has all patches of PyG {release.version} already.")
    new = [c.path for p in taken for c in p.changes if c.before == NO_BLOB and "/test_" in c.path]
    # The test of `torch_geometric/nn/conv/a.py` is `test/nn/conv/test_a.py`.
    library = [Path(c.path) for p in taken if p.is_for_library for c in p.changes]
    own = [f"test/{'/'.join(file.parts[1:-1])}/test_{file.name}" for file in library]
    prepared = Prepared(
        topic=f"{BACKPORT}{release.version}",
        subject=f"Make the layers of PyG {release.version} safe to share between threads",
        repository=str(repository),
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
    reproducer = _render(
        "backport/reproducer.py.jinja",
        layer="GATv2Conv" if "gatv2_conv" in release.affected() else "TransformerConv",
    )
    text = _describe_backport(prepared, release, catalogue, taken, reproducer)
    _finish(prepared, text, reproducer)
    return prepared


def _finish(prepared: Prepared, description: str, reproducer: str) -> None:
    """Makes or moves the branch, and writes what goes with it: both, or neither."""
    BUILD.mkdir(parents=True, exist_ok=True)
    repository = Path(prepared.repository)
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=BUILD) as name:
        made = Path(name) / "made"
        _git(
            *("format-patch", "--quiet", "-o", made),
            f"{prepared.base}..{prepared.head}",
            cwd=repository,
        )
        for file, text in (
            ("body.md", description),
            ("reproducer.py", reproducer),
            ("prepared.json", json.dumps(asdict(prepared), indent=2) + "\n"),
        ):
            (made / file).write_text(text, encoding="utf-8")
        # Where it is checked out, git refuses to move it: the user's files would lag behind.
        _git("branch", "--force", prepared.branch, prepared.head, cwd=repository)
        shutil.rmtree(prepared.folder, ignore_errors=True)
        made.rename(prepared.folder)


def read(topic: str) -> Prepared | None:
    """Returns the branch of a topic as it is now, if there is one."""
    file = BUILD / topic / "prepared.json"
    if not file.exists():
        return None
    prepared = Prepared(**json.loads(file.read_text(encoding="utf-8")))
    # Somebody may have added a commit, or removed the branch.
    repository = Path(prepared.repository)
    head = _resolve(repository, f"refs/heads/{prepared.branch}") if repository.is_dir() else ""
    return dataclasses.replace(prepared, head=head) if head else None


def next_commands(prepared: Prepared) -> list[str]:
    """The commands that push a branch and open its pull request, to be run by a person."""
    repository = Path(prepared.repository)
    # It fails where there is no remote.
    command = ["git", "config", "--get-regexp", r"^remote\..*\.url$"]
    remotes = run(command, cwd=repository).stdout.splitlines()
    remote, owner = f"git@github.com:YOUR-LOGIN/{REPOSITORY.split('/')[1]}.git", "YOUR-LOGIN"
    for line in remotes:
        key, url = line.split(" ", 1)
        match = re.search(r"github\.com[:/]([^/]+)/", url)
        if match and match[1] != REPOSITORY.split("/")[0]:
            remote, owner = key.split(".")[1], match[1]
            break
    into = f"{owner}/pytorch_geometric" if prepared.version else REPOSITORY
    push = ["git", "-C", str(repository), "push", remote, prepared.branch]
    create = ["gh", "pr", "create", "--repo", into, "--base", prepared.target]
    create += ["--head", f"{owner}:{prepared.branch}", "--title", prepared.subject]
    create += ["--body-file", str(prepared.folder / "body.md")]
    return [shlex.join(push), shlex.join(create)]


# What is said of a branch.


def _render(name: str, **values: object) -> str:
    """Fills in a template."""
    import jinja2  # not at the top: `apply` takes a second, and has no use for it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown, of the kit's own text)
    )
    return environment.get_template(name).render(**values)


def read_data() -> dict[str, Any]:
    """Returns what `check --record` saw, by topic."""
    if not DATA.exists():
        return {}
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return data


def render(data: dict[str, Any]) -> str:
    """The page that says what was seen of each branch, in Markdown."""
    topics = [topic for topic in load() if topic.name in data]
    backports = sorted(name for name in data if name.startswith(BACKPORT))
    text = _render("page.md.jinja", data=data, topics=topics, backports=backports)
    return _tidy(text)


def describe(topic: Topic, prepared: Prepared) -> str:
    """The description of a pull request, in Markdown."""
    recorded = read_data().get(topic.name, {})
    text = _render(
        "body.md.jinja",
        topic=topic,
        has_fix=prepared.has_fix,
        takes_list=topic.takes_list,
        base=prepared.base,
        reproducer=topic.read("reproducer.py"),
        proof=recorded.get("proof"),
        cost=recorded.get("cost"),
        machine=recorded.get("machine"),
    )
    return _unwrap(_tidy(text))


def _describe_backport(
    prepared: Prepared,
    release: Release,
    catalogue: Catalogue,
    taken: list[Patch],
    reproducer: str,
) -> str:
    seen = reporting.load(reporting.read_data())
    cells = [cell for cell in seen.cells if cell.release == release.version and cell.holds]
    fixed = [
        f"{catalogue.classes[layer]} is fixed from {found.version} on"
        for layer in release.affected()
        if (found := catalogue.fixed_in(layer))
    ]
    text = _render(
        "backport/body.md.jinja",
        topic=prepared.topic,
        release=release,
        layers=[f"`{catalogue.classes[layer]}`" for layer in release.affected()],
        fixed=", ".join(fixed),
        base=prepared.base,
        reproducer=reproducer,
        commits=[patch.subject for patch in taken],
        left_out=prepared.left_out,
        environments=[cell.environment for cell in cells],
        proof=read_data().get(prepared.topic, {}).get("proof"),
    )
    return _unwrap(_tidy(text))


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _unwrap(text: str) -> str:
    """Puts each paragraph and each item of a list on one line: GitHub breaks at every newline."""
    lines: list[str] = []
    in_code = False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        previous = lines[-1] if lines else ""
        starts = not line or line.startswith(("- ", "|", "### ", "```"))
        if in_code or starts or not previous or previous.startswith(("|", "### ", "```")):
            lines.append(line)
        else:
            lines[-1] = f"{previous} {line.strip()}"
    return "\n".join(lines) + "\n"
