"""Other people's packages: their pins, how outcomes are compared, and the page."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from kit import cli, packages, pages, releases
from kit.errors import TreeError, UsageError
from kit.packages import Outcome, Package

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


def outcome(**fields: object) -> Outcome:
    values = {"package": "somebody", "version": "1.0", "asks": ">=2.3", "layers": ("FAConv",)}
    counts = {"same": 3, "failed": 0, "skipped": 0, "differ": ()}
    return Outcome(**{
        **values, "ran": "tests", "release": "2.3.1", "torch": "2.13.0", **counts, **fields
    })  # fmt: skip


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
    old = [asdict(outcome(release="2.4.0")), asdict(outcome(release="2.3.1", same=1))]
    gone = [asdict(outcome(version="0.9")), asdict(outcome(package="nobody"))]
    merged = packages.merge([*old, *gone], [asdict(outcome())], [pin])
    assert [(each["release"], each["same"]) for each in merged] == [("2.3.1", 3), ("2.4.0", 3)]


def test_problems_are_told_apart() -> None:
    assert "once patched: test_a, test_b." in packages.problem(outcome(differ=("test_a", "test_b")))
    assert "none of its tests works on the released PyG" in packages.problem(outcome(same=0))


def test_the_page_is_what_its_data_say() -> None:
    data = json.loads(packages.DATA.read_text())
    assert packages.PAGE.read_text() == packages.render(data)
    assert packages.DATA.read_text() == pages.dump(data)
    recorded = [(each["package"], each["version"], each["release"]) for each in data["outcomes"]]
    pinned = packages.load()
    assert recorded == [(each.name, each.version, r) for each in pinned for r in each.releases]
    # A package that ends in another way, or shows nothing, is a fault to be mended first.
    assert all(each["same"] and not each["differ"] for each in data["outcomes"])


def test_the_command_refuses_what_is_not_pinned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["kit", "packages", "nobody"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == UsageError.exit_code
    assert "No package 'nobody' is pinned." in capsys.readouterr().err
