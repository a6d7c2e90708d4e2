"""Says whether threads can share a model, or layers of PyG.

    python audit layers [--layer NAME] ... [--calls N]       PYTHONPATH: the tree to try
    python audit model MODEL INPUTS [--calls N] ...          each as package.module:factory

Runs inside a PyG environment, and imports nothing of the kit. `layers` audits what
layers.py can build, `model` one module of anybody's. The last line of the output is JSON.

The Python code that a call runs is rewritten such that it reports what it reads and
changes: attributes of any object, items, global variables, variables of closures. For each
place that calls share, one thread is held right before a read, or after a change; another
one runs until right after a change; and both go on. A result that is not the one of the
same call alone confirms a race. TorchScript is read as the graph that it is. Then threads
share the model at full speed, in a process whose death is a result.
"""

import argparse
import gc
import importlib.util
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict

os.environ.setdefault("OMP_NUM_THREADS", "1")
# TorchScript else fuses what it has seen before, and may round it in another way than at first.
os.environ.setdefault("PYTORCH_TENSOREXPR", "0")
# cuBLAS else adds in any order.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

HERE = Path(__file__).absolute().parent
# What is imported is the user's, or Python's: torch imports pdb, and that `code`, which is a
# module of ours, too.
sys.path[:] = [path for path in sys.path if Path(path).absolute() != HERE]

import torch  # noqa: E402

# A module of the user's may have the name of one of ours.
PACKAGE = "_pyg_threadsafe_audit"


def load_package() -> None:
    """Imports the package that this file is in, under a name of its own."""
    if PACKAGE in sys.modules:
        return
    file = HERE / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        PACKAGE, file, submodule_search_locations=[str(HERE)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


def get_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    modes = parser.add_subparsers(dest="mode")
    mode = modes.add_parser("layers")
    mode.add_argument("--layer", action="append", default=[])
    mode.add_argument("--calls", type=int, default=96)
    mode = modes.add_parser("model")
    mode.add_argument("model")
    mode.add_argument("inputs")
    mode.add_argument("--calls", type=int, default=None)
    mode.add_argument("--method", action="append", default=[])
    mode.add_argument("--grad", action="store_true")
    mode.add_argument("--tolerance", type=float, default=0.0)
    mode.add_argument("--explainer", default=None)
    return parser.parse_args()


def notify(message: str) -> None:
    """Tells who started this what is going on."""
    print("progress: " + message, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> Dict[str, Any]:
    """Runs a mode."""
    load_package()
    if options.mode == "layers":
        from _pyg_threadsafe_audit import layers  # type: ignore[import-not-found,unused-ignore]

        audit_layers: Callable[..., Dict[str, Any]] = layers.audit_layers
        return audit_layers(options.layer, options.calls, notify)
    from _pyg_threadsafe_audit import model  # type: ignore[import-not-found,unused-ignore]

    sys.path.insert(0, str(Path.cwd()))
    result: Dict[str, Any] = model.audit_model(
        options.model,
        options.inputs,
        options.method,
        options.calls,
        True if options.grad else None,
        options.tolerance,
        options.explainer,
        notify,
    )
    return result


def main() -> int:
    """Runs a mode, and prints what it saw."""
    options = get_options()
    # What is printed meanwhile must not get between us and who reads the last line.
    out = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    torch.set_num_threads(1)
    load_package()
    problem: Any = importlib.import_module(PACKAGE + ".calls").Problem
    try:
        result = run(options)
    except problem as said:
        print(said, file=sys.stderr)
        return 2
    with os.fdopen(out, "w") as stream:
        print(json.dumps(result), file=stream)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(status)  # what hangs does not keep us
    # Python looks for cycles among all that torch and PyG have made as it ends, for a second.
    gc.freeze()
    sys.exit(status)
