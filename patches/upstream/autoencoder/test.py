import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from torch_geometric.nn import VGAE


def test_vgae_shared_by_threads():
    xs = torch.randn(2, 3, 2)
    results = [None, None]
    thread = threading.current_thread()

    # `encode()` clamps this tensor once the encoder has returned. Before it
    # goes on, let another thread call the same model:
    class LogStd(torch.Tensor):
        def clamp(self, *args, **kwargs):
            if threading.current_thread() is thread:
                with ThreadPoolExecutor(max_workers=1) as executor:
                    results[1] = executor.submit(model.encode, xs[1]).result()
            return super().clamp(*args, **kwargs)

    model = VGAE(encoder=lambda x: (x, x.as_subclass(LogStd))).eval()
    results[0] = model.encode(xs[0])

    for z, x in zip(results, xs):
        assert torch.equal(z, x)
