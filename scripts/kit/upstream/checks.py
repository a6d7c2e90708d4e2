"""Checks a branch as upstream's CI would, and that it does what it claims; and times it."""

import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import environments, patching, transactions
from kit.bench import cases
from kit.errors import TreeError
from kit.processes import last_lines, run
from kit.releases import Catalogue
from kit.upstream import topics
from kit.upstream.prepared import Prepared
from kit.upstream.repository import changed, worktree

# How often the new tests are run, and how long any one command may take, in seconds.
REPEATS = 50
TIME_LIMIT = 1800.0

# What upstream's `.pre-commit-config.yaml` runs on a change of Python code: the last part of
# the repository that a hook comes from, its package on PyPI, and how it is called to look only.
LINTERS = {
    "yapf": ("yapf", ["--diff"]),
    # As pre-commit's hook calls it: upstream's settings leave `__init__.py` out.
    "isort": ("isort", ["--check-only", "--diff", "--filter-files"]),
    "flake8": ("flake8", []),
    "ruff-pre-commit": ("ruff", ["check", "--no-cache"]),
}

OURS, EDGE_UPDATER = "this branch", "with `edge_updater`"
GRAPHS = [cases.SMALL_GRAPH, cases.MIDDLE_GRAPH]
PROCESSES = 10

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        holds: Whether it passed.
        detail: The figures, or what went wrong.
    """

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Trees:
    """The work trees that are compared."""

    base: Path
    branch: Path
    python: Path

    def run(
        self, tree: Path, *arguments: str | Path, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs `python ARGUMENTS` with the PyG of a tree."""
        return environments.run_pyg(
            self.python, *arguments, tree=tree, cwd=tree, env=env, timeout=TIME_LIMIT
        )

    def pytest(self, tree: Path, *arguments: str | Path, **env: str) -> dict[str, str]:
        """Runs pytest, and returns how each test ended: `passed`, `failed` or `skipped`."""
        with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
            file = Path(name) / "results.xml"
            options = ["-p", "no:cacheprovider", f"--junit-xml={file}"]
            result = self.run(tree, "-m", "pytest", *options, *arguments, **env)
            # 2: collecting a file failed, which counts as a test that failed.
            if result.returncode > 2 or not file.exists():
                raise TreeError(
                    f"pytest could not be run: {last_lines(result.stderr or result.stdout)} "
                    f"Expected a Python with torch, pytest and what PyG imports."
                )
            cases = ElementTree.parse(file).iter("testcase")  # noqa: S314 (pytest wrote it)
            return {f"{case.get('classname')}::{case.get('name')}": _end(case) for case in cases}


def _end(case: ElementTree.Element) -> str:
    tags = {child.tag for child in case}
    return "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"


def check(
    prepared: Prepared, python: Path, notify: Notify
) -> Iterator[tuple[Check, dict[str, Any]]]:
    """Checks a branch.

    Args:
        prepared: What `upstream.prepare` made.
        python: An interpreter with torch, pytest, and what PyG imports.
        notify: Is told what takes long.

    Yields:
        Each check as it is done, and what is to be recorded of it.

    Raises:
        TreeError: If pytest cannot be run there.
    """
    repository = Path(prepared.repository)
    with (
        worktree(repository, prepared.base) as base,
        worktree(repository, prepared.head) as branch,
    ):
        trees = Trees(base, branch, python)
        paths = changed(repository, prepared.base, prepared.head)
        files = [path for path in paths if path.endswith(".py")]
        for step in (
            _lint(prepared, branch, files, notify),
            _reproduce(prepared, trees, notify),
            _test_layer(prepared, trees, notify),
            _test_new(prepared, trees, files, notify),
        ):
            try:
                yield from step
            except subprocess.TimeoutExpired as error:
                command = " ".join(map(str, error.cmd[1:4]))
                yield Check(command, False, f"ran for over {TIME_LIMIT:.0f} s"), {}


def _lint(
    prepared: Prepared, tree: Path, files: list[str], notify: Notify
) -> Iterator[tuple[Check, dict[str, Any]]]:
    import yaml  # not at the top: `apply` takes a second, and has no use for it

    config = tree / ".pre-commit-config.yaml"
    packages: dict[str, list[str]] = {}
    for repo in yaml.safe_load(config.read_text())["repos"] if config.exists() else []:
        name = repo["repo"].rstrip("/").removesuffix(".git").split("/")[-1]
        if name in LINTERS:
            extra = [
                word for hook in repo["hooks"] for word in hook.get("additional_dependencies", [])
            ]
            package = LINTERS[name][0]
            packages[name] = [f"{package}=={repo['rev'].removeprefix('v')}", *extra]
    for name, (package, options) in LINTERS.items():
        if name not in packages:
            # Older releases had fewer of them.
            detail = "not in .pre-commit-config.yaml"
            yield Check(package, bool(prepared.version), detail), {}
            continue
        notify(f"{package} ...")
        python = environments.tools(packages[name], environments.current_python(), notify)
        result = run([python, "-m", package, *options, *files], cwd=tree, timeout=TIME_LIMIT)
        detail = packages[name][0].replace("==", " ")
        # isort says so where its own settings leave a file out.
        said = re.sub(r"^Skipped \d+ files$", "", result.stdout + result.stderr, flags=re.M)
        clean = result.returncode == 0
        detail += f", {len(files)} files" if clean else f": {last_lines(said, 6)}"
        if prepared.version and not clean and package in ("yapf", "isort"):
            # One patch serves releases whose formatters do not agree with each other.
            detail, clean = (
                f"{packages[name][0].replace('==', ' ')} would format some lines anew",
                True,
            )
        yield (
            Check(package, clean, detail),
            {"linters": {package: packages[name][0].split("==")[1]}},
        )


def _reproduce(
    prepared: Prepared, trees: Trees, notify: Notify
) -> Iterator[tuple[Check, dict[str, Any]]]:
    for file, name in topics.REPRODUCERS.items():
        if not (prepared.folder / file).exists():
            continue
        notify(f"The {name}, before and after ...")
        before, after = (
            trees.run(tree, prepared.folder / file) for tree in (trees.base, trees.branch)
        )
        said = last_lines(before.stdout + before.stderr, 1)
        # An error of another kind would be no reproduction.
        raised = before.returncode == 1 and said.startswith("AssertionError")
        record = {f"{Path(file).stem}_before": said}
        yield Check(f"{name} fails on the base", raised, said), record
        detail = "passes" if after.returncode == 0 else last_lines(after.stdout + after.stderr, 1)
        yield Check(f"{name} passes on the branch", after.returncode == 0, detail), {}


def _test_layer(
    prepared: Prepared, trees: Trees, notify: Notify
) -> Iterator[tuple[Check, dict[str, Any]]]:
    tests = [path for path in prepared.tests if (trees.branch / path).exists()]
    for full in ("1", ""):
        name = "tests, FULL_TEST=1" if full else "tests"
        notify(f"{name}: {', '.join(tests)} ...")
        old = [path for path in tests if (trees.base / path).exists()]
        before = trees.pytest(trees.base, *old, FULL_TEST=full) if old else {}
        after = trees.pytest(trees.branch, *tests, FULL_TEST=full)
        lost = [t for t, end in before.items() if end == "passed" and after.get(t) != "passed"]
        new = [t for t, end in after.items() if end == "failed" and before.get(t) != "failed"]
        bad = sorted({*lost, *new})
        counts = [list(ends.values()).count("passed") for ends in (before, after)]
        same = sum(end == "failed" for end in after.values()) - len(new)
        detail = f"{counts[1]} passed ({counts[0]} on the base)"
        detail += f", {same} fail on the base as well" if same else ""
        detail += f"; not any more: {', '.join(bad)}" if bad else ""
        record = {"passed_before": counts[0], "passed_after": counts[1], "failed_on_both": same}
        yield Check(name, not bad and counts[1] > 0, detail), record if full else {}


def _test_new(
    prepared: Prepared, trees: Trees, files: list[str], notify: Notify
) -> Iterator[tuple[Check, dict[str, Any]]]:
    if prepared.version:
        there = [path for path in prepared.tests if (trees.branch / path).exists()]
        tests = [path for path in there if not (trees.base / path).exists()]
        chosen: list[str] = []
    else:
        tests = prepared.tests[:1]
        chosen = ["-k", " or ".join(prepared.new_tests)]
    notify(f"The new tests, {REPEATS} times ...")
    ends = list(trees.pytest(trees.branch, *tests, *chosen, f"--count={REPEATS}").values())
    passed, number = ends.count("passed"), len(ends) // REPEATS
    yield (
        Check(
            f"new tests, {REPEATS} times",
            passed == len(ends) > 0,
            f"{number} tests, {passed} of {len(ends)} runs passed",
        ),
        {"repeats": REPEATS, "new_tests": number},
    )
    # The same on the base: with the branch's tests, and without its fix.
    for path in files:
        if path.startswith(("test/", "torch_geometric/testing/")):
            (trees.base / path).parent.mkdir(parents=True, exist_ok=True)
            transactions.replace(trees.base / path, (trees.branch / path).read_bytes())
    ends = list(trees.pytest(trees.base, *tests, *chosen).values())
    failed = ends.count("failed")
    yield (
        Check(
            "new tests without the fix" if prepared.has_fix else "new tests on the base",
            failed > 0 if prepared.has_fix else failed == 0,
            f"{failed} of {len(ends)} fail",
        ),
        {"failed_without": failed},
    )


def measure(
    prepared: Prepared, catalogue: Catalogue, python: Path, notify: Notify
) -> dict[str, Any] | None:
    """Times the layer of a branch against that of its base, and against `edge_updater()`.

    Returns:
        A `Ratio` for each graph, mode and variant; None where the branch changes no layer.
    """
    if prepared.version:
        return None  # docs/performance.md has the cost of the kit's own patches
    topic = topics.find(prepared.topic)
    fix, other = topic.patch("fix"), topic.patch("edge_updater")
    if fix is None or topic.layer not in catalogue.classes.values():
        return None
    repository = Path(prepared.repository)
    nightly = catalogue.find("nightly")
    layer = next(key for key, name in catalogue.classes.items() if name == topic.layer)
    names = ("regression_test/helpers.patch", f"regression_test/{layer}.patch")
    tests = [patch for patch in nightly.patches if patch.name in names]
    path = next(c.path for c in fix.changes if "/explain/" not in c.path)
    with (
        worktree(repository, prepared.base) as base,
        worktree(repository, prepared.head) as branch,
    ):
        patching.apply(base, patching.plan(base, tests))
        variants: dict[str, str | None] = {cases.PRISTINE: None, OURS: str(branch / path)}
        if other is not None:
            copy = base.parent / "edge_updater" / path
            copy.parent.mkdir(parents=True)
            copy.write_bytes((base / path).read_bytes())
            patching.apply(
                base.parent / "edge_updater", [patching.Step(other, patching.State.PRISTINE)]
            )
            variants[EDGE_UPDATER] = str(copy)
        test = base / tests[-1].changes[0].path
        timed = [
            cases.case(layer, topic.layer, test, variants, graph, mode)
            for graph in GRAPHS
            for mode in graph.rounds
        ]
        runs = []
        for number in range(PROCESSES):
            notify(f"Timing {topic.layer}, process {number + 1} of {PROCESSES} ...")
            runs.append(cases.run_cases(python, base, timed))
    ratios = cases.summarize(nightly, timed, runs)
    return {
        "torch": runs[0]["torch"],
        "python": runs[0]["python"],
        "ratios": [asdict(ratio) for ratio in ratios],
    }
