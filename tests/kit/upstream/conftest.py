"""Upstream's main branch, made of the pinned nightly build, and the command that works on it."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import git, write
from kit import releases, sources
from kit.archives import unpack
from kit.releases import ROOT
from kit.upstream import branch as branches
from kit.upstream import checks as checking
from kit.upstream import content, topics
from kit.upstream import repository as clones
from kit.upstream.prepared import Prepared

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
    unpack(sources.archive(release, source), path)
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


# A small upstream, which needs no torch.

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
    monkeypatch.setattr(clones, "BUILD", tmp_path / "build")
    set_fix(repository, FIXED)
    return repository


def set_fix(repository: Path, fixed: str) -> None:
    (repository / LAYER).write_text(fixed)
    diff = git("diff", "--full-index", cwd=repository)
    git("checkout", "-q", "--", LAYER, cwd=repository)
    (topics.find("layer").folder / "fix.patch").write_text(diff)


def prepare_layer(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Makes the branch of the topic of the small upstream."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for key in ("user.name", "user.email"):
        git("config", key, "somebody@example.org", cwd=repository)
    topic = topics.find("layer")
    monkeypatch.setattr(content, "supply_blobs", lambda *arguments: None)
    source = sources.Source(sources.Kind.AUTO, "", True, Path(), lambda message: None)
    catalogue = dataclasses.replace(releases.load())
    prepared = branches.prepare(topic, catalogue, source, repository, "master", None)
    assert prepared
    return prepared


def check(repository: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, checking.Check]:
    prepared = prepare_layer(repository, monkeypatch)
    python = Path(sys.executable)
    return {done.name: done for done, _ in checking.check(prepared, python, lambda message: None)}
