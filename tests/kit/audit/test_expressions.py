"""Which expressions write to `self`, and which only look as if they did."""

from pathlib import Path

import pytest
from kit.audit.kinds import Kind

from audit.conftest import audit, forward

RACE = Kind.RACE
UNREAD = Kind.UNREAD


@pytest.mark.parametrize(
    "body, attribute, how",
    [
        ("self.a.b = x", "a.b", "assignment"),
        ("self.__class__.a = x", "__class__.a", "assignment"),
        ("type(self).a = x", "__class__.a", "assignment"),
        ("setattr(self, 'a', x)", "a", "setattr"),
        ("setattr(self, y, x)", "<y>", "setattr"),
        ("object.__setattr__(self, 'a', x)", "a", "setattr"),
        ("super().__setattr__('a', x)", "a", "setattr"),
        ("self.__setattr__('a', x)", "a", "setattr"),
        ("self.__dict__['a'] = x", "a", "setattr"),
        ("vars(self)['a'] = x", "a", "setattr"),
        ("self.register_buffer('a', x)", "a", "setattr"),
        ("self.a[0] = x", "a", "in-place change"),
        ("self.a[0][1] = x", "a", "in-place change"),
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
