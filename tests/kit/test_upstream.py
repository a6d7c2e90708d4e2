"""Pull requests: prepared on a repository made of the pinned nightly build, and checked."""

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import git, write
from kit import releases, sources, validating
from kit.bench import cases as benching
from kit.errors import TreeError
from kit.releases import ROOT
from kit.upstream import branch as branches
from kit.upstream import checks as checking
from kit.upstream import content, page, repository, topics
from kit.upstream import prepared as kept

# As upstream's are, but the tests' own: an archive from PyPI has neither.
CHANGELOG = """# Changelog

## [Unreleased] - YYYY-MM-DD

### Added

### Changed

- Changed something ([#1](https://example.org/1))

### Fixed

- Fixed something ([#2](https://example.org/2))

## [1.0.0] - 2026-01-01

### Fixed

- Fixed what was before
"""
TEST = "import torch\n\nimport torch_geometric\n\n\ndef test_something():\n    pass\n"

TOPICS = [topic.name for topic in topics.load()]
ONE = "transformer_conv"
LIBRARY = "torch_geometric/nn/conv/transformer_conv.py"
TEST_FILE = "test/nn/conv/test_transformer_conv.py"


def asserting_test(patch: str) -> str:
    """Makes a test file that has the lines that a patch removes, where it removes them."""
    lines = TEST.splitlines()
    for number, line in re.findall(r"^@@ -(\d+) .*\n-( *.*)$", patch, re.M):
        depth = (len(line) - len(line.lstrip())) // 4
        block = ["    " * level + "if True:" for level in range(1, depth)]
        block += ["    " * depth + "pass", line]
        lines += ["    pass"] * (int(number) - len(block) - len(lines)) + block
    return "\n".join(lines) + "\n"


def make_repository(version: str, path: Path) -> Path:
    """Makes a git repository of a pinned release, with what an archive lacks."""
    release = releases.load().find(version)
    kind = sources.Kind.SDIST
    cache = sources.default_cache()
    source = sources.Source(kind, "", False, cache, lambda message: None)
    path.mkdir()
    git("init", "-q", "-b", "master", cwd=path)
    sources.unpack(sources.archive(release, source), path)
    files = {test: TEST for topic in topics.load() for test in topic.tests}
    files |= {
        patch.changes[0].path: asserting_test(patch.text)
        for topic in topics.load()
        if (patch := topic.patch("test"))
    }
    write(path, {**files, "CHANGELOG.md": CHANGELOG})
    git("add", "--all", "--force", cwd=path)
    git("commit", "-qm", f"PyG {version}", cwd=path)
    return path


@pytest.fixture(scope="session")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository("nightly", tmp_path_factory.mktemp("upstream") / "pristine")


@pytest.fixture
def main(nightly: Path, tmp_path: Path) -> Path:
    """Upstream's main branch."""
    git("clone", "-q", nightly, tmp_path / "main", cwd=tmp_path)
    return tmp_path / "main"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{who}_NAME", raising=False)
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n\tname = A Contributor\n\temail = contributor@example.org\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config.rename(tmp_path / ".gitconfig")
    return tmp_path / "build"


def run(build: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs `upstream` as a person would, save that it builds elsewhere."""
    program = (
        "import pathlib; from kit import cli; from kit.upstream import repository;"
        f"repository.BUILD = pathlib.Path({str(build)!r}); cli.main()"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "scripts"),
        "PYG_THREADSAFE_CACHE": str(sources.default_cache()),
        "COLUMNS": "1000",
    }
    command = [sys.executable, "-c", program, "upstream", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def prepare(build: Path, *arguments: str | Path) -> str:
    result = run(build, "prepare", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def state(repository: Path) -> list[str]:
    """All of a repository that a person would see."""
    return [
        git("for-each-ref", cwd=repository),
        git("worktree", "list", cwd=repository),
        git("status", "--porcelain", "--branch", "--ignored", cwd=repository),
        git("rev-parse", "HEAD", cwd=repository),
    ]


@pytest.mark.parametrize("name", TOPICS)
def test_prepare(build: Path, main: Path, tmp_path: Path, name: str) -> None:
    topic = topics.find(name)
    before = state(main)
    # What the user is doing in there is none of our business.
    (main / "notes.txt").write_text("mine\n")
    git("add", "notes.txt", cwd=main)
    said = prepare(build, name, "--repo", main, "--base", "master")
    git("rm", "-qf", "notes.txt", cwd=main)
    after = state(main)
    assert after[1:] == before[1:]
    (added,) = set(after[0].splitlines()) - set(before[0].splitlines())
    assert added.endswith(f"refs/heads/{topic.branch}")
    # One commit, in the user's name, as upstream writes them.
    log = git("log", "--format=%an%n%B", f"master..{topic.branch}", cwd=main)
    assert log.strip() == f"A Contributor\n{topic.subject}\n\n{topic.message.strip()}"
    assert max(map(len, log.splitlines())) <= 72
    # The library is as the patch records it.
    fix = topic.patch("fix")
    changed = git("diff", "--name-only", "master", topic.branch, cwd=main).split()
    assert set(changed) == {
        "CHANGELOG.md",
        topic.tests[0],
        *((c.path for c in fix.changes) if fix else ()),
    }
    for change in fix.changes if fix else ():
        assert git("rev-parse", f"{topic.branch}:{change.path}", cwd=main).strip() == change.after
    # The tests stand in upstream's own file, once, below what was there.
    text = git("show", f"{topic.branch}:{topic.tests[0]}", cwd=main)
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert names == ["test_something", *topic.new_tests]
    assert text.count("import torch\n") == 1 and text.startswith("import threading\n")
    # The CHANGELOG has a line in the right section of what is to be released.
    changelog = git("show", f"{topic.branch}:CHANGELOG.md", cwd=main)
    assert changelog.replace(f"- {topic.entry}\n", "").replace("\n\n\n", "\n\n") == CHANGELOG
    section = changelog.split(f"### {topic.section}\n")[1].split("###")[0]
    assert section.startswith(f"\n- {topic.entry}\n")
    # Nothing of it speaks of the kit.
    diff = git("diff", "master", topic.branch, cwd=main)
    assert not re.search(r"threadsafe|the kit\b|\bkit\.sh", diff + log)
    # `git am` makes the same of the patches.
    folder = build / name
    clone = tmp_path / "clone"
    git("clone", "-q", main, clone, cwd=tmp_path)
    git("am", "-q", *sorted(folder.glob("*.patch")), cwd=clone)
    assert git("rev-parse", "HEAD^{tree}", cwd=clone) == git(
        "rev-parse", f"{topic.branch}^{{tree}}", cwd=main
    )
    # It is pushed by the user, by these commands.
    assert f"git -C {main} push " in said
    assert "gh pr create --repo pyg-team/pytorch_geometric --base master " in said
    assert str(folder / "body.md") in said


@pytest.mark.parametrize("name", TOPICS)
def test_description(build: Path, main: Path, name: str) -> None:
    prepare(build, name, "--repo", main, "--base", "master")
    body = (build / name / "body.md").read_text()
    topic = topics.find(name)
    reproducer = topic.read("reproducer.py")
    assert f"```python\n{reproducer}```\n" in body
    assert (build / name / "reproducer.py").read_text() == reproducer
    for number in ("issues/8741", "pull/8753"):
        assert f"https://github.com/pyg-team/pytorch_geometric/{number}" in body
    for heading in ("Reproducer", "The test"):
        assert f"### {heading}\n" in body
    recorded = page.read_data()[name]
    assert recorded["proof"]["reproducer_before"] in body
    if topic.patch("fix"):
        assert "### Cost" in body
        for ratio in recorded["cost"]["ratios"]:
            if ratio["variant"] != "unpatched":
                assert f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" in body
    attention = ("gatv2_conv_single_gather", "transformer_conv", "fa_conv", "rgat_conv")
    assert ("### Why a list" in body) == (name in attention)
    assert ("### Compatibility" in body) == (name != "gatv2_conv")
    assert not re.search(r"threadsafe|the kit\b|\bkit\.sh|\{\{|\{%", body)
    # GitHub breaks a line where there is a newline: each paragraph is one line.
    text = re.sub(r"```.*?```", "", body, flags=re.S)
    for line, following in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        blank = not line or not following
        assert blank or following.startswith(("|", "- ")), following


def test_main_has_moved_on(build: Path, main: Path) -> None:
    file = main / LIBRARY
    text = file.read_text()
    file.write_text(
        "# A new first line.\n" + text.replace("beta: bool = False", "beta: bool = True")
    )
    changelog = main / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace(
            "### Fixed\n\n- Fixed some", "### Fixed\n\n- New\n- Fixed some"
        )
    )
    git("commit", "-qam", "move on", cwd=main)
    prepare(build, ONE, "--repo", main, "--base", "master")
    branch = topics.find(ONE).branch
    merged = git("show", f"{branch}:{LIBRARY}", cwd=main)
    assert merged.startswith("# A new first line.\n") and "beta: bool = True" in merged
    assert "attention.append(alpha)" in merged and "_alpha" not in merged


def test_conflict(build: Path, main: Path) -> None:
    file = main / LIBRARY
    file.write_text(
        file.read_text().replace("self._alpha = alpha\n", "self._alpha = alpha.clone()\n")
    )
    git("commit", "-qam", "move on", cwd=main)
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == TreeError.exit_code
    assert state(main) == before
    assert not (build / ONE).exists()
    said = result.stderr
    assert f"upstream/{ONE}/fix.patch conflicts" in said and LIBRARY in said
    # Both sides, and what to do.
    ours, theirs = said.index("self._alpha = alpha.clone()"), said.index("attention.append(alpha)")
    assert said.index("<<<<<<<", said.index("diff --cc")) < ours < theirs
    assert "--base REF" in said and "CONTRIBUTING.md" in said


def test_a_file_that_is_gone(build: Path, main: Path) -> None:
    git("rm", "-q", LIBRARY, cwd=main)
    git("commit", "-qm", "remove", cwd=main)
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == TreeError.exit_code and LIBRARY in result.stderr
    assert state(main) == before


def test_number_of_the_pull_request(build: Path, main: Path) -> None:
    topic = topics.find(ONE)
    prepare(build, ONE, "--repo", main, "--base", "master")
    first = git("rev-parse", topic.branch, cwd=main).strip()
    # A second time, it is a mistake.
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == TreeError.exit_code and "--pr NUMBER" in result.stderr
    link = "([#{0}](https://github.com/pyg-team/pytorch_geometric/pull/{0}))"
    for number in (10800, 10801):
        prepare(build, ONE, "--repo", main, "--pr", str(number))
        changelog = git("show", f"{topic.branch}:CHANGELOG.md", cwd=main)
        assert f"- {topic.entry} {link.format(number)}\n" in changelog
        assert changelog.count(topic.entry) == 1
    # Where the branch is checked out, it is not moved away under the user's files.
    git("checkout", "-q", topic.branch, cwd=main)
    before = state(main)
    made = sorted(file.name for file in (build / ONE).iterdir())
    assert run(build, "prepare", ONE, "--repo", main, "--pr", "10804").returncode == 5
    assert state(main) == before
    assert sorted(file.name for file in (build / ONE).iterdir()) == made
    git("checkout", "-q", "master", cwd=main)
    # Where the user has reworded the line, it is not guessed.
    git("checkout", "-q", topic.branch, cwd=main)
    (main / "CHANGELOG.md").write_text(CHANGELOG)
    git("commit", "-qam", "reword", cwd=main)
    git("checkout", "-q", "master", cwd=main)
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--pr", "10803")
    assert result.returncode == 4 and topic.entry in result.stderr
    assert state(main) == before
    # What has been pushed stays as it is.
    assert git("merge-base", first, topic.branch, cwd=main).strip() == first
    assert len(list((build / ONE).glob("*.patch"))) == 3
    # Known from the start, it goes into the commit.
    git("branch", "-D", topic.branch, cwd=main)
    prepare(build, ONE, "--repo", main, "--base", "master", "--pr", "10802")
    assert link.format(10802) in git("show", topic.branch, cwd=main)


def test_main_has_it_already(build: Path, main: Path) -> None:
    topic = topics.find(ONE)
    prepare(build, ONE, "--repo", main, "--base", "master")
    git("checkout", "-q", "-b", "next", topic.branch, cwd=main)
    git("branch", "-D", topic.branch, cwd=main)
    before = state(main)
    assert "Nothing to do" in prepare(build, ONE, "--repo", main, "--base", "next")
    assert state(main) == before
    # Another topic changes the same lines of the explainer: they are there once.
    prepare(build, "fa_conv", "--repo", main, "--base", "next")
    changed = git("diff", "--name-only", "next", topics.find("fa_conv").branch, cwd=main).split()
    assert len(changed) == 3 and not any("explain" in path for path in changed)


def test_clone(build: Path, main: Path) -> None:
    before = state(main)
    prepare(build, ONE, "--git-url", main.as_uri())
    # The next topic is made in the same clone, on what main is then.
    git("commit", "-q", "--allow-empty", "-m", "move on", cwd=main)
    prepare(build, "lpformer", "--git-url", main.as_uri())
    clone = build / "pytorch_geometric"
    base = git("merge-base", "HEAD", topics.find("lpformer").branch, cwd=clone)
    tip = git("rev-parse", f"{topics.find('lpformer').branch}^", cwd=clone)
    assert tip == git("rev-parse", "master", cwd=main) != base
    # Nothing was pushed.
    assert state(main)[0].count("\n") == before[0].count("\n")
    listed = run(build, "list").stdout
    assert listed.count("  branch ") == 2


def test_shallow_clone(build: Path, main: Path, tmp_path: Path) -> None:
    """The file that the patch is against need not be in the clone."""
    file = main / LIBRARY
    file.write_text("# A new first line.\n" + file.read_text())
    git("commit", "-qam", "move on", cwd=main)
    shallow = tmp_path / "shallow"
    git("clone", "-q", "--depth=1", main.as_uri(), shallow, cwd=tmp_path)
    (change,) = (c for c in topics.find(ONE).patch("fix").changes if c.path == LIBRARY)
    with pytest.raises(subprocess.CalledProcessError):
        git("cat-file", "-e", change.before, cwd=shallow)
    prepare(build, ONE, "--repo", shallow, "--base", "master")
    merged = git("show", f"{topics.find(ONE).branch}:{LIBRARY}", cwd=shallow)
    assert merged.startswith("# A new first line.\n") and "attention.append(alpha)" in merged


@pytest.mark.parametrize(
    "remotes, push, head",
    [
        ({}, "git@github.com:YOUR-LOGIN/pytorch_geometric.git", "YOUR-LOGIN"),
        ({"upstream": "https://github.com/pyg-team/x"}, "git@github.com:YOUR-LOGIN/", "YOUR-LOGIN"),
        ({"mine": "git@github.com:somebody/pytorch_geometric.git"}, "push mine ", "somebody"),
    ],
)
def test_where_to_push(
    build: Path, main: Path, remotes: dict[str, str], push: str, head: str
) -> None:
    git("remote", "remove", "origin", cwd=main)
    for name, url in remotes.items():
        git("remote", "add", name, url, cwd=main)
    said = prepare(build, ONE, "--repo", main, "--base", "master")
    assert push in said and f"--head {head}:{topics.find(ONE).branch}" in said


def test_mistakes(build: Path, main: Path, tmp_path: Path) -> None:
    before = state(main)
    for arguments, code, said in (
        (["nonsense"], 2, "Expected one of: gatv2_conv, "),
        (["backport-9.9.9"], 2, "newer than the newest"),
        (["backport-nightly"], 2, "name a topic"),
        ([ONE, "--repo", main, "--base", "nonsense"], 2, "no commit 'nonsense'"),
        ([ONE, "--repo", main, "--pr", "0"], 2, "--pr"),
        (["backport-2.4.0", "--repo", main, "--base", "master", "--pr", "1"], 2, "--pr"),
        (["backport-2.8.1", "--repo", main], 2, "--base REF"),
        ([ONE, "--repo", tmp_path / "nowhere"], 4, "no git repository"),
        ([ONE, "--git-url", (tmp_path / "nowhere").as_uri()], 3, "--repo DIR"),
        ([ONE, "--repo", main, "--git-url", (tmp_path / "no").as_uri()], 3, "--base REF"),
    ):
        result = run(build, "prepare", *arguments)
        assert (result.returncode, said in result.stderr) == (code, True), result.stderr
    result = run(build, "check", ONE)
    assert result.returncode == 4 and f"upstream prepare {ONE}" in result.stderr
    assert state(main) == before
    assert not (build / "pytorch_geometric").exists()


def test_git_does_not_know_the_user(
    build: Path, main: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == 5 and "git config --global user.name" in result.stderr
    assert state(main) == before


def test_changelog_of_a_release(build: Path, main: Path) -> None:
    (main / "CHANGELOG.md").write_text("# Changelog\n\n## [2.9.0] - 2026-12-01\n\n### Fixed\n")
    git("commit", "-qam", "release", cwd=main)
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == 4 and "[Unreleased]" in result.stderr
    assert state(main) == before


def test_add_entry() -> None:
    text = content.add_entry(CHANGELOG, "Added", "New")
    assert "### Added\n\n- New\n\n### Changed\n" in text
    text = content.add_entry(text, "Added", "Newer")
    assert "### Added\n\n- Newer\n- New\n\n### Changed\n" in text
    assert text.split("## [1.0.0]")[1] == CHANGELOG.split("## [1.0.0]")[1]


def test_add_tests(tmp_path: Path) -> None:
    added = "import threading\n\nimport torch\n"
    added += "".join(f"\n\ndef test_{name}():\n    pass\n" for name in "ab")
    existing = "import torch\n\n\ndef test_a():\n    assert True\n"
    text = content.add_tests(existing, added, tmp_path)
    assert text == (
        "import threading\n\nimport torch\n\n\ndef test_a():\n    assert True\n"
        "\n\ndef test_b():\n    pass\n"
    )
    assert content.add_tests(text, added, tmp_path) == text
    assert content.add_tests("", added, tmp_path) == added


# Backports.


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A company's fork of 2.3.1, which has a change of its own."""
    path = make_repository("2.3.1", tmp_path_factory.mktemp("fork") / "fork")
    git("checkout", "-q", "-b", "company/2.3.1", cwd=path)
    file = path / LIBRARY
    file.write_text(file.read_text() + "# Ours.\n")
    git("rm", "-qr", "test", cwd=path)
    git("commit", "-qam", "ours", cwd=path)
    return path


def test_backport(build: Path, fork: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git("clone", "-q", fork, clone, cwd=tmp_path)
    before = state(clone)
    said = prepare(build, "backport-2.3.1", "--repo", clone, "--base", "company/2.3.1")
    assert state(clone)[1:] == before[1:]
    branch = "thread-safety-2.3.1"
    release = releases.load().find("2.3.1")
    # A commit a patch, each with the message of its patch; upstream's tests are not there.
    subjects = git("log", "--reverse", "--format=%s", f"HEAD..{branch}", cwd=clone).splitlines()
    left_out = [patch for patch in release.patches if patch.file.stem.endswith("-test")]
    assert subjects == [p.subject for p in release.patches if p not in left_out]
    assert said.count("left out: ") == len(left_out) == 3
    text = git("show", f"{branch}:{LIBRARY}", cwd=clone)
    assert text.endswith("# Ours.\n") and "self._alpha" not in text.replace("('self._alpha'", "")
    body = (build / "backport-2.3.1" / "body.md").read_text()
    for layer in release.affected():
        assert f"`{releases.load().classes[layer]}`" in body
    assert "GATv2Conv is fixed from 2.5.0 on" in body and "pyg231-torch213" in body
    assert "import GATv2Conv" in body and not re.search(r"\{\{|\{%", body)
    assert "--base company/2.3.1" in said
    # The CHANGELOG is the company's.
    assert "CHANGELOG.md" not in git("diff", "--name-only", "HEAD", branch, cwd=clone)
    again = run(build, "prepare", "backport-2.3.1", "--repo", clone, "--base", branch)
    assert again.returncode == 4
    git("branch", "-m", branch, "other", cwd=clone)
    again = run(build, "prepare", "backport-2.3.1", "--repo", clone, "--base", "other")
    assert again.returncode == 2 and "has all patches" in again.stderr


def test_backport_of_a_release_with_another_layer(build: Path, main: Path) -> None:
    """Where upstream has fixed `GATv2Conv`, the reproducer is about another one."""
    result = run(build, "prepare", "backport-2.8.0", "--repo", main, "--base", "master")
    assert result.returncode == 0, result.stderr
    assert "import TransformerConv" in (build / "backport-2.8.0" / "reproducer.py").read_text()


# Checks: on a small PyG, without torch.

LAYER = "torch_geometric/layer.py"
RACY = """class Layer:
    def forward(self, x):
        self.value = x
        self.hold()
        return self.value

    def hold(self):
        pass
"""
FIXED = RACY.replace("        self.value = x\n", "").replace("return self.value", "return x")
NEW_TEST = """from torch_geometric.layer import Layer


def test_layer_shared():
    layer = Layer()
    calls = []

    def hold():
        if not calls:
            calls.append(1)
            layer.forward(2)

    layer.hold = hold
    assert layer.forward(1) == 1
"""
REPRODUCER = NEW_TEST.split("def test_layer_shared():\n")[0] + re.sub(
    r"^    ", "", NEW_TEST.split("def test_layer_shared():\n")[1], flags=re.M
)
OLD_TEST = "import torch_geometric\n\n\ndef test_layer():\n    assert torch_geometric is not None\n"
TOPIC = """
[layer]
subject = "Fix `Layer`"
message = "It was not right."
branch = "layer"
layer = "Layer"
section = "Fixed"
entry = "Fixed `Layer`"
tests = ["test/test_layer.py"]
held = "a method"
forced = "It fails."
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small upstream with the linters of the real one, and a topic for it."""
    repository = tmp_path / "small"
    repository.mkdir()
    hooks = {
        "https://github.com/google/yapf": ["v0.43.0", "yapf", ["toml"]],
        "https://github.com/pycqa/isort": ["8.0.1", "isort", []],
        "https://github.com/PyCQA/flake8": ["7.3.0", "flake8", ["Flake8-pyproject"]],
        "https://github.com/astral-sh/ruff-pre-commit": ["v0.15.15", "ruff", []],
    }
    config = [
        {"repo": url, "rev": rev, "hooks": [{"id": hook, "additional_dependencies": extra}]}
        for url, (rev, hook, extra) in hooks.items()
    ]
    write(
        repository,
        {
            "torch_geometric/__init__.py": "",
            LAYER: RACY,
            "test/test_layer.py": OLD_TEST,
            "CHANGELOG.md": CHANGELOG,
            # JSON is YAML.
            ".pre-commit-config.yaml": json.dumps({"repos": config}),
            "pyproject.toml": "[tool.yapf]\nbased_on_style = 'pep8'\n"
            "blank_line_before_nested_class_or_def = false\n",
        },
    )
    git("init", "-q", "-b", "master", cwd=repository)
    git("add", "--all", cwd=repository)
    git("commit", "-qm", "main", cwd=repository)
    folder = tmp_path / "patches" / "upstream"
    shutil.copytree(ROOT / "patches" / "upstream", folder)
    shutil.copy(ROOT / "patches" / "releases.toml", folder.parent)
    (folder / "topics.toml").write_text(TOPIC)
    write(folder / "layer", {"test.py": NEW_TEST, "reproducer.py": REPRODUCER})
    monkeypatch.setattr(releases, "PATCHES", folder.parent)
    monkeypatch.setattr(repository, "BUILD", tmp_path / "build")
    set_fix(repository, FIXED)
    return repository


def set_fix(repository: Path, fixed: str) -> None:
    (repository / LAYER).write_text(fixed)
    diff = git("diff", "--full-index", cwd=repository)
    git("checkout", "-q", "--", LAYER, cwd=repository)
    (topics.find("layer").folder / "fix.patch").write_text(diff)


def check(repository: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, checking.Check]:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for key in ("user.name", "user.email"):
        git("config", key, "somebody@example.org", cwd=repository)
    topic = topics.find("layer")
    monkeypatch.setattr(content, "supply_blobs", lambda *arguments: None)
    source = sources.Source(sources.Kind.AUTO, "", True, Path(), lambda message: None)
    catalogue = dataclasses.replace(releases.load())
    prepared = branches.prepare(topic, catalogue, source, repository, "master", None)
    assert prepared
    python = Path(sys.executable)
    return {done.name: done for done, _ in checking.check(prepared, python, lambda message: None)}


NAMES = [
    *("yapf", "isort", "flake8", "ruff"),
    *("reproducer fails on the base", "reproducer passes on the branch"),
    *("tests, FULL_TEST=1", "tests", "new tests, 50 times", "new tests without the fix"),
]


def test_check(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = check(small, monkeypatch)
    assert list(done) == NAMES
    assert [each for each in done.values() if not each.holds] == []
    assert done["new tests, 50 times"].detail == "1 tests, 50 of 50 runs passed"
    assert done["tests"].detail == "2 passed (1 on the base)"
    assert done["yapf"].detail == "yapf 0.43.0, 2 files"
    assert git("worktree", "list", cwd=small).count("\n") == 1


@pytest.mark.parametrize(
    "fixed, bad",
    [
        (RACY.replace("self.hold()", "self.hold( )"), {"yapf", "flake8"}),
        (
            FIXED.replace("class Layer", "import sys\nimport os\n\n\nclass Layer"),
            {"isort", "flake8"},
        ),
        (FIXED.replace("def hold(self)", "def hold(self, x=[])"), {"ruff"}),
    ],
    ids=["yapf", "isort", "ruff"],
)
def test_check_finds_bad_style(
    small: Path, monkeypatch: pytest.MonkeyPatch, fixed: str, bad: set[str]
) -> None:
    settings = small / "pyproject.toml"
    settings.write_text(settings.read_text() + '[tool.ruff.lint]\nselect = ["B"]\n')
    git("commit", "-qam", "settings", cwd=small)
    set_fix(small, fixed)
    done = check(small, monkeypatch)
    found = {name for name in NAMES[:4] if not done[name].holds}
    assert found == bad


@pytest.mark.parametrize(
    "change, bad",
    [
        ("no fix", set(NAMES[5:9])),
        ("another error", {NAMES[4], NAMES[5]}),
        ("a test that cannot fail", {NAMES[9]}),
        ("a test that is broken", {NAMES[6], NAMES[7]}),
    ],
)
def test_check_finds_bad_code(
    small: Path, monkeypatch: pytest.MonkeyPatch, change: str, bad: set[str]
) -> None:
    folder = topics.find("layer").folder
    if change == "no fix":
        set_fix(small, RACY + "\n\nVALUE = 1\n")
    elif change == "another error":
        (folder / "reproducer.py").write_text("import nowhere\n")
    elif change == "a test that cannot fail":
        (folder / "test.py").write_text("def test_layer_shared():\n    pass\n")
    else:
        set_fix(small, FIXED.replace("class Layer", "BROKEN = True\n\n\nclass Layer"))
        (small / "test" / "test_layer.py").write_text(
            OLD_TEST + "\n\ndef test_whole():\n    from torch_geometric import layer\n\n"
            "    assert not hasattr(layer, 'BROKEN')\n"
        )
        git("commit", "-qam", "a test", cwd=small)
    done = check(small, monkeypatch)
    assert {name for name, each in done.items() if not each.holds} == bad


def test_check_of_what_the_branch_is_now(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(small, monkeypatch)
    git("checkout", "-q", "layer", cwd=small)
    git("commit", "-q", "--allow-empty", "-m", "mine", cwd=small)
    prepared = kept.read("layer")
    assert prepared and prepared.head == git("rev-parse", "layer", cwd=small).strip()
    git("checkout", "-q", "master", cwd=small)
    git("branch", "-qD", "layer", cwd=small)
    assert kept.read("layer") is None


def test_measure(build: Path, main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(build, ONE, "--repo", main, "--base", "master")
    monkeypatch.setattr(repository, "BUILD", build)
    monkeypatch.setattr(checking, "PROCESSES", 3)
    prepared = kept.read(ONE)
    assert prepared
    before = git("worktree", "list", cwd=main)
    codes: list[dict[str, str]] = []

    def run_cases(python: Path, tree: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
        assert git("rev-parse", "HEAD", cwd=tree).strip() == prepared.base
        for case in cases:
            assert f"def test_{ONE}" in Path(case["test"]).read_text()
            assert (case["class"], case["variants"][benching.PRISTINE]) == ("TransformerConv", None)
        codes.extend(
            {label: Path(file or tree / LIBRARY).read_text() for label, file in variants.items()}
            for variants in (case["variants"] for case in cases)
        )
        # Each process sees another ratio; their middle is what counts.
        ms = {benching.PRISTINE: 2.0, checking.OURS: 2.0 + len(codes) / len(cases)}
        ms[checking.EDGE_UPDATER] = 8.0
        seen = {
            "times": {label: [1e-3 * ms[label]] * 4 for label in ms},
            "peak_bytes": dict.fromkeys(ms, 10) | {checking.EDGE_UPDATER: 5},
        }
        return {"python": "3.11.7", "torch": "2.13.0", "cases": [seen] * len(cases)}

    monkeypatch.setattr(benching, "run_cases", run_cases)
    cost = checking.measure(prepared, releases.load(), Path(sys.executable), lambda message: None)
    assert cost and (cost["torch"], cost["python"]) == ("2.13.0", "3.11.7")
    found = {(r["graph"], r["mode"], r["variant"]): r for r in cost["ratios"]}
    assert len(found) == len(cost["ratios"]) == 2 * 2 * 3
    for graph in ("small", "middle"):
        for mode in ("inference", "training"):
            ours = found[graph, mode, checking.OURS]
            assert (ours["ratio"], ours["memory_ratio"], ours["processes"]) == (2.0, 1.0, 3)
            other = found[graph, mode, checking.EDGE_UPDATER]
            assert (other["ratio"], other["memory_ratio"]) == (4.0, 0.5)
    # What is timed is what it is called.
    for code in codes:
        assert "self._alpha" in code[benching.PRISTINE]
        assert "self._alpha" not in code[checking.OURS]
        assert "self.edge_updater(" in code[checking.EDGE_UPDATER]
        assert "self.edge_updater(" not in code[checking.OURS]
    assert git("worktree", "list", cwd=main) == before


def test_measure_has_nothing_to_time(
    build: Path, main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(build, "gatv2_conv", "--repo", main, "--base", "master")  # a test, and no fix
    monkeypatch.setattr(repository, "BUILD", build)
    prepared = kept.read("gatv2_conv")
    assert prepared
    arguments = (releases.load(), Path(sys.executable), lambda message: None)
    assert checking.measure(prepared, *arguments) is None


# What has been recorded.


def test_every_topic_is_recorded() -> None:
    data = page.read_data()
    assert set(TOPICS) <= set(data)
    assert any(name.startswith(topics.BACKPORT) for name in data)
    for name, recorded in data.items():
        assert all(each["holds"] for each in recorded["proof"]["checks"]), name


def test_page() -> None:
    assert page.PAGE.read_text() == page.render(page.read_data())


def test_patches_to_upstreams_tests_have_no_context() -> None:
    for name in TOPICS:
        patch = topics.find(name).patch("test")
        if patch:
            lines = patch.text.splitlines()
            assert not any(line.startswith((" ", "+")) and line[:3] != "+++" for line in lines)
            assert all(re.fullmatch(r"@@ .* @@", line) for line in lines if line[:2] == "@@")


def test_patches_are_against_the_nightly() -> None:
    nightly = releases.load().find("nightly")
    known = {c.path: c.before for p in nightly.all_patches() for c in p.changes}
    for name in TOPICS:
        for patch in topics.find(name).all_patches:
            for change in patch.changes:
                assert known.get(change.path, change.before) == change.before


def test_validate_looks_at_the_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = releases.load().find("nightly")
    cache = sources.default_cache()
    source = sources.Source(sources.Kind.SDIST, "", False, cache, lambda message: None)
    shutil.copytree(ROOT / "patches" / "upstream", tmp_path / "patches" / "upstream")
    monkeypatch.setattr(releases, "PATCHES", tmp_path / "patches")
    topic = topics.find(ONE)
    assert validating._validate_topic(topic, release, source, tmp_path / "before") == []
    for name in ("fix", "edge_updater"):
        file = topic.folder / f"{name}.patch"
        file.write_text(file.read_text().replace("-        self._alpha = alpha", "-        pass"))
    problems = validating._validate_topic(topic, release, source, tmp_path / "after")
    assert len(problems) == 2 and all(LIBRARY in problem for problem in problems)
