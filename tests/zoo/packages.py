"""Models of packages from PyPI, at the versions that `packages.txt` pins.

They need an environment of their own: `tox run -e pyg281-torch213-ext-zoo-packages`.
The packages are imported where they are used: some of them take seconds.
"""

import torch
from torch import nn

from zoo.entries import NOT_SHOWN, SAFE, safe, unsafe
from zoo.inputs import graph, graph_of_five, one_graph, rows

# TorchScript inside: what cannot be watched is to be said.
COMPILED = {"verdicts": (SAFE, NOT_SHOWN)}


def molecules():
    """A batch of two molecules, as chemprop has them."""
    from chemprop.data import BatchMolGraph
    from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
    from rdkit import Chem

    smiles = ["CCO", "c1ccccc1O", "CC(=O)N", "CCCl", "C1CC1N", "CC#N"]
    chosen = torch.randperm(len(smiles))[:2].tolist()
    featurize = SimpleMoleculeMolGraphFeaturizer()
    return (BatchMolGraph([featurize(Chem.MolFromSmiles(smiles[i])) for i in chosen]),)


@safe(molecules)
def chemprop_mpnn():
    """chemprop's message passing over bonds."""
    from chemprop import models
    from chemprop import nn as parts

    body = parts.BondMessagePassing(d_h=16, depth=2)
    return models.MPNN(body, parts.MeanAggregation(), parts.RegressionFFN(input_dim=16))


def irreps():
    """Features of degree 0 and 1, and of degree 1."""
    n = int(torch.randint(3, 9, ()))
    return torch.rand(n, 4 + 3 * 2), torch.rand(n, 3)


@safe(irreps, **COMPILED)
def e3nn_tensor_product():
    """e3nn's tensor product, whose code is generated and scripted."""
    from e3nn import o3

    return o3.FullyConnectedTensorProduct("4x0e + 2x1o", "1x1o", "3x0e + 2x1o")


def atoms_of_mace():
    """A molecule of hydrogen and oxygen, as MACE has it."""
    n = int(torch.randint(3, 6, ()))
    kinds = torch.nn.functional.one_hot(torch.randint(2, (n,)), 2).float()
    index = torch.arange(n)
    pairs = torch.cartesian_prod(index, index).t()
    pairs = pairs[:, pairs[0] != pairs[1]]
    return (
        {
            "positions": torch.rand(n, 3) * 2,
            "node_attrs": kinds,
            "edge_index": pairs,
            "shifts": torch.zeros(pairs.size(1), 3),
            "unit_shifts": torch.zeros(pairs.size(1), 3),
            "cell": torch.zeros(3, 3),
            "batch": torch.zeros(n, dtype=torch.long),
            "ptr": torch.tensor([0, n]),
            "head": torch.zeros(1, dtype=torch.long),
        },
    )


@safe(atoms_of_mace, **COMPILED, grad=True)
def mace():
    """MACE: energies, and forces by autograd."""
    from e3nn import o3
    from mace import modules

    return modules.MACE(
        r_max=5.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=1,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=1,
        num_elements=2,
        hidden_irreps=o3.Irreps("4x0e"),
        MLP_irreps=o3.Irreps("4x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=torch.tensor([[-1.0, -2.0]]).numpy(),
        avg_num_neighbors=3,
        atomic_numbers=[1, 8],
        correlation=2,
    )


@unsafe("leaks", graph_of_five, says=("copy",))
def temporal_evolve_gcn():
    """torch-geometric-temporal's EvolveGCN evolves its weight from call to call."""
    from torch_geometric_temporal.nn.recurrent import EvolveGCNO

    return EvolveGCNO(8)


@safe(graph)
def temporal_gconv_gru():
    """Its recurrent cell leaves the state to the caller."""
    from torch_geometric_temporal.nn.recurrent import GConvGRU

    return GConvGRU(8, 4, K=2)


def window():
    """Features of nodes over four steps, and a graph."""
    x, edge_index = graph()
    return torch.rand(x.size(0), 8, 4), edge_index


@safe(window)
def temporal_attention_gcn():
    """Its attention over time."""
    from torch_geometric_temporal.nn.recurrent import A3TGCN

    return A3TGCN(8, 4, periods=4)


def sequence():
    """A batch of series on a graph: batch, steps, nodes, features."""
    return torch.rand(2, 6, 5, 3), torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])


@safe(sequence)
def tsl_stcn():
    """torch-spatiotemporal's convolution over space and time."""
    from tsl.nn.models import STCNModel

    return STCNModel(
        input_size=3,
        exog_size=0,
        hidden_size=8,
        ff_size=8,
        output_size=3,
        n_layers=1,
        horizon=2,
        temporal_kernel_size=2,
        spatial_kernel_size=1,
    )


@unsafe(
    "crash",
    sequence,
    says=("node_dim",),
    checked="the audit found it, and threads meet it: a call sees the axis of another one",
)
def tsl_gat():
    """Its own GATConv counts the axis of the nodes from the front in a call, and sets it back."""
    from tsl.nn.layers.graph_convs import GATConv

    return GATConv(3, 4, dim=-2)


def adjacency():
    """Features, and a dense adjacency matrix."""
    x = rows()
    return x, (torch.rand(x.size(0), x.size(0)) > 0.5).float()


@safe(adjacency)
def deeprobust_gcn():
    """DeepRobust's GCN, which is trained by its own `fit()`."""
    from deeprobust.graph.defense import GCN

    return GCN(nfeat=8, nhid=16, nclass=4, device="cpu")


@unsafe("crash", graph)
def pygod_dominant():
    """PyGOD's DOMINANT keeps the embedding of a call in `self.emb`, and decodes that."""
    from pygod.nn import DOMINANTBase

    return DOMINANTBase(8, hid_dim=8, num_layers=2)


@safe(one_graph, verdicts=(SAFE, NOT_SHOWN))
def signed_directed_magnet():
    """MagNet keeps the Laplacian of the call, which is the same for one graph."""
    from torch_geometric_signed_directed.nn import MagNetConv

    class Net(nn.Module):
        """One layer, on real features."""

        def __init__(self):
            super().__init__()
            self.conv = MagNetConv(8, 4, K=2, q=0.25, trainable_q=False)

        def forward(self, x, edge_index):
            return self.conv(x, x, edge_index)

    return Net()


def table():
    """A table with three columns of numbers."""
    from torch_frame import TensorFrame, stype

    return TensorFrame(
        feat_dict={stype.numerical: torch.rand(int(torch.randint(3, 9, ())), 3)},
        col_names_dict={stype.numerical: ["a", "b", "c"]},
    )


@safe(table)
def frame_transformer():
    """pytorch-frame's FTTransformer, whose input is an object of its own."""
    from torch_frame import stype
    from torch_frame.data.stats import StatType
    from torch_frame.nn import FTTransformer

    stats = {StatType.MEAN: 0.5, StatType.STD: 0.3, StatType.QUANTILES: [0, 0.2, 0.5, 0.7, 1]}
    return FTTransformer(
        channels=8,
        out_channels=2,
        num_layers=1,
        col_stats={name: stats for name in "abc"},
        col_names_dict={stype.numerical: ["a", "b", "c"]},
    )


def points():
    """Features and coordinates of some points."""
    n = int(torch.randint(3, 7, ()))
    return torch.rand(1, n, 8), torch.rand(1, n, 3)


@safe(points)
def egnn():
    """egnn-pytorch's equivariant layer."""
    from egnn_pytorch import EGNN

    return EGNN(dim=8)


@safe(points)
def equivariant_transformer():
    """en-transformer."""
    from en_transformer import EnTransformer

    return EnTransformer(dim=8, depth=1, dim_head=32, heads=1)


def hypergraph():
    """Features, and a hypergraph."""
    from dhg import Hypergraph

    x = rows()
    n = x.size(0)
    return x, Hypergraph(n, [(0, 1, 2), (n - 1, 0), (1, n - 2)], device=torch.device("cpu"))


@safe(hypergraph)
def dhg_hgnn():
    """DHG's hypergraph network; the Laplacian is kept by the hypergraph, which is the caller's."""
    from dhg.models import HGNN

    return HGNN(8, 8, 4, drop_rate=0.0)


def crystal():
    """A few atoms in a box, as MatGL has them."""
    from torch_geometric.data import Data

    n = int(torch.randint(3, 6, ()))
    pos = torch.rand(n, 3) * 2
    index = torch.arange(n)
    pairs = torch.cartesian_prod(index, index).t()
    pairs = pairs[:, pairs[0] != pairs[1]]
    vector = pos[pairs[1]] - pos[pairs[0]]
    return Data(
        node_type=torch.randint(2, (n,)),
        pos=pos,
        edge_index=pairs,
        bond_vec=vector,
        bond_dist=vector.norm(dim=1),
        pbc_offshift=torch.zeros(pairs.size(1), 3),
        num_nodes=n,
    )


@safe(crystal, **COMPILED)
def matgl_tensornet():
    """MatGL's TensorNet."""
    from matgl.models import TensorNet

    return TensorNet(element_types=("H", "O"), units=8, nblocks=1, num_rbf=4, is_intensive=False)
