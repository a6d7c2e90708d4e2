"""The status page: what it says of what the matrix gave, and the committed one up to date."""

import json
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from conftest import World
from kit import releases, status, status_page
from test_status import gather, leave, leave_scripted


def test_torchscript(world: World, tmp_path: Path) -> None:
    for name, version in (("pyg180-torch213", "1.8.0"), ("pyg190-torch213", "1.9.0")):
        leave(tmp_path / "results", name, version)
    ended = {"calls": 1000, "right": 998, "crashed": 1, "silently_wrong": 1}
    right = {**ended, "right": 1000, "crashed": 0, "silently_wrong": 0}
    no = {"error": "RuntimeError: it cannot be scripted"}
    ends = {
        ("pristine", "scripted"): ended,
        ("pristine", "saved"): {"died": 11},
        ("pristine", "frozen"): {"died": 6},
        ("pristine", "optimized"): right,
    }
    rows = [
        {"tree": tree, "form": form, "layers": {"gatv2_conv": end}}
        for (tree, form), end in ends.items()
    ]
    rows += [{**row, "tree": "patched", "layers": {"gatv2_conv": right}} for row in rows]
    refused = [{**row, "layers": {"gatv2_conv": no}} for row in rows]
    for name, property_ in (("pyg180-torch213", rows), ("pyg190-torch213", refused)):
        file = tmp_path / "results" / f"{name}.xml"
        value = quoteattr(json.dumps(property_))
        added = f'<property name="torchscript" value={value} /></properties>'
        file.write_text(file.read_text().replace("</properties>", added, 1))
    page = status_page.render(gather(tmp_path / "results", []), releases.load())
    assert (
        "| 1.8.0 | `GATv2Conv` | 3.13.5 | 2.13.0 | 1,000 | 0.1%, 0.1% → 0.0%, 0.0% | "
        "died: SIGSEGV → 0.0%, 0.0% | died: SIGABRT → 0.0%, 0.0% | 0.0%, 0.0% → 0.0%, 0.0% | "
        "2026-11-23 |"
    ) in page
    # What is not scripted does not count.
    assert page.count("| 1.8.0 | `") == 1 and "| 1.9.0 | `" not in page
    assert (
        "As released, 2 of 4 processes died, 1 ended with calls that crashed or were wrong, and 1 "
        "gave right answers alone. Patched, 0 of 4 processes died, 0 ended"
    ) in page


def test_what_torch_saves_and_cannot_load(world: World, tmp_path: Path) -> None:
    leave_scripted(tmp_path / "results", "pyg180-torch213-ext-scripted", 3_000, 3_000)
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    gathered = gather(tmp_path / "results", [])
    for row in gathered.scripted[0].rows:
        if row["form"] == "saved":
            row["layers"]["gatv2_conv"] = {"error": "RuntimeError: Type mismatch"}
    page = status_page.render(gathered, releases.load())
    assert "| 3,000 | 0.0%, 0.0% → 0.0%, 0.0% | refused → refused | 0.0%, 0.0% →" in page
    assert "*Refused* is what torch itself refuses" in page
    assert "As released, 0 of 3 processes died" in page


def test_scripted_layers_that_are_called_more_often(world: World, tmp_path: Path) -> None:
    leave_scripted(tmp_path / "results", "pyg180-torch213-ext-scripted", 20_000, 20_000)
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    leave_scripted(tmp_path / "fewer", "pyg180-torch213-scripted", 3_000, 3_000)
    gathered = gather(tmp_path / "results", [])
    assert [cell.environment for cell in gathered.cells] == ["pyg180-torch213"]
    more, fewer = gathered.scripted, gather(tmp_path / "fewer", []).scripted
    assert gathered.failed == []
    for scripted in ([*more, *fewer], [*fewer, *more]):
        page = status_page.render(replace(gathered, scripted=scripted), releases.load())
        assert page.count("| 1.8.0 | `GATv2Conv` | 3.13.5 | 2.13.0 | 20,000 | 0.0%, 0.0% →") == 1
        assert "| 3,000 |" not in page


def test_scripted_layers_that_are_not_right_have_failed(world: World, tmp_path: Path) -> None:
    leave_scripted(tmp_path / "results", "pyg180-torch213-ext-scripted", 100, 99)
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    gathered = gather(tmp_path / "results", [])
    assert gathered.failed == ["pyg180-torch213-ext-scripted"]
    page = status_page.render(gathered, releases.load())
    assert "- `pyg180-torch213-ext-scripted`: 1 tests failed" in page


@pytest.mark.parametrize("name", ["py313t-pyg180-torch213", "py313-pyg180-torch213"])
def test_other_pythons_have_a_table_of_their_own(world: World, tmp_path: Path, name: str) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    leave(tmp_path / "results", name, "1.8.0")
    gathered = gather(tmp_path / "results", [])
    assert status.columns(gathered) == ["torch 2.13.0"]
    python = "3.13t" if "t-" in name else "3.13"
    assert gathered.cells[1].column == f"torch 2.13.0, Python {python}"
    page = status_page.render(gathered, releases.load())
    _, table = page.split("## On other Pythons")
    full = python.replace("3.13", "3.13.5")
    assert f"| 1.8.0 | {full} | 2.13.0 | 20.0%, 5.0% → 0.0%, 0.0% | 2026-11-23 |" in table


@pytest.mark.parametrize("failures, errors", [(1, 0), (0, 1)])
def test_what_fails_is_said(world: World, tmp_path: Path, failures: int, errors: int) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0", failures, errors)
    gathered = gather(tmp_path / "results", [])
    assert not gathered.cells[0].holds
    assert "- `pyg180-torch213`: 1 tests failed" in status_page.render(gathered, releases.load())


def test_committed_page_says_what_the_data_say() -> None:
    recorded = status.load(status.DATA)
    page = status.PAGE.read_text(encoding="utf-8")
    assert page == status_page.render(recorded, releases.load())
