"""Files that are written all or none, whatever ends the run, and by whomever it is called."""

import functools
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    AFTER,
    BEFORE,
    LAYER,
    NEW_TEST,
    VERSION_FILE,
    World,
    git,
    refused,
    subjects,
    tree_of,
    write,
)
from kit import applying, checkouts, interrupts, patching, transactions
from kit.applying import How
from kit.errors import TreeError
from kit.releases import Catalogue
from kit.sources import Source
from kit.transactions import Wanted

# What Python reports of itself when it is about to change a file system or start a program.
CHANGES = (
    *("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown"),
    *("os.utime", "os.symlink", "subprocess.Popen", "open"),
)


def run_until(step: int, act: Callable[[], object], number: int = signal.SIGKILL) -> int:
    """Runs something in a fork that sends itself a signal before its n-th change; its status.

    The exit code is 0 where it ended, 99 where there was no such step, and 130 where it was
    interrupted.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code, steps = 1, 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & 3)
        if event in CHANGES and writes:
            steps += 1
            if steps == step:
                os.kill(os.getpid(), number)

    try:
        for each in interrupts.SIGNALS:
            signal.signal(each, signal.default_int_handler)
        sys.addaudithook(count)
        act()
        code = 0 if steps >= step else 99
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def litter(root: Path) -> list[str]:
    return [str(p) for p in root.rglob("*") if "pyg-threadsafe-" in p.name]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_every_step_in_a_tree(
    tree: Path, catalogue: Catalogue, reverse: bool, number: signal.Signals
) -> None:
    release = catalogue.find("1.8.0")
    cache = tree / "torch_geometric" / "nn" / "conv" / "__pycache__"

    def change(reverse: bool) -> None:
        how = How(reverse=reverse)
        applying.apply_to_tree(tree, release, catalogue, release.patches, how)

    before = tree_of(tree)
    change(reverse=False)
    after = tree_of(tree)
    act, back = functools.partial(change, reverse), functools.partial(change, not reverse)
    old, new = (after, before) if reverse else (before, after)
    reports = set()
    for step in range(1, 500, 1 if number == signal.SIGKILL else 4):
        back()
        write(cache.parent, {"__pycache__/gatv2_conv.cpython-311.pyc": "old code"})
        status = run_until(step, act, number)
        if status == 99:
            break
        if number != signal.SIGKILL:
            # What was interrupted is undone, and what was not has come to its end.
            now = tree_of(tree)
            assert status in (0, 130)
            if status == 130:
                now.pop(str((cache / "gatv2_conv.cpython-311.pyc").relative_to(tree)))
                now.pop(str(cache.relative_to(tree)))
            assert now == (old if status == 130 else new)
            assert litter(tree) == []
        with transactions.locked(tree):
            word = transactions.recover(tree)
        reports.add(word)
        now = tree_of(tree)
        if cache.exists():
            now.pop(str((cache / "gatv2_conv.cpython-311.pyc").relative_to(tree)))
            now.pop(str(cache.relative_to(tree)))
        assert now in (old, new), step
        assert (now == new) <= (not cache.exists()), step
        assert litter(tree) == []
        act()
        assert tree_of(tree) == new
    assert step > 20
    if number == signal.SIGKILL:
        assert reports == {"", "undone", "finished"}


def test_every_step_in_a_checkout(
    world: World, tmp_path: Path, catalogue: Catalogue, source: Callable[..., Source]
) -> None:
    release = catalogue.find("1.8.0")
    dest = tmp_path / "pyg"
    place = source("sdist")
    git_state: list[str] = []

    def act(reverse: bool = False) -> None:
        how = How(reverse=reverse)
        applying.apply_to_checkout(dest, release, catalogue, release.patches, place, how)

    act()
    for step in range(1, 500):
        act(reverse=True)
        status = run_until(step, act)
        if status == 99:
            break
        act()
        git_state = git("status", "--porcelain", cwd=dest).splitlines()
        assert git_state == [], step
        assert (dest / LAYER).read_text() == AFTER
        assert subjects(dest)[-1] == "Patch regression_test/gatv2_conv.patch"
        assert git("show", f"HEAD:{LAYER}", cwd=dest) == AFTER
        assert git("for-each-ref", "refs/pyg-threadsafe", cwd=dest) == ""
        assert litter(dest) == []
    assert step > 20


def test_every_step_of_a_new_checkout(
    tmp_path: Path, catalogue: Catalogue, source: Callable[..., Source]
) -> None:
    release = catalogue.find("1.8.0")
    place = source("sdist")
    where = tmp_path / "where"
    for step in (1, 2, 3, 5, 8, 13, 20, 30, 45):
        run_until(step, lambda: checkouts.create(where / "pyg", release, release.patches, place))
        if not (where / "pyg").exists():
            for left in where.iterdir() if where.exists() else ():
                os.utime(left, (0, 0))
            checkouts.create(where / "pyg", release, release.patches, place)
        assert [path.name for path in where.iterdir()] == ["pyg"]
        subprocess.run(["rm", "-r", where], check=True)


def test_runs_at_once_on_one_tree(world: World, tree: Path) -> None:
    before = tree_of(tree)
    assert world.apply("1.8.0", "--tree", tree).returncode == 0
    command, env = world.command("apply", "1.8.0", "--tree", tree, "--reverse")
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert tree_of(tree) == before


def test_a_lock_that_another_run_keeps(tree: Path) -> None:
    release, held = threading.Event(), threading.Event()

    def hold() -> None:
        with transactions.locked(tree):
            held.set()
            release.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    said: list[str] = []
    try:
        with (
            pytest.raises(TreeError, match="Another run has been at work"),
            transactions.locked(tree, said.append, timeout=0.2),
        ):
            pass
    finally:
        release.set()
        holder.join()
    assert said == [f"Waiting for another run in {tree} ..."]


def test_a_run_that_was_cut_off_is_named(world: World, tree: Path, catalogue: Catalogue) -> None:
    release = catalogue.find("1.8.0")
    patches = release.patches

    def act() -> None:
        applying.apply_to_tree(tree, release, catalogue, patches, How())

    step = 1
    while not transactions.is_cut_off(tree) or not list(tree.rglob("*-old-*")):
        assert run_until(step, act) == -signal.SIGKILL
        step += 1
    refused(world.apply("1.8.0", "--tree", tree, "--check"), 4, "was cut off", "without --check")
    result = world.apply("1.8.0", "--tree", tree)
    assert "A run that was cut off has been undone first." in result.stdout
    assert (tree / LAYER).read_text() == AFTER


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({"format": 1, "entries": [], "made": ["../x"], "note": {}}),
        json.dumps({"format": 1, "entries": [{"path": "/etc/passwd"}], "made": [], "note": {}}),
    ],
)
def test_a_journal_that_nobody_wrote(world: World, tree: Path, content: str) -> None:
    (tree / transactions.JOURNAL).write_text(content)
    before = tree_of(tree)
    refused(world.apply("1.8.0", "--tree", tree), 4, transactions.JOURNAL, "cannot be understood")
    assert tree_of(tree) == before


def test_what_somebody_has_put_there_since_stays(tree: Path, catalogue: Catalogue) -> None:
    """A run was killed, then PyG was installed again in another version."""
    patches = catalogue.find("1.8.0").patches

    def act() -> None:
        patching.apply(tree, patching.plan(tree, patches))

    step = 1
    while not list(tree.rglob("*-old-*")):
        run_until(step, act)
        step += 1
    (tree / LAYER).unlink()
    (tree / LAYER).write_text("another release\n")
    assert transactions.recover(tree) == "undone"
    assert (tree / LAYER).read_text() == "another release\n"
    assert litter(tree) == []


def test_owner_mode_and_attributes_stay(tree: Path, catalogue: Catalogue) -> None:
    layer = tree / LAYER
    layer.chmod(0o640)
    (layer.parent).chmod(0o2750)
    (tree / "test" / "nn" / "conv").chmod(0o750)
    if os.geteuid() == 0:
        os.chown(layer, 1234, 4321)
    try:
        os.setxattr(layer, "user.note", b"kept")
        attributes = ["user.note"]
    except OSError:
        attributes = []  # this file system has none
    patching.apply(tree, patching.plan(tree, catalogue.find("1.8.0").patches))
    assert layer.read_text() == AFTER
    state = layer.stat()
    assert stat.S_IMODE(state.st_mode) == 0o640
    if os.geteuid() == 0:
        assert (state.st_uid, state.st_gid) == (1234, 4321)
    assert os.listxattr(layer) == attributes
    assert stat.S_IMODE((tree / NEW_TEST).stat().st_mode) == 0o640
    assert time.time() - state.st_mtime < 60


def test_an_access_control_list_stays(tree: Path, catalogue: Catalogue) -> None:
    """With which a service may read a file that is neither its own nor of its group."""
    entries = [(1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(tree / LAYER, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"this file system has no access control lists: {error.strerror}")
    patches = catalogue.find("1.8.0").patches
    for reverse, text in ((False, AFTER), (True, BEFORE)):
        patching.apply(tree, patching.plan(tree, patches), reverse=reverse)
        assert (tree / LAYER).read_text() == text
        assert os.getxattr(tree / LAYER, "system.posix_acl_access") == acl


@pytest.mark.parametrize(
    "path", ["", "torch_geometric", "torch_geometric/nn/conv", LAYER, VERSION_FILE]
)
@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_what_may_not_be_read_or_written(world: World, tree: Path, path: str, mode: int) -> None:
    """As a user without the rights of root, which pass over all modes."""
    place = tree / path
    if mode and place.is_file():
        pytest.skip("a file is replaced: its directory is what has to be written")
    command, env = world.command("apply", "1.8.0", "--tree", tree)
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root cannot give up its rights: setpriv is missing")
        # No others either: what root may do to the files of others, a user may not.
        command = [setpriv, "--bounding-set", "-all", *command]
    before, old = tree_of(tree), stat.S_IMODE(place.stat().st_mode)
    place.chmod(mode)
    try:
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    finally:
        place.chmod(old)
    if mode and path == "torch_geometric":
        # Nothing is made there: what is changed lies below.
        assert result.returncode == 0, result.stderr
        assert (tree / LAYER).read_text() == AFTER
        return
    assert result.returncode in (4, 5)
    refused(result, result.returncode, str(tree))
    assert tree_of(tree) == before


def test_a_file_that_cannot_keep_its_owner(
    tree: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, user: int, group: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "chown", refuse)
    real = Path.stat

    def of_another(path: Path, **options: bool) -> os.stat_result:
        state = real(path, **options)
        if path != tree / LAYER:
            return state
        made_of = state.__reduce__()
        assert isinstance(made_of, tuple)
        return os.stat_result((*state[:4], 1234, 4321, *state[6:]), made_of[1][1])

    monkeypatch.setattr(Path, "stat", of_another)
    before = tree_of(tree)
    with pytest.raises(TreeError, match="belongs to user 1234 and group 4321"):
        patching.apply(tree, patching.plan(tree, catalogue.find("1.8.0").patches))
    monkeypatch.undo()
    assert tree_of(tree) == before


def test_a_file_that_is_changed_meanwhile(
    tree: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transactions._set_aside

    def edit_first(target: Path, old: Path, *, keep: bool) -> None:
        if target == tree / LAYER:
            target.write_text("mine\n")
        real(target, old, keep=keep)

    monkeypatch.setattr(transactions, "_set_aside", edit_first)
    with pytest.raises(TreeError, match="was changed while it was to be patched"):
        patching.apply(tree, patching.plan(tree, catalogue.find("1.8.0").patches))
    assert (tree / LAYER).read_text() == "mine\n"
    assert not (tree / NEW_TEST).exists()
    assert litter(tree) == []


def test_a_rollback_that_fails_is_not_called_one(
    tree: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(1, "Operation not permitted")

    def failing(path: Path, target: Path) -> Path:
        if target == tree / LAYER:
            raise OSError(5, "Input/output error", str(target))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    # So that the target is moved away first.
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(TreeError, match="undoing it failed") as caught:
        patching.apply(tree, patching.plan(tree, catalogue.find("1.8.0").patches))
    assert "as it was" not in str(caught.value)
    monkeypatch.undo()
    assert transactions.recover(tree) == "undone"
    assert (tree / LAYER).read_text() == BEFORE
    assert litter(tree) == []


def test_what_was_written_before_a_failure_is_undone(tmp_path: Path) -> None:
    write(tmp_path, {"old": "old\n", "in_the_way": ""})
    before = tree_of(tmp_path)
    files = {"old": b"new\n", "folder/new": b"new\n", "in_the_way/new": b"new\n"}
    with pytest.raises(TreeError, match=r"in_the_way.*as it was"):
        transactions.write(
            {tmp_path / path: Wanted(data) for path, data in files.items()}, tmp_path
        )
    assert tree_of(tmp_path) == before
