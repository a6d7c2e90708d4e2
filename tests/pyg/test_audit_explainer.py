"""The audit of a model together with what explains it: on releases as they are, and patched."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import AUDIT, Warm

# A service as there are many: one model, which is explained as well.
SERVICE = """
import inspect
import threading

import torch
import torch_geometric.nn as nn

try:
    from torch_geometric.explain import Explainer, GNNExplainer
except ImportError:
    Explainer = None


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.GraphConv(8, 8)
        self.conv2 = nn.GraphConv(8, 3)

    def forward(self, x, edge_index, batch=None):
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


def get_inputs():
    num_nodes = int(torch.randint(8, 16, ()))
    return torch.randn(num_nodes, 8), torch.randint(num_nodes, (2, 40))


def get_explainer(model):
    if Explainer is None:
        explainer = nn.GNNExplainer(model, epochs=2, return_type='raw')
        explainer.log = False
        return explainer
    config = dict(explanation_type='model', node_mask_type='attributes', edge_mask_type='object')
    mode = 'multiclass_classification'
    if 'explainer_config' in inspect.signature(Explainer).parameters:
        config, mode = dict(explainer_config=config), 'classification'
    config['model_config'] = dict(mode=mode, task_level='node', return_type='raw')
    return Explainer(model, GNNExplainer(epochs=2), **config)


def get_algorithm(model):
    return GNNExplainer(epochs=2)


def get_none(model):
    return None


def get_number(model):
    return 5


def get_broken(model):
    raise KeyError('there is no such explainer')


def get_nothing():
    return None


def get_silent(model):
    return lambda x, edge_index: None


def get_other_arguments(model):
    return lambda graph: model(*graph)


def get_perturbing(model):
    # It changes what the layers read, in place, and puts it back.
    @torch.no_grad()
    def explain(x, edge_index):
        weight = model.conv1.lin_rel.weight
        before = weight.clone()
        weight.mul_(2)
        out = model(x, edge_index)
        weight.copy_(before)
        return out

    return explain


def get_marking(model):
    # What it sets first does no harm, and stays set for longer.
    explain_in_place = get_perturbing(model)

    def explain(x, edge_index):
        model.conv1.explained = x
        out = model(x, edge_index) + explain_in_place(x, edge_index)
        del model.conv1.explained
        return out

    return explain


def get_locked(model):
    # Explanations and predictions wait for each other.
    explainer = get_explainer(model.model)

    def explain(x, edge_index):
        with model.lock[0]:
            return explainer(x, edge_index)

    return explain


class Locked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Model()
        self.lock = [threading.Lock()]

    def forward(self, x, edge_index):
        with self.lock[0]:
            return self.model(x, edge_index)


def get_unsteady(model):
    numbers = iter(range(1000000))

    def explain(x, edge_index):
        return model(x, edge_index) * next(numbers)

    return explain


def get_left(model):
    # What it sets stays.
    def explain(x, edge_index):
        out = model(x, edge_index)
        model.conv2.lin_rel.bias = None
        return out

    return explain
"""

Audited = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run_audit(warm: dict[str, Warm], tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Runs the program beside the file of the service."""
    directory = tmp_path_factory.mktemp("service")
    (directory / "service.py").write_text(SERVICE)

    def run(
        explainer: str, tree: str = "patched", model: str = "service:Model"
    ) -> subprocess.CompletedProcess[str]:
        arguments = ["model", model, "service:get_inputs", "--calls", "32"]
        return warm[tree].run(AUDIT, *arguments, "--explainer", explainer, cwd=Path(directory))

    return run


def explained(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])["explained"]
    return report


def changed_in(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What an explanation changed, less what no call reads.

    `__clear_masks__()` of PyG 2.0.1 to 2.0.3 sets `loop_mask` on whichever module came last.
    """
    return [each for each in report["changed"] if each["attribute"] != "loop_mask"]


def test_the_released_explainer_is_not_safe(run_audit: Audited, thorough: None) -> None:
    report = explained(run_audit("service:get_explainer", "pristine"))
    predictions = report["predictions"]
    assert predictions["silently_wrong"] + predictions["crashed"] > 0, report
    assert report["at_once"]["right"] < report["at_once"]["calls"], report
    assert report["after_a_failure"] not in ("right", ""), report
    changed = {(each["class"], *each["modules"]) for each in changed_in(report)}
    assert changed == {("GraphConv", "conv1", "conv2")}
    assert any("edge_mask" in each["attribute"] for each in report["changed"])
    assert any(file.startswith("torch_geometric/") for file, _, _ in report["stack"])
    # One that draws its masks at random is not called wrong for it.
    assert (report["random"], report["compared"], report["afterwards"]) == (
        ["torch"],
        True,
        "right",
    )


def test_the_patched_explainer_is_safe(run_audit: Audited, thorough: None) -> None:
    report = explained(run_audit("service:get_explainer"))
    assert (report["afterwards"], report["explanation"]) == ("right", "right"), report
    # Where nothing was changed, nothing could be left.
    assert report["after_a_failure"] == ("right" if report["changed"] else "")
    for part in ("predictions", "at_once", "stress"):
        assert report[part]["right"] == report[part]["calls"] > 0, report
    assert (changed_in(report), report["left"]) == ([], [])
    assert bool(report["stack"]) == bool(report["changed"])
    assert (report["random"], report["compared"]) == (["torch"], True)


def test_an_explainer_that_changes_weights(run_audit: Audited, on_nightly: None) -> None:
    report = explained(run_audit("service:get_perturbing"))
    assert report["predictions"]["silently_wrong"] > 0
    assert report["changed"] == [
        {"class": "Linear", "attribute": "weight", "modules": ["conv1.lin_rel"]}
    ]
    assert report["after_a_failure"] == "silently wrong"
    # What a failure has left is put right before the next part.
    assert report["stress"]["right"] > 0


def test_a_failure_is_tried_with_each_set_of_changes(run_audit: Audited, on_nightly: None) -> None:
    report = explained(run_audit("service:get_marking"))
    assert report["after_a_failure"] == "silently wrong"


def test_a_lock_between_explanations_and_predictions(run_audit: Audited, on_nightly: None) -> None:
    report = explained(run_audit("service:get_locked", "pristine", "service:Locked"))
    for part in ("predictions", "at_once", "stress"):
        assert report[part]["right"] == report[part]["calls"] > 0, report


def test_explanations_that_differ_each_time(run_audit: Audited, on_nightly: None) -> None:
    report = explained(run_audit("service:get_unsteady"))
    assert (report["compared"], report["uncompared"], report["random"]) == (False, [], [])
    assert (report["explanation"], report["stress"]["silently_wrong"]) == ("right", 0)


def test_what_an_explanation_leaves(run_audit: Audited, on_nightly: None) -> None:
    report = explained(run_audit("service:get_left"))
    assert report["afterwards"] == "silently wrong"
    (left,) = report["left"]
    assert (left["attribute"], left["modules"]) == ("bias", ["conv2.lin_rel"])


MISTAKES = [
    ("service.get_explainer", "EXPLAINER is 'service.get_explainer', and should be package.mod"),
    ("nowhere:get_explainer", "there is no module 'nowhere'"),
    ("service:explainer", "service has no 'explainer'. It has"),
    ("service:get_broken", "called with the model, and raised:\n"),
    ("service:get_nothing", "takes 0 positional arguments but 1 was given"),
    ("service:get_none", "returned None, which cannot be called. Return what explains"),
    ("service:get_number", "an object of the type int, which cannot be called"),
    ("service:get_algorithm", "a GNNExplainer, which is an algorithm. Return what uses it"),
    ("service:get_silent", "returned nothing to compare"),
    ("service:get_other_arguments", "let the factory return a function that passes them"),
]


@pytest.mark.parametrize("explainer, said", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistakes_are_explained(
    run_audit: Audited, on_nightly: None, explainer: str, said: str
) -> None:
    result = run_audit(explainer)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "explaining.py" not in result.stderr  # no traceback of ours
    # It is said before the long audit of the model.
    assert "watching" not in result.stderr
