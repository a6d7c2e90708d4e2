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
    assert not model.training


def test_failed_prediction_leaves_no_masks():
    x = torch.randn(4, 8)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    model = MySharedModel().train()
    expected = model(x, edge_index)
    explainer = MySharedExplainer(model, GNNExplainer(epochs=3))

    with pytest.raises(TypeError, match='unexpected keyword argument'):
        explainer.get_masked_prediction(x, edge_index, torch.rand(4, 8),
                                        torch.rand(4), unknown=1)

    assert model.training
    assert torch.equal(model(x, edge_index), expected)
