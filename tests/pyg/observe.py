"""Runs `GATv2Conv` of the PyG on the path, and prints what it does as one line of JSON.

    python observe.py NAME[:ARGUMENT] ...       NAME is one of the functions below

Imports torch and PyG alone, so that it runs on every release. A tensor is shown
as a digest of its bytes. What is asked for in one call is done in one process.
"""

import inspect
import itertools
import json
import pickle
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch_geometric
from digests import SPARSE_FORMS, SparseTensor, digest, observed
from torch_geometric.nn import GATv2Conv

PARAMETERS = inspect.signature(GATv2Conv.__init__).parameters

# What is varied. A release takes those that its layer knows.
FACTORS: dict[str, list[Any]] = {
    "heads": [1, 3],
    "concat": [True, False],
    "edge_dim": [None, 1, 4],
    "share_weights": [False, True],
    "add_self_loops": [True, False],
    "fill_value": ["mean", "add", 0.5],
    "bias": [True, False],
    "dropout": [0.0, 0.6],
    "negative_slope": [0.2, 0.01],
    "flow": ["source_to_target", "target_to_source"],
    "training": [False, True],
    "bipartite": [False, True],
    "edges": ["tensor", *SPARSE_FORMS],
    "graph": ["random", "random", "no edges", "isolated nodes", "multigraph"],
    "return_attention_weights": [None, True, False],
    "dtype": ["float32", "float32", "float64", "bfloat16"],
}
LAYER_FACTORS = list(FACTORS)[:10]
NUM_SETTINGS = 400


def get_graph(setting: dict[str, Any], dtype: torch.dtype) -> Any:
    # Releases disagree on which side of a bipartite graph is which once the flow
    # is reversed, and some then read beyond the end of the smaller side.
    uneven = setting["bipartite"] and setting["flow"] == "source_to_target"
    num_src, num_dst = 9, 6 if uneven else 9
    num_edges = {"no edges": 0, "multigraph": 80}.get(setting["graph"], 24)
    # Isolated nodes: all edges are among the first three.
    high = (3, 3) if setting["graph"] == "isolated nodes" else (num_src, num_dst)
    edge_index = torch.stack([torch.randint(n, (num_edges,)) for n in high])
    x = torch.randn(num_src, 8, dtype=dtype, requires_grad=True)
    x_dst = torch.randn(num_dst, 8, dtype=dtype, requires_grad=True)
    edge_attr = None
    if setting["edge_dim"] is not None and "edge_dim" in PARAMETERS:
        edge_attr = torch.randn(num_edges, setting["edge_dim"], dtype=dtype, requires_grad=True)
    size = (num_src, num_dst)
    edges: Any = edge_index
    if setting["edges"] == "SparseTensor":
        edges = SparseTensor.from_edge_index(edge_index, edge_attr, sparse_sizes=size).t()
    elif setting["edges"] != "tensor":
        values = torch.ones(num_edges, dtype=dtype)
        coo = torch.sparse_coo_tensor(edge_index.flip(0), values, size[::-1])
        edges = coo.to_sparse_csr() if setting["edges"] == "csr" else coo.to_sparse_csc()
    if not isinstance(edges, torch.Tensor) or edges.layout != torch.strided:
        edge_attr = None
    return ((x, x_dst) if setting["bipartite"] else x), edges, edge_attr


def run_setting(setting: dict[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    dtype = getattr(torch, setting["dtype"])
    arguments = {key: setting[key] for key in LAYER_FACTORS if key in PARAMETERS or key == "flow"}
    conv = GATv2Conv(8, 5, **arguments).to(dtype).train(setting["training"])
    x, edges, edge_attr = get_graph(setting, dtype)
    kwargs = {"return_attention_weights": setting["return_attention_weights"]}
    if edge_attr is not None:
        kwargs["edge_attr"] = edge_attr
    result = conv(x, edges, **kwargs)
    out = result[0] if isinstance(result, tuple) else result
    leaves = [*(x if isinstance(x, tuple) else [x]), *conv.parameters()]
    if edge_attr is not None:
        leaves.append(edge_attr)
    # torch-scatter 2.1.2 gives uninitialised memory for the gradients of a
    # SparseTensor without any entry, on pristine releases too.
    if setting["edges"] == "SparseTensor" and setting["graph"] == "no edges":
        grads: Any = "not compared"
    else:
        grads = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)
    return result, grads, torch.get_rng_state()


def settings() -> Any:
    """Outputs, attention weights, gradients and random state over random settings."""
    chooser = random.Random(12345)
    seen = []
    for seed in range(NUM_SETTINGS):
        setting = {key: chooser.choice(values) for key, values in FACTORS.items()}
        seen.append({"setting": setting, **observed(lambda: run_setting(setting, seed))})  # noqa: B023
    return seen


def get_conv(cls: type = GATv2Conv, **kwargs: Any) -> Any:
    torch.manual_seed(12345)
    return cls(8, 4, heads=2, **kwargs).eval()


def get_inputs() -> Any:
    torch.manual_seed(54321)
    return torch.randn(10, 8), torch.randint(10, (2, 40))


def jit() -> Any:
    """TorchScript, with and without attention weights, on each form of edges."""
    third = "OptTensor" if "edge_dim" in PARAMETERS else "Size"
    x, edge_index = get_inputs()
    forms: dict[str, Any] = {"Tensor": edge_index}
    returns = {"Tensor": "Tuple[Tensor, Tuple[Tensor, Tensor]]"}
    if SparseTensor is not None:
        forms["SparseTensor"] = SparseTensor.from_edge_index(edge_index, sparse_sizes=(10, 10)).t()
        returns["SparseTensor"] = "Tuple[Tensor, SparseTensor]"
    seen = {}
    for form, with_weights in itertools.product(forms, [False, True]):
        flag, result = ("bool", returns[form]) if with_weights else ("NoneType", "Tensor")
        types = f"(Tensor, {form}, {third}, {flag}) -> {result}"

        def call(types: str = types, form: str = form, with_weights: bool = with_weights) -> Any:
            script = torch.jit.script(get_conv().jittable(types))
            kwargs = {"return_attention_weights": True} if with_weights else {}
            return [script(x, forms[form], **kwargs) for _ in range(3)]

        seen[types] = observed(call)
    return seen


def compiled(backend: str) -> Any:
    """`torch.compile` without graph breaks. A torch before 2.0 has none."""
    x, edge_index = get_inputs()

    def call(with_weights: bool | None) -> Any:
        import torch._dynamo

        torch._dynamo.reset()
        conv = torch.compile(get_conv(), backend=backend, fullgraph=True)
        return conv(x, edge_index, return_attention_weights=with_weights)

    return {str(flag): observed(lambda: call(flag)) for flag in [None, True]}  # noqa: B023


def hooks() -> Any:
    """What hooks on `propagate()` and `message()` are given, and what they change."""
    x, edge_index = get_inputs()
    conv = get_conv()
    names: list[Any] = []
    kinds = [
        f"register_{what}_forward_{when}"
        for what in ("propagate", "message", "aggregate")
        for when in ("pre_hook", "hook")
    ]

    def look(kind: str) -> Callable[..., Any]:
        def hook(module: Any, inputs: Any, *output: Any) -> Any:
            # `attention` is what the patch adds; all else must be as before.
            keys = sorted(set(inputs[-1]) - {"attention"}) if isinstance(inputs[-1], dict) else None
            names.append([kind, keys])
            return output[0] * 2 if output else None

        return hook

    known = [kind for kind in kinds if hasattr(conv, kind)]
    for kind in known:
        getattr(conv, kind)(look(kind))
    result = observed(lambda: conv(x, edge_index, return_attention_weights=True))
    return {"known": known, "names": names, **result}


def explain() -> Any:
    """The masks of GNNExplainer."""
    x, edge_index = get_inputs()

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = get_conv()

        def forward(self, x: Any, edge_index: Any) -> Any:
            return self.conv(x, edge_index).log_softmax(dim=-1)

    def call() -> Any:
        torch.manual_seed(12345)
        try:
            from torch_geometric.explain import Explainer, GNNExplainer
        except ImportError:
            from torch_geometric.nn import GNNExplainer

            return GNNExplainer(Net(), epochs=5, log=False).explain_node(0, x, edge_index)
        explainer = Explainer(
            Net(),
            algorithm=GNNExplainer(epochs=5),
            explanation_type="model",
            node_mask_type="attributes",
            edge_mask_type="object",
            model_config={
                "mode": "multiclass_classification",
                "task_level": "node",
                "return_type": "log_probs",
            },
        )
        explanation = explainer(x, edge_index, index=0)
        return explanation.node_mask, explanation.edge_mask

    return observed(call)


def decomposed_layers() -> Any:
    """Message passing in two parts. Releases so far refuse it: `x` is a pair here."""
    x, edge_index = get_inputs()
    return [
        observed(lambda: get_conv(decomposed_layers=2)(x, edge_index, **kwargs))  # noqa: B023
        for kwargs in [{}, {"return_attention_weights": True}]
    ]


class CallsSuper(GATv2Conv):
    """Overrides `message()` with the signature of the pristine release."""

    if "edge_dim" in PARAMETERS:

        def message(self, x_j, x_i, edge_attr, index, ptr, size_i):
            return 2 * super().message(x_j, x_i, edge_attr, index, ptr, size_i)

    else:

        def message(self, x_j, x_i, index, ptr, size_i):
            return 2 * super().message(x_j, x_i, index, ptr, size_i)


class SetsAlpha(GATv2Conv):
    """Leaves attention weights of its own in `self._alpha`, as pristine releases do."""

    def message(self, x_j, index):
        self._alpha = x_j.mean(dim=-1)
        return x_j * self._alpha.unsqueeze(-1)


class OverridesForward(GATv2Conv):
    """Calls `propagate()` itself, without the attention weights."""

    def forward(self, x, edge_index):
        x = self.lin_l(x).view(-1, self.heads, self.out_channels)
        kwargs = {"edge_attr": None} if "edge_dim" in PARAMETERS else {}
        return self.propagate(edge_index, x=(x, x), size=None, **kwargs).mean(dim=1)


def subclasses() -> Any:
    """A user's subclasses, written for the pristine release."""
    x, edge_index = get_inputs()
    return {
        cls.__name__: observed(lambda: get_conv(cls)(x, edge_index))  # noqa: B023
        for cls in [CallsSuper, SetsAlpha, OverridesForward]
    }


def subclasses_with_weights() -> Any:
    """The same, asked for the attention weights that their `message()` does not hand on."""
    x, edge_index = get_inputs()
    return {
        cls.__name__: observed(
            lambda: get_conv(cls)(x, edge_index, return_attention_weights=True)  # noqa: B023
        )
        for cls in [CallsSuper, SetsAlpha]
    }


def state() -> Any:
    """What a call leaves in the layer."""
    conv = get_conv()

    def show() -> dict[str, str]:
        return {key: repr(value) for key, value in sorted(vars(conv).items())}

    before = show()
    x, edge_index = get_inputs()
    conv(x, edge_index, return_attention_weights=True)
    return {"has_alpha": hasattr(conv, "_alpha"), "unchanged": show() == before}


def dump(directory: str) -> Any:
    """Writes a pickle and a state dict."""
    conv = get_conv()
    conv(*get_inputs())  # A layer that has been used.
    Path(directory, "layer.pickle").write_bytes(pickle.dumps(conv))
    torch.save(conv.state_dict(), Path(directory, "state_dict.pt"))
    return load(directory)


def load(directory: str) -> Any:
    """Reads both, and runs what they give."""
    unpickled = pickle.loads(Path(directory, "layer.pickle").read_bytes())
    loaded = GATv2Conv(8, 4, heads=2).eval()
    loaded.load_state_dict(torch.load(Path(directory, "state_dict.pt")))
    x, edge_index = get_inputs()
    third = "OptTensor" if "edge_dim" in PARAMETERS else "Size"
    types = f"(Tensor, Tensor, {third}, NoneType) -> Tensor"
    scripted = observed(lambda: torch.jit.script(unpickled.jittable(types))(x, edge_index))
    return [
        digest(unpickled(x, edge_index, return_attention_weights=True)),
        digest(loaded(x, edge_index, return_attention_weights=True)),
        # Some releases need torch-sparse for it, and say so in their own way.
        scripted.get("result", "TorchScript does not take it"),
    ]


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
        name, *arguments = request.split(":", 1)
        seen[request] = globals()[name](*arguments)
    print(json.dumps({"torch_geometric": torch_geometric.__file__, "seen": seen}))


if __name__ == "__main__":
    main(*sys.argv[1:])
