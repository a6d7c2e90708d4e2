"""TorchScript, fx, torch.compile, quantization: code that no tracer of Python sees."""

import torch
from torch import nn
from torch_geometric import nn as gnn

from zoo.entries import NOT_SAFE, NOT_SHOWN, SAFE, safe, unsafe
from zoo.inputs import five_rows, graph, rows

NATIVE = "no line of Python runs between the steps of a call"


class Perceptron(nn.Module):
    """Keeps nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.second(self.first(x).relu())


@safe(rows, verdicts=(SAFE, NOT_SHOWN), checked=NATIVE, quick=True)
def scripted():
    """A scripted perceptron: its code writes no attribute."""
    return torch.jit.script(Perceptron())


@safe(rows, verdicts=(SAFE, NOT_SHOWN), checked=NATIVE)
def frozen():
    """Frozen, its weights are constants."""
    return torch.jit.freeze(torch.jit.script(Perceptron().eval()))


@safe(rows, verdicts=(SAFE, NOT_SHOWN), checked=NATIVE)
def traced():
    """Traced."""
    return torch.jit.trace(Perceptron().eval(), torch.rand(5, 8))


class InModel(nn.Module):
    """A layer in a model, as TorchScript takes it."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.conv(x, edge_index)


@safe(graph, verdicts=(SAFE, NOT_SHOWN), checked=NATIVE)
def scripted_gcn():
    """A scripted GCNConv keeps nothing."""
    return torch.jit.script(InModel(gnn.GCNConv(8, 4)))


@unsafe(
    "killed",
    graph,
    verdicts=(NOT_SAFE, NOT_SHOWN),
    says=("TransformerConv", "script"),
    checked=NATIVE,
    quick=True,
)
def scripted_transformer_conv():
    """It writes `self._alpha` without the GIL: memory is freed twice, and the process dies."""
    return torch.jit.script(InModel(gnn.TransformerConv(8, 4)))


@safe(graph, verdicts=(SAFE, NOT_SHOWN), patched=True, checked=NATIVE)
def scripted_transformer_conv_patched():
    """Patched and scripted again, it writes nothing."""
    return torch.jit.script(InModel(gnn.TransformerConv(8, 4)))


@safe(graph, verdicts=(SAFE, NOT_SHOWN), checked=NATIVE)
def scripted_sage():
    """Nor does a SAGEConv."""
    return torch.jit.script(InModel(gnn.SAGEConv(8, 4)))


class Holds(nn.Module):
    """A scripted module that writes a tensor of the call to itself."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(8)

    def forward(self, x):
        self.mean = x.mean(dim=0)
        y = x.relu()
        for _ in range(20):
            y = (y * 1.01).relu()
        return y - self.mean


@unsafe("killed", rows, verdicts=(NOT_SAFE, NOT_SHOWN), says=("mean",), checked=NATIVE)
def scripted_holder():
    """A write to `self` in one's own scripted module."""
    return torch.jit.script(Holds())


class Outer(nn.Module):
    """A module of Python around a scripted one."""

    def __init__(self):
        super().__init__()
        self.inner = torch.jit.script(Holds())

    def forward(self, x):
        return self.inner(x * 2)


@unsafe("killed", rows, verdicts=(NOT_SAFE, NOT_SHOWN), says=("mean",), checked=NATIVE)
def scripted_inside():
    """What is scripted is one level down."""
    return Outer()


@safe(rows)
def symbolic():
    """A graph module of fx."""
    return torch.fx.symbolic_trace(Perceptron())


class Plain(nn.Module):
    """A mean that is kept, in Python."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 8)

    def forward(self, x):
        self.mean = x.mean(dim=0)
        y = self.lin(x)
        return y - self.mean


class Leaf(torch.fx.Tracer):
    """Leaves the module that keeps something whole."""

    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, Plain) or super().is_leaf_module(m, module_qualified_name)


@unsafe("wrong", rows, says=("mean",))
def symbolic_with_leaf():
    """A graph module of fx that calls a module which keeps a value."""
    model = nn.Sequential(Plain(), nn.ReLU())
    return torch.fx.GraphModule(model, Leaf().trace(model))


@safe(five_rows, checked=NATIVE)
def compiled():
    """Compiled, with the backend that needs no compiler."""
    return torch.compile(Perceptron(), backend="eager")


@safe(five_rows, verdicts=(SAFE, NOT_SHOWN), checked=NATIVE)
def compiled_with_state():
    """A graph computes with values of its own, and writes the attribute at its end."""
    return torch.compile(Plain(), backend="eager")


class Breaks(nn.Module):
    """A mean that is kept, and a number in Python between the write and the read."""

    def forward(self, x):
        self.mean = x.mean(dim=0)  # blame compiled_in_two
        largest = x.max().item()
        return (x - self.mean) / largest


@unsafe("wrong", five_rows)
def compiled_in_two():
    """Where a graph breaks, the second one reads what the first one has left."""
    return torch.compile(Breaks(), backend="eager")


@safe(rows)
def quantized():
    """Dynamic quantization: weights in eight bits, in place of the linear layers."""
    return torch.ao.quantization.quantize_dynamic(Perceptron(), {nn.Linear}, torch.qint8)


@safe(five_rows)
def exported():
    """An exported program, as a module."""
    program = torch.export.export(Perceptron().eval(), (torch.rand(5, 8),))
    return program.module()
