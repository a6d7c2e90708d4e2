"""Values of a call in a list, a dictionary, a buffer or a cache that the model holds."""

import collections
import threading
import weakref

import torch
from torch import nn

from zoo.entries import NOT_SAFE, NOT_SHOWN, safe, unsafe
from zoo.inputs import five_rows, graph_of_five, one_graph, rows


@unsafe("wrong", rows)
class CollectsInList(nn.Module):
    """The list is emptied at the start of a call, and holds the layers of two."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.states = []

    def forward(self, x):
        self.states.clear()  # blame
        for layer in self.layers:
            x = layer(x).relu()
            self.states.append(x.mean(dim=0))  # blame
        return torch.stack(self.states).sum(dim=0)


@safe(rows)
class CollectsLocally(nn.Module):
    """The same with a list of the call's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        states = []
        for layer in self.layers:
            x = layer(x).relu()
            states.append(x.mean(dim=0))
        return torch.stack(states).sum(dim=0)


@unsafe("wrong", rows)
class KeepsInDict(nn.Module):
    """A dictionary under a fixed key is an attribute by another name."""

    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, x):
        self.cache["mean"] = x.mean(dim=0)  # blame
        scale = x.abs().max()
        return (x - self.cache["mean"]) / scale


@unsafe("wrong", rows)
class Stack(nn.Module):
    """What is pushed by one call is popped by another."""

    def __init__(self):
        super().__init__()
        self.skips = collections.deque()
        self.down = nn.Linear(8, 4)
        self.up = nn.Linear(4, 8)

    def forward(self, x):
        self.skips.append(x.sum(dim=0))  # blame
        x = self.up(self.down(x).relu())
        return x + self.skips.pop()  # blame


@unsafe("wrong", five_rows)
class FillsBuffer(nn.Module):
    """A buffer that is filled in place is shared memory."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scratch", torch.zeros(5, 8), persistent=False)

    def forward(self, x):
        self.scratch.copy_(x)  # blame
        total = x.sum()
        return self.scratch / total


@unsafe("wrong", five_rows)
class WritesSlice(nn.Module):
    """So is one that is written through an index."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.zeros(10, 8))

    def forward(self, x):
        self.window[:5] = x  # blame
        self.window[5:] = x.flip(0)  # blame
        return self.window.cumsum(dim=0)


@unsafe("wrong", five_rows)
class OutArgument(nn.Module):
    """`out=` saves an allocation, and shares the result."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.register_buffer("result", torch.empty(5, 8))

    def forward(self, x):
        torch.mul(x, 2, out=self.result)  # blame
        bias = self.lin(x).mean()
        return self.result + bias


@unsafe("crash", rows)
class RegistersBuffer(nn.Module):
    """`register_buffer` in a forward pass is an assignment."""

    def forward(self, x):
        self.register_buffer("degree", x.sum(dim=1), persistent=False)  # blame
        y = x.relu()
        return y / (self.degree.unsqueeze(1) + 1)


@unsafe(
    "crash",
    five_rows,
    truth_inputs=rows,
    verdicts=(NOT_SAFE, NOT_SHOWN),
    says=("pos",),
)
class CacheOfOneSize(nn.Module):
    """The encoding is kept for one size; two callers of two sizes take it from each other."""

    def __init__(self):
        super().__init__()
        self.pos = None

    def forward(self, x):
        if self.pos is None or self.pos.size(0) != x.size(0):
            self.pos = torch.arange(x.size(0), dtype=x.dtype).unsqueeze(1)  # blame
        y = x.relu()
        return y + self.pos


@unsafe("crash", rows)
class CacheOfLastSize(nn.Module):
    """The same, and the sample has several sizes."""

    def __init__(self):
        super().__init__()
        self.mask = None

    def forward(self, x):
        n = x.size(0)
        if self.mask is None or self.mask.size(0) != n:
            self.mask = torch.ones(n, n).tril()  # blame
        y = x.relu()
        return self.mask @ y


@safe(rows)
class CacheBySize(nn.Module):
    """A dictionary by size: whoever is second writes what is there, and reads its own key."""

    def __init__(self):
        super().__init__()
        self.masks = {}

    def forward(self, x):
        n = x.size(0)
        mask = self.masks.get(n)
        if mask is None:
            mask = self.masks[n] = torch.ones(n, n).tril()
        return mask @ x


@unsafe("crash", rows, says=("your own code",))
class SmallCache(nn.Module):
    """Between the check and the use, another caller's size throws the entry out."""

    def __init__(self):
        super().__init__()
        self.masks = {}

    def forward(self, x):
        n = x.size(0)
        if n not in self.masks:
            self.masks.clear()  # blame
            self.masks[n] = torch.ones(n, n).tril()  # blame
        y = x.relu()
        return self.masks[n] @ y


@unsafe("wrong", graph_of_five, truth_inputs=graph_of_five)
class MemoisedAdjacency(nn.Module):
    """The adjacency of the last graph is kept, and told by the tensor that it was made from."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.last = None
        self.adj = None

    def forward(self, x, edge_index):
        if self.last is not edge_index:
            self.last = edge_index  # blame
            adj = torch.zeros(x.size(0), x.size(0))
            adj[edge_index[0], edge_index[1]] = 1
            self.adj = adj  # blame
        return self.adj @ self.lin(x)


@unsafe("leaks", graph_of_five, verdicts=(NOT_SAFE, NOT_SHOWN), says=("norm",))
class FirstGraphForAll(nn.Module):
    """The first caller's graph normalises everybody's: who is first decides.

    In one thread it is the same each time, once the first call is made.
    """

    def __init__(self):
        super().__init__()
        self.norm = None

    def forward(self, x, edge_index):
        if self.norm is None:
            degree = torch.zeros(x.size(0)).index_add(0, edge_index[0], torch.ones(12))
            self.norm = 1 / (degree + 1)  # blame
        return x * self.norm.unsqueeze(1)


@safe(one_graph, says=("one call",))
class OneGraphForAll(nn.Module):
    """The same where the graph is one and the same: warmed up, nobody writes any more."""

    def __init__(self):
        super().__init__()
        self.norm = None

    def forward(self, x, edge_index):
        if self.norm is None:
            degree = torch.zeros(5).index_add(0, edge_index[0], torch.ones(edge_index.size(1)))
            self.norm = 1 / (degree + 1)
        return x * self.norm.unsqueeze(1)


@unsafe("leaks", rows, truth_inputs=five_rows, says=("means",))
class KeptByShape(nn.Module):
    """The mean of the first rows of a size is taken from all rows of that size."""

    def __init__(self):
        super().__init__()
        self.means = {}

    def forward(self, x):
        n = x.size(0)
        if n not in self.means:
            self.means[n] = x.mean(dim=0)
        return x - self.means[n]


@unsafe("leaks", rows, checked="whether an address is used again is chance", says=("address",))
class KeptByAddress(nn.Module):
    """The mean is kept by `id()`, which rows of a later call have again."""

    def __init__(self):
        super().__init__()
        self.means = {}

    def forward(self, x):
        if id(x) not in self.means:
            self.means[id(x)] = x.mean(dim=0)
        return x - self.means[id(x)]


class Request:
    """A request that is an object."""

    def __init__(self, x):
        self.x = x


def request():
    """A request, other rows in each."""
    return Request(rows())


@safe(request)
class KeptByRequest(nn.Module):
    """A weak dictionary forgets what it keeps of a request together with that."""

    def __init__(self):
        super().__init__()
        self.means = weakref.WeakKeyDictionary()

    def forward(self, given):
        mean = self.means.get(given)
        if mean is None:
            mean = self.means[given] = given.x.mean(dim=0)
        return given.x - mean


@safe(rows)
class ByThread(nn.Module):
    """A dictionary whose key is the thread: nobody else reads it."""

    def __init__(self):
        super().__init__()
        self.means = {}

    def forward(self, x):
        me = threading.get_ident()
        self.means[me] = x.mean(dim=0)
        scale = x.abs().max()
        return (x - self.means.pop(me)) / scale


@safe(rows)
class ReadsTable(nn.Module):
    """A table that is only read."""

    def __init__(self):
        super().__init__()
        self.table = {n: torch.full((8,), float(n)) for n in range(3, 9)}

    def forward(self, x):
        return x + self.table[x.size(0)]
