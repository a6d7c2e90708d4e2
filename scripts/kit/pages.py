"""How a generated page is written: its text, its data with a record a line, its pictures."""

import contextlib
import datetime
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kit import transactions
from kit.errors import SourceError
from kit.releases import ROOT

DOCS = ROOT / "docs"

# No line of a data file is longer than a record; a record is what fits into one.
_RECORD = 2_000


def machine() -> str:
    """Returns the machine, in words: system, processor, cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{platform.system()} {platform.machine()}", f"{cores} cores"]
    with contextlib.suppress(OSError):
        # Linux has no other place that names the processor.
        match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        parts[1:1] = [match[1].strip()] if match else []
    return ", ".join(parts)


def stamp(command: str) -> dict[str, str]:
    """Returns when, where and by which command something was measured."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return {"when": now, "machine": machine() + load, "command": command}


def dump(data: Any) -> str:  # noqa: ANN401
    """Returns data as JSON with one record a line.

    A list or an object stands on a line of its own as a whole where it is short, or holds no
    list of objects; else each of its parts does.
    """
    return _dump(data, "") + "\n"


def _dump(data: Any, indent: str) -> str:  # noqa: ANN401
    line = json.dumps(data, sort_keys=True, ensure_ascii=False)
    nested = isinstance(data, (dict, list)) and any(
        isinstance(part, (dict, list))
        for part in (data.values() if isinstance(data, dict) else data)
    )
    if not nested or not data or (len(line) <= _RECORD and indent):
        return line
    inner = indent + " "
    if isinstance(data, dict):
        parts = [f"{inner}{json.dumps(key)}: {_dump(data[key], inner)}" for key in sorted(data)]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(f"{inner}{_dump(part, inner)}" for part in data) + f"\n{indent}]"


def read_data(file: Path, otherwise: str) -> Any:  # noqa: ANN401
    """Returns the data that a page is made from.

    Args:
        file: The file.
        otherwise: What to do without it, for the message.

    Raises:
        SourceError: If there is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{file} is missing. 'git checkout {file.relative_to(ROOT)}' brings it back; "
            f"{otherwise}"
        ) from None


def write(files: Mapping[Path, str]) -> Iterator[Path]:
    """Writes files in one step each, and yields the path of each once it is written."""
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        transactions.replace(file, text.encode())
        yield file
