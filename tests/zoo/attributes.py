"""Values of a call that the model keeps in an attribute."""

import torch
from torch import nn

from zoo.entries import NOT_SHOWN, safe, unsafe
from zoo.inputs import graph, rows


@unsafe("wrong", rows, quick=True, says=("your own code",))
class KeepsMean(nn.Module):
    """The mean of another caller's rows is taken away from one's own."""

    def forward(self, x):
        self.mean = x.mean(dim=0)  # blame
        scale = x.abs().max()
        return (x - self.mean) / scale


@safe(rows, quick=True)
class PassesMean(nn.Module):
    """The same without the attribute: the mean is local."""

    def forward(self, x):
        mean = x.mean(dim=0)
        scale = x.abs().max()
        return (x - mean) / scale


@unsafe("crash", rows)
class TakesBack(nn.Module):
    """What is taken back after use is None by the time that another caller uses it."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self._gate = None

    def compute_gate(self, x):
        self._gate = self.lin(x).sigmoid()  # blame

    def forward(self, x):
        self.compute_gate(x)
        out = x * self._gate
        self._gate = None  # blame
        return out


@unsafe("wrong", rows)
class ByName(nn.Module):
    """`setattr` with a name that is put together writes an attribute as well."""

    def forward(self, x):
        for i in range(2):
            setattr(self, f"part_{i}", x[:, i::2])  # blame
        return self.part_0.sum() - self.part_1.sum()


@unsafe("wrong", rows)
class PastSetattr(nn.Module):
    """A write to `self.__dict__` passes `__setattr__` by."""

    def forward(self, x):
        self.__dict__["total"] = x.sum()  # blame
        share = x.sum(dim=1)
        return share / self.__dict__["total"]


@unsafe("wrong", rows)
class ByUpdate(nn.Module):
    """`vars(self).update()` does, too."""

    def forward(self, x):
        vars(self).update(low=x.min(), high=x.max())  # blame
        shifted = x - self.low
        return shifted / (self.high - self.low)


@unsafe("crash", rows)
class PastModule(nn.Module):
    """`object.__setattr__` is what careful people write so that a tensor is not registered."""

    def forward(self, x):
        object.__setattr__(self, "norm", x.norm(dim=-1, keepdim=True))  # blame
        y = x.relu()
        return y / (self.norm + 1)


@unsafe("wrong", rows)
class ThroughProperty(nn.Module):
    """A property's setter writes an attribute under another name."""

    @property
    def temperature(self):
        return self._temperature

    @temperature.setter
    def temperature(self, value):
        self._temperature = value  # blame

    def forward(self, x):
        self.temperature = x.std() + 1
        logits = x.sum(dim=1)
        return (logits / self.temperature).softmax(dim=0)


@unsafe("wrong", graph)
class FlipsDirection(nn.Module):
    """The direction is turned for the second half of a call, and another call starts in it."""

    def __init__(self):
        super().__init__()
        self.flow = "forth"

    def gather(self, x, edge_index):
        source, target = edge_index if self.flow == "forth" else edge_index.flip(0)
        return torch.zeros_like(x).index_add(0, target, x[source])

    def forward(self, x, edge_index):
        out = self.gather(x, edge_index)
        self.flow = "back"  # blame
        out = self.gather(out, edge_index)
        self.flow = "forth"  # blame
        return out


@unsafe("wrong", rows, verdicts=(NOT_SHOWN,), says=("on these inputs",), checked="rows are below 1")
class ReadsRarely(nn.Module):
    """Every call writes it, and only rows that are in none of the requests let it be read."""

    def forward(self, x):
        self.mean = x.mean(dim=0)  # blame
        y = x.relu()
        if x.max() > 5:
            y = y - self.mean
        return y


@unsafe("wrong", rows)
class WritesToChild(nn.Module):
    """The outer module writes what the inner one reads."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(0.1))

    def forward(self, x):
        self.body[1].negative_slope = float(x.mean())  # blame
        return self.body(x)


def _remember(module, x):
    module.seen_rows = x.size(0)  # blame ByHelper


@unsafe("wrong", rows)
class ByHelper(nn.Module):
    """A function beside the class writes the attribute."""

    def forward(self, x):
        _remember(self, x)
        total = x.sum(dim=0)
        return total / self.seen_rows


@unsafe("crash", rows)
class HoldsWeights(nn.Module):
    """Weights of a call are swapped into a layer, and back: a poor man's LoRA."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        weight = self.lin.weight
        del self.lin.weight  # blame
        self.lin.weight = nn.Parameter(weight + x.mean(), requires_grad=False)  # blame
        out = self.lin(x)
        self.lin.weight = weight  # blame
        return out


@safe(rows, says=("attention",))
class LeavesAttention(nn.Module):
    """Nothing reads what is left: the results are right, if nobody reads `model.attention`."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(8, 1)
        self.attention = None

    def forward(self, x):
        alpha = self.score(x).softmax(dim=0)
        self.attention = alpha
        return (alpha * x).sum(dim=0)


@safe(rows)
class WritesConstant(nn.Module):
    """Every call writes the same."""

    def forward(self, x):
        self.num_features = 8
        return x / self.num_features


@safe(rows)
class WritesToItsOwnCopy(nn.Module):
    """The object that is written is made in the call, and ends with it."""

    class State(nn.Module):
        """What one call needs."""

    def forward(self, x):
        state = self.State()
        state.mean = x.mean(dim=0)
        scale = x.abs().max()
        return (x - state.mean) / scale
