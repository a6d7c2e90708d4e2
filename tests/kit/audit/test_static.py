"""The static audit: what it finds, and how it classes that."""

import textwrap
from pathlib import Path

import pytest
from kit.audit import kinds, static
from kit.audit.kinds import Kind, Write
from kit.errors import TreeError

RACE, UNREAD, CACHE, LAZY = Kind.RACE, Kind.UNREAD, Kind.CACHE, Kind.LAZY
TRAINING, IDEMPOTENT, MEMO = Kind.TRAINING, Kind.IDEMPOTENT, Kind.MEMO

Rows = list[tuple[str, str, Kind]]

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


def kinds_of(writes: list[Write]) -> Rows:
    return [(write.attribute, write.how, write.kind) for write in writes]


@pytest.mark.parametrize(
    "body, attribute, how",
    [
        ("self.a = x", "a", "assignment"),
        ("self.a: object = x", "a", "assignment"),
        ("self.a, b = x", "a", "assignment"),
        ("b, *self.a = x", "a", "assignment"),
        ("for self.a in x:\n    pass", "a", "assignment"),
        ("with x as self.a:\n    pass", "a", "assignment"),
        ("try:\n    pass\nexcept ValueError:\n    self.a = x", "a", "assignment"),
        ("match x:\n    case 1:\n        self.a = x", "a", "assignment"),
        ("def inner():\n    self.a = x\ninner()", "a", "assignment"),
        ("this = self\nthis.a = x", "a", "assignment"),
        ("self.a.b = x", "a.b", "assignment"),
        ("for conv in self.a:\n    conv.b = x", "a.b", "assignment"),
        ("for i, conv in enumerate(self.a):\n    conv.b = x", "a.b", "assignment"),
        ("for i, conv in zip(x, self.a):\n    conv.b = x", "a.b", "assignment"),
        ("for conv in self.a.modules():\n    conv.b = x", "a.b", "assignment"),
        ("for _, conv in self.a.items():\n    conv.b = x", "a.b", "assignment"),
        ("self.__class__.a = x", "__class__.a", "assignment"),
        ("type(self).a = x", "__class__.a", "assignment"),
        ("self.a += x", "a", "augmented assignment"),
        ("self.a[0] += x", "a", "augmented assignment"),
        ("setattr(self, 'a', x)", "a", "setattr"),
        ("setattr(self, y, x)", "<y>", "setattr"),
        ("object.__setattr__(self, 'a', x)", "a", "setattr"),
        ("super().__setattr__('a', x)", "a", "setattr"),
        ("self.__setattr__('a', x)", "a", "setattr"),
        ("self.__dict__['a'] = x", "a", "setattr"),
        ("vars(self)['a'] = x", "a", "setattr"),
        ("self.register_buffer('a', x)", "a", "setattr"),
        ("if x:\n    del self.a", "a", "del"),
        ("if x:\n    delattr(self, 'a')", "a", "del"),
        ("self.a[0] = x", "a", "in-place change"),
        ("self.a[0][1] = x", "a", "in-place change"),
        ("del self.a[x]", "a", "del"),
        ("self.a.data = x", "a", "in-place change"),
        ("self.a.data[0] = x", "a", "in-place change"),
        ("self.a.append(x)", "a", "in-place change"),
        ("self.a.update(b=x)", "a", "in-place change"),
        ("self.a.copy_(x)", "a", "in-place change"),
        ("self.a.t().copy_(x)", "a", "in-place change"),
        ("f = lambda: self.a.append(x)", "a", "in-place change"),
        ("[self.a.append(i) for i in x]", "a", "in-place change"),
        ("torch.nn.init.uniform_(self.a, x)", "a", "in-place change"),
        ("torch.add(x, x, out=self.a)", "a", "in-place change"),
        ("b = self.a\nb.append(x)", "a", "in-place change"),
        ("b = self.a\nb[0] = x", "a", "in-place change"),
        ("b = self.a.detach()\nb.add_(x)", "a", "in-place change"),
        ("if (b := self.a) is not None:\n    b.add_(x)", "a", "in-place change"),
        ("if x:\n    b = self.a\nelse:\n    b = x\nb.add_(x)", "a", "in-place change"),
        ("if x:\n    b = x\nelse:\n    b = self.a\nb.add_(x)", "a", "in-place change"),
    ],
)
def test_how(root: Path, body: str, attribute: str, how: str) -> None:
    writes = audit(root, forward(body))
    assert [(write.attribute, write.how) for write in writes] == [(attribute, how)]
    assert writes[0].kind in (RACE, UNREAD)


@pytest.mark.parametrize(
    "body",
    [
        "a = x\na.append(x)",
        "x.a = self.a",
        "self.a: object",
        "self.lin(x).relu_()",
        "b = self.a\nb = x\nb.append(x)",
        "b = self.a.clone()\nb.add_(x)",
        "x.mul_(self.a).add_(self.b)",
        "self.a == x",
        "return self.update(x)",
        "for i, conv in enumerate(self.a):\n    i.b = x",
        "def inner(self):\n    self.a = x",
    ],
)
def test_no_write(root: Path, body: str) -> None:
    assert audit(root, forward(body)) == []


@pytest.mark.parametrize(
    "body, expected",
    [
        # A value of the call.
        ("self.a = x\nreturn self.a", [("a", RACE)]),
        ("self.a = x", [("a", UNREAD)]),
        ("b = x + 1\nself.a = b\nreturn self.a", [("a", RACE)]),
        ("self.a = 1\nself.a = x\nreturn self.a", [("a", RACE), ("a", RACE)]),
        ("self.a = x\nreturn self.a.b", [("a", RACE)]),
        ("self.a += 1", [("a", RACE)]),
        ("self.conv.a = x", [("conv.a", RACE)]),
        ("self.a.append(x)", [("a", UNREAD)]),
        ("return self.a.setdefault(x, 1)", [("a", RACE)]),
        ("if x not in self.a:\n    self.a[x] = len(self.a)\nreturn self.a[x]", [("a", RACE)]),
        ("self.a = torch.rand(3)\nreturn self.a", [("a", RACE)]),
        ("self.a = self.encoder()\nreturn self.a", [("a", RACE)]),
        ("self.b = x\nself.a = self.b\nreturn self.a", [("a", RACE), ("b", RACE)]),
        # The same for every thread.
        ("self.a = False\nreturn self.a", [("a", IDEMPOTENT)]),
        ("self.a = 1\nself.a = 1\nreturn self.a", [("a", IDEMPOTENT), ("a", IDEMPOTENT)]),
        ("self.a = 1\nself.a = 2\nreturn self.a", [("a", RACE), ("a", RACE)]),
        ("b = 1\nself.a = b\nb = 2\nself.a = b\nself.a", [("a", RACE), ("a", RACE)]),
        ("self.a = self.heads * 2\nreturn self.a", [("a", IDEMPOTENT)]),
        ("self.a = torch.zeros(self.heads)\nreturn self.a", [("a", IDEMPOTENT)]),
        ("b = self.heads\nself.a = b\nreturn self.a", [("a", IDEMPOTENT)]),
        ("self.a.zero_()\nreturn self.a", [("a", IDEMPOTENT)]),
        ("if x is None:\n    self.a = True\nreturn self.a", [("a", RACE)]),
        ("if x is None:\n    return x\nself.a = True\nreturn self.a", [("a", RACE)]),
        ("if self.heads:\n    self.a = True\nreturn self.a", [("a", IDEMPOTENT)]),
        # Training.
        ("if self.training:\n    self.a = x\nreturn self.a", [("a", TRAINING)]),
        ("if self.training and x:\n    self.a = x\nreturn self.a", [("a", TRAINING)]),
        ("if self.training or x:\n    self.a = x\nreturn self.a", [("a", RACE)]),
        ("if not self.training:\n    self.a = x\nreturn self.a", [("a", RACE)]),
        ("if not self.training:\n    pass\nelse:\n    self.a = x\nself.a", [("a", TRAINING)]),
        ("if not self.training:\n    return x\nself.a = x\nself.a", [("a", TRAINING)]),
        ("if not self.training:\n    pass\nself.a = x\nself.a", [("a", RACE)]),
        ("if self.training:\n    return x\nself.a = x\nself.a", [("a", RACE)]),
        ("if y:\n    if not self.training:\n        return x\nself.a = x\nself.a", [("a", RACE)]),
        ("if not self.training or y:\n    return x\nself.a = x\nself.a", [("a", TRAINING)]),
        ("if not (self.training and y):\n    self.a = x\nself.a", [("a", RACE)]),
        ("def f():\n    if not self.training:\n        return\nself.a = x\nself.a", [("a", RACE)]),
        ("self.a = x\nif self.training:\n    return self.a", [("a", TRAINING)]),
        ("if x.training:\n    self.a = x\nreturn self.a", [("a", RACE)]),
        ("is_on = self.training\nif is_on:\n    self.a = x\nself.a", [("a", TRAINING)]),
        # A cache that the user asks for.
        ("if self.cached:\n    self.a = x\nreturn self.a", [("a", CACHE)]),
        ("c = self.a\nif c is None:\n    if self.cached:\n        self.a = x", [("a", CACHE)]),
        ("if not self.cached:\n    self.a = x\nreturn self.a", [("a", RACE)]),
        # Once.
        ("if self.a is None:\n    self.a = x\nreturn self.a", [("a", LAZY)]),
        ("if self.a is not None:\n    return self.a\nself.a = x", [("a", LAZY)]),
        ("if self.a is not None:\n    self.a = x\nreturn self.a", [("a", RACE)]),
        ("c = self.a\nif c is None:\n    self.a = x\nreturn c", [("a", LAZY)]),
        ("if not hasattr(self, 'a'):\n    self.a = x\nreturn self.a", [("a", LAZY)]),
        ("if hasattr(self, 'a'):\n    self.a = x\nreturn self.a", [("a", RACE)]),
        ("if not self.r:\n    self.a = x\n    self.r = 1\nself.a", [("a", LAZY), ("r", LAZY)]),
        ("if is_uninitialized_parameter(self.w):\n    self.a = x\nself.a", [("a", LAZY)]),
        ("if isinstance(self.w, UninitializedParameter):\n    self.a = x", [("a", LAZY)]),
        # Items by key: added once, never removed, and made from nothing that changes.
        ("if x not in self.a:\n    self.a[x] = y\nreturn self.a[x]", [("a", MEMO)]),
        ("if x in self.a:\n    return self.a[x]\nself.a[x] = y", [("a", MEMO)]),
        ("b = self.a.get(x)\nif b is None:\n    b = y\n    self.a[x] = b\nreturn b", [("a", MEMO)]),
        (
            "try:\n    return self.a[x]\nexcept KeyError:\n    self.a[x] = y\nreturn y",
            [("a", MEMO)],
        ),
        ("if y not in self.a:\n    self.a[x] = y\nreturn self.a[x]", [("a", RACE)]),
        (
            "if x not in self.a:\n    self.a.clear()\n    self.a[x] = y\nreturn self.a[x]",
            [("a", RACE), ("a", RACE)],
        ),
        # What is reset in every call is no lazy initialisation.
        ("if self.a is None:\n    self.a = x\nself.a = None", [("a", RACE), ("a", RACE)]),
        ("if self.bias is None:\n    self.a = x\nreturn self.a", [("a", RACE)]),
    ],
)
def test_rules(root: Path, body: str, expected: list[tuple[str, Kind]]) -> None:
    writes = audit(root, forward(body))
    assert [(write.attribute, write.kind) for write in writes] == expected
    assert all(write.reason.endswith(".") for write in writes)


@pytest.mark.parametrize(
    "text, expected",
    [
        # Not reached.
        (methods("forward(self, x): return x", "other(self, x): self.a = x"), []),
        (methods("forward(self): pass", "__init__(self, x): self.a = x"), []),
        (methods("forward(self): pass", "message(self, x): self.a = x"), []),
        (methods("forward(self): pass", "__call__(self, x): self.a = x"), [("a", UNREAD)]),
        (methods("forward(self, x): m(x)", "m(self, x): self.a = x"), []),
        ("class A:\n    def forward(self, x):\n        self.a = x\n", []),
        (methods("forward(*args): pass"), []),
        # Reached through a call, a value, a property, a setter, another name for self.
        (methods("forward(this, x): this.m(x)", "m(me, x): me.a = x"), [("a", UNREAD)]),
        (methods("forward(self, x): f(self.m, x)", "m(self, x): self.a = x"), [("a", UNREAD)]),
        (methods("encode(self, x): self.a = x", "forward(self): pass"), [("a", UNREAD)]),
        (methods("forward(self, x): self.m(x)", "m(self, x): self.n(x)", "n(self, x): self.a = x"),
         [("a", UNREAD)]),
        (methods("forward(self): return self.p")
         + "    @property\n    def p(self):\n        self.a += 1\n", [("a", RACE)]),
        (methods("forward(self, x): self.p = x")
         + "    @property\n    def p(self): return self.q\n"
         + "    @p.setter\n    def p(self, v): self.q = v\n", [("q", UNREAD)]),
        (methods("forward(self, x): return self.p")
         + "    @property\n    def p(self): return self.q\n"
         + "    @p.setter\n    def p(self, v): self.q = v\n", []),
        # Hooks, of message passing and of torch.
        (methods("forward(self, x): self.propagate(x)", "message(self, x): self.a = x"),
         [("a", UNREAD)]),
        (methods("forward(self, x): self.edge_updater(x)", "edge_update(self, x): self.a = x"),
         [("a", UNREAD)]),
        (methods("__init__(self): self.register_forward_pre_hook(self.m)",
                 "forward(self): pass", "m(self, x): self.a = x"), [("a", UNREAD)]),
        (methods("__init__(self): self.hook = self.register_forward_pre_hook(self.m)",
                 "forward(self): pass",
                 "m(self, x):\n    self.a = x\n    self.n(x)\n    self.hook.remove()",
                 "n(self, x): self.b = x"),
         [("a", LAZY), ("b", LAZY), ("hook", LAZY)]),
        # Guards on the way: they must hold on every one.
        (methods("forward(self, x):\n    if self.training: self.m(x)",
                 "m(self, x):\n    self.a = x\n    return self.a"), [("a", TRAINING)]),
        (methods("forward(self, x):\n    if self.training: self.m(x)\n    self.m(x)",
                 "m(self, x):\n    self.a = x\n    return self.a"), [("a", RACE)]),
        (methods("forward(self, x):\n    self.m(x)\n    if self.training: self.m(x)",
                 "m(self, x):\n    self.a = x\n    return self.a"), [("a", RACE)]),
        (methods("forward(self, x):\n"
                 "    if self.cached: self.m(x)\n    if self.training: self.m(x)",
                 "m(self, x):\n    self.a = x\n    return self.a"), [("a", RACE)]),
        (methods("forward(self, x):\n    if x: self.m()",
                 "m(self):\n    self.a = True\n    return self.a"), [("a", RACE)]),
        (methods("forward(self, x):\n    self.m()",
                 "m(self):\n    self.a = True\n    return self.a"), [("a", IDEMPOTENT)]),
        # Without a forward pass, the public methods are what is run.
        (methods("explain(self, x): self.a = x", "reset_b(self, x): self.b = x",
                 "_c(self, x): self.c = x"), [("a", UNREAD)]),
        # A function that is given what self holds.
        ("def mask(model, m):\n    for part in model.modules():\n        part.m = m\n"
         + methods("forward(self, x): mask(self.model, x)"), [("model.m", RACE)]),
        ("def keep(me, x):\n    me.a = x\n" + methods("forward(self, x): keep(self, x)"),
         [("a", UNREAD)]),
    ],
)  # fmt: skip
def test_reachability(root: Path, text: str, expected: list[tuple[str, Kind]]) -> None:
    writes = audit(root, text)
    assert [(write.attribute, write.kind) for write in writes] == expected


FLIP = """
class Flip(MessagePassing):
    def forward(self, x):
        self.flow = 'source_to_target'
        x = self.propagate(x)
        self.flow = 'target_to_source'
        return self.propagate(x)
"""


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


def test_place(root: Path) -> None:
    (write,) = audit(root, methods("forward(self, x): self.m(x)", "m(self, x): self.a = x"))
    lines = (root / write.file).read_text().splitlines()
    assert lines[write.line - 1].strip() == "def m(self, x): self.a = x"
    assert (write.cls, write.method, write.reads) == ("A", "m", ())


def test_users_own_files(root: Path, tmp_path: Path) -> None:
    audit(root, methods("forward(self, x): self.a = x"))
    child = "from torch_geometric.nn.layer import A\nclass B(A): pass\n"
    own = put(tmp_path, "service/models.py", HEAD + FLIP + child)
    writes = static.audit_files(root, [own])
    # PyG's own class, from which another one might derive, is not reported.
    assert [(w.cls, w.module, w.kind) for w in writes] == [("Flip", "models", RACE)] * 2
    assert writes[0].file == own.as_posix()


def test_reviewed(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = put(
        tmp_path,
        "audit.toml",
        '[[reviewed]]\nclass = "A"\nattribute = "a"\nkind = "benign race"\nreason = "So it is."\n',
    )
    monkeypatch.setattr(kinds, "TABLE", table)
    text = forward("self.a = x\nself.b = x\nreturn self.a, self.b")
    one, other = audit(root, text)
    assert (one.kind, one.reason) == (Kind.BENIGN, "Reviewed: So it is.")
    assert other.kind is RACE
    # A user's class of that name is another one.
    own = put(tmp_path, "own.py", HEAD + text)
    assert [write.kind for write in static.audit_files(root, [own])] == [RACE, RACE]


def test_table() -> None:
    reviewed = kinds.load_reviewed()
    assert len({(entry.cls, entry.attribute) for entry in reviewed}) == len(reviewed)
    assert all(entry.reason.endswith(".") for entry in reviewed)


def test_no_pyg(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="holds no Python files"):
        static.audit_tree(tmp_path)
    with pytest.raises(TreeError, match="holds no PyG: expected a directory with"):
        static.audit_files(tmp_path, [put(tmp_path, "own.py", "")])
    with pytest.raises(TreeError, match=r"missing\.py cannot be read"):
        static.audit_files(root, [root / "missing.py"])


@pytest.mark.parametrize("text", ["def f(:\n", "a = '\\N{nothing}'\n", "a = 1\0\n"])
def test_does_not_parse(root: Path, text: str) -> None:
    put(root, "torch_geometric/nn/broken.py", text)
    with pytest.raises(TreeError, match=r"broken\.py does not parse"):
        static.audit_tree(root)
