"""Runs the patched layers of the PyG on the path, and prints what they do as one line of JSON.

    python observe.py REQUEST[:LAYER[:ARGUMENT]] ...    REQUEST is a function below

Imports torch and PyG alone, so that it runs on every release. A tensor is shown
as a digest of its bytes. What is asked for in one call is done in one process.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import json
import pickle
import random
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.fx
import torch_geometric
import torch_geometric.nn as nn
from digests import SPARSE_FORMS, VERSION, SparseTensor, digest, observed
from patched_layers import CALL_FACTORS, LAYERS

NUM_NODES = 9


class AutoEncoder(torch.nn.Module):
    """`VGAE`, which is run as `encode()`; with the loss that reads what that leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.VGAE(Encoder())

    def forward(self, x: Any, edge_index: Any) -> Any:
        z = self.model.encode(x, edge_index)
        return z, self.model.kl_loss()


class Encoder(torch.nn.Module):
    """Latent variables of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.GraphConv(8, 5)
        self.logstd = nn.GraphConv(8, 5)

    def forward(self, x: Any, edge_index: Any) -> Any:
        return self.mu(x, edge_index), self.logstd(x, edge_index)


class HeteroBases(torch.nn.Module):
    """`HeteroBasisConv`, as `to_hetero_with_bases()` uses it."""

    def __init__(self, num_bases: int, nested: bool = False) -> None:
        super().__init__()
        from torch_geometric.nn.to_hetero_with_bases_transformer import HeteroBasisConv

        conv = Nested() if nested else nn.GraphConv(8, 5)
        self.conv = HeteroBasisConv(conv, num_relations=3, num_bases=num_bases)

    def forward(self, x: Any, edge_index: Any, edge_type: Any) -> Any:
        return self.conv(edge_type, x=x, edge_index=edge_index)


class Nested(nn.MessagePassing):  # type: ignore[misc]
    """A layer that runs a `HeteroBasisConv` of its own, with other edge types, in each call."""

    def __init__(self) -> None:
        super().__init__(aggr="add")
        self.inner = HeteroBases(num_bases=1)

    def forward(self, x: Any, edge_index: Any) -> Any:
        x = self.inner(x, edge_index, edge_index.sum(dim=0) % 3)
        return self.propagate(edge_index, x=x, size=None)

    def message(self, x_j: torch.Tensor) -> torch.Tensor:
        return x_j


# TorchScript reads the same functions again for each layer, from the start of their files.
inspect.getsourcelines = functools.cache(inspect.getsourcelines)

# What is no layer that can be called as it is.
MODELS = {"autoencoder": AutoEncoder, "to_hetero_with_bases": HeteroBases}


def class_of(layer: str) -> Any:
    if layer in MODELS:
        return MODELS[layer]
    module = LAYERS[layer].module.removesuffix(".py").replace("/", ".")
    return getattr(importlib.import_module(module), LAYERS[layer].cls)


def parameters(layer: str, method: str) -> list[str]:
    """The arguments of a method of a layer."""
    return list(inspect.signature(getattr(class_of(layer), method)).parameters)[1:]


def has_weights(layer: str) -> bool:
    """Whether a call can ask for the attention weights."""
    return "return_attention_weights" in parameters(layer, "forward")


def module_from(source: str) -> Any:
    """Imports source code from a file, where TorchScript and PyG can read it again."""
    directory = Path(tempfile.mkdtemp(prefix="observe-"))
    name = f"generated_{directory.name[8:]}"
    file = directory / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def get_conv(layer: str, cls: Any = None, **kwargs: Any) -> Any:
    spec = LAYERS[layer]
    torch.manual_seed(12345)
    return (cls or class_of(layer))(**{**spec.arguments, **spec.keywords, **kwargs}).eval()


def get_inputs(layer: str, num_edges: int = 40) -> dict[str, Any]:
    """What `forward()` cannot do without."""
    torch.manual_seed(54321)
    given = {
        "x": torch.randn(NUM_NODES, 8),
        "x_0": torch.randn(NUM_NODES, 8),
        "edge_index": torch.randint(NUM_NODES, (2, num_edges)),
        "edge_type": torch.randint(3, (num_edges,)),
        "hyperedge_index": torch.randint(NUM_NODES, (2, num_edges)),
        "edge_feats": torch.randn(NUM_NODES, 16),
        "node_feats": torch.randn(NUM_NODES, 8),
        "ppr_rpes": torch.randn(num_edges, 8),
    }
    return {name: given[name] for name in parameters(layer, "forward") if name in given}


def weights(layer: str) -> dict[str, Any]:
    return {"return_attention_weights": True} if has_weights(layer) else {}


# Random settings ##############################################################


def factors_of(layer: str) -> dict[str, list[Any]]:
    """What is varied: of what the layer knows, and of the call."""
    built = inspect.signature(class_of(layer).__init__).parameters
    called = parameters(layer, "forward")
    is_plain = layer in ("lpformer", "hypergraph_conv", *MODELS)
    found = {
        key: values
        for key, values in LAYERS[layer].factors.items()
        if key in built or key == "flow"
    }
    for key, values in CALL_FACTORS.items():
        if key == "return_attention_weights" and key not in called:
            continue
        if key == "bipartite" and "Tuple" not in str(built.get("in_channels")):
            continue
        found[key] = values
    if layer == "hypergraph_conv":  # which cannot do without
        found["graph"] = [graph for graph in found["graph"] if graph != "no edges"]
    if not is_plain:
        # `GATv2Conv` alone takes CSC matrices, up to 2.4.0.
        takes_csc = layer == "gatv2_conv" and VERSION < (2, 5)
        forms = [form for form in SPARSE_FORMS if form != "csc" or takes_csc]
        found["edges"] = ["tensor", *forms]
    return found


def get_graph(layer: str, setting: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    called = parameters(layer, "forward")
    # Releases disagree on which side of a bipartite graph is which once the flow
    # is reversed, and some then read beyond the end of the smaller side.
    bipartite = setting.get("bipartite", False)
    uneven = bipartite and setting.get("flow", "source_to_target") == "source_to_target"
    num_src, num_dst = 9, 6 if uneven else 9
    num_edges = {"no edges": 0, "multigraph": 80}.get(setting["graph"], 24)
    # Isolated nodes: all edges are among the first three.
    high = (3, 3) if setting["graph"] == "isolated nodes" else (num_src, num_dst)
    edge_index = torch.stack([torch.randint(n, (num_edges,)) for n in high])

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, requires_grad=True)

    x, x_dst = rand(num_src, 8), rand(num_dst, 8)
    edge_attr = None
    if setting.get("edge_dim") is not None:
        edge_attr = rand(num_edges, setting["edge_dim"])
    edge_type = torch.randint(3, (num_edges,))
    size = (num_src, num_dst)
    form = setting.get("edges", "tensor")
    edges: Any = edge_index
    if form == "SparseTensor":
        edges = SparseTensor.from_edge_index(edge_index, edge_attr, sparse_sizes=size).t()
    elif form != "tensor":
        values = torch.ones(num_edges, dtype=dtype)
        coo = torch.sparse_coo_tensor(edge_index.flip(0), values, size[::-1])
        edges = coo.to_sparse_csr() if form == "csr" else coo.to_sparse_csc()
    if form != "tensor":
        edge_attr = None
    given = {
        "x": (x, x_dst) if bipartite else x,
        "x_0": rand(num_src, 8),
        "edge_index": edges,
        "hyperedge_index": edge_index,
        "edge_feats": rand(NUM_NODES, 16),
        "node_feats": x,
        "ppr_rpes": rand(num_edges, 8),
    }
    if edge_attr is not None:
        given["edge_attr"] = edge_attr
    given["edge_type"] = edge_type
    if form == "tensor" and not setting.get("normalize", True):
        given["edge_weight"] = torch.rand(num_edges, dtype=dtype)
    if setting.get("use_attention"):
        num_hyperedges = int(edge_index[1].max()) + 1 if num_edges else 0
        given["hyperedge_attr"] = rand(num_hyperedges, 8)
    return {name: given[name] for name in called if name in given}


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


def settings(layer: str) -> Any:
    """Outputs, attention weights, gradients and random state over random settings."""
    chooser = random.Random(12345)
    factors = factors_of(layer)
    seen = []
    for seed in range(LAYERS[layer].num_settings):
        setting = {key: chooser.choice(values) for key, values in factors.items()}
        call = lambda: run_setting(layer, setting, seed)  # noqa: B023, E731
        seen.append({"setting": setting, **observed(call)})
    return seen


# Compilers ####################################################################


def jit(layer: str) -> Any:
    """TorchScript, with and without attention weights, on each form of edges."""
    inputs = get_inputs(layer)
    forms: dict[str, Any] = {"Tensor": inputs}
    if SparseTensor is not None and "edge_index" in inputs:
        size = (NUM_NODES, NUM_NODES)
        adj = SparseTensor.from_edge_index(inputs["edge_index"], sparse_sizes=size).t()
        forms["SparseTensor"] = {**inputs, "edge_index": adj}
    seen = {}
    flags = [False, True] if has_weights(layer) else [False]
    for form, with_weights in itertools.product(forms, flags):

        def call(form: str = form, with_weights: bool = with_weights) -> Any:
            script = scripted(layer, get_conv(layer), forms[form], form, with_weights)
            with torch.no_grad():
                inferred = [script(**forms[form]) for _ in range(2)]
            return [*inferred, script(**forms[form])]

        seen[f"{form}, {with_weights}"] = observed(call)
    return seen


def scripted(
    layer: str, conv: Any, inputs: dict[str, Any], form: str, with_weights: bool
) -> Any:
    """Scripts a layer as the release's users do."""
    result = "Tensor"
    if with_weights:
        weights = {"Tensor": "Tuple[Tensor, Tensor]", "SparseTensor": "SparseTensor"}[form]
        result = f"Tuple[Tensor, {weights}]"
    if VERSION < (2, 5):
        # `jittable()` wants the type of each argument.
        types = {"edge_index": form, "size": "Size"}
        types["return_attention_weights"] = "bool" if with_weights else "NoneType"
        types |= dict.fromkeys(("edge_attr", "edge_weight", "edge_type"), "OptTensor")
        names = [types.get(name, "Tensor") for name in parameters(layer, "forward")]
        typing = [f"({', '.join(names)}) -> {result}"] if has_weights(layer) else []
        script = torch.jit.script(conv.jittable(*typing))
        kwargs = {"return_attention_weights": True} if with_weights else {}
        return functools.partial(script, **kwargs)
    arguments = ", ".join(
        f"{name}: {form if name == 'edge_index' else 'Tensor'}" for name in inputs
    )
    call = ", ".join(f"{name}={name}" for name in inputs)
    call += ", return_attention_weights=True" if with_weights else ""
    net = module_from(
        "from typing import Tuple\nimport torch\nfrom torch import Tensor\n"
        "from torch_geometric.typing import SparseTensor\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, conv):\n"
        "        super().__init__()\n"
        "        self.conv = conv\n"
        f"    def forward(self, {arguments}) -> {result}:\n"
        f"        return self.conv({call})\n"
    ).Net(conv)
    return torch.jit.script(net)


def compiled(layer: str, backend: str) -> Any:
    """`torch.compile` without graph breaks. A torch before 2.0 has none.

    The backend `graph` shows the graph that any backend is given, node for node.
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
            backend=show if backend == "graph" else backend,
            fullgraph=True,
        )
        return conv(**inputs, **kwargs), graphs

    with torch.no_grad():
        found = {"plain": observed(lambda: call({}))}
    if has_weights(layer):
        found["with weights"] = observed(lambda: call(weights(layer)))
    return found


def describe(graph: Any) -> list[str]:
    """What a graph computes: each node by its operation and those that its arguments come from.

    Sorted, since releases up to 2.4.0 gather the arguments of `message()` in the order
    of a set, which changes from run to run.
    """
    seen: dict[Any, str] = {}
    for node in graph.nodes:
        shown = torch.fx.node.map_arg((node.args, node.kwargs), lambda node: seen[node])
        # A parameter's name says whether the layer that has it has been written to.
        target = re.sub("_dict_(modules|parameters)_", r"_\1_", str(node.target))
        text = re.sub(r" at 0x[0-9a-f]+", "", f"{node.op} {target} {shown}")
        seen[node] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return sorted(seen.values())


# Hooks, explainers, subclasses ################################################


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

    found = {"GNNExplainer": observed(gnn_explainer)}
    if VERSION >= (2, 3):
        found["AttentionExplainer"] = observed(attention_explainer)
    return found


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
    """What the pristine `forward()` hands to `propagate()`."""
    conv = get_conv(layer)
    found: dict[str, Any] = {}

    class Found(Exception):
        pass

    def propagate(*args: Any, **kwargs: Any) -> None:
        found.update(dict(zip(["edge_index"], args, strict=False)), **kwargs)
        raise Found

    conv.propagate = propagate
    with contextlib.suppress(Found):
        conv(**get_inputs(layer))
    return found


def subclasses(layer: str) -> Any:
    """A user's subclasses, without attention weights and asked for them."""
    classes = custom_classes(layer)
    forward = classes.pop("OverridesForward")
    arguments = propagate_arguments(layer)
    seen = {
        name + suffix: observed(lambda: get_conv(layer, cls)(**get_inputs(layer), **asked))  # noqa: B023
        for name, cls in classes.items()
        for suffix, asked in (("", {}), (" with weights", weights(layer)))
    }
    seen["OverridesForward"] = observed(lambda: get_conv(layer, forward)(arguments))
    return seen


# What stays in the layer ######################################################


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


def scripted_state(layer: str) -> Any:
    """Whether a call in TorchScript leaves an attribute as it is that threads would share."""

    def call() -> bool:
        inputs = get_inputs(layer)
        script = scripted(layer, get_conv(layer), inputs, "Tensor", has_weights(layer))
        conv = script.conv if VERSION >= (2, 5) else script.func
        assert conv._alpha is None  # No other layer has it.
        conv._alpha = marker = torch.full((3,), 7.0)
        script(**inputs)
        return conv._alpha is not None and torch.equal(conv._alpha, marker)

    return observed(call)


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
    seen = [digest(unpickled(**inputs, **weights(layer)))]
    loaded = get_conv(layer)
    loaded.load_state_dict(torch.load(Path(directory, f"{layer}.pt")))
    seen.append(digest(loaded(**inputs, **weights(layer))))
    script = observed(lambda: scripted(layer, unpickled, inputs, "Tensor", False)(**inputs))
    return {"results": seen, "script": script}


def conv_suite() -> Any:
    """Every layer that the release exports."""
    import conv_suite

    return conv_suite.run()


def main(*requests: str) -> None:
    warnings.simplefilter("ignore")
    # With more threads, sums may differ in the last bit from run to run.
    torch.set_num_threads(1)
    seen = {}
    for request in requests:
        name, *arguments = request.split(":", 2)
        seen[request] = globals()[name](*arguments)
    print(json.dumps({"torch_geometric": torch_geometric.__file__, "seen": seen}))


if __name__ == "__main__":
    main(*sys.argv[1:])
