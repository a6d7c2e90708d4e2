"""The wheel of a patched PyG, and a folder of wheels that are installed and imported."""

import contextlib
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from kit import environments, patching, sources, transactions
from kit.building.cuda import Target
from kit.building.extensions import cached
from kit.environments import Interpreter
from kit.errors import ProofError, ToolError
from kit.processes import last_lines, pip, run
from kit.releases import Patch, Release

# The local version of a patched PyG (PEP 440): `2.4.0+threadsafe.1`. The number
# goes up when the patches to PyG's library change after a release of the kit.
LOCAL_VERSION = "threadsafe.1"

# The same sources give the same wheel: no time but the first that a zip file can hold.
_SAME_BYTES = {"SOURCE_DATE_EPOCH": "315532800"}


def build_pyg(
    release: Release, patches: Sequence[Patch], source: sources.Source, dest: Path
) -> Path:
    """Builds the wheel of a patched release, whose version says that it is patched.

    `torch_geometric.__version__` stays upstream's: programs compare it, and the kit
    recognises an installation by the file that holds it. `pip list` and
    `importlib.metadata` show the local version.

    Args:
        release: The release.
        patches: Its patches.
        source: Where to get it from.
        dest: The directory to put the wheel into.

    Returns:
        The wheel.

    Raises:
        ToolError: If it cannot be built.
    """
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        work = Path(name)
        tree = work / "tree"
        sources.materialize(release, source, tree)
        patching.apply(tree, patching.plan(tree, patches))
        if release.archive.endswith(".whl") and not (tree / "pyproject.toml").exists():
            # There is no sdist: what can be installed is the wheel, with the patched files.
            pristine = sources.archive(release, source)
        else:
            pristine = _pristine_wheel(release, tree, work)
        return _relabel(pristine, release, patches, work, dest)


def _pristine_wheel(release: Release, tree: Path, work: Path) -> Path:
    # In the kit's own environment, which holds the build backends.
    command = [*pip(sys.executable), "wheel", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--no-build-isolation", "--ignore-requires-python", "--wheel-dir", work, tree]
    result = run(command, env=_SAME_BYTES)
    wheel = cached(work)
    if result.returncode != 0 or wheel is None:
        # What pip says of the failure itself comes last, and tells nothing.
        ours = ("note: ", "ERROR: Failed ", "[end of output]")
        lines = [line for line in result.stderr.splitlines() if not line.strip().startswith(ours)]
        said = last_lines("\n".join(lines), 1)
        raise ToolError(
            f"The wheel of PyG {release.version} could not be built. pip said: {said} Expected its "
            f"build backend in the kit's environment: remove .kit/kit, and call this again."
        )
    return wheel


def _relabel(
    wheel: Path, release: Release, patches: Sequence[Patch], work: Path, dest: Path
) -> Path:
    """Rewrites a wheel: PyG's patched files, the local version, and what it fails to require."""
    tree = work / "tree"

    def tool(*arguments: str | Path) -> None:
        result = run([sys.executable, "-I", "-m", "wheel", *arguments], env=_SAME_BYTES)
        if result.returncode != 0:
            raise ToolError(f"'wheel {arguments[0]}' failed: {last_lines(result.stderr)}")

    tool("unpack", "--dest", work / "unpacked", wheel)
    (root,) = (work / "unpacked").iterdir()
    for patch in patches:
        for change in patch.changes:
            if patch.is_for_library:
                shutil.copyfile(tree / change.path, root / change.path)
    (info,) = root.glob("*.dist-info")
    metadata = info / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    (version,) = re.findall(r"^Version: (.+)$", text, re.M)
    labelled = f"{version}+{LOCAL_VERSION}"
    lines = [f"Version: {labelled}", *(f"Requires-Dist: {name}" for name in release.undeclared)]
    replaced = text.replace(f"\nVersion: {version}\n", "\n" + "\n".join(lines) + "\n", 1)
    metadata.write_text(replaced, encoding="utf-8")
    info.rename(root / info.name.replace(f"-{version}.", f"-{labelled}."))
    for directory in (dest, work / "packed"):
        directory.mkdir(parents=True, exist_ok=True)
    tool("pack", "--dest-dir", work / "packed", root)
    made = cached(work / "packed")
    assert made is not None
    transactions.replace(dest / made.name, made.read_bytes())
    return dest / made.name


def folder_name(release: Release, target: Target) -> str:
    """Returns the name of the folder that wheels go to by default."""
    if not target.interpreter.torch:
        return f"wheels-{release.version}"
    torch = target.interpreter.torch.split("+")[0]
    build = "cpu" if target.cuda is None else f"cuda{target.cuda.version}"
    return f"wheels-{release.version}-torch{torch}-{build}"


@contextlib.contextmanager
def installed(wheels: Sequence[Path], modules: Sequence[str], target: Target) -> Iterator[Path]:
    """Installs wheels into a fresh environment, beside the torch they are for, and imports them.

    Args:
        wheels: What to install.
        modules: What to import.
        target: What they were built for.

    Yields:
        Its interpreter. The environment is removed afterwards.

    Raises:
        ToolError: If they do not install.
        ProofError: If a module cannot be imported.
    """
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        environment = Path(name) / "environment"
        python = environments.with_wheels(target.interpreter, wheels, environment)
        program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
        result = run([python, "-c", program, *modules])
        if result.returncode != 0:
            raise ProofError(
                f"The wheels install, and cannot be imported: {last_lines(result.stderr)} Please "
                f"report this, with the logs in build/logs."
            )
        yield python


def copy(wheels: Sequence[Path], dest: Path) -> list[Path]:
    """Copies wheels into a directory, each in one step."""
    for wheel in wheels:
        transactions.replace(dest / wheel.name, wheel.read_bytes())
    return [dest / wheel.name for wheel in wheels]


def pip_line(
    wheels: Sequence[Path], interpreter: Interpreter, dest: Path, *, keeps_torch: bool
) -> str:
    """Returns the one command that installs wheels.

    PyG's wheel alone is for an environment that runs that release already: nothing else in it
    is touched. With extensions, the torch that they were built for is named, in the build that
    pip tells from others (`+cu118`).

    Args:
        wheels: PyG's first.
        interpreter: What the extensions were built with.
        dest: Where the wheels are.
        keeps_torch: Whether they are for the environment of that interpreter, whose torch and
            other packages stay.
    """
    only_these = set(dest.glob("*.whl")) == {dest / wheel.name for wheel in wheels}
    files = [dest / "*.whl"] if only_these else [dest / wheel.name for wheel in wheels]
    paths = [str(file) if "/" in str(file) else f"./{file}" for file in files]
    if len(wheels) == 1:
        return " ".join(["pip install --no-deps", *paths])
    torch = f"torch=={interpreter.torch_pin}"
    if keeps_torch:
        return " ".join(["pip install --no-deps", torch, *paths])
    of_its_time = map(shlex.quote, environments.of_its_time(interpreter.torch.split("+")[0]))
    return " ".join(["pip install", torch, *of_its_time, *paths])
