"""The branches for upstream's main branch do what their descriptions say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, PROGRAMS, REGRESSION_TEST, Warm, run_observe
from patched_layers import LAYERS
from test_equivalence import compare_compiled

pytestmark = pytest.mark.usefixtures("on_nightly")
UPSTREAM = HERE.parents[1] / "patches" / "upstream"
TOPICS = sorted(file.parent.name for file in UPSTREAM.glob("*/test.py"))
FIXED = sorted(file.parent.name for file in UPSTREAM.glob("*/fix.patch"))
SCRIPTED = sorted(file.parent.name for file in UPSTREAM.glob("*/reproducer_torchscript.py"))


def layer_of(topic: str) -> str:
    return topic.replace("_single_gather", "")


# Those that change a layer; and those of them that pass messages themselves, which is what an
# explainer looks at.
LAYER_TOPICS = [t for t in FIXED if layer_of(t) in LAYERS and LAYERS[layer_of(t)].is_layer]
CONVS = [topic for topic in LAYER_TOPICS if LAYERS[layer_of(topic)].message]

# It computes in the same order as 2.4.0 did, so that gradients are added up in another one.
GATHER = "gatv2_conv_single_gather"

# Does a part of what `explainer` does, at the same lines: a branch to choose in its place.
INSTEAD = "explainer_exception_safety"

# Not only the threaded one of their tests fails on what is released.
ALL_FAIL = ["explainer", INSTEAD, "message_passing_fallback"]

SHARED = [
    "torch_geometric/explain/algorithm/attention_explainer.py",
    "torch_geometric/testing/__init__.py",
    "torch_geometric/testing/asserts.py",
]


def make_tree(pristine: Path, tree: Path, *patches: str, topics: list[str] | None = None) -> None:
    """Copies PyG, and applies patches of each topic that has them, and the helper of the tests."""
    topics = topics or [path.name for path in sorted(UPSTREAM.iterdir()) if path.name != INSTEAD]
    shutil.copytree(
        pristine / "torch_geometric",
        tree / "torch_geometric",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env["GIT_CEILING_DIRECTORIES"] = str(tree.parent)
    options: list[str] = []
    for patch in ("testing", *patches):
        for file in (UPSTREAM / topic / f"{patch}.patch" for topic in topics):
            if not file.is_file():
                continue
            subprocess.run(["git", "apply", *options, file], cwd=tree, env=env, check=True)
            # All of them change these in the same way.
            shared = [path for path in SHARED if f"a/{path} " in file.read_text()]
            options += [f"--exclude={path}" for path in shared]


@pytest.fixture(scope="module")
def upstream(
    trees: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Warm]]:
    """Upstream's main branch with the helper of the tests, and with the branches together."""
    trials: dict[str, tuple[list[str], list[str] | None]] = {
        "base": ([], None),
        "branch": (["fix"], None),
        INSTEAD: (["fix"], ["gatv2_conv", INSTEAD]),
    }
    with tempfile.TemporaryDirectory(prefix="tests-pyg-") as directory:
        started = {}
        for name, (patches, topics) in trials.items():
            tree = tmp_path_factory.mktemp("upstream") / name
            make_tree(trees["pristine"], tree, *patches, topics=topics)
            started[name] = Warm(tree, Path(directory))
        yield started
        for each in started.values():
            each.process.communicate()


@pytest.fixture(scope="module")
def base(upstream: dict[str, Warm]) -> Warm:
    return upstream["base"]


@pytest.fixture(scope="module")
def branch(upstream: dict[str, Warm]) -> Warm:
    return upstream["branch"]


@pytest.fixture
def fixed(upstream: dict[str, Warm], topic: str) -> Warm:
    return upstream[INSTEAD if topic == INSTEAD else "branch"]


def run_pytest(warm: Warm, file: Path) -> subprocess.CompletedProcess[str]:
    options = ["-p", "no:cacheprovider", "--rootdir", file.parent, "-c", os.devnull]
    return warm.run("-m", "pytest", *options, file)


@pytest.mark.parametrize("topic", TOPICS)
def test_new_tests(base: Warm, fixed: Warm, topic: str) -> None:
    file = UPSTREAM / topic / "test.py"
    number = file.read_text().count("\ndef test_")
    before, after = run_pytest(base, file), run_pytest(fixed, file)
    assert f"{number} passed" in after.stdout, after.stdout
    if topic in FIXED:
        failed = number if topic in ALL_FAIL else 1
        assert f"{failed} failed" in before.stdout, before.stdout
    else:
        assert f"{number} passed" in before.stdout, before.stdout


@pytest.mark.parametrize("topic", TOPICS)
def test_reproducer(base: Warm, fixed: Warm, tmp_path: Path, topic: str) -> None:
    file = UPSTREAM / topic / "reproducer.py"
    # That of `gatv2_conv` runs upstream's tests, which an archive from PyPI does not have.
    for name, text in (
        ("before", "def test_gatv2_conv():\n    pass\n"),
        ("after", (UPSTREAM / topic / "test.py").read_text()),
    ):
        test = tmp_path / name / "test" / "nn" / "conv" / "test_gatv2_conv.py"
        test.parent.mkdir(parents=True)
        test.write_text(text)
    before = base.run(file, cwd=tmp_path / "before")
    assert before.returncode == 1
    assert "\nAssertionError" in before.stderr, before.stderr
    after = fixed.run(file, cwd=tmp_path / "after")
    assert after.returncode == 0, after.stderr


@pytest.fixture
def without_extensions() -> None:
    """For what takes minutes, and uses no extension: it runs in `pygnightly-torch213` alone."""
    if find_spec("torch_sparse") is not None:
        pytest.skip("runs in the nightly's environment without extensions, which it does not use")


@pytest.mark.usefixtures("without_extensions")
@pytest.mark.parametrize("topic", SCRIPTED)
def test_reproducer_in_torchscript(base: Warm, branch: Warm, topic: str) -> None:
    file = UPSTREAM / topic / "reproducer_torchscript.py"
    before = base.run(file)
    assert before.returncode == 1
    # How one of its processes ended: by a signal, or with a call that was not right.
    assert re.search(r"\nAssertionError: <ForkProcess .* exitcode=\S+ daemon>\s*$", before.stderr)
    after = branch.run(file)
    assert (after.returncode, after.stderr) == (0, "")


def test_all_layers_that_torchscript_takes_have_a_reproducer(
    trees: dict[str, Path], base: Warm
) -> None:
    scripted = []
    for topic in LAYER_TOPICS:
        test = trees["patched"] / REGRESSION_TEST.format(layer_of(topic))
        result = base.run(PROGRAMS / "scripted.py", "scripted", "16", test)
        # A process that dies has scripted its layer, too.
        if result.returncode < 0 or "error" not in json.loads(result.stdout.splitlines()[-1]):
            scripted.append(topic)
    assert sorted(scripted) == SCRIPTED


def test_reproducers_are_short() -> None:
    files = [*UPSTREAM.glob("*/reproducer*.py*")]
    assert len(files) == len(TOPICS) + len(SCRIPTED) + 1
    for file in files:
        assert len(file.read_text().splitlines()) < 25, file


@pytest.fixture(scope="module")
def observed(base: Warm, branch: Warm) -> dict[str, dict[str, Any]]:
    layers = list(dict.fromkeys(layer_of(topic) for topic in LAYER_TOPICS))
    groups = {
        "patched": layers,
        "compiled": layers,
        "explain": list(dict.fromkeys(layer_of(topic) for topic in CONVS)),
    }
    return {
        name: run_observe(warm, "all", json.dumps(groups))
        for name, warm in (("base", base), ("branch", branch))
    }


@pytest.mark.parametrize("topic", LAYER_TOPICS)
def test_results(observed: dict[str, dict[str, Any]], topic: str) -> None:
    before, after = (observed[tree][f"settings:{layer_of(topic)}"] for tree in ("base", "branch"))
    gave = 0
    for old, new in zip(before, after):
        if topic == GATHER and "result" in old:
            old["result"][2] = new["result"][2] = "not compared"
        assert new == old
        gave += "result" in old
    assert gave > len(before) / 5


@pytest.mark.parametrize("topic", CONVS)
def test_explain(observed: dict[str, dict[str, Any]], topic: str) -> None:
    before, after = (observed[tree][f"explain:{layer_of(topic)}"] for tree in ("base", "branch"))
    if topic == GATHER:
        # What optimises a mask follows gradients; what reads the weights does not.
        before, after = ({k: v for k, v in s.items() if "Attention" in k} for s in (before, after))
    assert before and after == before


@pytest.mark.parametrize("topic", LAYER_TOPICS)
def test_compile(observed: dict[str, dict[str, Any]], topic: str) -> None:
    before, after = (observed[tree][f"compiled:{layer_of(topic)}"] for tree in ("base", "branch"))
    if topic == GATHER:
        for case in (*before.values(), *after.values()):
            if "result" in case:
                case["result"][1] = "not compared"
    compare_compiled(before, after, "torch.compile")


SUBCLASSES = """
import sys
import torch
from torch import Tensor
from typing import Optional
from torch_geometric.nn import TransformerConv

class Typed(TransformerConv):
    def message(self, query_i: Tensor, key_j: Tensor, value_j: Tensor,
                index: Tensor, ptr: Optional[Tensor], size_i: Optional[int]) -> Tensor:
        return 2 * value_j

class CallsSuper(TransformerConv):
    def message(self, query_i: Tensor, key_j: Tensor, value_j: Tensor, edge_attr: Optional[Tensor],
                index: Tensor, ptr: Optional[Tensor], size_i: Optional[int]) -> Tensor:
        return 2 * super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)

class Untyped(TransformerConv):
    def message(self, query_i, key_j, value_j, edge_attr, index, ptr, size_i):
        return 2 * super().message(query_i, key_j, value_j, edge_attr, index, ptr, size_i)

class Propagates(TransformerConv):
    def forward(self, x, edge_index):
        x = x.view(-1, 2, 4)
        # propagate_type: (query: Tensor, key: Tensor, value: Tensor, edge_attr: Optional[Tensor])
        return self.propagate(edge_index, query=x, key=x, value=x, edge_attr=None)

torch.manual_seed(12345)
x, edge_index = torch.randn(4, 8), torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
if sys.argv[2] == 'after its base':
    TransformerConv(8, 4)
torch.manual_seed(12345)
print(globals()[sys.argv[1]](8, 4, heads=2)(x, edge_index).tolist())
"""


@pytest.mark.parametrize("order", ["alone", "after its base"])
@pytest.mark.parametrize("name", ["Typed", "CallsSuper", "Untyped", "Propagates"])
def test_subclasses(base: Warm, branch: Warm, tmp_path: Path, name: str, order: str) -> None:
    """What the descriptions say of subclasses that are written for the base."""
    program = tmp_path / "subclass.py"
    program.write_text(SUBCLASSES)
    before = base.run(program, name, order)
    assert before.returncode == 0, before.stderr
    after = branch.run(program, name, order)
    assert (after.returncode, after.stdout) == (0, before.stdout), after.stderr


def test_subclass_with_edge_updater(trees: dict[str, Path], tmp_path: Path) -> None:
    """One of the reasons that the descriptions give for the list."""
    program = tmp_path / "subclass.py"
    program.write_text(SUBCLASSES)
    make_tree(trees["pristine"], tmp_path / "tree", "edge_updater")
    with tempfile.TemporaryDirectory(prefix="tests-pyg-") as directory:
        other = Warm(tmp_path / "tree", Path(directory))
        assert other.run(program, "Typed", "alone").returncode == 1
        other.process.communicate()
