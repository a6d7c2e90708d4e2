"""Random models, and generators that calls share."""

import random
import time

import torch
from torch import nn

from zoo.entries import NOT_SAFE, NOT_SHOWN, SAFE, safe, unsafe
from zoo.inputs import rows

UNDECIDED = {"verdicts": (NOT_SHOWN,)}


@safe(rows)
class Dropout(nn.Module):
    """In evaluation nothing is dropped."""

    def __init__(self):
        super().__init__()
        self.lin, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.lin(x))


@safe(rows, **UNDECIDED, says=("dropout|random",), checked="its results are random")
class AlwaysDrops(nn.Module):
    """`F.dropout` without `training=`: random, and nothing is shared but torch's generator."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        return torch.nn.functional.dropout(self.lin(x), 0.5)


@unsafe("wrong", rows, says=("seed",))
class SeedsGlobally(nn.Module):
    """The seed of the process is set in the call; another call draws from it in between."""

    def forward(self, x):
        torch.manual_seed(0)  # blame
        y = x.relu()
        return y + torch.rand(x.size(0), 1)


@unsafe("wrong", rows, says=("seed",))
class SeedsPython(nn.Module):
    """The same with Python's own generator."""

    def forward(self, x):
        random.seed(0)  # blame
        y = x.relu()
        keep = random.sample(range(x.size(0)), 2)
        return y[keep]


@unsafe("wrong", rows, says=("generator",))
class SharedGenerator(nn.Module):
    """A generator that the model holds is seeded in each call, and used by all."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()

    def forward(self, x):
        self.generator.manual_seed(0)  # blame
        y = x.relu()
        return y + torch.rand(x.shape, generator=self.generator)


@safe(rows)
class GeneratorOfTheCall(nn.Module):
    """A generator that the call makes for itself."""

    def forward(self, x):
        generator = torch.Generator().manual_seed(0)
        return x + torch.rand(x.shape, generator=generator)


@unsafe("wrong", rows)
class ForksGenerator(nn.Module):
    """`fork_rng` sets the process's generator back, in whatever state others have it."""

    def forward(self, x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)  # blame
            y = x.relu()
            return y + torch.randn(x.size(0), 1)


@unsafe("wrong", rows, verdicts=(NOT_SAFE, NOT_SHOWN), checked="its results are random")
class RandomAndKept(nn.Module):
    """Random, and a race as well: the mask of a call is kept in `self`."""

    def forward(self, x):
        self.mask = torch.rand(x.size(0), 1) < 0.9  # blame
        y = x.relu()
        return y * self.mask


@unsafe("wrong", rows, verdicts=(NOT_SAFE, NOT_SHOWN), checked="its results are random")
class MonteCarloDropout(nn.Module):
    """Dropout is switched on for a part of the call, and so for others' other parts."""

    def __init__(self):
        super().__init__()
        self.lin, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x):
        mean = self.drop(self.lin(x))
        self.drop.train()  # blame
        samples = torch.stack([self.drop(self.lin(x)) for _ in range(4)])
        self.drop.eval()  # blame
        return mean, samples.var(dim=0)


@safe(rows, **UNDECIDED, says=("time|determin",), checked="its results differ from call to call")
class TellsTime(nn.Module):
    """The time is in the result: no two calls return the same."""

    def forward(self, x):
        return {"scores": x.sum(dim=1), "at": time.perf_counter()}


@safe(rows, **UNDECIDED, says=("random|determin",), checked="its results are random")
class Samples(nn.Module):
    """An autoencoder that draws from its posterior in evaluation, too."""

    def __init__(self):
        super().__init__()
        self.mean, self.scale = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        mean, scale = self.mean(x), self.scale(x).exp()
        return mean + scale * torch.randn_like(scale)


@safe(rows, verdicts=(SAFE, NOT_SHOWN), checked="the identity of an object is in its results")
class NamesObjects(nn.Module):
    """The result has an object that is new in each call, beside tensors that are not."""

    def forward(self, x):
        return {"scores": x.sum(dim=1), "request": object()}
