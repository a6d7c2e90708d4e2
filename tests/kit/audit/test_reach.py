"""What of a class a call reaches, and under which guards."""

from pathlib import Path

import pytest
from kit.audit.kinds import Kind

from audit.conftest import audit, methods

RACE = Kind.RACE
UNREAD = Kind.UNREAD
LAZY = Kind.LAZY
TRAINING = Kind.TRAINING
IDEMPOTENT = Kind.IDEMPOTENT


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
