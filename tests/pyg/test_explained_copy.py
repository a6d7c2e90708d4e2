"""Models in common shapes are explained as copies: their own layers are not touched.

Where something else refers to a layer, the model itself is explained, and races (`user_code/`
has such models). A name that only looks like one must not lead there.
"""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Warm

MODELS = """
import collections
import functools
import json
import logging

import torch
import torch_geometric.nn as nn
from torch_geometric.typing import *  # 2.5.0 looks up the types of a subclass in its module.

try:
    from torch_geometric.explain import Explainer, GNNExplainer
except ImportError:
    Explainer = None

log = logging.getLogger(__name__)
Sizes = collections.namedtuple('Sizes', 'hidden')
originals, calls = set(), []


class Layer(nn.GraphConv):
    def forward(self, x, edge_index):
        calls.append(id(self) in originals)
        return super().forward(x, edge_index)


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = Layer(8, 8), Layer(8, 3)

    def forward(self, x, edge_index, batch=None):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


class NamedAsAGlobal(torch.nn.Module):
    # `model` and `explainer` are variables of this module, too.
    def __init__(self):
        super().__init__()
        self.model = Plain()

    def forward(self, x, edge_index, batch=None):
        return self.model(x, edge_index)

    def explain(self, x, edge_index):
        return explainer(x, edge_index)


class Singleton(Plain):
    instance = None

    def __new__(cls):
        if cls.instance is None:
            cls.instance = super().__new__(cls)
        return cls.instance

    @classmethod
    def get(cls):
        return cls.instance


class Registered(Plain):
    models = {}

    def __init__(self):
        super().__init__()
        self.models['this'] = self


class Logs(Plain):
    def __init__(self):
        super().__init__()
        self.log, self.sizes = logging.getLogger('model'), Sizes(8)

    def forward(self, x, edge_index, batch=None):
        log.debug('%s features', self.sizes.hidden)
        self.log.debug('%s nodes', len(x))
        return super().forward(x, edge_index)

    def training_step(self, batch):
        return model(*batch)


def counted(method):
    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        counts.append(1)
        return method(*args, **kwargs)

    return wrapper


counts = []


class Decorated(Plain):
    @counted
    def forward(self, x, edge_index, batch=None):
        return super().forward(x, edge_index)


class Hooked(Plain):
    def __init__(self):
        super().__init__()
        outputs = []

        def keep(module, inputs, output):
            module.model = output.detach()
            outputs.append(module.model)

        self.conv1.register_forward_hook(keep)


def get_explainer(net):
    if Explainer is None:
        explainer = nn.GNNExplainer(net, epochs=1, return_type='raw')
        explainer.log = False
        return explainer.explain_graph
    config = dict(explanation_type='model', node_mask_type='attributes', edge_mask_type='object')
    model_config = dict(mode='multiclass_classification', task_level='graph', return_type='raw')
    try:
        return Explainer(net, GNNExplainer(epochs=1), model_config=model_config, **config)
    except TypeError:  # 2.2.0
        model_config['mode'] = 'classification'
        return Explainer(
            net, GNNExplainer(epochs=1), explainer_config=config, model_config=model_config
        )


found = {}
x, edge_index = torch.randn(9, 8), torch.randint(9, (2, 40))
for cls in (Plain, NamedAsAGlobal, Singleton, Registered, Logs, Decorated, Hooked):
    model = cls().eval()
    explainer = get_explainer(model)
    originals.clear()
    originals.update(map(id, model.modules()))
    calls.clear()
    explainer(x, edge_index)
    found[cls.__name__] = [sum(calls), len(calls)]
print(json.dumps(found))
"""


def test_layers_are_not_touched(warm: dict[str, Warm], tmp_path: Path) -> None:
    program = tmp_path / "models.py"
    program.write_text(MODELS)
    for tree, of_the_model in (("pristine", True), ("patched", False)):
        result = warm[tree].run(program)
        assert result.returncode == 0, result.stderr
        for name, (own, all_calls) in json.loads(result.stdout).items():
            assert all_calls > 2
            assert own == (all_calls if of_the_model else 0), (tree, name)
