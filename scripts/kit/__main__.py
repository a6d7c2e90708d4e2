"""What scripts/kit.sh runs: `python scripts/kit`."""

import signal
import sys
from pathlib import Path

# Until `main()` takes it over: nothing has been done that would have to be undone.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# In place of this folder, whose modules are to be found as `kit.<name>` alone.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from kit.cli import main  # noqa: E402

main()
