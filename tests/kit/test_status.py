"""The status page: gathered, drawn, and the committed one up to date."""

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from conftest import World
from kit import releases
from kit import status as reporting
from kit.errors import SourceError
from kit.releases import ROOT, Catalogue

SUITE = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="{errors}" failures="{failures}" skipped="2" tests="10"
 time="1.0" timestamp="2026-11-23T18:37:19.250000+00:00" hostname="somewhere">
<properties><property name="proof" value={proof} /></properties>
<testcase classname="tests.pyg.test_conv_suite" name="test_conv_suite" time="1.0"><properties>
<property name="layers" value="60" /><property name="calls" value="393" />
<property name="calls_that_fail_before" value="9" />
<property name="layers_left_out" value="FusedGATConv, MessagePassing" />
</properties></testcase></testsuite></testsuites>
"""


def counts(crashed: int, wrong: int, spoiled: int) -> dict[str, Any]:
    ended = {"calls": 100, "right": 100 - crashed - wrong}
    ended |= {"crashed": crashed, "silently_wrong": wrong}
    return {"stress": ended, "interleaved": {**ended, "rounds": 50, "spoiled_rounds": spoiled}}


def leave(folder: Path, name: str, version: str, failures: int = 0, errors: int = 0) -> None:
    """What an environment of the matrix leaves."""
    folder.mkdir(exist_ok=True)
    proof = {
        "release": version,
        "python": "3.13.5",
        "torch": "2.13.0+cpu",
        "gil": "py313t" not in name,
        "layers": {
            "gatv2_conv": {
                "status": "affected",
                "pristine": counts(20, 5, 50),
                "patched": counts(0, 0, 0),
            }
        },
    }
    value = quoteattr(json.dumps(proof))
    (folder / f"{name}.xml").write_text(SUITE.format(proof=value, failures=failures, errors=errors))


def gather(folder: Path, expected: list[str]) -> reporting.Status:
    return reporting.gather(
        folder, releases.load(), expected, "scripts/kit.sh report", partial=True
    )


def test_gather(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "results", "pyg190-torch213", "1.9.0")
    leave(tmp_path / "results", "pyg180-torch213-ext", "1.8.0")
    status = gather(tmp_path / "results", ["pyg180-torch213-ext", "pyg200-torch213"])
    assert [cell.release for cell in status.cells] == ["1.8.0", "1.9.0"]
    assert status.missing == ["pyg200-torch213"]
    first = status.cells[0]
    assert first.tests == {"passed": 8, "failed": 0, "skipped": 2}
    assert first.holds and first.extensions and not status.cells[1].extensions
    (tmp_path / "status.json").write_text(reporting.dump(status))
    assert reporting.load(tmp_path / "status.json") == status
    page = reporting.render(status, releases.load())
    assert "## Torch 2.13.0 + extensions" in page
    assert "| 1.8.0 | 20.0%, 5.0% → 0.0%, 0.0% |" in page
    assert "these have not run: `pyg200-torch213`" in page
    assert "2026-11-23 18:37 UTC" in page
    assert "50 of 50, 0 of 50" in page
    assert "Left out, with reasons in `scripts/kit/programs/layers.py`: FusedGATConv, Mess" in page


def test_torchscript(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
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
        {"tree": tree, "form": form, "layers": {"gatv2_conv": end, "other_conv": no}}
        for (tree, form), end in ends.items()
    ]
    patched = {"gatv2_conv": right, "other_conv": no}
    rows += [{**row, "tree": "patched", "layers": patched} for row in rows]
    file = tmp_path / "results" / "pyg180-torch213.xml"
    added = f'<property name="torchscript" value={quoteattr(json.dumps(rows))} /></properties>'
    file.write_text(file.read_text().replace("</properties>", added, 1))
    page = reporting.render(gather(tmp_path / "results", []), releases.load())
    assert (
        "| 1.8.0 | `GATv2Conv` | 0.1%, 0.1% → 0.0%, 0.0% | died: SIGSEGV → 0.0%, 0.0% | "
        "died: SIGABRT → 0.0%, 0.0% | 0.0%, 0.0% → 0.0%, 0.0% |"
    ) in page
    assert page.count("1.8.0 | `") == 1


def test_python_without_the_gil_has_a_column_of_its_own(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    leave(tmp_path / "results", "py313t-pyg180-torch213", "1.8.0")
    status = gather(tmp_path / "results", [])
    assert reporting.columns(status) == ["torch 2.13.0", "torch 2.13.0, Python 3.13.5t"]


@pytest.mark.parametrize("failures, errors", [(1, 0), (0, 1)])
def test_what_fails_is_said(world: World, tmp_path: Path, failures: int, errors: int) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0", failures, errors)
    status = gather(tmp_path / "results", [])
    assert not status.cells[0].holds
    assert "- `pyg180-torch213`: 1 tests failed" in reporting.render(status, releases.load())


def test_no_results(world: World, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no results of the matrix\. Run it first"):
        gather(tmp_path, [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<testsuites/>",
        # Some of the tests alone have been run.
        '<testsuites><testsuite tests="1" failures="0" errors="0" skipped="0" '
        'timestamp="2026-11-23T18:37:19.250000+00:00"/></testsuites>',
    ],
)
def test_results_that_are_none(world: World, tmp_path: Path, text: str) -> None:
    leave(tmp_path / "results", "pyg180-torch213", "1.8.0")
    (tmp_path / "results" / "pyg180-torch213.xml").write_text(text)
    with pytest.raises(SourceError, match="Run it again: tox run -e pyg180-torch213"):
        gather(tmp_path / "results", [])


def test_refusal(world: World, tmp_path: Path) -> None:
    result = world.run("report", "--results", tmp_path / "nowhere")
    assert result.returncode == 3
    assert "holds no results of the matrix. Run it first: scripts/test.sh" in result.stderr


def test_no_data() -> None:
    with pytest.raises(SourceError, match=r"nothing.json is missing\. 'git checkout docs/nothing"):
        reporting.load(ROOT / "docs" / "nothing.json")


def test_results_must_be_whole(world: World, tmp_path: Path) -> None:
    leave(tmp_path, "pyg180-torch213", "1.8.0")
    expected = ["pyg180-torch213", "pyg190-torch213"]
    with pytest.raises(SourceError, match=r"1 environments .*: pyg190-torch213\. Run 'scripts/"):
        reporting.gather(tmp_path, releases.load(), expected, "scripts/kit.sh report")


def test_results_of_other_patches(world: World, tmp_path: Path) -> None:
    leave(tmp_path, "pyg200-torch213", "2.0.0")  # as affected, which it is not
    with pytest.raises(SourceError, match="Run it again: tox run -e pyg200-torch213"):
        gather(tmp_path, [])


@pytest.fixture(scope="module")
def committed() -> reporting.Status:
    return reporting.load(reporting.DATA)


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def test_committed_page_says_what_the_data_say(
    committed: reporting.Status, pinned: Catalogue
) -> None:
    assert reporting.PAGE.read_text(encoding="utf-8") == reporting.render(committed, pinned)
