from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import pytest
import torch

from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import GraphConv


class MySharedModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GraphConv(8, 16)
        self.conv2 = GraphConv(16, 4)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv2(x, edge_index)


class MySharedExplainer(Explainer):
    def __init__(self, model, algorithm):
        super().__init__(
            model,
            algorithm,
            explanation_type='model',
            node_mask_type='attributes',
            edge_mask_type='object',
            model_config=dict(
                mode='multiclass_classification',
                task_level='node',
                return_type='raw',
            ),
        )


def test_predict_while_explaining():
    x = torch.randn(4, 8)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    model = MySharedModel().eval()
    expected = model(x, edge_index)
    masked, predicted = Semaphore(0), Semaphore(0)

    class MyExplainer(GNNExplainer):
        def _loss(self, *args):
            masked.release()
            assert predicted.acquire(timeout=10)
            return super()._loss(*args)

    def predict():
        assert masked.acquire(timeout=10)
        try:
            return model(x, edge_index)
        finally:
            predicted.release()

    explainer = MySharedExplainer(model, MyExplainer(epochs=3))
    with ThreadPoolExecutor(max_workers=1) as executor:
        outs = [executor.submit(predict) for _ in range(3)]
        explanation = explainer(x, edge_index)

    assert explanation.edge_mask.size() == (4, )
    for out in outs:
        assert torch.equal(out.result(), expected)


def test_failed_explanation_leaves_no_masks():
    x = torch.randn(4, 8)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    model = MySharedModel().eval()
    expected = model(x, edge_index)

    class MyExplainer(GNNExplainer):
        def _loss(self, *args):  # The masks are set.
            raise RuntimeError('failed')

    explainer = MySharedExplainer(model, MyExplainer(epochs=3))
    with pytest.raises(RuntimeError, match='failed'):
        explainer(x, edge_index)

    assert torch.equal(model(x, edge_index), expected)
