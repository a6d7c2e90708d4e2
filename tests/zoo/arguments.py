"""What goes in and out: objects of all kinds, and arguments that are changed."""

import collections
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from zoo.entries import safe, unsafe
from zoo.inputs import five_rows, rows


@dataclass
class Molecule:
    """A dataclass with a tensor."""

    x: torch.Tensor
    name: str


def molecule():
    """A molecule."""
    x = rows()
    return Molecule(x, f"molecule of {x.size(0)}")


@safe(molecule)
class OfDataclass(nn.Module):
    """A dataclass in, another one out."""

    @dataclass
    class Output:
        """The result."""

        scores: torch.Tensor
        name: str

    def forward(self, molecule):
        return self.Output(molecule.x.sum(dim=1), molecule.name)


class Packed:
    """A batch with slots and nothing else to tell it by."""

    __slots__ = ("__weakref__", "bounds", "x")

    def __init__(self, x, bounds):
        self.x, self.bounds = x, bounds


def packed():
    """A batch in slots."""
    x = rows()
    return Packed(x, [0, 2, x.size(0)])


@safe(packed)
class OfSlots(nn.Module):
    """Objects with slots in and out: their content is what counts."""

    def forward(self, batch):
        return Packed(batch.x * 2, batch.bounds)


@unsafe("wrong", packed)
class OutInSlots(nn.Module):
    """What is mixed up is in an object with slots, in the result."""

    def forward(self, batch):
        self.scale = batch.x.max()  # blame
        y = batch.x.relu()
        return Packed(y / self.scale, None)


class Scores(NamedTuple):
    """A result with names."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None


@safe(rows)
class NamedOutput(nn.Module):
    """A named tuple out."""

    def forward(self, x):
        return Scores(x.sum(dim=1))


class Order(tuple):
    """A pair such as an irrep of e3nn, whose length is not that of a tuple."""

    def __new__(cls, degree, parity):
        return super().__new__(cls, (degree, parity))

    def __len__(self):
        raise NotImplementedError("an order has no length")

    def __iter__(self):
        raise NotImplementedError("nor can it be walked over")

    def __repr__(self):
        return f"Order({self[0]}, {self[1]})"


@safe(rows)
class HoldsOrders(nn.Module):
    """A model that holds and returns tuples of a kind of their own (e3nn's shape)."""

    def __init__(self):
        super().__init__()
        self.orders = (Order(0, 1), Order(1, -1))

    def forward(self, x):
        return {"x": x.sum(dim=1), "order": self.orders[1]}


@unsafe("wrong", rows)
class WritesBesideOrders(nn.Module):
    """The same, and a value of the call is kept."""

    def __init__(self):
        super().__init__()
        self.orders = (Order(0, 1), Order(1, -1))

    def forward(self, x):
        self.norm = x.norm()  # blame
        y = x.relu()
        return y / self.norm


@safe(five_rows, says=("argument",))
class ChangesArguments(nn.Module):
    """The caller's tensor is changed in place: safe as long as callers do not share it."""

    def forward(self, x):
        x.mul_(2)
        return x.sum(dim=0) - 1


def edges():
    """A dictionary of arguments that a call takes things out of."""
    x = rows()
    return ({"x": x, "index": torch.randint(x.size(0), (6,))},)


@safe(edges, says=("argument",))
class PopsArguments(nn.Module):
    """The caller's dictionary is emptied."""

    def forward(self, batch):
        index = batch.pop("index")
        return batch["x"][index]


@safe(rows)
class YieldsParts(nn.Module):
    """Deques, sets, bytes, nested lists and None out."""

    def forward(self, x):
        return {
            "queue": collections.deque([x.sum(), None]),
            "sizes": {x.size(0), x.size(1)},
            "raw": bytes(x.size(0)),
            "nested": [[x], (x, [x])],
        }


class Document:
    """An object that refers to itself."""

    def __init__(self, x):
        self.x = x
        self.parent = self


@safe(rows)
class OutInCircle(nn.Module):
    """The result has a cycle."""

    def forward(self, x):
        return Document(x.sum(dim=1))


@unsafe("wrong", rows, methods=("encode",))
class ByEncode(nn.Module):
    """Served by `encode()`; `forward()` is another thing."""

    def encode(self, x):
        self.mean = x.mean(dim=0)  # blame
        y = x.relu()
        return y - self.mean

    def forward(self, x):
        return x


@unsafe("wrong", rows, methods=("encode", "forward"))
class WrittenByOneMethod(nn.Module):
    """One method writes what another one reads: safe alone, not beside each other."""

    def __init__(self):
        super().__init__()
        self.scale = 1.0

    def encode(self, x):
        before = self.scale
        self.scale = float(x.max())  # blame
        out = x / self.scale
        self.scale = before  # blame
        return out

    def forward(self, x):
        return x * self.scale
