"""The lock files: they pin what pyproject.toml asks for, with hashes, and nothing else."""

import re

import pytest
from kit.releases import ROOT, read_toml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = ROOT / "scripts" / "locks"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
GROUPS = ("kit", "lock", "serving", "test")
ON = [(python, system) for python in PYTHONS for system in ("linux", "darwin")]


def asked_for(group: str) -> list[Requirement]:
    """The requirements of a dependency group, those of the groups in it included."""
    requirements = []
    for entry in read_toml(ROOT / "pyproject.toml")["dependency-groups"][group]:
        if isinstance(entry, str):
            requirements.append(Requirement(entry))
        else:
            requirements += asked_for(entry["include-group"])
    return requirements


def pins(group: str) -> list[Requirement]:
    """The lines of a lock file that pin a version."""
    lines = (LOCKS / f"{group}.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line.removesuffix(" \\")) for line in lines if line[0] not in " #"]


def holds(requirement: Requirement, python: str, system: str) -> bool:
    environment = {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": "x86_64",
        "platform_system": system.capitalize(),
        "python_full_version": f"{python}.4",
        "python_version": python,
        "sys_platform": system,
    }
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pinned(group: str, python: str, system: str) -> dict[str, str]:
    """The version of each package on a Python and system."""
    versions: dict[str, str] = {}
    for pin in pins(group):
        if holds(pin, python, system):
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert canonicalize_name(pin.name) not in versions, f"{pin.name} is pinned twice"
            versions[canonicalize_name(pin.name)] = specifier.version
    return versions


def test_each_group_has_its_lock() -> None:
    groups = read_toml(ROOT / "pyproject.toml")["dependency-groups"]
    # Beside `pyg`, which each torch and Python resolves anew.
    assert {path.stem for path in LOCKS.iterdir()} == set(groups) - {"pyg"} == set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_lock_agrees_with_pyproject(group: str) -> None:
    for python, system in ON:
        versions = pinned(group, python, system)
        for requirement in asked_for(group):
            if holds(requirement, python, system):
                version = versions.get(canonicalize_name(requirement.name))
                reason = f"Python {python}: {requirement}, pinned {version}. Run scripts/lock.sh"
                assert version is not None, reason
                assert requirement.specifier.contains(version, prereleases=True), reason


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_is_pinned_that_nobody_asks_for(group: str) -> None:
    """Each pin is there for another one, or for a group that lists it."""
    text = (LOCKS / f"{group}.txt").read_text(encoding="utf-8")
    names = {canonicalize_name(requirement.name) for requirement in asked_for(group)}
    blocks = re.findall(r"^(\S+)==.*\n(?:    --hash.*\n)*    # via (.*)$", text, re.M)
    assert len(blocks) == len(pins(group))
    pinned_names = {canonicalize_name(name) for name, _ in blocks}
    for name, via in blocks:
        reasons = [reason for reason in via.split(", ") if not reason.startswith("-c ")]
        groups = [
            reason for reason in reasons if reason.startswith("pyg-threadsafe (pyproject.toml:")
        ]
        packages = set(reasons) - set(groups)
        assert reasons, name
        assert packages <= pinned_names, name
        assert bool(groups) == (canonicalize_name(name) in names), f"{name}. Run scripts/lock.sh"


@pytest.mark.parametrize("group", GROUPS)
def test_every_pin_has_hashes_and_no_file_names_a_host(group: str) -> None:
    text = (LOCKS / f"{group}.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^\S.*? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M)
    assert len(blocks) == len(pins(group)) > 0
    assert "://" not in text
    for line in text.splitlines():
        assert not line.startswith("-"), f"an option for pip: {line}"


@pytest.mark.parametrize(("python", "system"), ON)
def test_a_package_has_one_version_in_all_environments(python: str, system: str) -> None:
    test = pinned("test", python, system)
    for group in ("kit", "serving"):
        assert pinned(group, python, system).items() <= test.items()
