"""The installed PyG: what is one, what it says of itself, and what pip makes of it afterwards."""

import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import (
    AFTER,
    BEFORE,
    LAYER,
    NEW_TEST,
    World,
    library,
    refused,
    tree_of,
    write,
)
from kit import installations, receipts, releases, sources
from kit.applying import How, apply_to_tree
from kit.archives import unpack
from kit.releases import Catalogue

INFO = "torch_geometric-1.8.0.dist-info"
RECORD = f"{INFO}/RECORD"
RECEIPT = f"{INFO}/{receipts.NAME}"


def make_wheel(folder: Path, version: str = "1.8.0") -> Path:
    files = {
        **library(version),
        f"torch_geometric-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: torch_geometric\nVersion: {version}\n"
        ),
        f"torch_geometric-{version}.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    # As code that Python can import.
    rows = "".join(receipts.row(path, text.encode()) + "\n" for path, text in files.items())
    files[f"torch_geometric-{version}.dist-info/RECORD"] = (
        f"{rows}torch_geometric-{version}.dist-info/RECORD,,\n"
    )
    folder.mkdir(exist_ok=True)
    wheel = folder / f"torch_geometric-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path, text in files.items():
            file.writestr(path, text)
    return wheel


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment with nothing in it."""
    venv.create(tmp_path / "environment", symlinks=True)
    return tmp_path / "environment" / "bin" / "python"


def pip(python: Path, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", "pip", "--python", python, *arguments]
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def site_of(python: Path) -> Path:
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    return site


def true_record(info: Path) -> bool:
    """Whether RECORD lists every file there, with the hashes that they have."""
    site, rows = info.parent, (info / "RECORD").read_text().splitlines()
    named = {row.split(",")[0]: row for row in rows}
    for path, row in named.items():
        if row.endswith(",,"):
            continue
        if receipts.row(path, (site / path).read_bytes()) != row:
            return False
    files = {str(f.relative_to(site)) for f in (site / "torch_geometric").rglob("*.py")}
    files |= {str(f.relative_to(site)) for f in info.iterdir()}
    return files <= set(named)


def test_installed_by_pip(world: World, python: Path, tmp_path: Path) -> None:
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    site = site_of(python)
    before = tree_of(site)
    times = (site / LAYER).stat().st_mtime_ns
    result = world.apply("--python", python)
    assert result.returncode == 0, result.stderr
    assert f"Found {site}/torch_geometric/__init__.py (Python 3." in result.stderr
    assert len(result.stdout.splitlines()) < 12
    assert "Restart the service" in result.stdout
    assert (site / LAYER).read_text() == AFTER
    assert not (site / "test").exists()
    assert true_record(site / INFO)
    receipt = receipts.read(site / RECEIPT)
    assert receipt is not None
    assert receipt.release == "1.8.0"
    assert list(receipt.patches) == ["gatv2_conv/1.8.0.patch"]
    assert list(receipt.files) == [LAYER]
    assert tree_of(site).keys() - before.keys() == {RECEIPT}
    patched = tree_of(site)
    result = world.apply("--installed", env={"VIRTUAL_ENV": str(python.parents[1])})
    assert "already patched" in result.stdout
    assert tree_of(site) == patched
    assert world.apply("--python", python, "--reverse").returncode == 0
    assert tree_of(site) == before
    assert (site / LAYER).stat().st_mtime_ns == times


def test_pip_takes_all_of_it_away(world: World, python: Path, tmp_path: Path) -> None:
    empty = tree_of(site_of(python))
    wheel = make_wheel(tmp_path / "wheels")
    pip(python, "install", wheel)
    assert world.apply("--python", python).returncode == 0
    pip(python, "check")
    pip(python, "uninstall", "--yes", "torch_geometric")
    assert tree_of(site_of(python)) == empty
    pip(python, "install", wheel)
    assert world.apply("--python", python).returncode == 0
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels", "1.9.0"))
    site = site_of(python)
    assert (site / LAYER).read_text() == BEFORE
    assert not list(site.rglob(receipts.NAME))
    assert world.apply("--python", python, "--check").returncode == 1


def test_a_run_before_there_were_receipts(world: World, python: Path, tmp_path: Path) -> None:
    """The files are patched, and RECORD has the old hashes."""
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    site = site_of(python)
    before = tree_of(site)
    (site / LAYER).write_text(AFTER)
    assert not true_record(site / INFO)
    assert world.apply("--python", python).returncode == 0
    assert true_record(site / INFO)
    assert world.apply("--python", python, "--reverse").returncode == 0
    assert tree_of(site) == before


def test_metadata_of_setuptools(world: World, tmp_path: Path) -> None:
    site = tmp_path / "packages"
    info = "torch_geometric-1.8.0-py3.8.egg-info"
    listed = "../torch_geometric/__init__.py\nPKG-INFO\n"
    files = {f"{info}/PKG-INFO": "", f"{info}/installed-files.txt": listed}
    write(site, {**library("1.8.0"), **files})
    before = tree_of(site)
    assert world.apply("--tree", site).returncode == 0
    assert not (site / "test").exists()
    added = f"../{info}/{receipts.NAME}"
    assert added in (site / info / "installed-files.txt").read_text().splitlines()
    assert world.apply("--tree", site, "--reverse").returncode == 0
    assert tree_of(site) == before


@pytest.mark.parametrize(
    "name, others, expected",
    [
        ("site-packages", [], True),
        ("dist-packages", ["setup.py"], True),
        ("target", [], True),
        ("target", ["numpy/__init__.py"], True),
        ("src", ["setup.py"], False),
        ("src", ["pyproject.toml", "torch_geometric.egg-info/PKG-INFO"], False),
        ("src", ["setup.py", f"{INFO}/METADATA"], True),
        ("torch_geometric-1.8.0-py3.8.egg", ["EGG-INFO/PKG-INFO"], True),
    ],
)
def test_what_is_an_installation(
    tmp_path: Path, name: str, others: list[str], expected: bool
) -> None:
    root = tmp_path / name
    write(root, {**library("1.8.0"), **dict.fromkeys(others, "")})
    assert installations.is_installation(root) is expected


def test_metadata_that_an_image_has_dropped(world: World, tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    write(site, library("1.8.0"))
    before = tree_of(site)
    assert world.apply("--tree", site).returncode == 0
    assert installations.receipt_file(site) == site / "torch_geometric" / receipts.NAME
    assert (site / "torch_geometric" / receipts.NAME).exists()
    assert world.apply("--tree", site, "--reverse").returncode == 0
    assert tree_of(site) == before


def test_installed_by_conda(world: World, tmp_path: Path) -> None:
    """Conda's own record is not the kit's to write: what it says of the files is told."""
    prefix = tmp_path / "prefix"
    site = prefix / "lib" / "python3.11" / "site-packages"
    write(site, library("1.8.0"))
    (site / INFO).mkdir()
    (site / INFO / "METADATA").write_text("Name: torch_geometric\nVersion: 1.8.0\n")
    record = prefix / "conda-meta" / "pyg-1.8.0-py311_0.json"
    files = [f"lib/python3.11/site-packages/{path}" for path in library("1.8.0")]
    others = {"broken": "{", "list": "[]", "python": json.dumps({"files": ["bin/python"]})}
    write(record.parent, {f"{name}.json": text for name, text in others.items()})
    record.write_text(json.dumps({"name": "pyg", "files": files}))
    before = tree_of(prefix)
    result = world.apply("--tree", site)
    assert result.returncode == 0, result.stderr
    assert f"{record} still has the hashes of the released files" in result.stdout
    assert (site / LAYER).read_text() == AFTER
    assert tree_of(record.parent) == {
        path.removeprefix("conda-meta/"): content
        for path, content in before.items()
        if path.startswith("conda-meta/")
    }
    result = world.apply("--tree", site, "--reverse")
    assert (result.returncode, str(record) in result.stdout) == (0, False), result.stderr
    assert tree_of(prefix) == before
    record.unlink()
    assert "conda" not in world.apply("--tree", site).stdout.replace(str(site), "")


def test_an_editable_install(world: World, python: Path, tree: Path) -> None:
    """Through a `.pth` file. What is patched are sources; no test is added to them."""
    (site_of(python) / "__editable__.pth").write_text(f"{tree}\n")
    before = tree_of(tree)
    result = world.apply("--python", python)
    assert result.returncode == 0, result.stderr
    assert f"PyG 1.8.0 in {tree}" in result.stdout
    assert (tree / LAYER).read_text() == AFTER
    assert not (tree / NEW_TEST).exists()
    assert not list(tree.rglob(receipts.NAME))
    assert world.apply("--python", python, "--reverse").returncode == 0
    assert tree_of(tree) == before


def test_an_editable_install_by_a_finder(world: World, python: Path, tree: Path) -> None:
    """As PEP 660 has it: a hook of the import system knows the place."""
    finder = (
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        place = {str(tree / 'torch_geometric')!r}\n"
        "        if name == 'torch_geometric':\n"
        "            return importlib.util.spec_from_file_location(name, place + '/__init__.py',\n"
        "                submodule_search_locations=[place])\n"
        "sys.meta_path.append(Finder)\n"
    )
    (site_of(python) / "finder.py").write_text(finder)
    (site_of(python) / "finder.pth").write_text("import finder\n")
    assert world.apply("--python", python).returncode == 0
    assert (tree / LAYER).read_text() == AFTER


def test_several_on_the_path(world: World, python: Path, tmp_path: Path) -> None:
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    first = tmp_path / "first"
    write(first, library("1.9.0"))
    path = f"{releases.ROOT / 'scripts'}{os.pathsep}{first}"  # the tests find the kit by it
    result = world.apply("--python", python, env={"PYTHONPATH": path})
    assert f"{site_of(python)} holds another PyG" in result.stderr
    assert (first / LAYER).read_text() == AFTER
    assert (site_of(python) / LAYER).read_text() == BEFORE


def test_no_pyg(world: World, python: Path, tmp_path: Path) -> None:
    refused(world.apply("--python", python), 4, "has no PyG", "--python PATH")
    refused(world.apply("--python", tmp_path / "none"), 5, "not found")
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("torch_geometric/__init__.py", "")
    (site_of(python) / "all.pth").write_text(f"{archive}\n")
    refused(world.apply("--python", python), 4, "all.zip", "plain files")
    refused(world.apply("--installed", "--tree", tmp_path), 2, "exclude each other")


@pytest.mark.parametrize("program", ["true", "false", "ls", "echo"])
@pytest.mark.parametrize("verb", [["apply"], ["doctor"], ["env"]])
def test_what_is_no_python(world: World, verb: list[str], program: str) -> None:
    result = world.run(*verb, "--python", program)
    refused(result, 5, f"/{program} cannot be used", "Python")
    assert max(map(len, result.stderr.splitlines())) < 500


@pytest.mark.parametrize("verb", ["apply", "doctor", "env", "audit", "prove", "build"])
def test_a_directory_is_no_interpreter(world: World, python: Path, verb: str) -> None:
    place = python.parents[1]
    refused(world.run(verb, "--python", place), 2, f"{place} is a directory", str(python))
    refused(world.run(verb, "--python", place / "lib"), 2, "such as ~/service/venv/bin/python")


def test_an_interpreter_by_its_name(world: World, python: Path, tmp_path: Path) -> None:
    """As a shell finds it; a file of that name in the current directory goes first."""
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    search = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    result = world.run("doctor", "--python", "python", env=search)
    refused(result, 1, "Not patched: GATv2Conv")
    assert str(python) in result.stdout


def test_bytecode_that_is_never_checked(world: World, python: Path, tmp_path: Path) -> None:
    """As read-only images are compiled: the old code would go on running."""
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    site = site_of(python)
    files = {LAYER: "value = 'old'\n"}
    cache = site / "torch_geometric" / "nn" / "conv" / "__pycache__"
    other = site / "torch_geometric" / "__pycache__"
    write(tmp_path, files)
    for suffix in ("cpython-38", "cpython-311.opt-1"):
        py_compile.compile(
            str(tmp_path / LAYER),
            cfile=str(cache / f"gatv2_conv.{suffix}.pyc"),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    write(other, {"__init__.cpython-311.pyc": "of another file"})
    write(cache, {"gatv2_conv_other.cpython-311.pyc": "of another file"})
    assert world.apply("--python", python).returncode == 0
    assert [file.name for file in cache.iterdir()] == ["gatv2_conv_other.cpython-311.pyc"]
    assert list(other.iterdir())
    # One that a run has left whose files are in place already.
    py_compile.compile(
        str(tmp_path / LAYER),
        cfile=str(cache / "gatv2_conv.cpython-311.pyc"),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    os.utime(cache / "gatv2_conv.cpython-311.pyc", (1, 1))
    assert world.apply("--python", python).returncode == 0
    assert [file.name for file in cache.iterdir()] == ["gatv2_conv_other.cpython-311.pyc"]


def test_links_of_files_come_back(world: World, python: Path, tmp_path: Path) -> None:
    """As with uv's links: what they point to is what other environments have, too."""
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    site, shared = site_of(python), tmp_path / "shared"
    for path in (LAYER, RECORD):
        (shared / path).parent.mkdir(parents=True)
        (site / path).rename(shared / path)
        (site / path).symlink_to(shared / path)
    before, kept = tree_of(site), tree_of(shared)
    result = world.apply("--python", python)
    assert result.returncode == 0, result.stderr
    said = f"1 links are files of their own now; what they pointed to is as it was: {site / LAYER}"
    assert said in result.stdout
    assert tree_of(shared) == kept
    assert not (site / LAYER).is_symlink()
    assert true_record(site / INFO)
    assert world.apply("--python", python, "--reverse").returncode == 0
    assert tree_of(site) == before
    assert (site / LAYER).readlink() == shared / LAYER


def test_a_directory_that_is_a_link(world: World, tmp_path: Path) -> None:
    site, shared = tmp_path / "site-packages", tmp_path / "shared"
    write(shared, library("1.8.0"))
    site.mkdir()
    (site / "torch_geometric").symlink_to(shared / "torch_geometric")
    before = tree_of(shared)
    for options in ([], ["--check"]):
        result = world.apply("--tree", site, *options)
        refused(result, 4, f"{site}/torch_geometric is a link to {shared}/torch_geometric")
    assert tree_of(shared) == before


def test_a_malformed_receipt(world: World, python: Path, tmp_path: Path) -> None:
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    site = site_of(python)
    (site / RECEIPT).write_text("{}")
    before = tree_of(site)
    refused(world.apply("--python", python), 4, receipts.NAME, "cannot be understood")
    assert tree_of(site) == before


def test_files_of_another_user(world: World, python: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    pip(python, "install", "--no-compile", make_wheel(tmp_path / "wheels"))
    site = site_of(python)
    os.chown(site / INFO, 1234, 4321)
    for path in (LAYER, RECORD):
        os.chown(site / path, 1234, 4321)
        (site / path).chmod(0o640)
    assert world.apply("--python", python).returncode == 0
    for path in (LAYER, RECORD):
        state = (site / path).stat()
        assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (1234, 4321, 0o640)
    assert (site / RECEIPT).stat().st_uid == 1234


def test_line_ends_of_another_system(world: World, tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    write(site, library("1.8.0"))
    for path in (LAYER, "torch_geometric/__init__.py"):
        (site / path).write_bytes((site / path).read_bytes().replace(b"\n", b"\r\n"))
    before = tree_of(site)
    assert world.apply("--tree", site).returncode == 0
    assert (site / LAYER).read_bytes() == AFTER.replace("\n", "\r\n").encode()
    assert world.apply("--tree", site, "--reverse").returncode == 0
    assert tree_of(site) == before
    (site / LAYER).write_bytes(before[LAYER].replace(b"\r\n", b"\n", 1))
    refused(world.apply("--tree", site), 4, "CRLF and others with LF")


@pytest.mark.parametrize("version", ["2.3.1", "2.8.1"])
def test_a_real_release(tmp_path: Path, version: str) -> None:
    """From PyPI's archive, as all of the kit's users have it."""
    catalogue: Catalogue = releases.load()
    release = catalogue.find(version)
    source = sources.Source(
        sources.Kind.SDIST, "", True, sources.default_cache(), lambda message: None
    )
    archive = source.cache / "archives" / release.archive
    if not archive.exists():
        pytest.skip(f"{release.archive} is not in the cache")
    unpacked, site = tmp_path / "unpacked", tmp_path / "site-packages"
    unpack(archive, unpacked)
    shutil.copytree(unpacked / "torch_geometric", site / "torch_geometric")
    info = site / f"torch_geometric-{version}.dist-info"
    rows = [
        receipts.row(str(f.relative_to(site)), f.read_bytes()) for f in sorted(site.rglob("*.py"))
    ]
    write(site, {f"{info.name}/RECORD": "\n".join([*rows, f"{info.name}/RECORD,,"]) + "\n"})
    before = tree_of(site)
    apply_to_tree(site, release, catalogue, release.patches, How())
    assert true_record(info)
    receipt = receipts.read(info / receipts.NAME)
    assert receipt is not None and len(receipt.files) > 4
    # The last one that needs what all need: it stays for the others.
    one = [p for p in release.patches if p.series in ("transformer_conv", "attention_mixin")]
    how = How(reverse=True, only=("transformer_conv",))
    apply_to_tree(site, release, catalogue, one, how)
    assert true_record(info)
    mixin = next(p for p in release.patches if p.series == "attention_mixin")
    assert (site / mixin.changes[0].path).read_bytes() != before.get(mixin.changes[0].path)
    apply_to_tree(site, release, catalogue, release.all_patches(), How(reverse=True))
    assert tree_of(site) == before


def test_stale_by_time_alone(tmp_path: Path, catalogue: Catalogue) -> None:
    """What Python checks itself is left to it."""
    site = tmp_path / "site-packages"
    write(site, library("1.8.0"))
    patches = catalogue.find("1.8.0").patches
    pyc = site / "torch_geometric" / "nn" / "conv" / "__pycache__" / "gatv2_conv.cpython-311.pyc"
    pyc.parent.mkdir()
    for flags, stale in ((0, False), (1, True), (3, False)):
        pyc.write_bytes(b"abcd" + flags.to_bytes(4, "little") + b"12345678")
        os.utime(pyc, (1, 1))
        assert bool(installations.stale_bytecode(site, patches)) is stale
    os.utime(pyc, (time.time() + 60,) * 2)
    assert installations.stale_bytecode(site, patches) == []
