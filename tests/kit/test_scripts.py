"""The shell scripts: the two doors, and the environment that they make."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kit.releases import ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone in which no environment has been made yet."""
    root = tmp_path / "clone"
    for name in ("scripts", "patches"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def run(command: list[str | Path], **env: str) -> "subprocess.CompletedProcess[str]":
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_too_old_a_python(clone: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.20" && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = run([clone / "scripts" / "apply.sh", "2.4.0"], PYTHON=str(old))
    assert result.returncode == 5
    assert "needs Python 3.10.12 or newer, and found Python 3.8.20" in result.stderr
    assert not list((clone / ".kit").glob("*"))


def test_no_git(clone: Path, tmp_path: Path) -> None:
    for program in ("bash", "dirname", "env"):
        (tmp_path / program).symlink_to(shutil.which(program))
    result = run([clone / "scripts" / "apply.sh", "2.4.0"], PATH=str(tmp_path))
    assert result.returncode == 5
    assert result.stderr.startswith("error: git was not found.")


def test_tools_that_cannot_be_installed(clone: Path, tmp_path: Path) -> None:
    env = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    result = run([clone / "scripts" / "apply.sh", "--list"], **env)
    assert result.returncode == 5
    assert "pip could not install" in result.stderr
    assert "PyPI" in result.stderr
    # No half environment: the next run starts anew.
    assert list((clone / ".kit").iterdir()) == []


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


def test_doors_take_a_link_and_any_directory(tmp_path: Path) -> None:
    result = run([ROOT / "scripts" / "kit.sh"])
    assert result.returncode == 2
    assert "Exit codes:" in result.stderr
    result = run([ROOT / "scripts" / "apply.sh", "--help"])
    assert result.returncode == 0
    for option in ("--dest", "--source", "--git-url", "--tree", "--only", "--check", "--reverse"):
        assert option in result.stdout
    for option in ("--offline", "--list", "--help", "Exit codes"):
        assert option in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
