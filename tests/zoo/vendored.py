"""Layers of people's own: copies, subclasses, and names that PyG has as well."""

import torch
from torch import nn
from torch_geometric import nn as gnn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from zoo.entries import safe, unsafe
from zoo.inputs import graph

OWN = ("your own code",)
PATCH = ("apply.sh",)


class GATv2Conv(MessagePassing):
    """A copy, in one's own package, of a layer as it was: no patch of PyG reaches it."""

    def __init__(self, in_channels, out_channels):
        super().__init__(aggr="add", node_dim=0)
        self.lin_l = nn.Linear(in_channels, out_channels)
        self.lin_r = nn.Linear(in_channels, out_channels)
        self.att = nn.Parameter(torch.rand(out_channels))
        self._alpha = None

    def forward(self, x, edge_index, return_attention_weights=False):
        out = self.propagate(edge_index, x=(self.lin_l(x), self.lin_r(x)))
        alpha = self._alpha
        self._alpha = None
        return (out, (edge_index, alpha)) if return_attention_weights else out

    def message(self, x_j, x_i, index, size_i):
        alpha = (nn.functional.leaky_relu(x_i + x_j, 0.2) * self.att).sum(dim=-1)
        alpha = softmax(alpha, index, num_nodes=size_i)
        self._alpha = alpha  # blame vendored_gatv2
        return x_j * alpha.unsqueeze(-1)


class Asks(nn.Module):
    """A net that asks for the weights."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, edge_index):
        out, (_, alpha) = self.conv(x, edge_index, return_attention_weights=True)
        return out, alpha


@unsafe("wrong", graph, says=OWN, quick=True)
def vendored_gatv2():
    """The file that is written is one's own, whatever the class is called."""
    return Asks(GATv2Conv(8, 4))


class GATConv(nn.Module):
    """A dense layer of one's own that has the name of one of PyG's, and keeps its scores."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 4)

    def forward(self, x, edge_index):
        h = self.lin(x)
        adj = torch.zeros(x.size(0), x.size(0))
        adj[edge_index[0], edge_index[1]] = 1
        self.scores = (h @ h.t()).masked_fill(adj == 0, -1e9).softmax(dim=-1)  # blame own_gat
        h = h.relu()
        return self.scores @ h


@unsafe("crash", graph, says=OWN)
def own_gat():
    """A `GATConv` that has nothing to do with PyG's."""
    return GATConv()


class ScaledTransformer(gnn.TransformerConv):
    """A subclass that only scales what the base class returns."""

    def forward(self, x, edge_index):
        out, (_, alpha) = super().forward(x, edge_index, return_attention_weights=True)
        return out * 2, alpha


@unsafe("crash", graph, says=PATCH)
def subclass_of_transformer_conv():
    """The line that writes is PyG's, so the patch of PyG mends it."""
    return ScaledTransformer(8, 4)


@safe(graph, patched=True)
def subclass_of_transformer_conv_patched():
    """With the patch it is right."""
    return ScaledTransformer(8, 4)


@unsafe("wrong", graph, says=OWN)
class KeepsMessages(MessagePassing):
    """A convolution that keeps its messages for the update."""

    def __init__(self):
        super().__init__(aggr="mean")
        self.lin = nn.Linear(8, 8)

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_j):
        self.messages = x_j  # blame
        return x_j.relu()

    def update(self, aggregated):
        return aggregated - self.messages.mean(dim=0)


@safe(graph)
class HandsMessagesOn(MessagePassing):
    """The same convolution without the attribute."""

    def __init__(self):
        super().__init__(aggr="mean")
        self.lin = nn.Linear(8, 8)

    def forward(self, x, edge_index):
        x = self.lin(x)
        mean = x[edge_index[0]].mean(dim=0)
        return self.propagate(edge_index, x=x) - mean

    def message(self, x_j):
        return x_j.relu()


@unsafe("wrong", graph, says=OWN)
class SetsFlow(MessagePassing):
    """The direction of PyG's own base class is turned round in the call."""

    def __init__(self):
        super().__init__(aggr="add")

    def forward(self, x, edge_index):
        out = self.propagate(edge_index, x=x)
        self.flow = "target_to_source"  # blame
        out = out + 2 * self.propagate(edge_index, x=x)
        self.flow = "source_to_target"  # blame
        return out

    def message(self, x_j):
        return x_j


class Backbone(nn.Module):
    """A mix of one's own and of PyG's."""

    def __init__(self):
        super().__init__()
        self.first = gnn.GCNConv(8, 8)
        self.second = GATConv()
        self.third = gnn.SAGEConv(4, 4)

    def forward(self, x, edge_index):
        x = self.first(x, edge_index).relu()
        x = self.second(x, edge_index)
        return self.third(x, edge_index)


@unsafe("crash", graph, says=OWN)
def deep_inside():
    """One layer among safe ones is not."""
    return Backbone()
