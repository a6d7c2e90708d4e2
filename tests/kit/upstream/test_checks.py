"""Checks of a branch: on a small PyG, without torch."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import StandIn, git
from kit import releases
from kit.bench import cases as benching
from kit.upstream import checks as checking
from kit.upstream import page, repository, topics
from kit.upstream import prepared as kept

from .conftest import (
    FIXED,
    LAYER,
    LIBRARY,
    OLD_TEST,
    ONE,
    RACY,
    REPRODUCER,
    check,
    prepare,
    prepare_layer,
    set_fix,
)

NAMES = [
    *("yapf", "isort", "flake8", "ruff"),
    *("reproducer fails on the base", "reproducer passes on the branch"),
    *("tests, FULL_TEST=1", "tests", "new tests, 50 times", "new tests without the fix"),
]


def test_check(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = check(small, monkeypatch)
    assert list(done) == NAMES
    assert [each for each in done.values() if not each.holds] == []
    assert done["new tests, 50 times"].detail == "1 tests, 50 of 50 runs passed"
    assert done["tests"].detail == "2 passed (1 on the base)"
    assert done["yapf"].detail == "yapf 0.43.0, 2 files"
    assert git("worktree", "list", cwd=small).count("\n") == 1


@pytest.mark.parametrize("passes", [True, False])
def test_check_of_a_reproducer_in_torchscript(
    small: Path, monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    file = topics.find("layer").folder / "reproducer_torchscript.py"
    file.write_text(REPRODUCER if passes else "assert False, 'a process died'\n")
    done = check(small, monkeypatch)
    name = "reproducer in TorchScript"
    both = [f"{name} fails on the base", f"{name} passes on the branch"]
    assert list(done) == [*NAMES[:6], *both, *NAMES[6:]]
    failed = [key for key, each in done.items() if not each.holds]
    assert failed == ([] if passes else both[1:])


@pytest.mark.parametrize(
    "fixed, bad",
    [
        (RACY.replace("self.hold()", "self.hold( )"), {"yapf", "flake8"}),
        (
            FIXED.replace("class Layer", "import sys\nimport os\n\n\nclass Layer"),
            {"isort", "flake8"},
        ),
        (FIXED.replace("def hold(self)", "def hold(self, x=[])"), {"ruff"}),
    ],
    ids=["yapf", "isort", "ruff"],
)
def test_check_finds_bad_style(
    small: Path, monkeypatch: pytest.MonkeyPatch, fixed: str, bad: set[str]
) -> None:
    settings = small / "pyproject.toml"
    settings.write_text(settings.read_text() + '[tool.ruff.lint]\nselect = ["B"]\n')
    git("commit", "-qam", "settings", cwd=small)
    set_fix(small, fixed)
    done = check(small, monkeypatch)
    failed = {name for name in NAMES[:4] if not done[name].holds}
    assert failed == bad


def test_what_the_settings_of_isort_leave_out(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small / "pyproject.toml"
    settings.write_text(settings.read_text() + f'[tool.isort]\nskip = ["{Path(LAYER).name}"]\n')
    git("commit", "-qam", "settings", cwd=small)
    set_fix(small, FIXED.replace("class Layer", "import sys\nimport os\n\n\nclass Layer"))
    assert check(small, monkeypatch)["isort"].holds


@pytest.mark.parametrize(
    "change, bad",
    [
        ("no fix", set(NAMES[5:9])),
        ("another error", {NAMES[4], NAMES[5]}),
        ("a test that cannot fail", {NAMES[9]}),
        ("a test that is broken", {NAMES[6], NAMES[7]}),
    ],
)
def test_check_finds_bad_code(
    small: Path, monkeypatch: pytest.MonkeyPatch, change: str, bad: set[str]
) -> None:
    folder = topics.find("layer").folder
    if change == "no fix":
        set_fix(small, RACY + "\n\nVALUE = 1\n")
    elif change == "another error":
        (folder / "reproducer.py").write_text("import nowhere\n")
    elif change == "a test that cannot fail":
        (folder / "test.py").write_text("def test_layer_shared():\n    pass\n")
    else:
        set_fix(small, FIXED.replace("class Layer", "BROKEN = True\n\n\nclass Layer"))
        (small / "test" / "test_layer.py").write_text(
            OLD_TEST + "\n\ndef test_whole():\n    from torch_geometric import layer\n\n"
            "    assert not hasattr(layer, 'BROKEN')\n"
        )
        git("commit", "-qam", "a test", cwd=small)
    done = check(small, monkeypatch)
    assert {name for name, each in done.items() if not each.holds} == bad


def test_measure(build: Path, main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(build, ONE, "--repo", main, "--base", "master")
    monkeypatch.setattr(repository, "BUILD", build)
    monkeypatch.setattr(checking, "PROCESSES", 3)
    prepared = kept.read(ONE)
    assert prepared
    before = git("worktree", "list", cwd=main)
    codes: list[dict[str, str]] = []

    def run_cases(python: Path, tree: Path, cases: list[dict[str, Any]]) -> dict[str, Any]:
        assert git("rev-parse", "HEAD", cwd=tree).strip() == prepared.base
        for case in cases:
            assert f"def test_{ONE}" in Path(case["test"]).read_text()
            assert (case["class"], case["variants"][benching.PRISTINE]) == ("TransformerConv", None)
        codes.extend(
            {label: Path(file or tree / LIBRARY).read_text() for label, file in variants.items()}
            for variants in (case["variants"] for case in cases)
        )
        # Each process sees another ratio; their middle is what counts.
        ms = {benching.PRISTINE: 2.0, checking.OURS: 2.0 + len(codes) / len(cases)}
        ms[checking.EDGE_UPDATER] = 8.0
        timing = {
            "times": {label: [1e-3 * ms[label]] * 4 for label in ms},
            "peak_bytes": dict.fromkeys(ms, 10) | {checking.EDGE_UPDATER: 5},
        }
        return {"python": "3.11.7", "torch": "2.13.0", "cases": [timing] * len(cases)}

    monkeypatch.setattr(benching, "run_cases", run_cases)
    cost = checking.measure(prepared, releases.load(), Path(sys.executable), lambda message: None)
    assert cost and (cost["torch"], cost["python"]) == ("2.13.0", "3.11.7")
    failed = {(r["graph"], r["mode"], r["variant"]): r for r in cost["ratios"]}
    assert len(failed) == len(cost["ratios"]) == 2 * 2 * 3
    for graph in ("small", "middle"):
        for mode in ("inference", "training"):
            ours = failed[graph, mode, checking.OURS]
            assert (ours["ratio"], ours["memory_ratio"], ours["processes"]) == (2.0, 1.0, 3)
            other = failed[graph, mode, checking.EDGE_UPDATER]
            assert (other["ratio"], other["memory_ratio"]) == (4.0, 0.5)
    # What is timed is what it is called.
    for code in codes:
        assert "self._alpha" in code[benching.PRISTINE]
        assert "self._alpha" not in code[checking.OURS]
        assert "self.edge_updater(" in code[checking.EDGE_UPDATER]
        assert "self.edge_updater(" not in code[checking.OURS]
    assert git("worktree", "list", cwd=main) == before


def test_measure_has_nothing_to_time(
    build: Path, main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(build, "gatv2_conv", "--repo", main, "--base", "master")  # a test, and no fix
    monkeypatch.setattr(repository, "BUILD", build)
    prepared = kept.read("gatv2_conv")
    assert prepared
    arguments = (releases.load(), Path(sys.executable), lambda message: None)
    assert checking.measure(prepared, *arguments) is None


@pytest.mark.parametrize("holds", [True, False])
def test_the_command_says_and_keeps_what_holds(
    small: Path,
    stand_in: StandIn,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    holds: bool,
) -> None:
    made = prepare_layer(small, monkeypatch)
    proof = page.read_data()["gatv2_conv"]["proof"]
    facts = {key: value for key, value in proof.items() if key not in ("base", "checks")}

    def checks(*arguments: object) -> Iterator[tuple[checking.Check, dict[str, Any]]]:
        for linter, version in facts.pop("linters").items():
            yield checking.Check(linter, True, version), {"linters": {linter: version}}
        yield checking.Check("tests", holds, "2 passed"), facts

    monkeypatch.setattr(checking, "check", checks)
    monkeypatch.setattr(page, "DATA", tmp_path / "upstream.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "upstream.md")
    assert call("upstream", "check", "layer", "--python", stand_in.path, "--record") == (not holds)
    printed = capsys.readouterr()
    assert f"layer, on {made.base[:12]}\n" in printed.out
    assert f"  {'ok  ' if holds else 'FAIL'} tests: 2 passed\n" in printed.out
    if not holds:
        assert "error: Failed checks: tests." in printed.err and not page.DATA.exists()
        return
    entry = json.loads(page.DATA.read_text())["layer"]
    assert entry["cost"] is None and entry["proof"]["torch"] == "2.13.0+cpu"
    assert {**entry["proof"], **dict.fromkeys(("base", "checks", "torch", "python"))} == {
        **proof,
        **dict.fromkeys(("base", "checks", "torch", "python")),
    }
    assert [Path(line).name for line in printed.out.splitlines()[-3:]] == [
        *("upstream.json", "upstream.md", "body.md")
    ]
    assert "### The test" in (made.folder / "body.md").read_text()


def test_a_branch_that_is_not_there(
    small: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("upstream", "check", "layer") == 4
    assert "There is no branch for layer yet: 'scripts/kit.sh upstr" in capsys.readouterr().err


def test_a_command_that_runs_for_too_long(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "TIME_LIMIT", 1.0)
    monkeypatch.setattr(checking, "LINTERS", {})
    (topics.find("layer").folder / "reproducer.py").write_text("import time\ntime.sleep(60)\n")
    done = check(small, monkeypatch)
    (late,) = [each for name, each in done.items() if name.endswith("reproducer.py")]
    assert (late.holds, late.detail) == (False, "ran for over 1 s")
