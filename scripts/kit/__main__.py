"""What scripts/kit.sh runs: `python scripts/kit`."""

import sys
from pathlib import Path

# In place of this folder, whose modules are to be found as `kit.<name>` alone.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from kit.cli import main  # noqa: E402

main()
