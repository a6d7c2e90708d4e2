"""What a write means to threads: the rules, and what a person has found out."""

from pathlib import Path

import pytest
from kit.audit import kinds, static
from kit.audit.kinds import Kind

from audit.conftest import HEAD, audit, forward, put

RACE = Kind.RACE
UNREAD = Kind.UNREAD
LAZY = Kind.LAZY
IDEMPOTENT = Kind.IDEMPOTENT
MEMO = Kind.MEMO


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
