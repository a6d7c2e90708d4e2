"""The two trees of PyG that the models run on, and which models are run."""

import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in ("pristine", "patched"):
        parser.addoption(f"--{name}", type=Path, help=f"the {name} tree of a PyG release")
    parser.addoption("--quick", action="store_true", help="the few models that stand for the rest")
    parser.addoption("--packages", action="store_true", help="the models of packages from PyPI")


def pytest_configure(config: pytest.Config) -> None:
    if not (config.getoption("--pristine") and config.getoption("--patched")):
        raise pytest.UsageError("Name both trees: --pristine=DIR --patched=DIR. tox.ini does.")
    # The models are imported to be listed; each is audited in a process of its own.
    sys.path.insert(0, str(config.getoption("--pristine").absolute()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" in metafunc.fixturenames:
        from zoo import entries

        option = metafunc.config.getoption
        families = ("packages",) if option("--packages") else entries.FAMILIES
        chosen = [entry for entry in entries.load(families) if entry.quick or not option("--quick")]
        metafunc.parametrize("entry", chosen, ids=[entry.name for entry in chosen])


@pytest.fixture(scope="session")
def trees(pytestconfig: pytest.Config) -> dict[bool, Path]:
    """The tree of PyG as released, and the patched one."""
    names = {False: "--pristine", True: "--patched"}
    return {key: pytestconfig.getoption(name).absolute() for key, name in names.items()}
