"""README.md: the blocks that need torch are run word for word, as tests/kit/test_readme.py does.

On 2.3.1, which the README takes for its examples, in an environment as a service has one: its
PyG is a copy of the pristine tree.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import HERE

ROOT = HERE.parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(title: str, language: str) -> list[str]:
    """The blocks of a language below a heading."""
    match = re.search(rf"^#+ {title}\n(.*?)(?=^#{{2,3}} |\Z)", README, re.M | re.S)
    assert match, title
    return re.findall(rf"```{language}\n(.*?)```", match[1], re.S)


def commands(block: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", block, re.M)


class Machine:
    """A home with a clone of the kit, and with a service in an environment of its own."""

    def __init__(self, home: Path, tree: Path) -> None:
        self.home = home
        self.service = home / "service"
        (home / "pyg-threadsafe").symlink_to(ROOT)
        venv.create(self.service / "venv", symlinks=True)
        (site,) = self.service.glob("venv/lib/python*/site-packages")
        # torch, and what PyG imports, are those of this environment.
        shared = [path for path in sys.path if path.endswith("-packages")]
        (site / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
        shutil.copytree(
            tree / "torch_geometric",
            site / "torch_geometric",
            ignore=shutil.ignore_patterns("__pycache__"),
        )

    def run(self, lines: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs lines of a shell."""
        dropped = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME")
        variables = {key: value for key, value in os.environ.items() if key not in dropped}
        return subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=cwd,
            env={**variables, "HOME": str(self.home), "TMPDIR": str(self.home)},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def machine(trees: dict[str, Path], tmp_path: Path, pytestconfig: pytest.Config) -> Machine:
    if pytestconfig.getoption("release") != "2.3.1":
        pytest.skip("about the README, whose examples are of 2.3.1")
    return Machine(tmp_path, trees["pristine"])


def test_the_audit(machine: Machine) -> None:
    """What it prints begins as the block says; and once patched, the model is safe."""
    (serving,) = blocks("Can threads share my model\\?", "python")
    (machine.service / "serving.py").write_text(serving)
    (block,) = blocks("Can threads share my model\\?", "console")
    audit = ["source ~/service/venv/bin/activate", *commands(block)]
    result = machine.run(audit, machine.service)
    assert result.returncode == 1, result.stderr
    promised = block.split("\n...")[0].splitlines()[1:]
    assert len(promised) == 2
    for line, start in zip(result.stdout.splitlines(), promised):
        assert line.startswith(start)
    apply = "~/pyg-threadsafe/scripts/apply.sh --installed"
    result = machine.run([audit[0], "set -e", apply, audit[1]], machine.service)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "\nSafe: " in result.stdout


@pytest.mark.skipif(
    find_spec("torch_sparse") is None,
    reason="PyG 2.3.1 cannot be scripted without torch-sparse",
)
def test_torchscript(machine: Machine) -> None:
    (block,) = blocks("TorchScript", "console")
    apply, export = commands(block)
    clone = machine.home / "pyg-threadsafe"
    # The archive calls operators of torch-scatter, which PyG imports.
    program = "import sys, torch, torch_geometric; print(torch.jit.load(sys.argv[1]).conv.code)"
    show = f"~/service/venv/bin/python -c '{program}' ~/service/model.pt"
    codes = []
    for lines in ([export], [apply, export]):
        result = machine.run(["set -e", *lines, show], clone)
        assert result.returncode == 0, result.stderr
        codes.append("_alpha = " in result.stdout)
    # The archive that was made before keeps what the layer kept in `self`; the new one does not.
    assert codes == [True, False]
