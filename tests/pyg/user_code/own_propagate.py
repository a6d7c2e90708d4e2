"""Layers that call `propagate()` themselves, or override it."""

from typing import Optional, Tuple

import torch
import torch_geometric.nn as nn
from cases import case
from torch import Tensor
from torch_geometric.nn import FAConv, GATv2Conv, HypergraphConv, MessagePassing
from torch_geometric.typing import Adj, OptTensor, PairTensor

# Layers that some releases do not have yet.
TransformerConv = getattr(nn, "TransformerConv", torch.nn.Module)
RGATConv = getattr(nn, "RGATConv", torch.nn.Module)


@case(8, 4, heads=2, since=(2, 0), compilers=True)
class OwnForward(TransformerConv):
    """Hands `propagate()` what its base does, with its types."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        query = self.lin_query(x).view(-1, self.heads, self.out_channels)
        key = self.lin_key(x).view(-1, self.heads, self.out_channels)
        value = self.lin_value(x).view(-1, self.heads, self.out_channels)
        # propagate_type: (query: Tensor, key:Tensor, value: Tensor, edge_attr: OptTensor)
        out = self.propagate(
            edge_index, query=query, key=key, value=value, edge_attr=None, size=None
        )
        return out.mean(dim=1)


@case(8, 4, heads=2, since=(2, 0))
class OwnForwardUntyped(TransformerConv):
    """The same, without types."""

    def forward(self, x, edge_index):
        shape = (-1, self.heads, self.out_channels)
        return self.propagate(
            edge_index,
            query=self.lin_query(x).view(shape),
            key=self.lin_key(x).view(shape),
            value=self.lin_value(x).view(shape),
            edge_attr=None,
            size=None,
        ).flatten(1)


@case(8, 4, heads=2, since=(2, 0))
class OwnForwardAndMessage(TransformerConv):
    """Shares nothing with its base but the weights."""

    def forward(self, x, edge_index):
        value = self.lin_value(x).view(-1, self.heads, self.out_channels)
        return self.propagate(edge_index, value=value, size=None).flatten(1)

    def message(self, value_j):
        return value_j.tanh()


@case(8, 4, heads=2, since=(2, 0))
class ExtraArgument(TransformerConv):
    """Hands its messages a value more."""

    def forward(self, x, edge_index):
        shape = (-1, self.heads, self.out_channels)
        return self.propagate(
            edge_index,
            query=self.lin_query(x).view(shape),
            key=self.lin_key(x).view(shape),
            value=self.lin_value(x).view(shape),
            edge_attr=None,
            gate=torch.sigmoid(x.sum(dim=-1)),
            size=None,
        ).flatten(1)

    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i, gate_j):
        out = super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)
        return out * gate_j.view(-1, 1, 1)


@case(8, 4, heads=2, since=(2, 0))
class GateInSelf(TransformerConv):
    """Leaves a value for its messages in the layer."""

    gate: OptTensor = None

    def forward(self, x, edge_index, edge_type=None):
        self.gate = torch.sigmoid(edge_type.float())
        out = super().forward(x, edge_index)
        self.gate = None
        return out

    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i):
        out = super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)
        return out * self.gate.view(-1, 1, 1)


@case(8, 4, since=(2, 0))
class OwnPropagate(TransformerConv):
    """Looks at what is handed on, and hands all of it on."""

    def propagate(self, edge_index, size=None, **kwargs):
        self.handed_on = len(kwargs["query"])
        return super().propagate(edge_index, size=size, **kwargs) / self.handed_on


@case(8, 4, since=(2, 0))
class TwoRounds(TransformerConv):
    """Passes messages twice, the second time over the reversed edges."""

    def propagate(self, edge_index, size=None, **kwargs):
        out = super().propagate(edge_index, size=size, **kwargs)
        return out - super().propagate(edge_index.flip(0), size=size, **kwargs)


@case(8, 4, since=(2, 0))
class NamedPropagate(TransformerConv):
    """Names each argument of its base's call."""

    def propagate(self, edge_index, query, key, value, edge_attr=None, size=None):
        return super().propagate(
            edge_index, query=query, key=key, value=value.abs(), edge_attr=edge_attr, size=size
        )


@case(8)
class OwnPropagateFA(FAConv):
    def propagate(self, edge_index, **kwargs):
        return super().propagate(edge_index, **kwargs).neg()


@case(8, 4, 3, since=(2, 1))
class OwnPropagateRGAT(RGATConv):
    def propagate(self, edge_index, size=None, **kwargs):
        kwargs["edge_type"] = kwargs["edge_type"].flip(0)
        return super().propagate(edge_index, size=size, **kwargs)


@case(8, 4)
class OwnPropagateGATv2(GATv2Conv):
    def propagate(self, edge_index, size=None, **kwargs):
        return 2 * super().propagate(edge_index, size=size, **kwargs)


@case(8, 4)
class OwnPropagateHypergraph(HypergraphConv):
    """Is called twice by its base."""

    rounds = 0

    def propagate(self, edge_index, size=None, **kwargs):
        self.rounds += 1
        return super().propagate(edge_index, size=size, **kwargs) * self.rounds


@case(8, compilers=True)
class OwnForwardFA(FAConv):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        alpha = (self.att_l(x), self.att_r(x))
        weight = torch.ones(edge_index.size(1))
        # propagate_type: (x: Tensor, alpha: PairTensor, edge_weight: OptTensor)
        return self.propagate(edge_index, x=x, alpha=alpha, edge_weight=weight, size=None)


@case(8, 4, heads=2, until=(2, 4), compilers=True)
class OwnForwardGATv2(GATv2Conv):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x_l = self.lin_l(x).view(-1, self.heads, self.out_channels)
        x_r = self.lin_r(x).view(-1, self.heads, self.out_channels)
        # propagate_type: (x: PairTensor, edge_attr: OptTensor)
        out = self.propagate(edge_index, x=(x_l, x_r), edge_attr=None, size=None)
        return out.mean(dim=1)


@case(8, 4, heads=2, since=(2, 5))
class OwnForwardGATv2Updater(GATv2Conv):
    """Calls `edge_updater()` itself, and replaces part of the messages."""

    def forward(self, x, edge_index, return_attention_weights=False):
        x_l = self.lin_l(x).view(-1, self.heads, self.out_channels)
        x_r = self.lin_r(x).view(-1, self.heads, self.out_channels)
        # edge_updater_type: (x: PairTensor, edge_attr: OptTensor)
        alpha = self.edge_updater(edge_index, x=(x_l, x_r), edge_attr=None)
        # propagate_type: (x: PairTensor, alpha: Tensor)
        out = self.propagate(edge_index, x=(x_l, x_r), alpha=alpha.square())
        out = out.flatten(1)
        return (out, (edge_index, alpha)) if return_attention_weights else out


@case(8, 4, compilers=True)
class AttentionOfTheirs(MessagePassing):
    """A layer of their own, whose `message()` has an argument `attention`."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(aggr="add", node_dim=0)
        self.lin = torch.nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.lin(x)
        attention = torch.tanh(x[edge_index[0]] + x[edge_index[1]])
        # propagate_type: (x: Tensor, attention: Tensor)
        return self.propagate(edge_index, x=x, attention=attention, size=None)

    def message(self, x_j: Tensor, attention: Tensor) -> Tensor:
        return x_j * attention


@case(8, 4, since=(2, 0))
class AttentionOfTheirsToo(TransformerConv):
    """The same in a subclass, of which a value of that name is a node's."""

    def forward(self, x: Tensor, edge_index: Adj) -> Tensor:
        value = self.lin_value(x)
        # propagate_type: (value: Tensor, attention: Tensor)
        out = self.propagate(edge_index, value=value, attention=value.sigmoid(), size=None)
        return out.squeeze(1)

    def message(self, value_j: Tensor, attention_j: Tensor) -> Tensor:
        return (value_j * attention_j).unsqueeze(1)


@case(8, 4, since=(2, 0))
class Composed(torch.nn.Module):
    """Has layers in a list, and sums what they return."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.convs = torch.nn.ModuleList(
            [
                nn.TransformerConv(in_channels, out_channels),
                OwnForwardUntyped(in_channels, out_channels),
                nn.GATv2Conv(in_channels, out_channels),
            ]
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        outs = [conv(x, edge_index) for conv in self.convs]
        return sum(outs), outs[0]
