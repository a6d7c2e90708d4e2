import torch

from torch_geometric.nn import FAConv
from torch_geometric.testing import assert_thread_safe


def test_fa_conv_shared_by_threads():
    x_0 = torch.randn(4, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    conv = FAConv(16, dropout=0.0)

    def func(x):
        return conv(x, x_0, edge_index, return_attention_weights=True)

    assert_thread_safe(func, torch.randn(2, 4, 16),
                       conv.register_propagate_forward_hook)
