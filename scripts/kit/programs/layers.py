"""The layers of the PyG on the path: how each is built, and what its `forward()` takes.

Each layer is built with sensible arguments, and called in several forms, as the
signature of its `forward()` allows: with what it requires, with edge features,
asked for attention weights, with sparse adjacencies, with a bipartite graph.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch_geometric
import torch_geometric.nn as nn
import torch_geometric.nn.conv
from torch.nn import Linear, ReLU, Sequential

try:
    from torch_sparse import SparseTensor
except ImportError:
    SparseTensor = None

# PyG takes the sparse tensors of torch from 2.3.0 on.
VERSION = tuple(int(part) for part in torch_geometric.__version__.split(".")[:2])
SPARSE_FORMS = ["csr", "csc"] if VERSION >= (2, 3) else []
SPARSE_FORMS += ["SparseTensor"] if SparseTensor else []

# Layers that cannot be run here, and why. A test compares both tables with what
# the release exports.
LEFT_OUT = {
    "MessagePassing": "the base class: it has no messages of its own",
    "CuGraphGATConv": "needs NVIDIA's cuGraph and a GPU",
    "CuGraphRGCNConv": "needs NVIDIA's cuGraph and a GPU",
    "CuGraphSAGEConv": "needs NVIDIA's cuGraph and a GPU",
    "FusedGATConv": "needs dgNN and a GPU",
}

N, E, C, OUT, EDGE_DIM, RELATIONS = 12, 40, 8, 6, 3, 3
METADATA = (["a", "b"], [("a", "to", "b"), ("b", "to", "a"), ("a", "with", "a")])


def mlp(inputs: int, outputs: int) -> torch.nn.Module:
    """Two linear layers."""
    return Sequential(Linear(inputs, outputs), ReLU(), Linear(outputs, outputs))


def hetero() -> torch.nn.Module:
    """A layer for each type of edge."""
    return nn.HeteroConv({kind: nn.SAGEConv((C, C), OUT) for kind in METADATA[1]})


def pna() -> torch.nn.Module:
    """A layer that has to know the degrees."""
    deg = torch.bincount(torch.tensor([1, 2, 2, 3, 4, 4, 5]))
    return nn.PNAConv(
        C, OUT, ["mean", "max", "std"], ["identity", "amplification"], deg, edge_dim=EDGE_DIM
    )


def general() -> torch.nn.Module:
    """A layer with attention, and features of its edges."""
    return nn.GeneralConv(C, OUT, in_edge_channels=EDGE_DIM, heads=2, attention=True)


# How each exported layer is built. `pair` is the type of `in_channels` of a bipartite graph.
LAYERS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "AGNNConv": lambda pair: nn.AGNNConv(),
    "APPNP": lambda pair: nn.APPNP(K=3, alpha=0.1),
    "ARMAConv": lambda pair: nn.ARMAConv(C, OUT, num_stacks=2, num_layers=2),
    "AntiSymmetricConv": lambda pair: nn.AntiSymmetricConv(C),
    "CGConv": lambda pair: nn.CGConv(pair, dim=EDGE_DIM),
    "ChebConv": lambda pair: nn.ChebConv(C, OUT, K=3),
    "ClusterGCNConv": lambda pair: nn.ClusterGCNConv(C, OUT, diag_lambda=1.0),
    "DNAConv": lambda pair: nn.DNAConv(C, heads=2, groups=2),
    "DirGNNConv": lambda pair: nn.DirGNNConv(nn.SAGEConv(C, OUT)),
    "DynamicEdgeConv": lambda pair: nn.DynamicEdgeConv(mlp(2 * C, OUT), k=3),
    "ECConv": lambda pair: nn.ECConv(pair, OUT, mlp(EDGE_DIM, C * OUT)),
    "EGConv": lambda pair: nn.EGConv(C, OUT, num_heads=2, aggregators=["symnorm", "max", "std"]),
    "EdgeConv": lambda pair: nn.EdgeConv(mlp(2 * C, OUT)),
    "FAConv": lambda pair: nn.FAConv(C, dropout=0.5),
    "FastHGTConv": lambda pair: nn.FastHGTConv(C, OUT, METADATA, heads=2),
    "FastRGCNConv": lambda pair: nn.FastRGCNConv(pair, OUT, RELATIONS, num_bases=2),
    "FeaStConv": lambda pair: nn.FeaStConv(C, OUT, heads=2),
    "FiLMConv": lambda pair: nn.FiLMConv(pair, OUT, RELATIONS),
    "GATConv": lambda pair: nn.GATConv(pair, OUT, heads=2, dropout=0.5),
    "GATv2Conv": lambda pair: nn.GATv2Conv(pair, OUT, heads=2, dropout=0.5),
    "GCN2Conv": lambda pair: nn.GCN2Conv(C, alpha=0.2, theta=1.0, layer=2),
    "GCNConv": lambda pair: nn.GCNConv(C, OUT),
    "GENConv": lambda pair: nn.GENConv(C, C, learn_t=True),
    "GINConv": lambda pair: nn.GINConv(mlp(C, OUT), train_eps=True),
    "GINEConv": lambda pair: nn.GINEConv(mlp(C, OUT), train_eps=True),
    "GMMConv": lambda pair: nn.GMMConv(pair, OUT, dim=EDGE_DIM, kernel_size=5),
    "GPSConv": lambda pair: nn.GPSConv(C, nn.SAGEConv(C, C), heads=2),
    "GatedGraphConv": lambda pair: nn.GatedGraphConv(C, num_layers=2),
    "GeneralConv": lambda pair: general(),
    "GraphConv": lambda pair: nn.GraphConv(pair, OUT),
    "GravNetConv": lambda pair: nn.GravNetConv(C, OUT, 3, 4, k=3),
    "HANConv": lambda pair: nn.HANConv(C, OUT, METADATA, heads=2),
    "HEATConv": lambda pair: nn.HEATConv(C, OUT, 2, RELATIONS, 4, EDGE_DIM, 4, heads=2),
    "HGTConv": lambda pair: nn.HGTConv(C, OUT, METADATA, heads=2),
    "HeteroConv": lambda pair: hetero(),
    "HypergraphConv": lambda pair: nn.HypergraphConv(C, OUT, use_attention=True, heads=2),
    "LEConv": lambda pair: nn.LEConv(pair, OUT),
    "LGConv": lambda pair: nn.LGConv(),
    "MFConv": lambda pair: nn.MFConv(pair, OUT, max_degree=4),
    "MeshCNNConv": lambda pair: nn.MeshCNNConv(C, OUT),
    "MixHopConv": lambda pair: nn.MixHopConv(C, OUT, powers=[0, 1, 2]),
    "NNConv": lambda pair: nn.NNConv(pair, OUT, mlp(EDGE_DIM, C * OUT)),
    "PANConv": lambda pair: nn.PANConv(C, OUT, filter_size=2),
    "PDNConv": lambda pair: nn.PDNConv(C, OUT, edge_dim=EDGE_DIM, hidden_channels=8),
    "PNAConv": lambda pair: pna(),
    "PPFConv": lambda pair: nn.PPFConv(mlp(C + 4, OUT), mlp(OUT, OUT)),
    "PointConv": lambda pair: nn.PointConv(mlp(C + 3, OUT), mlp(OUT, OUT)),
    "PointGNNConv": lambda pair: nn.PointGNNConv(mlp(C, 3), mlp(C + 3, OUT), mlp(OUT, C)),
    "PointNetConv": lambda pair: nn.PointNetConv(mlp(C + 3, OUT), mlp(OUT, OUT)),
    "PointTransformerConv": lambda pair: nn.PointTransformerConv(pair, OUT),
    "RGATConv": lambda pair: nn.RGATConv(
        C, OUT, RELATIONS, heads=2, edge_dim=EDGE_DIM, dropout=0.5
    ),
    "RGCNConv": lambda pair: nn.RGCNConv(pair, OUT, RELATIONS, num_bases=2),
    "ResGatedGraphConv": lambda pair: nn.ResGatedGraphConv(pair, OUT),
    "SAGEConv": lambda pair: nn.SAGEConv(pair, OUT),
    "SGConv": lambda pair: nn.SGConv(C, OUT, K=2, cached=True),
    "SSGConv": lambda pair: nn.SSGConv(C, OUT, alpha=0.1, K=2),
    "SignedConv": lambda pair: nn.SignedConv(C, OUT, first_aggr=True),
    "SimpleConv": lambda pair: nn.SimpleConv(aggr="mean", combine_root="sum"),
    "SplineConv": lambda pair: nn.SplineConv(pair, OUT, dim=EDGE_DIM, kernel_size=3),
    "SuperGATConv": lambda pair: nn.SuperGATConv(C, OUT, heads=2, attention_type="SD"),
    "TAGConv": lambda pair: nn.TAGConv(C, OUT, K=2),
    "TransformerConv": lambda pair: nn.TransformerConv(
        pair, OUT, heads=2, edge_dim=EDGE_DIM, beta=True, dropout=0.5
    ),
    "WLConv": lambda pair: nn.WLConv(),
    "WLConvContinuous": lambda pair: nn.WLConvContinuous(),
    "XConv": lambda pair: nn.XConv(C, OUT, dim=3, kernel_size=3, hidden_channels=4),
}


class Encode(torch.nn.Module):
    """An autoencoder's part that is used at inference; in old releases it has no `forward()`."""

    def __init__(self, autoencoder: torch.nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """Encodes the nodes."""
        return self.autoencoder.encode(x, edge_index)


class TwoConvs(torch.nn.Module):
    """The encoder of a variational autoencoder: two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList([nn.GCNConv(C, OUT), nn.GCNConv(C, OUT)])

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> list[torch.Tensor]:
        """The mean, and the logarithm of the deviation."""
        return [conv(x, edge_index) for conv in self.convs]


def personalized_pagerank(given: dict[str, Any]) -> torch.Tensor:
    """A stand-in for the scores of each pair of nodes, which are made with numba."""
    x = given["x"]
    return ((x @ x.t()) / 20 + 1e-3).to_sparse()


# What is not exported with the layers, and is called as one: the module it is in,
# how it is built, and its arguments, of those in values().
OTHERS: dict[str, tuple[str, Callable[[Any], torch.nn.Module], Callable[[Any], Any]]] = {
    "LPAttLayer": (
        "torch_geometric.nn.models.lpformer",
        lambda module: module.LPAttLayer(C, OUT, None, 1, 0.5),
        lambda given: {
            "edge_index": given["edge_index"],
            "edge_feats": torch.cat([given["x"], given["x_0"]], dim=-1),
            "node_feats": given["x"],
            "ppr_rpes": given["x_0"][given["edge_index"][1]],
        },
    ),
    "LPFormer": (
        "torch_geometric.nn.models.lpformer",
        lambda module: module.LPFormer(C, OUT),
        lambda given: {
            "batch": given["edge_index"][:, :4],
            "x": given["x"],
            "edge_index": given["edge_index"],
            "ppr_matrix": personalized_pagerank(given),
        },
    ),
    "VGAE": (
        "torch_geometric.nn.models.autoencoder",
        lambda module: Encode(module.VGAE(TwoConvs())),
        lambda given: {"x": given["x"], "edge_index": given["edge_index"]},
    ),
    "HeteroBasisConv": (
        "torch_geometric.nn.to_hetero_with_bases_transformer",
        lambda module: module.HeteroBasisConv(nn.GraphConv(C, OUT), RELATIONS, num_bases=2),
        lambda given: {key: given[key] for key in ("edge_type", "x", "edge_index")},
    ),
}

# Arguments that have a default, and are needed all the same.
NEEDED = {
    "CGConv": ["edge_attr"],
    "ECConv": ["edge_attr"],
    "FastRGCNConv": ["edge_type"],
    "FiLMConv": ["edge_type"],
    "GINEConv": ["edge_attr"],
    "GMMConv": ["edge_attr"],
    "GeneralConv": ["edge_attr", "edge_feature"],
    "HEATConv": ["edge_attr"],
    "HypergraphConv": ["hyperedge_attr"],
    "NNConv": ["edge_attr"],
    "PDNConv": ["edge_attr"],
    "PNAConv": ["edge_attr"],
    "RGATConv": ["edge_type", "edge_attr"],
    "RGCNConv": ["edge_type"],
    "SplineConv": ["edge_attr"],
    "TransformerConv": ["edge_attr"],
}

# Layers whose nodes are in one graph with the edges' features in another form.
FEATURES = {"GINEConv": C, "GENConv": C, "GATConv": 0, "GATv2Conv": 0, "ResGatedGraphConv": 0}


def values(name: str, seed: int = 12345, nodes: int = N) -> dict[str, Any]:
    """An argument for each parameter name that a `forward()` has.

    Two seeds give other values of the same shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    num_edges = E * nodes // N

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    def edges(num_src: int, num_dst: int, number: int) -> torch.Tensor:
        # Each node of either side has an edge; no edge comes twice.
        order = torch.randperm(num_src * num_dst, generator=generator)[:number]
        return torch.stack([order // num_dst, order % num_dst])

    edge_dim = FEATURES.get(name, EDGE_DIM)
    edge_index = edges(nodes, nodes, num_edges)
    # argsort() is stable by request from torch 1.13 on.
    by_row = edge_index[:, edge_index[0].sort(stable=True)[1]]
    given = {
        "x": rand(nodes, C),
        "x_0": rand(nodes, C),
        "edge_index": edge_index,
        "edge_weight": rand(num_edges),
        "edge_type": torch.randint(RELATIONS, (num_edges,), generator=generator),
        "node_type": torch.randint(2, (nodes,), generator=generator),
        "pos": rand(nodes, 3),
        "normal": torch.nn.functional.normalize(rand(nodes, 3), dim=-1),
        "batch": torch.arange(nodes) // 6,
        "hyperedge_index": edges(nodes, 5, 30),
        "hyperedge_weight": rand(5),
        "hyperedge_attr": rand(5, C),
        "pos_edge_index": edge_index,
        "neg_edge_index": edges(nodes, nodes, num_edges),
        "x_dict": {kind: rand(nodes, C) for kind in METADATA[0]},
        "edge_index_dict": {kind: edges(nodes, nodes, 20) for kind in METADATA[1]},
    }
    if edge_dim:
        given["edge_attr"] = given["edge_feature"] = rand(num_edges, edge_dim)
    if name == "DNAConv":
        given["x"] = rand(nodes, 4, C)
    if name == "WLConv":
        given["x"] = torch.randint(4, (nodes,), generator=generator)
    if name == "MeshCNNConv":
        # Each edge of a mesh has four neighbours.
        neighbours = torch.stack([(torch.arange(nodes) + i) % nodes for i in range(1, 5)], dim=1)
        given["edge_index"] = torch.stack(
            [torch.arange(nodes).repeat_interleave(4), neighbours.flatten()]
        )
    if name == "PANConv":
        given["edge_index"] = by_row
    return given


def forms(name: str, seed: int = 12345, nodes: int = N) -> dict[str, dict[str, Any]]:
    """The arguments of `forward()` in each form that its signature allows.

    Args:
        name: The layer.
        seed: What the values are drawn from; their shapes are the same for each.
        nodes: The number of nodes, which the number of edges follows.
    """
    given = values(name, seed, nodes)
    if name in OTHERS:
        return {"dense": OTHERS[name][2](given)}
    cls = getattr(nn, name)
    forward = inspect.signature(cls.forward).parameters
    if name == "HeteroConv":  # some releases declare `*args_dict`
        return {"dense": {key: given[key] for key in ("x_dict", "edge_index_dict")}}
    required = [
        key
        for key, parameter in forward.items()
        if key in given and (parameter.default is parameter.empty or key in NEEDED.get(name, ()))
    ]
    optional = [key for key in forward if key in given and key not in required]
    dense = {key: given[key] for key in required}
    forms = {"dense": dense}
    for key in optional:
        if key != "batch":
            forms[f"dense, {key}"] = {**dense, key: given[key]}
    if "batch" in optional:
        forms["dense, batch"] = {**dense, "batch": given["batch"]}
    if "return_attention_weights" in forward:
        forms["dense, attention weights"] = {**dense, "return_attention_weights": True}
    takes_sparse = (
        "edge_index" in forward
        and getattr(forward["edge_index"].annotation, "__name__", "") != "Tensor"
    )
    if takes_sparse:
        features = [key for key in ("edge_attr", "edge_type", "edge_weight") if key in required]
        for form in set(SPARSE_FORMS) - {"csc"}:  # which hardly a layer takes
            # A sparse adjacency carries one feature of its edges.
            if len(features) > 1 or (features and form != "SparseTensor"):
                continue
            value = given[features[0]] if features else None
            rest = {key: dense[key] for key in dense if key not in features}
            forms[form] = {**rest, "edge_index": adjacency(form, given["edge_index"], value, nodes)}
    if "Tuple" in str(forward.get("x", "")):
        bipartite = {**dense, "x": (given["x"], given["x"][:7])}
        for key in ("edge_index", "pos_edge_index", "neg_edge_index"):
            if key in dense:
                source, target = dense[key]
                bipartite[key] = torch.stack([source, target % 7])
        for key in ("pos", "normal"):
            if key in dense:
                bipartite[key] = (given[key], given[key][:7])
        if "batch" in forward and "edge_index" not in forward:
            bipartite["batch"] = (given["batch"], given["batch"][:7])
        forms["bipartite"] = bipartite
    return forms


def adjacency(form: str, edge_index: torch.Tensor, value: Any, nodes: int = N) -> Any:  # noqa: ANN401
    """The transposed adjacency matrix, as PyG wants it."""
    if form == "SparseTensor":
        matrix = SparseTensor.from_edge_index(edge_index, value, sparse_sizes=(nodes, nodes))
        return matrix.t()
    ones = torch.ones(edge_index.size(1))
    matrix = torch.sparse_coo_tensor(edge_index.flip(0), ones, (nodes, nodes)).coalesce()
    return matrix.to_sparse_csr() if form == "csr" else matrix.to_sparse_csc()


def takes_pair(name: str) -> bool:
    """Whether a layer can be told the channels of either side of a bipartite graph."""
    parameters = list(inspect.signature(getattr(nn, name).__init__).parameters.values())
    return "Tuple" in " ".join(str(p) for p in parameters if "channels" in p.name)


def get_layer(name: str, form: str) -> torch.nn.Module:
    """Builds a layer, with the same parameters each time."""
    torch.manual_seed(12345)
    if name in OTHERS:
        file, build, _ = OTHERS[name]
        return build(importlib.import_module(file))
    return LAYERS[name]((C, C) if form == "bipartite" and takes_pair(name) else C)


def names() -> list[str]:
    """The layers that can be built here: those that are exported, then the others."""
    exported = set(torch_geometric.nn.conv.__all__)
    return sorted(exported & set(LAYERS)) + [name for name in OTHERS if has(name)]


def has(name: str) -> bool:
    """Whether the release has one of the others."""
    try:
        return hasattr(importlib.import_module(OTHERS[name][0]), name)
    except ImportError:
        return False
