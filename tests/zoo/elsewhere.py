"""Values of a call that are kept where no module registers them."""

import functools
import os
import types
from dataclasses import dataclass

import torch
from torch import nn

from zoo.entries import safe, unsafe
from zoo.inputs import five_rows, rows


class Context:
    """An object with slots, as fast code has them."""

    __slots__ = ("mean", "rows")

    def __init__(self):
        self.mean = None
        self.rows = 0


@unsafe("wrong", rows, quick=True)
class InSlots(nn.Module):
    """The model holds an object with `__slots__`, and a call's value is in there."""

    def __init__(self):
        super().__init__()
        self.context = Context()

    def forward(self, x):
        self.context.mean = x.mean(dim=0)  # blame
        scale = x.abs().max()
        return (x - self.context.mean) / scale


@safe(rows)
class SlotsOfTheCall(nn.Module):
    """The same object, made in the call."""

    def forward(self, x):
        context = Context()
        context.mean = x.mean(dim=0)
        scale = x.abs().max()
        return (x - context.mean) / scale


@unsafe("wrong", rows)
class InNamespace(nn.Module):
    """A `SimpleNamespace` for "the state of the forward pass"."""

    def __init__(self):
        super().__init__()
        self.state = types.SimpleNamespace(total=None)

    def forward(self, x):
        self.state.total = x.sum()  # blame
        share = x.sum(dim=1)
        return share / self.state.total


@dataclass
class Trace:
    """What a call notes down."""

    low: torch.Tensor | None = None
    depth: int = 0


@unsafe("wrong", rows)
class InDataclass(nn.Module):
    """A dataclass, two objects deep."""

    def __init__(self):
        super().__init__()
        self.holder = types.SimpleNamespace(trace=Trace())

    def forward(self, x):
        self.holder.trace.low = x.min()  # blame
        y = x.exp()
        return y - self.holder.trace.low


class Normaliser:
    """A helper that is no module, with a method that keeps what `undo` needs."""

    def __init__(self):
        self.scale = None

    def apply(self, x):
        self.scale = x.abs().max()  # blame InHelper
        return x / self.scale

    def undo(self, x):
        return x * self.scale


@unsafe("wrong", rows)
class InHelper(nn.Module):
    """A scaler that fits in one call and is asked to undo it in another."""

    def __init__(self):
        super().__init__()
        self.normaliser = Normaliser()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        return self.normaliser.undo(self.lin(self.normaliser.apply(x)))


@unsafe("wrong", rows)
class InClass(nn.Module):
    """An attribute of the class is shared by all objects, and all threads."""

    num_rows = 0

    def forward(self, x):
        type(self).num_rows = x.size(0)  # blame
        total = x.sum(dim=0)
        return total / self.num_rows


class Config:
    """Settings, as class attributes."""

    temperature = 1.0


@unsafe("wrong", rows)
class InOtherClass(nn.Module):
    """The settings of a class that is no module are changed for a call."""

    def forward(self, x):
        Config.temperature = float(x.std()) + 1  # blame
        logits = x.sum(dim=1)
        return (logits / Config.temperature).softmax(dim=0)


_current = None


@unsafe("wrong", rows, says=("global",))
class InGlobal(nn.Module):
    """A module's global, by `global`."""

    def forward(self, x):
        global _current
        _current = x.mean(dim=0)  # blame
        scale = x.abs().max()
        return (x - _current) / scale


_registry: dict[str, torch.Tensor] = {}


def _push(x):
    _registry["last"] = x.sum(dim=1)  # blame InGlobalDict


@unsafe("crash", rows)
class InGlobalDict(nn.Module):
    """A dictionary of the module, written by a function of the module."""

    def forward(self, x):
        _push(x)
        y = x.relu()
        return y.sum(dim=1) / _registry["last"]


def _make_activation():
    largest = None

    def activation(x):
        nonlocal largest
        largest = x.max()  # blame InClosure
        y = x.exp()
        return y / largest.exp()

    return activation


@unsafe("wrong", rows, says=("closure|largest",))
class InClosure(nn.Module):
    """A function that the model holds keeps the value in its closure."""

    def __init__(self):
        super().__init__()
        self.activation = _make_activation()

    def forward(self, x):
        return self.activation(x)


@unsafe("wrong", rows)
class InDefault(nn.Module):
    """A default that can be changed is made once, with the function."""

    def forward(self, x, scratch=[]):  # noqa: B006
        scratch.append(x.mean(dim=0))  # blame
        y = x.relu()
        return y - scratch.pop()  # blame


def _attend(x):
    _attend.weights = x.sum(dim=1).softmax(dim=0)  # blame OnFunction
    y = x.relu()
    return _attend.weights @ y


@unsafe("crash", rows)
class OnFunction(nn.Module):
    """An attribute of a function is a global."""

    def forward(self, x):
        return _attend(x)


class Settings:
    """The one instance of itself."""

    _instance = None

    def __new__(cls):
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance


@unsafe("wrong", rows)
class InSingleton(nn.Module):
    """A singleton, asked for in each call, is a global."""

    def forward(self, x):
        Settings().shift = x.mean()  # blame
        y = x.relu()
        return y - Settings().shift


_means: dict[int, torch.Tensor] = {}


@unsafe("leaks", five_rows, says=("came first", "_means"))
class FirstInGlobal(nn.Module):
    """What the first caller leaves in a dictionary of the file is taken by all."""

    def forward(self, x):
        n = x.size(0)
        if n not in _means:
            _means[n] = x.mean(dim=0)
        return x - _means[n]


@unsafe("leaks", five_rows, says=("came first", "norm"))
class FirstInClass(nn.Module):
    """The same in the class, which copies of the model share."""

    norm = None

    def forward(self, x):
        if self.norm is None:
            type(self).norm = x.mean(dim=0)
        return x - self.norm


_largest = None


@functools.lru_cache(maxsize=None)
def _share(n):
    return _largest / n


@unsafe("leaks", five_rows, says=("came first",))
class FirstIsMemoised(nn.Module):
    """A memoised function computes with a global that it does not take as an argument."""

    def forward(self, x):
        global _largest
        _largest = x.abs().max()
        return x / _share(x.size(0))


@functools.lru_cache(maxsize=None)
def _settings():
    return types.SimpleNamespace(slope=1.0)


@safe(rows)
class MemoisedSettings(nn.Module):
    """Settings of the process, made on first use, and changed before any call."""

    def __init__(self):
        super().__init__()
        _settings().slope = 3.0

    def forward(self, x):
        return x * _settings().slope


@unsafe("wrong", rows)
class InEnvironment(nn.Module):
    """The environment of the process belongs to all threads."""

    def forward(self, x):
        os.environ["ZOO_ROWS"] = str(x.size(0))  # blame
        total = x.sum(dim=0)
        return total / int(os.environ["ZOO_ROWS"])


@unsafe("wrong", rows)
class DefaultDtype(nn.Module):
    """torch's default dtype is one for the process."""

    def forward(self, x):
        torch.set_default_dtype(torch.float64)  # blame
        fine = torch.zeros(x.size(0)) + x.sum(dim=1)
        torch.set_default_dtype(torch.float32)  # blame
        coarse = torch.ones(3)
        return fine.sum() + coarse.sum()


@safe(rows)
class GradMode(nn.Module):
    """Whether gradients are recorded is each thread's own."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = (x**3).sum()
            (force,) = torch.autograd.grad(energy, x)
        return force


@safe(rows)
class Autocast(nn.Module):
    """So is the state of autocast."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = self.lin(x)
        return low.float() + self.lin(x)
