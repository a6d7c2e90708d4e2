"""What changes a model from outside: what a cell says, and what is kept."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import StandIn
from kit import environments
from kit.audit import outside
from kit.audit.outside import Outside
from kit.errors import ToolError

RIGHT = {"right": 4, "afterwards": "right", "after_a_failure": "right"}
WRONG = {**RIGHT, "silently_wrong": 2, "crashed": 1}


@pytest.mark.parametrize(
    ("part", "word"),
    [
        (RIGHT, "·"),
        ({**RIGHT, "after_a_failure": ""}, "·"),
        (WRONG, "**3 of 7**"),
        ({**WRONG, "after_a_failure": "crashed"}, "**3 of 7**, fails"),
        ({**WRONG, "afterwards": "silently_wrong"}, "**3 of 7**, stays"),
        ({**RIGHT, "after_a_failure": "silently_wrong"}, "·, fails"),
        ({**RIGHT, "crashed": 3, "disturbed": "KeyError: x"}, "**3 of 7**, disturbed"),
        (
            {"right": 4, "disturbed": "KeyError: x", "afterwards": "silently_wrong"},
            "·, disturbed, stays",
        ),
        ({"error": "ImportError: no"}, ""),
    ],
)
def test_a_cell(part: dict[str, object], word: str) -> None:
    assert outside.word_of(part) == word


def test_releases_that_say_the_same_share_a_column() -> None:
    measured = [
        Outside("1.0", "2.0", {"a": RIGHT, "b": {"error": "no"}}),
        Outside("1.1", "2.0", {"a": RIGHT, "b": {"error": "no"}}),
        Outside("2.0", "2.0", {"a": WRONG, "b": {"error": "no, too"}}),
    ]
    page = "\n".join(outside.render(measured))
    assert "| part | 1.0 to 1.1 | 2.0 |" in page
    assert "| a | · | **3 of 7** |" in page
    assert "Could be run nowhere: b (`no, too`)." in page


def test_a_program_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ImportError: no torch")
    monkeypatch.setattr(environments, "run_pyg", lambda *_, **__: failed)
    with pytest.raises(ToolError, match=r"PyG 1\.0 .* could not be measured: .*no torch"):
        outside.measure(tmp_path, "1.0", tmp_path / "python")


def test_the_committed_data() -> None:
    measured = outside.load()
    assert outside.dump(measured) == outside.DATA.read_text(encoding="utf-8")
    assert json.loads(outside.dump(measured))


# How a release says that it does not have a part, or not yet what it takes.
LACKING = (
    "has no attribute",
    "No module named 'torch_geometric",
    "No module named 'class_resolver'",
    "unexpected keyword argument 'num_sampled_nodes_per_hop'",
    # Up to 2.1.0, `timeit` needs a GPU; and `to_hetero` of 2.1.0 a torch of its time.
    "Tried to instantiate dummy base class Event",
    "'Tracer' object has no attribute '_module_getattr'",
)


def test_a_cell_is_empty_only_where_the_release_lacks_the_part() -> None:
    for each in outside.load():
        for name, part in each.parts.items():
            error = part.get("error", LACKING[0])
            assert any(reason in error for reason in LACKING), (each.release, name, error)
            assert "numpy" not in error and "torch.fx" not in error, (each.release, name, error)


def test_what_the_program_says_is_kept(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.answer("outside.py", {"json": {"torch": "2.13.0", "parts": {"a": RIGHT}}})
    assert outside.measure(tmp_path, "1.0", stand_in.path) == Outside("1.0", "2.13.0", {"a": RIGHT})
