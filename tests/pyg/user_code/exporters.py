"""What leaves Python: traces, exported programs, ONNX files, compiled models."""

import io

import torch
from cases import VERSION, case, graph

from user_code.containers import EACH, Net, filled


def inputs():
    return graph()["x"], graph()["edge_index"]


@case(since=(2, 0), each=EACH)
def traced(which):
    module = torch.jit.trace(filled(Net(which)), inputs(), check_trace=False)
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return module(*inputs()), torch.jit.load(file)(*inputs())


def script(which):
    net = filled(Net(which))
    if VERSION < (2, 5):
        net.conv1, net.conv2 = net.conv1.jittable(), net.conv2.jittable()
    return torch.jit.script(net)


SCRIPTED = ("TransformerConv", "GATv2Conv", "typed, for TorchScript", "own forward()")


@case(since=(2, 0), each=SCRIPTED)
def scripted(which):
    module = script(which)
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return module(*inputs()), torch.jit.load(file)(*inputs())


@case(since=(2, 0), each=("TransformerConv", "untyped"))
def compiled_twice(which):
    """Called with other sizes than it was compiled for, too."""
    module = torch.compile(filled(Net(which)), backend="eager", fullgraph=True)
    x, edge_index = inputs()
    return module(x, edge_index), module(x, edge_index[:, :30])


@case(since=(2, 0), each=EACH)
def exported(which):
    program = torch.export.export(filled(Net(which)), inputs())
    return program.module()(*inputs()), [str(node.target) for node in program.graph.nodes]


@case(since=(2, 0), each=SCRIPTED)
def onnx_of_a_scripted_module(which):
    return onnx(script(which))


@case(since=(2, 0), each=EACH)
def onnx_of_a_traced_module(which):
    return onnx(filled(Net(which)))


def onnx(module):
    """The file, with the weights and the graph in it."""
    file = io.BytesIO()
    torch.onnx.export(module, inputs(), file, opset_version=16, dynamo=False)
    return file.getvalue().hex()
