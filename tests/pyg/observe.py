"""Runs the patched layers of the PyG on the path, and prints what they do as one line of JSON.

    python observe.py all GROUPS              GROUPS: {"patched": [layer, ...], "convs": [...], ...}
    python observe.py dump DIR LAYER ...
    python observe.py load DIR LAYER ...

Imports torch and PyG alone, so that it runs on every release. A tensor is shown
as a digest of its bytes. What is asked for in one call is done in one process.

A new observation is a function below with `@of(group)`, and a test in test_equivalence.py.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import itertools
import json
import pickle
import random
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.fx
import torch_geometric
from digests import VERSION, SparseTensor, digest, observed
from patched_layers import LAYERS
from scripted import module_from, script
from subjects import (
    NUM_NODES,
    class_of,
    factors_of,
    get_conv,
    get_graph,
    get_inputs,
    has_weights,
    weights,
)

# The observations, each with the group of layers that it is made of.
OBSERVATIONS: list[tuple[str, Callable[[str], Any]]] = []


def of(group: str) -> Callable[[Callable[[str], Any]], Callable[[str], Any]]:
    """Makes an observation of a function: it is called with each layer of a group."""

    def add(function: Callable[[str], Any]) -> Callable[[str], Any]:
        OBSERVATIONS.append((group, function))
        return function

    return add


def run_setting(layer: str, setting: dict[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    dtype = getattr(torch, setting["dtype"])
    spec = LAYERS[layer]
    arguments = {key: setting[key] for key in spec.factors if key in setting}
    conv = class_of(layer)(**{**spec.arguments, **arguments})
    conv = conv.to(dtype).train(setting["training"])
    for parameter in conv.parameters():  # `RGATConv` leaves some of them uninitialised
        torch.nn.init.normal_(parameter)
    inputs = get_graph(layer, setting, dtype)
    kwargs = {}
    if "return_attention_weights" in setting:
        kwargs["return_attention_weights"] = setting["return_attention_weights"]
    with torch.no_grad():
        inferred = conv(**inputs, **kwargs)
    result = conv(**inputs, **kwargs)
    out = result[0] if isinstance(result, tuple) else result
    flat = [
        item for value in inputs.values() for item in (value if type(value) is tuple else [value])
    ]
    leaves = [leaf for leaf in flat if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    # torch-scatter 2.1.2 gives uninitialised memory for the gradients of a
    # SparseTensor without any entry, on pristine releases too.
    if setting.get("edges") == "SparseTensor" and setting["graph"] == "no edges":
        grads: Any = "not compared"
    else:
        leaves += list(conv.parameters())
        grads = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)
    return inferred, result, grads, torch.get_rng_state()


@of("patched")
def settings(layer: str) -> Any:
    """Outputs, attention weights, gradients and random state over random settings."""
    chooser = random.Random(12345)
    factors = factors_of(layer)
    results = []
    for seed in range(LAYERS[layer].num_settings):
        setting = {key: chooser.choice(values) for key, values in factors.items()}
        call = lambda: run_setting(layer, setting, seed)  # noqa: B023, E731
        results.append({"setting": setting, **observed(call)})
    return results


# Compilers ####################################################################


@of("convs")
def jit(layer: str) -> Any:
    """TorchScript, with and without attention weights, on each form of edges."""
    inputs = get_inputs(layer)
    forms: dict[str, Any] = {"Tensor": inputs}
    if SparseTensor is not None and "edge_index" in inputs:
        size = (NUM_NODES, NUM_NODES)
        adj = SparseTensor.from_edge_index(inputs["edge_index"], sparse_sizes=size).t()
        forms["SparseTensor"] = {**inputs, "edge_index": adj}
    results = {}
    flags = [False, True] if has_weights(layer) else [False]
    for form, with_weights in itertools.product(forms, flags):

        def call(form: str = form, with_weights: bool = with_weights) -> Any:
            module = scripted(get_conv(layer), forms[form], form, with_weights)
            with torch.no_grad():
                inferred = [module(**forms[form]) for _ in range(2)]
            return [*inferred, module(**forms[form])]

        results[f"{form}, {with_weights}"] = observed(call)
    return results


@of("convs")
def scripted_state(layer: str) -> Any:
    """Whether a call in TorchScript leaves an attribute as it is that threads would share."""

    def call() -> bool:
        inputs = get_inputs(layer)
        module = scripted(get_conv(layer), inputs, "Tensor", has_weights(layer))
        conv = module.func.conv if VERSION >= (2, 5) else module.func
        assert conv._alpha is None  # No other layer has it.
        conv._alpha = marker = torch.full((3,), 7.0)
        module(**inputs)
        return conv._alpha is not None and torch.equal(conv._alpha, marker)

    return observed(call)


def scripted(
    conv: Any, inputs: dict[str, Any], form: str = "Tensor", with_weights: bool = False
) -> Any:
    """Scripts a layer as the release's users do."""
    module, more = script(conv, list(inputs), with_weights, form)
    return functools.partial(module, **more)


@of("compiled")
def compiled(layer: str) -> Any:
    """The graph that `torch.compile` passes to any backend, node for node."""
    return compiled_by(layer, None)


@of("inductor")
def inductor(layer: str) -> Any:
    """What the default backend of `torch.compile` computes."""
    return compiled_by(layer, "inductor")


def compiled_by(layer: str, backend: str | None) -> Any:
    """`torch.compile` without graph breaks. A torch before 2.0 has none.

    Where no backend is named, the graphs that any backend is given are returned as well.
    """
    inputs = get_inputs(layer)

    def call(kwargs: dict[str, Any]) -> Any:
        import torch._dynamo

        torch._dynamo.reset()
        graphs: list[list[str]] = []

        def show(graph: Any, example: Any) -> Any:
            graphs.append(describe(graph.graph))
            return graph.forward

        conv = torch.compile(
            get_conv(layer),
            backend=backend or show,
            fullgraph=True,
        )
        return conv(**inputs, **kwargs), graphs

    with torch.no_grad():
        results = {"plain": observed(lambda: call({}))}
    if has_weights(layer):
        results["with weights"] = observed(lambda: call(weights(layer)))
    return results


def describe(graph: Any) -> list[str]:
    """What a graph computes: each node by its operation and those that its arguments come from.

    Sorted, since releases up to 2.4.0 gather the arguments of `message()` in the order
    of a set, which changes from run to run.
    """
    results: dict[Any, str] = {}
    for node in graph.nodes:
        shown = torch.fx.node.map_arg((node.args, node.kwargs), lambda node: results[node])
        # A parameter's name says whether the layer that has it has been written to.
        target = re.sub("_dict_(modules|parameters)_", r"_\1_", str(node.target))
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{node.op} {target} {shown}")
        results[node] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return sorted(results.values())


# Hooks, explainers, subclasses ################################################


@of("convs")
def hooks(layer: str) -> Any:
    """What hooks on `propagate()` and `message()` are given, and what they change."""
    conv = get_conv(layer)
    names: list[Any] = []
    kinds = [
        f"register_{what}_forward_{when}"
        for what in ("propagate", "message", "aggregate")
        for when in ("pre_hook", "hook")
    ]

    def look(kind: str) -> Callable[..., Any]:
        def hook(module: Any, inputs: Any, *output: Any) -> Any:
            given = sorted(inputs[-1]) if isinstance(inputs[-1], dict) else []
            # Hooks on `propagate()` are given the indices first.
            names.append([kind, given, digest(inputs[0]) if "propagate" in kind else None])
            return output[0] * 2 if output else None

        return hook

    known = [kind for kind in kinds if hasattr(conv, kind)]
    for kind in known:
        getattr(conv, kind)(look(kind))
    result = observed(lambda: conv(**get_inputs(layer), **weights(layer)))
    return {"known": known, "names": names, **result}


class Net(torch.nn.Module):
    """A layer as a model of nodes and edges, with the rest of its inputs fixed."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.conv = get_conv(layer)
        self.inputs = get_inputs(layer)
        self.index = "edge_index" if "edge_index" in self.inputs else "hyperedge_index"

    def forward(self, x: Any, edge_index: Any) -> Any:
        inputs = {**self.inputs, "x": x, self.index: edge_index}
        return self.conv(**inputs).log_softmax(dim=-1)


@of("convs")
def explain(layer: str) -> Any:
    """The masks of GNNExplainer and, where there is one, of AttentionExplainer."""
    net = Net(layer)
    if "x" not in net.inputs:
        return {"error": "its inputs are not those of a model of nodes and edges"}
    x, edge_index = net.inputs["x"], net.inputs[net.index]

    def gnn_explainer() -> Any:
        torch.manual_seed(12345)
        try:
            from torch_geometric.explain import GNNExplainer
        except ImportError:
            from torch_geometric.nn import GNNExplainer

            return GNNExplainer(net, epochs=5, log=False).explain_node(0, x, edge_index)
        explanation = explainer(GNNExplainer(epochs=5), "attributes")(x, edge_index, index=0)
        return explanation.node_mask, explanation.edge_mask

    def attention_explainer() -> Any:
        from torch_geometric.explain import AttentionExplainer

        return explainer(AttentionExplainer(), None)(x, edge_index, index=0).edge_mask

    def explainer(algorithm: Any, node_mask_type: str | None) -> Any:
        from torch_geometric.explain import Explainer

        return Explainer(
            net,
            algorithm=algorithm,
            explanation_type="model",
            node_mask_type=node_mask_type,
            edge_mask_type="object",
            model_config={
                "mode": "multiclass_classification",
                "task_level": "node",
                "return_type": "log_probs",
            },
        )

    results = {"GNNExplainer": observed(gnn_explainer)}
    if VERSION >= (2, 3):
        results["AttentionExplainer"] = observed(attention_explainer)
    return results


@of("convs")
def decomposed_layers(layer: str) -> Any:
    """Message passing in two parts."""
    return [
        observed(lambda: get_conv(layer, decomposed_layers=2)(**get_inputs(layer), **kwargs))  # noqa: B023
        for kwargs in [{}, weights(layer)]
    ]


def custom_classes(layer: str) -> dict[str, Any]:
    """A user's subclasses, written for the pristine release, in a module of their own."""
    cls = class_of(layer)
    signature = inspect.signature(cls.message)
    # What the patches add for TorchScript has a default.
    given = [p for p in signature.parameters.values() if p.name != "self" and p.default is p.empty]
    names = ", ".join(parameter.name for parameter in given)
    typed = ", ".join(
        f"{p.name}: {inspect.formatannotation(p.annotation).replace('NoneType', 'None')}"
        for p in given
    )
    neighbours = LAYERS[layer].message
    if neighbours not in names:
        neighbours = "x_j"
    module = module_from(
        "import torch, typing\n"
        "from typing import *\n"
        f"from {cls.__module__} import *\n"
        f"from {cls.__module__} import {cls.__name__}\n"
        "# Overrides `message()` with the signature of the pristine release.\n"
        f"class CallsSuper({cls.__name__}):\n"
        f"    def message(self, {typed}) -> torch.Tensor:\n"
        f"        return 2 * super().message({names})\n"
        "# The same, without types.\n"
        f"class Untyped({cls.__name__}):\n"
        f"    def message(self, {names}):\n"
        f"        return 2 * super().message({names})\n"
        "# Leaves attention weights of its own in `self._alpha`, as pristine releases do.\n"
        f"class SetsAlpha({cls.__name__}):\n"
        f"    def message(self, {neighbours}: torch.Tensor, index: torch.Tensor) -> torch.Tensor:\n"
        f"        self._alpha = {neighbours}.mean(dim=-1)\n"
        f"        return {neighbours} * self._alpha.unsqueeze(-1)\n"
        "# Calls `propagate()` itself, as the pristine release does.\n"
        f"class OverridesForward({cls.__name__}):\n"
        "    def forward(self, arguments):\n"
        "        return self.propagate(**arguments)\n"
    )
    names = ("CallsSuper", "Untyped", "SetsAlpha", "OverridesForward")
    return {name: getattr(module, name) for name in names}


def propagate_arguments(layer: str) -> dict[str, Any]:
    """What the pristine `forward()` passes to `propagate()`."""
    conv = get_conv(layer)
    results: dict[str, Any] = {}

    class Called(Exception):
        pass

    def propagate(*args: Any, **kwargs: Any) -> None:
        results.update(dict(zip(["edge_index"], args)), **kwargs)
        raise Called

    conv.propagate = propagate
    with contextlib.suppress(Called):
        conv(**get_inputs(layer))
    return results


@of("convs")
def subclasses(layer: str) -> Any:
    """A user's subclasses, without attention weights and asked for them."""
    classes = custom_classes(layer)
    forward = classes.pop("OverridesForward")
    arguments = propagate_arguments(layer)
    results = {
        name + suffix: observed(lambda: get_conv(layer, cls)(**get_inputs(layer), **asked))  # noqa: B023
        for name, cls in classes.items()
        for suffix, asked in (("", {}), (" with weights", weights(layer)))
    }
    results["OverridesForward"] = observed(lambda: get_conv(layer, forward)(arguments))
    return results


# What stays in the layer ######################################################


@of("convs")
def state(layer: str) -> Any:
    """What a call leaves in the layer, once its messages are computed and at the end."""
    conv = get_conv(layer)
    update = conv.update
    shown: list[dict[str, str]] = []

    def show() -> None:
        shown.append({key: repr(value) for key, value in sorted(vars(conv).items())})

    @functools.wraps(update)
    def look(*args: Any, **kwargs: Any) -> Any:
        show()
        return update(*args, **kwargs)

    conv.update = look
    show()
    conv(**get_inputs(layer), **weights(layer))
    show()
    # Where PyG compiles these from templates, it falls back to slower ones without a word.
    methods = [getattr(conv, name, None) for name in ("propagate", "edge_updater")]
    return {
        "unchanged": len(shown) > 2 and all(each == shown[0] for each in shown),
        "methods": [getattr(method, "__module__", None) for method in methods],
    }


def without_fusion() -> None:
    """Lets the first call of a function in TorchScript round as later ones do."""
    torch._C._jit_set_texpr_fuser_enabled(False)


def dump(layer: str, directory: str) -> Any:
    """Writes a pickle and a state dict."""
    without_fusion()
    conv = get_conv(layer)
    conv(**get_inputs(layer))  # A layer that has been used.
    Path(directory, f"{layer}.pickle").write_bytes(pickle.dumps(conv))
    torch.save(conv.state_dict(), Path(directory, f"{layer}.pt"))
    return digest(conv(**get_inputs(layer), **weights(layer)))


def load(layer: str, directory: str) -> Any:
    """Reads both, and runs what they give; the pickle as TorchScript, too."""
    without_fusion()
    unpickled = pickle.loads(Path(directory, f"{layer}.pickle").read_bytes())
    inputs = get_inputs(layer)
    results = [digest(unpickled(**inputs, **weights(layer)))]
    loaded = get_conv(layer)
    loaded.load_state_dict(torch.load(Path(directory, f"{layer}.pt")))
    results.append(digest(loaded(**inputs, **weights(layer))))
    in_torchscript = observed(lambda: scripted(unpickled, inputs)(**inputs))
    return {"results": results, "script": in_torchscript}


def main(command: str, *arguments: str) -> None:
    """Makes the observations that are asked for."""
    warnings.simplefilter("ignore")
    # With more threads, sums may differ in the last bit from run to run.
    torch.set_num_threads(1)
    made = {}
    if command == "all":
        groups = json.loads(arguments[0])
        if "convs" in groups:
            import conv_suite

            made["conv_suite"] = conv_suite.run()
        for group, function in OBSERVATIONS:
            # A group of the name of an observation is for this one alone.
            layers = (*groups.get(group, ()), *groups.get(function.__name__, ()))
            for layer in dict.fromkeys(layers):
                made[f"{function.__name__}:{layer}"] = function(layer)
    else:
        directory, *layers = arguments
        for layer in layers:
            made[f"{command}:{layer}"] = {"dump": dump, "load": load}[command](layer, directory)
    print(json.dumps({"torch_geometric": torch_geometric.__file__, "observations": made}))


if __name__ == "__main__":
    main(*sys.argv[1:])
