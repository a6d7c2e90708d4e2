from concurrent.futures import ThreadPoolExecutor

import torch
from torch_geometric.nn.models.lpformer import LPAttLayer

conv = LPAttLayer(8, 4, node_dim=None, num_heads=1, dropout=0.0)
edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
args = edge_index, torch.randn(4, 16), torch.randn(4, 8), torch.randn(4, 8)
calls = []

def call_from_other_thread(*_):  # Before this call goes on in `forward()`.
    if not calls:
        calls.append(None)
        calls.append(executor.submit(conv, *args).result())

conv.register_propagate_forward_hook(call_from_other_thread)
with ThreadPoolExecutor() as executor:
    conv(*args)
