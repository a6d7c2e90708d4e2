"""PyG's own layers and models, as people serve them, and with the faults of a release."""

import torch
import torch_geometric.transforms as T
from torch import nn
from torch_geometric import nn as gnn
from torch_geometric.data import Batch, Data, HeteroData
from torch_geometric.nn import models

from zoo.entries import NOT_SAFE, NOT_SHOWN, safe, unsafe
from zoo.inputs import graph, graph_of_five, one_graph, rows

# What a kit's user is to be told of a layer that this kit patches.
PATCH = ("apply.sh",)


@safe(graph, quick=True)
def gcn():
    """GCN keeps nothing of a call."""
    return models.GCN(8, 16, num_layers=2, out_channels=4)


@safe(graph)
def sage():
    """GraphSAGE, with jumping knowledge."""
    return models.GraphSAGE(8, 16, num_layers=3, out_channels=4, jk="lstm")


@safe(graph)
def gin():
    """GIN, with its batch norms in evaluation."""
    return models.GIN(8, 16, num_layers=2, out_channels=4)


@safe(graph)
def gat():
    """GAT of 2.1.0 and later hands its attention on through `edge_updater`."""
    return models.GAT(8, 16, num_layers=2, out_channels=4, heads=2)


@safe(graph)
def gatv2():
    """GATv2 as of 2.5.0 does the same."""
    return models.GAT(8, 16, num_layers=2, out_channels=4, heads=2, v2=True)


@safe(graph)
def pna():
    """PNA with a histogram of degrees that does not change."""
    return models.PNA(
        8,
        16,
        num_layers=2,
        out_channels=4,
        aggregators=["mean", "max", "std"],
        scalers=["identity", "amplification"],
        deg=torch.tensor([0, 3, 4, 2, 1]),
    )


@safe(graph)
def edge_cnn():
    """Edge convolutions."""
    return models.EdgeCNN(8, 16, num_layers=2, out_channels=4)


@safe(graph)
def sequential():
    """`Sequential` is a generated `forward()` with local names."""
    return gnn.Sequential(
        "x, edge_index",
        [
            (gnn.GCNConv(8, 16), "x, edge_index -> x1"),
            nn.ReLU(),
            (gnn.SAGEConv(16, 16), "x1, edge_index -> x2"),
            (lambda x1, x2: torch.cat([x1, x2], dim=-1), "x1, x2 -> x"),
            nn.Linear(32, 4),
        ],
    )


@safe(graph)
def graph_unet():
    """A U-Net keeps its levels in lists of the call."""
    return models.GraphUNet(8, 16, 4, depth=2)


@safe(graph, lazy=True)
def lazy_sage():
    """A layer whose input sizes come from the first call (-1), as in PyG's tutorials."""
    return gnn.SAGEConv((-1, -1), 8)


def atoms():
    """Atomic numbers and positions of a molecule."""
    n = int(torch.randint(3, 7, ()))
    return torch.randint(1, 9, (n,)), torch.rand(n, 3) * 3


@safe(atoms)
def schnet():
    """SchNet, with its own radius graph."""
    return models.SchNet(16, 16, 2, 8, interaction_graph=_neighbours)


def _neighbours(pos, batch):
    n = pos.size(0)
    index = torch.arange(n)
    pairs = torch.cartesian_prod(index, index).t()
    pairs = pairs[:, pairs[0] != pairs[1]]
    return pairs, (pos[pairs[0]] - pos[pairs[1]]).norm(dim=-1)


def pooled():
    """A batch of two graphs: nodes, edges and the vector of graphs."""
    x, edge_index = graph()
    batch = (torch.arange(x.size(0)) >= 2).long()
    return x, edge_index, batch


@safe(pooled)
class Classifier(nn.Module):
    """Convolution, pooling, aggregation, and a head."""

    def __init__(self):
        super().__init__()
        self.conv = gnn.GraphConv(8, 16)
        self.pool = gnn.TopKPooling(16, ratio=0.8)
        self.readout = gnn.SoftmaxAggregation(learn=True)
        self.norm = gnn.GraphNorm(16)
        self.head = nn.Linear(16, 2)

    def forward(self, x, edge_index, batch):
        x = self.norm(self.conv(x, edge_index), batch).relu()
        x, edge_index, _, batch, _, _ = self.pool(x, edge_index, batch=batch)
        return self.head(self.readout(x, batch))


def hetero():
    """Users and items."""
    users, items = torch.rand(4, 8), torch.rand(int(torch.randint(3, 7, ())), 8)
    return (
        {"user": users, "item": items},
        {
            ("user", "likes", "item"): torch.stack(
                [torch.randint(4, (9,)), torch.randint(items.size(0), (9,))]
            ),
            ("item", "liked_by", "user"): torch.stack(
                [torch.randint(items.size(0), (9,)), torch.randint(4, (9,))]
            ),
        },
    )


METADATA = (["user", "item"], [("user", "likes", "item"), ("item", "liked_by", "user")])


@safe(hetero)
def hetero_conv():
    """A convolution for each type of edge."""
    return gnn.HeteroConv(
        {
            ("user", "likes", "item"): gnn.SAGEConv((8, 8), 8),
            ("item", "liked_by", "user"): gnn.GATConv((8, 8), 8, add_self_loops=False),
        }
    )


@safe(hetero)
def hgt():
    """The heterogeneous graph transformer."""
    return gnn.HGTConv(8, 8, METADATA, heads=2)


class TwoLayers(nn.Module):
    """What `to_hetero` takes apart."""

    def __init__(self):
        super().__init__()
        self.conv1 = gnn.SAGEConv((-1, -1), 8)
        self.conv2 = gnn.SAGEConv((-1, -1), 4)

    def forward(self, x, edge_index):
        x = self.conv1(x, edge_index).relu()
        return self.conv2(x, edge_index)


@safe(hetero, lazy=True, quick=True)
def to_hetero():
    """`to_hetero` with lazy sizes: a generated graph module, which keeps nothing of a call."""
    return gnn.to_hetero(TwoLayers(), METADATA)


def hetero_data():
    """The same as one object."""
    x, edges = hetero()
    data = HeteroData()
    for name, value in x.items():
        data[name].x = value
    for name, index in edges.items():
        data[name].edge_index = index
    return data


@safe(hetero_data)
class OfHeteroData(nn.Module):
    """A model that takes `HeteroData`."""

    def __init__(self):
        super().__init__()
        self.conv = hetero_conv()

    def forward(self, data):
        return self.conv(data.x_dict, data.edge_index_dict)


def batch():
    """A batch of two graphs as one object."""
    return Batch.from_data_list([Data(*graph()) for _ in range(2)])


@safe(batch)
class OfBatch(nn.Module):
    """A model that takes a `Batch`, and returns one."""

    def __init__(self):
        super().__init__()
        self.conv = gnn.GCNConv(8, 4)

    def forward(self, data):
        x = self.conv(data.x, data.edge_index)
        return Batch(x=x, pooled=gnn.global_mean_pool(x, data.batch))


def sparse_graph():
    """A graph as torch's own sparse tensor."""
    x, edge_index = graph()
    edge_index = edge_index.unique(dim=1)
    data = T.ToSparseTensor(layout=torch.sparse_csr)(Data(x=x, edge_index=edge_index))
    return x, data.adj_t


@safe(sparse_graph)
def sparse_gcn():
    """A graph in CSR form."""
    return gnn.SAGEConv(8, 4)


@safe(one_graph, says=("one call",))
def cached_gcn():
    """`cached=True` and one graph: the first call writes what all others read."""
    return gnn.GCNConv(8, 4, cached=True)


@unsafe("leaks", graph_of_five, verdicts=(NOT_SAFE, NOT_SHOWN), says=("_cached_edge_index",))
def cached_gcn_of_many_graphs():
    """`cached=True` and a graph a request: the first one normalises all."""
    return gnn.GCNConv(8, 4, cached=True)


class Weighted(nn.Module):
    """A layer that is asked for its attention weights."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, edge_index):
        out, (_, alpha) = self.conv(x, edge_index, return_attention_weights=True)
        return out, alpha


@unsafe("crash", graph, says=PATCH, quick=True)
def transformer_conv():
    """TransformerConv keeps the attention of a call in `self._alpha`."""
    return Weighted(gnn.TransformerConv(8, 4, heads=2))


@safe(graph, patched=True, quick=True)
def transformer_conv_patched():
    """Patched, each thread has attention weights of its own."""
    return Weighted(gnn.TransformerConv(8, 4, heads=2))


@safe(graph, says=("_alpha",))
def transformer_conv_without_weights():
    """Nobody reads `_alpha` if nobody asks for the weights."""
    return gnn.TransformerConv(8, 4, heads=2)


@unsafe("crash", graph, says=PATCH)
def fa_conv():
    """FAConv keeps it as well."""

    class Net(nn.Module):
        """FAConv in a net, with the weights in the result."""

        def __init__(self):
            super().__init__()
            self.conv = gnn.FAConv(8)

        def forward(self, x, edge_index):
            out, (_, alpha) = self.conv(x, x, edge_index, return_attention_weights=True)
            return out, alpha

    return Net()


def relations():
    """A graph with types of edges."""
    x, edge_index = graph()
    return x, edge_index, torch.randint(3, (edge_index.size(1),))


@unsafe("crash", relations, says=PATCH)
def rgat_conv():
    """RGATConv crashes calls that do not ask for weights, too."""
    return gnn.RGATConv(8, 4, num_relations=3)


@safe(relations, patched=True)
def rgat_conv_patched():
    """Patched, it does not."""
    return gnn.RGATConv(8, 4, num_relations=3)


class Encoder(nn.Module):
    """What a variational autoencoder encodes with."""

    def __init__(self):
        super().__init__()
        self.mean, self.scale = gnn.GCNConv(8, 4), gnn.GCNConv(8, 4)

    def forward(self, x, edge_index):
        return self.mean(x, edge_index), self.scale(x, edge_index)


@unsafe("wrong", graph, methods=("encode",), says=PATCH)
def vgae():
    """VGAE keeps the mean of the posterior, and returns it from `self`."""
    return models.VGAE(Encoder())


@unsafe("wrong", graph, says=(*PATCH, "encode"), checked="encode() is, as layers.vgae")
def vgae_by_default():
    """Whoever names no method has it audited by those that VGAE is served by."""
    return models.VGAE(Encoder())


@safe(graph, methods=("encode",), patched=True)
def vgae_patched():
    """Patched, it returns what it computed itself."""
    return models.VGAE(Encoder())


@safe(graph, methods=("encode",))
def gae():
    """GAE keeps nothing."""
    return models.GAE(gnn.GCNConv(8, 4))


@safe(relations)
def rgcn():
    """RGCN."""
    return gnn.RGCNConv(8, 4, num_relations=3, num_bases=2)


@safe(rows)
def dynamic_edges():
    """A graph that is computed from the rows of the call."""

    class Net(nn.Module):
        """Neighbours by distance."""

        def __init__(self):
            super().__init__()
            self.conv = gnn.EdgeConv(nn.Linear(16, 4))

        def forward(self, x):
            near = torch.cdist(x, x).topk(2, largest=False).indices
            source = near.flatten()
            target = torch.arange(x.size(0)).repeat_interleave(2)
            return self.conv(x, torch.stack([source, target]))

    return Net()


@safe(graph)
def appnp():
    """APPNP after a perceptron, in evaluation."""
    return gnn.Sequential(
        "x, edge_index",
        [(nn.Linear(8, 4), "x -> x"), (gnn.APPNP(K=3, alpha=0.1), "x, edge_index -> x")],
    )


@safe(graph)
def deep_gcn():
    """DeeperGCN's blocks, with generalised aggregation."""
    return gnn.Sequential(
        "x, edge_index",
        [
            (
                gnn.DeepGCNLayer(gnn.GENConv(8, 8), nn.LayerNorm(8), nn.ReLU(), block="res+"),
                "x, edge_index -> x",
            )
            for _ in range(3)
        ],
    )
