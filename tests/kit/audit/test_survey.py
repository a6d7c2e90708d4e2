"""The audit of a tree, as one finding an attribute."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LAYER as LAYER_FILE
from conftest import StandIn, World, library, refused, write
from kit import releases, sources
from kit.audit import outside, page, survey
from kit.audit.kinds import Kind

LAYER = """
from torch_geometric.nn.conv import MessagePassing


class OtherConv(MessagePassing):
    def forward(self, x):
        out = self.propagate(x)
        alpha = self._alpha
        self._alpha = None
        return out, alpha

    def message(self, x_j):
        self._alpha = x_j.mean()
        return x_j
"""
FILE = "torch_geometric/nn/conv/other_conv.py"


def tree(root: Path, layer: str = LAYER) -> Path:
    write(root, {"torch_geometric/__init__.py": "__version__ = '1.0'\n", FILE: layer})
    return root


def write_of(verdict: str, crashed: int = 0, wrong: int = 0, attribute: str = "_alpha") -> Any:
    line = LAYER.splitlines().index("        self._alpha = x_j.mean()") + 1
    ended = {"calls": 4, "right": 4 - crashed - wrong, "crashed": crashed, "silently_wrong": wrong}
    return {
        "submodule": "",
        "class": "OtherConv",
        "attribute": attribute,
        "how": "assignment",
        "written": [[FILE, line, "message"]],
        "read": [[FILE, line - 5, "forward"]],
        "first_call_only": False,
        "interleaved": ended if verdict in ("confirmed", "refuted") else None,
        "verdict": verdict,
        "reason": "because",
    }


def run_with(monkeypatch: pytest.MonkeyPatch, **layers: Any) -> None:
    """Lets the layers end as told, without torch."""
    ran = {"python": "3.11", "torch": "2.13", "layers": layers}
    monkeypatch.setattr(survey, "run_program", lambda *arguments, **keywords: ran)


def test_static_alone(tmp_path: Path) -> None:
    result = survey.survey(tree(tmp_path), "1.0", None)
    (finding,) = result.findings
    assert (finding.cls, finding.attribute, finding.kind) == ("OtherConv", "_alpha", "race")
    assert len(finding.written) == 2 and finding.races
    assert page.labels_of(result) == {"OtherConv": "race, not run"}


@pytest.mark.parametrize(
    "verdicts, word, races",
    [
        (["confirmed"], "race", True),
        (["refuted", "confirmed"], "race", True),
        (["refuted"], "refuted", False),
        (["not forced"], "race, not run", True),
        (["not read back"], "refuted", False),
    ],
)
def test_what_was_seen_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdicts: list[str], word: str, races: bool
) -> None:
    forms = {
        str(i): {
            "writes": [write_of(verdict, 1, 1) if verdict == "confirmed" else write_of(verdict)]
        }
        for i, verdict in enumerate(verdicts)
    }
    run_with(monkeypatch, OtherConv={"forms": forms}, Clean={"forms": {"dense": {"writes": []}}})
    result = survey.survey(tree(tmp_path), "1.0", Path("python"))
    (finding,) = result.findings
    assert (page.word_of(finding), finding.races) == (word, races)
    assert page.labels_of(result) == {"OtherConv": word, "Clean": "writes nothing"}
    if word == "race":
        assert (finding.crashed, finding.silently_wrong) == (1, 1)


def test_what_a_layer_writes_into_what_it_holds_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seen as an attribute of another class; the line is the same.
    run_with(
        monkeypatch,
        OtherConv={"forms": {"dense": {"writes": [{**write_of("confirmed"), "class": "Held"}]}}},
    )
    (finding,) = survey.survey(tree(tmp_path), "1.0", Path("python")).findings
    assert (finding.cls, finding.verdict) == ("OtherConv", "confirmed")


def test_which_layer_runs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, notify: Callable[[str], None], **keywords: Any) -> dict[str, Any]:
        notify("running XConv, 1 of 2")
        return {"python": "3.11", "torch": "2.13", "layers": {}}

    monkeypatch.setattr(survey, "run_program", run)
    told: list[str] = []
    survey.survey(tree(tmp_path), "1.0", Path("python"), notify=told.append)
    assert told == ["running XConv, 1 of 2"]


def test_one_layer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that one is run, and nothing is said of the others, which were not."""
    root = tree(tmp_path, LAYER + LAYER.replace("OtherConv", "ThirdConv"))
    assert {f.cls for f in survey.survey(root, "1.0", None).findings} == {"OtherConv", "ThirdConv"}
    asked: list[Any] = []

    def run(python: Path, arguments: list[str], **keywords: Any) -> dict[str, Any]:
        asked.append(arguments)
        forms = {"dense": {"writes": [write_of("confirmed", 1, 1)]}}
        return {"python": "3.11", "torch": "2.13", "layers": {"OtherConv": {"forms": forms}}}

    monkeypatch.setattr(survey, "run_program", run)
    for python in (None, Path("python")):
        result = survey.survey(root, "1.0", python, layers=["OtherConv"])
        assert {finding.cls for finding in result.findings} == {"OtherConv"}
    assert asked == [["layers", "--layer=OtherConv"]]


def test_what_counts_against_a_tree() -> None:
    """Not what the user allows, nor what matters only to who uses that class."""
    race, harmless = Kind.RACE.value, Kind.MEMO.value
    findings = [
        survey.Finding(cls, "_value", kind, (), ())
        for cls, kind in (("A", race), ("B", race), ("C", harmless))
    ]
    findings.append(survey.Finding("WLConv", "hashmap", race, (), ()))
    result = survey.Survey("1.8.0", findings=findings)
    judged = survey.judge(result, {"B.*"})
    assert [each.cls for each in judged.races] == ["A"]
    assert [each.cls for each in judged.allowed] == ["B"]
    assert [each.cls for each in judged.left_out] == ["WLConv"]
    assert survey.judge(result, {"A._value", "B._value"}).races == []


def test_layers_that_cannot_run_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with(monkeypatch, XConv={"forms": {"dense": {"error": "ImportError: pyg-lib"}}})
    result = survey.survey(tree(tmp_path), "1.0", Path("python"))
    assert result.failed == {"XConv": "ImportError: pyg-lib"} and result.layers == []


@pytest.mark.parametrize(
    "options, code, said",
    [
        ([], 2, "What is to be audited? Name one of"),
        (["1.8.0", "--installed"], 2, "Name one of"),
        (["--model", "a:b"], 2, "--model and --inputs go together"),
        (["2.4.0", "--explainer", "a:b"], 2, "--explainer goes with --model and --inputs"),
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
        (["--installed", "--allow", "alpha"], 2, "expected CLASS.ATTRIBUTE"),
        (["--installed", "--allow", "@/nowhere"], 2, "the file cannot be read"),
        (["--path", "/nowhere", "--static"], 4, "/nowhere holds no PyG"),
        (["--installed", "--python", "/nowhere/python"], 5, "/nowhere/python was not found"),
        (["--installed", "--python", sys.executable], 4, "has no PyG"),
        (
            ["--model", "nowhere:model", "--inputs", "nowhere:inputs", "--python", sys.executable],
            5,
            "No module named 'torch'",
        ),
    ],
)
def test_refusals(world: World, options: list[str], code: int, said: str) -> None:
    result = world.run("audit", *options)
    assert (result.returncode, said in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_tree_on_the_command_line(world: World, tmp_path: Path) -> None:
    files = {"torch_geometric/__init__.py": "__version__ = '1.8.0'\n", FILE: LAYER}
    write(tmp_path, files)
    result = world.run("audit", "--path", tmp_path, "--static")
    assert result.returncode == 1
    assert "Threads cannot share 1 of its classes." in result.stdout
    assert f"written {FILE}" in result.stdout and f"read    {FILE}" in result.stdout
    assert "No patch here and no release fixes OtherConv." in result.stdout
    assert "  Or, let one call at a time in:" in result.stdout  # nothing is to come
    assert "lock = threading.Lock()" in result.stdout
    assert "error: Threads cannot share: OtherConv." in result.stderr
    write(tmp_path, {**files, FILE: LAYER.replace("self._alpha", "alpha")})
    result = world.run("audit", "--path", tmp_path, "--static")
    assert result.returncode == 0, result.stderr
    assert "Threads can share its layers." in result.stdout


def test_what_makes_a_file_that_does_not_parse(world: World, tmp_path: Path) -> None:
    result = world.run("audit", "--path", tree(tmp_path, "def\n"), "--static")
    assert result.returncode == 4
    assert "does not parse" in result.stderr


def test_what_matters_only_to_who_uses_it_is_named_and_does_not_fail(
    world: World, tmp_path: Path
) -> None:
    explainer = LAYER.replace("OtherConv", "GNNExplainer")
    write(tmp_path, {"torch_geometric/__init__.py": "__version__ = '1.8.0'\n", FILE: explainer})
    result = world.run("audit", "--path", tmp_path, "--static")
    assert result.returncode == 0, result.stderr
    assert "Not counted, since it matters only to who uses it: GNNExplainer" in result.stdout


@pytest.mark.parametrize("how", ["named", "in a file", "the class"])
def test_what_is_allowed_does_not_fail(world: World, tmp_path: Path, how: str) -> None:
    write(tmp_path, {"torch_geometric/__init__.py": "__version__ = '1.8.0'\n", FILE: LAYER})
    file = tmp_path / "allowed"
    file.write_text("# reviewed\nOtherConv._alpha  # harmless here\n\n")
    word = {"named": "OtherConv._alpha", "in a file": f"@{file}", "the class": "OtherConv.*"}[how]
    result = world.run("audit", "--path", tmp_path, "--static", "--allow", word)
    assert result.returncode == 0, result.stderr
    assert "Allowed: OtherConv._alpha" in result.stdout


def test_json(world: World, tmp_path: Path) -> None:
    write(tmp_path, {"torch_geometric/__init__.py": "__version__ = '1.8.0'\n", FILE: LAYER})
    alone = world.run("audit", "--path", tmp_path, "--static", "--json", "-")
    assert alone.returncode == 1
    assert json.loads(alone.stdout)["races"] == ["OtherConv"]
    file = tmp_path / "audit.json"
    both = world.run("audit", "--path", tmp_path, "--static", "--json", file)
    assert json.loads(file.read_text()) == json.loads(alone.stdout)
    assert "Threads cannot share 1 of its classes." in both.stdout


RAN = {"python": "3.11.7", "torch": "2.13.0+cpu"}
FORCED = write_of("confirmed", 1, 2)
OTHERS = {
    "OtherConv": {"forms": {"dense": {"writes": [FORCED]}}},
    "XConv": {"forms": {"dense": {"error": "ImportError: pyg-lib"}}},
}


def test_a_release_on_the_command_line(
    world: World,
    stand_in: StandIn,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its layers are run; a reader is told what was forced, and what could not be run."""
    monkeypatch.setattr(sources, "materialize", lambda release, source, root: tree(root))
    stand_in.answer("audit", {"json": {**RAN, "layers": OTHERS}})
    assert call("audit", "1.8.0", "--source", "sdist", "--python", stand_in.path) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("PyG 1.8.0, torch 2.13.0+cpu, Python 3.11.7\n")
    assert "forced  1 calls crashed, 2 silently wrong" in printed
    assert "Read only, as it could not be run: XConv (ImportError: pyg-lib)" in printed
    assert "1 layers and models were run." in printed
    # It is in no file that a patch changes.
    assert "No patch here and no release fixes OtherConv." in printed
    ((_, asked),) = stand_in.calls
    assert asked == "layers"


@pytest.mark.parametrize("show_all", [True, False])
def test_the_patch_of_a_race_is_named(
    world: World, stand_in: StandIn, tmp_path: Path, show_all: bool
) -> None:
    root = tmp_path / "tree"
    write(root, library("1.8.0"))
    place = {"written": [[LAYER_FILE, 20, "message"]]}
    other = {**write_of("refuted", attribute="_size"), "class": "GATv2Conv"}
    forms = {"dense": {"writes": [{**FORCED, **place, "class": "GATv2Conv"}, other]}}
    stand_in.answer("audit", {"json": {**RAN, "layers": {"GATv2Conv": {"forms": forms}}}})
    (root / LAYER_FILE).write_text("")
    options = ["--path", str(root), "--python", str(stand_in.path), *["--all"] * show_all]
    result = world.run("audit", *options)
    assert result.returncode == 1
    assert "  Patch GATv2Conv:\n" in result.stdout
    assert f"apply.sh 1.8.0 --tree {root}\n" in result.stdout
    assert "  Or upgrade: upstream has fixed GATv2Conv in 2.0.0.\n" in result.stdout
    assert ("GATv2Conv: _size" in result.stdout) is show_all
    assert ("Other attributes that calls write" in result.stdout) is not show_all


def test_the_installed_one(world: World, stand_in: StandIn) -> None:
    write(stand_in.path.parent, {"torch_geometric/__init__.py": "", FILE: LAYER})
    stand_in.answer("audit", {"json": {**RAN, "layers": {}}})
    result = world.run("audit", "--installed", "--python", stand_in.path)
    assert result.returncode == 1
    assert f"The PyG in {stand_in.path.parent}, torch 2.13.0+cpu" in result.stdout


@pytest.mark.parametrize("option", ["--survey", "--outside", "--render"])
def test_the_page_of_all_releases(
    option: str,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each release is audited, and what comes of it is the page: here, all is as recorded."""
    (surveys, machine), measured = page.load(), outside.load()
    before, asked = page.PAGE.read_text(), []
    for module, names in ((page, ("PAGE", "DATA", "PICTURE")), (outside, ("DATA",))):
        for name in names:
            file = tmp_path / getattr(module, name).name
            file.write_bytes(getattr(module, name).read_bytes())
            monkeypatch.setattr(module, name, file)
    page.PAGE.unlink()

    def surveyed(root: Path, release: str, python: Path, **_: object) -> survey.Survey:
        asked.append(release)
        return next(each for each in surveys if each.release == release)

    def changed(root: Path, release: str, python: Path) -> outside.Outside:
        asked.append(release)
        return next(each for each in measured if each.release == release)

    monkeypatch.setattr(sources, "materialize", lambda release, source, root: None)
    monkeypatch.setattr(survey, "survey", surveyed)
    monkeypatch.setattr(outside, "measure", changed)
    monkeypatch.setattr("kit.pages.machine", lambda: machine)
    monkeypatch.setattr("kit.commands.audit.find_python", lambda *_, **__: Path("python"))
    assert call("audit", option) == 0
    assert page.PAGE.read_text() == before
    times = {"--survey": 2, "--outside": 1, "--render": 0}[option]
    pinned = [release.version for release in releases.load().releases]
    assert sorted(asked) == sorted(pinned * times)
    printed = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert printed == ["audit.json", "outside.json", "audit.md", "audit.svg"]


def test_where_the_result_cannot_be_written(world: World, tmp_path: Path) -> None:
    file = tree(tmp_path) / FILE / "audit.json"
    result = world.run("audit", "--path", tree(tmp_path), "--static", "--json", file)
    refused(result, 4, f"--json {file}: nothing can be written in {file.parent}.")
