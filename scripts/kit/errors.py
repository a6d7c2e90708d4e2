"""The errors that end a command, one class an exit code.

The text of an error is the whole message: what was expected, what was found,
and what to do. Only `kit.cli` shows it.
"""

from pathlib import Path


def shown(path: Path) -> Path:
    """Returns a path as messages show it: relative to the working directory where it lies below."""
    try:
        absolute, here = path.absolute(), Path.cwd()
    except FileNotFoundError:
        return path  # the working directory has been removed
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


class KitError(Exception):
    """A foreseeable mistake. Base of the others; never raised itself."""

    exit_code: int


class ProofError(KitError):
    """A proof or a validation found a fault."""

    exit_code = 1


class UsageError(KitError):
    """The command line names something that does not exist."""

    exit_code = 2


class SourceError(KitError):
    """A release could not be downloaded, or is not what its pin says."""

    exit_code = 3


class TreeError(KitError):
    """A tree, the place for one, or a file in `patches/` is not in a state to work on."""

    exit_code = 4


class ToolError(KitError):
    """Something that this machine needs is missing or does not work."""

    exit_code = 5
