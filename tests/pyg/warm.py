"""Imports torch and PyG once, and runs programs in forks of itself.

    python warm.py          PYTHONPATH: the tree to run them on

Each line on stdin is a JSON object: the command line `arguments`, the working
directory `cwd`, the files `stdout` and `stderr`, and a `time_limit` in seconds.
The answer is one line: the exit status, negative for a signal. The imports take
longer than most of what is run after them, and a fork starts with what they leave
and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any


def serve() -> dict[str, Any] | None:
    """Returns a request in each fork, and None in the process that made them."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        process = os.fork()
        if process == 0:
            return request
        _, status = os.waitpid(process, 0)
        died = os.WIFSIGNALED(status)
        print(-os.WTERMSIG(status) if died else os.WEXITSTATUS(status), flush=True)
    return None


def run(arguments: list[str], cwd: str, stdout: str, stderr: str, time_limit: int) -> None:
    """Does what `python ARGUMENTS` does."""
    signal.alarm(time_limit)
    for stream, name in enumerate((os.devnull, stdout, stderr)):
        file = os.open(name, os.O_WRONLY if stream else os.O_RDONLY)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = cwd
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def status_of(request: dict[str, Any]) -> int:
    """Runs a program to its end, and returns what its exit status is to be."""
    try:
        run(**request)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    import torch_geometric  # noqa: F401

    # The first optimizer imports it, which would count as the time of what builds that.
    with contextlib.suppress(ImportError):
        import torch._dynamo  # noqa: F401

    # A fork whose garbage collector walks over all that was imported would copy it.
    gc.collect()
    gc.freeze()
    if request := serve():
        status = status_of(request)
        sys.stdout.flush()
        sys.stderr.flush()
        # Taking the modules down one by one takes longer than many a program.
        os._exit(status)
