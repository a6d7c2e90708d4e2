"""Runs inside a PyG environment, and imports nothing of the kit.

    python scripted.py FORM CALLS TEST       PYTHONPATH: the tree to try

Scripts the layer of a threaded regression test, lets eight threads share it, and counts how the
calls ended. FORM is `scripted`, `saved` (and loaded again), `frozen` or `optimized` (for
inference). Prints one line of JSON: the counts, or the `error` if TorchScript does not take the
layer. TorchScript runs without the GIL, so that a race can end the process: its exit status is a
result, too.
"""

from __future__ import annotations

import importlib.util
import inspect
import io
import json
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, Callable

import torch
from prove import count, load

NUM_THREADS = 8

VERSION = tuple(
    int(part) for part in importlib.import_module("torch_geometric").__version__.split(".")[:2]
)

# What the arguments of `forward()` are in TorchScript, where they are not tensors.
TYPES = {
    "edge_attr": "OptTensor",
    "edge_weight": "OptTensor",
    "edge_type": "OptTensor",
    "size": "Size",
}


def module_from(source: str) -> Any:  # noqa: ANN401
    """Imports source code from a file, where TorchScript and PyG can read it again."""
    directory = Path(tempfile.mkdtemp(prefix="scripted-"))
    name = "generated_" + directory.name.replace("scripted-", "")
    file = directory / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def script(
    conv: torch.nn.Module, names: list[str], with_weights: bool = False, form: str = "Tensor"
) -> tuple[torch.jit.ScriptModule, dict[str, Any]]:
    """Scripts a layer, as the users of its release do.

    Args:
        conv: The layer.
        names: The arguments that it is called with.
        with_weights: Whether it is to return attention weights.
        form: The type of `edge_index`: `Tensor` or `SparseTensor`.

    Returns:
        The module, and what it is called with beside `names`.
    """
    forward = list(inspect.signature(conv.forward).parameters)
    has_weights = "return_attention_weights" in forward
    result = "Tensor"
    if with_weights:
        weights = {"Tensor": "Tuple[Tensor, Tensor]", "SparseTensor": "SparseTensor"}[form]
        result = f"Tuple[Tensor, {weights}]"
    if VERSION < (2, 5):
        # `jittable()` wants the type of each argument.
        types = {
            **TYPES,
            "edge_index": form,
            "return_attention_weights": "bool" if with_weights else "NoneType",
        }
        signature = ", ".join(types.get(name, "Tensor") for name in forward)
        typing = [f"({signature}) -> {result}"] if has_weights else []
        more = {"return_attention_weights": True} if with_weights else {}
        return torch.jit.script(conv.jittable(*typing)), more
    arguments = ", ".join(f"{name}: {form if name == 'edge_index' else 'Tensor'}" for name in names)
    call = ", ".join(f"{name}={name}" for name in names)
    call += ", return_attention_weights=True" if with_weights else ""
    net = module_from(
        "from typing import Tuple\nimport torch\nfrom torch import Tensor\n"
        "from torch_geometric.typing import SparseTensor\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, conv):\n"
        "        super().__init__()\n"
        "        self.conv = conv\n"
        f"    def forward(self, {arguments}) -> {result}:\n"
        f"        return self.conv({call})\n"
    ).Net(conv)
    return torch.jit.script(net.train(conv.training)), {}


def saved(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Writes a scripted module, and loads it again."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


FORMS: dict[str, Callable[[torch.jit.ScriptModule], torch.jit.ScriptModule]] = {
    "scripted": lambda module: module,
    "saved": saved,
    "frozen": lambda module: torch.jit.freeze(module),
    "optimized": lambda module: torch.jit.optimize_for_inference(module),
}


def tensors_of(result: object) -> list[torch.Tensor]:
    """The tensors that a call returns."""
    if isinstance(result, torch.Tensor):
        return [result]
    assert isinstance(result, (list, tuple))
    return [tensor for item in result for tensor in tensors_of(item)]


def stress(
    module: torch.jit.ScriptModule, inputs: list[dict[str, Any]], num_calls: int
) -> tuple[list[str], str]:
    """Lets threads share a module.

    Returns:
        How each call ended (`right`, `crashed` or `silently wrong`), and the first error.
    """

    def call(number: int) -> list[torch.Tensor]:
        with torch.no_grad():
            return tensors_of(module(**inputs[number % len(inputs)]))

    for _ in range(3):  # TorchScript optimizes what it has seen, which may round differently.
        expected = [call(number) for number in range(len(inputs))]
    ends: list[str] = []
    errors: list[str] = []
    barrier = threading.Barrier(NUM_THREADS)

    def target(offset: int) -> None:
        barrier.wait()
        for number in range(offset, offset + num_calls // NUM_THREADS):
            try:
                result = call(number)
            except Exception:
                errors.append(traceback.format_exc().strip().splitlines()[-1])
                ends.append("crashed")
                continue
            equal = map(torch.equal, result, expected[number % len(inputs)])
            ends.append("right" if all(equal) else "silently wrong")

    threads = [threading.Thread(target=target, args=(i,)) for i in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends, errors[0] if errors else ""


def main(form: str, calls: str, test_file: str) -> dict[str, Any]:
    """Counts how calls end, of the layer with attention weights and without them."""
    torch.set_num_threads(1)
    # Fused operators may round in another way than those of an earlier call.
    torch._C._jit_set_texpr_fuser_enabled(False)
    test = load("regression_test", test_file)
    inputs = [test.get_inputs(10, 40, seed=seed) for seed in range(8)]
    forward = inspect.signature(test.get_conv().forward)
    ends: list[str] = []
    first_error = ""
    variants = [False, True] if "return_attention_weights" in forward.parameters else [False]
    for with_weights in variants:
        try:
            conv = test.get_conv().eval()
            module, more = script(conv, list(inputs[0]), with_weights)
            module = FORMS[form](module)
            stressed = [{**each, **more} for each in inputs]
            module(**stressed[0])
        except Exception as error:
            return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        made, crash = stress(module, stressed, int(calls) // len(variants))
        ends += made
        first_error = first_error or crash
    return {**count(ends), "threads": NUM_THREADS, "first_error": first_error}


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    print(json.dumps(main(*sys.argv[1:])))
