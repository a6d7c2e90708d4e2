"""Writes a scripted model, and requests for it, as a server in C++ loads them.

    python export.py MODEL.pt REQUESTS.pt        PYTHONPATH: the tree of PyG to use
"""

import sys
from typing import List, Tuple

import torch
import torch_geometric
from torch import Tensor
from torch_geometric.nn import TransformerConv


class Model(torch.nn.Module):
    """One layer, whose attention weights are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = TransformerConv(8, 4, heads=2)
        if not torch_geometric.__version__ >= "2.5":
            types = "(Tensor, Tensor, NoneType, bool) -> Tuple[Tensor, Tuple[Tensor, Tensor]]"
            self.conv = self.conv.jittable(types)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:
        return self.conv(x, edge_index, return_attention_weights=True)


class Requests(torch.nn.Module):
    """Eight graphs, the first four of the same size."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [10, 10, 10, 10, 12, 16, 20, 24]
        self.x: List[Tensor] = [torch.randn(size, 8) for size in sizes]
        self.edge_index: List[Tensor] = [torch.randint(size, (2, 4 * size)) for size in sizes]

    def forward(self) -> int:
        return len(self.x)


torch.manual_seed(12345)
torch.jit.script(Model().eval()).save(sys.argv[1])
torch.jit.script(Requests()).save(sys.argv[2])
