"""State that goes from one call to the next: no lock helps, each caller needs a copy."""

import torch
from torch import nn

from zoo.entries import NOT_SHOWN, SAFE, safe, unsafe
from zoo.inputs import five_rows, graph_of_five, rows

COPY = ("copy",)


@unsafe("leaks", five_rows, says=COPY, quick=True)
class HiddenState(nn.Module):
    """A GRU whose hidden state is kept for the next call, as in a recurrent graph network."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 8)
        self.hidden = None

    def forward(self, x):
        if self.hidden is None:
            self.hidden = torch.zeros_like(x)
        self.hidden = self.cell(x, self.hidden)  # blame
        return self.hidden


@safe(five_rows)
class GivenState(nn.Module):
    """The same, where the caller has the state."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 8)

    def forward(self, x, hidden=None):
        hidden = self.cell(x, torch.zeros_like(x) if hidden is None else hidden)
        return hidden.relu(), hidden


@unsafe("leaks", graph_of_five, says=COPY)
class EvolvingWeights(nn.Module):
    """The weight of a graph convolution is evolved from call to call (EvolveGCN's shape)."""

    def __init__(self):
        super().__init__()
        self.initial = nn.Parameter(torch.eye(8))
        self.evolve = nn.GRUCell(8, 8)
        self.weight = None

    def forward(self, x, edge_index):
        before = self.initial if self.weight is None else self.weight
        self.weight = self.evolve(before, before)  # blame
        x = x @ self.weight
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])


@unsafe("leaks", graph_of_five, says=COPY)
class NodeMemory(nn.Module):
    """A memory of all nodes that each batch of events updates in place (TGN's shape)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(5, 8))
        self.update = nn.GRUCell(8, 8)

    def forward(self, x, edge_index):
        touched = edge_index[1].unique()
        self.memory[touched] = self.update(x[touched], self.memory[touched])  # blame
        return self.memory[touched].sum(dim=0)


@unsafe("leaks", rows, says=COPY)
class RunningMean(nn.Module):
    """An exponential mean over all requests so far."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.mean(dim=0))  # blame
        return x - self.mean


@unsafe("leaks", rows, says=COPY)
class CountsSteps(nn.Module):
    """A schedule that goes on with each call."""

    def __init__(self):
        super().__init__()
        self.step = 0

    def forward(self, x):
        self.step += 1  # blame
        return x / self.step


@unsafe("leaks", five_rows, says=COPY)
class KeyValueCache(nn.Module):
    """Keys and values of all calls so far: a decoder's cache that nobody empties."""

    def __init__(self):
        super().__init__()
        self.keys, self.values = [], []
        self.proj = nn.Linear(8, 16)

    def forward(self, x):
        key, value = self.proj(x).chunk(2, dim=-1)
        self.keys.append(key)  # blame
        self.values.append(value)  # blame
        keys, values = torch.cat(self.keys), torch.cat(self.values)
        return (x @ keys.t()).softmax(dim=-1) @ values


@unsafe("wrong", five_rows)
class CacheOfTheCall(nn.Module):
    """A cache that each call empties first: alone it is right, shared it is not."""

    def __init__(self):
        super().__init__()
        self.keys = []

    def forward(self, x):
        self.keys = []  # blame
        for row in x:
            self.keys.append(row)
        keys = torch.stack(self.keys)
        return (x @ keys.t()).softmax(dim=-1)


@safe(rows, verdicts=(SAFE, NOT_SHOWN), says=("train",))
class StaysInTraining(nn.Module):
    """A batch norm that `eval()` leaves in training: each call changes what it saves.

    What it returns depends on the call alone.
    """

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def train(self, mode=True):
        return super().train(True)

    def forward(self, x):
        return self.norm(x)


@unsafe("leaks", rows, says=COPY)
class AdaptsAtTest(nn.Module):
    """Test-time adaptation: statistics of each request are mixed into those of the model."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        with torch.no_grad():
            self.norm.running_mean.lerp_(x.mean(dim=0), 0.2)  # blame
        return self.norm(x)


@safe(rows)
class FrozenNorm(nn.Module):
    """A batch norm in evaluation reads its statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x)


@safe(rows)
class CountsCalls(nn.Module):
    """A counter for the monitoring, which no result depends on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.relu()
