"""A served model: a two-layer GATv2 network that answers requests in several threads.

    export OMP_NUM_THREADS=1 PYTHONPATH=path/to/pyg
    python -m uvicorn --app-dir examples/serving app:app

It is written as many services are. The model is made once, and an endpoint is a plain
`def`, so Starlette runs it in its pool of threads: requests that come at the same time share
the model, those that ask for an explanation as well. Nothing here knows of patches; it serves
whatever PyG is on the path.
"""

import base64
import platform
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch_geometric
import torch_geometric.nn
from fastapi import FastAPI
from pydantic import BaseModel, Field, NonNegativeInt, model_validator
from torch_geometric.nn import GATv2Conv

FEATURES = 16
CLASSES = 4
EPOCHS = 20  # of an explanation

# Requests run beside each other, one a thread. Operators that split their work over
# threads of their own, too, would only wait for the same cores. OMP_NUM_THREADS=1 has to
# say so as well: this does not reach the first product of matrices of a new thread, which
# runs on all cores, and whose last bit may differ then, whatever PyG is served.
torch.set_num_threads(1)


class Network(torch.nn.Module):
    """Classifies the nodes of a graph, and tells what it attended to."""

    def __init__(self) -> None:
        super().__init__()
        self.first = GATv2Conv(FEATURES, 64, heads=8)
        self.last = GATv2Conv(512, CLASSES, heads=8, concat=False)

    def forward(
        self, x: torch.Tensor, edge_index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the scores of the nodes, and the attention weights of the last layer."""
        x = self.first(x, edge_index).relu()
        x, (_, attention) = self.last(x, edge_index, return_attention_weights=True)
        return x, attention


class Scores(torch.nn.Module):
    """The scores of a network alone: what is explained."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """Returns the scores of the nodes."""
        return self.network(x, edge_index)[0]


def make_explainer(module: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Returns what says how much each edge matters to the predictions of a graph."""
    if hasattr(torch_geometric.nn, "GNNExplainer"):  # up to 2.2.0
        old = torch_geometric.nn.GNNExplainer(module, epochs=EPOCHS, return_type="raw")
        old.log = False  # since 2.0.4, not in all releases an argument
        return lambda x, edge_index: old.explain_graph(x, edge_index)[1]
    from torch_geometric.explain import Explainer, GNNExplainer

    explainer = Explainer(
        module,
        GNNExplainer(epochs=EPOCHS),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )
    return lambda x, edge_index: explainer(x, edge_index).edge_mask


Row = Annotated[list[float], Field(min_length=FEATURES, max_length=FEATURES)]


class Graph(BaseModel):
    """A request: the features of the nodes, and the edges between them."""

    x: Annotated[list[Row], Field(min_length=1)]
    edge_index: tuple[list[NonNegativeInt], list[NonNegativeInt]]

    @model_validator(mode="after")
    def check_edges(self) -> "Graph":
        """Refuses edges that lead nowhere: that is an error of the client's (422)."""
        sources, targets = self.edge_index
        if len(sources) != len(targets):
            raise ValueError("both rows of edge_index must have the same length")
        if max((*sources, *targets), default=0) >= len(self.x):
            raise ValueError("edge_index names a node that x does not have")
        return self


class Answer(BaseModel):
    """The bytes of two tensors of float32, in base64, so that clients can compare each bit.

    Attributes:
        prediction: The scores, a row a node.
        attention: The weights, a row an edge in the order of the request, then one a node;
            a column a head.
    """

    prediction: str
    attention: str


class Explanation(BaseModel):
    """How much each edge of the request matters, from 0 to 1."""

    edges: list[float]


torch.manual_seed(0)
model = Network().eval()
explain_edges = make_explainer(Scores(model).eval())
app = FastAPI()


@app.post("/predict")
def predict(graph: Graph) -> Answer:
    """Runs the model that all requests share."""
    x = torch.tensor(graph.x)
    edge_index = torch.tensor(graph.edge_index, dtype=torch.long)
    with torch.inference_mode():
        prediction, attention = model(x, edge_index)
    return Answer(prediction=encode(prediction), attention=encode(attention))


@app.post("/explain")
def explain(graph: Graph) -> Explanation:
    """Explains what the same model predicts."""
    x = torch.tensor(graph.x)
    edge_index = torch.tensor(graph.edge_index, dtype=torch.long)
    return Explanation(edges=explain_edges(x, edge_index).tolist())


def encode(tensor: torch.Tensor) -> str:
    """Returns the bytes of a tensor as text."""
    return base64.b64encode(tensor.numpy().tobytes()).decode()


@app.get("/health")
def health() -> dict[str, Any]:
    """Says what is served: the files and versions in use, and what a request must look like."""
    return {
        "torch_geometric": torch_geometric.__version__,
        "torch_geometric_file": torch_geometric.__file__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "features": FEATURES,
    }
