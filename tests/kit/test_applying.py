"""`apply` on a tree of the user's own, and what it refuses."""

import dataclasses
import re
import shutil
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
    library,
    make_patch,
    refused,
    tree_of,
    write,
)


def test_list(world: World) -> None:
    result = world.apply("--list")
    assert re.search(r"^1\.8\.0 +races", result.stdout, re.M)
    assert re.search(r"^2\.0\.0 +fixed", result.stdout, re.M)
    assert "gatv2_conv: the fix" in result.stdout
    result = world.apply("1.8.0", "--list")
    assert "gatv2_conv: Patch gatv2_conv/1.8.0.patch" in result.stdout


def test_tree(world: World, tree: Path) -> None:
    before = tree_of(tree)
    (tree / LAYER).chmod(0o640)
    result = world.apply("1.8.0", "--tree", tree)
    assert result.returncode == 0, result.stderr
    assert (tree / LAYER).read_text() == AFTER
    assert (tree / LAYER).stat().st_mode & 0o777 == 0o640
    assert (tree / NEW_TEST).stat().st_mode & 0o777 == 0o644
    assert "already patched" in world.apply("1.8.0", "--tree", tree).stdout
    result = world.apply("1.8.0", "--tree", tree, "--reverse")
    assert result.returncode == 0
    assert tree_of(tree) == before


def test_tree_without_tests_is_restored_to_the_byte(world: World, tree: Path) -> None:
    shutil.rmtree(tree / "test")
    before = tree_of(tree)
    assert world.apply("1.8.0", "--tree", tree).returncode == 0
    assert (tree / NEW_TEST).exists()
    assert world.apply("1.8.0", "--tree", tree, "--reverse").returncode == 0
    assert tree_of(tree) == before


def test_tree_check(world: World, tree: Path) -> None:
    before = tree_of(tree)
    result = world.apply("1.8.0", "--tree", tree, "--check")
    assert result.returncode == 1
    assert result.stdout.count("would be applied") == 3
    assert tree_of(tree) == before
    assert world.apply("1.8.0", "--tree", tree, "--check", "--reverse").returncode == 0
    assert world.apply("1.8.0", "--tree", tree).returncode == 0
    assert world.apply("1.8.0", "--tree", tree, "--check").returncode == 0
    assert world.apply("1.8.0", "--tree", tree, "--check", "--reverse").returncode == 1


def test_installed_package_gets_no_tests(world: World, tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    write(site, {**library("1.8.0"), "torch_geometric-1.8.0.dist-info/METADATA": ""})
    result = world.apply("1.8.0", "--tree", site)
    assert result.returncode == 0, result.stderr
    assert (site / LAYER).read_text() == AFTER
    assert not (site / "test").exists()
    assert "left out" not in result.stdout
    assert result.stdout.splitlines()[1:] == [
        "  applied: gatv2_conv",
        "Restart the service: a Python that runs has the old code in memory.",
    ]


def test_tree_that_is_half_patched_is_finished(world: World, tree: Path) -> None:
    (tree / LAYER).write_text(AFTER)
    result = world.apply("1.8.0", "--tree", tree)
    assert result.returncode == 0
    assert "already applied: Patch gatv2_conv/1.8.0.patch" in result.stdout
    assert (tree / NEW_TEST).exists()


def test_tree_with_another_version_text_is_known_by_its_files(world: World, tree: Path) -> None:
    (tree / VERSION_FILE).write_text("__version__ = '1.8.0+ours'\n")
    assert world.apply("1.9.0", "--tree", tree).returncode == 0


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        ([], 2, ["No PyG version was named", "such as 1.9.0 ("]),
        (["1.7.0"], 2, ["1.7.1", "not covered"]),
        (["1.8.7"], 2, ["1.8.0", "1.9.0"]),
        (["9.0"], 2, ["newer than the newest", "2.0.0"]),
        (["1.9.0.dev20200101"], 2, ["2.1.0.dev20260101", "nightly"]),
        (["graph"], 2, ["not a version", "latest"]),
        (["1.8.0", "--only", "gat"], 2, ["'gat'", "gatv2_conv"]),
        (["2.0.0", "--only", "gatv2_conv"], 2, ["regression_test"]),
        (["1.8.0", "--with", "faster"], 2, ["takes no patch of the series faster"]),
        (["2.0.0", "--with", "fast"], 2, ["no series 'fast'", "faster"]),
        (["2.0.0", "--with", "faster", "--only", "faster"], 2, ["exclude each other"]),
        (["1.8.0", "--frobnicate"], 2, ["--frobnicate", "--help"]),
        (["1.8.0", "--source", "conda"], 2, ["conda", "sdist"]),
        (["1.8.0", "--tree", "a", "--dest", "b"], 2, ["exclude each other"]),
    ],
)
def test_bad_words(world: World, arguments: list[str], code: int, said: list[str]) -> None:
    refused(world.apply(*arguments), code, *said)


def test_a_tree_says_which_release_it_is(world: World, tree: Path) -> None:
    result = world.apply("--tree", tree)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("PyG 1.8.0 in ")
    assert (tree / LAYER).read_text() == AFTER


def test_a_tree_that_two_releases_fit_wants_a_version(world: World, tree: Path) -> None:
    (tree / VERSION_FILE).write_text("__version__ = '1.8.0+ours'\n")
    refused(world.apply("--tree", tree), 2, "No PyG version was named", "1.8.0 or 1.9.0")


def test_local_changes_are_named(world: World, tree: Path) -> None:
    (tree / LAYER).write_text(BEFORE.replace("line 21\n", "mine\n"))
    before = tree_of(tree)
    result = world.apply("1.8.0", "--tree", tree)
    refused(result, 4, LAYER, "local changes", "Hunk 1", "expects 'line 21'", "found there: 'mine'")
    assert tree_of(tree) == before


def test_local_changes_elsewhere_in_a_file(world: World, tree: Path) -> None:
    (tree / LAYER).write_text(BEFORE + "mine\n")
    refused(world.apply("1.8.0", "--tree", tree), 4, LAYER, "still fits", "git apply")


def test_local_changes_in_other_files_are_fine(world: World, tree: Path) -> None:
    (tree / "torch_geometric" / "mine.py").write_text("")
    assert world.apply("1.8.0", "--tree", tree).returncode == 0


def test_a_file_in_the_way(world: World, tree: Path) -> None:
    (tree / NEW_TEST).write_text("mine")
    refused(world.apply("1.8.0", "--tree", tree), 4, NEW_TEST, "Move that file away")
    assert (tree / LAYER).read_text() == BEFORE


def test_a_missing_file(world: World, tree: Path) -> None:
    (tree / LAYER).unlink()
    refused(world.apply("1.8.0", "--tree", tree), 4, LAYER, "missing")


def test_tree_of_another_version(world: World, tree: Path) -> None:
    refused(world.apply("2.0.0", "--tree", tree), 4, "holds PyG 1.8.0, not 2.0.0")


def test_tree_of_no_known_version(world: World, tree: Path) -> None:
    (tree / VERSION_FILE).write_text("")
    (tree / LAYER).write_text("")
    refused(world.apply("1.8.0", "--tree", tree), 4, "none of the pinned releases")


def test_tree_without_pyg(world: World, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(world.apply("--tree", tmp_path / "empty"), 4, "holds no PyG", VERSION_FILE)
    package = tree / "torch_geometric"
    refused(world.apply("--tree", package), 4, "holds no PyG", f"Name the one above it: {tree}")


@pytest.fixture
def with_requirement(world: World, tmp_path: Path) -> World:
    """A world in which `gatv2_conv` needs a series of its own, as the attention layers do."""
    patches = tmp_path / "patches"
    shutil.copytree(world.patches, patches)
    pins = patches / "releases.toml"
    text = pins.read_text().replace("[series]\n", '[series]\nmixin = "for two"\nother = "one"\n')
    first, _, rest = text.partition("[[release]]")
    needs = '[requires]\ngatv2_conv = ["mixin"]\nother = ["mixin"]\n\n'
    pins.write_text(f"{first}{needs}[[release]]{rest}")
    work = tmp_path / "work"
    work.mkdir()
    git("init", "-q", cwd=work)
    for name in ("mixin", "other"):
        file, message = f"torch_geometric/{name}.py", f"Add {name}\n\nWhy.\n\nReleases: 1.8.0"
        make_patch(work, patches / name / "1.8.0.patch", {}, {file: "new\n"}, message)
    return dataclasses.replace(world, patches=patches)


def test_what_others_need_is_not_taken_out(with_requirement: World, tree: Path) -> None:
    world, mixin = with_requirement, tree / "torch_geometric" / "mixin.py"
    before = tree_of(tree)
    assert world.apply("--tree", tree).returncode == 0
    refused(
        world.apply("--tree", tree, "--reverse", "--only", "mixin"),
        2,
        "needed by gatv2_conv, other",
    )
    assert world.apply("--tree", tree, "--reverse", "--only", "gatv2_conv").returncode == 0
    assert (tree / LAYER).read_text() == BEFORE
    assert mixin.exists()
    # The last one that needs it takes it along.
    assert world.apply("--tree", tree, "--reverse", "--only", "other").returncode == 0
    assert not mixin.exists()
    assert world.apply("--tree", tree, "--only", "gatv2_conv").returncode == 0
    assert mixin.exists()
    assert world.apply("--tree", tree).returncode == 0
    assert world.apply("--tree", tree, "--reverse").returncode == 0
    assert tree_of(tree) == before
