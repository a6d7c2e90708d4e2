from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import torch
from torch_geometric.nn import FAConv

class Model(torch.nn.Sequential):
    def forward(self, x, edge_index):
        return self[0](x, x, edge_index, return_attention_weights=True)[1][1]

model = torch.jit.script(Model(FAConv(8)))
xs, edge_index = torch.randn(8, 4, 8), torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
expected = [model(x, edge_index) for x in xs]

def share():  # In a process of its own, which the race may end.
    with ThreadPoolExecutor(8) as executor:
        calls = [executor.submit(model, xs[i % 8], edge_index) for i in range(20000)]
    assert all(torch.allclose(call.result(), expected[i % 8]) for i, call in enumerate(calls))

for _ in range(3):
    process = get_context('fork').Process(target=share, daemon=True)
    process.start()
    process.join(300)
    assert process.exitcode == 0, process
