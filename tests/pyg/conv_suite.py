"""Runs every layer that `torch_geometric.nn.conv` of the PyG on the path exports.

How each layer is built and called is in `scripts/kit/programs/layers.py`. What is
shown of a call is the digest of its outputs and gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_geometric.nn.conv
from digests import observed
from layers import LAYERS, LEFT_OUT, forms, get_layer


def tensors(value: Any) -> list[torch.Tensor]:
    """The floating-point tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() and value.requires_grad else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    return []


def plain(value: Any) -> Any:
    """A result without dictionaries, such that `digest` can show it."""
    if isinstance(value, dict):
        return [[str(key), plain(item)] for key, item in sorted(value.items())]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


@torch.no_grad()
def infer(name: str, form: str, arguments: dict[str, Any]) -> Any:
    """Two calls of one layer, whose second one may use a cache."""
    layer = get_layer(name, form).eval()
    return [plain(layer(**arguments)) for _ in range(2)]


def train(name: str, form: str, arguments: dict[str, Any]) -> Any:
    """A step of training: output, gradients, and what random numbers it took."""
    layer = get_layer(name, form).train()
    out = layer(**arguments)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    gradients = []
    if tensors(out):
        loss = sum(tensor.square().sum() for tensor in tensors(out))
        gradients = list(torch.autograd.grad(loss, parameters, allow_unused=True))
    return [plain(out), gradients, torch.get_rng_state()]


def run() -> Any:
    """What the release exports, what is left out and why, and what each call returns."""
    exported = set(torch_geometric.nn.conv.__all__)
    return {
        "exported": sorted(exported),
        "left_out": {name: LEFT_OUT[name] for name in exported & set(LEFT_OUT)},
        "layers": {
            name: {
                f"{mode.__name__}, {form}": observed(
                    lambda: mode(name, form, arguments)  # noqa: B023
                )
                for form, arguments in forms(name).items()
                for mode in (infer, train)
            }
            for name in sorted(exported & set(LAYERS))
        },
    }
