"""What an installation says of itself: `RECORD`, and the receipt of what the kit has changed."""

import base64
import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit import records
from kit.errors import TreeError
from kit.records import Field

# The receipt, in the folder of the metadata; without one, in the package.
NAME = "pyg_threadsafe.json"


@dataclass(frozen=True)
class Original:
    """What a changed file was before, as far as its patch does not say it.

    Attributes:
        row: Its row in `RECORD`; None where it had none.
        mtime_ns: When it was last changed; None where it is new.
        link: Where it pointed to, if it was a symbolic link.
    """

    row: str | None
    mtime_ns: int | None
    link: str | None


@dataclass(frozen=True)
class Receipt:
    """What the kit has changed in an installation.

    Attributes:
        release: The version of PyG.
        patches: The sha256 of each patch that is applied, by name.
        changed: When, in the form of ISO 8601.
        kit: The commit of the kit; "" where it is no git repository.
        files: The changed files.
    """

    release: str = ""
    patches: Mapping[str, str] = field(default_factory=dict)
    changed: str = ""
    kit: str = ""
    files: Mapping[str, Original] = field(default_factory=dict)


_is_text = records.matches(r"[^\r\n]*")
_FIELDS = {
    "about": Field("a sentence", _is_text, required=False),
    "format": Field("1", lambda value: value == 1),
    "release": Field("a version of PyG", _is_text),
    "patches": Field("the sha256 of each patch", records.table_of(_is_text)),
    "changed": Field("a time", _is_text),
    "kit": Field("a commit, or nothing", _is_text),
    "files": Field("a table of files", lambda value: isinstance(value, dict)),
}
_ORIGINAL = {
    "row": Field("a row of RECORD, or null", lambda v: v is None or _is_text(v)),
    "mtime_ns": Field(
        "nanoseconds, or null",
        lambda v: v is None or (type(v) is int and 0 <= v < 1 << 63),
    ),
    "link": Field("a path, or null", lambda v: v is None or (_is_text(v) and v and "\0" not in v)),
}


def read(file: Path) -> Receipt | None:
    """Returns a receipt, or None where there is none.

    Raises:
        TreeError: If it cannot be understood.
    """
    try:
        content: Any = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _malformed(file, str(error)) from None
    try:
        records.check(file, "", content, _FIELDS)
        files = {
            path: Original(**records.check(file, path, original, _ORIGINAL))
            for path, original in content["files"].items()
        }
    except TreeError as error:
        raise _malformed(file, str(error).split(" Correct the file")[0]) from None
    return Receipt(
        content["release"], content["patches"], content["changed"], content["kit"], files
    )


def _malformed(file: Path, reason: str) -> TreeError:
    return TreeError(
        f"{file} should be the receipt of what the kit has changed there, and cannot be understood "
        f"({reason[:200]}). Install PyG again, which brings the released files, or remove the "
        f"receipt: then '--reverse' takes the patches out, and computes the rows of RECORD anew."
    )


def dump(receipt: Receipt) -> bytes:
    """Returns a receipt as the content of a file."""
    content = {
        "about": "Made by pyg-threadsafe, which has patched this package. It needs this file "
        "to take the patches out again.",
        "format": 1,
        "release": receipt.release,
        "patches": dict(receipt.patches),
        "changed": receipt.changed,
        "kit": receipt.kit,
        "files": {path: vars(original) for path, original in sorted(receipt.files.items())},
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def row(path: str, data: bytes) -> str:
    """Returns the row of `RECORD` for a file (PyPA's "Recording installed projects")."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    quoted = f'"{path}"' if "," in path else path
    return f"{quoted},sha256={digest},{len(data)}"


def find_row(record: bytes, path: str) -> str | None:
    """Returns the row that a `RECORD` has for a file, without its line end."""
    for line in record.splitlines():
        if _path_of(line) == path:
            return line.decode("utf-8", "surrogateescape")
    return None


def set_rows(record: bytes, rows: Mapping[str, str | None]) -> bytes:
    """Returns a `RECORD` with some rows changed, and all others as they are, to the byte.

    Args:
        record: Its content.
        rows: The row of each file; None for none. A row that is not there yet comes before
            the last one, whose line end may be missing.
    """
    lines = record.splitlines(keepends=True)
    left = dict(rows)
    changed: list[bytes] = []
    for line in lines:
        path = _path_of(line)
        if path not in rows:
            changed.append(line)
            continue
        new = left.pop(path, None)
        if new is not None:
            end = line[len(line.rstrip(b"\r\n")) :]
            changed.append(new.encode("utf-8", "surrogateescape") + end)
    end = b"\r\n" if lines and lines[0].endswith(b"\r\n") else b"\n"
    added = [
        new.encode("utf-8", "surrogateescape") + end for new in left.values() if new is not None
    ]
    return b"".join((*changed[:-1], *added, *changed[-1:]))


def _path_of(line: bytes) -> str:
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    try:
        return next(iter(next(iter(csv.reader([text])), [])), "")
    except csv.Error:
        return ""
