import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch_geometric.nn import RGATConv

conv, xs = RGATConv(8, 4, num_relations=2), torch.randn(2, 4, 8)
edge_index, edge_type = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]]), torch.tensor([0, 1, 0, 1])

def call(x):
    return conv(x, edge_index, edge_type, return_attention_weights=True)[1][1]

def wait(*args):  # Both calls compute their weights before one returns them.
    time.sleep(barrier.wait())

expected, barrier = [call(x) for x in xs], Barrier(2, timeout=10)
conv.register_propagate_forward_hook(wait)
with ThreadPoolExecutor(2) as executor:
    calls = [executor.submit(call, x) for x in xs]
errors = [repr(call.exception()) if call.exception() else 'the weights of the other call'
          for call, alpha in zip(calls, expected)
          if call.exception() or not torch.allclose(call.result(), alpha)]
assert not errors, errors
