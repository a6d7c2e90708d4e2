"""The package: the verbs of a checkout, the patches inside, and what it has no part of.

It is installed into a fresh environment of the Python that the tests run on, with what it needs
from PyPI; `tox run -m kit` does so on others. With PYG_THREADSAFE_FULL, it is installed on each
Python of pyenv's that it is for.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import git, refused, tree_of
from kit import __version__, places, releases, sources
from kit.releases import ROOT, read_toml

VERSION = "2.3.1"

PYTHONS = [Path(getattr(sys, "_base_executable", sys.executable))]
if os.environ.get("PYG_THREADSAFE_FULL"):
    others = sorted(Path.home().glob(".pyenv/versions/3.1[0-9].*/bin/python"))
    PYTHONS += [python for python in others if python.resolve() != PYTHONS[0].resolve()]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose newest commit is what lies in the checkout."""
    folder = tmp_path_factory.mktemp("repository") / "pyg-threadsafe"
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git("init", "--quiet", cwd=folder)
    git("add", "--all", cwd=folder)
    git("commit", "--quiet", "-m", "all of it", cwd=folder)
    return folder


class Package:
    """The package in an environment of its own."""

    def __init__(self, place: Path, python: Path) -> None:
        self.bin = place / "bin"
        subprocess.run([python, "-m", "venv", place], check=True)

    @property
    def site(self) -> Path:
        """What pip has installed."""
        (site,) = self.bin.parent.glob("lib/python*/site-packages/pyg_threadsafe")
        return site

    def install(self, *arguments: str | Path, cwd: Path) -> None:
        """Lets pip install it; pip gets what it needs from PyPI, as it does for everybody."""
        pip = ["-m", "pip", "install", "--quiet"]
        subprocess.run([self.bin / "python", *pip, *arguments], check=True, cwd=cwd)

    def run(self, cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs the command in another directory."""
        command = [str(self.bin / "pyg-threadsafe"), *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda python: python.parts[-3])
def package(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Package:
    """Installed from a git repository, and read-only."""
    package = Package(tmp_path_factory.mktemp("package") / "environment", request.param)
    package.install(f"git+{repository.as_uri()}", cwd=repository.parent)
    for path in package.site.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return package


def test_an_sdist_and_a_wheel_hold_the_same(
    package: Package, repository: Path, tmp_path: Path
) -> None:
    """As what pip makes of the repository, file by file; and each gives the command."""
    assert package.run(tmp_path, "--version").stdout == f"pyg-threadsafe {__version__}\n"
    installed = {path: text for path, text in tree_of(package.site).items() if "cache" not in path}
    tools = Package(tmp_path / "tools", package.bin / "python")
    backend = read_toml(ROOT / "pyproject.toml")["build-system"]
    tools.install(*backend["requires"], cwd=tmp_path)
    for kind, name in (
        ("sdist", f"pyg_threadsafe-{__version__}.tar.gz"),
        ("wheel", f"pyg_threadsafe-{__version__}-py3-none-any.whl"),
    ):
        program = f"import {backend['build-backend']} as b; b.build_{kind}({str(tmp_path)!r})"
        subprocess.run([tools.bin / "python", "-c", program], cwd=repository, check=True)
        tools.install("--no-deps", "--force-reinstall", tmp_path / name, cwd=tmp_path)
        same = {path: text for path, text in tree_of(tools.site).items() if "cache" not in path}
        assert same == installed, kind
        assert (tools.bin / "pyg-threadsafe").exists()


@pytest.mark.parametrize("where", ["PYTHONPATH", "current directory"])
def test_it_imports_nothing_that_lies_about(package: Package, tmp_path: Path, where: str) -> None:
    """Its own process, that is: what it starts inherits the variable."""
    for name in ("click", "filelock", "kit", "rich", "json"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('not the real {name}')\n")
    path, cwd = (str(tmp_path), "/") if where == "PYTHONPATH" else ("", tmp_path)
    for command in (["pyg-threadsafe"], ["python", "-m", "pyg_threadsafe"]):
        result = subprocess.run(
            [package.bin / command[0], *command[1:], "apply", VERSION, "--list"],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, "")


def test_it_has_all_patches(package: Package, tmp_path: Path) -> None:
    names = {str(patch.relative_to(ROOT)) for patch in (ROOT / "patches").rglob("*.patch")}
    assert names == {
        str(patch.relative_to(package.site)) for patch in package.site.rglob("*.patch")
    }
    said = package.run(tmp_path, "apply", "--help").stdout
    assert "$ pyg-threadsafe apply --installed" in said and "scripts/" not in said


def test_it_patches_a_tree_and_says_so(package: Package, tmp_path: Path) -> None:
    release = releases.load().find(VERSION)
    cache = sources.default_cache()
    source = sources.Source(sources.Kind.SDIST, sources.UPSTREAM, False, cache, lambda text: None)
    tree = tmp_path / "site-packages"
    paths = [change.path for patch in release.patches for change in patch.changes]
    tree.mkdir()
    sources.extract(release, source, [*dict.fromkeys(paths), releases.VERSION_FILE], tree)
    before = tree_of(package.site)
    doctor = package.run(tmp_path, "doctor", "--tree", "site-packages")
    assert doctor.returncode == 1
    assert f"pyg-threadsafe apply --tree {tree}" in doctor.stdout
    assert package.run(tmp_path, "apply", "--tree", "site-packages").returncode == 0
    assert package.run(tmp_path, "doctor", "--tree", "site-packages").returncode == 0
    # A fresh tree is made below the directory that one is in.
    made = package.run(tmp_path, "apply", VERSION, "--source", "sdist")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "build" / f"pyg-{VERSION}").is_dir()
    assert f"pyg-threadsafe prove {VERSION}" in made.stdout and "scripts/" not in made.stdout
    # Nothing was written where it is installed.
    assert tree_of(package.site) == before


@pytest.mark.parametrize(
    "verb",
    [
        *(["report"], ["zoo"], ["packages"], ["bench"], ["refresh", "x"], ["add-release", "9.0"]),
        *(["release"], ["soak", "--record"], ["mutate", "--record"]),
    ],
)
def test_what_needs_the_checkout_says_so(package: Package, tmp_path: Path, verb: list[str]) -> None:
    refused(package.run(tmp_path, *verb), 2, "needs a checkout", f"call './kit.sh {verb[0]}")
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_told_in_its_own_words(package: Package, tmp_path: Path) -> None:
    refused(package.run(tmp_path, "apply", "2.3.99"), 2, "'pyg-threadsafe apply --list'")


def test_a_checkout_keeps_what_it_makes() -> None:
    assert places.IS_CHECKOUT and places.build_folder() == ROOT / "build"
    assert places.door("apply") == [str(ROOT / "scripts" / "apply.sh")]
    assert places.as_called("scripts/kit.sh audit") == "scripts/kit.sh audit"


def test_dependencies_are_those_of_the_checkout() -> None:
    settings = read_toml(ROOT / "pyproject.toml")
    assert settings["project"]["dependencies"] == settings["dependency-groups"]["kit"]
