import torch

from torch_geometric.nn import TransformerConv
from torch_geometric.testing import assert_thread_safe


def test_transformer_conv_shared_by_threads():
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    conv = TransformerConv(8, 32, heads=2)

    def func(x):
        return conv(x, edge_index, return_attention_weights=True)

    assert_thread_safe(func, torch.randn(2, 4, 8),
                       conv.register_propagate_forward_hook)
