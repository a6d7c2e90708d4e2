"""The audit of trees and models, as one finding an attribute; its page is up to date."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import World, write
from kit import auditing, releases, sources, surveying
from kit.commands import audit
from kit.errors import ProofError, ToolError, UsageError
from kit.releases import Catalogue
from kit.surveying import Finding, Survey

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


def seen(verdict: str, crashed: int = 0, wrong: int = 0, attribute: str = "_alpha") -> Any:
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
    found = {"python": "3.11", "torch": "2.13", "layers": layers}
    monkeypatch.setattr(surveying, "_run", lambda *arguments: found)


def test_static_alone(tmp_path: Path) -> None:
    found = surveying.survey(tree(tmp_path), "1.0", None)
    (finding,) = found.findings
    assert (finding.cls, finding.attribute, finding.kind) == ("OtherConv", "_alpha", "race")
    assert len(finding.written) == 2 and finding.races
    assert surveying.words_of(found) == {"OtherConv": "race, not run"}


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
        str(i): {"writes": [seen(verdict, 1, 1) if verdict == "confirmed" else seen(verdict)]}
        for i, verdict in enumerate(verdicts)
    }
    run_with(monkeypatch, OtherConv={"forms": forms}, Clean={"forms": {"dense": {"writes": []}}})
    found = surveying.survey(tree(tmp_path), "1.0", Path("python"))
    (finding,) = found.findings
    assert (surveying.word_of(finding), finding.races) == (word, races)
    assert surveying.words_of(found) == {"OtherConv": word, "Clean": "writes nothing"}
    if word == "race":
        assert (finding.crashed, finding.silently_wrong) == (1, 1)


def test_what_a_layer_writes_into_what_it_holds_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seen as an attribute of another class; the line is the same.
    run_with(
        monkeypatch,
        OtherConv={"forms": {"dense": {"writes": [{**seen("confirmed"), "class": "Held"}]}}},
    )
    (finding,) = surveying.survey(tree(tmp_path), "1.0", Path("python")).findings
    assert (finding.cls, finding.verdict) == ("OtherConv", "confirmed")


def test_layers_that_cannot_run_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_with(monkeypatch, XConv={"forms": {"dense": {"error": "ImportError: pyg-lib"}}})
    found = surveying.survey(tree(tmp_path), "1.0", Path("python"))
    assert found.failed == {"XConv": "ImportError: pyg-lib"} and found.layers == []


def test_data_come_back_the_same(tmp_path: Path) -> None:
    surveys = [surveying.survey(tree(tmp_path), "1.0", None)]
    assert surveying.load(surveying.dump(surveys, "here")) == (surveys, "here")


@pytest.mark.parametrize(
    "words, code, said",
    [
        ([], 2, "What is to be audited? Name one of"),
        (["1.8.0", "--installed"], 2, "Name one of"),
        (["--model", "a:b"], 2, "--model and --inputs go together"),
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
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
def test_refusals(world: World, words: list[str], code: int, said: str) -> None:
    result = world.run("audit", *words)
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


# --- a user's model ---


def model(**changes: Any) -> dict[str, Any]:
    stress = {"threads": 8, "calls": 800, "right": 800, "crashed": 0, "silently_wrong": 0}
    found = {
        **{"python": "3.11", "torch": "2.13", "torch_geometric": "2.8.1", "gil": True},
        **{"requests": 4, "modules": 3, "classes": [], "writes": [], "unseen": []},
        **{"stress": stress, "nondeterministic": False, "notes": []},
    }
    return {**found, **changes}


@pytest.mark.parametrize(
    "changes, verdict, said",
    [
        ({}, "Safe:", "A call writes nothing to the model"),
        ({"writes": [seen("refuted")]}, "Safe:", "refuted: because"),
        (
            {"writes": [{**seen("not forced"), "first_call_only": True}]},
            "Safe:",
            "Make one call before threads share it",
        ),
        ({"writes": [seen("confirmed", 2, 1)]}, "Not safe:", "2 crashed, 1 silently wrong"),
        (
            {"stress": {**model()["stress"], "right": 799, "crashed": 1}},
            "Not safe:",
            "799 right, 1 crashed",
        ),
        ({"writes": [seen("not forced")]}, "Not shown to be safe:", "not forced: because"),
        ({"nondeterministic": True, "stress": None}, "Not shown to be safe:", ""),
    ],
)
def test_verdicts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    verdict: str,
    said: str,
) -> None:
    monkeypatch.setattr(surveying, "survey_model", lambda *arguments: model(**changes))
    monkeypatch.setattr(surveying, "find_installed", lambda python: None)
    safe = verdict == "Safe:"
    try:
        audit._audit_model(releases.load(), Path("python"), "serving:model", "serving:inputs", None)
        assert safe
    except ProofError:
        assert not safe
    shown = " ".join(capsys.readouterr().out.split())
    # The verdict first, then the evidence, then what to do.
    assert shown.startswith(verdict)
    assert said in shown
    if verdict == "Not safe:":
        assert shown.index("Evidence") < shown.index("What to do") < shown.index("Lock()")


@pytest.mark.parametrize("code, error", [(2, UsageError), (1, ToolError)])
def test_a_model_that_cannot_be_run(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    result = SimpleNamespace(returncode=code, stdout="", stderr="MODEL is wrong.\n")
    monkeypatch.setattr(surveying, "run", lambda *arguments, **keywords: result)
    with pytest.raises(error, match=r"MODEL is wrong\."):
        surveying.survey_model(Path("python"), "a:b", "a:c", None)


def test_the_users_environment_is_the_active_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/some/where")
    assert surveying.user_python(None) == Path("/some/where/bin/python")
    monkeypatch.delenv("VIRTUAL_ENV")
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    assert surveying.user_python(None) == Path("python3")


# --- the page in the docs ---


@pytest.fixture(scope="module")
def committed() -> tuple[list[Survey], str]:
    return surveying.load(surveying.DATA.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def test_committed_page_says_what_the_data_say(committed: tuple[list[Survey], str]) -> None:
    assert surveying.PAGE.read_text(encoding="utf-8") == surveying.render(*committed)


def test_committed_picture_is_of_the_data(
    committed: tuple[list[Survey], str], tmp_path: Path
) -> None:
    for file in (tmp_path / "one.svg", tmp_path / "two.svg"):
        surveying.draw(committed[0], file)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    # Another matplotlib may write other bytes, but not other shapes and words.
    drawn = [
        sorted(re.findall(r">([^<>\n]+)</text>|(fill: #[0-9a-f]{6})", file.read_text()))
        for file in (surveying.PICTURE, tmp_path / "one.svg")
    ]
    assert drawn[0] == drawn[1]
    words = " ".join(ElementTree.parse(tmp_path / "one.svg").getroot().itertext())
    assert "TransformerConv" in words and "2.8.1" in words


def test_every_release_is_there(committed: tuple[list[Survey], str], pinned: Catalogue) -> None:
    assert [each.release for each in committed[0]] == [r.version for r in pinned.releases]


def test_the_audit_confirms_what_the_patches_are_for(
    committed: tuple[list[Survey], str], pinned: Catalogue
) -> None:
    for found, release in zip(committed[0], pinned.releases, strict=True):
        confirmed = {finding.cls for finding in found.findings if finding.verdict == "confirmed"}
        assert confirmed == {pinned.classes[layer] for layer in release.affected()}


def test_every_reviewed_entry_is_borne_out(committed: tuple[list[Survey], str]) -> None:
    found = {
        (finding.cls, finding.attribute, finding.kind)
        for each in committed[0]
        for finding in each.findings
    }
    found |= {(cls, "*", kind) for cls, _, kind in found}
    for entry in auditing.load_reviewed():
        assert (entry.cls, entry.attribute, entry.kind.value) in found


@pytest.mark.parametrize("version", ["2.0.3", "2.8.1"])
def test_the_sources_still_read_so(
    committed: tuple[list[Survey], str], pinned: Catalogue, tmp_path: Path, version: str
) -> None:
    """The static half, anew, of an old and of a new release."""
    release = pinned.find(version)
    kind, cache = sources.Kind.SDIST, sources.default_cache()
    source = sources.Source(kind, sources.UPSTREAM, False, cache, lambda message: None)
    sources.materialize(release, source, tmp_path / "tree")

    def shown(findings: list[Finding]) -> list[tuple[Any, ...]]:
        # Where a value is read can be what the run has seen.
        return [(f.cls, f.attribute, f.kind, f.written) for f in findings if f.kind]

    (before,) = (each for each in committed[0] if each.release == release.version)
    assert shown(surveying.survey(tmp_path / "tree", version, None).findings) == shown(
        before.findings
    )
