"""Where releases come from: git, PyPI, the cache."""

import contextlib
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import (
    World,
    git,
    make_sdist,
    refused,
    tree_of,
    write,
)
from kit import sources
from kit.errors import SourceError
from kit.releases import Catalogue


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
        options = ["1.8.0", "--source", kind, "--dest", str(tmp_path / kind)]
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
    options = ["1.8.0", "--source", "sdist", "--dest", str(dest)]
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


@pytest.mark.parametrize("url", ["--upload-pack=touch {}", "ext::touch {}", "-x", ""])
@pytest.mark.parametrize("kind", ["auto", "git", "sdist"])
def test_an_address_that_runs_a_program(world: World, tmp_path: Path, url: str, kind: str) -> None:
    marker = tmp_path / "marker"
    options = ["apply", "1.8.0", "--source", kind, "--dest", str(tmp_path / "pyg")]
    result = world.run(*options, f"--git-url={url.format(marker)}")
    refused(result, 2, "is no address of a git repository")
    env = {"PYG_THREADSAFE_GIT_URL": url.format(marker)} if url else {}
    if env:
        refused(world.run(*options, env=env), 2, "is no address of a git repository")
    assert not marker.exists()


def test_a_setting_that_turns_an_address_into_a_program(world: World, tmp_path: Path) -> None:
    """The user's settings count for a remote, but not for `ext::`."""
    config, marker = tmp_path / "gitconfig", tmp_path / "marker"
    config.write_text(
        f'[url "ext::touch {marker} "]\n insteadOf = https://example.invalid/\n'
        "[protocol]\n allow = always\n"
    )
    options = ["1.8.0", "--source", "git", "--git-url", "https://example.invalid/pyg.git"]
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    config.rename(tmp_path / ".gitconfig")
    result = world.run("apply", *options, "--dest", tmp_path / "pyg", env=env)
    refused(result, 3, "could not be fetched", "transport 'ext' not allowed")
    assert not marker.exists()


def entry(world: World) -> Path:
    (repository,) = (world.cache / "git").glob("*.git")
    return repository


def commit_something_else(repository: Path) -> None:
    tree = git("write-tree", cwd=repository).strip()
    commit = git("commit-tree", "-m", "not upstream's", tree, cwd=repository).strip()
    git("update-ref", "refs/heads/pinned", commit, cwd=repository)


def damage_a_pack(repository: Path) -> None:
    packs = [*repository.glob("objects/pack/*.pack")]
    (file,) = packs or [next(repository.glob("objects/??/*"))]
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove_an_object(repository: Path) -> None:
    next(f for f in repository.glob("objects/*/*") if f.suffix != ".idx").unlink()


def put_another_in_its_place(repository: Path) -> None:
    """An object whose content is another one's: git reads it, and only a hash tells."""
    for file in repository.glob("objects/??/*"):
        data = zlib.decompress(file.read_bytes())
        if data.startswith(b"blob") and b"self._alpha" in data:
            file.chmod(0o644)
            file.write_bytes(zlib.compress(data.replace(b"line 1\n", b"LINE 1\n")))


@pytest.mark.parametrize(
    "spoil",
    [
        commit_something_else,
        damage_a_pack,
        remove_an_object,
        put_another_in_its_place,
        shutil.rmtree,
    ],
)
def test_a_cached_commit_is_proved_at_each_use(
    world: World, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    options = ["1.8.0", "--source", "git", "--dest"]
    assert world.apply(*options, tmp_path / "a").returncode == 0
    spoil(entry(world))
    if spoil is shutil.rmtree:
        entry_path = (
            world.cache / "git" / f"{git('rev-parse', '1.8.0', cwd=world.upstream).strip()}.git"
        )
        entry_path.mkdir()  # what a disk check leaves
    refused(world.apply(*options, tmp_path / "b", "--offline"), 3, "not what was fetched")
    result = world.apply(*options, tmp_path / "b")
    assert result.returncode == 0, result.stderr
    assert tree_of(tmp_path / "a") == tree_of(tmp_path / "b")


def test_settings_in_the_cache_are_not_followed(world: World, tmp_path: Path) -> None:
    options = ["1.8.0", "--source", "git", "--dest"]
    assert world.apply(*options, tmp_path / "a").returncode == 0
    marker = tmp_path / "marker"
    hook = entry(world) / "hooks" / "reference-transaction"
    write(hook.parent, {hook.name: f"#!/bin/sh\ntouch {marker}\n"})
    hook.chmod(0o755)
    with (entry(world) / "config").open("a") as config:
        config.write(f"[uploadpack]\n packObjectsHook = touch {marker};\n[extensions]\n")
    assert world.apply(*options, tmp_path / "b").returncode == 0
    assert not marker.exists()


def test_a_cache_of_another_user(world: World, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    options = ["1.8.0", "--source", "git", "--dest"]
    assert world.apply(*options, tmp_path / "a").returncode == 0
    os.chown(entry(world), 1234, 1234)
    refused(
        world.apply(*options, tmp_path / "b"), 3, "belongs to user 1234", "PYG_THREADSAFE_CACHE"
    )
    os.chown(tmp_path / "a", 1234, 1234)
    refused(world.apply("1.8.0", "--dest", tmp_path / "a"), 4, "belongs to user 1234", "--dest")


def test_a_relative_cache(world: World, tmp_path: Path) -> None:
    cache = os.path.relpath(tmp_path / "elsewhere")
    for kind in ("git", "sdist"):
        env = {"PYG_THREADSAFE_CACHE": cache}
        result = world.apply("1.8.0", "--source", kind, "--dest", tmp_path / kind, env=env)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "elsewhere" / "git").is_dir()


def test_a_directory_in_the_place_of_an_archive(world: World, tmp_path: Path) -> None:
    (world.cache / "archives" / "torch_geometric-1.8.0.tar.gz").mkdir(parents=True)
    options = ["1.8.0", "--source", "sdist", "--dest", str(tmp_path / "pyg")]
    refused(world.apply(*options, "--offline"), 3, "not what its pin says")
    assert world.apply(*options).returncode == 0


def test_what_a_killed_run_has_left_in_the_cache_goes(world: World, tmp_path: Path) -> None:
    left = world.cache / "archives" / "torch_geometric-1.8.0.tar.gz.partial-abc"
    write(left, {"half": ""})
    assert world.apply("1.8.0", "--source", "sdist", "--dest", tmp_path / "pyg").returncode == 0
    assert not left.exists()


def test_a_server_that_stalls(
    catalogue: Catalogue, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection, and never answers: nothing that git has started goes on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/pyg.git"
        monkeypatch.setattr(sources, "FETCH_TIMEOUT", 2.0)
        source = sources.Source(sources.Kind.GIT, url, False, world.cache, lambda message: None)
        start = time.monotonic()
        with pytest.raises(SourceError, match=r"did not send PyG 1\.8\.0 within 2 s"):
            sources.materialize(catalogue.find("1.8.0"), source, tmp_path / "pyg")
        assert time.monotonic() - start < 30
        alive = [
            child.name()
            for child in psutil.process_iter(["cmdline"])
            if url in " ".join(child.info["cmdline"] or ()) and child.status() != "zombie"
        ]
        assert alive == []


@pytest.mark.parametrize("kind", ["git", "sdist"])
def test_a_server_that_trickles(
    catalogue: Catalogue,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Each byte comes in time, and all of them never: no limit of a single read is reached."""
    stop = threading.Event()
    sent = []

    class Trickle(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    self.wfile.write(b" ")
                    sent.append(self.path)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trickle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/pyg"
    monkeypatch.setattr(sources, "FETCH_TIMEOUT", 4.0)
    monkeypatch.setenv("PIP_FIND_LINKS", url)
    source = sources.Source(sources.Kind(kind), url, False, world.cache, lambda message: None)
    start = time.monotonic()
    try:
        with pytest.raises(SourceError, match=r"within 4 s"):
            sources.materialize(catalogue.find("1.8.0"), source, tmp_path / "pyg")
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
    assert sent and time.monotonic() - start < 60
    alive = [
        command
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and (command := " ".join(child.cmdline()))
        if url in command or " download " in command
    ]
    assert alive == []
    assert [path for path in world.cache.rglob("*.tar.gz")] == []


def test_a_relative_address(world: World, tmp_path: Path) -> None:
    """Git runs in other directories than the user."""
    url = os.path.relpath(world.upstream)
    options = ["apply", "1.8.0", "--source", "git", "--git-url", url]
    assert world.run(*options, "--dest", tmp_path / "pyg").returncode == 0
