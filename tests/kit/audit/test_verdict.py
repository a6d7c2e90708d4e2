"""The verdict: each word, each cause, and the conditions of what is safe."""

from typing import Any

import pytest
from kit.audit.verdict import Cause, Word, is_allowed, judge

STRESS: dict[str, object] = {
    **{"threads": 8, "seconds": 1.5, "calls": 800, "right": 800, "crashed": 0},
    **{"silently_wrong": 0, "hung": 0, "errors": [], "died": None, "compared": True},
}


def report_of(**changes: Any) -> dict[str, Any]:
    """What the program says of a model that writes nothing, but for some changes."""
    return {
        **{"python": "3.11", "torch": "2.13", "torch_geometric": None, "gil": True},
        **{"requests": 4, "methods": ["forward"], "modules": 3, "classes": [], "lazy": False},
        **{"grad": False, "tolerance": 0.0, "one_shape": False, "compiled": False, "notes": []},
        **{"arguments": {"changed": False, "shared": False}, "scripted": [], "writes": []},
        **{
            "graph_breaks": False,
            "uncompared": [],
            "first_calls_differ": False,
            "locks": [],
            "unwatched": [],
        },
        **{"explored": {"points": 40, "left_out": 0, "reason": "", "blamed": []}},
        **{
            "ran_lines": {},
            "branches": {"files": {}, "objects": []},
            "nondeterministic": False,
            "carried": False,
            "random": [],
        },
        **{"watched": {"functions": 9, "files": ["own.py"], "modules": 3}, "static": []},
        **{"unread": [], "installed": None, "stress": STRESS},
        **changes,
    }


def explained_of(**changes: Any) -> dict[str, Any]:
    """What the program says of an explainer that disturbs nobody, but for some changes."""
    counts = {"calls": 12, "right": 12, "crashed": 0, "silently_wrong": 0, "hung": 0, "errors": []}
    return {
        **{"explainer": "app:get_explainer", "random": [], "compared": True, "uncompared": []},
        **{"afterwards": "right", "left": [], "predictions": counts, "stack": [], "changed": []},
        **{"explanation": "right", "at_once": counts, "after_a_failure": "right", "stress": STRESS},
        **changes,
    }


WRONG = {"calls": 12, "right": 5, "crashed": 3, "silently_wrong": 4, "hung": 0, "errors": ["E: x"]}
MASKED = [{"class": "GraphConv", "attribute": "_edge_mask", "modules": ["conv1", "conv2"]}]
STACK = [["torch_geometric/explain/explainer.py", 205, "__call__"]]


def write_of(verdict: str, **changes: Any) -> dict[str, Any]:
    """A write of `Own.mean` with a verdict."""
    return {
        **{"submodule": "", "class": "Own", "attribute": "mean", "how": "assignment"},
        **{"written": [["own.py", 5, "forward"]], "read": [["own.py", 7, "forward"]]},
        **{"read_back": True, "read_first": False, "others": [], "first_call_only": False},
        **{"depends_on_input": False, "interleaved": None, "verdict": verdict, "same": False},
        **{"reason": "because", "kind": ""},
        **changes,
    }


def source_of(**changes: Any) -> dict[str, Any]:
    """What the source can write, and the run has not written."""
    return {
        **{"class": "Own", "attribute": "mean", "kind": "race", "reason": "", "ran": False},
        **{"written": ["own.py:9"], "conditional": True},
        **changes,
    }


CHANGE = {
    **{"submodule": "conv", "class": "TransformerConv", "attribute": "_alpha"},
    **{"file": "torch_geometric/nn/conv/transformer_conv.py", "line": 238, "conditional": False},
}
EXPLORED = {"points": 3, "left_out": 0, "reason": "so", "blamed": [["own.py", 4, "forward"]]}
THING = {"what": "object", "name": "Own.numbers", "kind": "generator", "why": "x", "where": ""}


@pytest.mark.parametrize(
    "changes, cause, said",
    [
        ({"writes": [write_of("confirmed")]}, Cause.MIXED_UP, "take each other's Own.mean"),
        ({"writes": [write_of("with others")]}, Cause.MIXED_UP, "Own.mean among them"),
        (
            {"writes": [write_of("carried")], "carried": True, "nondeterministic": True},
            Cause.CARRIED,
            "as another call has left it",
        ),
        ({"first_calls_differ": True}, Cause.FIRST_CALL, "kept outside of it"),
        (
            {"first_calls_differ": True, "left_by_first_calls": ["serving._means"]},
            Cause.FIRST_CALL,
            "which call came first (serving._means).",
        ),
        ({"confuses_new_arguments": True}, Cause.IDENTITY, "by the address of an argument"),
        (
            {"locks": [{"places": ["own.py:3 (f)", "own.py:5 (f)"], "hung": True}]},
            Cause.DEADLOCK,
            "wait for each other's lock forever: own.py:3 (f) and own.py:5 (f)",
        ),
        ({"scripted": [CHANGE]}, Cause.NO_GIL, "without Python's lock"),
        ({"scripted": [{**CHANGE, "archived": True}]}, Cause.NO_GIL, "keeps the code of its time"),
        ({"explored": EXPLORED}, Cause.WRONG, "just before are own.py:4"),
        ({"stress": {**STRESS, "silently_wrong": 2}}, Cause.WRONG, "2 of 800 calls"),
        (
            {"stress": {**STRESS, "crashed": 1, "errors": ["KeyError: 5"]}},
            Cause.CRASHED,
            "raised an error: KeyError: 5",
        ),
        ({"stress": {**STRESS, "hung": 8}}, Cause.HUNG, "8 of 8 threads never came back"),
        ({"stress": {**STRESS, "died": "SIGSEGV"}}, Cause.DIED, "died of SIGSEGV"),
        ({"arguments": {"changed": True, "shared": True}}, Cause.ARGUMENTS, "inputs share"),
    ],
)
def test_not_safe(changes: dict[str, Any], cause: Cause, said: str) -> None:
    verdict = judge(report_of(**changes))
    assert (verdict.word, verdict.word.exit_code) == (Word.NOT_SAFE, 1)
    assert cause in [reason.cause for reason in verdict.reasons]
    assert said in " ".join(reason.text for reason in verdict.reasons)


@pytest.mark.parametrize(
    "changes, cause, said",
    [
        (
            {"nondeterministic": True, "random": ["torch"]},
            Cause.RANDOM,
            "draw random numbers (torch)",
        ),
        ({"nondeterministic": True}, Cause.RANDOM, "the cause is not known"),
        ({"unwatched": [THING]}, Cause.UNWATCHED, "Own.numbers, a generator"),
        ({"uncompared": ["generator"]}, Cause.UNWATCHED, "cannot be compared: generator"),
        ({"writes": [write_of("not forced")]}, Cause.UNTRIED, "Own.mean: because"),
        (
            {"writes": [write_of("first call", first_call_only=True, depends_on_input=True)]},
            Cause.UNTRIED,
            "inputs of another size",
        ),
        (
            {"writes": [write_of("first call", first_call_only=True, kind="race")]},
            Cause.UNTRIED,
            "inputs of another size",
        ),
        (
            {"writes": [write_of("refuted", same=True, kind="race")]},
            Cause.UNREACHED,
            "every call wrote the same value on these inputs",
        ),
        (
            {"writes": [write_of("not read back", source_reads=["own.py:12"])]},
            Cause.UNREACHED,
            "none of them read it on these inputs, but the source can (own.py:12)",
        ),
        ({"static": [source_of()]}, Cause.UNREACHED, "(own.py:9), and these calls did not"),
        ({"scripted": [{**CHANGE, "conditional": True}]}, Cause.UNREACHED, "TorchScript"),
        (
            {"writes": [write_of("confirmed", submodule="_orig_mod.conv")], "compiled": True},
            Cause.UNWATCHED,
            "compiled into one graph",
        ),
    ],
)
def test_not_shown(changes: dict[str, Any], cause: Cause, said: str) -> None:
    verdict = judge(report_of(**changes))
    assert (verdict.word, verdict.word.exit_code) == (Word.NOT_SHOWN, 1)
    assert [reason.cause for reason in verdict.reasons] == [cause]
    assert said in verdict.reasons[0].text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"writes": [write_of("refuted", same=True)]},
        {"writes": [write_of("refuted", blocked=4)]},
        {"writes": [write_of("not read back", same=True, source_reads=["own.py:12"])]},
        {"writes": [write_of("first call", first_call_only=True)]},
        # An item that is added under a check that its key is not there.
        {
            "writes": [
                write_of(
                    "first call",
                    first_call_only=True,
                    depends_on_input=True,
                    kind="cache by key",
                )
            ]
        },
        {"locks": [{"places": ["a (f)", "b (f)"], "hung": False}]},
        {"static": [source_of(kind="training only")]},
        {"static": [source_of(ran=True)]},
        # No call decides whether it is written, and none has written it.
        {"static": [source_of(conditional=False)]},
    ],
)
def test_safe(changes: dict[str, Any]) -> None:
    verdict = judge(report_of(**changes))
    assert (verdict.word, verdict.word.exit_code, verdict.reasons) == (Word.SAFE, 0, ())


@pytest.mark.parametrize(
    "changes, condition",
    [
        ({"lazy": True}, "one call is made before threads share it"),
        (
            {"writes": [write_of("first call", first_call_only=True)]},
            "the first one writes `Own.mean`",
        ),
        ({"writes": [write_of("not read back")]}, "nobody reads `Own.mean` after a call"),
        ({"arguments": {"changed": True, "shared": False}}, "callers do not share"),
        ({"writes": [write_of("refuted")]}, "calls are like these: each one writes `Own.mean`"),
        ({"compiled": True}, "compiled for the shapes of all requests"),
        (
            {"classes": [{"class": "MessagePassing", "module": "", "file": None}]},
            "nobody explains it meanwhile",
        ),
        (
            {
                "classes": [{"class": "MessagePassing", "module": "", "file": None}],
                "explains_copies": True,
            },
            "nobody calls `set_masks()` on it meanwhile",
        ),
    ],
)
def test_conditions(changes: dict[str, Any], condition: str) -> None:
    verdict = judge(report_of(**changes))
    assert verdict.word is Word.SAFE
    assert any(condition in each for each in verdict.conditions), verdict.conditions


@pytest.mark.parametrize(
    "changes, cause, said",
    [
        ({"predictions": WRONG}, Cause.EXPLAINED, "others predict wrongly: 7 of 12 predictions."),
        ({"predictions": WRONG, "changed": MASKED}, Cause.EXPLAINED, "`_edge_mask` of conv1 (Gra"),
        ({"predictions": {**STRESS, "hung": 1}}, Cause.HUNG, "1 predictions that began"),
        ({"explanation": "silently wrong"}, Cause.EXPLAINED, "than alone: silently wrong."),
        ({"at_once": WRONG}, Cause.EXPLAINED, "Explanations disturb each other: of 12"),
        ({"afterwards": "KeyError: 1", "left": MASKED}, Cause.EXPLAINED, "It leaves `_edge_mask`"),
        ({"after_a_failure": "silently wrong"}, Cause.EXPLAINED, "If an explanation fails"),
        ({"stress": {**STRESS, "silently_wrong": 7}}, Cause.EXPLAINED, "7 of 800 predictions and"),
        (
            {"stress": {**STRESS, "crashed": 1, "errors": ["E: x."]}},
            Cause.EXPLAINED,
            "by 8 threads raised an error: E: x.",
        ),
        ({"stress": {**STRESS, "hung": 2}}, Cause.HUNG, "2 of 8 threads that did both"),
        ({"stress": {**STRESS, "died": "SIGABRT"}}, Cause.DIED, "SIGABRT while threads predicted"),
        ({"compared": False}, Cause.RANDOM, "comes out differently each time"),
        ({"compared": False, "uncompared": ["Model"]}, Cause.UNWATCHED, "compared: Model"),
    ],
)
def test_explained_meanwhile(changes: dict[str, Any], cause: Cause, said: str) -> None:
    verdict = judge(report_of(explained=explained_of(stack=STACK, **changes)))
    not_shown = cause in (Cause.RANDOM, Cause.UNWATCHED)
    assert verdict.word is (Word.NOT_SHOWN if not_shown else Word.NOT_SAFE)
    assert [reason.cause for reason in verdict.reasons] == [cause]
    assert said in verdict.reasons[0].text
    if cause is Cause.EXPLAINED:
        assert verdict.reasons[0].places == ("torch_geometric/explain/explainer.py:205",)


@pytest.mark.parametrize("after", ["right", ""])
def test_an_explainer_that_disturbs_nobody(after: str) -> None:
    passing = [{"class": "MessagePassing", "module": "", "file": None}]
    explained = explained_of(after_a_failure=after)
    patched = judge(report_of(explained=explained, classes=passing, explains_copies=True))
    assert (patched.word, patched.conditions) == (Word.SAFE, ())
    assert "12 predictions forced between the steps of an explanation" in patched.basis
    # Another explainer of an unpatched PyG would set masks.
    released = judge(report_of(explained=explained, classes=passing))
    assert released.word is Word.SAFE
    assert "explains it in another way" in " ".join(released.conditions)


def test_explanations_that_draw_random_numbers_are_not_wrong() -> None:
    verdict = judge(report_of(explained=explained_of(random=["torch"])))
    assert verdict.word is Word.SAFE
    assert "nobody needs the same explanation twice" in " ".join(verdict.conditions)


def test_what_it_rests_on() -> None:
    forced = write_of("refuted", interleaved={"calls": 12})
    basis = judge(report_of(writes=[forced], methods=["encode", "decode"])).basis
    for said in ("encode(), decode() of 4 requests", "3 modules", "12 calls forced", "in 1.5 s"):
        assert said in basis


@pytest.mark.parametrize("allowed", ["Own.mean", "Own.*"])
def test_allowed(allowed: str) -> None:
    report = report_of(writes=[write_of("confirmed")])
    verdict = judge(report, {allowed})
    assert (verdict.word, verdict.allowed) == (Word.SAFE, ("Own.mean",))
    # What went wrong beside it still counts.
    wrong = {**report, "stress": {**STRESS, "silently_wrong": 1}}
    assert judge(wrong, {allowed}).word is Word.NOT_SAFE
    assert judge(report, {"Own.other", "Other.*"}).word is Word.NOT_SAFE


def test_nothing_without_a_name_is_allowed() -> None:
    assert not is_allowed("", {"", ".*"})


def test_the_gravest_comes_first() -> None:
    verdict = judge(report_of(unwatched=[THING], writes=[write_of("confirmed")]))
    assert [reason.cause for reason in verdict.reasons] == [Cause.MIXED_UP, Cause.UNWATCHED]
