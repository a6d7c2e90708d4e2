from concurrent.futures import ThreadPoolExecutor

import torch
from torch_geometric.nn import VGAE

calls, xs = [], torch.randn(2, 3, 2)

class LogStd(torch.Tensor):
    def clamp(self, *args, **kwargs):  # After the encoder, and before `encode()` goes on.
        if not calls:
            calls.append(None)
            calls.append(executor.submit(model.encode, xs[1]).result())
        return super().clamp(*args, **kwargs)

model = VGAE(encoder=lambda x: (x, x.as_subclass(LogStd))).eval()
with ThreadPoolExecutor() as executor:
    z = model.encode(xs[0])
assert not torch.equal(z, xs[1]), 'the embeddings of the other call'
assert torch.equal(z, xs[0])
