"""A small PyG to audit, and the sources of what is put into it."""

import textwrap
from pathlib import Path

import pytest
from kit.audit import static
from kit.audit.kinds import Write

HEAD = """
import torch
from torch.nn import Module
from torch_geometric.nn.conv import MessagePassing
"""
BASE = """
import torch

class MessagePassing(torch.nn.Module):
    def __init__(self):
        self.flow = 'source_to_target'

    def propagate(self, edge_index, **kwargs):
        if self.flow == 'source_to_target':
            return self.update(self.message(**kwargs))

    def message(self, x_j):
        return x_j

    def update(self, inputs):
        return inputs
"""
FLIP = """
class Flip(MessagePassing):
    def forward(self, x):
        self.flow = 'source_to_target'
        x = self.propagate(x)
        self.flow = 'target_to_source'
        return self.propagate(x)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    put(root, "torch_geometric/__init__.py", "__version__ = '2.0.0'\n")
    put(root, "torch_geometric/nn/__init__.py", "from .conv import *\n")
    put(root, "torch_geometric/nn/conv/__init__.py", "from .base import MessagePassing\n")
    put(root, "torch_geometric/nn/conv/base.py", BASE)
    return root


def put(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def audit(root: Path, text: str) -> list[Write]:
    """Audits the source of a module of PyG, with some imports before it."""
    put(root, "torch_geometric/nn/layer.py", HEAD + textwrap.dedent(text))
    return static.audit_tree(root)


def methods(*bodies: str, base: str = "Module") -> str:
    """A class `A` with some methods; each is the text after `def `."""
    text = f"class A({base}):\n"
    return text + "".join(textwrap.indent(f"def {body}\n", "    ") for body in bodies)


def forward(body: str) -> str:
    """A class `A` whose forward pass is some statements."""
    return methods("forward(self, x, y=None):\n" + textwrap.indent(textwrap.dedent(body), "    "))
