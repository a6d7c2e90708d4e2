"""Ordinary models of torch alone, which keep nothing of a call."""

import torch
from torch import nn

from zoo.entries import safe, unsafe
from zoo.inputs import five_rows, rows


@safe(rows, quick=True)
def mlp():
    """A perceptron."""
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


@safe(rows, lazy=True)
def lazy_linear():
    """A lazy layer takes its size from the first call."""
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(4))


def sentences():
    """A batch of sequences."""
    return torch.rand(2, int(torch.randint(3, 6, ())), 8)


@safe(sentences)
def transformer():
    """An encoder, with its fast path in evaluation."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


@safe(sentences)
def gru():
    """A recurrent network whose state is local to the call."""
    return nn.GRU(8, 8, num_layers=2, batch_first=True, bidirectional=True)


@safe(sentences)
class Attention(nn.Module):
    """Attention that returns its weights rather than keeping them."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=True)


def images():
    """A batch of small images."""
    return torch.rand(2, 3, 8, 8)


@safe(images)
class ResidualNet(nn.Module):
    """A convolutional network with a skip connection."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.body(x)
        return self.head(x.mean(dim=(2, 3)))


def tokens():
    """A bag of words, with the dictionary's form of arguments."""
    return {"ids": torch.randint(20, (int(torch.randint(3, 9, ())),)), "scale": 2.0}


@safe(tokens)
class BagOfWords(nn.Module):
    """An embedding, and arguments by name."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, ids, scale=1.0):
        return self.embedding(ids).mean(dim=0) * scale


@safe(rows, grad=True)
class ForceField(nn.Module):
    """Forces are the gradient of the energy: the call records gradients and drops them."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, pos):
        pos = pos.detach().requires_grad_()
        energy = self.energy(pos).sum()
        (gradient,) = torch.autograd.grad(energy, pos)
        return energy, -gradient


@unsafe("wrong", rows)
class ForcesByBackward(nn.Module):
    """`backward()` adds to the `.grad` of the parameters, which all calls share."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, pos):
        with torch.enable_grad():
            self.shift.grad = None  # blame
            ((pos + self.shift) ** 3).sum().backward()  # blame
            scale = pos.abs().max()
            return self.shift.grad / scale


@safe(five_rows)
class ThroughNumpy(nn.Module):
    """A part of the way goes through numpy."""

    def forward(self, x):
        order = x.sum(dim=1).numpy().argsort()
        return x[torch.from_numpy(order.copy())]


@safe(rows)
class Sparse(nn.Module):
    """Sparse and complex tensors in the result."""

    def forward(self, x):
        return (x * (x > 0.5)).to_sparse(), torch.complex(x, -x)


@safe(rows)
class InferenceMode(nn.Module):
    """A call in inference mode."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    @torch.inference_mode()
    def forward(self, x):
        return self.lin(x)


@safe(rows)
class HasForwardOfMany(nn.Module):
    """Many small modules, as in a deep network."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(75)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


@safe(rows)
class TiedWeights(nn.Module):
    """One layer under two names, and used twice in a call."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.decoder = self.encoder

    def forward(self, x):
        return self.decoder(self.encoder(x).tanh())
