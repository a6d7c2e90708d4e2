"""The patched layers of the PyG on the path: how they are built, and what they are called with."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from typing import Any

import torch
import torch_geometric.nn as nn
from digests import SPARSE_FORMS, VERSION, SparseTensor
from patched_layers import CALL_FACTORS, LAYERS

NUM_NODES = 9


class AutoEncoder(torch.nn.Module):
    """`VGAE`, which is run as `encode()`; with the loss that reads what that leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.VGAE(Encoder())

    def forward(self, x: Any, edge_index: Any) -> Any:
        z = self.model.encode(x, edge_index)
        return z, self.model.kl_loss()


class Encoder(torch.nn.Module):
    """Latent variables of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.GraphConv(8, 5)
        self.logstd = nn.GraphConv(8, 5)

    def forward(self, x: Any, edge_index: Any) -> Any:
        return self.mu(x, edge_index), self.logstd(x, edge_index)


class HeteroBases(torch.nn.Module):
    """`HeteroBasisConv`, as `to_hetero_with_bases()` uses it."""

    def __init__(self, num_bases: int, nested: bool = False) -> None:
        super().__init__()
        from torch_geometric.nn.to_hetero_with_bases_transformer import HeteroBasisConv

        conv = Nested() if nested else nn.GraphConv(8, 5)
        self.conv = HeteroBasisConv(conv, num_relations=3, num_bases=num_bases)

    def forward(self, x: Any, edge_index: Any, edge_type: Any) -> Any:
        return self.conv(edge_type, x=x, edge_index=edge_index)


class Nested(nn.MessagePassing):  # type: ignore[misc]
    """A layer that runs a `HeteroBasisConv` of its own, with other edge types, in each call."""

    def __init__(self) -> None:
        super().__init__(aggr="add")
        self.inner = HeteroBases(num_bases=1)

    def forward(self, x: Any, edge_index: Any) -> Any:
        x = self.inner(x, edge_index, edge_index.sum(dim=0) % 3)
        return self.propagate(edge_index, x=x, size=None)

    def message(self, x_j: torch.Tensor) -> torch.Tensor:
        return x_j


# TorchScript reads the same functions again for each layer, from the start of their files.
inspect.getsourcelines = functools.lru_cache(maxsize=None)(inspect.getsourcelines)

# What is no layer that can be called as it is.
MODELS = {"autoencoder": AutoEncoder, "to_hetero_with_bases": HeteroBases}


def class_of(layer: str) -> Any:
    if layer in MODELS:
        return MODELS[layer]
    module = LAYERS[layer].module[: -len(".py")].replace("/", ".")
    return getattr(importlib.import_module(module), LAYERS[layer].cls)


def parameters(layer: str, method: str) -> list[str]:
    """The arguments of a method of a layer."""
    return list(inspect.signature(getattr(class_of(layer), method)).parameters)[1:]


def has_weights(layer: str) -> bool:
    """Whether a call can ask for the attention weights."""
    return "return_attention_weights" in parameters(layer, "forward")


def get_conv(layer: str, cls: Any = None, **kwargs: Any) -> Any:
    spec = LAYERS[layer]
    torch.manual_seed(12345)
    return (cls or class_of(layer))(**{**spec.arguments, **spec.keywords, **kwargs}).eval()


def get_inputs(layer: str, num_edges: int = 40) -> dict[str, Any]:
    """What `forward()` cannot do without."""
    torch.manual_seed(54321)
    given = {
        "x": torch.randn(NUM_NODES, 8),
        "x_0": torch.randn(NUM_NODES, 8),
        "edge_index": torch.randint(NUM_NODES, (2, num_edges)),
        "edge_type": torch.randint(3, (num_edges,)),
        "hyperedge_index": torch.randint(NUM_NODES, (2, num_edges)),
        "edge_feats": torch.randn(NUM_NODES, 16),
        "node_feats": torch.randn(NUM_NODES, 8),
        "ppr_rpes": torch.randn(num_edges, 8),
    }
    return {name: given[name] for name in parameters(layer, "forward") if name in given}


def weights(layer: str) -> dict[str, Any]:
    return {"return_attention_weights": True} if has_weights(layer) else {}


# Random settings ##############################################################


def factors_of(layer: str) -> dict[str, list[Any]]:
    """What is varied: of what the layer knows, and of the call."""
    built = inspect.signature(class_of(layer).__init__).parameters
    called = parameters(layer, "forward")
    is_plain = layer in ("lpformer", "hypergraph_conv", *MODELS)
    settings = {
        key: values
        for key, values in LAYERS[layer].factors.items()
        if key in built or key == "flow"
    }
    for key, values in CALL_FACTORS.items():
        if key == "return_attention_weights" and key not in called:
            continue
        if key == "bipartite" and "Tuple" not in str(built.get("in_channels")):
            continue
        settings[key] = values
    if layer == "hypergraph_conv":  # which cannot do without
        settings["graph"] = [graph for graph in settings["graph"] if graph != "no edges"]
    if not is_plain:
        # `GATv2Conv` alone takes CSC matrices, up to 2.4.0.
        takes_csc = layer == "gatv2_conv" and VERSION < (2, 5)
        forms = [form for form in SPARSE_FORMS if form != "csc" or takes_csc]
        settings["edges"] = ["tensor", *forms]
    return settings


def get_graph(layer: str, setting: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    called = parameters(layer, "forward")
    # Releases disagree on which side of a bipartite graph is which once the flow
    # is reversed, and some then read beyond the end of the smaller side.
    bipartite = setting.get("bipartite", False)
    uneven = bipartite and setting.get("flow", "source_to_target") == "source_to_target"
    num_src, num_dst = 9, 6 if uneven else 9
    num_edges = {"no edges": 0, "multigraph": 80}.get(setting["graph"], 24)
    # Isolated nodes: all edges are among the first three.
    high = (3, 3) if setting["graph"] == "isolated nodes" else (num_src, num_dst)
    edge_index = torch.stack([torch.randint(n, (num_edges,)) for n in high])

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, requires_grad=True)

    x, x_dst = rand(num_src, 8), rand(num_dst, 8)
    edge_attr = None
    if setting.get("edge_dim") is not None:
        edge_attr = rand(num_edges, setting["edge_dim"])
    edge_type = torch.randint(3, (num_edges,))
    size = (num_src, num_dst)
    form = setting.get("edges", "tensor")
    edges: Any = edge_index
    if form == "SparseTensor":
        edges = SparseTensor.from_edge_index(edge_index, edge_attr, sparse_sizes=size).t()
    elif form != "tensor":
        values = torch.ones(num_edges, dtype=dtype)
        coo = torch.sparse_coo_tensor(edge_index.flip(0), values, size[::-1])
        edges = coo.to_sparse_csr() if form == "csr" else coo.to_sparse_csc()
    if form != "tensor":
        edge_attr = None
    given = {
        "x": (x, x_dst) if bipartite else x,
        "x_0": rand(num_src, 8),
        "edge_index": edges,
        "hyperedge_index": edge_index,
        "edge_feats": rand(NUM_NODES, 16),
        "node_feats": x,
        "ppr_rpes": rand(num_edges, 8),
    }
    if edge_attr is not None:
        given["edge_attr"] = edge_attr
    given["edge_type"] = edge_type
    if form == "tensor" and not setting.get("normalize", True):
        given["edge_weight"] = torch.rand(num_edges, dtype=dtype)
    if setting.get("use_attention"):
        num_hyperedges = int(edge_index[1].max()) + 1 if num_edges else 0
        given["hyperedge_attr"] = rand(num_hyperedges, 8)
    return {name: given[name] for name in called if name in given}
