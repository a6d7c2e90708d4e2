"""How a page is written: the data with a record a line, and what is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
from kit import pages
from kit.errors import SourceError

CELLS = [
    {"name": f"cell {n}", "counts": {"right": n, "wrong": 0}, "list": [1, 2]} for n in range(99)
]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"a": {}},
        {"machine": "ours", "cells": CELLS},
        [{"release": "1.8.0", "findings": CELLS}],
        {"text": 'é \u2028 "quoted"', "none": None, "number": 0.1, "flag": True},
    ],
)
def test_dump_gives_the_data_back(data: Any) -> None:
    assert json.loads(pages.dump(data)) == data


def test_a_record_is_a_line() -> None:
    text = pages.dump({"machine": "ours", "cells": CELLS})
    lines = text.splitlines()
    assert sum('"name": "cell ' in line for line in lines) == len(CELLS)
    assert len(lines) < len(CELLS) + 10
    # One more record is one more line, and changes no other but for a comma.
    longer = pages.dump({"machine": "ours", "cells": [*CELLS, CELLS[0]]}).splitlines()
    assert len(longer) == len(lines) + 1
    assert len({line.rstrip(",") for line in longer} - {line.rstrip(",") for line in lines}) == 0


def test_write(tmp_path: Path) -> None:
    files = {tmp_path / "docs" / "a.md": "é\n", tmp_path / "b.json": "{}\n"}
    assert list(pages.write(files)) == list(files)
    assert (tmp_path / "docs" / "a.md").read_bytes() == "é\n".encode()


def test_missing_data() -> None:
    missing = pages.DOCS / "nothing.json"
    with pytest.raises(
        SourceError, match=r"'git checkout docs/nothing\.json' brings it back; else"
    ):
        pages.read_data(missing, "else measure it.")


def test_stamp() -> None:
    stamp = pages.stamp("scripts/kit.sh bench")
    assert stamp["command"] == "scripts/kit.sh bench"
    assert pages.machine() in stamp["machine"] and "cores" in stamp["machine"]
    assert stamp["when"].endswith("+00:00")
