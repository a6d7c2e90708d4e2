"""The sandbox to learn in: made whole, and its steps in CONTRIBUTING.md walked word for word.

What needs torch is left out: the threaded test and `prove`; and the audit only reads.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import git, tree_of
from kit import releases, sandbox, sources
from kit.errors import TreeError
from kit.releases import ROOT

EXAMPLE = ROOT / "examples" / "new-layer"
SOLUTION = EXAMPLE / "solution"
SECTION = (
    (ROOT / "CONTRIBUTING.md")
    .read_text()
    .split("\n## Add a layer\n")[1]
    .split("\n## ", maxsplit=1)[0]
)


def commands() -> Iterator[tuple[int, str]]:
    """The commands of the section, each with the number of its step; 0 is before the first."""
    step = 0
    # A line that ends with a backslash goes on.
    for line in SECTION.replace("\\\n", " ").splitlines():
        if number := re.match(r"(\d)\. \*\*", line):
            step = int(number[1])
        if command := re.match(r"\s*\$ (.*?)(?: {2,}# .*)?$", line):
            yield step, " ".join(command[1].split())


class Student:
    """Somebody with a clone of the kit, an editor, and a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cwd = ROOT
        self.message = home / "message"
        cache = home / "cache"
        cache.mkdir()
        archives = sources.default_cache() / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        (cache / "archives").symlink_to(archives)
        self.env = {key: text for key, text in os.environ.items() if not key.startswith("GIT_")} | {
            "HOME": str(home),
            "PYG_THREADSAFE_CACHE": str(cache),
            # The editor that `git commit` opens.
            "GIT_EDITOR": f"cp {shlex.quote(str(self.message))}",
        }

    def run(self, command: str, code: int = 0) -> str:
        script = f"cd {shlex.quote(str(self.cwd))}; {command}\nstatus=$?; pwd >&3; exit $status"
        place = self.home / "place"
        result = subprocess.run(
            ["bash", "-c", f"exec 3>{shlex.quote(str(place))}; {script}"],
            env=self.env,
            capture_output=True,
            text=True,
        )
        said = result.stdout + result.stderr
        assert result.returncode == code, (command, said)
        self.cwd = Path(place.read_text().strip())
        return said

    def take(self, name: str, *options: str) -> None:
        """Writes what a patch of the solution changes, and thinks of its message."""
        patch = SOLUTION / name
        git("apply", *options, str(patch), cwd=self.cwd)
        kept = releases.Patch(name, patch)
        self.message.write_text(f"{kept.subject}\n\n{kept.body}\n")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


FIX = "example_conv/2.8.1.patch"
THREADED = "regression_test/example_conv.patch"


def edit(student: Student, step: int, command: str) -> None:
    """What is done by hand before a command."""
    if command == "git add torch_geometric":
        student.take(THREADED)
        student.take(FIX)
    elif command == "git add test":
        student.take(THREADED, "--check", "--reverse")
    elif command.startswith("patch "):
        student.take("example_conv/2.7.0.patch", "--check")
    elif command == "git commit --all":
        # The conflicts are resolved.
        student.run("git checkout --quiet torch_geometric")
        student.take("example_conv/2.7.0.patch")
    elif step == 6 and "validate" in command and not (student.cwd / "build/pyg-2.7.0").exists():
        # Step 5, and the head of step 6.
        pins = student.cwd / "patches" / "releases.toml"
        replace(pins, "\n[series]\n", 'example_conv = "ExampleConv"\n\n[series]\n')
        replace(
            pins, "regression_test = ", 'example_conv = "ExampleConv: local"\nregression_test = '
        )
        fix = student.cwd / "patches" / FIX
        replace(fix, "Releases: 2.8.1\n", "Releases: 2.7.0, 2.8.1\n")
    elif step == 6 and "validate" in command:
        fix = student.cwd / "patches" / FIX
        replace(fix, "Releases: 2.7.0, 2.8.1\n", "Releases: 2.8.1\n")


def expected(step: int, command: str, is_first: bool) -> tuple[int, tuple[str, ...]]:
    """The exit code of a command, and some of what it says."""
    if "audit" in command and step == 1:
        return 1, ("ExampleConv: _mean (race, not run)",)
    if "audit" in command:
        return 0, ("Threads can share its layers.",)
    if "validate" in command and step == 6 and is_first:
        return 1, ("PyG 2.7.0: torch_geometric/nn/conv/example_conv.py has local changes",)
    if "validate" in command:
        return 0, ("2 releases", "all as recorded")
    if command.startswith("patch "):
        return 1, ("NOT MERGED",)
    return 0, ()


def test_the_steps_word_for_word(tmp_path: Path) -> None:
    student = Student(tmp_path)
    for name, text in (("name", "A Student"), ("email", "student@example.org")):
        assert f"user.{name}" in SECTION
        student.run(f"git config --global user.{name} '{text}'")
    ran: list[str] = []
    before = tree_of(ROOT / "patches")
    for step, command in commands():
        if "-m pytest" in command or " prove " in command:
            continue
        edit(student, step, command)
        code, names = expected(step, command, command not in ran)
        reads = "audit" in command and "--static" not in command
        said = student.run(command + " --static" * reads, code)
        for word in names:
            assert word in said, (command, said)
        assert step < 7 or "ExampleConv: _mean" not in said
        ran.append(command)
    assert len(ran) > 20 and student.cwd == tmp_path / "new-layer"
    # The student's patches are those of the solution, and the clone is as it was.
    for file in SOLUTION.rglob("*.patch"):
        made = (student.cwd / "patches" / file.relative_to(SOLUTION)).read_text()
        assert "From: A Student <student@example.org>\n" in made
        assert made.split("\nSubject: ")[1] == file.read_text().split("\nSubject: ")[1]
    assert tree_of(ROOT / "patches") == before


def test_the_line_that_makes_it_run() -> None:
    """It fits into the table, and is not there yet."""
    (line,) = re.findall(r"^ +(\"ExampleConv\": lambda pair: .*,)$", SECTION, re.M)
    layers = (ROOT / "scripts" / "kit" / "programs" / "layers.py").read_text()
    assert '\n    "GCNConv": lambda pair: nn.GCNConv(C, OUT),\n' in layers
    assert line not in layers and eval(f"{{{line}}}").keys() == {"ExampleConv"}
    for name in re.findall(r"`([A-Z]+|\w+\(\))`", SECTION.split("2. **")[0]):
        assert name.rstrip("()") in layers, name


def source(cache: Path) -> sources.Source:
    kind = sources.Kind.SDIST
    return sources.Source(kind, sources.UPSTREAM, False, cache, lambda message: None)


def test_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    for place in ("there", "there/file", "there/file/new"):
        with pytest.raises(TreeError, match=r"[Nn]ame another"):
            sandbox.make(tmp_path / place, releases.load(), source(tmp_path / "cache"))
    assert tree_of(tmp_path) == {"there": b"(directory)", "there/file": b"mine"}


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a release cannot be downloaded, nothing is left; an empty directory is taken."""
    broken = tmp_path / "layer"
    shutil.copytree(sandbox.LAYER, broken)
    (broken / "2.7.0.patch").rename(broken / "1.0.0.patch")
    monkeypatch.setattr(sandbox, "LAYER", broken)
    dest = tmp_path / "place" / "new"
    dest.mkdir(parents=True)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "archives").symlink_to(sources.default_cache() / "archives")
    with pytest.raises(Exception, match=r"PyG 1\.0\.0 is not covered"):
        sandbox.make(dest, releases.load(), source(cache))
    assert tree_of(tmp_path / "place") == {"new": b"(directory)"}
    monkeypatch.undo()
    assert sandbox.make(dest, releases.load(), source(cache)) == ["2.7.0", "2.8.1"]
    assert git("status", "--porcelain", cwd=dest) == ""
    # Made again, it has the same commits.
    commits = sorted(path.name for path in (cache / "git").glob("*.git"))
    sandbox.make(tmp_path / "again", releases.load(), source(cache))
    assert sorted(path.name for path in (cache / "git").glob("*.git")) == commits
    assert len(commits) == 2
