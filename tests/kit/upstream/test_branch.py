"""Branches of topics and backports, as a person makes them."""

import ast
import re
from pathlib import Path

import pytest
from conftest import git
from kit import releases
from kit.errors import TreeError
from kit.upstream import topics

from .conftest import CHANGELOG, LIBRARY, ONE, TOPICS, make_repository, prepare, run, state


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
        *(change.path for patch in topic.patches for change in patch.changes),
    }
    for change in fix.changes if fix else ():
        assert git("rev-parse", f"{topic.branch}:{change.path}", cwd=main).strip() == change.after
    # The tests stand in upstream's own file, once, below what was there.
    text = git("show", f"{topic.branch}:{topic.tests[0]}", cwd=main)
    body = ast.parse(text).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    assert names == ["test_something", *topic.new_tests]
    # What it imports stands above all, once.
    imports = [ast.unparse(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in body[: len(imports)]] == imports
    assert len(set(imports)) == len(imports) and "import torch" in imports
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
        (["nonsense"], 2, f"Expected one of: {TOPICS[0]}, "),
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
    # A commit a patch, each with the message of its patch.
    subjects = git("log", "--reverse", "--format=%s", f"HEAD..{branch}", cwd=clone).splitlines()
    assert subjects == [patch.subject for patch in release.patches]
    assert "left out: " not in said
    text = git("show", f"{branch}:{LIBRARY}", cwd=clone)
    assert text.endswith("# Ours.\n") and "(AttentionMixin, MessagePassing)" in text
    # It is set where a layer is made, and nowhere else.
    assert re.findall(r".*self\._alpha\b.*", text) == ["        self._alpha = None"]
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
