"""`doctor`: what it says, and its exit code, which deployments go by."""

import json
import os
import shlex
import subprocess
import venv
from pathlib import Path

import pytest
from conftest import AFTER, BEFORE, LAYER, World, library, refused, tree_of, write
from kit import diagnosis, releases, transactions
from kit.releases import Catalogue


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter with a PyG, and extensions of all kinds."""
    venv.create(tmp_path / "environment", symlinks=True)
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    write(
        site,
        {
            **library("1.8.0"),
            "torch/__init__.py": "__version__ = '2.13.0'\n",
            "torch_scatter/__init__.py": "__version__ = '2.1.2'\n",
            "torch_sparse/__init__.py": "raise OSError('undefined symbol')\n",
            "torch_cluster/__init__.py": "import os; os.abort()\n",
        },
    )
    return tmp_path / "environment" / "bin" / "python"


def test_before_and_after(world: World, python: Path, tmp_path: Path) -> None:
    site = next(python.parents[1].glob("lib/python*/site-packages"))
    result = world.run("doctor", "--python", python)
    refused(result, 1, "Not patched: GATv2Conv")
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:5])
    assert lines["torch"] == "2.13.0"
    assert lines["PyG"] == f"1.8.0, by content, in {site}"
    assert lines["extensions"] == (
        "torch_scatter 2.1.2; torch_sparse cannot be imported: OSError: undefined symbol; "
        "torch_cluster cannot be imported: it ends the process by signal 6"
    )
    assert lines["races"] == "GATv2Conv"
    command = f"{releases.ROOT}/scripts/apply.sh --tree {site}"
    assert f"  {command}\n" in result.stdout
    assert world.apply(*shlex.split(command)[1:]).returncode == 0
    before = tree_of(site)
    result = world.run("doctor", env={"VIRTUAL_ENV": str(python.parents[1])})
    assert result.returncode == 0, result.stderr
    assert "patched     GATv2Conv\n" in result.stdout
    assert "receipt     20" in result.stdout
    assert tree_of(site) == before


def test_for_a_program(world: World, tree: Path) -> None:
    result = world.run("doctor", "--tree", tree, "--json")
    data = json.loads(result.stdout)
    assert result.returncode == 1
    assert (data["patched"], data["release"], data["unpatched"]) == (False, "1.8.0", ["gatv2_conv"])
    (tree / LAYER).write_text(AFTER)
    result = world.run("doctor", "--tree", tree, "--json")
    data = json.loads(result.stdout)
    assert result.returncode == 0
    assert (data["patched"], data["layers"]) == (True, {"GATv2Conv": "patched"})
    assert data["commands"] == data["faults"] == []


def test_a_path_with_blanks_can_be_pasted(tmp_path: Path, catalogue: Catalogue) -> None:
    tree = tmp_path / "a b"
    write(tree, library("1.8.0"))
    (command,) = diagnosis.examine(catalogue, tree, None).commands
    assert shlex.split(command)[1:] == ["--tree", str(tree)]


def test_what_it_cannot_say(world: World, tree: Path, tmp_path: Path) -> None:
    (tree / LAYER).write_text(BEFORE.replace("line 21\n", "mine\n"))
    refused(world.run("doctor", "--tree", tree), 4, "local changes")
    data = json.loads(world.run("doctor", "--tree", tree, "--json").stdout)
    assert not data["patched"] and "local changes" in data["faults"][0]
    refused(world.run("doctor", "--tree", tmp_path / "none"), 4, "cannot be opened")
    (tmp_path / "empty").mkdir()
    result = world.run("doctor", "--tree", tmp_path / "empty")
    refused(result, 4, "holds no PyG")
    assert result.stdout == f"tree        {tmp_path / 'empty'}\n"
    # What is known well is not called unknown.
    (tree / LAYER).write_text(BEFORE)
    result = world.run("doctor", "2.0.0", "--tree", tree)
    refused(result, 4, "holds PyG 1.8.0, not 2.0.0")
    assert "PyG " not in result.stdout
    refused(world.run("doctor", "--tree", tree, "--installed"), 2, "exclude each other")


def test_a_run_that_was_cut_off(tree: Path, catalogue: Catalogue) -> None:
    (tree / LAYER).write_text(AFTER)
    (tree / transactions.JOURNAL).write_text("")
    examined = diagnosis.examine(catalogue, tree, None)
    assert not examined.is_well
    assert "cut off" in examined.faults[0]
    assert examined.commands


def test_old_bytecode_counts(tmp_path: Path, catalogue: Catalogue) -> None:
    site = tmp_path / "site-packages"
    write(site, {**library("1.8.0"), LAYER: AFTER})
    pyc = (site / LAYER).parent / "__pycache__" / "gatv2_conv.cpython-311.pyc"
    pyc.parent.mkdir()
    pyc.write_bytes(b"abcd\1\0\0\0")
    os.utime(pyc, (1, 1))
    examined = diagnosis.examine(catalogue, site, None)
    assert not examined.is_well
    assert str(pyc) in examined.faults[0]


def test_the_program_runs_on_old_pythons() -> None:
    program = releases.ROOT / "scripts" / "kit" / "programs" / "installed.py"
    versions = Path("~/.pyenv/versions").expanduser()
    interpreters = sorted(versions.glob("3.[789].*/bin/python"))
    if not interpreters:
        pytest.skip("pyenv has no Python older than 3.10 here")
    for old in interpreters:
        result = subprocess.run([old, program], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["python"].startswith("3.")
