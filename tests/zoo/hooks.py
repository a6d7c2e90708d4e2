"""Values of a call that hooks store, and models that are changed for the time of a call."""

import contextlib

import torch
from torch import nn

from zoo.entries import safe, unsafe
from zoo.inputs import rows


@unsafe("wrong", rows)
class FeatureExtractor(nn.Module):
    """A hook stores the features of an inner layer, and the model reads them back."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        self.features = {}
        self.body[1].register_forward_hook(self.store)

    def store(self, module, args, output):
        self.features["relu"] = output  # blame

    def forward(self, x):
        logits = self.body(x)
        return logits, self.features["relu"].mean(dim=0)


def _with_hook_in_closure():
    captured = []

    def store(module, args, output):
        captured.append(output)  # blame HookInClosure

    body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    body[0].register_forward_hook(store)
    return body, captured


@unsafe("wrong", rows)
class HookInClosure(nn.Module):
    """A hook appends to a list that only its closure and the model know."""

    def __init__(self):
        super().__init__()
        self.body, self.captured = _with_hook_in_closure()

    def forward(self, x):
        self.captured.clear()  # blame
        out = self.body(x)
        return out.sum(dim=0), self.captured[-1].mean(dim=0)


@unsafe("wrong", rows)
class HookForTheCall(nn.Module):
    """A hook that is there for the time of a call sees the others' calls, too."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        shapes = []
        handle = self.body[0].register_forward_hook(  # blame
            lambda module, args, output: shapes.append(output.sum())
        )
        out = self.body(x)
        handle.remove()
        return out.sum() + sum(shapes)


@safe(rows)
class HookThatScales(nn.Module):
    """A hook that stores nothing."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        self.lin.register_forward_hook(lambda module, args, output: output * 2)
        self.lin.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

    def forward(self, x):
        return self.lin(x)


@unsafe("wrong", rows)
class FunctionalCall(nn.Module):
    """`torch.func.functional_call` puts the weights into the module for the time of the call."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        weights = {name: p + x.mean() for name, p in self.body.named_parameters()}
        return torch.func.functional_call(self.body, weights, (x,))  # blame


@contextlib.contextmanager
def _slope(module, value):
    before = module.negative_slope
    module.negative_slope = value  # blame InsideContext
    try:
        yield
    finally:
        module.negative_slope = before  # blame InsideContext


@unsafe("wrong", rows)
class InsideContext(nn.Module):
    """A context manager sets an attribute, and sets it back."""

    def __init__(self):
        super().__init__()
        self.act = nn.LeakyReLU(0.1)
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        with _slope(self.act, float(x.mean())):
            return self.act(self.lin(x) - 0.5)


@unsafe("crash", rows)
class CallsMethodAnew(nn.Module):
    """A method is replaced for the time of a call, as monkey patches do."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def act(self, x):
        return x.relu()

    def forward(self, x):
        low = x.min()
        self.act = lambda y: (y - low).relu()  # blame
        out = self.act(self.lin(x))
        del self.act  # blame
        return out


@safe(rows)
class SpectralNorm(nn.Module):
    """In evaluation the norm is computed anew in each call, and nothing is updated."""

    def __init__(self):
        super().__init__()
        self.lin = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))

    def forward(self, x):
        return self.lin(x)


@safe(rows)
class WeightNorm(nn.Module):
    """The new weight norm is a parametrization, computed in each call."""

    def __init__(self):
        super().__init__()
        self.lin = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x):
        return self.lin(x)


@safe(rows)
class OldWeightNorm(nn.Module):
    """The old one writes `weight` before each call; it is the same in all of them."""

    def __init__(self):
        super().__init__()
        self.lin = nn.utils.weight_norm(nn.Linear(8, 8))

    def forward(self, x):
        return self.lin(x)


@unsafe("wrong", rows)
class CachedParametrization(nn.Module):
    """`parametrize.cached()` keeps the weights of all models in one dictionary of torch's.

    The block of the caller who is first to leave empties it; until then, whoever
    comes gets the weight that was computed for somebody else.
    """

    class Shift(nn.Module):
        """A parametrization that depends on the call."""

        amount = None

        def forward(self, weight):
            return weight + self.amount

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)
        nn.utils.parametrize.register_parametrization(self.lin, "weight", self.Shift(), unsafe=True)

    def forward(self, x):
        self.lin.parametrizations.weight[0].amount = x.mean()  # blame
        with nn.utils.parametrize.cached():
            return self.lin(x) + self.lin(x.flip(0))
