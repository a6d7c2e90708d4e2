"""RECORD and the receipt: rows changed and given back to the byte, and what nobody wrote."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import receipts
from kit.errors import TreeError
from kit.receipts import Original, Receipt

RECORD = b"""torch_geometric/__init__.py,sha256=abc,3
"with,comma.py",sha256=abc,3\r
torch_geometric/nn/conv/gatv2_conv.py,sha256=old,5
torch_geometric-1.8.0.dist-info/RECORD,,"""


def test_row_is_as_pip_writes_it() -> None:
    row = receipts.row("a/b.py", b"")
    assert row == "a/b.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0"


def test_rows_are_changed_in_their_place() -> None:
    path = "torch_geometric/nn/conv/gatv2_conv.py"
    assert receipts.find_row(RECORD, path) == f"{path},sha256=old,5"
    assert receipts.find_row(RECORD, "with,comma.py") == '"with,comma.py",sha256=abc,3'
    assert receipts.find_row(RECORD, "none.py") is None
    changed = receipts.set_rows(RECORD, {path: f"{path},sha256=new,6", "new.py": "new.py,x,1"})
    assert changed.splitlines(keepends=True)[2:] == [
        f"{path},sha256=new,6\n".encode(),
        b"new.py,x,1\n",
        b"torch_geometric-1.8.0.dist-info/RECORD,,",
    ]
    assert receipts.set_rows(changed, {path: f"{path},sha256=old,5", "new.py": None}) == RECORD


# A file's name has no lone surrogates but those that stand for bytes that are not UTF-8.
names = st.text(st.characters(codec="utf-8", blacklist_characters='\r\n",\0'), min_size=1)
lines = st.binary(max_size=30).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b""))


@given(st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n"])), min_size=1), names, names)
def test_any_record_is_given_back_to_the_byte(
    rows: list[tuple[bytes, bytes]], old: str, new: str
) -> None:
    known = {receipts._path_of(line) for line, _ in rows}
    if {old, f"new {new}"} & known:
        return
    record = b"".join(line + end for line, end in rows) + f"{old},sha256=a,1\nlast,,".encode()
    before = receipts.find_row(record, old)
    changed = receipts.set_rows(record, {old: f"{old},sha256=b,2", f"new {new}": f"new {new},,"})
    assert changed != record
    assert receipts.set_rows(changed, {old: before, f"new {new}": None}) == record


@given(st.binary(max_size=200), names)
def test_any_bytes_are_read(record: bytes, path: str) -> None:
    receipts.find_row(record, path)
    assert receipts.set_rows(record, {}) == record


originals = st.builds(
    Original,
    st.none() | names,
    st.none() | st.integers(0, (1 << 63) - 1),
    st.none() | names,
)


@given(st.dictionaries(names, originals), st.dictionaries(names, names))
def test_a_receipt_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, Original],
    patches: dict[str, str],
) -> None:
    file = tmp_path_factory.getbasetemp() / "receipt.json"
    receipt = Receipt("2.3.1", patches, "2026-11-26T00:00:00+00:00", "", files)
    file.write_bytes(receipts.dump(receipt))
    assert receipts.read(file) == receipt


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=10), children),
    max_leaves=5,
)
FIELDS = json.loads(receipts.dump(Receipt(files={"a": Original(None, None, None)})))


@given(st.sampled_from(sorted(FIELDS)), json_values)
def test_a_receipt_with_any_other_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    file = tmp_path_factory.getbasetemp() / "receipt.json"
    file.write_text(json.dumps({**FIELDS, name: value}))
    try:
        receipts.read(file)
    except TreeError as error:
        assert str(file) in str(error)


@given(st.binary())
def test_a_receipt_of_any_bytes_is_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "receipt.json"
    file.write_bytes(content)
    with pytest.raises(TreeError, match="cannot be understood"):
        receipts.read(file)


def test_there_is_no_receipt(tmp_path: Path) -> None:
    assert receipts.read(tmp_path / receipts.NAME) is None
