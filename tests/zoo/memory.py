"""Values of a call in memory that no assignment to an attribute shows."""

import collections
import ctypes
import functools
import itertools
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zoo.entries import NOT_SAFE, NOT_SHOWN, safe, unsafe
from zoo.inputs import five_rows, rows


@unsafe("wrong", five_rows)
class InArray(nn.Module):
    """An array of numpy that is filled anew in each call."""

    def __init__(self):
        super().__init__()
        self.scratch = np.zeros((5, 8), dtype=np.float32)

    def forward(self, x):
        self.scratch[:] = x.numpy()  # blame
        total = x.sum()
        return torch.from_numpy(self.scratch.copy()) / total


@unsafe("wrong", five_rows)
class InBytes(nn.Module):
    """A `bytearray` that messages are packed into."""

    def __init__(self):
        super().__init__()
        self.message = bytearray(5)

    def forward(self, x):
        for i, row in enumerate(x):
            self.message[i] = int(row.mean() * 255)  # blame
        scale = x.max()
        return torch.tensor(list(self.message)) * scale


@unsafe("wrong", rows)
class InStructure(nn.Module):
    """A structure of `ctypes`, as bindings to C libraries have it."""

    class Header(ctypes.Structure):
        """The header of a message."""

        _fields_ = (("rows", ctypes.c_int), ("scale", ctypes.c_double))

    def __init__(self):
        super().__init__()
        self.header = self.Header()

    def forward(self, x):
        self.header.scale = float(x.max())  # blame
        y = x.relu()
        return y / self.header.scale


@unsafe("wrong", rows)
class OnParameter(nn.Module):
    """An attribute of a parameter: tensors have a dictionary as well."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8))

    def forward(self, x):
        self.weight.scale = x.abs().max()  # blame
        y = x @ self.weight
        return y / self.weight.scale


@unsafe("wrong", rows)
class SwapsData(nn.Module):
    """The weights of a layer are scaled in place for the call, and back."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        before = self.lin.weight.data
        self.lin.weight.data = before * x.mean()  # blame
        out = self.lin(x)
        self.lin.weight.data = before  # blame
        return out


@unsafe("crash", rows)
class ChangesPrecision(nn.Module):
    """A layer is made double for the sensitive part of a call."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        self.lin.double()  # blame
        fine = self.lin(x.double())
        self.lin.float()  # blame
        return fine.float() + self.lin(x)


@unsafe("wrong", rows)
class SwitchesToTraining(nn.Module):
    """A batch norm normalises by the batch for one step, and by its statistics for the next."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, momentum=0.0)

    def forward(self, x):
        self.norm.train()  # blame
        centred = self.norm(x)
        self.norm.eval()  # blame
        return centred, self.norm(x)


@unsafe("wrong", five_rows)
class ReturnsItsBuffer(nn.Module):
    """The result is the model's own memory, which the next call overwrites."""

    def __init__(self):
        super().__init__()
        self.register_buffer("out", torch.zeros(5, 8), persistent=False)

    def forward(self, x):
        torch.mul(x, 2, out=self.out)  # blame
        return self.out


@functools.lru_cache(maxsize=8)
def _mask(n):
    return torch.zeros(n, n)


@unsafe("wrong", five_rows)
class ChangesWhatIsCached(nn.Module):
    """`lru_cache` hands the same tensor to all callers, and they write into it."""

    def forward(self, x):
        mask = _mask(x.size(0))
        mask.copy_(x @ x.t())  # blame
        y = x.relu()
        return mask @ y


@unsafe("crash", rows)
class LeastRecentlyUsed(nn.Module):
    """A cache with an `OrderedDict` of one entry: what one looks up, another throws out."""

    def __init__(self):
        super().__init__()
        self.tables = collections.OrderedDict()

    def forward(self, x):
        n = x.size(0)
        if n not in self.tables:
            self.tables[n] = torch.arange(n).float()
            if len(self.tables) > 1:
                self.tables.popitem(last=False)  # blame
        self.tables.move_to_end(n)
        y = x.relu().sum(dim=1)
        return self.tables[n] * y


def _smoothing():
    x = yield
    while True:
        total = x.sum(dim=0)
        x = yield total / (total.max() + 1)


@unsafe("crash", rows, says=("generator",))
class HoldsGenerator(nn.Module):
    """A generator runs for one caller at a time: a second one meets a `ValueError`."""

    def __init__(self):
        super().__init__()
        self.smooth = _smoothing()
        next(self.smooth)

    def forward(self, x):
        return self.smooth.send(x)  # blame


@unsafe("leaks", rows, says=("copy",))
class HoldsIterator(nn.Module):
    """An iterator goes on from call to call."""

    def __init__(self):
        super().__init__()
        self.signs = itertools.cycle((1, -1, -1))

    def forward(self, x):
        return x * next(self.signs)  # blame


@unsafe("leaks", rows)
class FirstInputDecides(nn.Module):
    """A cached property is computed from what the first caller has left."""

    @functools.cached_property
    def scale(self):
        return self.first.abs().max()

    def forward(self, x):
        if not hasattr(self, "first"):
            self.first = x  # blame
        return x / self.scale


@unsafe("wrong", rows)
class CountsDepth(nn.Module):
    """A recursion that counts its depth in the model."""

    def __init__(self):
        super().__init__()
        self.depth = 0

    def forward(self, x):
        if x.size(0) == 1:
            return x[0] / self.depth
        half = x.size(0) // 2
        self.depth += 1  # blame
        out = self(x[:half]) + self(x[half:])
        self.depth -= 1  # blame
        return out


@unsafe("wrong", rows)
class ThroughFile(nn.Module):
    """A file with one name for all calls."""

    def __init__(self):
        super().__init__()
        self.file = Path(tempfile.gettempdir()) / "zoo-through-file.pt"

    def forward(self, x):
        torch.save(x, self.file)  # blame
        y = x.relu()
        return y - torch.load(self.file).mean(dim=0)


@safe(rows)
class ThroughOwnFile(nn.Module):
    """A file that the call makes for itself."""

    def forward(self, x):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.pt"
            torch.save(x, file)
            return x.relu() - torch.load(file).mean(dim=0)


class Proxy:
    """Hands all attributes on to a dictionary that it hides."""

    def __init__(self):
        object.__setattr__(self, "_values", {})

    def __getattr__(self, name):
        return self._values[name]

    def __setattr__(self, name, value):
        self._values[name] = value  # blame BehindProxy


@unsafe("wrong", rows)
class BehindProxy(nn.Module):
    """An object whose attributes are in a dictionary of its own."""

    def __init__(self):
        super().__init__()
        self.state = Proxy()

    def forward(self, x):
        self.state.mean = x.mean(dim=0)
        y = x.relu()
        return y - self.state.mean


@unsafe("wrong", rows)
class Interprets(nn.Module):
    """An interpreter of fx keeps the values of the graph that it runs in itself."""

    class Body(nn.Module):
        """What is interpreted."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.second(self.first(x).relu()) + x.sum()

    def __init__(self):
        super().__init__()
        self.interpreter = torch.fx.Interpreter(torch.fx.symbolic_trace(self.Body()))

    def forward(self, x):
        return self.interpreter.run(x)  # blame


@safe(rows, verdicts=(NOT_SHOWN,), checked="its result is not computed when the call returns")
class ReturnsGenerator(nn.Module):
    """A generator as the result: there is nothing to compare before somebody walks over it."""

    def forward(self, x):
        return (row * 2 for row in x)


@unsafe("wrong", rows, verdicts=(NOT_SAFE, NOT_SHOWN), checked="as ReturnsGenerator")
class ReturnsLazily(nn.Module):
    """The generator reads what the next call has overwritten."""

    def forward(self, x):
        self.rows = x  # blame
        return (row * 2 for row in (self.rows[i] for i in range(2)))
