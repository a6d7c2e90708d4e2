"""Builds wheels: of a patched PyG, and of the compiled extensions that it uses."""

import functools
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock
from packaging.specifiers import SpecifierSet

from kit import environments, patching, sources
from kit.environments import Interpreter
from kit.errors import ProofError, SourceError, ToolError, TreeError, UsageError
from kit.processes import last_lines, run, run_logged
from kit.releases import ROOT, Patch, Release, read_toml

PINS = Path(__file__).parent / "extensions.toml"

# The local version of a patched PyG (PEP 440): `2.4.0+threadsafe.1`. The number
# goes up when the patches to PyG's library change after a release of the kit.
LOCAL_VERSION = "threadsafe.1"

# What one compiler needs, measured with torch 2.13.0 (CPU) and 2.14.1 (CUDA 13.0).
MEMORY_PER_JOB = {False: 3 * 2**30, True: 4 * 2**30}
DISK = 2 * 2**30  # bytes, for the temporary files of all builds

# Is told the package, what it is doing, and whether that is its last word.
Progress = Callable[[str, str, bool], None]


@dataclass(frozen=True)
class Extension:
    """A pinned extension; `extensions.toml` explains the fields."""

    name: str
    version: str
    torch: str
    archive: str | None = None
    sha256: str | None = None
    git: str | None = None
    commit: str | None = None

    @property
    def label(self) -> str:
        """Its name and version, for people."""
        return f"{self.name} {self.version}"

    @property
    def module(self) -> str:
        """The name it is imported by."""
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class Cuda:
    """What a CUDA build is made with and for.

    Attributes:
        home: The toolkit.
        version: The toolkit's, such as `13.0`.
        archs: Architectures in the form of TORCH_CUDA_ARCH_LIST, such as `9.0` or `8.0+PTX`.
        libraries: The folders of torch's nvidia wheels, which hold `include/` and `lib/`.
        cuobjdump: The program that shows what device code an object holds.
    """

    home: Path
    version: str
    archs: tuple[str, ...]
    libraries: tuple[Path, ...]
    cuobjdump: Path


@dataclass(frozen=True)
class Target:
    """What extensions are built for.

    Attributes:
        interpreter: Has the torch to build with.
        cuda: None for a CPU build.
    """

    interpreter: Interpreter
    cuda: Cuda | None

    @property
    def key(self) -> str:
        """What a wheel depends on besides its package: Python, platform, torch, CUDA, archs."""
        parts = [self.interpreter.tag, self.interpreter.platform, f"torch{self.interpreter.torch}"]
        if self.cuda is None:
            return "-".join([*parts, "cpu"])
        return "-".join([*parts, f"cuda{self.cuda.version}", *self.cuda.archs])


def pinned() -> dict[str, Extension]:
    """Reads `extensions.toml`: the extensions by name, the longest build first."""
    records = read_toml(PINS)["extension"]
    return {record["name"]: Extension(**record) for record in records}


def select(words: Sequence[str]) -> list[Extension]:
    """Returns the extensions that a command line names: `all` for those on PyPI, `none`.

    Raises:
        UsageError: If a name is unknown.
    """
    known = pinned()
    names: list[str] = []
    for word in words:
        if word not in (*known, "all", "none"):
            raise UsageError(
                f"There is no extension '{word}'. Expected some of: {', '.join(known)}; or 'all' "
                f"(those that PyPI has), or 'none'."
            )
        names += [e.name for e in known.values() if e.archive] if word == "all" else [word]
    return [extension for extension in known.values() if extension.name in names]


def check_fit(extensions: Sequence[Extension], torch: str) -> None:
    """Checks that extensions build with a version of torch.

    Raises:
        UsageError: If one does not.
    """
    for extension in extensions:
        if not SpecifierSet(extension.torch).contains(torch, prereleases=True):
            raise UsageError(
                f"{extension.label}, which is pinned, does not fit torch {torch}: it needs torch "
                f"{extension.torch}. Name another torch with --torch."
            )


def find_cuda(interpreter: Interpreter, archs: Sequence[str]) -> Cuda:
    """Finds the CUDA toolkit, and checks that it fits torch, before anything is compiled.

    Args:
        interpreter: Has the torch to build with.
        archs: Architectures to build for; none means those of the GPUs at hand.

    Raises:
        ToolError: If there is no toolkit, or its major version is not that of torch's build.
        UsageError: If no architecture is named, or one is malformed.
    """
    if interpreter.cuda is None:
        raise ToolError(
            f"torch {interpreter.torch} is a CPU build, and --cuda needs a CUDA build. Name one "
            f"with --torch VERSION, or, where pip's index has only CPU builds, the interpreter of "
            f"an environment that has one with --python PATH."
        )
    home, version = _find_toolkit()
    if version.split(".")[0] != interpreter.cuda.split(".")[0]:
        raise ToolError(
            f"The CUDA toolkit in {home} is {version}, and torch {interpreter.torch} is built with "
            f"CUDA {interpreter.cuda}: their major versions must be the same. Set CUDA_HOME to a "
            f"toolkit {interpreter.cuda.split('.')[0]}.x, or choose another torch with --torch."
        )
    archs = tuple(archs) or tuple(dict.fromkeys(interpreter.gpus))
    if not archs:
        raise UsageError(
            "No GPU was found, so its architecture must be named: --cuda-arch 9.0 (H100), "
            "8.0 (A100), 8.6, 8.9, ...; several as '8.0;9.0'."
        )
    for arch in archs:
        if not re.fullmatch(r"\d{1,2}\.\d[af]?(\+PTX)?", arch):
            raise UsageError(
                f"'{arch}' is not an architecture. Expected the form of TORCH_CUDA_ARCH_LIST: "
                f"9.0, 8.6+PTX, '8.0;9.0'."
            )
    packages = interpreter.site_packages
    libraries = tuple(sorted(p.parent for p in packages.glob("nvidia/*/include") if p.is_dir()))
    return Cuda(home, version, archs, libraries, _find_cuobjdump(home, packages))


def _find_toolkit() -> tuple[Path, str]:
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    # nvcc on PATH may be a wrapper that lies elsewhere; it says itself where its home is.
    for nvcc in [Path(home) / "bin" / "nvcc" for home in named] or [
        Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    ]:
        if not nvcc.exists():
            continue
        found = re.search(r"release (\d+\.\d+)", run([nvcc, "--version"]).stdout)
        here = re.search(
            r"^#\$ _HERE_=(.+)$", run([nvcc, "--dryrun", "-x", "cu", os.devnull]).stderr, re.M
        )
        if found and here:
            return Path(here[1]).parent, found[1]
    where = f"in {named[0]} (CUDA_HOME)" if named else "on PATH or in /usr/local/cuda"
    raise ToolError(
        f"No CUDA toolkit was found: expected nvcc {where}. Install one of the CUDA version of "
        f"your torch, or set CUDA_HOME to it."
    )


def _find_cuobjdump(home: Path, packages: Path) -> Path:
    candidates = [home / "bin" / "cuobjdump", Path(shutil.which("cuobjdump") or "/nowhere")]
    # Triton, which torch's CUDA builds install, brings its own.
    candidates += packages.glob("triton/backends/nvidia/bin/cuobjdump")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ToolError(
        "cuobjdump was not found, and without it nothing proves what a CUDA build holds. Expected "
        "it in the CUDA toolkit, on PATH, or with triton beside torch. Install the toolkit's."
    )


def build_extensions(
    extensions: Sequence[Extension],
    target: Target,
    cache: Path,
    progress: Progress,
    *,
    offline: bool = False,
    find_links: str | None = None,
) -> list[Path]:
    """Returns the wheels of extensions from the cache, building those that it lacks, side by side.

    Args:
        extensions: Which.
        target: What for.
        cache: The download cache, which holds wheels too.
        progress: Is told how it goes.
        offline: Whether to use the cache alone.
        find_links: A wheel index or directory to take from what PyPI does not have.

    Raises:
        ToolError: If this machine lacks what a build needs, or one fails.
        SourceError: If one is to be built offline.
        ProofError: If a CUDA build does not hold what was asked for.
    """
    folders = {e.name: _folder(cache, e.name, e.version, target) for e in extensions}
    missing = [e for e in extensions if not _cached(folders[e.name])]
    for extension in extensions:
        if extension not in missing:
            progress(extension.label, "from the cache", True)
    if missing and offline:
        raise SourceError(
            f"--offline was given, and the cache {cache} holds no wheel of {missing[0].label} "
            f"for {target.key}. Call this once without --offline."
        )
    if missing:
        jobs = _check_machine(target, cache)
        for extension in missing:
            progress(extension.label, "waiting", False)
        tasks = [
            functools.partial(_build_one, e, target, folders[e.name], find_links, progress)
            for e in missing
        ]
        _side_by_side(tasks, jobs)
    wheels = []
    for extension in extensions:
        wheel = _cached(folders[extension.name])
        assert wheel is not None
        wheels.append(wheel)
    return wheels


def _folder(cache: Path, name: str, version: str, target: Target) -> Path:
    return cache / "wheels" / f"{name}-{version}" / target.key


def _cached(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _check_machine(target: Target, cache: Path) -> int:
    """Returns how many compilers may run at once.

    Raises:
        ToolError: If there is no compiler, or too little memory or disk.
    """
    compiler = os.environ.get("CXX", "g++" if sys.platform != "darwin" else "clang++")
    if shutil.which(compiler.split()[0]) is None:
        raise ToolError(
            f"No C++ compiler: {compiler.split()[0]} was not found. On Debian and Ubuntu: apt "
            f"install g++. Or name one: CXX=clang++."
        )
    include = target.interpreter.include
    if not (include / "Python.h").exists():
        raise ToolError(
            f"The headers of Python are missing: expected {include / 'Python.h'}. On Debian and "
            f"Ubuntu: apt install python3-dev."
        )
    needed = MEMORY_PER_JOB[target.cuda is not None]
    available = psutil.virtual_memory().available
    if available < needed:
        raise ToolError(
            f"Too little memory: a compiler needs up to {needed / 2**30:.0f} GiB, and "
            f"{available / 2**30:.1f} GiB are free. Close something, or build on another machine: "
            f"the wheels can be copied."
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TreeError(
            f"The cache {cache} cannot be written ({error.strerror}). PYG_THREADSAFE_CACHE=DIR "
            f"names another one."
        ) from None
    for place in (Path(tempfile.gettempdir()), cache):
        free = shutil.disk_usage(place).free
        if free < DISK:
            raise ToolError(
                f"Too little disk space: the builds need {DISK / 2**30:.0f} GiB, and {place} has "
                f"{free / 2**30:.1f} GiB. TMPDIR and PYG_THREADSAFE_CACHE name other places."
            )
    return max(1, min(_cores(), int(available // needed)))


def _cores() -> int:
    # As few as this process may use, in a container say.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _side_by_side(tasks: Sequence[Callable[[threading.Event], None]], jobs: int) -> None:
    """Runs tasks in threads. Where one fails, or on Ctrl-C, the others are told to stop."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(task, stop) for task in tasks]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _build_one(
    extension: Extension,
    target: Target,
    folder: Path,
    find_links: str | None,
    progress: Progress,
    stop: threading.Event,
) -> None:
    label = extension.label
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    with lock:
        if _cached(folder):  # by another run, meanwhile
            progress(label, "from the cache", True)
            return
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder.parent) as name:
            made = Path(name) / "wheel"
            arguments = _what_to_build(extension, find_links, Path(name) / "requirements.txt")
            _pip_wheel(label, arguments, made, target, progress, stop)
            wheel = _cached(made)
            assert wheel is not None
            if target.cuda is not None and extension.archive:
                check_cuda_wheel(wheel, target.cuda)
            made.rename(folder)
        progress(label, f"built in {time.monotonic() - start:.0f} s", True)


def _what_to_build(
    extension: Extension, find_links: str | None, requirements: Path
) -> list[str | Path]:
    exact = f"{extension.name}=={extension.version}"
    if extension.archive:
        requirements.write_text(f"{exact} --hash=sha256:{extension.sha256}\n", encoding="utf-8")
        return ["--no-binary=:all:", "--require-hashes", "--requirement", requirements]
    if find_links:
        return ["--no-index", "--find-links", find_links, "--only-binary=:all:", exact]
    return [f"{extension.name} @ git+{extension.git}@{extension.commit}"]


def _pip_wheel(
    label: str,
    arguments: Sequence[str | Path],
    dest: Path,
    target: Target,
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Has pip build one wheel into a directory, with the torch of the target.

    pip's own cache is off: it takes a CPU build for a CUDA build, and the build for
    one torch for that of another.
    """
    log = ROOT / "build" / "logs" / f"{label.replace(' ', '-')}-{target.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [target.interpreter.path, "-m", "pip", "wheel", "--verbose"]
    command += ["--disable-pip-version-check", "--no-input", "--no-cache-dir", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", dest, *arguments]
    pattern = re.compile(r"\S*?(\w+\.(?:cpp|cu))(?=\s)")

    def watch(line: str) -> None:
        # A compiler's command line names its source file.
        if " -c " in line and (found := pattern.search(line)):
            progress(label, f"compiling {found[1]}", False)

    progress(label, "getting its source", False)
    code = run_logged(command, log, env=build_environment(target), watch=watch, stop=stop)
    if code != 0:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise ToolError(
            f"{label} could not be built. The end of the log {log}:\n\n{end}\n\nExpected a C++17 "
            f"compiler that torch {target.interpreter.torch} supports, and PyPI to answer. Name "
            f"another compiler with CXX, check the network, or leave it out with --extensions."
        )


def build_environment(target: Target) -> dict[str, str]:
    """The variables that the extensions' `setup.py` files and torch's build tools read."""
    # One compiler a package; the packages are built side by side.
    variables = {"MAX_JOBS": "1", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    if target.cuda is None:
        # Not even where a GPU is at hand.
        return {**variables, "FORCE_ONLY_CPU": "1", "FORCE_CUDA": "0", "FORCE_ONLY_CUDA": "0"}
    includes = [str(folder / "include") for folder in target.cuda.libraries]
    libraries = [str(folder / "lib") for folder in target.cuda.libraries]
    return {
        **variables,
        "FORCE_CUDA": "1",
        # The objects built for CUDA hold the code for CPUs too, and are the ones that
        # get loaded: a second set of objects without CUDA would never be used.
        "FORCE_ONLY_CUDA": "1",
        "CUDA_HOME": str(target.cuda.home),
        "TORCH_CUDA_ARCH_LIST": ";".join(target.cuda.archs),
        # Behind the toolkit's own: these are for what the toolkit lacks.
        "CPATH": os.pathsep.join([*_inherited("CPATH"), *includes]),
        "LIBRARY_PATH": os.pathsep.join([*_inherited("LIBRARY_PATH"), *libraries]),
    }


def _inherited(name: str) -> list[str]:
    return [os.environ[name]] if os.environ.get(name) else []


def check_cuda_wheel(wheel: Path, cuda: Cuda) -> str:
    """Proves that a wheel is a CUDA build for every architecture asked for.

    Returns:
        What was found, in words.

    Raises:
        ProofError: If no object holds device code, or one that does lacks an architecture or does
            not link against the CUDA runtime.
    """
    wanted = {f"sm_{arch.split('+')[0].replace('.', '')}" for arch in cuda.archs}
    wanted |= {
        f"compute_{arch.split('+')[0].replace('.', '')}" for arch in cuda.archs if "+" in arch
    }
    with_code = 0
    with tempfile.TemporaryDirectory(prefix="pyg-threadsafe-") as name:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if member.endswith(".so")]
            archive.extractall(name, members)
        for member in members:
            path = Path(name) / member
            found = _device_code(path, cuda.cuobjdump)
            if not found:
                # It holds code for CPUs alone, and then the linker drops the CUDA runtime.
                continue
            with_code += 1
            if not wanted <= found:
                raise ProofError(
                    f"{member} of {wheel.name} holds device code for {', '.join(sorted(found))}: "
                    f"expected {', '.join(sorted(wanted))}."
                )
            needed = re.findall(
                r"\(NEEDED\).*\[(.*)\]", run(["readelf", "--dynamic", "--wide", path]).stdout
            )
            if not any(library.startswith("libcudart.so") for library in needed):
                raise ProofError(
                    f"{member} of {wheel.name} does not link against the CUDA runtime: expected "
                    f"libcudart among {', '.join(needed) or 'nothing'}."
                )
    if not with_code:
        raise ProofError(f"No object of {wheel.name} holds device code. Expected some.")
    return (
        f"{with_code} of {len(members)} objects hold device code, each for "
        f"{', '.join(sorted(wanted))}, and link against the CUDA runtime"
    )


def _device_code(path: Path, cuobjdump: Path) -> set[str]:
    found: set[str] = set()
    for option, kind in (("--list-elf", "sm"), ("--list-ptx", "compute")):
        listed = run([cuobjdump, option, path]).stdout
        archs = re.findall(r"\.sm_(\d+[af]?)\.(?:cubin|ptx)", listed)
        found |= {f"{kind}_{arch}" for arch in archs}
    return found


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
    command: list[str | Path] = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--no-build-isolation", "--ignore-requires-python", "--wheel-dir", work, tree]
    result = run(command, env=_SAME_BYTES)
    wheel = _cached(work)
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
        result = run([sys.executable, "-m", "wheel", *arguments], env=_SAME_BYTES)
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
    made = _cached(work / "packed")
    assert made is not None
    patching.replace(dest / made.name, made.read_bytes())
    return dest / made.name


def check_installed(
    wheels: Sequence[Path], modules: Sequence[str], target: Target, directory: Path
) -> Path:
    """Installs wheels into a fresh environment, beside the torch they are for, and imports them.

    Args:
        wheels: What to install.
        modules: What to import.
        target: What they were built for.
        directory: Where to make the environment.

    Returns:
        Its interpreter.

    Raises:
        ToolError: If they do not install.
        ProofError: If a module cannot be imported.
    """
    python = environments.with_wheels(target.interpreter, wheels, directory)
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    result = run([python, "-c", program, *modules])
    if result.returncode != 0:
        raise ProofError(
            f"The wheels install, and cannot be imported: {last_lines(result.stderr)} Please "
            f"report this, with the logs in build/logs."
        )
    return python


def copy(wheels: Sequence[Path], dest: Path) -> list[Path]:
    """Copies wheels into a directory, each in one step."""
    for wheel in wheels:
        patching.replace(dest / wheel.name, wheel.read_bytes())
    return [dest / wheel.name for wheel in wheels]


def pip_line(wheels: Sequence[Path], interpreter: Interpreter, dest: Path) -> str:
    """Returns the one command that installs wheels into a fresh environment."""
    only_these = set(dest.glob("*.whl")) == {dest / wheel.name for wheel in wheels}
    files = [dest / "*.whl"] if only_these else [dest / wheel.name for wheel in wheels]
    paths = [str(file) if "/" in str(file) else f"./{file}" for file in files]
    torch = interpreter.torch.split("+")[0]
    return "pip install " + " ".join(
        [f"torch=={torch}", *map(shlex.quote, environments.of_its_time(torch)), *paths]
    )
