"""Layers inside of what torch and PyG have to hold them."""

import copy
import io
import pickle
import tempfile

import torch
import torch_geometric.nn as nn
from cases import LOAD_ANY, case, graph, train
from torch.nn.utils import prune

from user_code import own_propagate, typed, untyped

NODES, EDGES = ["paper", "author"], [("author", "to", "paper"), ("paper", "to", "author")]

# One of each kind, built for 8 channels and 4: PyG's own, and theirs.
CONVS = {
    "TransformerConv": lambda: nn.TransformerConv(8, 4),
    "GATv2Conv": lambda: nn.GATv2Conv(8, 4, add_self_loops=False),
    "typed": lambda: typed.CallsSuper(8, 4),
    "typed, for TorchScript": lambda: typed.NoSuper(8, 4),
    "own forward()": lambda: own_propagate.OwnForward(8, 4),
    "untyped": lambda: untyped.CallsSuper(8, 4),
    # Those whose messages have one row of features, as bases are to have.
    "GraphConv": lambda: nn.GraphConv(8, 4),
    "GraphConv, untyped": lambda: UntypedGraph(8, 4),
    "own propagate()": lambda: own_propagate.AttentionOfTheirs(8, 4),
}
EACH = ("TransformerConv", "GATv2Conv", "typed", "untyped")
BASES = ("GraphConv", "GraphConv, untyped", "own propagate()", "TransformerConv")


class UntypedGraph(nn.GraphConv):
    def message(self, x_j, edge_weight):
        return super().message(x_j, edge_weight).tanh()


class Net(torch.nn.Module):
    """Two layers."""

    def __init__(self, which):
        super().__init__()
        self.conv1 = CONVS[which]()
        self.lin = torch.nn.Linear(4, 8)
        self.conv2 = CONVS[which]()

    def forward(self, x, edge_index):
        x = self.lin(self.conv1(x, edge_index)).relu()
        return self.conv2(x, edge_index)


def filled(module):
    """A module with weights that do not depend on how many there are."""
    torch.manual_seed(12345)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.eval()


def both(module):
    """What a module of nodes and edges returns, and the gradients."""
    inputs = graph()
    with torch.no_grad():
        out = module(inputs["x"], inputs["edge_index"])
    return out, train(Positional(module))


class Positional(torch.nn.Module):
    """Names the arguments that a container does not name."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, edge_index):
        return self.module(x, edge_index)


@case(since=(2, 0), each=EACH)
def sequential(which):
    return both(
        filled(
            nn.Sequential(
                "x, edge_index",
                [
                    (CONVS[which](), "x, edge_index -> x"),
                    torch.nn.ReLU(inplace=True),
                    torch.nn.Linear(4, 3),
                ],
            )
        )
    )


@case(since=(2, 0), each=EACH)
def sequential_with_weights(which):
    """Unpacks the attention weights in the middle."""

    class Weights(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = CONVS[which]()

        def forward(self, x, edge_index):
            return self.conv(x, edge_index, return_attention_weights=True)

    return both(
        filled(
            nn.Sequential(
                "x, edge_index",
                [
                    (Weights(), "x, edge_index -> x, weights"),
                    (lambda x, weights: x * weights[1].sum(), "x, weights -> x"),
                ],
            )
        )
    )


@case(since=(2, 0), each=EACH)
def hetero_conv(which):
    inputs = graph()
    conv = filled(nn.HeteroConv({kind: CONVS[which]() for kind in EDGES}, aggr="sum"))
    x = {"paper": inputs["x"], "author": inputs["x_0"]}
    edges = {kind: inputs["edge_index"] for kind in EDGES}
    return [out for _, out in sorted(conv(x, edges).items())]


@case(since=(2, 0), each=EACH)
def to_hetero(which):
    inputs = graph()
    torch.manual_seed(12345)
    net = filled(nn.to_hetero(Net(which), (NODES, EDGES), aggr="sum"))
    x = {"paper": inputs["x"], "author": inputs["x_0"]}
    return [
        out for _, out in sorted(net(x, {kind: inputs["edge_index"] for kind in EDGES}).items())
    ]


@case(since=(2, 0), each=BASES)
def to_hetero_with_bases(which):
    inputs = graph()
    net = nn.to_hetero_with_bases(Net(which), (NODES, EDGES), num_bases=2)
    x = {"paper": inputs["x"], "author": inputs["x_0"]}
    edges = {kind: inputs["edge_index"] for kind in EDGES}
    net(x, edges)  # Its layers are built by the first call.
    return [out for _, out in sorted(filled(net)(x, edges).items())]


@case(since=(2, 0), each=BASES)
def hetero_bases_by_hand(which):
    """The layer that the former builds, copied, pickled, and called with other edge types."""
    from torch_geometric.nn.to_hetero_with_bases_transformer import HeteroBasisConv

    inputs = graph()
    conv = filled(HeteroBasisConv(CONVS[which](), num_relations=3, num_bases=2))
    results = []
    for one in (conv, copy.deepcopy(conv), conv):
        for types in (inputs["edge_type"], inputs["edge_type"].flip(0)):
            results.append(one(types, x=inputs["x"], edge_index=inputs["edge_index"]))
    results.append(sorted(conv.state_dict()))
    return results


@case(since=(2, 0), each=EACH)
def data_parallel(which):
    return both(filled(torch.nn.DataParallel(Net(which))))


# The end of a process group waits for a thread of its own that may wait for the GIL meanwhile
# (torch 2.13), or for minutes for a file that is gone (torch 1.9). So none ends before its process.
parallel = []


@case(since=(2, 0), each=EACH)
def distributed_data_parallel(which):
    """One process, over gloo."""
    import torch.distributed as dist

    # Not a temporary file: the process group removes it, at a time of its own.
    with tempfile.TemporaryDirectory() as directory:
        init_method = f"file://{directory}/store"
        dist.init_process_group("gloo", init_method=init_method, rank=0, world_size=1)
        try:
            module = torch.nn.parallel.DistributedDataParallel(filled(Net(which)))
            parallel.append(module)
            inputs = graph()
            steps = []
            for _ in range(2):
                module.zero_grad()
                out = module(inputs["x"], inputs["edge_index"])
                out.square().sum().backward()
                steps.append([out, [parameter.grad.clone() for parameter in module.parameters()]])
            return steps
        finally:
            dist.destroy_process_group()


@case(since=(2, 0), each=EACH)
def optimized(which):
    """Trained for some steps, with a moving average and a clone of the best model."""
    net = filled(Net(which)).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    average = torch.optim.swa_utils.AveragedModel(net)
    inputs, best = graph(), None
    for step in range(4):
        optimizer.zero_grad()
        net(inputs["x"], inputs["edge_index"]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(net)
        best = copy.deepcopy(net) if step == 2 else best
    return both(average), both(best)


@case(since=(2, 0), each=EACH)
def whole_model_in_a_file(which):
    file = io.BytesIO()
    net = filled(Net(which))
    both(net)
    torch.save({"net": net, "epoch": 3}, file)
    file.seek(0)
    loaded = torch.load(file, **LOAD_ANY)["net"]
    return both(loaded), both(pickle.loads(pickle.dumps(copy.deepcopy(loaded))))


@case(since=(2, 0), each=EACH)
def state_dict_strict(which):
    net, other = filled(Net(which)), Net(which)
    other.load_state_dict(net.state_dict(), strict=True)
    return both(other.eval()), list(net.state_dict())


@case(since=(2, 0), each=EACH)
def other_dtypes_and_tools(which):
    """Double precision, pruned weights, checkpoints, and frozen parameters."""
    inputs = graph()
    net = filled(Net(which))
    results = [copy.deepcopy(net).double()(inputs["x"].double(), inputs["edge_index"])]
    pruned = copy.deepcopy(net)
    prune.l1_unstructured(pruned.lin, "weight", amount=0.5)
    results.append(pruned(inputs["x"], inputs["edge_index"]))
    x = inputs["x"].clone().requires_grad_()
    out = torch.utils.checkpoint.checkpoint(net, x, inputs["edge_index"], use_reentrant=False)
    results.append(torch.autograd.grad(out.sum(), x)[0])
    net.requires_grad_(False)
    results.append(net(inputs["x"], inputs["edge_index"]))
    return results


@case(since=(2, 0), each=EACH)
def functional_call(which):
    net = filled(Net(which))
    state = {name: value / 2 for name, value in net.state_dict().items()}
    inputs = graph()
    return torch.func.functional_call(net, state, (inputs["x"], inputs["edge_index"]))


@case(since=(2, 0), each=EACH)
def symbolic_trace(which):
    """`torch.fx`, with each layer a leaf, as PyG's transformers trace a model."""
    from torch_geometric.nn.fx import Transformer

    class Twice(Transformer):
        def call_message_passing_module(self, node, target, name):
            with self.graph.inserting_after(node):
                doubled = self.graph.call_function(torch.mul, args=(node, 2))
                node.replace_all_uses_with(doubled, delete_user_cb=lambda user: user is not doubled)

    return both(Twice(filled(Net(which))).transform())


@case(since=(2, 0))
def basic_gnn():
    """A model of PyG's that is given layers of theirs."""
    from torch_geometric.nn.models.basic_gnn import BasicGNN

    class OfTheirs(BasicGNN):
        supports_edge_weight = False
        supports_edge_attr = False

        def init_conv(self, in_channels, out_channels, **kwargs):
            return untyped.NoSuper(in_channels, out_channels)

    return both(filled(OfTheirs(8, 6, num_layers=2, out_channels=3)))


@case(each=("VGAE", "ARGVA"))
def autoencoder(which):
    """Encodes, decodes, and is trained on its losses."""

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mu, self.logstd = nn.GATv2Conv(8, 4), nn.GCNConv(8, 4)

        def forward(self, x, edge_index):
            return self.mu(x, edge_index), self.logstd(x, edge_index)

    parts = [Encoder()]
    if which == "ARGVA":
        parts.append(torch.nn.Linear(4, 1))
    return losses(filled(getattr(nn, which)(*parts)))


def losses(model):
    inputs = graph()
    results = []
    for training in (False, True, False):
        model.train(training)
        torch.manual_seed(1)
        z = model.encode(inputs["x"], inputs["edge_index"])
        results += [z, model.kl_loss(), model.kl_loss(z, z), model.decode(z, inputs["edge_index"])]
    torch.manual_seed(1)
    loss = model.kl_loss() + model.recon_loss(z, inputs["edge_index"])
    loss.backward()
    return results, [parameter.grad for parameter in model.parameters()]


class Pair(torch.nn.Module):
    """Means and spreads of fixed features."""

    def __init__(self):
        super().__init__()
        self.mu, self.logstd = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)

    def forward(self, x, edge_index):
        return self.mu(x), self.logstd(x)


class OwnReparametrize(nn.VGAE):
    """Samples at inference, too, and counts how often."""

    samples = 0

    def reparametrize(self, mu, logstd):
        self.samples += 1
        return mu + torch.randn_like(logstd) * logstd.exp()


class OwnEncode(nn.VGAE):
    """Starts from what its base has computed."""

    def encode(self, *args, **kwargs):
        z = super().encode(*args, **kwargs)
        return z / z.norm(dim=-1, keepdim=True)


class ReadsMu(nn.VGAE):
    """Reads what its base leaves for the loss."""

    def encode(self, x, edge_index):
        z = super().encode(x, edge_index)
        return z - self.__mu__.mean() + self.__logstd__.mean()


class WritesMu(nn.VGAE):
    """Leaves it there itself."""

    def encode(self, x, edge_index):
        self.__mu__, self.__logstd__ = self.encoder(x, edge_index)
        return self.reparametrize(self.__mu__, self.__logstd__)


AUTOENCODERS = (OwnReparametrize, OwnEncode, ReadsMu, WritesMu)


@case(each=AUTOENCODERS)
def autoencoders_of_theirs(cls):
    model = filled(cls(Pair()))
    return losses(copy.deepcopy(model)), losses(model), getattr(model, "samples", None)
