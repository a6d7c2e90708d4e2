import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from torch_geometric.nn import RGATConv


def test_rgat_conv_shared_by_threads():
    xs = torch.randn(2, 4, 8)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    edge_type = torch.tensor([0, 2, 1, 2])
    conv = RGATConv(8, 16, num_relations=4, heads=2)

    def forward(x):
        out, (_, alpha) = conv(x, edge_index, edge_type,
                               return_attention_weights=True)
        return out, alpha

    expected = [forward(x) for x in xs]
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

    for (out, alpha), (expected_out, expected_alpha) in zip(results, expected):
        assert torch.allclose(out, expected_out, atol=1e-6)
        assert torch.allclose(alpha, expected_alpha, atol=1e-6)
