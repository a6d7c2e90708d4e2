"""Which statements write to `self`, and under which guards they run."""

from pathlib import Path

import pytest
from kit.audit.kinds import Kind

from audit.conftest import audit, forward

RACE = Kind.RACE
UNREAD = Kind.UNREAD
TRAINING = Kind.TRAINING
CACHE = Kind.CACHE


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
        ("self.a += x", "a", "augmented assignment"),
        ("self.a[0] += x", "a", "augmented assignment"),
        ("if x:\n    del self.a", "a", "del"),
        ("if x:\n    delattr(self, 'a')", "a", "del"),
        ("del self.a[x]", "a", "del"),
        ("for conv in self.a:\n    conv.b = x", "a.b", "assignment"),
        ("for i, conv in enumerate(self.a):\n    conv.b = x", "a.b", "assignment"),
        ("for i, conv in zip(x, self.a):\n    conv.b = x", "a.b", "assignment"),
        ("for conv in self.a.modules():\n    conv.b = x", "a.b", "assignment"),
        ("for _, conv in self.a.items():\n    conv.b = x", "a.b", "assignment"),
        ("if x:\n    b = self.a\nelse:\n    b = x\nb.add_(x)", "a", "in-place change"),
        ("if x:\n    b = x\nelse:\n    b = self.a\nb.add_(x)", "a", "in-place change"),
    ],
)
def test_how(root: Path, body: str, attribute: str, how: str) -> None:
    writes = audit(root, forward(body))
    assert [(write.attribute, write.how) for write in writes] == [(attribute, how)]
    assert writes[0].kind in (RACE, UNREAD)


@pytest.mark.parametrize(
    "body, expected",
    [
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
    ],
)
def test_guards(root: Path, body: str, expected: list[tuple[str, Kind]]) -> None:
    writes = audit(root, forward(body))
    assert [(write.attribute, write.kind) for write in writes] == expected
