"""The page of the zoo: gathered, and the committed one up to date."""

import importlib
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from conftest import World
from kit import zoo
from kit.errors import SourceError
from kit.releases import ROOT

SUITE = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="0" failures="0" skipped="0" tests="{tests}"
 time="1.0" timestamp="2026-11-23T18:37:19.250000+00:00" hostname="somewhere">{cases}
<testcase classname="zoo.test_zoo" name="test_truth[attributes.KeepsMean]" time="1.0" />
</testsuite></testsuites>
"""
ANSWER = {
    "family": "attributes",
    "model": "KeepsMean",
    "why": "A mean | that is kept.",
    "truth": "wrong",
    "expected": "not safe",
    "verdict": "not safe",
    "grade": "right",
    "amiss": "",
    "seconds": "3.5",
}


def leave(folder: Path, environment: str, *answers: dict[str, str]) -> None:
    """What an environment of the zoo leaves."""
    folder.mkdir(exist_ok=True)
    cases = ""
    for answer in answers:
        properties = "".join(
            f"<property name={quoteattr(name)} value={quoteattr(value)} />"
            for name, value in {**ANSWER, **answer}.items()
        )
        cases += f'<testcase name="test_audit"><properties>{properties}</properties></testcase>'
    (folder / f"{environment}.xml").write_text(SUITE.format(tests=len(answers), cases=cases))


def test_gather(tmp_path: Path) -> None:
    missed = {"model": "InSlots", "family": "elsewhere", "verdict": "safe", "grade": "missed"}
    missed["amiss"] = "expected not safe, got safe"
    public = {"family": "packages", "model": "gcn", "truth": "safe", "verdict": "safe"}
    leave(tmp_path / "results", "pyg281-torch213-zoo-packages", public)
    leave(tmp_path / "results", "pyg281-torch213-zoo", missed, {})
    # The whole has what the quick part has, too.
    quick = {**missed, "verdict": "", "grade": "not run"}
    leave(tmp_path / "results", "pyg281-torch213-zoo-quick", quick)
    gathered = zoo.gather(tmp_path / "results")
    assert [answer.model for answer in gathered.answers] == ["KeepsMean", "InSlots", "gcn"]
    assert gathered.answers[0].seconds == 3.5
    assert [answer.grade for answer in gathered.answers[:2]] == ["right", "missed"]
    assert gathered.day == "2026-11-23"
    assert gathered.models >= 130
    page = zoo.render(gathered)
    assert f"3 of {gathered.models} models, each audited" in page
    assert "| right | 2 |" in page and "| missed | 1 |" in page
    assert "| [elsewhere](#elsewhere) | 1 |  |  |  | 1 |  |" in page
    assert "| `KeepsMean` | A mean \\| that is kept. | wrong results | not safe |  |" in page
    assert "| safe | **missed**: expected not safe, got safe |" in page


def test_an_answer_a_line(tmp_path: Path) -> None:
    leave(tmp_path, "pyg281-torch213-zoo", *({"model": f"Model{i}"} for i in range(20)))
    lines = [line for line in zoo.dump(zoo.gather(tmp_path)).splitlines() if '"model"' in line]
    assert len(lines) == 20 and '"Model1"' in lines[1]


@pytest.mark.parametrize("text", ["", "<testsuites/>", "<testsuites><testsuite/></testsuites>"])
def test_results_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyg281-torch213-zoo.xml").write_text(text)
    with pytest.raises(SourceError, match="Run it again: tox run -e pyg281-torch213-zoo"):
        zoo.gather(tmp_path)


def test_no_results(world: World, tmp_path: Path) -> None:
    result = world.run("zoo", "--results", tmp_path)
    assert result.returncode == 3
    assert "holds no results of the zoo. Run it first: tox run -m zoo" in result.stderr


def test_the_page_is_up_to_date() -> None:
    # Neither is there before the zoo has run; one without the other never is.
    assert zoo.PAGE.exists() == zoo.DATA.exists()
    if zoo.DATA.exists():
        assert zoo.PAGE.read_text() == zoo.render(zoo.load())


def test_the_words_are_those_of_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tests")
    entries = importlib.import_module("zoo.entries")
    running = importlib.import_module("zoo.running")
    assert set(zoo.TRUTHS) == set(entries.FAILURES)
    graded = {running.RIGHT, running.FALSE_ALARM, running.MISSED, running.INCOMPLETE}
    assert set(zoo.GRADES) == {*graded, running.NOT_RUN}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command writes the page and its data."""
    for name in ("PAGE", "DATA"):
        file = tmp_path / getattr(zoo, name).name
        file.write_bytes(getattr(zoo, name).read_bytes())
        monkeypatch.setattr(zoo, name, file)
    return tmp_path


def test_the_command_makes_the_page_anew(
    elsewhere: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before, number = zoo.PAGE.read_text(), len(zoo.load().answers)
    zoo.PAGE.unlink()
    assert call("zoo", "--render") == 0
    assert zoo.PAGE.read_text() == before
    *files, told = capsys.readouterr().out.splitlines()
    assert [Path(file).name for file in files] == ["zoo.json", "zoo.md"]
    assert told.startswith(f"{number} models: {number} right, 0 incomplete,")


def test_an_answer_that_is_not_right_fails(
    elsewhere: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    leave(elsewhere / "results", "pyg281-torch213-zoo", {}, {"model": "B", "grade": "missed"})
    assert call("zoo", "--results", elsewhere / "results") == 1
    printed = capsys.readouterr()
    assert "2 models: 1 right, 0 incomplete, 0 false alarm, 1 missed, 0 not run." in printed.out
    assert "error: Some answers are not right. zoo.md says which, and why." in printed.err
