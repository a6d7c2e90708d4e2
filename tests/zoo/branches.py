"""Branches that rare requests take, in code that is no method of a module.

The audit is given requests that do not take them; the truth is checked on some that do.
"""

import threading
import types

import torch
from torch import nn

from zoo.entries import NOT_SHOWN, safe, unsafe
from zoo.inputs import rows


def large_rows():
    """Rows that take the branch."""
    return rows() + 6


# How a model is judged that is wrong where its branch is taken.
RARE = {"verdicts": (NOT_SHOWN,), "truth_inputs": large_rows}


class Centring:
    """A helper that is no module."""

    def __init__(self):
        self.mean = None

    def run(self, x):
        y = x.relu()
        if x.max() > 5:
            self.mean = x.mean(dim=0)  # blame InHelper
            y = x.relu()
            y = y - self.mean
        return y


@unsafe("wrong", rows, **RARE, quick=True)
class InHelper(nn.Module):
    """A method of an object that no module registers writes to that."""

    def __init__(self):
        super().__init__()
        self.centring = Centring()

    def forward(self, x):
        return self.centring.run(x)


@safe(rows, truth_inputs=large_rows, quick=True)
class HelperOfTheCall(nn.Module):
    """The same object, made in each call."""

    def forward(self, x):
        return Centring().run(x)


_last = {}


def _centre(x):
    y = x.relu()
    if x.max() > 5:
        _last["mean"] = x.mean(dim=0)  # blame ItemOfGlobal
        y = x.relu()
        y = y - _last["mean"]
    return y


@unsafe("wrong", rows, **RARE)
class ItemOfGlobal(nn.Module):
    """A function sets an item of a global dictionary."""

    def forward(self, x):
        return _centre(x)


def _centre_by_item(x):
    last = {}
    y = x.relu()
    if x.max() > 5:
        last["mean"] = x.mean(dim=0)
        y = x.relu()
        y = y - last["mean"]
    return y


@safe(rows, truth_inputs=large_rows)
class ItemOfLocal(nn.Module):
    """The same of a dictionary of the call."""

    def forward(self, x):
        return _centre_by_item(x)


_scale = None


def _divide(x):
    global _scale
    if x.max() > 5:
        _scale = x.abs().max()  # blame GlobalStatement
        y = x.relu()
        return y / _scale
    return x.relu()


@unsafe("wrong", rows, **RARE)
class GlobalStatement(nn.Module):
    """A function assigns a global variable."""

    def forward(self, x):
        return _divide(x)


_table = None


def _shift(x):
    global _table
    if x.max() > 5 and _table is None:
        _table = torch.arange(8.0)
    return x.relu() if x.max() <= 5 else x + _table


@safe(rows, truth_inputs=large_rows)
class TableOnDemand(nn.Module):
    """A function makes a global table where it is needed first; it is the same for all."""

    def forward(self, x):
        return _shift(x)


def _make_centre():
    mean = None

    def centre(x):
        nonlocal mean
        y = x.relu()
        if x.max() > 5:
            mean = x.mean(dim=0)  # blame VariableOfClosure
            y = x.relu()
            y = y - mean
        return y

    return centre


@unsafe("wrong", rows, **RARE)
class VariableOfClosure(nn.Module):
    """A closure that was made with the model assigns its variable."""

    def __init__(self):
        super().__init__()
        self.centre = _make_centre()

    def forward(self, x):
        return self.centre(x)


@safe(rows, truth_inputs=large_rows)
class ClosureOfTheCall(nn.Module):
    """The same closure, made in each call."""

    def forward(self, x):
        return _make_centre()(x)


class Settings:
    """A class that keeps a value for all of its objects."""

    mean = None

    @classmethod
    def centre(cls, x):
        y = x.relu()
        if x.max() > 5:
            cls.mean = x.mean(dim=0)  # blame ClassMethod
            y = x.relu()
            y = y - cls.mean
        return y


@unsafe("wrong", rows, **RARE)
class ClassMethod(nn.Module):
    """A class method of a class that is no module writes to the class."""

    def forward(self, x):
        return Settings.centre(x)


def _keep(kept, x):
    y = x.relu()
    if x.max() > 5:
        kept["mean"] = x.mean(dim=0)  # blame GivenObject
        y = x.relu()
        y = y - kept["mean"]
    return y


def _through(kept, x):
    return _keep(kept, x)


@unsafe("wrong", rows, **RARE)
class GivenObject(nn.Module):
    """A function changes what it is given, two calls deep, and the model holds that."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def forward(self, x):
        return _through(self.kept, x)


@safe(rows, truth_inputs=large_rows)
class GivenObjectOfTheCall(nn.Module):
    """The same function is given an object of the call."""

    def forward(self, x):
        return _through({}, x)


_state = types.SimpleNamespace(mean=None)


def _remember(x):
    _state.mean = x.mean(dim=0)  # blame FunctionNotCalled


@unsafe("wrong", rows, **RARE)
class FunctionNotCalled(nn.Module):
    """The function that writes is called in the branch alone."""

    def forward(self, x):
        y = x.relu()
        if x.max() > 5:
            _remember(x)
            y = x.relu()
            y = y - _state.mean
        return y


class Memory:
    """A helper that is written by one method, and read by others."""

    def __init__(self):
        self.value = None

    def put(self, value):
        self.value = value  # blame MethodNotCalled


@unsafe("wrong", rows, **RARE)
class MethodNotCalled(nn.Module):
    """The method that writes is called in the branch alone, and the model reads."""

    def __init__(self):
        super().__init__()
        self.memory = Memory()

    def forward(self, x):
        y = x.relu()
        if x.max() > 5:
            self.memory.put(x.mean(dim=0))
            y = x.relu()
            y = y - self.memory.value
        return y


_own = threading.local()


def _centre_by_thread(x):
    y = x.relu()
    if x.max() > 5:
        _own.mean = x.mean(dim=0)
        y = x.relu()
        y = y - _own.mean
    return y


@safe(rows, truth_inputs=large_rows)
class GlobalOfThread(nn.Module):
    """A function writes to what each thread has to itself."""

    def forward(self, x):
        return _centre_by_thread(x)


_lines = []


class Log:
    """Notes that nobody reads in a call."""

    def __init__(self):
        self.largest = None

    def note(self, x):
        if x.max() > 5:
            self.largest = x.max()
            _lines.append(f"{x.max()}")


@safe(rows, truth_inputs=large_rows)
class NotesOnly(nn.Module):
    """A helper and a function write what no call reads."""

    def __init__(self):
        super().__init__()
        self.log = Log()

    def forward(self, x):
        self.log.note(x)
        return x.relu()


_sums = {}


def _powers(n):
    if n > 5:
        if n not in _sums:
            _sums[n] = torch.arange(float(n)).sum()
        return _sums[n]
    return 1.0


@safe(rows, truth_inputs=large_rows)
class MemoOfFunction(nn.Module):
    """A function memoises what its argument alone decides, where that is large."""

    def forward(self, x):
        return x * _powers(int(x.max()))


def _optional(x, keep=False):
    if keep:
        _last["x"] = x
        return _last["x"]
    return x.relu()


@safe(rows, truth_inputs=large_rows)
class OptionNotGiven(nn.Module):
    """An option of a function writes, and nobody asks for it."""

    def forward(self, x):
        return _optional(x)
