import torch
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import GraphSAGE

class Failing(GNNExplainer):  # As if memory ran out.
    def _loss(self, *args):
        raise RuntimeError

model, x = GraphSAGE(8, 16, 2, 4).eval(), torch.randn(20, 8)
edge_index = torch.randint(20, (2, 80))
expected = model(x, edge_index)
config = dict(mode='multiclass_classification', task_level='node',
              return_type='raw')
explainer = Explainer(model, Failing(), model_config=config,
                      explanation_type='model', edge_mask_type='object')
try:
    explainer(x, edge_index)
except RuntimeError:
    pass
out = model(x, edge_index)
assert torch.equal(out, expected), 'the model predicts with the masks'
