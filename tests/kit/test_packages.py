"""Other people's packages: their pins, how outcomes are compared, and the page."""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import AFTER, LAYER, StandIn, World
from kit import environments, packages, pages, releases, sources
from kit.errors import ToolError, TreeError, UsageError
from kit.packages import Outcome, Package
from test_scripts import make_wheel

RECORD = """
[[package]]
name = "somebody"
version = "1.0"
sha256 = "{sha256}"
asks = "{asks}"
releases = ["2.3.1"]
layers = ["FAConv"]
dependencies = [{dependencies}]
"""


def write(path: Path, sha256: str = "0" * 64, asks: str = ">=2.3", dependencies: str = "") -> Path:
    file = path / "packages.toml"
    file.write_text(RECORD.format(sha256=sha256, asks=asks, dependencies=dependencies))
    return file


OUTCOME = Outcome(
    package="somebody",
    version="1.0",
    asks=">=2.3",
    layers=("FAConv",),
    ran="tests",
    release="2.3.1",
    torch="2.13.0",
    same=3,
    failed=0,
    skipped=0,
    differ=(),
)


def test_the_pins_name_releases_and_layers_of_the_kit() -> None:
    catalogue = releases.load()
    pinned = packages.load()
    assert len({package.name for package in pinned}) == len(pinned) >= 6
    for package in pinned:
        assert [catalogue.find(name).version for name in package.releases] == list(package.releases)
        assert set(package.layers) <= set(catalogue.classes.values())


@pytest.mark.parametrize(
    "fault, field",
    [
        ({"sha256": "beef"}, "'sha256' is 'beef'. Expected 64 hex digits"),
        ({"asks": "new"}, "'asks' is 'new'. Expected a specifier"),
        ({"dependencies": '"scipy"'}, "Expected a list of pinned requirements"),
    ],
)
def test_a_faulty_pin_is_named(tmp_path: Path, fault: dict[str, str], field: str) -> None:
    assert packages.load(write(tmp_path))[0].pin == f"somebody==1.0 --hash=sha256:{'0' * 64}\n"
    with pytest.raises(TreeError, match="package 'somebody'") as error:
        packages.load(write(tmp_path, **fault))
    assert field in str(error.value)


def test_an_unknown_package_is_refused() -> None:
    pinned = packages.load()
    assert packages.choose(pinned, []) == pinned
    assert packages.choose(pinned, [pinned[-1].name]) == [pinned[-1]]
    with pytest.raises(UsageError, match=r"No package 'nobody' is pinned\. Expected one of "):
        packages.choose(pinned, ["nobody"])


def test_what_works_has_to_end_the_same() -> None:
    pristine = {
        "works": "passed",
        "breaks": "passed",
        "vanishes": "passed",
        "is skipped": "skipped",
        "runs once patched": "skipped",
        "fails": "failed: TypeError",
        "is mended": "failed: TypeError",
        "gives other bits": "sha256 1",
    }
    patched = {
        **pristine,
        "breaks": "failed",
        "runs once patched": "passed",
        "fails": "failed: ValueError",
        "is mended": "passed",
        "gives other bits": "sha256 2",
    }
    del patched["vanishes"]
    differ = ("breaks", "gives other bits", "runs once patched", "vanishes")
    assert packages.count(pristine, patched) == (1, 2, 1, differ)
    assert packages.count(pristine, pristine) == (4, 2, 2, ())


def test_a_report_of_pytest_is_read(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(
        "<testsuites><testsuite>"
        "<testcase classname='tests.test_a' name='test_good'/>"
        "<testcase classname='tests.test_a' name='test_bad'><failure/></testcase>"
        "<testcase classname='tests.test_a' name='test_left'><skipped/></testcase>"
        "<testcase classname='' name='tests.test_b'><error/></testcase>"
        "</testsuite></testsuites>"
    )
    assert packages.read_report(tmp_path / "report.xml") == {
        "tests.test_a.test_good": "passed",
        "tests.test_a.test_bad": "failed",
        "tests.test_a.test_left": "skipped",
        ".tests.test_b": "failed",
    }


def test_new_outcomes_replace_old_ones() -> None:
    pin = Package("somebody", "1.0", "0" * 64, ">=2.3", ("2.3.1", "2.4.0"), ("FAConv",), ())
    old = [replace(OUTCOME, release="2.4.0"), replace(OUTCOME, same=1)]
    gone = [replace(OUTCOME, version="0.9"), replace(OUTCOME, package="nobody")]
    merged = packages.merge([asdict(each) for each in (*old, *gone)], [asdict(OUTCOME)], [pin])
    assert [(each["release"], each["same"]) for each in merged] == [("2.3.1", 3), ("2.4.0", 3)]


def test_problems_are_told_apart() -> None:
    differ, none = replace(OUTCOME, differ=("test_a", "test_b")), replace(OUTCOME, same=0)
    assert "once patched: test_a, test_b." in packages.problem(differ)
    assert "none of its tests works on the released PyG" in packages.problem(none)


def test_the_page_is_what_its_data_say() -> None:
    data = json.loads(packages.DATA.read_text())
    assert packages.PAGE.read_text() == packages.render(data)
    assert packages.DATA.read_text() == pages.dump(data)


def test_the_command_refuses_what_is_not_pinned(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("packages", "nobody") == UsageError.exit_code
    assert "No package 'nobody' is pinned." in capsys.readouterr().err


BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(folder + "/somebody-1.0-py3-none-any.whl", "w") as wheel:
        info = "somebody-1.0.dist-info/"
        metadata = ["Metadata-Version: 2.1", "Name: somebody", "Version: 1.0", ""]
        wheel.writestr(info + "METADATA", "\\n".join(metadata))
        tags = ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any", ""]
        wheel.writestr(info + "WHEEL", "\\n".join(tags))
        wheel.writestr(info + "RECORD", "")
        wheel.writestr("somebody.py", "NAME = 'somebody'\\n")
    return "somebody-1.0-py3-none-any.whl"
"""
# Fails on the patched tree alone, as its layer is another one there.
TESTS = f"""
from pathlib import Path
import small_dependency, somebody, torch_geometric
LAYER = (Path(torch_geometric.__file__).parents[1] / {LAYER!r}).read_text()
def test_imports():
    assert somebody.NAME == "somebody" and small_dependency.VALUE == 1
def test_layer():
    assert LAYER != {AFTER!r}
"""


@pytest.fixture
def somebody(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package with tests, in an index that has what it needs."""
    index = tmp_path / "index"
    make_wheel(index, "small_dependency", "VALUE = 1\n")
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": build, "backend.py": BACKEND, "tests/test_it.py": TESTS}
    files |= {"PKG-INFO": "Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n"}
    with tarfile.open(index / "somebody-1.0.tar.gz", "w:gz") as sdist:
        for name, text in files.items():
            member = tarfile.TarInfo(f"somebody-1.0/{name}")
            member.size = len(text)
            sdist.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_FIND_LINKS", f"{index} {world.index}")
    monkeypatch.setattr(packages, "ROOT", tmp_path)
    (tmp_path / ".kit").mkdir()
    digest = hashlib.sha256((index / "somebody-1.0.tar.gz").read_bytes()).hexdigest()
    needs = ("small_dependency==1.0",)
    return Package("somebody", "1.0", digest, "any", ("1.8.0",), ("GATv2Conv",), needs, ("tests",))


@pytest.fixture
def shared(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The shared environment with a torch."""
    monkeypatch.setattr(environments, "ensure", lambda *arguments: stand_in.path)
    monkeypatch.setenv("PYTHONPATH", str(stand_in.path.parent))
    return stand_in


def test_its_tests_run_on_both_trees(
    somebody: Package,
    shared: StandIn,
    catalogue: releases.Catalogue,
    source: Callable[..., sources.Source],
) -> None:
    told: list[str] = []
    base = Path(sys.executable)
    python = packages.environment([somebody], "2.13.0", base, told.append)
    assert len(told) == 1 and told[0].startswith("Installing 1 packages into .kit/packages-torch-")
    assert packages.environment([somebody], "2.13.0", base, told.append) == python
    assert len(told) == 1
    (outcome,) = packages.compare(somebody, catalogue, source("sdist"), python, told.append)
    assert (outcome.ran, outcome.release, outcome.torch) == ("tests", "1.8.0", "2.13.0+cpu")
    assert (outcome.same, outcome.failed, outcome.differ) == (1, 0, ("tests.test_it.test_layer",))
    none = replace(somebody, tests=("tests/test_it.py::test_nothing",))
    with pytest.raises(ToolError, match="No test of somebody ran: "):
        packages.compare(none, catalogue, source("sdist"), python, told.append)
    gone = replace(somebody, sha256="0" * 64)
    with pytest.raises(ToolError, match="The sdist of somebody could not be downloaded: "):
        packages.compare(gone, catalogue, source("sdist"), python, told.append)
    with pytest.raises(ToolError, match=r"could not be made: .* PyPI has the versions of packages"):
        packages.environment([gone], "2.13.0", base, told.append)


@pytest.fixture
def models(somebody: Package, shared: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A package whose models are run, and an environment that has it."""
    pinned = replace(somebody, tests=())
    monkeypatch.setattr(packages, "load", lambda: [pinned])
    monkeypatch.setattr(packages, "environment", lambda *arguments: shared.path)
    return shared


COMMAND = ("packages", "--source", "sdist")


@pytest.mark.parametrize(
    "ends, code, said",
    [
        ([{"a": "sha256 1", "b": "failed: no"}] * 2, 0, ""),
        ([{"a": "sha256 1"}, {"a": "sha256 2"}], 1, "ended in another way once patched: a."),
        ([{"a": "failed: no"}] * 2, 1, "none of its models works on the released PyG"),
    ],
)
def test_its_models_run_on_both_trees(
    models: StandIn,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    ends: list[dict[str, Any]],
    code: int,
    said: str,
) -> None:
    models.answer("drive.py", *({"json": end} for end in ends))
    assert call(*COMMAND) == code
    printed = capsys.readouterr()
    assert said in printed.err and ("error: " in printed.err) == bool(code)
    assert "somebody 1.0" in printed.out and "1.8.0" in printed.out and "models" in printed.out


def test_models_that_cannot_run(
    models: StandIn, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    models.answer("drive.py", {"code": 1, "said": "ImportError: no somebody"})
    assert call(*COMMAND) == 5
    assert "The models of somebody did not run: ImportError: no" in capsys.readouterr().err


@pytest.mark.parametrize("before", ["nothing", "another release"])
def test_what_was_seen_is_recorded(
    models: StandIn,
    call: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
) -> None:
    monkeypatch.setattr(packages, "DATA", tmp_path / "packages.json")
    monkeypatch.setattr(packages, "PAGE", tmp_path / "packages.md")
    if before != "nothing":
        old = [asdict(replace(OUTCOME, package="gone"))]
        packages.DATA.write_text(pages.dump({"stamp": {}, "outcomes": old}))
    models.answer("drive.py", {"json": {"a": "sha256 1"}})
    assert call(*COMMAND, "--record") == 0
    data = json.loads(packages.DATA.read_text())
    assert [each["package"] for each in data["outcomes"]] == ["somebody"]
    assert "| somebody 1.0 | any | `GATv2Conv` | models | 1.8.0 | 1 |" in packages.PAGE.read_text()
