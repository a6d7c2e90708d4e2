"""What a record of a data file must hold; a fault names the file, the field and the value."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import TreeError, shown


@dataclass(frozen=True)
class Field:
    """What one field must hold.

    Attributes:
        expected: What is valid, as a message says it after "Expected".
        is_valid: Whether a value is.
        required: Whether the field may not be left out.
    """

    expected: str
    is_valid: Callable[[Any], bool]
    required: bool = True


def fault(file: Path, field: str, value: object, expected: str) -> TreeError:
    """Returns the error for a field that does not hold what it must.

    Args:
        file: The data file.
        field: The name of the field, with the record where a file has several.
        value: What it holds; None where it is missing.
        expected: What is valid.
    """
    path = shown(file)
    state = "is missing" if value is None else f"is {_shortened(value)}"
    return TreeError(
        f"{path}: {field} {state}. Expected {expected}. Correct the file, or restore it: "
        f"'git checkout -- {path}'."
    )


def unreadable(file: Path, error: Exception) -> TreeError:
    """Returns the error for a data file that cannot be read, or is not in its format."""
    path = shown(file)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    kind = "TOML file" if file.suffix == ".toml" else "patch"
    return TreeError(
        f"{path} cannot be read ({reason}). Expected a {kind} in UTF-8. Correct the file, or "
        f"restore it: 'git checkout -- {path}'."
    )


def check(file: Path, name: str, record: object, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Returns a record whose fields are all known, there where required, and valid.

    Args:
        file: The data file.
        name: What messages call the record; "" for the whole file.
        record: What the file holds there.
        fields: The fields that there are, by name.

    Raises:
        TreeError: If it is not so.
    """
    if not isinstance(record, dict):
        raise fault(file, name, record, f"a table with the fields {', '.join(fields)}")
    prefix = f"{name}, " if name else ""
    for key, value in record.items():
        if key not in fields:
            known = ", ".join(fields)
            raise fault(file, f"{prefix}unknown field '{key}'", value, f"one of: {known}")
    for key, field in fields.items():
        if key not in record:
            if field.required:
                raise fault(file, f"{prefix}field '{key}'", None, field.expected)
        elif not field.is_valid(record[key]):
            raise fault(file, f"{prefix}field '{key}'", record[key], field.expected)
    return record


def matches(pattern: str) -> Callable[[Any], bool]:
    """Returns the check that a value is a string of which all fits a regular expression."""
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def list_of(is_valid: Callable[[Any], bool], at_least: int = 0) -> Callable[[Any], bool]:
    """Returns the check that a value is a list whose items are all valid."""
    return lambda value: (
        isinstance(value, list) and len(value) >= at_least and all(map(is_valid, value))
    )


def table_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Returns the check that a value is a table whose values are all valid."""
    return lambda value: isinstance(value, dict) and all(map(is_valid, value.values()))


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
