"""Overrides without types, or with some, as most public subclasses write them.

PyG 2.5.0 looks up the types that `propagate()` is called with in the module of the subclass:
there, the imports of types are needed.
"""

import math

import torch
import torch.nn.functional as F
import torch_geometric.nn as nn
from cases import case
from torch import Tensor
from torch_geometric.nn import FAConv, GATConv, GATv2Conv, HypergraphConv, TransformerConv
from torch_geometric.typing import OptPairTensor, OptTensor, PairTensor
from torch_geometric.utils import softmax

# Layers that some releases do not have yet.
RGATConv = getattr(nn, "RGATConv", torch.nn.Module)
try:
    from torch_geometric.nn.models.lpformer import LPAttLayer
except ImportError:
    LPAttLayer = torch.nn.Module


@case(8, 4, heads=2, since=(2, 0))
class NoSuper(TransformerConv):
    """Computes the attention itself, and keeps none of it."""

    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i):
        score = (query_i * key_j).sum(dim=-1) / math.sqrt(self.out_channels)
        score = softmax(score - score.mean(), index, ptr, size_i)
        return value_j * F.dropout(score, 0.5, self.training).unsqueeze(-1)


@case(8, 4, heads=2, edge_dim=3, since=(2, 0))
class KeepsAlpha(TransformerConv):
    """Starts from a copy of PyG's own method, and leaves out the edges' features."""

    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i):
        key_j = key_j + self.lin_edge(edge_attr).view(-1, self.heads, self.out_channels)
        alpha = (query_i * key_j).sum(dim=-1) / math.sqrt(self.out_channels)
        alpha = softmax(alpha, index, ptr, size_i)
        self._alpha = alpha
        alpha = F.dropout(alpha, p=self.dropout, training=self.training)
        return value_j * alpha.view(-1, self.heads, 1)


@case(8, 4, heads=2, beta=True, dropout=0.5, since=(2, 0))
class CallsSuper(TransformerConv):
    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i):
        return 2 * super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)


@case(8, 4, since=(2, 0))
class CallsSuperByName(TransformerConv):
    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i):
        return super().message(
            query_i=query_i,
            key_j=key_j,
            value_j=torch.tanh(value_j),
            edge_attr=edge_attr,
            index=index,
            ptr=ptr,
            size_i=size_i,
        )


@case(8, 4, since=(2, 0))
class OtherOrder(TransformerConv):
    """Names the arguments that it needs in an order of its own."""

    def message(self, value_j, index, size_i, query_i, key_j):
        score = softmax((query_i * key_j).mean(dim=-1), index, num_nodes=size_i)
        return value_j * score.unsqueeze(-1)


@case(8, 4, since=(2, 0))
class LeftAttention(TransformerConv):
    """Looks at the neighbours alone."""

    def message(self, value_j):
        return value_j.relu()


@case(8, 4, since=(2, 0))
class HalfTyped(TransformerConv):
    def message(self, query_i: Tensor, key_j: Tensor, value_j, edge_attr, index, ptr, size_i):
        return super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i).sigmoid()


@case(8, 4, since=(2, 0))
class OnlyTheResultTyped(TransformerConv):
    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i) -> Tensor:
        return super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i).exp()


@case(8, 4, since=(2, 0))
class ExtraWithDefault(TransformerConv):
    """Has an argument more, which `propagate()` is not given."""

    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i, temperature=0.5):
        query_i = query_i / temperature
        return super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)


@case(8, 4, since=(2, 0))
class ExtraOfTheTarget(TransformerConv):
    """Takes more of what PyG collects: the features of the other side, and the indices."""

    def message(
        self, query_i, key_i, key_j, value_i, value_j, edge_attr, index, ptr, size_i, size_j, dim
    ):
        value_j = value_j - value_i
        key_j = key_j + key_i * (size_i / size_j)
        return super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)


@case(8, 4, since=(2, 0))
class ExtraIndices(TransformerConv):
    def message(
        self, query_i, key_j, value_j, edge_attr, index, ptr, size_i, edge_index_i, edge_index_j
    ):
        value_j = value_j * (edge_index_i != edge_index_j).view(-1, 1, 1)
        return super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)


@case(8, 4, since=(2, 0))
class AnyKeywords(TransformerConv):
    """Which PyG does not understand: it asks for an argument that is called `kwargs`."""

    def message(self, value_j, **kwargs):
        return value_j


@case(8, 4, since=(2, 0))
class AnyArguments(TransformerConv):
    def message(self, *args, **kwargs):
        return super().message(*args, **kwargs)


@case(8, 4, since=(2, 0))
class Grandchild(CallsSuper):
    """A subclass of a subclass, with the method overridden in both."""

    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i):
        return 1 + super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)


@case(8, 4, since=(2, 0))
class GrandchildOfNothing(NoSuper):
    """A subclass of a subclass that changes nothing."""


@case(8, 4, since=(2, 0))
class CallsSuperAgain(CallsSuper):
    """Starts with the name of its base, as its base's compiled methods do."""

    def message(self, value_j, index):
        return value_j * index.view(-1, 1, 1)


@case(8, 4, since=(2, 0))
class Update(TransformerConv):
    """Overrides the two other steps."""

    def aggregate(self, inputs, index, ptr=None, dim_size=None):
        return super().aggregate(inputs, index, ptr=ptr, dim_size=dim_size) / 2

    def update(self, inputs, value):
        return inputs + value.view_as(inputs)


@case(8, 4, since=(2, 0))
class UpdateKeywords(TransformerConv):
    def update(self, aggr_out):
        return F.elu(aggr_out)


@case(8, 4, heads=2, until=(2, 4))
class UntypedGATv2(GATv2Conv):
    """Of the releases in which `message()` computes the attention."""

    def message(self, x_j, x_i, edge_attr, index, ptr, size_i):
        return super().message(x_j, x_i, edge_attr, index, ptr, size_i) * 3


@case(8, 4, heads=2, until=(2, 4))
class KeepsAlphaGATv2(GATv2Conv):
    def message(self, x_j, x_i, index, ptr, size_i):
        alpha = (F.leaky_relu(x_i + x_j, self.negative_slope) * self.att).sum(dim=-1)
        alpha = softmax(-alpha, index, ptr, size_i)
        self._alpha = alpha
        return x_j * alpha.unsqueeze(-1)


@case(8, 4, heads=2, since=(2, 5))
class GATv2EdgeUpdate(GATv2Conv):
    """Of the releases in which `edge_update()` does."""

    def edge_update(self, x_j, x_i, edge_attr, index, ptr, dim_size):
        return super().edge_update(x_j, x_i, edge_attr, index, ptr, dim_size).sqrt()


@case(8, 4, heads=2, since=(2, 5))
class GATv2Message(GATv2Conv):
    def message(self, x_j, alpha):
        return super().message(x_j, alpha.round())


@case(8, dropout=0.5)
class UntypedFA(FAConv):
    def message(self, x_j, alpha_j, alpha_i, edge_weight):
        return super().message(x_j, alpha_j, alpha_i, edge_weight).abs()


@case(8)
class KeepsAlphaFA(FAConv):
    def message(self, x_j, alpha_j, alpha_i, edge_weight):
        self._alpha = (alpha_j - alpha_i).tanh().squeeze(-1)
        return x_j * (self._alpha * edge_weight).view(-1, 1)


@case(8, 4, 3, heads=2, since=(2, 1))
class UntypedRGAT(RGATConv):
    def message(self, x_i, x_j, edge_type, edge_attr, index, ptr, size_i):
        return super().message(x_i, x_j.neg(), edge_type, edge_attr, index, ptr, size_i)


@case(8, 4, 3, since=(2, 1))
class RGATUpdate(RGATConv):
    def update(self, aggr_out):
        return super().update(aggr_out).tanh()


@case(8, 4, heads=2, until=(2, 0))
class OldGATMessage(GATConv):
    """Of the releases in which `message()` computes the attention."""

    def message(self, x_j, alpha_j, alpha_i, index, ptr, size_i):
        alpha = softmax(F.leaky_relu(alpha_j + alpha_i), index, ptr, size_i)
        self._alpha = alpha
        return x_j * alpha.unsqueeze(-1)


@case(8, 4, heads=2, since=(2, 1))
class GATMessage(GATConv):
    def message(self, x_j, alpha):
        return super().message(x_j, alpha) * 2


@case(8, 4, use_attention=False)
class UntypedHypergraph(HypergraphConv):
    def message(self, x_j, norm_i, alpha):
        return super().message(x_j, norm_i, alpha) + 1


@case(8, 4, node_dim=None, num_heads=1, dropout=0.5, since=(2, 7))
class UntypedLPAtt(LPAttLayer):
    def message(self, x_i, x_j, ppr_rpes, index, ptr, size_i):
        return super().message(x_i, x_j, ppr_rpes * 2, index, ptr, size_i)
