"""Which classes there are, from which files, and what they inherit."""

import textwrap
from pathlib import Path

import pytest
from kit.audit.kinds import Kind, Write

from audit.conftest import FLIP, audit, forward, methods, put

Rows = list[tuple[str, str, Kind]]

RACE = Kind.RACE
UNREAD = Kind.UNREAD


def kinds_of(writes: list[Write]) -> Rows:
    return [(write.attribute, write.how, write.kind) for write in writes]


def test_inheritance(root: Path) -> None:
    writes = audit(root, FLIP)
    assert {write.kind for write in writes} == {RACE}
    assert [(write.cls, write.module, write.file) for write in writes] == [
        ("Flip", "torch_geometric.nn.layer", "torch_geometric/nn/layer.py")
    ] * 2
    # The base class reads it, in another file.
    assert writes[0].reads == (("torch_geometric/nn/conv/base.py", 9),)


@pytest.mark.parametrize(
    "imports, base",
    [
        ("from torch_geometric.nn.layer import A", "A"),
        ("from torch_geometric.nn import A", "A"),
        ("from .layer import A as B", "B"),
        ("from . import layer", "layer.A"),
        ("import torch_geometric.nn.layer", "torch_geometric.nn.layer.A"),
        ("import torch_geometric.nn as nn", "nn.A"),
        ("try:\n    from .layer import A\nexcept ImportError:\n    A = None", "A"),
    ],
)
def test_imports(root: Path, imports: str, base: str) -> None:
    put(root, "torch_geometric/nn/__init__.py", "from .layer import *\n")
    child = f"{imports}\n\nclass B2({base}):\n    def m(self): return self.a\n"
    put(root, "torch_geometric/nn/child.py", child)
    # The base writes it, only the subclass reads it; it is reported once, for the base.
    writes = audit(root, methods("forward(self, x):\n    self.a = x\n    self.m()"))
    assert [(w.cls, w.attribute, w.kind) for w in writes] == [("A", "a", RACE)]
    line = child.splitlines().index("    def m(self): return self.a") + 1
    assert writes[0].reads == (("torch_geometric/nn/child.py", line),)


def test_order_of_lookup(root: Path) -> None:
    text = methods("forward(self, x): self.m(x)", "m(self, x): self.old = x")
    text += "class B(A):\n    def m(self, x):\n        self.new = x\n        {}\n"
    assert {w.attribute for w in audit(root, text.format("pass"))} == {"old", "new"}
    # Nothing but the subclass is run: what it replaces is not reached.
    only = text.replace("class A(Module)", "class A(object)").replace("(A)", "(A, Module)")
    assert {w.attribute for w in audit(root, only.format("pass"))} == {"new"}
    for call in ("super().m(x)", "super(B, self).m(x)", "A.m(self, x)"):
        assert {w.attribute for w in audit(root, only.format(call))} == {"old", "new"}


def test_diamond(root: Path) -> None:
    text = methods("forward(self, x): self.m(x)", "m(self, x): self.old = x")
    text = text.replace("(Module)", "(object)") + "class B(A): pass\n"
    text += "class C(A):\n    def m(self, x): self.new = x\nclass D(B, C, Module): pass\n"
    assert [write.attribute for write in audit(root, text)] == ["new"]


def test_other_packages(root: Path) -> None:
    # In site-packages torch lies beside PyG, and is not audited.
    put(root, "torch/nn/__init__.py", "class Module:\n    def __call__(self, x): self.b = x\n")
    assert kinds_of(audit(root, forward("self.a = x"))) == [("a", "assignment", UNREAD)]


def test_circular_imports(root: Path) -> None:
    put(root, "torch_geometric/nn/__init__.py", "from .layer import *\n")
    text = "from torch_geometric.nn import *\nfrom . import B\n" + forward("self.a = x")
    text += "class C(B): pass\nclass D(Unknown): pass\n"
    assert kinds_of(audit(root, text)) == [("a", "assignment", UNREAD)]


def test_conditional_class(root: Path) -> None:
    text = methods("forward(self, x): self.a = x")
    for head in ("if torch:\n", "try:\n    pass\nexcept ImportError:\n"):
        assert kinds_of(audit(root, head + textwrap.indent(text, "    "))) == [
            ("a", "assignment", UNREAD)
        ]
