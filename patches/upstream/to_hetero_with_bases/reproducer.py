import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch_geometric.nn import SAGEConv
from torch_geometric.nn.to_hetero_with_bases_transformer import HeteroBasisConv

conv = HeteroBasisConv(SAGEConv(8, 4), num_relations=2, num_bases=2)
x, edge_index = torch.randn(4, 8), torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
edge_types = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0]])

def wait(*args):  # Both calls have begun before one weights its messages.
    time.sleep(barrier.wait())

expected, barrier = [conv(t, x, edge_index) for t in edge_types], Barrier(2, timeout=10)
conv.convs[0].register_message_forward_pre_hook(wait)
with ThreadPoolExecutor(2) as executor:
    calls = [executor.submit(conv, t, x, edge_index) for t in edge_types]
errors = [repr(call.exception()) if call.exception() else 'messages weighted as in the other call'
          for call, out in zip(calls, expected)
          if call.exception() or not torch.allclose(call.result(), out)]
assert not errors, errors
