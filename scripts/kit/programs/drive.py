"""Runs models of a package on small random graphs, as its own documentation calls them.

    python drive.py PACKAGE     prints how each call ended, as one line of JSON

Imports nothing of the kit. A result is shown as a digest of its bytes, so that two runs agree
if they give the same bit for bit.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import tempfile
import warnings
from typing import Any, Callable, Iterator, Tuple

import torch

Call = Tuple[str, Callable[[], object]]


def digest(value: object) -> str:
    """Shows tensors, and what holds them, such that equal means equal bit for bit."""
    sha = hashlib.sha256()
    for tensor in tensors(value):
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors in a result, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif value is not None:
        raise TypeError(f"a {type(value).__name__} has no tensors to compare")


def graph(channels: int, edge_dim: int = 3, num_nodes: int = 30) -> dict[str, torch.Tensor]:
    """A random graph."""
    torch.manual_seed(1)
    edge_index = torch.randint(num_nodes, (2, 4 * num_nodes))
    return {
        "x": torch.randn(num_nodes, channels),
        "edge_index": edge_index,
        "edge_attr": torch.randn(edge_index.size(1), edge_dim),
        "edge_type": torch.randint(2, (edge_index.size(1),)),
        "batch": torch.arange(num_nodes) // (num_nodes // 2),
    }


def both(build: Callable[[], Any], *args: object, **kwargs: object) -> Callable[[], object]:
    """Returns what calls a model at inference, and trains it for three steps."""

    def run() -> object:
        torch.manual_seed(1)
        model = build()
        for parameter in model.parameters():
            # `RGATConv` leaves some of its own as they are in memory.
            torch.nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            inferred = model.eval()(*args, **kwargs)
        optimizer = torch.optim.Adam(model.train().parameters(), lr=0.01)
        steps = []
        for _ in range(3):
            optimizer.zero_grad()
            out = list(tensors(model(*args, **kwargs)))
            sum(part.float().square().mean() for part in out if part.requires_grad).backward()
            optimizer.step()
            steps.append([*out, *model.parameters()])
        return inferred, steps

    return run


def polynet() -> Iterator[Call]:
    """Regressors and classifiers of polymers."""
    from polynet.models import gnn

    inputs = graph(8)
    named = {"batch_index": inputs["batch"], "edge_attr": inputs["edge_attr"]}
    sizes = {"num_heads": 2, "n_node_features": 8, "n_edge_features": 3, "embedding_dim": 16}
    for name in (
        "TransformerGNNRegressor",
        "TransformerGNNClassifier",
        "GATRegressor",
        "GATClassifier",
    ):
        build = functools.partial(getattr(gnn, name), **sizes)
        yield name, both(build, inputs["x"], inputs["edge_index"], **named)


def rgast() -> Iterator[Call]:
    """Features of cells, with the attention of both layers, which its `forward()` returns."""
    from RGAST.RGAST import RGAST

    inputs = graph(16)
    call = (inputs["x"], inputs["edge_index"], inputs["edge_type"])
    for reduction in ("PCA", "HVG"):
        build = functools.partial(RGAST, [16, 8, 4], 0.1, reduction)
        yield f"RGAST, {reduction}", both(build, *call)


def gamenet_uq() -> Iterator[Call]:
    """Energies with their uncertainty."""
    from gamenet_uq.constants import conv_layer as layers
    from gamenet_uq.nets import GameNetUQ
    from torch_geometric.data import Data

    inputs = graph(8)
    data = Data(
        x=inputs["x"],
        edge_index=inputs["edge_index"],
        edge_attr=inputs["edge_attr"][:, 0],
        batch=inputs["batch"],
    )
    for name in sorted(layers):
        settings = {"conv": layers[name], "return_distribution": False}
        yield f"GameNetUQ, {name}", both(functools.partial(GameNetUQ, 8, 16, **settings), data)


def lightning() -> Iterator[Call]:
    """A `LightningModule` of the layers, fitted by a `Trainer`, and read back from its file."""
    import torch_geometric.nn as nn
    from lightning.pytorch import LightningModule, Trainer, seed_everything

    inputs = graph(8)
    target = torch.randint(3, (30,), generator=torch.Generator().manual_seed(1))

    class Classifier(LightningModule):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.conv1 = getattr(nn, name)(8, 4, heads=2, dropout=0.2)
            self.conv2 = getattr(nn, name)(8, 3, concat=False)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            return self.conv2(self.conv1(x, edge_index).relu(), edge_index)

        def training_step(self, batch: object, index: int) -> torch.Tensor:
            out = self(inputs["x"], inputs["edge_index"])
            return torch.nn.functional.cross_entropy(out, target)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def fit(name: str) -> list[torch.Tensor]:
        seed_everything(1)
        model = Classifier(name)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        quiet["enable_checkpointing"] = False
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(max_epochs=3, accelerator="cpu", default_root_dir=folder, **quiet)
            trainer.fit(model, torch.utils.data.DataLoader(torch.zeros(2), num_workers=0))
            trainer.save_checkpoint(f"{folder}/model.ckpt")
            loaded = Classifier.load_from_checkpoint(f"{folder}/model.ckpt", weights_only=False)
        with torch.no_grad():
            return [each.eval()(inputs["x"], inputs["edge_index"]) for each in (model, loaded)]

    for name in ("TransformerConv", "GATv2Conv", "GATConv"):
        yield f"LightningModule, {name}", functools.partial(fit, name)


PACKAGES = {
    "polynet": polynet,
    "rgast": rgast,
    "gamenet-uq": gamenet_uq,
    "lightning": lightning,
}


def main(package: str) -> None:
    """Runs the models of a package."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ended = {}
    for name, call in PACKAGES[package]():
        try:
            ended[name] = f"sha256 {digest(call())[:12]}"
        except Exception as error:
            ended[name] = f"failed: {type(error).__name__}: {error}"
    print(json.dumps(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
