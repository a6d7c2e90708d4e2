"""The package: the verbs of a checkout, the patches inside, and what it has no part of."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import refused
from kit import __version__, places, releases, sources
from kit.releases import ROOT, read_toml

VERSION = "2.3.1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed what it makes of the checkout; read-only."""
    folder = tmp_path_factory.mktemp("package")
    pip = [sys.executable, "-m", "pip"]
    # pip gets what builds it from PyPI, as it does for everybody.
    command = [*pip, "wheel", "-q", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True, cwd=folder)
    (wheel,) = folder.glob(f"pyg_threadsafe-{__version__}-py3-none-any.whl")
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", folder / "site", wheel], check=True
    )
    for path in (folder / "site").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder / "site"


def run(site: Path, cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command as its script does."""
    program = f"import sys; sys.path.append({str(site)!r}); from pyg_threadsafe import main; main()"
    command = [sys.executable, "-I", "-B", "-c", program, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_it_is_named_and_has_all_patches(site: Path, tmp_path: Path) -> None:
    assert run(site, tmp_path, "--version").stdout == f"pyg-threadsafe {__version__}\n"
    names = {str(patch.relative_to(ROOT)) for patch in (ROOT / "patches").rglob("*.patch")}
    there = site / "pyg_threadsafe"
    assert names == {str(patch.relative_to(there)) for patch in there.rglob("*.patch")}
    said = run(site, tmp_path, "apply", "--help").stdout
    assert "$ pyg-threadsafe apply --installed" in said and "scripts/" not in said


def test_it_patches_a_tree_and_says_so(site: Path, tmp_path: Path) -> None:
    release = releases.load().find(VERSION)
    cache = sources.default_cache()
    source = sources.Source(sources.Kind.SDIST, sources.UPSTREAM, False, cache, lambda text: None)
    tree = tmp_path / "site-packages"
    paths = [change.path for patch in release.patches for change in patch.changes]
    tree.mkdir()
    sources.extract(release, source, [*dict.fromkeys(paths), releases.VERSION_FILE], tree)
    doctor = run(site, tmp_path, "doctor", "--tree", "site-packages")
    assert doctor.returncode == 1
    assert f"pyg-threadsafe apply --tree {tree}" in doctor.stdout
    assert run(site, tmp_path, "apply", "--tree", "site-packages").returncode == 0
    assert run(site, tmp_path, "doctor", "--tree", "site-packages").returncode == 0
    # A fresh tree is made below the directory that one is in.
    made = run(site, tmp_path, "apply", VERSION, "--source", "sdist")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "build" / f"pyg-{VERSION}").is_dir()
    assert f"pyg-threadsafe prove {VERSION}" in made.stdout and "scripts/" not in made.stdout


@pytest.mark.parametrize(
    "verb",
    [
        *(["report"], ["zoo"], ["packages"], ["bench"], ["refresh", "x"], ["add-release", "9.0"]),
        *(["release"], ["soak", "--record"], ["mutate", "--record"]),
    ],
)
def test_what_needs_the_checkout_says_so(site: Path, tmp_path: Path, verb: list[str]) -> None:
    refused(run(site, tmp_path, *verb), 2, "needs a checkout", f"call './kit.sh {verb[0]}")
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_told_in_its_own_words(site: Path, tmp_path: Path) -> None:
    refused(run(site, tmp_path, "apply", "2.3.99"), 2, "'pyg-threadsafe apply --list'")


def test_a_checkout_keeps_what_it_makes() -> None:
    assert places.IS_CHECKOUT and places.build_folder() == ROOT / "build"
    assert places.door("apply") == [str(ROOT / "scripts" / "apply.sh")]
    assert places.as_called("scripts/kit.sh audit") == "scripts/kit.sh audit"


def test_dependencies_are_those_of_the_checkout() -> None:
    settings = read_toml(ROOT / "pyproject.toml")
    assert settings["project"]["dependencies"] == settings["dependency-groups"]["kit"]
