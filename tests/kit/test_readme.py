"""README.md: each block to paste is run, word for word, in a place that is as it says.

What needs torch, TorchScript and the audit, is run by tests/pyg/test_readme_blocks.py. There is
no Docker and no conda here: the commands of those blocks are run in environments of their own.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import git
from kit import patching, releases, sources
from kit.releases import ROOT, Catalogue, Release
from test_by_hand import PATCHES
from test_console import on_terminal
from test_scripts import make_wheel

README = (ROOT / "README.md").read_text()
VERSION = "2.3.1"

# pip as it is set up on this machine, for what comes from PyPI.
ONLINE = {
    "PIP_CONFIG_FILE": "",
    "PIP_NO_INDEX": "0",
    "PIP_NO_DEPS": "0",
    "PIP_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""),
    "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),
}

# Blocks that show what is printed or how it works: there is nothing to paste.
SHOWN = {("Proof", "text"), ("How it works", "python"), ("How it works", "diff")}


def section(title: str) -> str:
    """The text below a heading, up to the next one of its rank or above."""
    match = re.search(rf"^(#+) {title}\n(.*?)(?=^#{{2,3}} |\Z)", README, re.M | re.S)
    assert match, title
    return match[2]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.S)


def commands(block: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", block, re.M)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return releases.load()


@pytest.fixture(scope="module")
def release(catalogue: Catalogue) -> Release:
    return catalogue.find(VERSION)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Path:
    """What `pip install` finds: PyG as on PyPI, and something by the name of torch."""
    folder = tmp_path_factory.mktemp("index")
    source = sources.Source(
        sources.Kind.SDIST, sources.UPSTREAM, False, sources.default_cache(), lambda message: None
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, sources.archive(release, source)], check=True)
    make_wheel(folder, "torch", "")
    return folder


class Machine:
    """A home with a clone of the kit, in which what the README says is there."""

    def __init__(self, home: Path, index: Path) -> None:
        self.home = home
        self.clone = home / "pyg-threadsafe"
        self.index = index
        self.programs = home / "programs"
        self.programs.mkdir()
        self.clone.symlink_to(ROOT)

    @property
    def site(self) -> Path:
        """The site-packages of the service."""
        (site,) = self.home.glob("service/venv/lib/python*/site-packages")
        return site

    def environment(self, place: Path, python: Path | None = None) -> Path:
        """Makes an environment that has PyG, and returns its site-packages.

        Its pip is that of the tests, unless it is of another Python, which brings its own.
        """
        venv.create(place, symlinks=True) if python is None else subprocess.run(
            [python, "-m", "venv", place], check=True
        )
        pip = place / "bin" / "pip"
        if not pip.exists():
            pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {place} "$@"\n')
            pip.chmod(0o755)
        self.run(f"{pip} install --quiet torch==1.0 torch_geometric=={VERSION}", 0)
        (site,) = place.glob("lib/python*/site-packages")
        return site

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a shell there."""
        return {
            **{key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"},
            "HOME": str(self.home),
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "PYG_THREADSAFE_CACHE": str(sources.default_cache()),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": str(self.index),
            **{f"GIT_{who}_NAME": "somebody" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
        }

    def run(self, script: str, code: int, cwd: Path | None = None, **env: str) -> str:
        """Runs lines of a shell, and returns what they print."""
        result = subprocess.run(
            ["bash", "-c", script],
            cwd=cwd or self.clone,
            env={**self.variables, **env},
            capture_output=True,
            text=True,
        )
        assert result.returncode == code, (script, result.stdout, result.stderr)
        return result.stdout


@pytest.fixture
def machine(tmp_path: Path, index: Path) -> Machine:
    return Machine(tmp_path, index)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, index: Path) -> Machine:
    """A machine with a service, in an environment of its own."""
    machine = Machine(tmp_path_factory.mktemp("home"), index)
    machine.environment(machine.home / "service" / "venv")
    return machine


def is_patched(site: Path, release: Release, *, series: set[str] | None = None) -> bool:
    """Whether the files of the library are patched; all of them are, or none."""
    patches = [patch for patch in release.patches if patch.is_for_library]
    states = {
        patching.blob_of(site / change.path) == change.after
        for patch in patches
        for change in patch.changes
        if series is None or patch.series in series
    }
    assert len(states) == 1
    return states.pop()


def test_each_block_is_run() -> None:
    """By a test that names it, here or where there is a torch."""
    there = {
        (part.splitlines()[0], language)
        for part in re.split(r"^#+ ", README, flags=re.M)
        for language in re.findall(r"^```(\w+)$", part, re.M)
    }
    files = [Path(__file__), ROOT / "tests" / "pyg" / "test_readme_blocks.py"]
    named = {
        (title.replace("\\", ""), language)
        for file in files
        for title, language in re.findall(r'blocks\("(.*?)", "(\w+)"\)', file.read_text())
    }
    assert there == named | SHOWN


def test_the_first_screen(service: Machine, release: Release) -> None:
    site = service.site
    (question,), (fix,) = map(commands, blocks("Am I affected\\?", "console"))
    said = service.run(question, 1)
    assert "races       GATv2Conv, TransformerConv" in said and "What to do" in said
    service.run(fix, 0)
    assert is_patched(site, release)
    assert "races" not in service.run(question, 0)
    service.run(f"{fix} --reverse", 0)


def test_the_installed_package(service: Machine, release: Release) -> None:
    machine, site = service, service.site
    by_python, by_conda, by_directory = map(commands, blocks("The installed package", "console"))
    check, apply, doctor, reverse = by_python
    machine.run(check, 1)
    assert not is_patched(site, release)
    machine.run(apply, 0)
    assert is_patched(site, release)
    machine.run(doctor, 0)
    machine.run(reverse, 0)
    assert not is_patched(site, release)
    # conda sets a variable, and so does what stands for it here.
    conda = 'conda() { [ "$*" = "activate service" ] && export CONDA_PREFIX=~/service/venv; }'
    machine.run("\n".join([conda, *by_conda]), 0)
    assert is_patched(site, release)
    image = machine.home / "image" / "lib" / "python3.8"
    image.mkdir(parents=True)
    machine.run(reverse, 0)
    shutil.copytree(site, image / "site-packages")
    machine.run("\n".join(by_directory), 0)
    assert is_patched(image / "site-packages", release)


def test_apply_prints_what_matters(service: Machine) -> None:
    """In under 12 lines of a terminal of 80 columns, with what else it says meanwhile."""
    (by_python, *_) = map(commands, blocks("The installed package", "console"))
    check, apply, _, reverse = by_python
    for command, said in (
        (check, "would be applied"),
        (apply, "Restart the service"),
        (apply, "Nothing to do"),
        (reverse, "Restart the service"),
    ):
        shell = ["bash", "-c", f"cd {ROOT} && {command}"]
        _, written = on_terminal(shell, {**service.variables, "NO_COLOR": "1"})
        assert said in written
        assert len(written.splitlines()) < 12, written


def test_a_wheel(machine: Machine, release: Release) -> None:
    site = machine.environment(machine.home / "service" / "venv")
    (build,) = map(commands, blocks("A wheel", "console"))
    machine.run("\n".join(build), 0)
    (requirements,) = blocks("A wheel", "text")
    (machine.home / "requirements.txt").write_text(requirements)
    pip = "service/venv/bin/pip"
    machine.run(f"{pip} install --quiet -r requirements.txt", 0, machine.home)
    assert is_patched(site, release)
    doctor = "scripts/kit.sh doctor --python ~/service/venv/bin/python"
    machine.run(doctor, 0)
    # What asks for the release keeps it; and the released one does not meet the requirement.
    machine.run(f"{pip} install --quiet --upgrade torch_geometric=={VERSION}", 0, machine.home)
    assert is_patched(site, release)
    released = f"--no-index --find-links {machine.index}"
    wanted = f"torch_geometric=={VERSION}+threadsafe.1"
    machine.run(f"{pip} install --force-reinstall {released} {wanted}", 1, machine.home)
    assert is_patched(site, release)


def test_as_a_command(machine: Machine, release: Release) -> None:
    site = machine.environment(machine.home / "service" / "venv")
    base = getattr(sys, "_base_executable", sys.executable)
    python = machine.programs / "python3"
    python.write_text(f'#!/bin/sh\nexec {base} "$@"\n')
    python.chmod(0o755)
    install, complete = map(commands, blocks("As a command", "console"))
    machine.run("\n".join(["set -e", *install]), 0, machine.home, **ONLINE)
    assert is_patched(site, release)
    # Each shell learns to complete it; fish is not here, and what it is given is.
    bash, fish = complete
    path = f"{machine.home}/kit/bin{os.pathsep}{os.environ['PATH']}"
    said = machine.run(f"{bash}\ncomplete -p pyg-threadsafe", 0, PATH=path)
    assert "_pyg_threadsafe_completion" in said
    given, shell = fish.split(" | ")
    assert shell == "source"
    assert "complete --no-files --command pyg-threadsafe" in machine.run(given, 0, PATH=path)


def steps(dockerfile: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with what follows it."""
    lines = dockerfile.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


class Image:
    """An image: what a Dockerfile does, done below a directory."""

    def __init__(self, machine: Machine, python: Path | None = None) -> None:
        self.machine = machine
        self.root = machine.home / "root"
        self.site = machine.environment(self.root / "usr" / "local", python)
        for path in self.site.glob("torch*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.cwd = self.root

    def map(self, text: str) -> str:
        """What an absolute path of the image is here."""
        text = re.sub(r"/usr/local/lib/python3\.\d+/site-packages", str(self.site), text)
        return re.sub(r"(?<![\w/.])/(opt|usr/local/bin)/", rf"{self.root}/\1/", text)

    def build(self, dockerfile: str, code: int = 0) -> list[str]:
        """Follows a Dockerfile, and returns the command of its entrypoint."""
        entrypoint: list[str] = []
        for word, rest in steps(dockerfile):
            if word == "COPY":
                origin, place = rest.split()
                target = Path(self.map(place))
                shutil.copytree(
                    self.machine.home / origin,
                    target,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("build", ".tox", ".git", "__pycache__"),
                )
            elif word == "WORKDIR":
                self.cwd = Path(self.map(rest))
            elif word == "RUN":
                self.run(rest, code)
            elif word == "ENTRYPOINT":
                entrypoint = [self.map(argument) for argument in eval(rest)]
            else:
                assert word == "FROM"
        return entrypoint

    def run(self, script: str, code: int = 0) -> str:
        # Its torch is a stand-in, of one version.
        script = re.sub(r"torch==\S+", "torch==1.0", self.map(script))
        path = f"{self.root}/usr/local/bin{os.pathsep}{os.environ['PATH']}"
        return self.machine.run(script, code, self.cwd, PATH=path)


def test_a_dockerfile_with_the_kit(machine: Machine, release: Release) -> None:
    image = Image(machine)
    dockerfile, _ = blocks("A Dockerfile", "dockerfile")
    shell, option, line = image.build(dockerfile)
    assert is_patched(image.site, release)
    # The service starts, and does not start once somebody has installed PyG again.
    (image.root / "service.py").write_text("print('serving')\n")
    entrypoint = shlex.join([shell, option, line])
    assert image.run(entrypoint).endswith("serving\n")
    image.run(f"pip install --force-reinstall torch_geometric=={VERSION}")
    assert "serving" not in image.run(entrypoint, 1)


def test_a_dockerfile_without_the_kit(machine: Machine, release: Release) -> None:
    # The files that `patch` changes are the same on each Python.
    pythons = [*Path.home().glob(".pyenv/versions/3.8.*/bin/python"), None]
    image = Image(machine, pythons[0])
    _, dockerfile = blocks("A Dockerfile", "dockerfile")
    image.build(dockerfile)
    assert is_patched(image.site, release)
    # All that the kit patches in the library, in its order.
    named = re.findall(r"\b([a-z_]\w+/\d[\d.]*\d)\b", dockerfile.split("for name in")[1])
    library = [patch.name for patch in release.patches if patch.is_for_library]
    assert [f"{name}.patch" for name in named] == library


def test_a_dockerfile_without_the_kit_on_another_release(
    machine: Machine, catalogue: Catalogue
) -> None:
    """A patch that does not fit ends the build: no image is half patched unnoticed."""
    image = Image(machine)
    _, dockerfile = blocks("A Dockerfile", "dockerfile")
    lines = [line for line in steps(dockerfile) if line[0] == "RUN"]
    image.run(lines[0][1])
    shutil.copytree(ROOT / "patches", image.root / "opt" / "patches")
    image.cwd = image.site
    (image.site / "torch_geometric" / "nn" / "conv" / "gatv2_conv.py").write_text("another\n")
    image.run(lines[1][1], 1)


def test_a_checkout(machine: Machine, release: Release) -> None:
    checkout = machine.home / "pytorch_geometric"
    source = sources.Source(
        sources.Kind.SDIST, sources.UPSTREAM, False, sources.default_cache(), lambda message: None
    )
    sources.materialize(release, source, checkout)
    (block,) = blocks("A checkout", "console")
    # A clone is no link: `..` of one is what it points to.
    machine.clone.unlink()
    shutil.copytree(ROOT / "patches", machine.clone / "patches")
    machine.run("\n".join(["set -e", *commands(block)]), 0)
    assert is_patched(checkout, release, series={"attention_mixin", "gatv2_conv"})
    assert len(git("log", "--format=%s", "pristine..", cwd=checkout).splitlines()) == 4


def test_all_patches_fit_a_tree_from_pypi(catalogue: Catalogue) -> None:
    """As the README says: what `test_by_hand.py` takes is all that there is."""
    assert catalogue.patches() == PATCHES


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert anchor in [slug(head) for head in heads], link


def slug(head: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
