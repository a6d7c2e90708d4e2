"""Runs inside a PyG environment, and imports nothing of the kit.

    python outside.py          PYTHONPATH: the tree to try

Finds which parts of PyG change a model from outside while they work, such that another thread
that predicts with it gets other results. Each part works on a model of its own. Whenever it
enters or leaves a function of PyG or of the model (the first times of each), it is held until
another thread has predicted once; so the result does not depend on luck. Predictions are
compared bit for bit. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import json
import math
import platform
import sys
import tempfile
import threading
import typing
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import torch
import torch_geometric
import torch_geometric.nn as nn

# How often a part is held in each function, when it enters it and when it leaves it.
TIMES = 2
NODES, EDGES, CLASSES = 12, 40, 3
PYG = str(Path(torch_geometric.__file__).parent)
# In 2.2.0 and before, what is explained and how is named in other words.
NEW = hasattr(torch_geometric, "explain") and hasattr(torch_geometric.explain, "PGExplainer")


class Calls:
    """Counts the calls of a model, and makes one of them fail."""

    def __init__(self) -> None:
        self.number = self.failing = 0

    def count(self) -> None:
        """Counts one more."""
        self.number += 1
        if self.number == self.failing:
            raise ArithmeticError("as asked for")


class Model(torch.nn.Module):
    """What is shared. One of its layers has attention, unless `plain`."""

    def __init__(self, plain: bool = False, classes: int = CLASSES) -> None:
        super().__init__()
        attention = nn.GATConv(8, 8, heads=1, add_self_loops=False)
        self.conv1 = nn.GraphConv(8, 8) if plain else attention
        self.norm = torch.nn.BatchNorm1d(8)
        self.conv2 = nn.GraphConv(8, classes)
        self.calls = Calls()

    def forward(
        self, x: torch.Tensor, edge_index: torch.Tensor, batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A value for each node and class."""
        x = self.norm(self.conv1(x, edge_index)).relu()
        x = self.conv2(x, edge_index)
        self.calls.count()
        return x


def plain() -> torch.nn.Module:
    """A model without attention."""
    return Model(plain=True)


def even() -> torch.nn.Module:
    """One whose layers all have the same sizes, as GraphMaskExplainer needed up to 2.5.3."""
    return Model(plain=True, classes=8)


class Case:
    """A model, its inputs, and what a prediction has to be."""

    def __init__(self, build: Callable[[], torch.nn.Module] = Model) -> None:
        torch.manual_seed(12345)
        self.x = torch.randn(NODES, 8)
        self.edge_index = torch.randint(NODES, (2, EDGES))
        self.model = build().eval()
        self.expected = self.predict()
        self.ends: Counter[str] = Counter()

    def predict(self) -> torch.Tensor:
        """Predicts once."""
        with torch.no_grad():
            out: torch.Tensor = self.model(self.x, self.edge_index)
        return out

    def judge(self) -> str:
        """How a prediction ends."""
        try:
            return "right" if torch.equal(self.predict(), self.expected) else "silently_wrong"
        except Exception:
            return "crashed"

    def predict_elsewhere(self) -> None:
        """Lets another thread predict."""
        ends: list[str] = []
        thread = threading.Thread(target=lambda: ends.append(self.judge()))
        thread.start()
        thread.join()
        self.ends[ends[0]] += 1


def hold(case: Case) -> Callable[[FrameType, str, Any], None]:
    """A function for `sys.setprofile`, which lets another thread predict."""
    number: Counter[tuple[str, Any]] = Counter()

    def enter_or_leave(frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if not code.co_filename.startswith(PYG) and code.co_filename != __file__:
            return
        number[event, code] += 1
        if number[event, code] <= TIMES:
            case.predict_elsewhere()

    return enter_or_leave


# The parts ####################################################################

Part = Callable[[Case], Any]


def explain(
    algorithm: Callable[[], Any],
    *,
    metric: str | None = None,
    kind: str = "model",
    node_mask: str | None = None,
    index: int | None = None,
) -> Part:
    """An explanation by an algorithm, of all or of one prediction; and a metric of it."""

    def part(case: Case) -> None:
        from torch_geometric.explain import Explainer

        settings: dict[str, Any] = {
            "explanation_type": kind,
            "node_mask_type": node_mask,
            "edge_mask_type": "object",
        }
        model_config = {
            "mode": "multiclass_classification",
            "task_level": "graph",
            "return_type": "raw",
        }
        if not NEW:
            settings["node_mask_type"] = "attributes"
            settings = {"explainer_config": settings}
            model_config["mode"] = "classification"
        explainer = Explainer(case.model, algorithm(), model_config=model_config, **settings)
        target = case.expected.argmax(dim=-1) if kind == "phenomenon" else None
        if hasattr(explainer.algorithm, "_curr_epoch"):
            train = explainer.algorithm.train
            train(0, case.model, case.x, case.edge_index, target=target)
        explanation = explainer(case.x, case.edge_index, target=target, index=index)
        if metric is not None:
            getattr(torch_geometric.explain, metric)(explainer, explanation)

    return part


def algorithm(name: str, *arguments: object, **settings: object) -> Callable[[], Any]:
    """An algorithm of `torch_geometric.explain`."""

    def build() -> Any:  # noqa: ANN401
        if name == "CaptumExplainer":
            importlib.import_module("captum")  # PyG else has no such name.
        places = [torch_geometric.explain]
        with contextlib.suppress(ImportError):
            places.append(importlib.import_module("torch_geometric.contrib.explain"))
        place = next((each for each in places if hasattr(each, name)), places[0])
        return getattr(place, name)(*arguments, **settings)

    return build


def old_explainer(case: Case) -> None:
    """The explainer of releases before `torch_geometric.explain`."""
    explainer = nn.GNNExplainer(case.model, epochs=2, return_type="raw")
    explainer.log = False
    explainer.explain_graph(case.x, case.edge_index)


def captum_model(case: Case) -> None:
    """What Captum's algorithms call."""
    convert = getattr(nn, "to_captum_model", None) or nn.to_captum
    mask = torch.rand(1, EDGES)
    convert(case.model, "edge")(mask, case.x, case.edge_index)


def masks(case: Case) -> None:
    """Masks that are set and cleared by hand."""
    try:
        utils = importlib.import_module("torch_geometric.explain.algorithm.utils")
    except ImportError:
        utils = importlib.import_module("torch_geometric.nn.models.explainer")
    utils.set_masks(case.model, torch.rand(EDGES), case.edge_index)
    case.model(case.x, case.edge_index)
    utils.clear_masks(case.model)


def summarize(case: Case) -> None:
    """A table of the layers."""
    nn.summary(case.model, case.x, case.edge_index)


def profiled(case: Case) -> None:
    """The time of a call."""
    timeit = importlib.import_module("torch_geometric.profile").timeit
    if "log" in inspect.signature(timeit).parameters:
        with timeit(log=False):
            case.model(case.x, case.edge_index)
    else:  # up to 2.1.0
        timeit()(case.model)(case.x, case.edge_index)


def to_hetero(case: Case) -> None:
    """A copy for several types of nodes and edges."""
    metadata = (["a"], [("a", "to", "a")])
    nn.to_hetero(case.model, metadata)


def to_fixed_size(case: Case) -> None:
    """A copy for a fixed size of batches."""
    from torch_geometric.nn.to_fixed_size_transformer import to_fixed_size as convert

    convert(case.model, batch_size=2)


def infer(case: Case) -> None:
    """Inference layer by layer, over a whole graph."""
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

    data = Data(x=case.x, edge_index=case.edge_index)
    case.model.inference(NeighborLoader(data, num_neighbors=[-1], batch_size=4))


def trim(case: Case) -> None:
    """A call that drops the nodes of outer hops."""
    inner, outer = (torch.randint(size, (2, 20)) for size in (8, NODES))
    edge_index = torch.cat([inner % torch.tensor([[8], [4]]), outer % torch.tensor([[12], [8]])], 1)
    case.model(
        case.x,
        edge_index,
        num_sampled_nodes_per_hop=[4, 4, 4],
        num_sampled_edges_per_hop=[20, 20],
    )


def compile_it(case: Case) -> None:
    """`torch_geometric.compile()`, before it is called."""
    torch_geometric.compile(case.model)


def jittable(case: Case) -> None:
    """A layer for TorchScript."""
    case.model.conv2.jittable()


def copied(case: Case) -> None:
    """A deep copy."""
    copy.deepcopy(case.model)


def saved(case: Case) -> None:
    """A state dictionary that is saved and loaded again."""
    with tempfile.TemporaryFile() as file:
        torch.save(case.model.state_dict(), file)
        file.seek(0)
        case.model.load_state_dict(torch.load(file))


def sage() -> torch.nn.Module:
    """A model of PyG's own."""
    return nn.GraphSAGE(8, 8, 2, CLASSES)


# The name in the table, what it does, and the model that it does it to.
GNN = algorithm("GNNExplainer", epochs=2)
PARTS: dict[str, tuple[Part, Callable[[], torch.nn.Module]]] = {
    "Explainer, GNNExplainer": (explain(GNN, node_mask="attributes"), Model),
    "Explainer, PGExplainer and its training": (
        explain(algorithm("PGExplainer", epochs=1), kind="phenomenon"),
        Model,
    ),
    "Explainer, AttentionExplainer": (explain(algorithm("AttentionExplainer")), Model),
    "Explainer, CaptumExplainer": (
        # Up to 2.4.0, it takes one prediction alone.
        explain(algorithm("CaptumExplainer", "Saliency"), node_mask="attributes", index=0),
        Model,
    ),
    "Explainer, GraphMaskExplainer": (
        explain(algorithm("GraphMaskExplainer", 2, epochs=2, log=False), node_mask="attributes"),
        even,
    ),
    "Explainer, DummyExplainer": (
        explain(algorithm("DummyExplainer"), node_mask="attributes"),
        Model,
    ),
    "explain.fidelity": (explain(GNN, metric="fidelity", node_mask="attributes"), Model),
    "explain.unfaithfulness": (
        explain(GNN, metric="unfaithfulness", node_mask="attributes"),
        Model,
    ),
    "nn.GNNExplainer": (old_explainer, Model),
    "to_captum, to_captum_model": (captum_model, Model),
    "set_masks, clear_masks": (masks, Model),
    "nn.summary": (summarize, Model),
    "profile.timeit": (profiled, Model),
    "nn.to_hetero": (to_hetero, Model),
    "nn.to_fixed_size": (to_fixed_size, sage),
    "BasicGNN.inference": (infer, sage),
    "trim_to_layer": (trim, sage),
    "torch_geometric.compile": (compile_it, Model),
    "MessagePassing.jittable": (jittable, Model),
    "copy.deepcopy": (copied, Model),
    "state_dict, load_state_dict": (saved, Model),
}


def try_part(part: Part, build: Callable[[], torch.nn.Module]) -> dict[str, Any]:
    """What a part does to a model."""
    alone = Case(build)
    before = alone.model.calls.number if isinstance(alone.model, Model) else 0
    part(alone)  # Raises where the release does not have it, or cannot run it here.
    after = alone.model.calls.number if isinstance(alone.model, Model) else 0
    case = Case(build)
    sys.setprofile(hold(case))
    try:
        part(case)
    except Exception as error:
        # It worked alone: what the other thread did is why.
        return {**case.ends, "disturbed": message_of(error), "afterwards": case.judge()}
    finally:
        sys.setprofile(None)
    failures = [fail(part, build, number) for number in range(before + 1, after + 1)]
    return {**case.ends, "afterwards": alone.judge(), "after_a_failure": max(failures, default="")}


def message_of(error: Exception) -> str:
    """Its class, and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def fail(part: Part, build: Callable[[], torch.nn.Module], number: int) -> str:
    """How a model predicts once one of its calls has failed; "" if the part goes on."""
    case = Case(build)
    assert isinstance(case.model, Model)
    case.model.calls.failing = number
    try:
        part(case)
    except ArithmeticError:
        return case.judge()
    return ""


def bring_back_names() -> None:
    """Gives numpy and torch the names that they had when older releases used them."""
    for module, names in (("numpy", {"math": math}), ("torch.fx._symbolic_trace", vars(typing))):
        imported = importlib.import_module(module)
        for name, value in names.items():
            if not hasattr(imported, name):
                setattr(imported, name, value)


def main() -> dict[str, Any]:
    """Tries all parts."""
    bring_back_names()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parts: dict[str, Any] = {}
    for name, (part, build) in PARTS.items():
        # 2.0.0 to 2.0.4 cannot explain attention.
        for each in (build, plain) if build is Model else (build,):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    parts[name] = try_part(part, each)
                # The layer with attention may race by itself, which is not what is asked.
                if "disturbed" not in parts[name]:
                    break
            except Exception as error:
                parts[name] = {"error": message_of(error)}
        print(name, parts[name], file=sys.stderr, flush=True)
    return {"python": platform.python_version(), "torch": torch.__version__, "parts": parts}


if __name__ == "__main__":
    sys.path.pop(0)  # this file's directory
    print(json.dumps(main()))
