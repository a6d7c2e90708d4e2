"""What stands in several places says the same: pins, README, tox.ini, CONTRIBUTING."""

import configparser
import re

import pytest
from kit import environments, releases
from kit.cli import cli
from kit.releases import ROOT, Catalogue

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def test_table_of_releases(pinned: Catalogue) -> None:
    stated = {}
    for versions, status, patches in re.findall(
        r"^\| ([0-9][^|]*) \| (affected|fixed) \| ([^|]*)\|$", README, re.M
    ):
        for version in versions.split(", "):
            assert version not in stated
            stated[version] = (status, re.findall(r"`([^`]+)`", patches))
    everyone = "regression_test/gatv2_conv.patch"
    assert f"Every release also takes `{everyone}`" in README
    assert stated == {
        release.version: (
            release.status["gatv2_conv"],
            [patch.name for patch in release.patches if patch.name != everyone],
        )
        for release in pinned.releases
    }


def test_the_two_commands_open_the_readme() -> None:
    first = re.search(r"```console\n(.*?)```", README, re.S)
    assert first
    commands = re.findall(r"^\$ (\S+)", first[1], re.M)
    assert commands == ["scripts/apply.sh", "scripts/test.sh"]
    assert "scripts/test.sh" in (ROOT / ".ci" / "run").read_text()


def test_patches_named_in_the_docs_exist() -> None:
    for text in (README, CONTRIBUTING):
        for name in re.findall(r"patches/([\w.]+/[\w.-]+\.patch)", text):
            assert (ROOT / "patches" / name).exists(), name


def test_matrix(pinned: Catalogue) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    env = tox["testenv"]
    versions = dict(re.findall(r"(pyg\w+): PYG_VERSION = (\S+)", env["set_env"]))
    # Every release that needs no extensions, each under its own factor.
    wanted = {r.version: r for r in pinned.releases if not r.needs_extensions}
    assert {pinned.find(version).version for version in versions.values()} == set(wanted)
    listed = re.findall(r"pyg\{([^}]*)\}-torch213", tox["tox"]["env_list"])[0].split(", ")
    assert [f"pyg{name}" for name in listed] == list(versions)
    for factor, version in versions.items():
        release = pinned.find(version)
        if not release.is_nightly:
            assert factor == "pyg" + version.replace(".", "")
        (described,) = re.findall(rf"^{factor}: (.*),$", env["description"], re.M)
        assert ("(affected)" in described) == bool(release.affected())
        assert release.is_nightly or version in described
    assert f"TORCH_VERSION = {environments.TORCH}" in env["set_env"]


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_is_in_the_docs(verb: str) -> None:
    assert f"kit.sh {verb}" in README + CONTRIBUTING + (ROOT / "tox.ini").read_text() or (
        verb == "apply" and "scripts/apply.sh" in README
    )


def test_every_module_is_in_the_docs() -> None:
    for module in (ROOT / "scripts" / "kit").glob("*.py"):
        if not module.name.startswith("__"):
            assert f"{module.name}`" in CONTRIBUTING, module.name
