"""Wheels of extensions that somebody else has built, from a wheel index or a directory."""

import hashlib
import re
import tempfile
import zipfile
from pathlib import Path

from packaging.utils import parse_wheel_filename
from packaging.version import Version

from kit.building.cuda import Target, check_cuda_wheel
from kit.errors import ProofError, SourceError, UsageError
from kit.processes import last_lines, pip, run

# Loads each library in a process of its own: two of one package may register the same
# operators. ctypes has all symbols resolved at once, so that a library for another torch fails.
_LOAD = """
import ctypes, os, sys
import torch
for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            ctypes.CDLL(path)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(1)
"""


class Unfit(Exception):  # an answer, not an error
    """Why no wheel of a location was taken."""


def check_location(location: str, *, offline: bool) -> str:
    """Returns a location in the form that pip takes from any directory.

    Args:
        location: The address of a wheel index, or a directory.
        offline: Whether the network is to be left alone.

    Raises:
        UsageError: If it is neither, or an address where the network is to be left alone.
    """
    if "://" in location:
        if offline and not location.startswith("file:"):
            raise UsageError(
                f"--offline was given, and --find-links names {location}. Name a directory."
            )
        return location
    path = Path(location).absolute()
    if not path.exists():
        raise UsageError(
            f"--find-links (or PYG_THREADSAFE_FIND_LINKS) names {location}, and there is no such "
            f"directory. Expected one with wheels, or the address of a wheel index."
        )
    return str(path)


def find(name: str, version: str, target: Target, location: str, packages: Path) -> Path:
    """Takes the wheel of an extension that fits from a location, and keeps it under its hash.

    Args:
        name: The extension.
        version: Its version. A local version, which says what it was built for, may follow.
        target: What it must fit: the Python, the platform, and the torch with its CUDA.
        location: The address of a wheel index, or a directory.
        packages: The folder of the cache that holds the wheels of this version.

    Returns:
        The wheel in the cache.

    Raises:
        Unfit: If there is none, or it does not fit, with why.
        SourceError: If the location could not be read.
    """
    packages.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prebuilt-", dir=packages) as temporary:
        wheel = _download(name, version, target, location, Path(temporary))
        _check_fit(wheel, target)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        kept = packages / f"prebuilt-{digest[:32]}" / wheel.name
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            wheel.rename(kept)
    return kept


def is_prebuilt(wheel: Path) -> bool:
    """Whether a wheel in the cache was built by somebody else."""
    return wheel.parent.name.startswith("prebuilt-")


def _download(name: str, version: str, target: Target, location: str, dest: Path) -> Path:
    command = [*pip(target.interpreter.path, isolated=False), "download", "-vv", "--no-deps"]
    command += ["--no-index", "--find-links", location, "--only-binary=:all:", "--dest", dest]
    # One location can have wheels for several torches: pip alone takes the one that sorts last.
    labels = [f"+{label}" for label in _labels(target)]
    for label in [*labels, ""]:
        # What the user's own settings add is not the location that was named.
        env = {"PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
        result = run([*command, f"{name}=={version}{label}"], env=env)
        wheel = next(iter(dest.glob("*.whl")), None)
        if wheel is not None:
            return wheel
        told = f"{result.stdout}\n{result.stderr}"
        # pip goes on without a page that it could not read, and tells that in passing.
        unread = re.search(r"^\s*(Could not fetch URL .*|.*connection broken by.*)$", told, re.M)
        if unread:
            raise SourceError(
                f"{location} could not be read: {unread[1]} Check the address, and the network."
            )
        if "No matching distribution" not in told:
            raise SourceError(
                f"{location} could not be searched for {name}: {last_lines(result.stderr, 2)} "
                f"Check --find-links."
            )
    raise Unfit(
        f"no wheel of {version} for {target.interpreter.tag}, {target.interpreter.platform}"
    )


def _labels(target: Target) -> list[str]:
    """The local versions that PyG's index gives to wheels for a torch, the best one first."""
    torch = Version(target.interpreter.torch)
    prefix = f"pt{torch.major}{torch.minor}"
    own = target.interpreter.cuda
    builds = [f"cu{own.replace('.', '')}"] if own else []
    if target.cuda is None:
        builds.insert(0, "cpu")
    return [f"{prefix}{build}" for build in builds]


def _check_fit(wheel: Path, target: Target) -> None:
    local = parse_wheel_filename(wheel.name)[1].local or ""
    if re.fullmatch(r"pt\d+(cpu|cu\d+)", local) and local not in _labels(target):
        raise Unfit(f"{wheel.name} is for another torch than {target.interpreter.torch}")
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if member.endswith(".so")]
            archive.extractall(name, members)
        paths = [Path(name) / member for member in members]
        result = run([target.interpreter.path, "-c", _LOAD, *paths])
    if result.returncode != 0:
        said = last_lines(result.stderr, 1).replace(f"{name}/", "")
        raise Unfit(
            f"{wheel.name} does not load with torch {target.interpreter.torch}: {said[:200]}"
        )
    if target.cuda is not None:
        try:
            check_cuda_wheel(wheel, target.cuda)
        except ProofError as error:
            raise Unfit(str(error)) from None
