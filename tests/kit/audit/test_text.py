"""What is said of a model: the verdict first, then the reasons, then the evidence."""

from typing import Any

from kit.audit.text import lines_of
from kit.audit.verdict import judge

from .test_verdict import STACK, STRESS, WRONG, explained_of, report_of, write_of


def text_of(report: dict[str, Any], *, show_all: bool = False) -> str:
    verdict = judge(report)
    return "\n".join(line for line, _ in lines_of("app:MODEL", verdict, report, show_all=show_all))


def test_a_safe_model_with_its_conditions() -> None:
    text = text_of(report_of(writes=[write_of("not read back")]))
    assert text.startswith("Safe: no call took what another one had written, if\n  - nobody reads")
    assert "It rests on forward() of 4 requests" in text
    assert "app:MODEL: 3 modules" in text


def test_what_was_forced_and_what_was_raised() -> None:
    forced = {"calls": 4, "right": 1, "crashed": 2, "silently_wrong": 1, "hung": 0}
    errors = {**STRESS, "crashed": 3, "errors": ["RuntimeError: shapes"]}
    text = text_of(report_of(writes=[write_of("confirmed", interleaved=forced)], stress=errors))
    assert text.startswith("Not safe.")
    assert "1 of 4 calls right, 2 crashed, 1 silently wrong" in text
    assert "    RuntimeError: shapes" in text


def test_what_every_call_writes_alike_is_counted() -> None:
    report = report_of(writes=[write_of("refuted", same=True)])
    assert "1 more, to which every call writes the same" in text_of(report)
    assert "Own): mean" in text_of(report, show_all=True)


def test_files_that_do_not_parse_here() -> None:
    assert "own.py was run, but its source was not read" in text_of(report_of(unread=["own.py"]))


def test_what_explained_the_model() -> None:
    quiet = text_of(report_of(explained=explained_of()))
    assert "app:get_explainer explains\n    12 predictions between its steps: 12 right" in quiet
    assert "held" not in quiet
    text = text_of(report_of(explained=explained_of(predictions=WRONG, stack=STACK)))
    assert "between its steps: 5 right, 3 crashed, 4 silently wrong, 0 hung\n      E: x" in text
    assert "held    torch_geometric/explain/explainer.py:205 (__call__)" in text


def test_what_a_person_allowed_and_what_else_is_known() -> None:
    report = report_of(writes=[write_of("confirmed")], notes=["torch.compile() was not run."])
    verdict = judge(report, frozenset(["Own.*"]))
    lines = [line for line, _ in lines_of("app:MODEL", verdict, report, show_all=False)]
    assert "  Allowed: Own.mean" in lines
    assert "  torch.compile() was not run." in lines
