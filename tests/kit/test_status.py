"""The status page: gathered, drawn, and the committed one up to date."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from conftest import World
from kit import releases, status_page
from kit import status as reporting
from kit.errors import SourceError
from kit.releases import ROOT

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
    page = status_page.render(status, releases.load())
    assert "## Torch 2.13.0 + extensions" in page
    assert "| 1.8.0 | 20.0%, 5.0% → 0.0%, 0.0% | 2026-11-23 |" in page
    assert "these have not run: `pyg200-torch213`" in page
    assert "2026-11-23 18:37 UTC" in page
    assert "50 of 50, 0 of 50" in page
    assert "Left out, with reasons in `scripts/kit/programs/layers.py`: FusedGATConv, Mess" in page


def leave_scripted(folder: Path, name: str, calls: int, right: int) -> None:
    """What an environment leaves that runs scripted layers alone."""
    folder.mkdir(exist_ok=True)
    ended = {"calls": calls, "right": right, "crashed": calls - right, "silently_wrong": 0}
    rows = [
        {"tree": tree, "form": form, "layers": {"gatv2_conv": ended}}
        for tree in ("pristine", "patched")
        for form in ("scripted", "saved", "frozen", "optimized")
    ]
    ran_on = {"release": "1.8.0", "python": "3.13.5", "torch": "2.13.0+cpu"}
    properties = {"torchscript": rows, "torchscript_ran_on": ran_on}
    listed = "".join(
        f"<property name={quoteattr(key)} value={quoteattr(json.dumps(value))} />"
        for key, value in properties.items()
    )
    text = SUITE.format(proof='"{}"', failures=int(right < calls), errors=0)
    (folder / f"{name}.xml").write_text(
        text.replace('<property name="proof" value="{}" />', listed)
    )


def test_scripted_layers_alone_make_no_page(world: World, tmp_path: Path) -> None:
    leave_scripted(tmp_path / "results", "pyg180-torch213-ext-scripted", 20_000, 20_000)
    status = gather(tmp_path / "results", [])
    nothing = reporting.Status("scripts/kit.sh report", [], [], [])
    with pytest.raises(SourceError, match=r"Only scripted layers have run\. Expected"):
        reporting.keep(status, nothing, releases.load(), ["pyg180-torch213-ext-scripted"])


def test_an_earlier_result_stays_with_its_date(world: World, tmp_path: Path) -> None:
    """Whoever records the default list again keeps the environments that run once a week."""
    catalogue = releases.load()
    names = {"pyg180-torch213": "1.8.0", "py38-pyg190-torch20": "1.9.0"}
    for name, version in names.items():
        leave(tmp_path / "first", name, version)
    leave_scripted(tmp_path / "first", "pyg180-torch213-ext-scripted", 20_000, 20_000)
    recorded = gather(tmp_path / "first", [])
    recorded = replace(
        recorded,
        cells=[replace(cell, machine="another") for cell in recorded.cells],
    )
    leave(tmp_path / "second", "pyg180-torch213", "1.8.0")
    file = tmp_path / "second" / "pyg180-torch213.xml"
    file.write_text(file.read_text().replace("2026-11-23", "2026-12-01"))
    environments = [*names, "pyg180-torch213-ext-scripted"]
    gathered = gather(tmp_path / "second", ["pyg180-torch213"])
    both, left_out = reporting.keep(gathered, recorded, catalogue, environments)
    assert left_out == []
    dates = {cell.environment: cell.when[:10] for cell in both.cells}
    assert dates == {"pyg180-torch213": "2026-12-01", "py38-pyg190-torch20": "2026-11-23"}
    assert both.scripted == recorded.scripted
    page = status_page.render(both, catalogue)
    assert "| 1.8.0 | 20.0%, 5.0% → 0.0%, 0.0% | 2026-12-01 |" in page
    assert "| 1.9.0 | 3.13.5 | 2.13.0 | 20.0%, 5.0% → 0.0%, 0.0% | 2026-11-23 |" in page
    assert "ran between 2026-11-23 18:37 UTC and 2026-12-01 18:37 UTC" in page
    assert "and another (1 of them)" in page
    (tmp_path / "status.json").write_text(reporting.dump(both))
    assert reporting.load(tmp_path / "status.json") == both


def test_scripted_layers_stay_where_they_are_not_called_again(world: World, tmp_path: Path) -> None:
    """An environment calls them only where it is asked for what takes minutes."""
    catalogue = releases.load()
    name = "pyg180-torch213"
    leave_scripted(tmp_path / "first", f"{name}-ext-scripted", 20_000, 20_000)
    (earlier,) = gather(tmp_path / "first", []).scripted
    leave(tmp_path / "second", name, "1.8.0")
    gathered = gather(tmp_path / "second", [name])
    recorded = replace(gathered, scripted=[replace(earlier, environment=name)])
    both, left_out = reporting.keep(gathered, recorded, catalogue, [name])
    assert left_out == []
    assert both.cells == gathered.cells
    assert both.scripted == recorded.scripted
    # Until they are.
    again = replace(gathered, scripted=[replace(earlier, environment=name, when="2026-12-01")])
    assert reporting.keep(again, recorded, catalogue, [name])[0].scripted == again.scripted


def test_an_earlier_result_is_not_missing(world: World, tmp_path: Path) -> None:
    leave(tmp_path / "first", "pyg180-torch213", "1.8.0")
    leave(tmp_path / "second", "py38-pyg190-torch20", "1.9.0")
    expected = ["pyg180-torch213", "pyg190-torch213"]
    both, _ = reporting.keep(
        gather(tmp_path / "second", expected),
        gather(tmp_path / "first", []),
        releases.load(),
        [*expected, "py38-pyg190-torch20"],
    )
    assert both.missing == ["pyg190-torch213"]


def test_an_earlier_result_that_is_about_something_else_is_left_out(
    world: World, tmp_path: Path
) -> None:
    leave(tmp_path / "first", "pyg180-torch20", "1.8.0")
    leave(tmp_path / "first", "pyg180-torch21", "1.8.0")
    leave(tmp_path / "first", "pyg180-torch24", "1.8.0")
    leave(tmp_path / "first", "pyg180-torch29", "1.8.0")
    recorded = gather(tmp_path / "first", [])
    of_other_patches = [
        replace(recorded.cells[0], layers={}),
        replace(recorded.cells[1], release="0.1.0"),
        *recorded.cells[2:],
    ]
    leave(tmp_path / "second", "pyg180-torch213", "1.8.0")
    both, left_out = reporting.keep(
        gather(tmp_path / "second", []),
        replace(recorded, cells=of_other_patches),
        releases.load(),
        # tox.ini has no environment with 2.9.1 any more.
        ["pyg180-torch213", "pyg180-torch20", "pyg180-torch21", "pyg180-torch24"],
    )
    assert {cell.environment for cell in both.cells} == {"pyg180-torch213", "pyg180-torch24"}
    assert left_out == ["pyg180-torch20", "pyg180-torch21", "pyg180-torch29"]


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


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command writes the page, its data and its pictures."""
    for name in ("PAGE", "DATA", "PICTURE", "BEFORE_AND_AFTER"):
        file = tmp_path / getattr(reporting, name).name
        file.write_bytes(getattr(reporting, name).read_bytes())
        monkeypatch.setattr(reporting, name, file)
    return tmp_path


def test_the_command_makes_the_page_anew(
    elsewhere: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = reporting.PAGE.read_text()
    for file in (reporting.PAGE, reporting.PICTURE, reporting.BEFORE_AND_AFTER):
        file.unlink()
    assert call("report", "--render") == 0
    assert reporting.PAGE.read_text() == before
    *files, told = capsys.readouterr().out.splitlines()
    assert sorted(Path(file).name for file in files) == [
        *("before-after.svg", "status.json", "status.md", "status.svg")
    ]
    assert all((elsewhere / Path(file).name).stat().st_size > 1000 for file in files)
    assert told.endswith("of the default list did not run.")


def test_an_environment_that_failed_fails(
    world: World,
    elsewhere: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "default_environments", lambda: ["pyg190-torch213"])
    leave(elsewhere / "results", "pyg180-torch213", "1.8.0", failures=1)
    command = ("report", "--results", elsewhere / "results")
    assert call(*command) == 3
    assert "pyg190-torch213. Run 'scripts/test.sh', or call" in capsys.readouterr().err
    assert call(*command, "--partial") == 1
    printed = capsys.readouterr()
    assert "1 failed; 1 of the default list did not run." in printed.out
    assert "pyg180-torch213. status.md says why." in printed.err
