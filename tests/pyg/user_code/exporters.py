"""What leaves Python: traces, exported programs, ONNX files, compiled models."""

import gc
import io
from concurrent.futures import ThreadPoolExecutor

import torch
from cases import VERSION, case, graph

from user_code.containers import CONVS, EACH, Net, filled


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


@case(since=(2, 0), each=("TransformerConv", "own forward()"))
def compiled_for_all(which):
    """How many graphs layers of one class need that threads call, each one twice."""
    graphs = []

    def keep(module, _):
        graphs.append(module)
        return module.forward

    for _ in range(4):
        module = torch.compile(filled(CONVS[which]()), backend=keep, fullgraph=True)
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                for _ in range(2):
                    pool.submit(module, *inputs()).result()
    return len(graphs)


@case(since=(2, 0), each=("TransformerConv", "own forward()"))
def compiled_while_another_layer_dies(which):
    """A layer that has left its weights behind is collected after the graph was made."""
    other = filled(CONVS[which]())
    other(*inputs())
    other.__dict__["itself"] = other
    gc.disable()
    del other

    def collect(module, _):
        gc.collect()
        return module.forward

    module = torch.compile(filled(CONVS[which]()), backend=collect, fullgraph=True)
    return module(*inputs())


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
