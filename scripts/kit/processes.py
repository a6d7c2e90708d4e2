"""The one door to child processes."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kit.errors import ToolError

_RUN_PIP = Path(__file__).parent / "programs" / "run_pip.py"

# What git does in a tree of ours must not depend on the user's settings: no
# signing, no hooks, no conversion of line endings.
_GIT_LOCAL = (
    *("-c", "core.autocrlf=false"),
    *("-c", "core.hooksPath=" + os.devnull),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.alternateRefsCommand=true"),
    *("-c", "commit.gpgSign=false"),
    *("-c", "tag.gpgSign=false"),
    *("-c", "gc.auto=0"),
    # What a crash of the machine could take can be made again in a second.
    *("-c", "core.fsync=none"),
    *("-c", "advice.detachedHead=false"),
    *("-c", "user.name=pyg-threadsafe"),
    *("-c", "user.email=maintainers@pyg-threadsafe.example"),
)


# For a repository whose settings somebody else may have written: what it lacks is not fetched
# from where they say (which can run a program), nor is one object taken for another.
ALONE = {"GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1"}


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command and returns what it printed, whatever its exit status.

    Args:
        command: The program and its arguments.
        cwd: The directory to run in.
        env: Variables to set on top of the inherited ones.
        stdin: Text to feed it. It never reads the terminal.
        timeout: Seconds after which it is killed.

    Raises:
        ToolError: If the program does not exist, or is none.
        subprocess.TimeoutExpired: If it ran for longer than `timeout`.
    """
    arguments = [str(part) for part in command]
    try:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**_inherited(), **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            # A group of its own: what it has started ends with it. Git's own helpers would
            # else wait for a server for ever.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if error.filename is not None and error.filename != arguments[0]:
            raise ToolError(
                f"{command[0]} cannot be run in {error.filename}: there is no such directory."
            ) from None
        raise ToolError(f"{command[0]} was not found. Install it, and call this again.") from None
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be run ({error.strerror}). Name a program.") from None
    with process:
        try:
            output, errors = process.communicate(stdin or "", timeout=timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def _inherited() -> dict[str, str]:
    # Git sets GIT_DIR and others for its hooks; a kit run from one (pre-commit)
    # would work on the wrong repository.
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("GIT_") or key in ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO")
    }


def run_watched(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    watch: Callable[[str], None],
) -> tuple[int, str]:
    """Runs a command, and shows what it prints on stderr while it runs.

    Args:
        command: The program and its arguments.
        env: Variables to set on top of the inherited ones.
        watch: Is shown each line of stderr.

    Returns:
        Its exit status, negative for a signal, and what it printed on stdout.

    Raises:
        ToolError: If the program does not exist, or is none.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            process = subprocess.Popen(
                [str(part) for part in command],
                env={**_inherited(), **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except FileNotFoundError:
            raise ToolError(
                f"{command[0]} was not found. Install it, and call this again."
            ) from None
        except OSError as error:
            message = f"{command[0]} cannot be run ({error.strerror}). Name a program."
            raise ToolError(message) from None
        assert process.stderr is not None
        try:
            for line in process.stderr:
                watch(line)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        return status, output.read()


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str],
    watch: Callable[[str], None],
    stop: threading.Event,
) -> int:
    """Runs a command that takes long, writes what it prints to a file, and returns its exit status.

    Args:
        command: The program and its arguments.
        log: The file to write.
        env: Variables to set on top of the inherited ones.
        watch: Is shown each line.
        stop: Once it is set, the command and all that it has started are killed.

    Raises:
        ToolError: If the program does not exist.
        KeyboardInterrupt: If it was stopped.
    """
    with log.open("w", encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                [str(part) for part in command],
                env={**_inherited(), **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # A group of its own, such that compilers end with it.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ToolError(f"{command[0]} was not found. Install it first.") from None
        with _killed_on(stop, process):
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                file.flush()
                watch(line)
            return_code = process.wait()
    if stop.is_set():
        raise KeyboardInterrupt
    return return_code


@contextlib.contextmanager
def _killed_on(stop: threading.Event, process: "subprocess.Popen[str]") -> Iterator[None]:
    """Kills the group of a process once `stop` is set, or where it has not ended at the end."""
    done = threading.Event()

    def kill_on_stop() -> None:
        while not done.wait(0.05):
            if stop.is_set():
                os.killpg(process.pid, signal.SIGKILL)
                return

    killer = threading.Thread(target=kill_on_stop, daemon=True)
    killer.start()
    try:
        yield
    finally:
        done.set()
        killer.join()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def pip(python: str | Path, *, isolated: bool = True) -> list[str | Path]:
    """Returns how a command for pip begins; pip's own arguments follow.

    Of the user's settings for pip, it follows those for the index, the proxy and the
    certificates, and no others (see `programs/run_pip.py`).

    Args:
        python: The interpreter whose pip it is.
        isolated: Whether pip, and what it builds with, is kept from PYTHONPATH and the user's
            site. An interpreter of the user's may have its torch from there.
    """
    return [python, *(["-I"] if isolated else []), _RUN_PIP]


def git(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
) -> str:
    """Runs git on a tree of the kit's own, whatever the user's settings, and returns its output.

    Raises:
        ToolError: If git fails, with the end of what it said.
    """
    isolated = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **(env or {})}
    result = run(["git", *_GIT_LOCAL, *arguments], cwd=cwd, env=isolated, stdin=stdin)
    if result.returncode != 0:
        raise ToolError(
            f"'git {arguments[0]}' failed in {cwd}: {last_lines(result.stderr)} "
            f"Expected it to succeed with git 2.25 or newer; check 'git --version' and the disk."
        )
    return result.stdout


def last_lines(text: str, count: int = 3) -> str:
    """Returns the last lines of a program's output that say something, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-count:])
