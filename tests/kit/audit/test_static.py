"""The static audit of trees and files: what is reported, and what cannot be read."""

from pathlib import Path

import pytest
from kit.audit import static
from kit.audit.kinds import Kind
from kit.errors import TreeError

from audit.conftest import FLIP, HEAD, audit, methods, put

RACE = Kind.RACE


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
