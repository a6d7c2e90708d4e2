"""Subclasses that add nothing to a method of PyG's, in a module that imports little.

PyG 2.5.0 looks up the types of a layer's arguments in the module of the subclass. What stands
here is what the released layers need there, and no name more.
"""

import torch
from cases import case
from torch import Tensor
from torch_geometric import nn
from torch_geometric.nn.conv import FAConv, GATConv, GATv2Conv, HypergraphConv
from torch_geometric.typing import OptPairTensor, OptTensor, PairTensor

# Layers that some releases do not have yet.
TransformerConv = getattr(nn, "TransformerConv", torch.nn.Module)
RGATConv = getattr(nn, "RGATConv", torch.nn.Module)


@case(8, 4, heads=2, dropout=0.5, since=(2, 0))
class BareTransformer(TransformerConv):
    pass


@case(8, 4, 3, heads=2, since=(2, 1))
class BareRGAT(RGATConv):
    pass


@case(8)
class BareFA(FAConv):
    pass


@case(8, 4, heads=2)
class BareGATv2(GATv2Conv):
    pass


@case(8, 4, heads=2)
class BareGAT(GATConv):
    pass


@case(8, 4)
class BareHypergraph(HypergraphConv):
    pass


@case(8, 4, since=(2, 0))
class OwnState(TransformerConv):
    """Is copied and pickled in a way of its own, past that of its bases."""

    def __getstate__(self):
        return {"version": 2, "held": dict(self.__dict__)}

    def __setstate__(self, state):
        self.__dict__.update(state["held"])


@case(8, 4, since=(2, 0))
class OwnParameters(TransformerConv):
    """Adds layers around the base's, and builds another one of them inside."""

    def __init__(self, in_channels, out_channels, **kwargs):
        super().__init__(in_channels, out_channels, **kwargs)
        self.inner = nn.TransformerConv(in_channels, in_channels, heads=2, concat=False)
        self.norm = torch.nn.LayerNorm(in_channels)

    def forward(self, x, edge_index):
        return super().forward(self.norm(x + self.inner(x, edge_index)), edge_index)


@case(8, 4, heads=2, since=(2, 0))
class AlwaysWeights(TransformerConv):
    """Asks its base for the attention weights, and uses them."""

    def forward(self, x, edge_index, return_attention_weights=False):
        out, (index, alpha) = super().forward(x, edge_index, return_attention_weights=True)
        out = out * alpha.sum()
        return (out, (index, alpha)) if return_attention_weights else out


@case(8, 4, heads=2)
class AlwaysWeightsGATv2(GATv2Conv):
    def forward(self, x, edge_index, **kwargs):
        out, (_, alpha) = super().forward(x, edge_index, return_attention_weights=True)
        return -out + alpha.mean()


@case(8, 4, heads=2)
class Normalized(GATv2Conv):
    def forward(self, x, edge_index, **kwargs):
        return -torch.nn.functional.normalize(super().forward(x, edge_index, **kwargs))


@case(8)
class Projected(FAConv):
    """Takes its arguments in another order, and only what it needs."""

    def __init__(self, channels, **kwargs):
        super().__init__(channels, **kwargs)
        self.out = torch.nn.Linear(channels, 2)

    def forward(self, x, edge_index, x_0=None):
        return self.out(super().forward(x, x if x_0 is None else x_0, edge_index))


@case(8, 4, 3, since=(2, 1))
class OneRelation(RGATConv):
    def forward(self, x, edge_index):
        edge_type = edge_index[0] % self.num_relations
        return super().forward(x, edge_index, edge_type=edge_type)
