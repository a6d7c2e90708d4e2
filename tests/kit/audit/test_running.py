"""How the program is run: what it says meanwhile, how it ends, and with which Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit.audit import running
from kit.audit.running import ProgramDied, run_program, user_python
from kit.errors import ToolError, UsageError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the program: what it does is written into it."""
    file = tmp_path / "program.py"
    monkeypatch.setattr(running, "PROGRAM", file)
    return file


def test_progress_is_shown_and_the_last_line_counts(program: Path) -> None:
    program.write_text(
        "import sys\n"
        "print('progress: forcing', file=sys.stderr)\n"
        "print('a warning of torch', file=sys.stderr)\n"
        "print('noise')\n"
        "print('{\"arguments\": %d}' % len(sys.argv))\n"
    )
    told: list[str] = []
    result = run_program(Path(sys.executable), ["model", "a:b"], notify=told.append)
    assert (result, told) == ({"arguments": 3}, ["forcing"])


@pytest.mark.parametrize("code, error", [(2, UsageError), (1, ToolError)])
def test_a_program_that_fails(program: Path, code: int, error: type[Exception]) -> None:
    program.write_text(f"import sys\nprint('MODEL is wrong.', file=sys.stderr)\nsys.exit({code})\n")
    with pytest.raises(error, match=r"MODEL is wrong\."):
        run_program(Path(sys.executable), ["model"])


def test_a_python_without_torch(program: Path) -> None:
    """Without the line of code, and what points at it."""
    program.write_text("import no_such_torch  # noqa\n")
    with pytest.raises(ToolError, match=r"cannot run the audit: ModuleNotFoundError: .*'\. Act"):
        run_program(Path(sys.executable), ["model"])


def test_a_program_that_dies(program: Path) -> None:
    program.write_text(
        "import os, signal, sys\n"
        "print('progress: letting 8 threads share the model', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    with pytest.raises(ProgramDied, match="died of SIGSEGV while letting 8 threads") as raised:
        run_program(Path(sys.executable), ["model"])
    assert (raised.value.signal, raised.value.exit_code) == ("SIGSEGV", 5)


def test_the_users_environment_is_the_active_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/some/where")
    assert user_python(None) == Path("/some/where/bin/python")
    monkeypatch.delenv("VIRTUAL_ENV")
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    assert user_python(None) == Path("python3")


def test_python_finds_its_own_modules(tmp_path: Path) -> None:
    """Importing torch imports pdb and `code` in some of its releases."""
    names = [file.stem for file in running.PROGRAM.glob("*.py") if file.stem != "__main__"]
    assert "code" in names and "code" in sys.stdlib_module_names
    (tmp_path / "torch.py").write_text(
        "import importlib.util, sys\n"
        f"for name in {names!r}:\n"
        "    spec = importlib.util.find_spec(name)\n"
        "    if spec is not None and 'programs' in str(spec.origin):\n"
        "        sys.exit(spec.origin)\n"
        "sys.exit(0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, running.PROGRAM], env=environment, text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr


def test_an_interpreter_that_cannot_say_what_it_imports() -> None:
    with pytest.raises(ToolError, match="/usr/bin/false cannot be run"):
        running.find_installed(Path("/usr/bin/false"))


def test_an_interpreter_that_prints_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('Welcome')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert running.find_installed(Path(sys.executable)) is None
    (tmp_path / "torch_geometric").mkdir()
    (tmp_path / "torch_geometric" / "__init__.py").touch()
    assert running.find_installed(Path(sys.executable)) == tmp_path
