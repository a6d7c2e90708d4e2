"""Overrides with types, as TorchScript and PyG's own style want them."""

import math
import typing

import torch
import torch.nn.functional as F
import torch_geometric.nn as nn
from cases import case
from torch import Tensor
from torch_geometric.nn import FAConv, GATConv, GATv2Conv
from torch_geometric.typing import OptPairTensor, OptTensor, PairTensor
from torch_geometric.utils import softmax

# Layers that some releases do not have yet.
TransformerConv = getattr(nn, "TransformerConv", torch.nn.Module)
RGATConv = getattr(nn, "RGATConv", torch.nn.Module)
Optional = typing.Optional


@case(8, 4, heads=2, since=(2, 0))
class CallsSuper(TransformerConv):
    def message(
        self,
        query_i: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
    ) -> Tensor:
        out = super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)
        return 2 * out


@case(8, 4, heads=2, since=(2, 0), compilers=True)
class NoSuper(TransformerConv):
    """Computes the attention itself, and repeats the types that `propagate()` is called with."""

    # propagate_type: (query: Tensor, key: Tensor, value: Tensor, edge_attr: OptTensor)

    def message(
        self,
        query_i: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
    ) -> Tensor:
        score = softmax((query_i - key_j).abs().sum(dim=-1), index, ptr, size_i)
        return value_j * score.unsqueeze(-1)


@case(8, 4, heads=2, edge_dim=3, dropout=0.5, since=(2, 0))
class Masked(TransformerConv):
    """Attends to some of the edges, by their features."""

    def message(
        self,
        query_i: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
    ) -> Tensor:
        assert edge_attr is not None
        score = (query_i * key_j).sum(dim=-1) / math.sqrt(self.out_channels)
        score = softmax(score.masked_fill(edge_attr[:, :1] < 0, -1e9), index, ptr, size_i)
        score = F.dropout(score, p=self.dropout, training=self.training)
        return value_j * score.view(-1, self.heads, 1)


@case(8, 4, heads=2, since=(2, 0))
class KeepsAlpha(TransformerConv):
    """Starts from a copy of PyG's own method."""

    def message(
        self,
        query_i: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
    ) -> Tensor:
        alpha = torch.relu(query_i * key_j).mean(dim=-1)
        alpha = softmax(alpha, index, ptr, size_i)
        self._alpha = alpha
        alpha = F.dropout(alpha, p=self.dropout, training=self.training)
        return value_j * alpha.unsqueeze(-1)


@case(8, 4, since=(2, 0), compilers=True)
class Fewer(TransformerConv):
    """Needs less than its base."""

    propagate_type = {"query": Tensor, "key": Tensor, "value": Tensor, "edge_attr": OptTensor}

    def message(self, query_i: Tensor, value_j: Tensor) -> Tensor:
        return torch.relu(query_i + value_j)


@case(8, 4, since=(2, 0))
class More(TransformerConv):
    """Needs more than its base."""

    def message(
        self,
        query_i: Tensor,
        query_j: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_index_j: Tensor,
        index: Tensor,
        size_i: Optional[int],
        size_j: Optional[int],
    ) -> Tensor:
        score = softmax((query_i * key_j - query_j).sum(dim=-1), index, None, size_i)
        return value_j * score.unsqueeze(-1) * (edge_index_j != index).view(-1, 1, 1)


@case(8, 4, since=(2, 0))
class OtherSpellings(TransformerConv):
    """The same types by other names."""

    def message(
        self,
        query_i: torch.Tensor,
        key_j: torch.Tensor,
        value_j: torch.Tensor,
        edge_attr: typing.Optional[torch.Tensor],
        index: torch.Tensor,
        ptr: typing.Optional[torch.Tensor],
        size_i: typing.Optional[int],
    ) -> torch.Tensor:
        return super().message(query_i, key_j.neg(), value_j, edge_attr, index, ptr, size_i)


@case(8, 4, since=(2, 0))
class SizeIsThere(TransformerConv):
    """Says `int` where its base says `Optional[int]`."""

    def message(
        self,
        query_i: Tensor,
        key_j: Tensor,
        value_j: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: int,
    ) -> Tensor:
        return super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i) * size_i


@case(8, 4, since=(2, 0))
class Grandchild(CallsSuper):
    """A subclass of a subclass, that takes less than both."""

    def message(self, key_j: Tensor, value_j: Tensor) -> Tensor:
        return key_j * value_j


@case(8, 4, since=(2, 0))
class GrandchildOfNothing(Fewer):
    pass


# Both orders of two subclasses of one base are tried, and those of a subclass and its base.
@case(8, 4, since=(2, 0))
class CallsSuperLast(CallsSuper):
    """Has a name that starts with its base's, as the names of compiled modules do."""

    def message(self, value_j: Tensor, index: Tensor) -> Tensor:
        return value_j * index.view(-1, 1, 1)


@case(8, 4, since=(2, 0), compilers=True)
class OtherSteps(TransformerConv):
    def aggregate(
        self,
        inputs: Tensor,
        index: Tensor,
        ptr: OptTensor = None,
        dim_size: Optional[int] = None,
    ) -> Tensor:
        assert dim_size is not None
        out = torch.zeros([dim_size, inputs.size(1), inputs.size(2)])
        return out.index_add(0, index, inputs)

    def update(self, aggr_out: Tensor) -> Tensor:
        return torch.tanh(aggr_out)


@case(8, 4, heads=2, until=(2, 4))
class GATv2(GATv2Conv):
    """Of the releases in which `message()` computes the attention."""

    def message(
        self,
        x_j: Tensor,
        x_i: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
    ) -> Tensor:
        return torch.relu(super().message(x_j, x_i, edge_attr, index, ptr, size_i))


@case(8, 4, heads=2, until=(2, 4), compilers=True)
class GATv2NoSuper(GATv2Conv):
    # propagate_type: (x: PairTensor, edge_attr: OptTensor)

    def message(self, x_j: Tensor, x_i: Tensor, index: Tensor, size_i: Optional[int]) -> Tensor:
        alpha = softmax((x_i * x_j).sum(dim=-1), index, None, size_i)
        return x_j * alpha.unsqueeze(-1)


@case(8, 4, heads=2, until=(2, 4))
class GATv2KeepsAlpha(GATv2Conv):
    def message(
        self,
        x_j: Tensor,
        x_i: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
        edge_index_j: Tensor,
    ) -> Tensor:
        alpha = (F.leaky_relu(x_i + x_j, self.negative_slope) * self.att).sum(dim=-1)
        alpha = softmax(alpha + (edge_index_j == index).view(-1, 1), index, ptr, size_i)
        self._alpha = alpha
        return x_j * alpha.unsqueeze(-1)


@case(8, 4, heads=2, since=(2, 5))
class GATv2EdgeUpdate(GATv2Conv):
    """Of the releases in which `edge_update()` does."""

    def edge_update(
        self,
        x_j: Tensor,
        x_i: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        dim_size: Optional[int],
    ) -> Tensor:
        return torch.sqrt(super().edge_update(x_j, x_i, edge_attr, index, ptr, dim_size))


@case(8, 4, heads=2, since=(2, 5), compilers=True)
class GATv2Message(GATv2Conv):
    def message(self, x_j: Tensor, alpha: Tensor) -> Tensor:
        return x_j + alpha.unsqueeze(-1)


@case(8, dropout=0.5)
class FA(FAConv):
    def message(
        self, x_j: Tensor, alpha_j: Tensor, alpha_i: Tensor, edge_weight: OptTensor
    ) -> Tensor:
        return super().message(x_j.abs(), alpha_j, alpha_i, edge_weight)


@case(8, compilers=True)
class FANoSuper(FAConv):
    # propagate_type: (x: Tensor, alpha: PairTensor, edge_weight: OptTensor)

    def message(self, x_j: Tensor, alpha_i: Tensor) -> Tensor:
        return x_j * torch.sigmoid(alpha_i)


@case(8)
class FAKeepsAlpha(FAConv):
    def message(
        self, x_j: Tensor, alpha_j: Tensor, alpha_i: Tensor, edge_weight: OptTensor
    ) -> Tensor:
        assert edge_weight is not None
        self._alpha = torch.sigmoid(alpha_j + alpha_i).squeeze(-1)
        return x_j * (self._alpha * edge_weight).view(-1, 1)


@case(8, 4, 3, heads=2, since=(2, 1))
class RGAT(RGATConv):
    def message(
        self,
        x_i: Tensor,
        x_j: Tensor,
        edge_type: Tensor,
        edge_attr: OptTensor,
        index: Tensor,
        ptr: OptTensor,
        size_i: Optional[int],
    ) -> Tensor:
        edge_type = edge_type.flip(0)
        return super().message(x_i, x_j, edge_type, edge_attr, index, ptr, size_i)


@case(8, 4, heads=2, since=(2, 1), compilers=True)
class GAT(GATConv):
    def message(self, x_j: Tensor, alpha: Tensor) -> Tensor:
        return alpha.unsqueeze(-1) * x_j * 2
