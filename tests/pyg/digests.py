"""Shows results such that two are equal if they are the same bit for bit."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_geometric

# The programs of the kit import nothing of the kit, and are no package.
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "kit" / "programs"))
from layers import SPARSE_FORMS, VERSION, SparseTensor

__all__ = ["SPARSE_FORMS", "VERSION", "SparseTensor", "digest", "observed"]

BY_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest(value: Any) -> Any:
    """Shows a result such that equal means equal bit for bit (and NaN equals NaN)."""
    if isinstance(value, torch.Tensor):
        if str(value.layout) in ("torch.sparse_csr", "torch.sparse_csc"):  # not all in torch 1.9
            compressed = value.layout == torch.sparse_csr
            parts = (
                (value.crow_indices(), value.col_indices())
                if compressed
                else (value.ccol_indices(), value.row_indices())
            )
            return [str(value.layout), digest([*parts, value.values()])]
        if value.layout == torch.sparse_coo:
            value = value.coalesce()
            return ["coo", digest([value.indices(), value.values()])]
        value = value.detach().contiguous()
        if value.is_floating_point():
            value = torch.where(value.isnan(), torch.full_like(value, float("nan")), value)
        if value.is_complex():
            value = torch.view_as_real(value)
        # NumPy does not know all types, and torch 1.9 keeps the size of numbers in a view.
        same_size = BY_SIZE[value.element_size()]
        data = value.flatten().view(same_size).numpy().tobytes() if value.numel() else b""
        return [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
    if SparseTensor is not None and isinstance(value, SparseTensor):
        return ["SparseTensor", digest(list(value.coo()))]
    if isinstance(value, (list, tuple)):
        return [digest(item) for item in value]
    if isinstance(value, dict):
        return [[digest(key), digest(item)] for key, item in value.items()]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"A {type(value).__name__} cannot be compared bit for bit.")


def observed(function: Callable[[], Any]) -> Any:
    """What a call returns, or how it fails."""
    try:
        return {"result": digest(function())}
    except Exception as error:
        # TorchScript names the files that its code is from, and these are of one of two trees.
        tree = str(Path(torch_geometric.__file__).parents[1])
        return {"error": f"{type(error).__name__}: {error}".replace(tree, "(tree)")}
