"""Tests that run against one PyG release: its pristine tree and its patched one.

Nothing of PyG is imported here, since one process holds one PyG. What looks at a
tree runs in a process of its own, with that tree on its path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patched_layers import LAYERS

HERE = Path(__file__).parent

PROGRAMS = HERE.parents[1] / "scripts" / "kit" / "programs"

# What runs layers under a tracer, and forces the interleavings.
AUDIT = PROGRAMS / "audit" / "__main__.py"

# In seconds, for each program that is run.
TIME_LIMIT = 600

# The threaded regression test of a layer, in PyG's own test tree.
REGRESSION_TEST = "test/nn/conv/test_{}_thread_safety.py"


# What is observed of each patched layer; and more, where it passes messages itself.
def pytest_addoption(parser: pytest.Parser) -> None:
    for name in ("pristine", "patched"):
        parser.addoption(f"--{name}", type=Path, help=f"the {name} tree of a PyG release")
    parser.addoption("--release", default="", help="the name of the release, for the report")
    parser.addoption("--thorough", action="store_true", help="run what takes minutes, too")


@pytest.fixture(scope="session")
def trees(pytestconfig: pytest.Config) -> dict[str, Path]:
    paths = {name: pytestconfig.getoption(name) for name in ("pristine", "patched")}
    if not all(paths.values()):
        pytest.fail("Name both trees: --pristine=DIR --patched=DIR. tox.ini does.")
    return {name: path.absolute() for name, path in paths.items()}


@pytest.fixture(scope="module")
def on_nightly(pytestconfig: pytest.Config) -> None:
    """For what is about a program, not about a release: one environment a torch is enough."""
    if pytestconfig.getoption("release") != "nightly":
        pytest.skip("about the program, not about the release: the nightly's environments run it")


@pytest.fixture(scope="session")
def same_library(trees: dict[str, Path]) -> bool:
    """Whether both trees hold the same library, byte for byte: the patches add tests only."""
    files = [
        {
            path.relative_to(tree): path.read_bytes()
            for path in (tree / "torch_geometric").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        for tree in trees.values()
    ]
    return files[0] == files[1]


def find_tested(config: pytest.Config) -> list[str]:
    """The layers that the patched tree has a threaded test of."""
    tree = config.getoption("patched")
    return [name for name in LAYERS if tree and (tree / REGRESSION_TEST.format(name)).exists()]


def find_tested_modules(config: pytest.Config) -> list[str]:
    """Those that the audit can build and call."""
    return [name for name in find_tested(config) if LAYERS[name].is_layer]


def find_patched(config: pytest.Config) -> list[str]:
    """The layers that the patches change."""
    return [name for name in find_tested(config) if len(set(read_sources(config, name))) == 2]


def read_sources(config: pytest.Config, name: str) -> list[bytes | None]:
    """The file of a layer on both trees; None where a tree does not have it."""
    files = [config.getoption(tree) / LAYERS[name].module for tree in ("pristine", "patched")]
    return [file.read_bytes() if file.exists() else None for file in files]


def find_patched_layers(config: pytest.Config) -> list[str]:
    """Those that are called as layers."""
    return [name for name in find_patched(config) if LAYERS[name].is_layer]


def find_affected(config: pytest.Config) -> list[str]:
    """Those that race on the pristine tree."""
    pristine = config.getoption("pristine")
    return [
        name
        for name in find_patched(config)
        if (fix := LAYERS[name].fix) is None
        or fix not in (pristine / LAYERS[name].module).read_text()
    ]


def find_patched_convs(config: pytest.Config) -> list[str]:
    """The layers that the patches change, and that pass messages themselves."""
    return [name for name in find_patched(config) if LAYERS[name].message]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # A test is made for each layer that it is about: nothing is there to be skipped.
    for name, find in (
        ("tested_layer", find_tested),
        ("patched_layer", find_patched_layers),
        ("tested_module", find_tested_modules),
        ("patched_conv", find_patched_convs),
    ):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, find(metafunc.config))


def environment(tree: Path) -> dict[str, str]:
    """The environment variables for what runs with a tree of PyG on its path."""
    # A torch extension of the user's, or PYTHONPATH, must not get in between.
    variables = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    # 2.5.0 leaves compiled templates there, under names that all of its trees share.
    variables["PYG_HOME"] = f"{tree}.home"
    # Some layers add what they have put in a set, in the order of its hashes.
    variables["PYTHONHASHSEED"] = "0"
    # The graphs are small: more threads get in each other's way, and in the way of
    # the environment of the matrix that runs beside this one.
    variables["OMP_NUM_THREADS"] = "1"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        # Packages that do not know of free threading would turn the lock on again.
        variables["PYTHON_GIL"] = "0"
    return variables


class Warm:
    """A Python that has imported PyG from a tree, and runs programs in forks of itself."""

    def __init__(self, tree: Path, directory: Path) -> None:
        self.tree = tree
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, HERE / "warm.py"],
            # PyG leaves what it compiles in the directory for temporary files.
            env={**environment(tree), "TMPDIR": str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *arguments: str | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python ARGUMENTS`."""
        argv = list(map(str, arguments))
        outputs = [Path(tempfile.mkstemp(dir=self.directory)[1]) for _ in range(2)]
        request = {
            "arguments": argv,
            "cwd": str(cwd or Path.cwd()),
            "stdout": str(outputs[0]),
            "stderr": str(outputs[1]),
            "time_limit": TIME_LIMIT,
        }
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"PyG could not be imported from {self.tree}; see above."
        texts = [output.read_text() for output in outputs]
        return subprocess.CompletedProcess(argv, int(answer), *texts)


@pytest.fixture(scope="session")
def warm(trees: dict[str, Path]) -> Iterator[dict[str, Warm]]:
    """What runs programs on each tree."""
    with tempfile.TemporaryDirectory(prefix="tests-pyg-") as directory:
        started = {name: Warm(tree, Path(directory)) for name, tree in trees.items()}
        yield started
        for each in started.values():
            each.process.communicate()


def run_observe(warm: Warm, *arguments: str) -> dict[str, Any]:
    """Makes observations on a tree, all in one process."""
    result = warm.run(HERE / "observe.py", *arguments)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout.splitlines()[-1])
    # It is about the tree that it was meant for.
    assert warm.tree.resolve() in Path(printed["torch_geometric"]).parents
    observations: dict[str, Any] = printed["observations"]
    return observations


def is_thorough(config: pytest.Config) -> bool:
    """Whether what takes minutes is run.

    The default matrix has to stay short: there, tox.ini asks for it on an old release and on
    the newest one. With PYG_THREADSAFE_FULL, as in the workflow, every environment runs it.
    """
    return bool(config.getoption("thorough") or os.environ.get("PYG_THREADSAFE_FULL"))


@pytest.fixture(scope="session")
def thorough(pytestconfig: pytest.Config) -> None:
    """Skips what takes minutes, where another environment of the default matrix runs it."""
    if not is_thorough(pytestconfig):
        pytest.skip("takes minutes: 2.3.1 and 2.8.1 run it, and all with PYG_THREADSAFE_FULL=1")


@pytest.fixture(scope="session")
def pickles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each tree leaves its pickles."""
    return {tree: tmp_path_factory.mktemp(tree) for tree in ("pristine", "patched")}


@pytest.fixture(scope="session")
def observations(
    warm: dict[str, Warm],
    same_library: bool,
    pickles: dict[str, Path],
    pytestconfig: pytest.Config,
) -> dict[str, dict[str, Any]]:
    """All observations of each tree, made once."""
    convs = find_patched_convs(pytestconfig)
    groups = {
        "patched": find_patched_layers(pytestconfig),
        "convs": convs,
    }
    if is_thorough(pytestconfig):
        groups["compiled"] = groups["patched"]
        # One is enough: it takes long.
        groups["inductor"] = [n for n in find_affected(pytestconfig) if n == "gatv2_conv"]
    command = ("all", json.dumps(groups))
    if same_library:
        made = run_observe(warm["pristine"], *command)
        return {"pristine": made, "patched": made}
    # Both make the same calls in the same order: TorchScript, which some layers use
    # inside, computes in another way once it has seen a function often enough.
    made = {tree: run_observe(python, *command) for tree, python in warm.items()}
    # In another process, where nothing has been fused yet.
    for tree, python in warm.items():
        made[tree].update(run_observe(python, "dump", str(pickles[tree]), *convs))
    # Read before anything is built: a class is set up when its first layer is.
    for reader, writer in (("pristine", "patched"), ("patched", "pristine")):
        made[reader].update(run_observe(warm[reader], "load", str(pickles[writer]), *convs))
    return made


@pytest.fixture
def observe(observations: dict[str, dict[str, Any]]) -> Callable[[str, str], Any]:
    """What was observed on a tree."""
    return lambda tree, request: observations[tree][request]
