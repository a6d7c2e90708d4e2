"""What to do: by the file that is written, whatever the class is called."""

from pathlib import Path
from typing import Any

import pytest
from kit import releases
from kit.audit.advice import Advice, advise, find_fixes
from kit.audit.verdict import judge
from kit.releases import ROOT, Catalogue

from .test_verdict import CHANGE, STACK, WRONG, explained_of, report_of, write_of

CONV = "torch_geometric/nn/conv"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return releases.load()


def advice_of(
    report: dict[str, Any],
    catalogue: Catalogue,
    version: str | None = "2.8.1",
    tree: Path | None = None,
) -> list[Advice]:
    release = catalogue.find(version) if version else None
    return advise(judge(report), report, catalogue, release, tree)


def text_of(advice: list[Advice]) -> str:
    return "\n".join("\n".join((each.text, *each.lines)) for each in advice)


def raced(file: str, cls: str = "TransformerConv", attribute: str = "_alpha") -> dict[str, Any]:
    write = write_of(
        "confirmed",
        **{"class": cls, "attribute": attribute, "written": [[file, 238, "forward"]]},
        read=[[file, 240, "forward"]],
    )
    return report_of(writes=[write])


@pytest.mark.parametrize(
    "version, file, series, fixed",
    [
        ("2.4.0", f"{CONV}/gatv2_conv.py", "gatv2_conv", "2.5.0"),
        ("2.0.4", f"{CONV}/gat_conv.py", "gat_conv", "2.1.0.post1"),
        ("2.8.1", f"{CONV}/transformer_conv.py", "transformer_conv", ""),
        # As upstream has fixed it: what races there is not what the patch is for.
        ("2.8.1", f"{CONV}/gat_conv.py", "", ""),
        ("2.8.1", "torch_geometric/nn/models/own.py", "", ""),
        (None, f"{CONV}/gatv2_conv.py", "", ""),
    ],
)
def test_fixes(
    catalogue: Catalogue, version: str | None, file: str, series: str, fixed: str
) -> None:
    release = catalogue.find(version) if version else None
    fixes = find_fixes(catalogue, release, file)
    assert (fixes.series, fixes.release) == (series, fixed)


def test_a_patch_of_the_kit_by_its_absolute_command(catalogue: Catalogue, tmp_path: Path) -> None:
    report = raced(f"{CONV}/transformer_conv.py")
    text = text_of(advice_of(report, catalogue, tree=tmp_path))
    assert f"{ROOT}/scripts/apply.sh 2.8.1 --tree {tmp_path}" in text
    assert "Until then, let one call at a time in." in text


def test_a_subclass_is_mended_by_the_patch(catalogue: Catalogue) -> None:
    text = text_of(advice_of(raced(f"{CONV}/transformer_conv.py", "Scaled"), catalogue))
    assert "transformer_conv mends" in text and "in subclasses, too" in text
    assert "your own code" not in text


def test_a_release_that_has_the_fix(catalogue: Catalogue) -> None:
    text = text_of(advice_of(raced(f"{CONV}/gatv2_conv.py", "GATv2Conv"), catalogue, "2.4.0"))
    assert "upgrade PyG to 2.5.0" in text


def test_own_code_with_the_lines_before_and_after(catalogue: Catalogue, tmp_path: Path) -> None:
    file = tmp_path / "gatv2_conv.py"
    lines = ["class GATv2Conv:", "    def forward(self, x):", "        self._alpha = x.mean()"]
    file.write_text("\n".join([*lines, "        return x - self._alpha", ""]))
    write = write_of(
        "confirmed",
        **{"class": "GATv2Conv", "attribute": "_alpha"},
        written=[[str(file), 3, "forward"]],
        read=[[str(file), 4, "forward"]],
    )
    advice = advice_of(report_of(writes=[write]), catalogue)
    text = text_of(advice)
    assert f"{file}:3 writes _alpha: this is your own code" in text
    assert "apply.sh" not in text and "pgrade" not in text
    assert advice[0].lines == (
        "- self._alpha = x.mean()",
        "- return x - self._alpha",
        "+ alpha = x.mean()",
        "+ return x - alpha",
    )
    # Nothing is to come, so there is no "until then".
    assert "Or, let one call at a time in." in text


def test_the_code_of_another_package(catalogue: Catalogue) -> None:
    file = "/env/lib/python3.11/site-packages/tsl/nn/gat.py"
    text = text_of(advice_of(raced(file, "GATConv"), catalogue))
    assert "the code of the package tsl" in text and "apply.sh" not in text


def test_carried_state_gets_a_copy_and_no_lock(catalogue: Catalogue) -> None:
    report = report_of(writes=[write_of("carried")], carried=True, nondeterministic=True)
    text = text_of(advice_of(report, catalogue))
    assert "copy.deepcopy(model)" in text and "threading.Lock()" not in text


def test_scripted_layers_are_patched_and_scripted_again(catalogue: Catalogue) -> None:
    text = text_of(advice_of(report_of(scripted=[CHANGE]), catalogue))
    assert "transformer_conv mends" in text and "Then script the model again." in text


def test_an_archive_is_scripted_again(catalogue: Catalogue, tmp_path: Path) -> None:
    change = {**CHANGE, "archived": True, "line": None}
    advice = advice_of(report_of(scripted=[change]), catalogue, tree=tmp_path)
    text = text_of(advice)
    assert "script the model again, and ship that archive" in text
    assert "transformer_conv mends" not in text and "your own code" not in text
    assert f"--tree {tmp_path}" in text


def test_who_reads_what_the_patch_takes_away_is_told(catalogue: Catalogue) -> None:
    report = raced(f"{CONV}/transformer_conv.py")
    report["writes"][0]["read"].append(["hooks.py", 9, "keep_attention"])
    assert "hooks.py:9 reads TransformerConv._alpha" in text_of(advice_of(report, catalogue))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"locks": [{"places": ["a (f)", "b (f)"], "hung": True}]}, "in one order"),
        ({"first_calls_differ": True}, "`cached=False`"),
        ({"confuses_new_arguments": True}, "weakref.WeakKeyDictionary"),
        ({"nondeterministic": True, "random": ["torch"]}, "torch.Generator()"),
        ({"arguments": {"changed": True, "shared": True}}, "arguments of its own"),
        ({"writes": [write_of("not forced")]}, "--allow CLASS.attribute"),
    ],
)
def test_by_cause(catalogue: Catalogue, changes: dict[str, Any], said: str) -> None:
    assert said in text_of(advice_of(report_of(**changes), catalogue))


def test_a_safe_model_needs_none(catalogue: Catalogue) -> None:
    assert advice_of(report_of(), catalogue) == []


def test_explainers_of_pyg_are_patched(catalogue: Catalogue, tmp_path: Path) -> None:
    explained = explained_of(predictions=WRONG, stack=STACK)
    text = text_of(advice_of(report_of(explained=explained), catalogue, tree=tmp_path))
    assert f"{ROOT}/scripts/apply.sh 2.8.1 --tree {tmp_path} --only explainer" in text
    assert "Until then, explain a copy" in text
    # Once patched, there is nothing more to apply.
    text = text_of(advice_of(report_of(explained=explained, explains_copies=True), catalogue))
    assert "apply.sh" not in text and "something else refers" in text


@pytest.mark.parametrize("version, stack", [("2.8.1", [["own.py", 3, "explain"]]), (None, STACK)])
def test_other_explainers_get_a_copy(
    catalogue: Catalogue, version: str | None, stack: list[list[Any]]
) -> None:
    report = report_of(explained=explained_of(predictions=WRONG, stack=stack))
    text = text_of(advice_of(report, catalogue, version))
    assert "apply.sh" not in text and "Or, explain a copy" in text
    assert "copy.deepcopy(model)" in text
