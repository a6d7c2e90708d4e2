import torch

from torch_geometric.nn import RGATConv
from torch_geometric.testing import assert_thread_safe


def test_rgat_conv_shared_by_threads():
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    edge_type = torch.tensor([0, 2, 1, 2])
    conv = RGATConv(8, 16, num_relations=4, heads=2)

    def func(x):
        return conv(x, edge_index, edge_type, return_attention_weights=True)

    assert_thread_safe(func, torch.randn(2, 4, 8),
                       conv.register_propagate_forward_hook)
