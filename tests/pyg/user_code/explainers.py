"""Explainers, on models that have layers of the users' own."""

import torch
import torch_geometric.nn as nn
from cases import case, graph
from torch_geometric.nn import MessagePassing

from user_code import own_propagate, typed, untyped


class Net(torch.nn.Module):
    """Two layers, and a class for each node."""

    def __init__(self, *convs):
        super().__init__()
        self.convs = torch.nn.ModuleList(convs)

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return x.log_softmax(dim=-1)


def explain(net, algorithm, **settings):
    """The masks that an algorithm finds."""
    from torch_geometric.explain import Explainer

    torch.manual_seed(12345)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    explainer = Explainer(
        net.eval(),
        algorithm=algorithm,
        explanation_type="model",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "log_probs",
        },
        **settings,
    )
    inputs = graph()
    explanation = explainer(inputs["x"], inputs["edge_index"], index=2)
    return explanation.edge_mask, explanation.get("node_mask")


def attention(*convs):
    from torch_geometric.explain import AttentionExplainer

    return explain(Net(*convs), AttentionExplainer())


ATTENTION = ("TransformerConv", "GATv2Conv", "GATConv")


@case(since=(2, 3), each=ATTENTION)
def attention_of_each_layer(name):
    return attention(getattr(nn, name)(8, 4, heads=2))


@case(since=(2, 3))
def attention_of_two_layers():
    return attention(nn.TransformerConv(8, 4, heads=2), nn.GATv2Conv(8, 3))


@case(since=(2, 3))
def beside_an_attention_of_theirs():
    """A layer whose `message()` has a tensor `attention` of its own, and one of PyG's."""
    return attention(own_propagate.AttentionOfTheirs(8, 8), nn.TransformerConv(8, 4))


@case(since=(2, 3))
def beside_an_attention_of_a_subclass():
    """The same, in a subclass of an affected layer."""
    return attention(own_propagate.AttentionOfTheirsToo(8, 8), nn.GATv2Conv(8, 4))


class ListOfTheirs(MessagePassing):
    """A layer whose `message()` takes a list that is called `attention`."""

    def __init__(self):
        super().__init__(aggr="mean")

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x, attention=["mean", "max"], size=None)

    def message(self, x_j, attention):
        return x_j * len(attention)


@case(since=(2, 3))
def beside_a_list_of_theirs():
    return attention(ListOfTheirs(), nn.TransformerConv(8, 4))


class AlphaOfTheirs(MessagePassing):
    """A layer of their own that leaves its weights where PyG's layers left them."""

    def __init__(self):
        super().__init__(aggr="add")

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=x, size=None)

    def message(self, x_i, x_j):
        self._alpha = (x_i * x_j).sum(dim=-1).sigmoid()
        return x_j * self._alpha.view(-1, 1)


@case(since=(2, 3))
def attention_in_alpha_of_theirs():
    return attention(AlphaOfTheirs(), nn.TransformerConv(8, 4))


SUBCLASSES = {
    "untyped, keeps _alpha": untyped.KeepsAlpha,
    "untyped, calls super()": untyped.CallsSuper,
    "typed, keeps _alpha": typed.KeepsAlpha,
    "typed, calls super()": typed.CallsSuper,
    "own forward()": own_propagate.OwnForward,
    "own forward(), untyped": own_propagate.OwnForwardUntyped,
    "neither": untyped.NoSuper,
}


@case(since=(2, 3), each=tuple(SUBCLASSES))
def attention_of_subclasses(which):
    return attention(SUBCLASSES[which](8, 4, edge_dim=None))


@case(since=(2, 3), each=tuple(SUBCLASSES))
def gnn_explainer(which):
    from torch_geometric.explain import GNNExplainer

    net = Net(SUBCLASSES[which](8, 4), own_propagate.AttentionOfTheirs(4, 3))
    return explain(net, GNNExplainer(epochs=3), node_mask_type="attributes")


@case(since=(2, 3), each=ATTENTION)
def gnn_explainer_of_each_layer(name):
    from torch_geometric.explain import GNNExplainer

    net = Net(getattr(nn, name)(8, 4, heads=2), nn.GCNConv(8, 3))
    return explain(net, GNNExplainer(epochs=3), node_mask_type="attributes")


@case(until=(2, 2))
def old_gnn_explainer():
    net = Net(nn.GATv2Conv(8, 4), own_propagate.AttentionOfTheirs(4, 3))
    torch.manual_seed(12345)
    explainer = nn.GNNExplainer(net, epochs=3, log=False)
    inputs = graph()
    return explainer.explain_node(2, inputs["x"], inputs["edge_index"])
