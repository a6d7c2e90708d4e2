"""What stands in several places says the same: pins, README, tox.ini, CONTRIBUTING."""

import configparser
import re
import subprocess
import sys

import pytest
from kit import environments, releases, status
from kit.building import extensions as building
from kit.cli import cli
from kit.releases import ROOT, Catalogue
from packaging.version import Version

README = (ROOT / "README.md").read_text()
BUILDING = (ROOT / "docs" / "building.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def test_table_of_releases(pinned: Catalogue) -> None:
    heads = "| PyG | " + " | ".join(f"`{name}`" for name in pinned.classes.values()) + " |"
    assert heads in README
    stated = {}
    for versions, cells in re.findall(r"^\| ([0-9][^|]*) \|(.*)\|$", README, re.M):
        texts = [cell.strip() for cell in cells.split("|")]
        status = {key: word for key, word in zip(pinned.classes, texts, strict=True) if word}
        for version in versions.split(", "):
            assert version not in stated
            stated[version] = status
    assert stated == {release.version: release.status for release in pinned.releases}


def test_the_two_commands_open_the_readme() -> None:
    blocks = re.findall(r"```console\n(.*?)```", README.split("\n## ")[0], re.S)
    commands = [re.findall(r"^\$ (\S+)", block, re.M) for block in blocks]
    assert ["scripts/apply.sh", "scripts/test.sh"] in commands
    assert "scripts/test.sh" in (ROOT / ".ci" / "run").read_text()


def test_patches_named_in_the_docs_exist() -> None:
    for text in (README, CONTRIBUTING):
        for name in re.findall(r"patches/([\w.]+/[\w.-]+\.patch)", text):
            assert (ROOT / "patches" / name).exists(), name


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
    default = set(tox_list("-d"))
    assert default == set(status.default_environments()) > with_extensions
    # The newest and the nightly build are among those without extensions, and a label has the rest.
    assert default - with_extensions > {"pyg281-torch213", "pygnightly-torch213"}
    assert set(tox_list("-m", "plain")) == plain - default
    assert default - with_extensions < plain


def test_other_environments(pinned: Catalogue) -> None:
    names = set(tox_list()) - set(tox_list("-d")) - {"packages"}
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
    assert pythons == {"py310", "py312", "py313", "py314", "py313t", "py314t"}
    # Every other name is one that can be run: a release and a torch.
    for name in names - {"packages"}:
        assert re.fullmatch(
            r"(py3\d+t?-)?pyg\w+-torch\d+(-ext)?(-zoo(-packages|-quick)?)?", name
        ), name


def test_workflow(pinned: Catalogue) -> None:
    text = (ROOT / ".github" / "workflows" / "matrix.yml").read_text()
    assert '"tox", "list"' in text
    # The torches whose extensions it builds are those that environments want.
    env = read_tox()["testenv"]
    torches = dict(re.findall(r"(torch\d+): TORCH_VERSION = (\S+)", env["set_env"]))
    wanted = {torches[name.split("-")[-2]] for name in tox_list() if name.endswith("-ext")}
    (listed,) = re.findall(r"torch: \[(.*)\]", text)
    assert set(re.findall(r'"([^"]+)"', listed)) == wanted


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_is_in_the_docs(verb: str) -> None:
    assert f"kit.sh {verb}" in README + CONTRIBUTING + (ROOT / "tox.ini").read_text() or (
        verb == "apply" and "scripts/apply.sh" in README
    )


def test_pinned_extensions_are_in_the_docs() -> None:
    for extension in building.pinned().values():
        assert f"| {extension.name} | {extension.version} | {extension.torch} |" in BUILDING
