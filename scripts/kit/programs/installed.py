"""Says where an interpreter imports PyG from; it runs in the user's environment.

Usage: installed.py [--load]

It prints one line of JSON. With `--load`, it also imports torch and the extensions, each
extension in a process of its own, since one that does not fit its torch can end it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pathlib
import sys
import tempfile

EXTENSIONS = ("torch_scatter", "torch_sparse", "torch_cluster", "torch_spline_conv", "pyg_lib")


def main() -> None:
    """Prints what is asked for."""
    # Not the folder of this program: what a service imports from is the rest.
    del sys.path[0]
    described: dict[str, object] = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "origin": _origin(),
        "places": _places(),
    }
    if "--load" in sys.argv[1:]:
        described["torch"] = _version_of("torch")
        described["extensions"] = {name: _try(name) for name in EXTENSIONS}
    print(json.dumps(described))


def _origin() -> str | None:
    # Nothing of PyG is run: its files may be half written.
    try:
        spec = importlib.util.find_spec("torch_geometric")
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    return spec.origin or (places[0] if places else None)


def _places() -> list[str]:
    places = []
    for entry in sys.path:
        place = os.path.realpath(entry or os.curdir)
        package = pathlib.Path(place, "torch_geometric", "__init__.py")
        if package.is_file() and place not in places:
            places.append(place)
    return places


def _version_of(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return ""
    try:
        return str(getattr(importlib.import_module(name), "__version__", "?"))
    except Exception as error:
        return f"cannot be imported: {type(error).__name__}: {_first_line(error)}"


def _try(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return ""
    with tempfile.TemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            try:
                answer.write(_version_of(name).encode("utf-8", "replace"))
                answer.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        answer.seek(0)
        said = answer.read().decode("utf-8", "replace")
    if os.WIFSIGNALED(status):
        return f"cannot be imported: it ends the process by signal {os.WTERMSIG(status)}"
    return said or "cannot be imported"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]


if __name__ == "__main__":
    main()
