"""The layers that the patches make safe to share, and what the tests vary of each.

Imports neither torch nor PyG: the processes that do read it, and so does the one
that starts them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layer:
    """A layer that some release gets a patch for.

    Attributes:
        cls: Its class.
        module: Where that is, from the root of a tree.
        arguments: The arguments that it is built with.
        factors: What is varied of its arguments. A release takes those it knows.
        message: The argument of `message()` with the features of the neighbours;
            None where the layer is no `MessagePassing` itself.
        forced: How the two calls that are forced to race end on a pristine
            release: right, crashed, silently wrong.
        num_settings: How many random settings are compared.
        keywords: More arguments, for what is not a random setting.
        fix: What upstream's fix has in the source, where a patch changes that, too.
        is_layer: Whether it is called as a layer. What else threads share has tests of its own.
    """

    cls: str
    module: str
    arguments: dict[str, Any]
    factors: dict[str, list[Any]]
    message: str | None = "x_j"
    forced: tuple[int, int, int] = (0, 1, 1)
    num_settings: int = 150
    keywords: dict[str, Any] = field(default_factory=dict)
    fix: str | None = None
    is_layer: bool = True


FLOW = ["source_to_target", "target_to_source"]

ATTENTION: dict[str, list[Any]] = {
    "heads": [1, 3],
    "concat": [True, False],
    "edge_dim": [None, 1, 4],
    "bias": [True, False],
    "dropout": [0.0, 0.6],
    "negative_slope": [0.2, 0.01],
}

LAYERS: dict[str, Layer] = {
    "gatv2_conv": Layer(
        "GATv2Conv",
        "torch_geometric/nn/conv/gatv2_conv.py",
        {"in_channels": 8, "out_channels": 5},
        {
            **ATTENTION,
            "flow": FLOW,
            "share_weights": [False, True],
            "add_self_loops": [True, False],
            "fill_value": ["mean", "add", 0.5],
        },
        num_settings=300,
        fix="self.edge_updater(",
    ),
    "transformer_conv": Layer(
        "TransformerConv",
        "torch_geometric/nn/conv/transformer_conv.py",
        {"in_channels": 8, "out_channels": 5},
        {**ATTENTION, "flow": FLOW, "beta": [False, True], "root_weight": [True, False]},
        message="value_j",
    ),
    "fa_conv": Layer(
        "FAConv",
        "torch_geometric/nn/conv/fa_conv.py",
        {"channels": 8},
        {
            "flow": FLOW,
            "eps": [0.1, 0.0],
            "dropout": [0.0, 0.6],
            "cached": [False, True],
            "add_self_loops": [True, False],
            "normalize": [True, True, False],
        },
    ),
    "rgat_conv": Layer(
        "RGATConv",
        "torch_geometric/nn/conv/rgat_conv.py",
        {"in_channels": 8, "out_channels": 5, "num_relations": 3},
        {
            **ATTENTION,
            "flow": FLOW,
            # Most of these exclude each other.
            "num_bases": [None, None, None, 2],
            "num_blocks": [None, None, None, None, 1],
            "mod": [*[None] * 6, "additive", "scaled", "f-additive", "f-scaled"],
            "attention_mechanism": ["across-relation", "within-relation"],
            "attention_mode": ["additive-self-attention", "multiplicative-self-attention"],
            "dropout": [0.0, 0.0, 0.0, 0.6],
            "dim": [*[1] * 6, 2],
        },
        num_settings=250,
    ),
    "lpformer": Layer(
        "LPAttLayer",
        "torch_geometric/nn/models/lpformer.py",
        {"in_channels": 8, "out_channels": 5, "node_dim": None, "num_heads": 1},
        {"dropout": [0.0, 0.6], "concat": [True, False]},
        forced=(1, 1, 0),
        num_settings=50,
        keywords={"dropout": 0.5},
    ),
    "gat_conv": Layer(
        "GATConv",
        "torch_geometric/nn/conv/gat_conv.py",
        {"in_channels": 8, "out_channels": 5},
        {
            **ATTENTION,
            "flow": FLOW,
            "add_self_loops": [True, False],
            "fill_value": ["mean", "add", 0.5],
        },
    ),
    "hypergraph_conv": Layer(
        "HypergraphConv",
        "torch_geometric/nn/conv/hypergraph_conv.py",
        {"in_channels": 8, "out_channels": 5},
        {
            "flow": FLOW,
            "use_attention": [False, True],
            "heads": [1, 3],
            "concat": [True, False],
            "bias": [True, False],
            "dropout": [0.0, 0.6],
            "negative_slope": [0.2, 0.01],
        },
        forced=(1, 0, 1),
    ),
    "autoencoder": Layer(
        "VGAE",
        "torch_geometric/nn/models/autoencoder.py",
        {},
        {},
        message=None,
        forced=(1, 0, 1),
        num_settings=40,
    ),
    "to_hetero_with_bases": Layer(
        "HeteroBasisConv",
        "torch_geometric/nn/to_hetero_with_bases_transformer.py",
        {},
        {"num_bases": [1, 2], "nested": [False, True]},
        message=None,
        num_settings=40,
        keywords={"num_bases": 2},
    ),
    # Predictions, while the model is explained. `user_code/explained.py` compares explanations.
    "explainer": Layer(
        "Explainer",
        "torch_geometric/nn/explained_copy.py",
        {},
        {},
        message=None,
        forced=(1, 0, 1),
        is_layer=False,
    ),
}

# What is varied of the graph and of the call.
CALL_FACTORS: dict[str, list[Any]] = {
    "training": [False, True],
    "bipartite": [False, True],
    "graph": ["random", "random", "no edges", "isolated nodes", "multigraph"],
    "return_attention_weights": [None, True, False],
    "dtype": ["float32", "float32", "float64", "bfloat16"],
}
