import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from torch_geometric.nn.models.lpformer import LPAttLayer


def test_lp_att_layer_shared_by_threads():
    xs = torch.randn(2, 4, 8)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    edge_feats = torch.randn(4, 16)
    ppr_rpes = torch.randn(4, 8)
    conv = LPAttLayer(8, 32, node_dim=None, num_heads=1, dropout=0.0)

    def forward(node_feats):
        return conv(edge_index, edge_feats, node_feats, ppr_rpes)

    expected = [forward(node_feats) for node_feats in xs]
    results = [None, None]
    thread = threading.current_thread()

    # Once this thread has computed its messages, and before it goes on in
    # `forward()`, let another thread call the same layer:
    def call_from_other_thread(*args):
        if threading.current_thread() is thread:
            with ThreadPoolExecutor(max_workers=1) as executor:
                results[1] = executor.submit(forward, xs[1]).result()

    conv.register_propagate_forward_hook(call_from_other_thread)
    results[0] = forward(xs[0])

    for out, expected_out in zip(results, expected):
        assert torch.allclose(out, expected_out, atol=1e-6)
