"""`add-release`: what is taken out comes back the same; what is new is found out."""

import dataclasses
import hashlib
import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import (
    AFTER,
    BEFORE,
    LAYER,
    PYPROJECT,
    TEST_BEFORE,
    UPSTREAM_TEST,
    VERSION_FILE,
    World,
    git,
    library,
    tree_of,
    write,
)
from kit import adding, releases
from kit.errors import TreeError


@pytest.fixture
def own(world: World, tmp_path: Path) -> World:
    """A world whose repository, index and patches may be changed."""
    for name in ("upstream", "index", "patches"):
        shutil.copytree(getattr(world, name), tmp_path / name)
    return World(tmp_path / "upstream", tmp_path / "index", tmp_path / "patches", world.cache)


def add(own: World, *arguments: str, url: str | None = None) -> tuple[int, str]:
    command = ["add-release", *arguments, "--git-url", url or own.upstream.as_uri()]
    result = own.run(*command, env={"PIP_FIND_LINKS": str(own.index)})
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout + result.stderr


def remove(own: World, *versions: str) -> None:
    pins = own.patches / "releases.toml"
    blocks = pins.read_text().rstrip("\n").split("\n\n")
    kept = [b for b in blocks if not any(f'version = "{v}"' in b for v in versions)]
    assert len(blocks) - len(kept) == len(versions)
    pins.write_text("\n\n".join(kept) + "\n")


def publish(own: World, version: str, files: dict[str, str], test: str) -> None:
    """Makes a release of upstream's: a tag, and an sdist."""
    write(own.upstream, {**files, UPSTREAM_TEST: test})
    git("add", "--all", cwd=own.upstream)
    git("commit", "-qm", version, cwd=own.upstream)
    # Annotated, as some of upstream's are.
    git("tag", "-m", version, version, cwd=own.upstream)
    content = {**files, "pyproject.toml": PYPROJECT.format(version)}
    with tarfile.open(own.index / f"torch_geometric-{version}.tar.gz", "w:gz") as sdist:
        for name, text in content.items():
            member = tarfile.TarInfo(f"torch_geometric-{version}/{name}")
            member.size = len(text.encode())
            sdist.addfile(member, io.BytesIO(text.encode()))


def pin(own: World, version: str, like: str) -> None:
    """What `add-release` does, which takes its time: GATv2Conv is that of another release."""
    catalogue = releases.load()
    archive = f"torch_geometric-{version}.tar.gz"
    record = dataclasses.replace(
        catalogue.find(like),
        version=version,
        tag=version,
        commit=git("rev-parse", "HEAD", cwd=own.upstream).strip(),
        archive=archive,
        sha256=hashlib.sha256((own.index / archive).read_bytes()).hexdigest(),
        version_blobs=(git("rev-parse", f"HEAD:{VERSION_FILE}", cwd=own.upstream).strip(),),
    )
    pins = own.patches / "releases.toml"
    pins.write_text(adding.insert(pins.read_text(), record))
    for patch in catalogue.find(like).patches:
        if not patch.fits(version):
            patch.file.write_text(adding.with_release(patch, version))


def test_what_is_removed_comes_back_the_same(own: World) -> None:
    before = (own.patches / "releases.toml").read_bytes()
    # 1.8.0 is the oldest, where the range starts.
    remove(own, "1.9.0", "2.0.0")
    for version in ("2.0.0", "1.9.0"):
        code, said = add(own, version)
        assert code == 0, said
    assert (own.patches / "releases.toml").read_bytes() == before


def test_patches_name_the_release_that_they_fit(own: World) -> None:
    names = ("gatv2_conv/1.8.0.patch", "gatv2_conv/1.8.0-test.patch")
    before = {name: (own.patches / name).read_text() for name in names}
    files = {**library("1.9.0"), VERSION_FILE: "__version__ = '1.9.1'\n"}
    publish(own, "1.9.1", files, TEST_BEFORE)
    code, said = add(own, "1.9.1")
    assert code == 0, said
    for name in names:
        assert f"{name} names it from now on" in said
        text = (own.patches / name).read_text()
        assert "\nReleases: 1.8.0, 1.9.0, 1.9.1\n" in text
        # Nothing else has changed.
        assert text.replace(", 1.9.1\n", "\n") == before[name]
    # It is in working order: the patches apply.
    ended = own.run("validate", "--source", "git", "--git-url", own.upstream.as_uri())
    assert "PyG 1.9.1: " not in ended.stderr, ended.stderr


def test_check_writes_nothing(own: World) -> None:
    remove(own, "1.9.0")
    before = (own.patches / "releases.toml").read_bytes()
    code, said = add(own, "1.9.0", "--check")
    assert code == 0
    assert 'version = "1.9.0"' in said
    assert "gatv2_conv/1.8.0.patch fits, blob for blob" in said
    assert (own.patches / "releases.toml").read_bytes() == before


def test_without_a_tag_a_person_must_look(own: World, tmp_path: Path) -> None:
    remove(own, "1.9.0")
    code, said = add(own, "1.9.0", url=(tmp_path / "nowhere").as_uri())
    assert code == 0, said
    assert "No tag 1.9.0 was found" in said
    assert "gatv2_conv/1.8.0-test.patch is what PyG 1.8.0 takes. Check it" in said
    assert "commit =" not in said


def test_fixed_upstream(own: World) -> None:
    publish(own, "2.0.1", library("2.0.0"), "")
    code, said = add(own, "2.0.1")
    assert code == 0, said
    assert "GATv2Conv does not race: upstream has fixed it." in said
    commit = git("rev-parse", "2.0.1^{commit}", cwd=own.upstream).strip()
    assert f'commit = "{commit}"' in said
    assert re.findall(r'version = "(.*)"', (own.patches / "releases.toml").read_text()) == [
        *("1.8.0", "1.9.0", "2.0.0", "2.0.1", "2.1.0.dev20260101"),
    ]


@pytest.mark.parametrize("conflict", [False, True])
def test_new_variant(own: World, conflict: bool) -> None:
    line = "line 21\n" if conflict else "line 2\n"
    layer = BEFORE.replace(line, "upstream's new line\n")
    files = {VERSION_FILE: "__version__ = '1.9.1'\n", LAYER: layer}
    publish(own, "1.9.1", files, "def test():\n    assert conv._alpha is None\n")
    # Beside `patches/`, which is the test's own: nothing is written into this checkout.
    proposal = own.patches.parent / "build" / "add-1.9.1" / LAYER
    code, said = add(own, "1.9.1", "--check")
    assert code == 0 and not proposal.exists()
    code, said = add(own, "1.9.1")
    assert code == 0, said
    assert "GATv2Conv: no patch fits, since upstream has changed" in said
    assert f"The proposal for {LAYER} is {proposal}." in said
    text = proposal.read_text()
    if conflict:
        assert "with conflicts" in said
        assert "<<<<<<< upstream" in text
    else:
        assert "without a conflict. Review the proposal" in said, said
        assert text == AFTER.replace(line, "upstream's new line\n")
    assert "names it from now on" not in said


@pytest.mark.parametrize(
    "version, code, message",
    [
        ("1.9.0", 2, "pinned already"),
        ("1.7.0", 2, "range starts"),
        ("graph", 2, "not a version"),
        ("3.0.0", 3, "could not be downloaded from PyPI"),
    ],
)
def test_refusals(own: World, version: str, code: int, message: str) -> None:
    before = (own.patches / "releases.toml").read_bytes()
    exit_code, said = add(own, version)
    assert (exit_code, message in said) == (code, True), said
    assert (own.patches / "releases.toml").read_bytes() == before


def test_all_or_nothing(own: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "PATCHES", own.patches)
    catalogue = releases.load()
    release = dataclasses.replace(catalogue.releases[1], version="1.9.1")
    addition = adding.Addition(release, fits=list(catalogue.find("1.9.0").patches[:2]))
    addition.proposals[LAYER] = b"merged\n"
    before = tree_of(tmp_path)
    # The last file to be written cannot be.
    (tmp_path / "build").write_text("in the way\n")
    with pytest.raises(TreeError, match=r"cannot be written \("):
        adding.write(addition)
    (tmp_path / "build").unlink()
    assert tree_of(tmp_path) == before
