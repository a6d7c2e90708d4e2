"""The audit of a model: what its source says is put beside what it did."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import StandIn, World, refused
from kit.audit import model, static
from kit.audit.model import Options, audit_model, join
from kit.audit.running import ProgramDied
from kit.audit.verdict import Cause, Word, judge

from .test_verdict import report_of, write_of

SOURCE = """
from torch import nn


class Own(nn.Module):
    def forward(self, x):
        self.mean = x.mean()
        if x.sum() > 0:
            self.scale = x.max()
            x = x / self.scale
        return x - self.mean
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "own.py"
    file.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return file


def joined(own: Path, **changes: Any) -> dict[str, Any]:
    report = report_of(classes=[{"class": "Own", "module": "own", "file": "own.py"}], **changes)
    join(report, static.audit_files(None, [own]), None, [])
    return report


def test_writes_get_the_kind_that_their_line_has(own: Path) -> None:
    # By the line, whatever the class is called that was seen to write it.
    write = write_of("confirmed", **{"class": "Child", "written": [["own.py", 7, "forward"]]})
    report = joined(own, writes=[write])
    assert report["writes"][0]["kind"] == "race"
    assert [entry["attribute"] for entry in report["static"]] == ["scale"]


def test_what_the_source_can_write_and_the_calls_did_not(own: Path) -> None:
    mean = write_of("refuted", written=[["own.py", 7, "forward"]])
    report = joined(own, writes=[mean], ran_lines={"own.py": [7]})
    verdict = judge(report)
    assert (verdict.word, verdict.reasons[0].cause) == (Word.NOT_SHOWN, Cause.UNREACHED)
    assert verdict.reasons[0].name == "Own.scale"
    ran = joined(own, writes=[mean], ran_lines={"own.py": [7, 9]})
    assert judge(ran).word is Word.SAFE


def test_what_the_source_can_read_and_the_calls_did_not(own: Path) -> None:
    mean = write_of("not read back", written=[["own.py", 7, "forward"]], read=[])
    report = joined(own, writes=[mean], ran_lines={"own.py": [7, 9]})
    assert report["writes"][0]["source_reads"] == [f"{own}:11"]
    verdict = judge(report)
    assert (verdict.word, verdict.reasons[0].name) == (Word.NOT_SHOWN, "Own.mean")


def test_what_each_thread_has_to_itself(own: Path) -> None:
    own.write_text(SOURCE.replace("self.scale", "self.local.scale"))
    static_of = joined(own)["static"]
    assert {entry["attribute"] for entry in static_of} == {"mean", "local.scale"}
    static_of = joined(own, thread_locals=["Own.local"])["static"]
    assert [entry["attribute"] for entry in static_of] == ["mean"]


def test_a_file_of_a_newer_python(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.write_text("def f(:\n")
    classes = [{"class": "Own", "module": "own", "file": "own.py"}]
    monkeypatch.setattr(model, "run_program", lambda *a, **k: report_of(classes=classes))
    monkeypatch.setattr(model, "find_installed", lambda python: None)
    report = audit_model(Path(sys.executable), "own:Own", "own:inputs", Options())
    assert report["unread"] == [str(own)]
    assert judge(report).word is Word.SAFE


@pytest.mark.parametrize("during, is_result", [("letting 8 threads", True), ("making", False)])
def test_a_death(monkeypatch: pytest.MonkeyPatch, during: str, is_result: bool) -> None:
    def die(*_: object, **__: object) -> None:
        raise ProgramDied("died", "SIGSEGV", during)

    monkeypatch.setattr(model, "run_program", die)
    if not is_result:
        with pytest.raises(ProgramDied):
            audit_model(Path(sys.executable), "own:Own", "own:inputs", Options())
        return
    verdict = judge(audit_model(Path(sys.executable), "own:Own", "own:inputs", Options()))
    assert (verdict.word, verdict.reasons[0].cause) == (Word.NOT_SAFE, Cause.DIED)


def test_options() -> None:
    options = Options(("encode", "decode=a:b"), 8, True, 1e-6, "c:d")
    assert options.arguments == [
        *("--method", "encode", "--method", "decode=a:b", "--calls", "8", "--grad"),
        *("--tolerance", "1e-06", "--explainer", "c:d"),
    ]
    assert Options().arguments == []


MODEL = ("--model", "own:Own", "--inputs", "own:inputs", "--python")


def test_a_model_on_the_command_line(world: World, own: Path, stand_in: StandIn) -> None:
    classes = [{"class": "Own", "module": "own", "file": "own.py"}]
    write = write_of("confirmed", written=[["own.py", 7, "forward"]])
    ran = {"own.py": [7, 9]}
    stand_in.answer("audit", {"json": report_of(classes=classes, writes=[write], ran_lines=ran)})
    result = world.run("audit", *MODEL, stand_in.path)
    refused(result, 1, "Not safe: Own.mean (own.py:7")
    assert "What to do\n" in result.stdout and "take each other's Own.mean" in result.stdout
    told = json.loads(world.run("audit", *MODEL, stand_in.path, "--json", "-").stdout)
    assert (told["verdict"], told["reasons"][0]["name"]) == ("not safe", "Own.mean")
    # A person has looked at it.
    allowed = world.run("audit", *MODEL, stand_in.path, "--allow", "Own.*")
    assert "Own.mean" in allowed.stdout
