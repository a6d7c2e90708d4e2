"""What a wheel needs of the machine that it is copied to, as auditwheel reads it."""

import json
import sys
from pathlib import Path

from packaging.version import Version

from kit.processes import last_lines, run

# The prefixes of the versions of symbols, and whose they are.
_LIBRARIES = {"GLIBC": "glibc {}", "GLIBCXX": "a libstdc++ that has GLIBCXX_{}"}


def needs(wheel: Path) -> str:
    """Says the oldest glibc and libstdc++ that a wheel for Linux runs on, in words.

    Args:
        wheel: The wheel.

    Returns:
        A sentence without its full stop; "" for a wheel that has no compiled code or is not for
        Linux.
    """
    if "linux" not in wheel.name.rsplit("-", 1)[-1]:
        return ""
    result = run([sys.executable, "-I", "-m", "auditwheel", "show", "--json", wheel])
    if result.returncode != 0:
        return f"auditwheel could not read it: {last_lines(result.stderr, 1)}"
    shown = json.loads(result.stdout)
    newest: dict[str, Version] = {}
    for symbols in shown["versioned_symbols"].values():
        for symbol in symbols:
            prefix, _, version = symbol.partition("_")
            if prefix in _LIBRARIES and version[:1].isdigit():
                newest[prefix] = max(newest.get(prefix, Version("0")), Version(version))
    parts = [_LIBRARIES[prefix].format(newest[prefix]) for prefix in _LIBRARIES if prefix in newest]
    return f"runs on {' and '.join(parts)}, or newer" if parts else ""
