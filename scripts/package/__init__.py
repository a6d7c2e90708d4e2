"""What `pip install` makes of the kit: the command `pyg-threadsafe`."""

import sys
from pathlib import Path


def main() -> None:
    """Runs the kit, whose modules are found as `kit.<name>` in this process alone."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "scripts"))
    from kit.cli import main as run

    run()
