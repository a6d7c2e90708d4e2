"""Hooks on the steps of message passing, as users register them."""

import functools

import torch
import torch_geometric.nn as nn
from cases import ARGUMENTS, VERSION, case, graph, infer, inputs_of
from torch_geometric.nn import MessagePassing

# Those that some release gets a patch for, and that pass messages.
CLASSES = [getattr(nn, name, None) for name in ARGUMENTS]
LAYERS = tuple(cls for cls in CLASSES if cls is not None and issubclass(cls, MessagePassing))


def build(cls):
    torch.manual_seed(12345)
    conv = cls(**ARGUMENTS[cls.__name__])
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter)
    return conv.eval()


def register(conv, step, when, hook):
    """Registers one of the four hooks that a step has."""
    name = f"register_{step}_forward_{when}"
    return getattr(conv, name)(hook) if hasattr(conv, name) else None


STEPS = ["propagate", "message", "aggregate", "message_and_aggregate", "edge_update"]


@case(since=(2, 0), each=LAYERS)
def doubles_each_output(cls):
    conv = build(cls)
    for step in STEPS:
        register(conv, step, "hook", lambda module, inputs, out: out * 2)
    return infer(conv)


@case(since=(2, 0), each=LAYERS)
def hands_inputs_back(cls):
    """Returns from each hook what it was given."""
    conv = build(cls)
    for step in STEPS:
        register(conv, step, "pre_hook", lambda module, inputs: inputs)
    return infer(conv)


@case(since=(2, 0), each=LAYERS)
def changes_the_messages_inputs(cls):
    """Scales what ends with `_j`, in a copy of the arguments."""
    conv = build(cls)

    def hook(module, inputs):
        scaled = {k: v / 2 if k.endswith("_j") else v for k, v in inputs[-1].items()}
        return (*inputs[:-1], scaled)

    register(conv, "message", "pre_hook", hook)
    return infer(conv)


@case(since=(2, 0), each=LAYERS)
def changes_propagates_inputs(cls):
    """Scales the features, in the dictionary that it is given."""
    conv = build(cls)

    def hook(module, inputs):
        edge_index, size, kwargs = inputs
        for name in ("x", "query"):
            if name in kwargs:
                value = kwargs[name]
                kwargs[name] = tuple(-v for v in value) if isinstance(value, tuple) else -value
        return edge_index, size, kwargs

    register(conv, "propagate", "pre_hook", hook)
    return infer(conv)


@case(since=(2, 0), each=LAYERS)
def drops_edges(cls):
    """Passes messages over every second edge."""
    conv = build(cls)

    def hook(module, inputs):
        kept = inputs[0][:, ::2]
        given = dict(inputs[2])
        for name in given.keys() & {"alpha", "edge_attr", "edge_type", "edge_weight"}:
            if torch.is_tensor(given[name]) and len(given[name]) == inputs[0].size(1):
                given[name] = given[name][::2]
        return kept, inputs[1], given

    register(conv, "propagate", "pre_hook", hook)
    return infer(conv)


@case(since=(2, 0), each=LAYERS)
def keeps_what_it_saw(cls):
    """Leaves the messages, and who sent them, in the layer that the hook is given."""
    conv = build(cls)

    def hook(module, inputs, out):
        module.last_message = out
        module.count = getattr(module, "count", 0) + 1

    register(conv, "message", "hook", hook)
    return infer(conv), conv.last_message, conv.count


@case(since=(2, 0), each=LAYERS)
def is_told_the_layer(cls):
    """Compares the layer that it is given with the one that it was registered on."""
    conv = build(cls)
    told = []
    for step in STEPS:
        register(conv, step, "hook", lambda module, inputs, out: told.append(module is conv))
    infer(conv)
    return told


@case(since=(2, 0), each=LAYERS)
def shapes_of_all_tensors(cls):
    """Lists the tensors among the arguments of each step, as a profiler would."""
    conv = build(cls)
    shapes = []

    def hook(step, module, inputs, *out):
        for name, value in sorted(inputs[-1].items()):
            if torch.is_tensor(value):
                shapes.append([step, name, list(value.shape)])

    for step in STEPS:
        register(conv, step, "pre_hook", functools.partial(hook, step))
        register(conv, step, "hook", functools.partial(hook, step))
    return infer(conv), shapes


@case(since=(2, 0), each=LAYERS)
def clones_each_argument(cls):
    """Takes every argument of `message()` that is there for a tensor."""
    conv = build(cls)

    def hook(module, inputs):
        return (
            {k: v if v is None or isinstance(v, int) else v.clone() for k, v in inputs[0].items()},
        )

    register(conv, "message", "pre_hook", hook)
    return infer(conv)


@case(since=(2, 0), each=LAYERS)
def removed_again(cls):
    conv = build(cls)
    handles = [
        register(conv, step, when, lambda *args: None)
        for step in STEPS
        for when in ("pre_hook", "hook")
    ]
    for handle in handles:
        if handle is not None:
            handle.remove()
    return infer(conv)


@case(since=(2, 0), each=LAYERS)
def gradients_of_messages(cls):
    """Keeps the gradients of the messages."""
    conv = build(cls)
    kept = []

    def hook(module, inputs, out):
        out.retain_grad()
        kept.append(out)

    register(conv, "message", "hook", hook)
    conv(**inputs_of(conv)).square().sum().backward()
    return [message.grad for message in kept]


@case(each=LAYERS)
def hooks_of_modules(cls):
    """The hooks that every module of torch has."""
    conv = build(cls)
    kept = []
    conv.register_forward_pre_hook(lambda module, args: kept.append(len(args)))
    conv.register_forward_hook(lambda module, args, out: out * 2)
    conv.register_full_backward_hook(lambda module, grads, outs: kept.append(list(outs)))
    out = conv(*inputs_of(conv).values())
    out.sum().backward()
    return out, kept, [parameter.grad for parameter in conv.parameters()]


@case(each=LAYERS)
def replaced_message(cls):
    """Gives one layer another `message()`, around its own."""
    conv = build(cls)
    message = conv.message

    @functools.wraps(message)
    def doubled(*args, **kwargs):
        return 2 * message(*args, **kwargs)

    conv.message = doubled
    return infer(conv)


@case(each=LAYERS)
def replaced_message_of_the_class(cls):
    """Gives all layers of the class another one."""
    conv = build(cls)
    message = cls.message

    @functools.wraps(message)
    def doubled(self, *args, **kwargs):
        return 2 * message(self, *args, **kwargs)

    cls.message = doubled
    return infer(conv), infer(build(cls))


@case(each=LAYERS)
def called_by_hand(cls):
    """Calls `message()` with what PyG would hand it."""
    conv = build(cls)
    kept = []
    propagate = conv.propagate

    def keep(edge_index, size=None, **kwargs):
        kept.append(sorted(name for name in kwargs if kwargs[name] is not None))
        return propagate(edge_index, size=size, **kwargs)

    conv.propagate = keep
    return infer(conv)


@case(since=(2, 0))
def message_by_hand():
    """Calls the methods of a layer alone, as unit tests do."""
    conv = build(nn.TransformerConv)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, 1, 5)
    index = torch.tensor([0, 0, 1, 2, 2, 2])
    out = conv.message(query, key, value, None, index, None, 3)
    return out, conv.aggregate(out, index, None, 3), conv.update(out)


@case()
def message_by_hand_of_others():
    conv = build(nn.FAConv)
    x, alpha = graph()["x"], torch.linspace(-1, 1, 9).view(-1, 1)
    out = conv.message(x, alpha, alpha.flip(0), torch.ones(9))
    if VERSION < (2, 5):
        gat = build(nn.GATv2Conv)
        x = x[:, :5].view(-1, 1, 5)
        out = out, gat.message(x, x, None, torch.arange(9), None, 9)
    return out
