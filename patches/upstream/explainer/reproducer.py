import threading

import torch
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.nn import GraphSAGE

model, x = GraphSAGE(8, 16, 2, 4).eval(), torch.randn(20, 8)
edge_index = torch.randint(20, (2, 80))
expected = model(x, edge_index)
config = dict(mode='multiclass_classification', task_level='node',
              return_type='raw')
explainer = Explainer(model, GNNExplainer(epochs=200), model_config=config,
                      explanation_type='model', edge_mask_type='object')
thread = threading.Thread(target=explainer, args=(x, edge_index))
thread.start()
wrong = []
while thread.is_alive():  # Predict while the other thread explains.
    wrong.append(not torch.equal(model(x, edge_index), expected))
thread.join()
assert not any(wrong), f'{sum(wrong)} of {len(wrong)} predictions are wrong'
