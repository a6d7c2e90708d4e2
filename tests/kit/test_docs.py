"""What stands in several places says the same: pins, README, tox.ini, CONTRIBUTING."""

import configparser
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from kit import environments, releases, status
from kit.building import extensions as building
from kit.cli import VERBS
from kit.releases import ROOT, Catalogue, Release
from packaging.version import Version

README = (ROOT / "README.md").read_text()
DETAILS = (ROOT / "docs" / "details.md").read_text()
BUILDING = (ROOT / "docs" / "building.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def test_table_of_releases(pinned: Catalogue) -> None:
    """Each class with the releases that race, and the one in which PyG has fixed it."""
    versions = [release.version for release in pinned.releases]
    stated: dict[str, list[str]] = {}
    fixed: dict[str, str | None] = {}
    for name, races, fix in re.findall(
        r"^\| `(\w+)`[^|]* \| ([^|]+) \| ?([\d.]*) ?\|$", README, re.M
    ):
        span = re.fullmatch(r"(\S+) (?:to (\S+)|and newer)", races)
        assert span is not None
        first, last = span.groups()
        end = versions.index(last) if last else len(versions) - 1
        stated[name] = versions[versions.index(first) : end + 1]
        fixed[name] = fix or None
    for series, name in pinned.classes.items():
        affected = [r.version for r in pinned.releases if r.status.get(series) == "affected"]
        assert stated.pop(name) == affected, name
        first_fixed = pinned.fixed_in(series)
        version = None if first_fixed is None else re.sub(r"\.post\d+$", "", first_fixed.version)
        assert fixed[name] == version, name
    assert stated == {}


def test_the_releases_that_there_are(pinned: Catalogue) -> None:
    nightly = [release.version for release in pinned.releases if release.is_nightly]
    released = [release.version for release in pinned.releases if not release.is_nightly]
    text = f"{released[0]} to {released[-1]} and the nightly build\n{nightly[0]}"
    assert text in README


def test_the_question_and_the_fix_open_the_readme() -> None:
    screen = "\n".join(README.splitlines()[:40])
    blocks = re.findall(r"```console\n\$ (\S+ ?\w*)", screen)
    assert blocks == ["scripts/kit.sh doctor", "scripts/apply.sh "]
    assert "scripts/test.sh" in README
    assert "scripts/test.sh" in (ROOT / ".ci" / "run").read_text()


def test_patches_named_in_the_docs_exist() -> None:
    for text in (README, DETAILS, CONTRIBUTING):
        for name in re.findall(r"patches/([\w.]+/[\w.-]+\.patch)", text):
            # Those that a reader of CONTRIBUTING.md makes in the sandbox are its solution.
            folders = (ROOT / "patches", ROOT / "examples" / "new-layer" / "solution")
            assert any((folder / name).exists() for folder in folders), name


def read_tox() -> configparser.ConfigParser:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    return tox


def tox_list(*options: str) -> list[str]:
    command = [sys.executable, "-m", "tox", "list", "--no-desc", "-q", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_factors(pinned: Catalogue) -> None:
    env = read_tox()["testenv"]
    versions = dict(re.findall(r"(pyg\w+): PYG_VERSION = (\S+)", env["set_env"]))
    assert {pinned.find(version).version for version in versions.values()} == {
        release.version for release in pinned.releases
    }
    for factor, version in versions.items():
        release = pinned.find(version)
        assert release.is_nightly or factor == "pyg" + version.replace(".", "")
        (described,) = re.findall(rf"^{factor}: (.*),$", env["description"], re.M)
        assert release.is_nightly or release.version in described
    torches = dict(re.findall(r"(torch\d+): TORCH_VERSION = (\S+)", env["set_env"]))
    assert torches["torch213"] == environments.TORCH
    for factor, version in torches.items():
        assert f"{factor}: torch {version}," in env["description"]


def test_default_environments(pinned: Catalogue) -> None:
    env = read_tox()["testenv"]
    factors = {
        pinned.find(version).version: factor
        for factor, version in re.findall(r"(pyg\w+): PYG_VERSION = (\S+)", env["set_env"])
    }
    with_extensions = {f"{factors[r.version]}-torch213-ext" for r in pinned.releases}
    plain = {f"{factors[r.version]}-torch213" for r in pinned.releases if not r.needs_extensions}
    assert set(tox_list("-m", "releases")) == with_extensions
    assert set(tox_list("-m", "plain")) == plain
    default = set(tox_list("-d"))
    assert default == set(status.default_environments()) < with_extensions | plain
    # Each patch is tried on one release at least; those that are off by default, too, which the
    # environments with extensions apply.
    plainly = [r for r in pinned.releases if f"{factors[r.version]}-torch213" in default]
    extended = [r for r in pinned.releases if f"{factors[r.version]}-torch213-ext" in default]

    def names(attribute: str, releases: Iterable[Release]) -> set[str]:
        return {patch.name for release in releases for patch in getattr(release, attribute)}

    assert names("patches", [*plainly, *extended]) == names("patches", pinned.releases)
    assert names("optional", extended) == names("optional", pinned.releases)
    # The newest release runs with extensions and without, and no other one does.
    newest, nightly = pinned.releases[-2:]
    assert [release for release in plainly if release in extended] == [newest]
    assert nightly in plainly


def test_commands_of_the_matrix() -> None:
    """Two environments run what takes minutes; and no variable of the user's gets into any."""
    names = tox_list("-d")
    mine = dict.fromkeys(("TESTS", "OPTIONAL", "EXTENSIONS", "MODELS", "THOROUGH"), "MINE")
    shown = subprocess.run(
        [sys.executable, "-m", "tox", "config", "-q", "-e", ",".join(names), "-k", "commands"],
        cwd=ROOT,
        env={**os.environ, **mine},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    commands = dict(re.findall(r"^\[testenv:(\S+)\]\ncommands = (.*)$", shown, re.M))
    assert list(commands) == names
    thorough = {name for name, command in commands.items() if " --thorough " in command}
    assert thorough == {"pyg231-torch213-ext", "pyg281-torch213"}
    assert all(" pytest tests/pyg " in command for command in commands.values())
    assert "MINE" not in shown


def test_other_environments(pinned: Catalogue) -> None:
    kit = tox_list("-m", "kit")
    assert kit == ["kit-py310", "kit-py312", "kit-py313"]
    names = set(tox_list()) - set(tox_list("-d")) - {"packages", *kit}
    env = read_tox()["testenv"]
    factors = dict(re.findall(r"(pyg\w+): PYG_VERSION = (\S+)", env["set_env"]))
    # Each release that is older than torch 2.2, on a torch of its own time.
    own = {
        pinned.find(factors[name.split("-")[0]]).version
        for name in names
        if re.match(r"pyg\d+-torch(113|20|21)\b", name)
    }
    assert own == {r.version for r in pinned.releases if Version(r.version) < Version("2.5.0")}
    pythons = {name.split("-")[0] for name in names if name.startswith("py3")}
    usual = {"py310", "py312", "py313", "py314", "py313t", "py314t"}
    assert pythons == usual | {"py38", "py39"}
    # Each release has its scripted layers called often.
    scripted = tox_list("-m", "scripted")
    assert scripted == [f"{f}-torch213-ext-scripted" for f in factors]
    assert {name for name in names if name.endswith("-scripted")} == set(scripted)
    # Every other name is one that can be run: a release and a torch.
    for name in names:
        assert re.fullmatch(
            r"(py3\d+t?-)?pyg\w+-torch\d+(-ext)?(-scripted|-zoo(-packages|-quick)?)?", name
        ), name


def test_workflow(pinned: Catalogue) -> None:
    text = (ROOT / ".github" / "workflows" / "matrix.yml").read_text()
    assert '"tox", "list"' in text
    # The torches whose extensions it builds are those that environments want.
    env = read_tox()["testenv"]
    torches = dict(re.findall(r"(torch\d+): TORCH_VERSION = (\S+)", env["set_env"]))
    # Those of the eras build their own, for their own Python, once a week.
    eras = set(tox_list("-m", "eras"))
    assert '"-m", "eras"' in text
    wanted = {
        torches[name.split("-")[-2]] for name in set(tox_list()) - eras if name.endswith("-ext")
    }
    (listed,) = re.findall(r"torch: \[(.*)\]", text)
    assert set(re.findall(r'"([^"]+)"', listed)) == wanted


@pytest.mark.parametrize("event", ["push", "schedule"])
def test_jobs_of_the_workflow(tmp_path: Path, event: str) -> None:
    """Once a week, each environment that tox lists is run by one job or another."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "matrix.yml").read_text())
    jobs = workflow["jobs"]
    (step,) = (step for step in jobs["list"]["steps"] if step.get("id") == "list")
    output = tmp_path / "output"
    environment = {**os.environ, "EVENT": event, "GITHUB_OUTPUT": str(output)}
    subprocess.run([sys.executable, "-c", step["run"]], cwd=ROOT, env=environment, check=True)
    matrix = json.loads(output.read_text().removeprefix("matrix="))
    pythons = {job["env"]: job["python"] for job in matrix["include"]}
    eras, scripted = set(tox_list("-m", "eras")), set(tox_list("-m", "scripted"))
    kit = tox_list("-m", "kit")
    own = {"packages", *kit, *scripted, *(() if event == "schedule" else eras)}
    assert set(pythons) == set(tox_list()) - own
    assert set(tox_list("-m", "zoo")) <= set(pythons)
    assert pythons.get("py38-pyg231-torch20") == ("3.8" if event == "schedule" else None)
    # What has a job of its own.
    assert jobs["packages"]["steps"][-1]["run"] == "scripts/kit.sh packages"
    versions = {version.replace(".", "") for version in jobs["kit"]["strategy"]["matrix"]["python"]}
    assert {name.removeprefix("kit-py") for name in kit} <= versions
    assert jobs["kit"]["steps"][-1]["run"] == "scripts/test.sh --quick"
    # Its jobs make as many calls as those of the label `scripted`.
    assert workflow["env"]["PYG_THREADSAFE_FULL"] == "1"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_in_the_docs(verb: str) -> None:
    assert f"kit.sh {verb}" in README + DETAILS + CONTRIBUTING + (ROOT / "tox.ini").read_text() or (
        verb == "apply" and "scripts/apply.sh" in README
    )


def test_pinned_extensions_are_in_the_docs() -> None:
    for extension in itertools.chain(*building.pinned().values()):
        assert f"| {extension.name} | {extension.version} | {extension.torch} |" in BUILDING
