import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from torch_geometric.nn import SAGEConv
from torch_geometric.nn.to_hetero_with_bases_transformer import HeteroBasisConv


def test_hetero_basis_conv_shared_by_threads():
    x = torch.randn(4, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    edge_types = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]])
    conv = HeteroBasisConv(SAGEConv(16, 32), num_relations=2, num_bases=2)

    def forward(edge_type):
        return conv(edge_type, x, edge_index)

    expected = [forward(edge_type) for edge_type in edge_types]
    results = [None, None]
    thread = threading.current_thread()

    # Before this thread weights its messages by their edge types, let another
    # thread call the same layer:
    def call_from_other_thread(*args):
        if threading.current_thread() is thread:
            with ThreadPoolExecutor(max_workers=1) as executor:
                results[1] = executor.submit(forward, edge_types[1]).result()

    conv.convs[0].register_message_forward_pre_hook(call_from_other_thread)
    results[0] = forward(edge_types[0])

    for out, expected_out in zip(results, expected):
        assert torch.allclose(out, expected_out, atol=1e-6)
