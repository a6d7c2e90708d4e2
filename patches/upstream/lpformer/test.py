import torch

from torch_geometric.nn.models.lpformer import LPAttLayer
from torch_geometric.testing import assert_thread_safe


def test_lp_att_layer_shared_by_threads():
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    edge_feats, ppr_rpes = torch.randn(4, 16), torch.randn(4, 8)
    conv = LPAttLayer(8, 32, node_dim=None, num_heads=1, dropout=0.0)

    def func(node_feats):
        return conv(edge_index, edge_feats, node_feats, ppr_rpes)

    assert_thread_safe(func, torch.randn(2, 4, 8),
                       conv.register_propagate_forward_hook)
