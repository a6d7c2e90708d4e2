"""A sandbox to learn in how a layer is added: a copy of the kit, and PyG with one more layer."""

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path

from kit import releases, sources
from kit.errors import TreeError
from kit.processes import git
from kit.releases import ROOT, Catalogue, Release

# A patch a release, which adds the layer to it.
LAYER = ROOT / "examples" / "new-layer" / "layer"

# What of the kit the steps in CONTRIBUTING.md need, beside `patches/`.
_COPIED = ("scripts", "pyproject.toml", "CONTRIBUTING.md", ".gitattributes", ".gitignore")

# The same commit each time, so that the cache holds it once.
_DATE = "2026-01-01T00:00:00+0000"
_DATES = {"GIT_AUTHOR_DATE": _DATE, "GIT_COMMITTER_DATE": _DATE}


def make(dest: Path, catalogue: Catalogue, source: sources.Source) -> list[str]:
    """Makes a sandbox, whole or not at all.

    Its `patches/releases.toml` pins commits that nobody but the download cache has: the
    releases as on PyPI, with the layer. All of the kit's commands find them there.

    Args:
        dest: The directory to make. It may be there if it is empty.
        catalogue: The pinned releases.
        source: Where to get them from.

    Returns:
        The versions that have the layer.

    Raises:
        TreeError: If something is there already, or the place cannot be written.
        SourceError: If a release cannot be downloaded.
    """
    dest = dest.absolute()
    try:
        if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
            raise TreeError(
                f"{dest} is there already. Expected a free place for the sandbox: name another "
                f"one, or remove it first."
            )
        dest.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as name:
            made = Path(name) / "kit"
            _copy_kit(made)
            patches = sorted(LAYER.glob("*.patch"))
            for patch in patches:
                commit = _publish(catalogue.find(patch.stem), patch, source, Path(name))
                _pin(made / "patches" / "releases.toml", patch.stem, commit)
            git("init", "--quiet", "--template=", made, cwd=made)
            git("add", "--all", cwd=made)
            git("commit", "--quiet", "--message=The kit, before the layer is added", cwd=made)
            made.rename(dest)
    except OSError as error:
        raise TreeError(
            f"{error.filename or dest} cannot be written ({error.strerror}). Name another place "
            f"for the sandbox, in a directory of yours."
        ) from None
    return [patch.stem for patch in patches]


def _copy_kit(dest: Path) -> None:
    """Copies the kit, which uses the environments of this one."""
    left_out = shutil.ignore_patterns("__pycache__")
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, dest / name, ignore=left_out)
        else:
            shutil.copy2(ROOT / name, dest / name)
    shutil.copytree(releases.PATCHES, dest / "patches")
    (dest / ".kit").symlink_to(ROOT / ".kit")


def _publish(release: Release, patch: Path, source: sources.Source, folder: Path) -> str:
    """Puts a release with the layer into the download cache, and returns its commit."""
    tree = folder / release.version
    # As on PyPI, wherever this runs.
    source = dataclasses.replace(source, kind=sources.Kind.SDIST)
    sources.materialize(release, source, tree)
    git("apply", "--index", patch, cwd=tree)
    message = f"PyG {release.version}, with a layer that is made up"
    content = git("write-tree", cwd=tree).strip()
    commit = git("commit-tree", content, "-m", message, cwd=tree, env=_DATES).strip()
    git("tag", "--force", release.version, commit, cwd=tree)
    made = dataclasses.replace(release, tag=release.version, commit=commit)
    own = dataclasses.replace(source, git_url=tree.as_uri(), notify=lambda message: None)
    sources.extract_commit(made, own, [releases.VERSION_FILE], folder / "fetched")
    return commit


def _pin(pins: Path, version: str, commit: str) -> None:
    """Writes the commit of a release into `releases.toml`."""
    records = re.split(r"^(?=\[\[release\]\]$)", pins.read_text(encoding="utf-8"), flags=re.M)
    (number,) = (i for i, text in enumerate(records) if f'version = "{version}"\n' in text)
    without = re.sub(r"^commit = .*\n", "", records[number], flags=re.M)
    records[number] = re.sub(r"^(tag = .*\n)", rf'\1commit = "{commit}"\n', without, flags=re.M)
    pins.write_text("".join(records), encoding="utf-8")
