import torch
from torch_geometric.nn import TransformerConv

class Custom(TransformerConv):  # No types, and fewer arguments.
    def message(self, value_j, index, ptr):
        return value_j

x = torch.randn(4, 8)
edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
TransformerConv(8, 4)  # Without this line, it works.
try:
    Custom(8, 4)(x, edge_index)
except TypeError as error:
    assert False, error
