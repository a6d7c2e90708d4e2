"""What `pip install` makes of the kit: the command `pyg-threadsafe`."""

import contextlib
import os
import sys
import sysconfig
from pathlib import Path


def main() -> None:
    """Runs the kit, whose modules are found as `kit.<name>` in this process alone."""
    here = Path(__file__).resolve().parent
    # What lies in PYTHONPATH, and in the current directory, is for the programs that the kit
    # runs, not for the kit. (Python's -I would also hide the user's site, where it may lie.)
    with contextlib.suppress(FileNotFoundError):  # a current directory that is gone
        named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        others = {Path(entry).resolve() for entry in ("", *named)}
        others -= {Path(entry).resolve() for entry in sysconfig.get_paths().values()}
        others.discard(here.parent)
        sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in others]
    sys.path.insert(0, str(here / "scripts"))
    from kit.cli import main as run

    run()
