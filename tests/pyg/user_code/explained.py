"""Explained models that refer to their layers in ways of their own, and code that sets masks."""

import functools

import torch
import torch_geometric
import torch_geometric.nn as nn
from cases import NUM_EDGES, case, graph


def explain(net, algorithm=None, times=1, **settings):
    """The masks, one explanation after the other, and the predictions since."""
    inputs = graph()
    x, edge_index = inputs["x"], inputs["edge_index"]
    torch.manual_seed(12345)
    for parameter in net.parameters():
        if not torch.nn.parameter.is_lazy(parameter):
            torch.nn.init.normal_(parameter)
    masks = []
    for _ in range(times):
        if hasattr(torch_geometric, "explain") and hasattr(nn, "HeteroDictLinear"):
            from torch_geometric.explain import Explainer, GNNExplainer

            config = {
                "explanation_type": "model",
                "node_mask_type": "attributes",
                "edge_mask_type": "object",
                "model_config": {
                    "mode": "multiclass_classification",
                    "task_level": "node",
                    "return_type": "raw",
                },
            }
            explainer = Explainer(
                net, algorithm or GNNExplainer(epochs=3), **{**config, **settings}
            )
            explanation = explainer(x, edge_index, index=2)
            masks += [explanation.get("edge_mask"), explanation.get("node_mask")]
        else:
            explainer = nn.GNNExplainer(net, epochs=3, return_type="raw", log=False)
            masks += explainer.explain_node(2, x, edge_index)
    predictions = [net(x, edge_index), net.training]
    return [mask.detach() for mask in masks if mask is not None], predictions


class Net(torch.nn.Module):
    """Two layers and a normalization."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.GraphConv(8, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.conv2 = nn.SAGEConv(8, 3)

    def forward(self, x, edge_index, batch=None):
        x = self.norm(self.conv1(x, edge_index)).relu()
        return self.conv2(torch.nn.functional.dropout(x, training=self.training), edge_index)


class PlainList(Net):
    """The layers are called by way of a list, a dictionary and a bound method."""

    def __init__(self):
        super().__init__()
        self.steps = [self.conv1, ("norm", self.norm)]
        self.by_name = {"last": self.conv2}
        self.run_last = functools.partial(self.by_name["last"].forward)

    def forward(self, x, edge_index, batch=None):
        x = self.steps[1][1](self.steps[0](x, edge_index)).relu()
        return self.run_last(x, edge_index)


class Closure(Net):
    """A function knows the layers."""

    def __init__(self):
        super().__init__()
        convs = [self.conv1, self.conv2]

        def run(x, edge_index):
            for conv in convs:
                x = conv(x, edge_index)
            return x

        self.run = run

    def forward(self, x, edge_index, batch=None):
        return self.run(x, edge_index)


class Holder:
    """An object that is no module."""

    def __init__(self, conv):
        self.conv = conv


class HeldElsewhere(Net):
    """An object of theirs knows the layers."""

    def __init__(self):
        super().__init__()
        self.holder = Holder(self.conv1)

    def forward(self, x, edge_index, batch=None):
        return self.conv2(self.holder.conv(x, edge_index), edge_index)


# The layers that classes below find by a name of this module.
LAYERS = {}


def run_first(x, edge_index):
    return LAYERS["first"](x, edge_index)


class Global(Net):
    """A function that `forward()` calls knows a layer by a global variable."""

    def __init__(self):
        super().__init__()
        LAYERS["first"] = self.conv1

    def forward(self, x, edge_index, batch=None):
        return self.conv2(run_first(x, edge_index).relu(), edge_index)


class GlobalInMethod(Net):
    """The same, in a method that `forward()` of a subclass calls by way of a property."""

    def __init__(self):
        super().__init__()
        LAYERS["second"] = self.conv2

    def run_last(self, x, edge_index):
        return LAYERS["second"](x, edge_index)

    @property
    def last(self):
        return self.run_last


class CallsInherited(GlobalInMethod):
    def forward(self, x, edge_index, batch=None):
        return self.last(self.conv1(x, edge_index).relu(), edge_index)


class ClassAttribute(Net):
    """The class knows the layers of its last model."""

    convs = []

    def __init__(self):
        super().__init__()
        type(self).convs = [self.conv1, self.conv2]

    def forward(self, x, edge_index, batch=None):
        for conv in self.convs:
            x = conv(x, edge_index)
        return x


class Holds:
    """A class that is no module's, and a name that it gives to a layer."""

    conv = None


class OtherClass(Net):
    def __init__(self):
        super().__init__()
        Holds.conv = self.conv1

    def forward(self, x, edge_index, batch=None):
        return self.conv2(Holds.conv(x, edge_index).relu(), edge_index)


class Remembers(Net):
    """It counts its calls, and keeps what it has computed."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("total", torch.zeros(()))
        self.last = None

    def forward(self, x, edge_index, batch=None):
        self.calls += 1
        x = super().forward(x, edge_index)
        self.last = x.detach()
        self.total = self.total + x.detach().sum()
        return x * self.calls


class OwnExplain(nn.GraphConv):
    """A layer that is masked in a way of its own."""

    def explain_message(self, inputs, size_i=None, **kwargs):
        return inputs * (1 + self._edge_mask.sigmoid().view(-1, 1))


class OwnExplained(Net):
    def __init__(self):
        super().__init__()
        self.conv1 = OwnExplain(8, 8)


class NotExplained(Net):
    """One layer has no masks."""

    def __init__(self):
        super().__init__()
        self.conv1.explain = False


class Cached(Net):
    """A layer keeps what it has normalized in its first call."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.GCNConv(8, 8, cached=True, add_self_loops=False)


class Lazy(Net):
    """Layers that learn their sizes in the first call."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.GraphConv(-1, 8)
        self.conv2 = nn.SAGEConv(-1, 3)


NETS = (
    Net,
    PlainList,
    Closure,
    HeldElsewhere,
    Global,
    CallsInherited,
    ClassAttribute,
    OtherClass,
    Remembers,
    OwnExplained,
    NotExplained,
    Cached,
    Lazy,
)


@case(each=NETS)
def gnn_explainer_of(cls):
    return explain(cls().eval(), times=2)


@case()
def while_it_trains():
    """A model that is not in evaluation mode, with one part that is."""
    net = Net()
    net.norm.eval()
    return explain(net), net.norm.training


@case(each=(False, True))
def with_hooks(by_module):
    """Hooks that look the module up, or that write to the model."""
    net = Net().eval()
    names = {module: name for name, module in net.named_modules()}
    outputs = []

    def hook(module, inputs, output):
        if by_module:
            outputs.append((names[module], output.detach()))
        else:
            module.output = output.detach()

    for conv in (net.conv1, net.conv2):
        conv.register_forward_hook(hook)
    masks = explain(net)
    return masks, outputs, getattr(net.conv2, "output", None)


class Scripted(Net):
    """A part of the model is TorchScript."""

    def __init__(self):
        super().__init__()
        self.norm = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()))


@case()
def with_torchscript():
    return explain(Scripted().eval())


@case(since=(2, 3))
def compiled():
    """The explanation has to reach through what `torch.compile` returns."""
    torch._dynamo.reset()
    return explain(torch.compile(Net(), backend="eager").eval())


@case(since=(2, 3))
def masks_of_their_own():
    """Code that sets and clears masks itself."""
    from torch_geometric.explain.algorithm.utils import clear_masks, set_masks

    torch.manual_seed(12345)
    net, inputs = Net().eval(), graph()
    x, edge_index = inputs["x"], inputs["edge_index"]
    mask = torch.rand(NUM_EDGES)
    results = [net(x, edge_index)]
    set_masks(net, mask, edge_index, apply_sigmoid=False)
    results.append(net(x, edge_index))
    results.append(explain(net))
    set_masks(net, torch.nn.Parameter(mask), edge_index)
    results.append(net(x, edge_index))
    clear_masks(net)
    results.append(net(x, edge_index))
    return results


def own_algorithm(net):
    """An algorithm of theirs, which knows the model, too, and remembers what it did."""
    from torch_geometric.explain import Explanation
    from torch_geometric.explain.algorithm import ExplainerAlgorithm
    from torch_geometric.explain.algorithm.utils import clear_masks, set_masks

    class Own(ExplainerAlgorithm):
        def __init__(self, net):
            super().__init__()
            self.net = net
            self.outputs = []
            self.number = 0

        def forward(self, model, x, edge_index, *, target, index=None, **kwargs):
            mask = torch.linspace(0, 1, edge_index.size(1))
            set_masks(self.net, mask, edge_index, apply_sigmoid=False)
            out = model(x, edge_index)
            clear_masks(model)
            self.outputs.append(out.detach())
            self.number += 1
            return Explanation(edge_mask=mask * out.detach().sum(), node_mask=x)

        def supports(self):
            return True

    return Own(net)


@case(since=(2, 3))
def algorithm_of_theirs():
    net = Net().eval()
    algorithm = own_algorithm(net)
    return explain(net, algorithm), algorithm.outputs, algorithm.number


@case(since=(2, 3))
def algorithm_that_looks_at_the_masks():
    """A loss of theirs, which knows the model by a variable, and looks at its masks."""
    from torch_geometric.explain import GNNExplainer

    net, looks = Net().eval(), []

    class Looks(GNNExplainer):
        def _loss(self, *args):
            looks.append(net.conv1._edge_mask.detach().clone())
            return super()._loss(*args) + net.conv1._edge_mask.sigmoid().mean()

    return explain(net, Looks(epochs=3)), looks


@case(since=(2, 3))
def pg_explainer():
    from torch_geometric.explain import Explainer, PGExplainer

    torch.manual_seed(12345)
    net, inputs = Net().eval(), graph()
    x, edge_index = inputs["x"], inputs["edge_index"]
    explainer = Explainer(
        net,
        PGExplainer(epochs=3),
        explanation_type="phenomenon",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "graph",
            "return_type": "raw",
        },
    )
    target = net(x, edge_index).argmax(dim=-1)
    losses = [
        explainer.algorithm.train(epoch, net, x, edge_index, target=target) for epoch in range(3)
    ]
    explanation = explainer(x, edge_index, target=target)
    return losses, explanation.edge_mask, net(x, edge_index)


@case(since=(2, 4))
def graph_mask_explainer():
    from torch_geometric.explain import GraphMaskExplainer

    class OnlyConvs(Net):
        def forward(self, x, edge_index):
            return self.conv2(self.conv1(x, edge_index).relu(), edge_index)

    # On the release, the model predicts wrongly ever after: only the masks are compared.
    masks, _ = explain(OnlyConvs().eval(), GraphMaskExplainer(2, epochs=3, log=False))
    return masks


@case(since=(2, 3))
def captum_explainer():
    """Captum's algorithms, which call the model in ways of their own."""
    from torch_geometric.explain import CaptumExplainer

    methods = [("Saliency", {}), ("IntegratedGradients", {"n_steps": 5})]
    return [explain(Net().eval(), CaptumExplainer(name, **rest)) for name, rest in methods]


def explainer_of(model):
    """GNNExplainer, for each node of a model."""
    from torch_geometric.explain import Explainer, GNNExplainer

    return Explainer(
        model,
        GNNExplainer(epochs=3),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )


@case(since=(2, 3))
def metrics():
    """Metrics predict with the masks of an explanation, and with their complement."""
    from torch_geometric.explain import fidelity, unfaithfulness

    torch.manual_seed(12345)
    net, inputs = Net().eval(), graph()
    explainer = explainer_of(net)
    explanation = explainer(inputs["x"], inputs["edge_index"])
    masked = explainer.get_masked_prediction(
        inputs["x"], inputs["edge_index"], explanation.node_mask, explanation.edge_mask
    )
    return (
        masked,
        fidelity(explainer, explanation),
        unfaithfulness(explainer, explanation),
        net(inputs["x"], inputs["edge_index"]),
    )


@case(since=(2, 3), each=(False, True))
def heterogeneous(by_name):
    """A model that `to_hetero()` has made, and one whose layers are in a `HeteroConv`."""
    from torch_geometric.explain.algorithm.utils import clear_masks, set_hetero_masks

    torch.manual_seed(12345)
    kinds = [("a", "to", "b"), ("b", "to", "a")]
    x = {"a": torch.randn(6, 8), "b": torch.randn(6, 8)}
    edges = {kind: torch.randint(6, (2, 20)) for kind in kinds}
    if by_name:
        net = nn.HeteroConv({kind: nn.SAGEConv(8, 3) for kind in kinds})
    else:
        net = nn.to_hetero(nn.GraphSAGE(8, 8, 2, 3), (["a", "b"], kinds))

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, edges):
            out = self.net(x, edges)
            return out["a"] + out["b"]  # Each type of edges counts.

    model = Wrapped().eval()
    results = [model(x, edges)]
    set_hetero_masks(model, {kind: torch.rand(20) for kind in kinds}, edges)
    results.append(model(x, edges))
    clear_masks(model)
    if torch_geometric.__version__ >= "2.7":  # Before, it takes one type of nodes alone.
        explainer = explainer_of(model)
        explanation = explainer(x, edges, index=2)
        results += [explanation[kind].edge_mask for kind in kinds]
        results += [explanation[kind].node_mask for kind in x]
    results.append(model(x, edges))
    return results
