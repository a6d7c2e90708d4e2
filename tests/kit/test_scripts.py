"""The shell scripts: the doors, and the environments that they make."""

import base64
import getpass
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import git
from kit.releases import ROOT

# The interpreter that the environment of the tests was made with.
BASE = getattr(sys, "_base_executable", sys.executable)

DOORS = (
    "scripts/apply.sh",
    "scripts/kit.sh",
    "scripts/lock.sh",
    "scripts/test.sh",
    "examples/serving/run.sh",
)

# What a user may have set for pip, and what would break the kit's environments.
HOSTILE = {
    "PIP_USER": "1",
    "PIP_TARGET": "elsewhere",
    "PIP_PREFIX": "elsewhere",
    "PIP_ROOT": "elsewhere",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_NO_DEPS": "1",
    "PIP_CONSTRAINT": "nowhere.txt",
    "PIP_DRY_RUN": "1",
    "PIP_PYTHON": "nowhere/python",
    "PIP_QUIET": "3",
    "PIP_NO_BINARY": ":all:",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in which no environment has been made yet."""
    root = tmp_path / "clone"
    for name in ("scripts", "patches"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def run(
    command: Sequence[str | Path], cwd: Path | None = None, /, **env: str
) -> "subprocess.CompletedProcess[str]":
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def make_wheel(directory: Path, name: str, text: str) -> str:
    """Makes a wheel with one module, version 1.0, and returns its sha256."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items()
    )
    directory.mkdir(exist_ok=True)
    wheel = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path, content in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            file.writestr(path, content)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class SmallClone:
    """A clone with the real scripts, and a program in place of the kit."""

    root: Path
    wheels: Path

    def run(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Runs the door; pip finds the wheel that it needs, and nothing else."""
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.wheels.as_uri()}
        return run(
            [self.root / "scripts" / "kit.sh", *arguments],
            **{"PIP_CONFIG_FILE": os.devnull, **index, **env},
        )

    def make_environment(self) -> None:
        """Puts an environment there as the door would, in a fraction of the time."""
        made = self.root / ".kit" / "kit-made"
        venv.create(made, symlinks=True)
        (packages,) = made.glob("lib/python*/site-packages")
        (packages / "pip.py").touch()
        (packages / "pyg_threadsafe_small.py").write_text("VALUE = 'it is here'\n")
        shutil.copy(self.root / "scripts" / "locks" / "kit.txt", made / "made-from.txt")
        (self.root / ".kit" / "kit").symlink_to(made.name)

    @property
    def made(self) -> list[str]:
        """The environments in the clone, without the links to them."""
        kit = self.root / ".kit"
        return [path.name for path in kit.glob("*") if not path.is_symlink()]


@pytest.fixture
def small(tmp_path: Path) -> SmallClone:
    # Neither a space nor a quote in its path is in the way.
    root = tmp_path / "somebody's own clone"
    scripts = root / "scripts"
    (scripts / "kit" / "programs").mkdir(parents=True)
    (scripts / "locks").mkdir()
    for path in ("kit.sh", "environment.sh", "kit/programs/run_pip.py"):
        shutil.copy(ROOT / "scripts" / path, scripts / path)
    program = "import sys, pyg_threadsafe_small; print(pyg_threadsafe_small.VALUE, *sys.argv[1:])"
    (scripts / "kit" / "__main__.py").write_text(program)
    digest = make_wheel(tmp_path / "wheels", "pyg_threadsafe_small", "VALUE = 'it is here'\n")
    (scripts / "locks" / "kit.txt").write_text(
        f"pyg_threadsafe_small==1.0 \\\n    --hash=sha256:{digest}\n"
    )
    return SmallClone(root, tmp_path / "wheels")


def test_too_old_a_python(clone: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.20" && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = run([clone / "scripts" / "apply.sh", "2.4.0"], PYTHON=str(old))
    assert result.returncode == 5
    assert "needs Python 3.10 or newer, and found Python 3.8.20" in result.stderr
    assert not list((clone / ".kit").glob("*"))


def test_no_git(clone: Path, tmp_path: Path) -> None:
    for program in ("bash", "dirname", "env"):
        path = shutil.which(program)
        assert path is not None
        (tmp_path / program).symlink_to(path)
    result = run([clone / "scripts" / "apply.sh", "2.4.0"], PATH=str(tmp_path))
    assert result.returncode == 5
    assert result.stderr.startswith("error: git was not found.")


def test_tools_that_cannot_be_installed(clone: Path, tmp_path: Path) -> None:
    env = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    result = run([clone / "scripts" / "apply.sh", "--list"], **env)
    assert result.returncode == 5
    assert "pip could not install what scripts/locks/kit.txt lists" in result.stderr
    assert "PyPI" in result.stderr
    # No half environment: the next run starts anew.
    assert list((clone / ".kit").iterdir()) == []


def test_another_file_than_the_lock_file_pins(small: SmallClone) -> None:
    make_wheel(small.wheels, "pyg_threadsafe_small", "VALUE = 'somebody changed it'\n")
    result = small.run()
    assert result.returncode == 5
    assert "pip could not install what scripts/locks/kit.txt lists" in result.stderr
    assert small.made == []


def test_two_first_runs_at_once(clone: Path) -> None:
    runs = [
        subprocess.Popen(
            [clone / "scripts" / "apply.sh", "--list"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for one in runs:
        out, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
        assert "2.4.0" in out
        assert "first use" in errors
    # One environment, and the link to it.
    assert len(list((clone / ".kit").iterdir())) == 2


@pytest.mark.parametrize("in_a_file", [False, True])
def test_settings_of_pip(small: SmallClone, tmp_path: Path, in_a_file: bool) -> None:
    """Those for an index hold; what is meant for other installations does not."""
    if in_a_file:
        config = tmp_path / "pip.conf"
        names = [name.removeprefix("PIP_").lower().replace("_", "-") for name in HOSTILE]
        lines = [f"{name} = {value}" for name, value in zip(names, HOSTILE.values(), strict=True)]
        # With it, pip itself would be started by another interpreter, which is not there.
        lines.remove("python = nowhere/python")
        index = ["no-index = true", f"find-links =\n    {small.wheels.as_uri()}"]
        config.write_text("\n".join(["[global]", *lines, "[install]", "user = true", *index]))
        env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        result = subprocess.run(
            [small.root / "scripts" / "kit.sh"],
            env={**env, "PIP_CONFIG_FILE": str(config)},
            capture_output=True,
            text=True,
            timeout=300,
        )
    else:
        result = small.run(**HOSTILE)
    assert (result.returncode, result.stdout) == (0, "it is here\n"), result.stderr


@pytest.mark.parametrize("option", ["--quiet", "-q"])
def test_quiet_first_use(small: SmallClone, option: str) -> None:
    result = small.run("verb", option)
    assert (result.returncode, result.stdout) == (0, f"it is here verb {option}\n")
    assert result.stderr == ""


def test_environment_is_kept_while_it_is_good(small: SmallClone) -> None:
    command = ["bash", "-c", 'umask 022 && exec "$0"', str(small.root / "scripts" / "kit.sh")]
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": small.wheels.as_uri()}
    assert "first use" in run(command, PIP_CONFIG_FILE=os.devnull, **index).stderr
    (first,) = small.made
    # Another user who may read the clone may use it as well, as far as the umask allows.
    assert stat.S_IMODE((small.root / ".kit" / first).stat().st_mode) == 0o755
    for env in ({}, {"PYTHON": BASE}):
        assert (small.run(**env).stderr, small.made) == ("", [first])


def test_environment_is_made_anew(small: SmallClone) -> None:
    small.make_environment()
    (first,) = small.made
    # As after `pyenv uninstall`: the links lead nowhere.
    for python in (small.root / ".kit" / first / "bin").glob("python*"):
        python.unlink()
        python.symlink_to("/nowhere")
    result = small.run()
    assert (result.returncode, result.stdout) == (0, "it is here\n"), result.stderr
    assert "first use" in result.stderr
    assert first not in small.made
    assert len(small.made) == 1


@pytest.mark.parametrize("what", ["nothing", "interpreter", "packages", "lock", "another Python"])
def test_environment_that_is_no_longer_good(small: SmallClone, tmp_path: Path, what: str) -> None:
    small.make_environment()
    made = small.root / ".kit" / "kit"
    python = BASE
    if what == "interpreter":
        (made / "bin" / "python").unlink()
    elif what == "packages":
        # As after an upgrade of the system: the interpreter looks into another directory.
        (library,) = (made / "lib").glob("python*")
        library.rename(made / "lib" / "python2.0")
    elif what == "lock":
        with (small.root / "scripts" / "locks" / "kit.txt").open("a") as file:
            file.write("# another version\n")
    elif what == "another Python":
        # The user names an interpreter, and the environment has another one.
        named = tmp_path / "python"
        named.write_text("#!/bin/sh\necho 3.99.0\n")
        named.chmod(0o755)
        python = str(named)
    program = 'source "$0" && is_current kit'
    result = run(["bash", "-c", program, small.root / "scripts" / "environment.sh"], PYTHON=python)
    assert result.returncode == (0 if what == "nothing" else 1), result.stderr


def test_environment_that_cannot_be_replaced(small: SmallClone) -> None:
    (small.root / ".kit" / "kit").mkdir(parents=True)
    result = small.run()
    assert result.returncode == 5
    assert result.stderr.startswith(f"error: {small.root}/.kit/kit has to be made anew, and is not")
    assert small.made == ["kit"]


@pytest.fixture
def of_another_user() -> Iterator[Path]:
    """A folder that everybody may read, and that `as_another_user` may not write to."""
    # Not below tmp_path, into which pytest lets nobody else.
    root = Path(tempfile.mkdtemp(prefix="pyg-threadsafe-"))
    root.chmod(0o755)
    yield root
    for directory in (root, *root.rglob("*")):
        if directory.is_dir():
            directory.chmod(0o755)
    shutil.rmtree(root)


def test_clone_of_another_user(of_another_user: Path) -> None:
    clone = of_another_user / "clone"
    shutil.copytree(ROOT / "scripts", clone / "scripts")
    python = of_another_user / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    is_root = os.geteuid() == 0
    if not is_root:
        clone.chmod(0o555)
    result = subprocess.run(
        [clone / "scripts" / "apply.sh", "--list"],
        cwd=of_another_user,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
        # A number that is nobody's; the superuser may write everywhere.
        user=54321 if is_root else None,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 5
    who = "54321" if is_root else getpass.getuser()
    assert result.stderr == (
        f"error: {clone}/.kit/kit has to be made, and {who} may not write there. "
        f"Make {clone}/.kit writable, or use a clone of your own.\n"
    )


@pytest.mark.parametrize("door", DOORS)
def test_doors_take_a_link_and_any_directory(tmp_path: Path, door: str) -> None:
    """Through a link to a relative link, from another directory, with CDPATH set."""
    bin_directory, work = tmp_path / "bin", tmp_path / "a directory"
    for directory in (bin_directory, work / "scripts", work / "kit"):
        directory.mkdir(parents=True)
    (bin_directory / "absolute").symlink_to(ROOT / door)
    (bin_directory / "relative").symlink_to("absolute")
    (work / "link").symlink_to(Path("..") / "bin" / "relative")
    run([ROOT / door, "--help"])  # The first use of a clone sets up the tools, and says so.
    for command in ("./link", work / "link", bin_directory / "relative"):
        result = run([command, "--help"], work, CDPATH=f"{ROOT}:{work}")
        assert (result.returncode, result.stderr) == (0, "")
        assert "Exit codes" in result.stdout


def test_relative_path_with_cdpath(small: SmallClone) -> None:
    """Where `cd` prints the directory that it goes to, the clone's path is still right."""
    small.make_environment()
    result = run(["scripts/kit.sh"], small.root, CDPATH=str(small.root))
    assert (result.returncode, result.stdout) == (0, "it is here\n"), result.stderr


def test_apply_names_its_options() -> None:
    result = run([ROOT / "scripts" / "kit.sh"])
    assert result.returncode == 2
    assert "Exit codes:" in result.stderr
    result = run([ROOT / "scripts" / "apply.sh", "--help"])
    assert result.returncode == 0
    for option in ("--dest", "--source", "--tree", "--only", "--check", "--reverse"):
        assert option in result.stdout
    for option in ("--offline", "--list", "--help", "Exit codes"):
        assert option in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("door", ["lock.sh", "test.sh"])
def test_wrong_usage(door: str) -> None:
    for arguments in (["--fast"], ["--quick", "--environment"], ["--audit", "--upgrade"]):
        result = run([ROOT / "scripts" / door, *arguments])
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"Usage: scripts/{door} [")


@pytest.mark.parametrize("where", ["PYTHONPATH", "current directory", "user's site"])
def test_kit_does_not_import_what_lies_about(tmp_path: Path, where: str) -> None:
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = tmp_path / "lib" / minor / "site-packages"
    folder.mkdir(parents=True)
    for name in ("click", "filelock", "kit", "rich", "sitecustomize", "usercustomize", "json"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('not the real {name}')\n")
    user = {"PYTHONUSERBASE": str(tmp_path)}
    env = {"PYTHONPATH": {"PYTHONPATH": str(folder)}, "user's site": user}
    # A release's patches are listed without a child process; `validate` runs git and pip.
    for arguments in (["apply", "2.4.0", "--list"], ["validate", "--help"]):
        result = run(
            [ROOT / "scripts" / "kit.sh", *arguments],
            folder if where == "current directory" else None,
            **env.get(where, {}),
        )
        assert (result.returncode, result.stderr) == (0, "")


def test_programs_of_the_user_see_their_pythonpath(small: SmallClone) -> None:
    """The kit does not; what it starts inherits the variable."""
    small.make_environment()
    program = "import os, sys; print(os.environ['PYTHONPATH'], 'mine' in sys.path)"
    (small.root / "scripts" / "kit" / "__main__.py").write_text(program)
    assert small.run(PYTHONPATH="mine").stdout == "mine False\n"


def test_clone_with_autocrlf(tmp_path: Path) -> None:
    """A clone on a machine whose git writes CRLF gets the files as they are."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    listed = git("ls-files", "-z", "--", "scripts", "patches", "docs", cwd=ROOT)
    names = [".gitattributes", *filter(None, listed.split("\0"))]
    for name in names:
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, origin / name)
    # Nothing here has CRLF today; a release may, and then so does its patch.
    released = b"diff --git a/x b/x\n@@ -1 +1 @@\n-before\r\n+after\r\n"
    (origin / "patches" / "crlf.patch").write_bytes(released)
    git("init", "-q", cwd=origin)
    git("add", "--all", cwd=origin)
    git("commit", "-qm", "all of it", cwd=origin)
    git("clone", "-q", "-c", "core.autocrlf=true", str(origin), str(clone), cwd=tmp_path)
    assert (clone / "patches" / "crlf.patch").read_bytes() == released
    for name in names:
        assert (clone / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert run([clone / "scripts" / "test.sh", "--help"]).returncode == 0
    # In patches, blanks at the end of a line are the release's.
    with (clone / "patches" / "crlf.patch").open("ab") as file:
        file.write(b" context \n")
    git("diff", "--check", cwd=clone)
