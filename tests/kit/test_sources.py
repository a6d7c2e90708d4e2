"""Where releases come from: git, PyPI, the cache."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import (
    World,
    git,
    make_sdist,
    refused,
    tree_of,
)
from kit import sources


def test_auto_prefers_git_and_falls_back(world: World, tmp_path: Path) -> None:
    result = world.apply("1.8.0", "--dest", tmp_path / "a")
    assert "upstream's git repository" in result.stdout
    nowhere = (tmp_path / "nowhere").as_uri()
    result = world.run("apply", "1.9.0", "--git-url", nowhere, "--dest", tmp_path / "b")
    assert result.returncode == 0, result.stderr
    assert "from PyPI, torch_geometric-1.9.0.tar.gz" in result.stdout


def test_offline_uses_the_cache_alone(world: World, tmp_path: Path) -> None:
    for kind in ("git", "sdist"):
        unreachable = {"PIP_FIND_LINKS": str(tmp_path / "nowhere")}
        options = ["1.8.0", "--source", kind, "--dest", tmp_path / kind]
        refused(world.apply(*options, "--offline"), 3, "--offline", "Call this once without")
        assert world.apply(*options).returncode == 0
        shutil.rmtree(tmp_path / kind)
        nowhere = ["--git-url", (tmp_path / "nowhere").as_uri()]
        result = world.run("apply", *options, *nowhere, "--offline", env=unreachable)
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("known_to_pip", [True, False])
def test_an_sdist_that_is_not_as_pinned(world: World, tmp_path: Path, known_to_pip: bool) -> None:
    index = tmp_path / "index"
    index.mkdir()
    sdist = make_sdist(index, "1.8.0")
    sdist.write_bytes(sdist.read_bytes() + b"\0")
    dest = tmp_path / "pyg"
    options = ["1.8.0", "--source", "sdist", "--dest", dest]
    if known_to_pip:
        result = world.apply(*options, env={"PIP_FIND_LINKS": str(index)})
        refused(result, 3, "not what its pin says", "expected sha256", "found")
    else:
        # Changed in the cache: fetched anew, or refused without a network.
        (world.cache / "archives").mkdir(parents=True)
        shutil.copy(sdist, world.cache / "archives" / sdist.name)
        refused(world.apply(*options, "--offline"), 3, "not what its pin says")
        assert world.apply(*options).returncode == 0
        return
    assert not dest.exists()
    assert not list((world.cache / "archives").glob("*.gz"))


def test_a_commit_that_is_not_as_pinned(world: World, tmp_path: Path) -> None:
    upstream = tmp_path / "upstream"
    git(
        "clone",
        "-q",
        "--depth=1",
        "--branch=2.0.0",
        world.upstream.as_uri(),
        str(upstream),
        cwd=tmp_path,
    )
    git("tag", "1.8.0", cwd=upstream)
    command = ["apply", "1.8.0", "--source", "git", "--git-url", upstream.as_uri()]
    result = world.run(*command, "--dest", tmp_path / "pyg")
    refused(result, 3, "The tag 1.8.0", "not the pinned commit", "expected", "found")
    assert not (tmp_path / "pyg").exists()
    assert not list((world.cache / "git").glob("*.git"))


def test_no_network(world: World, tmp_path: Path) -> None:
    dest = tmp_path / "pyg"
    nowhere = {"PIP_FIND_LINKS": str(tmp_path / "nowhere")}
    result = world.apply("1.8.0", "--source", "sdist", "--dest", dest, env=nowhere)
    refused(result, 3, "could not be downloaded from PyPI", "pip said", "--source git")
    url = (tmp_path / "nowhere").as_uri()
    result = world.run("apply", "1.8.0", "--source", "git", "--git-url", url, "--dest", dest)
    refused(result, 3, url, "--source sdist")
    assert not dest.exists()


def test_no_git(world: World, tmp_path: Path) -> None:
    result = world.apply("1.8.0", "--dest", tmp_path / "pyg", env={"PATH": str(tmp_path)})
    refused(result, 5, "git was not found")


def test_a_cache_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"PYG_THREADSAFE_CACHE": str(tmp_path / "file" / "cache")}
    result = world.apply("1.8.0", "--source", "sdist", "--dest", tmp_path / "pyg", env=env)
    refused(result, 3, "PYG_THREADSAFE_CACHE")


@pytest.mark.parametrize("kind", ["git", "sdist"])
def test_two_runs_at_once_share_a_cache(world: World, tmp_path: Path, kind: str) -> None:
    runs = []
    for name in ("a", "b", "c"):
        command, env = world.command(
            *("apply", "1.8.0", "--source", kind, "--git-url", world.upstream.as_uri()),
            *("--dest", tmp_path / name),
        )
        runs.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    trees = [tree_of(tmp_path / name) for name in ("a", "b", "c")]
    assert trees[0] == trees[1] == trees[2]


@pytest.mark.parametrize(
    ("name", "link"), [("x-1.0/../../outside", ""), ("x-1.0/link/outside", "../..")]
)
def test_unpack_stays_in_its_folder(tmp_path: Path, name: str, link: str) -> None:
    """On a Python whose own tarfile has no filters, too."""
    archive, dest = tmp_path / "x-1.0.tar.gz", tmp_path / "in" / "dest"
    with tarfile.open(archive, "w:gz") as sdist:
        if link:
            linked = tarfile.TarInfo("x-1.0/link")
            linked.type, linked.linkname = tarfile.SYMTYPE, link
            sdist.addfile(linked)
        member = tarfile.TarInfo(name)
        member.size = 4
        sdist.addfile(member, io.BytesIO(b"text"))
    with pytest.raises(sources.tarfile.FilterError):
        sources.unpack(archive, dest)
    assert list(tmp_path.rglob("outside")) == []
