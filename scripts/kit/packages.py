"""Other people's packages: whether they do the same on a patched release as on the released one."""

import json
import os
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import environments, pages, records, sources
from kit.archives import unpack
from kit.errors import ToolError, UsageError
from kit.processes import last_lines, pip, run
from kit.releases import ROOT, Catalogue, read_toml
from kit.trees import Trees, pristine_and_patched

FILE = Path(__file__).parent / "packages.toml"
PROGRAM = environments.PROGRAMS / "drive.py"
PAGE = pages.DOCS / "packages.md"
DATA = pages.DOCS / "packages.json"

# In seconds, for all that is run of a package on one tree.
TIME_LIMIT = 1800.0

_NAMES = records.list_of(records.matches(r"\S+"))


@dataclass(frozen=True)
class Package:
    """A package on PyPI that builds on the layers.

    Attributes:
        name: Its name.
        version: The pinned version.
        sha256: The hash of what is installed, an sdist or a wheel.
        asks: Which PyG its metadata ask for.
        releases: The releases of PyG that it is run on.
        layers: The layers that it uses.
        dependencies: What it is installed with, beside PyG and torch.
        tests: What is run of the tests in its sdist; none where its models are run.
    """

    name: str
    version: str
    sha256: str
    asks: str
    releases: tuple[str, ...]
    layers: tuple[str, ...]
    dependencies: tuple[str, ...]
    tests: tuple[str, ...] = ()

    @property
    def pin(self) -> str:
        """The line for pip."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


_FIELDS = {
    "name": records.Field("a name on PyPI", records.matches(r"[\w.-]+")),
    "version": records.Field("a version", records.matches(r"[\w.+!-]+")),
    "sha256": records.Field("64 hex digits", records.matches(r"[0-9a-f]{64}")),
    "asks": records.Field("a specifier, or 'any'", records.matches(r"any|[=<>~!].*")),
    "releases": records.Field("a list of releases of PyG", records.list_of(
        records.matches(r"\d\S+"), 1)),
    "layers": records.Field("a list of layers", _NAMES),
    "dependencies": records.Field("a list of pinned requirements", records.list_of(
        records.matches(r"[\w.-]+==[\w.+!-]+"))),
    "tests": records.Field("a list of files or folders in the sdist", _NAMES, required=False),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What was seen of one package on one release.

    Attributes:
        package: The name of the package.
        version: Its version.
        asks: Which PyG its metadata ask for.
        layers: The layers that it uses.
        ran: `tests` or `models`.
        release: The release of PyG.
        torch: The version of torch.
        same: How many tests passed, or models gave a result, on both trees, the same.
        failed: How many did not pass on the released PyG either.
        skipped: How many tests were skipped on both.
        differ: Those that ended in another way on the patched tree.
    """

    package: str
    version: str
    asks: str
    layers: tuple[str, ...]
    ran: str
    release: str
    torch: str
    same: int
    failed: int
    skipped: int
    differ: tuple[str, ...]


def load(file: Path = FILE) -> list[Package]:
    """Reads the pinned packages.

    Raises:
        TreeError: If the file does not hold what it must, naming the field.
    """
    packages = []
    for record in read_toml(file)["package"]:
        name = f"package '{record.get('name', '?')}'"
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in records.check(file, name, record, _FIELDS).items()
        }
        packages.append(Package(**fields))
    return packages


def choose(packages: Sequence[Package], names: Sequence[str]) -> list[Package]:
    """Returns the packages with these names; all of them if there are none.

    Raises:
        UsageError: If there is no such package.
    """
    known = {package.name: package for package in packages}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"No package '{unknown[0]}' is pinned. Expected one of {', '.join(known)}."
        )
    return [known[name] for name in names] if names else list(packages)


def environment(
    packages: Sequence[Package], torch: str, base: Path, notify: Callable[[str], None]
) -> Path:
    """Returns the interpreter of an environment with all packages, making it on first use.

    It imports torch and what PyG needs from the shared environment. The packages are
    installed without what they require, so that none brings a PyG of its own.

    Args:
        packages: All pinned packages.
        torch: The version of torch.
        base: The interpreter to make it with.
        notify: Is told that it takes a while.

    Raises:
        ToolError: If it cannot be made.
    """
    shared = environments.describe(environments.ensure(torch, base, notify))
    directory = ROOT / ".kit" / f"packages-torch-{torch}-{shared.tag}"

    def make(python: Path) -> None:
        notify(f"Installing {len(packages)} packages into .kit/{directory.name} (first use) ...")
        _run([base, "-I", "-m", "venv", "--without-pip", directory], directory)
        environments.link(python, shared.site_packages)
        install = [*pip(shared.path), "--python", python, "install", "--quiet"]
        needed = sorted({line for package in packages for line in package.dependencies})
        _run([*install, "--prefer-binary", *needed], directory)
        pins = directory / "pins.txt"
        pins.write_text("".join(package.pin for package in packages), encoding="utf-8")
        _run([*install, "--no-deps", "--require-hashes", "--requirement", pins], directory)

    wanted = json.dumps([asdict(package) for package in packages])
    return environments.make_once(directory, wanted, make)


def _run(command: Sequence[str | Path], directory: Path) -> None:
    result = run(command)
    if result.returncode != 0:
        raise ToolError(
            f"The environment .kit/{directory.name} could not be made: {last_lines(result.stderr)} "
            f"Check the network, the disk, and that PyPI has the versions of {FILE.name}."
        )


def compare(
    package: Package,
    catalogue: Catalogue,
    source: sources.Source,
    python: Path,
    notify: Callable[[str], None],
) -> list[Outcome]:
    """Runs a package on both trees of each release that it is pinned to.

    The patched trees have the patches that are off by default, too.

    Raises:
        SourceError: If a release or the package cannot be downloaded.
        ToolError: If nothing of it ran.
    """
    torch = environments.describe(python, with_torch=True).torch
    outcomes = []
    for name in package.releases:
        release = catalogue.find(name)
        with pristine_and_patched(release, source, release.all_patches()) as trees:
            notify(f"{package.name} on PyG {release.version} ...")
            ends = _run_both(package, python, trees)
        known = (package.name, package.version, package.asks, package.layers)
        ran = "tests" if package.tests else "models"
        outcomes.append(Outcome(*known, ran, release.version, torch, *count(*ends)))
    return outcomes


def count(
    pristine: dict[str, str], patched: dict[str, str]
) -> tuple[int, int, int, tuple[str, ...]]:
    """How many ended the same, failed, and were skipped; and what differs."""
    states = {name: end.partition(":")[0] for name, end in pristine.items()}
    failed = sorted(name for name, state in states.items() if state == "failed")
    skipped = sorted(name for name, state in states.items() if state == "skipped")
    # What failed before may fail in another way; all else is to end as it did.
    differ = sorted(
        name
        for name, end in pristine.items()
        if name not in failed and patched.get(name, "missing") != end
    )
    same = len(pristine) - len(set(failed) | set(skipped) | set(differ))
    return same, len(failed), len(set(skipped) - set(differ)), tuple(differ)


def _run_both(package: Package, python: Path, trees: Trees) -> list[dict[str, str]]:
    ends = []
    for tree in (trees.pristine, trees.patched):
        with tempfile.TemporaryDirectory(prefix="packages-", dir=trees.folder) as name:
            run_one = _run_tests if package.tests else _run_models
            ends.append(run_one(package, python, tree, Path(name)))
    return ends


def _run_models(package: Package, python: Path, tree: Path, folder: Path) -> dict[str, str]:
    """How each model of a package ended."""
    result = environments.run_pyg(
        python, PROGRAM, package.name, tree=tree, cwd=folder, timeout=TIME_LIMIT
    )
    if result.returncode != 0:
        raise ToolError(f"The models of {package.name} did not run: {last_lines(result.stderr)}")
    ended: dict[str, str] = environments.result_of(result)
    return ended


def _run_tests(package: Package, python: Path, tree: Path, folder: Path) -> dict[str, str]:
    """How each test of a package ended."""
    _unpack_tests(package, python, folder)
    report = folder / "report.xml"
    options: list[str | Path] = ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", folder]
    options.append(f"--junit-xml={report}")
    result = environments.run_pyg(
        python,
        *("-m", "pytest"),
        *options,
        *package.tests,
        tree=tree,
        cwd=folder,
        env={"MPLBACKEND": "agg", "PYTHONHASHSEED": "0"},
        timeout=TIME_LIMIT,
    )
    ends = read_report(report) if report.exists() else {}
    if not ends:
        raise ToolError(f"No test of {package.name} ran: {last_lines(result.stdout)}")
    return ends


def read_report(report: Path) -> dict[str, str]:
    """Returns how each test of a JUnit report ended: `passed`, `failed` or `skipped`."""
    ends = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 (pytest wrote it)
        state = "passed"
        for child in case:
            state = {"skipped": "skipped", "failure": "failed", "error": "failed"}.get(
                child.tag, state
            )
        ends[f"{case.get('classname')}.{case.get('name')}"] = state
    return ends


def _unpack_tests(package: Package, python: Path, folder: Path) -> None:
    """Leaves the tests of a package's sdist in a folder, and nothing else of it."""
    pins = folder / "pins.txt"
    pins.write_text(package.pin, encoding="utf-8")
    command = [*pip(_with_pip(python)), "download", "--quiet", "--no-deps", "--require-hashes"]
    result = run([*command, "--requirement", pins, "--dest", folder])
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        raise ToolError(
            f"The sdist of {package.name} could not be downloaded: {last_lines(result.stderr)}"
        )
    whole = folder / "whole"
    unpack(archives[0], whole)
    for path in {Path(test).parts[0] for test in package.tests}:
        shutil.move(whole / path, folder / path)
    shutil.rmtree(whole)


def _with_pip(python: Path) -> Path:
    """The shared environment's interpreter, which has pip."""
    return environments.packages(python)[1].parents[2] / "bin" / "python"


# The page #####################################################################


def render(data: dict[str, Any]) -> str:
    """Returns the page that the data are shown on."""
    rows = [
        "| package | asks for PyG | layers | ran | on PyG | the same | failed on both | skipped "
        "| differ |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in data["outcomes"]:
        layers = ", ".join(f"`{layer}`" for layer in each["layers"])
        differ = ", ".join(f"`{name}`" for name in each["differ"]) or "none"
        rows.append(
            f"| {each['package']} {each['version']} | {each['asks']} | {layers} | {each['ran']} "
            f"| {each['release']} | {each['same']} | {each['failed']} | {each['skipped']} "
            f"| {differ} |"
        )
    stamp = data["stamp"]
    torch = data["outcomes"][0]["torch"]
    return "\n".join([
        "# Other people's packages",
        "",
        "Packages on PyPI that build on the patched layers, each run on a released PyG that it",
        "asks for, and on the same one patched (with the patches that are off by default, too).",
        "Of some, the tests that they ship are run; of the others, their models, on small random",
        "graphs: inference and three steps of training, compared bit for bit. What failed on the",
        "released PyG may fail on the patched one; everything else has to end in the same way.",
        "",
        *rows,
        "",
        f"torch {torch}. `{stamp['command']}`, {stamp['when']}, {stamp['machine']}.",
        "`scripts/kit/packages.toml` has the pins.",
        "",
    ])  # fmt: skip


def merge(
    old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], packages: Sequence[Package]
) -> list[dict[str, Any]]:
    """Returns the recorded outcomes, the new ones in place of the old, in the order of the pins.

    What is not pinned any more is left out.
    """
    recorded = {(each["package"], each["version"], each["release"]): each for each in (*old, *new)}
    order = [(each.name, each.version, release) for each in packages for release in each.releases]
    return [recorded[key] for key in order if key in recorded]


def problem(outcome: Outcome) -> str:
    """Returns what does not hold of an outcome, in a sentence."""
    where = f"{outcome.package} {outcome.version} on PyG {outcome.release}"
    if not outcome.differ:
        return f"{where}: none of its {outcome.ran} works on the released PyG, so it shows nothing."
    return f"{where} ended in another way once patched: {', '.join(outcome.differ)}."
