"""Where in somebody's code something happens, and how that is shown."""

import sys
import traceback
from pathlib import Path
from typing import Any, Tuple

import torch

Place = Tuple[str, int, str]  # file, line, function

_HERE = Path(__file__).parent
_MODULE = torch.nn.Module.__init__.__code__.co_filename


# What torch's own code does is done by who calls it.
_TORCH = str(Path(torch.__file__).parent.absolute())

# The files whose frames are not a place in somebody's code.
INSIDE = frozenset({*map(str, _HERE.glob("*.py")), _MODULE})


def where(depth: int = 1) -> Place:
    """The innermost place outside of this program and of torch, if there is one."""
    frame: Any = sys._getframe(depth)
    innermost: Any = None
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file not in INSIDE:
            if not file.startswith(_TORCH):
                return file, frame.f_lineno, name
            innermost = innermost or frame
        elif innermost is not None and file != _MODULE:
            break  # the call of the model: there was nothing of the user's in between
        frame = frame.f_back
    frame = innermost or sys._getframe(depth)
    return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name


def shown_file(file: str) -> str:
    """A file relative to the directory that holds PyG, or to ours, if it is inside."""
    if file.startswith("<"):
        return file
    path = Path(file).resolve()
    package = getattr(sys.modules.get("torch_geometric"), "__file__", None)
    if package and Path(package).resolve().parent in path.parents:
        return path.relative_to(Path(package).resolve().parents[1]).as_posix()
    # What is installed is not ours, even if the environment lies in our directory.
    is_ours = Path.cwd() in path.parents and "site-packages" not in path.parts
    return (path.relative_to(Path.cwd()) if is_ours else path).as_posix()


def shown_place(place: Place) -> str:
    """A place, in a sentence."""
    return f"{shown_file(place[0])}:{place[1]} ({place[2]})"


def last_line(error: BaseException) -> str:
    """The last line of a traceback."""
    line = "".join(traceback.format_exception_only(type(error), error)).strip()
    return line if len(line) <= 300 else line[:300] + "..."


def tail(error: BaseException) -> str:
    """The end of a traceback in somebody's code."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in INSIDE and frame.filename[0] != "<"
    ]
    return "".join(traceback.format_list(frames[-3:])) + last_line(error)
