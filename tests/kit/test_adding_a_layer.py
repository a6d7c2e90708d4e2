"""A layer is added as CONTRIBUTING.md says under "Add a layer", from audit to pull request.

Upstream is the small one. Its second layer, `OtherConv`, is analysed and patched, never
imported.
"""

import shutil
from pathlib import Path

import pytest
from conftest import BEFORE, LAYER, TEST_BEFORE, VERSION_FILE, World, git, library, write
from kit import releases
from kit.audit import static
from kit.audit.kinds import Kind
from kit.releases import Catalogue
from test_adding import add, pin, publish, remove

OTHER = "torch_geometric/nn/conv/other_conv.py"
OTHER_TEST = "test/nn/conv/test_other_conv.py"
THREADED_TEST = "test/nn/conv/test_other_conv_thread_safety.py"

RACES = '''from torch_geometric.nn.conv import MessagePassing
from torch_geometric.utils import softmax


class OtherConv(MessagePassing):
    """Attends."""

    def __init__(self, channels):
        super().__init__(node_dim=0)
        self.channels = channels
        self._alpha = None

    def forward(self, x, edge_index, return_attention_weights=None):
        out = self.propagate(edge_index, x=x)
        alpha = self._alpha
        self._alpha = None
        if return_attention_weights:
            return out, (edge_index, alpha)
        return out

    def message(self, x_i, x_j, index):
        alpha = softmax((x_i * x_j).sum(dim=-1), index)
        self._alpha = alpha
        return x_j * alpha.unsqueeze(-1)
'''
# From 2.0.1 on, upstream has another line next to those that are patched.
LATER_RACES = RACES.replace("(x_i * x_j)", "self.scale * (x_i * x_j)").replace(
    "        self._alpha = None\n\n", "        self.scale = 0.5\n        self._alpha = None\n\n"
)
FIX = {
    "        self._alpha = None\n\n": "\n",
    "        out = self.propagate(edge_index, x=x)\n        alpha = self._alpha\n"
    "        self._alpha = None\n": "        attention = []\n"
    "        out = self.propagate(edge_index, x=x, attention=attention)\n",
    "(edge_index, alpha)": "(edge_index, attention[-1])",
    "x_j, index)": "x_j, index, attention=None)",
    "        self._alpha = alpha\n": "        if attention is not None:\n"
    "            attention.append(alpha)\n",
}
THREADED = """from thread_safety import assert_all_right, run_interleaved

from torch_geometric.nn import OtherConv


def interleave():
    return run_interleaved(OtherConv(8), get_inputs, {'return_attention_weights': True})


def test_other_conv_interleaved_threads():
    assert_all_right(interleave())
"""
UPSTREAMS_TEST = "def test():\n    conv = OtherConv(8)\n    assert conv._alpha is None\n"

MESSAGE = """{subject}

Two threads that share the layer take each other's weights.

Bug: none
Origin: vendor
Forwarded: no
Releases: {releases}
"""
FORMAT = ["--full-index", "--zero-commit", "--no-signature", "--no-stat", "-1", "--stdout"]


def fixed(text: str) -> str:
    for old, new in FIX.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def own(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of the test's own, in which three more releases are pinned, with a second layer."""
    for name in ("upstream", "index", "patches"):
        shutil.copytree(getattr(world, name), tmp_path / name)
    own = World(tmp_path / "upstream", tmp_path / "index", tmp_path / "patches", world.cache)
    monkeypatch.setattr(releases, "PATCHES", own.patches)
    monkeypatch.setenv("PIP_FIND_LINKS", str(own.index))
    remove(own, "2.1.0.dev20260101")  # it has no archive, and so does not validate
    for version, other in (("1.9.1", RACES), ("1.9.2", RACES), ("2.0.1", LATER_RACES)):
        # GATv2Conv races in the first two as well.
        like = "2.0.0" if version == "2.0.1" else "1.9.0"
        publish_other(own, version, library(like)[LAYER], other)
        pin(own, version, like)
    return own


def publish_other(own: World, version: str, layer: str, other: str) -> None:
    # Upstream's tests are in its repository, not in its sdists.
    test = UPSTREAMS_TEST if "_alpha" in other else UPSTREAMS_TEST.replace("._alpha", "")
    write(own.upstream, {OTHER_TEST: test})
    files = {VERSION_FILE: f"__version__ = '{version}'\n", LAYER: layer, OTHER: other}
    publish(own, version, files, TEST_BEFORE if layer == BEFORE else "def test():\n    pass\n")


def checkout(own: World, version: str, dest: Path, *arguments: str) -> Path:
    """What `scripts/apply.sh` makes."""
    result = own.apply(version, "--dest", dest, *arguments)
    assert result.returncode == 0, result.stderr
    return dest


def make_patch(
    own: World, tree: Path, files: dict[str, str], name: str, fits: str, *options: str
) -> None:
    """Commits a change, and puts it into `patches/`."""
    write(tree, files)
    git("add", "--all", cwd=tree)
    git("commit", "-qm", MESSAGE.format(subject=f"Patch {name}", releases=fits), cwd=tree)
    write(own.patches, {name: git("format-patch", *FORMAT, *options, cwd=tree)})


def name_the_layer(own: World) -> None:
    """Adds the two lines to `releases.toml`."""
    pins = own.patches / "releases.toml"
    text = pins.read_text()
    for old, new in (
        ('gatv2_conv = "GATv2Conv"\n', 'other_conv = "OtherConv"\n'),
        ('gatv2_conv = "the fix"\n', 'other_conv = "the other fix"\n'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, old + new)
    pins.write_text(text)


def make_patches(own: World, root: Path) -> None:
    """One patch a variant, one to upstream's own test, and the threaded test."""
    first = checkout(own, "1.9.1", root / "first", "--source", "git")
    files = {OTHER: fixed((first / OTHER).read_text())}
    make_patch(own, first, files, "other_conv/1.9.1.patch", "1.9.1, 1.9.2")
    name = "regression_test/other_conv.patch"
    make_patch(own, first, {THREADED_TEST: THREADED}, name, "1.9.1, 1.9.2, >=2.0.1")
    later = checkout(own, "2.0.1", root / "later", "--source", "git")
    files = {OTHER: fixed((later / OTHER).read_text())}
    make_patch(own, later, files, "other_conv/2.0.1.patch", "2.0.1")
    files = {OTHER_TEST: UPSTREAMS_TEST.replace("    assert conv._alpha is None\n", "")}
    fits = "1.9.1, 1.9.2, 2.0.1"
    make_patch(own, later, files, "other_conv/1.9.1-test.patch", fits, "-U0")


def races_of(tree: Path) -> set[tuple[str, str]]:
    # The small GATv2Conv is no Python, so not the whole tree.
    writes = static.audit_files(tree, [tree / OTHER])
    return {(write.cls, write.attribute) for write in writes if write.kind is Kind.RACE}


def statuses(catalogue: Catalogue) -> dict[str, str]:
    return {
        r.version: r.status["other_conv"] for r in catalogue.releases if "other_conv" in r.status
    }


def validate(own: World, kind: str) -> tuple[int, str]:
    ended = own.run("validate", "--source", kind, "--git-url", own.upstream.as_uri())
    return ended.returncode, ended.stdout + ended.stderr


def subjects(tree: Path) -> list[str]:
    return git("log", "--reverse", "--format=%s", "pristine..HEAD", cwd=tree).splitlines()


def assert_taken_where_they_fit(own: World) -> None:
    catalogue = releases.load()
    assert statuses(catalogue) == dict.fromkeys(("1.9.1", "1.9.2", "2.0.1"), "affected")
    tests = ["regression_test/gatv2_conv.patch", "regression_test/other_conv.patch"]
    for version, names in {
        "1.9.0": ["gatv2_conv/1.8.0.patch", "gatv2_conv/1.8.0-test.patch", tests[0]],
        "1.9.2": [
            *("gatv2_conv/1.8.0.patch", "gatv2_conv/1.8.0-test.patch"),
            *("other_conv/1.9.1.patch", "other_conv/1.9.1-test.patch"),
            *tests,
        ],
        "2.0.1": ["other_conv/2.0.1.patch", "other_conv/1.9.1-test.patch", *tests],
    }.items():
        assert [patch.name for patch in catalogue.find(version).patches] == names
    shown = own.apply("--list").stdout
    assert "Other" in shown and "other_conv: the other fix" in shown
    assert "patches/other_conv/1.9.1.patch" in own.apply("1.9.2", "--list").stdout


def test_from_audit_to_pull_request(own: World, tmp_path: Path) -> None:
    # 1. The audit finds the race.
    from_git = checkout(own, "2.0.1", tmp_path / "found", "--source", "git")
    assert races_of(from_git) == {("OtherConv", "_alpha")}
    assert statuses(releases.load()) == {}

    # 2. The fixes and the tests become patches; the layer gets its two lines.
    make_patches(own, tmp_path / "build")
    name_the_layer(own)

    # 3. Which release takes what is read off the patches.
    assert_taken_where_they_fit(own)

    # 4. They are sound.
    for kind in ("git", "sdist"):
        code, said = validate(own, kind)
        assert (code, "all as recorded" in said) == (0, True), said

    # 5. They are applied with the others, or alone.
    both = checkout(own, "1.9.2", tmp_path / "both", "--source", "git")
    assert subjects(both) == [
        f"Patch {patch.name}" for patch in releases.load().find("1.9.2").patches
    ]
    alone = checkout(own, "1.9.2", tmp_path / "alone", "--only", "other_conv", "--source", "git")
    assert subjects(alone) == [
        "Patch other_conv/1.9.1.patch",
        "Patch other_conv/1.9.1-test.patch",
    ]
    assert (alone / LAYER).read_text() == BEFORE

    # 6. The race is gone: as above, for each variant.
    assert races_of(both) == races_of(alone) == set()
    later = checkout(own, "2.0.1", tmp_path / "later", "--source", "git")
    assert races_of(later) == set()

    # 7. The newest patch is the pull request: it applies to upstream's branch, and is merged.
    git("am", "-q", str(own.patches / "other_conv" / "2.0.1.patch"), cwd=own.upstream)
    merged = (own.upstream / OTHER).read_text()
    publish_other(own, "2.0.2", (own.upstream / LAYER).read_text(), merged)

    # 8. The next release needs nothing, and the threaded test guards it.
    code, said = add(own, "2.0.2")
    assert (code, "OtherConv does not race: upstream has fixed it." in said) == (0, True), said
    fixed_in = releases.load().fixed_in("other_conv")
    assert fixed_in is not None and fixed_in.version == "2.0.2"
    assert validate(own, "git")[0] == 0


def test_a_forgotten_step_is_noticed(own: World, tmp_path: Path) -> None:
    make_patches(own, tmp_path / "build")

    def refused(said: str) -> None:
        result = own.apply("1.9.1", "--only", "other_conv", "--dest", tmp_path / "tree")
        assert (result.returncode, said in result.stderr) == (2, True), result.stderr
        assert statuses(releases.load()).get("1.9.1") != "affected"

    # The two lines.
    refused("There is no series 'other_conv'")
    name_the_layer(own)
    assert statuses(releases.load())["1.9.1"] == "affected"
    # The release, in `Releases:`.
    for name in ("other_conv/1.9.1.patch", "other_conv/1.9.1-test.patch"):
        replace(own, name, "Releases: 1.9.1, ", "Releases: ")
    refused("PyG 1.9.1 takes no patch of the series other_conv")
    # The folder. The threaded test alone says that upstream has fixed the layer: `prove`
    # would see that fail.
    shutil.rmtree(own.patches / "other_conv")
    refused("PyG 1.9.1 takes no patch of the series other_conv")
    assert set(statuses(releases.load()).values()) == {"fixed"}


def test_a_release_that_a_patch_does_not_fit_is_noticed(own: World, tmp_path: Path) -> None:
    make_patches(own, tmp_path / "build")
    name_the_layer(own)
    # 1.9.0 does not have the layer, 2.0.1 another variant of it.
    replace(own, "other_conv/1.9.1.patch", "Releases: ", "Releases: 1.9.0, ")
    replace(own, "other_conv/2.0.1.patch", "Releases: 2.0.1", "Releases: 1.9.2, 2.0.1")
    code, said = validate(own, "git")
    assert code == 1
    assert f"PyG 1.9.0: {OTHER} is missing from" in said
    assert f"PyG 1.9.2: {OTHER} has local changes" in said, said
    assert "PyG 1.9.1: " not in said and "PyG 2.0.1: " not in said


def replace(own: World, name: str, old: str, new: str) -> None:
    text = (own.patches / name).read_text()
    assert text.count(old) == 1
    write(own.patches, {name: text.replace(old, new)})
