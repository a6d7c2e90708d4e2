"""A small PyG of the tests' own: a git repository, sdists, a folder of patches with pins.

Two releases are affected (1.8.0, 1.9.0; their layer is the same), one is fixed
(2.0.0). The patches are made by git, from commits.
"""

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kit import adding, cli, interrupts, releases, sources

LAYER = "torch_geometric/nn/conv/gatv2_conv.py"
VERSION_FILE = "torch_geometric/__init__.py"
UPSTREAM_TEST = "test/nn/conv/test_gatv2_conv.py"
NEW_TEST = "test/nn/conv/test_gatv2_conv_thread_safety.py"

BEFORE = "".join(f"line {i}\n" for i in range(1, 41)).replace("line 20\n", "self._alpha = alpha\n")
AFTER = BEFORE.replace("self._alpha = alpha\n", "attention.append(alpha)\n")
FASTER = AFTER.replace("attention.append(alpha)\n", "attention.append(alpha)  # faster\n")
TEST_BEFORE = "def test():\n    pass\n    assert conv._alpha is None\n"
TEST_AFTER = "def test():\n    pass\n"

PYPROJECT = """
[build-system]
requires = ["flit_core >=3.2,<4"]
build-backend = "flit_core.buildapi"
[project]
name = "torch_geometric"
version = "{}"
description = "a small one"
"""


def git(*arguments: str | Path, cwd: Path) -> str:
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "somebody" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=env, check=True, capture_output=True, text=True
    ).stdout


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file of a tree with its content, git's own aside, and every directory."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"(directory)"
        for path in sorted(root.rglob("*"))
        if ".git" not in path.relative_to(root).parts
    }


def subjects(checkout: Path) -> list[str]:
    return git("log", "--format=%s", cwd=checkout).splitlines()[::-1]


def refused(result: "subprocess.CompletedProcess[str]", code: int, *phrases: str) -> None:
    """An error is one paragraph on stderr, without a traceback, and has its exit code."""
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    message = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    assert result.stderr.rstrip().endswith(message[0].rstrip())
    for phrase in phrases:
        assert phrase in message[0]


def library(version: str) -> dict[str, str]:
    layer = AFTER if version == "2.0.0" else BEFORE
    return {VERSION_FILE: f"__version__ = '{version}'\n", LAYER: layer}


@dataclass(frozen=True)
class World:
    """Where the parts of the small PyG lie."""

    upstream: Path
    index: Path
    patches: Path
    cache: Path

    def run(
        self, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs the kit as a person would, save that it finds the small PyG."""
        command, environment = self.command(*arguments, env=env)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def command(
        self, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> tuple[list[str], dict[str, str]]:
        program = (
            "import pathlib, sys; sys.path.remove('') if '' in sys.path else None;"
            "from kit import cli, releases;"
            f"releases.PATCHES = pathlib.Path({str(self.patches)!r}); cli.main()"
        )
        environment = {
            **os.environ,
            "PYTHONPATH": str(releases.ROOT / "scripts"),
            "PYG_THREADSAFE_CACHE": str(self.cache),
            "COLUMNS": "1000",
            **(env or {}),
        }
        # Python 3.13.0 fails where the working directory is gone, but for what `-P` keeps out.
        safe = ["-P"] if sys.version_info >= (3, 11) else []
        return [sys.executable, *safe, "-c", program, *map(str, arguments)], environment

    def apply(
        self, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs `apply`; git means the small repository."""
        return self.run("apply", "--git-url", self.upstream.as_uri(), *arguments, env=env)


def make_sdist(index: Path, version: str) -> Path:
    path = index / f"torch_geometric-{version}.tar.gz"
    files = {**library(version), "pyproject.toml": PYPROJECT.format(version)}
    with tarfile.open(path, "w:gz") as sdist:
        for name, text in files.items():
            member = tarfile.TarInfo(f"torch_geometric-{version}/{name}")
            member.size = len(text.encode())
            sdist.addfile(member, io.BytesIO(text.encode()))
    return path


def make_patch(
    work: Path, target: Path, before: dict[str, str], after: dict[str, str], message: str
) -> None:
    write(work, {"README": "", **before})
    git("add", "--all", cwd=work)
    git("commit", "--allow-empty", "-qm", "before", cwd=work)
    write(work, after)
    git("add", "--all", cwd=work)
    git("commit", "-qm", message, cwd=work)
    context = "0" if UPSTREAM_TEST in before else "3"
    options = ["-1", "--stdout", "--full-index", "--zero-commit", "--no-signature", "--no-stat"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(git("format-patch", *options, f"-U{context}", cwd=work))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    upstream, index, patches = root / "upstream", root / "index", root / "patches"
    for directory in (upstream, index, patches):
        directory.mkdir()
    git("init", "-q", "-b", "master", cwd=upstream)
    records = []
    for version in ("1.8.0", "1.9.0", "2.0.0"):
        affected = version != "2.0.0"
        test = TEST_BEFORE if affected else TEST_AFTER
        write(upstream, {**library(version), UPSTREAM_TEST: test})
        git("add", "--all", cwd=upstream)
        git("commit", "-qm", version, cwd=upstream)
        git("tag", version, cwd=upstream)
        sdist = make_sdist(index, version)
        records.append(
            releases.Release(
                version=version,
                tag=version,
                commit=git("rev-parse", "HEAD", cwd=upstream).strip(),
                archive=sdist.name,
                sha256=hashlib.sha256(sdist.read_bytes()).hexdigest(),
                version_blobs=(git("rev-parse", f"HEAD:{VERSION_FILE}", cwd=upstream).strip(),),
                needs_extensions=True,
                status={},
                patches=(),
            )
        )
    # There is no archive of the nightly: nothing asks for it.
    version = "2.1.0.dev20260101"
    archive = f"pyg_nightly-{version}.tar.gz"
    records.append(dataclasses.replace(records[-1], version=version, tag=None, archive=archive))
    head = 'optional = ["faster"]\n\n[classes]\ngatv2_conv = "GATv2Conv"\n\n'
    head += '[series]\ngatv2_conv = "the fix"\n'
    head += 'faster = "less time"\n'
    head += 'regression_test = "the test"\n'
    text = "\n".join([head, *map(adding.format_record, records)])
    (patches / "releases.toml").write_text(text)
    work = root / "work"
    work.mkdir()
    git("init", "-q", cwd=work)
    fields = "\n\nBug: none\nReleases: "
    for name, before, after in (
        ("gatv2_conv/1.8.0.patch", {LAYER: BEFORE}, {LAYER: AFTER}),
        ("gatv2_conv/1.8.0-test.patch", {UPSTREAM_TEST: TEST_BEFORE}, {UPSTREAM_TEST: TEST_AFTER}),
        ("faster/2.0.0.patch", {LAYER: AFTER}, {LAYER: FASTER}),
        ("regression_test/gatv2_conv.patch", {}, {NEW_TEST: "def test():\n    pass\n"}),
    ):
        fits = {"gatv2_conv": "1.8.0, 1.9.0", "faster": "2.0.0", "regression_test": ">=1.8.0"}
        message = f"Patch {name}{fields}{fits[name.split('/')[0]]}"
        make_patch(work, patches / name, before, after, message)
    return World(upstream, index, patches, root / "cache")


@pytest.fixture
def world(made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The small PyG, with an empty cache."""
    monkeypatch.setattr(releases, "PATCHES", made.patches)
    # pip finds the small sdists, and nothing else.
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.index))
    return World(made.upstream, made.index, made.patches, tmp_path / "cache")


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """What is done is not interrupted any more; the next test is."""
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def catalogue(world: World) -> releases.Catalogue:
    return releases.load()


@pytest.fixture
def tree(world: World, tmp_path: Path) -> Path:
    """A user's own source tree of 1.8.0, with upstream's test in it."""
    root = tmp_path / "tree"
    files = {UPSTREAM_TEST: TEST_BEFORE, "setup.py": "", "notes.txt": "mine\n"}
    write(root, {**library("1.8.0"), **files})
    return root


@pytest.fixture
def source(world: World) -> Callable[..., sources.Source]:
    def make(kind: str, offline: bool = False) -> sources.Source:
        return sources.Source(
            sources.Kind(kind), world.upstream.as_uri(), offline, world.cache, lambda message: None
        )

    return make


TORCH = """
from types import SimpleNamespace
__version__ = '2.13.0+cpu'
version = SimpleNamespace(cuda=None)
cuda = SimpleNamespace(device_count=lambda: 0)
"""

INTERPRETER = f"""#!{sys.executable}
import json, os, sys, time
from pathlib import Path
folder = Path(__file__).parent
answers = folder / (Path(sys.argv[1]).name + ".json")
if answers.exists():
    answer, *others = json.loads(answers.read_text())
    answers.write_text(json.dumps(others or [answer]))
    with (folder / "calls.txt").open("a") as calls:
        print(json.dumps(sys.argv[1:]), file=calls)
    time.sleep(answer.get("sleep", 0))
    print(answer.get("said", ""), file=sys.stderr)
    print(json.dumps(answer.get("json")), flush=True)
    if "signal" in answer:
        os.kill(os.getpid(), answer["signal"])
    sys.exit(answer.get("code", 0))
os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
"""


@dataclass(frozen=True)
class StandIn:
    """An interpreter that has something that says it is torch. The kit's programs only answer."""

    path: Path

    def answer(self, program: str, *answers: dict[str, Any]) -> None:
        """Sets how a program ends, run after run; the last one is for all runs that follow.

        Each is its output (`json`), what it `said` on stderr, the `signal` that ends it or its
        exit `code`, and for how many seconds it is to `sleep` first.
        """
        (self.path.parent / f"{program}.json").write_text(json.dumps(answers))

    @property
    def calls(self) -> list[list[str]]:
        """The arguments that its programs were called with, one list a call."""
        file = self.path.parent / "calls.txt"
        return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    folder = tmp_path / "stand-in"
    write(folder, {"torch.py": TORCH, "python": INTERPRETER})
    (folder / "python").chmod(0o755)
    return StandIn(folder / "python")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the kit in this process, and returns its exit code."""

    def call(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["kit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return call
