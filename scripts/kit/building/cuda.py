"""What extensions are built for: an interpreter with a torch, and a CUDA toolkit."""

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.environments import Interpreter
from kit.errors import ProofError, ToolError, UsageError
from kit.processes import run


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


def find_cuda(interpreter: Interpreter, archs: Sequence[str]) -> Cuda:
    """Finds the CUDA toolkit, and checks that it fits torch, before anything is compiled.

    Args:
        interpreter: Has the torch to build with.
        archs: Architectures to build for, in numbers or by torch's names; none means those in
            TORCH_CUDA_ARCH_LIST, else those of the GPUs at hand.

    Raises:
        ToolError: If there is no toolkit, or its major version is not that of torch's build.
        UsageError: If no architecture is named, or one is malformed.
    """
    if interpreter.cuda is None:
        raise ToolError(
            f"torch {interpreter.torch} is a CPU build, and --cuda (or FORCE_CUDA=1) needs a CUDA "
            f"build. Name one with --torch VERSION, or, where pip's index has only CPU builds, the "
            f"interpreter of an environment that has one with --python PATH."
        )
    home, version = _find_toolkit()
    if version.split(".")[0] != interpreter.cuda.split(".")[0]:
        raise ToolError(
            f"The CUDA toolkit in {home} is {version}, and torch {interpreter.torch} is built with "
            f"CUDA {interpreter.cuda}: their major versions must be the same. Set CUDA_HOME to a "
            f"toolkit {interpreter.cuda.split('.')[0]}.x, or choose another torch with --torch."
        )
    archs = _architectures(interpreter, archs)
    packages = interpreter.site_packages
    libraries = tuple(sorted(p.parent for p in packages.glob("nvidia/*/include") if p.is_dir()))
    return Cuda(home, version, archs, libraries, _find_cuobjdump(home, packages))


def is_forced() -> bool:
    """Whether the user has the extensions built for CUDA where no GPU is at hand."""
    return os.environ.get("FORCE_CUDA") == "1"


def _architectures(interpreter: Interpreter, archs: Sequence[str]) -> tuple[str, ...]:
    """Returns what to build for, in numbers: what is named, or TORCH_CUDA_ARCH_LIST, or the GPUs.

    Raises:
        UsageError: If no architecture is named, or one is malformed.
    """
    archs = list(archs) or re.findall(r"[^;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    if not archs or archs == ["native"]:
        archs = list(interpreter.gpus)
    if not archs:
        raise UsageError(
            "No GPU was found, so its architecture must be named: --cuda-arch 9.0 (H100), "
            "8.0 (A100), 8.6, 8.9, Hopper, ...; several as '8.0;9.0'. TORCH_CUDA_ARCH_LIST "
            "does, too."
        )
    numbers: list[str] = []
    for arch in archs:
        if re.fullmatch(r"\d{1,2}\.\d[af]?(\+PTX)?", arch):
            numbers.append(arch)
        elif re.fullmatch(r"[A-Z][a-z]+(\+(PTX|Tesla|Tegra))?", arch):
            numbers += _numbers_of(interpreter, arch)
        else:
            raise _not_an_architecture(arch)
    return tuple(dict.fromkeys(numbers))


def _numbers_of(interpreter: Interpreter, name: str) -> list[str]:
    # torch has the list of names, a longer one in each version.
    program = (
        "from torch.utils import cpp_extension; print(*cpp_extension._get_cuda_arch_flags(), '.')"
    )
    result = run([interpreter.path, "-c", program], env={"TORCH_CUDA_ARCH_LIST": name})
    flags = result.stdout
    if result.returncode != 0 or not (held := re.findall(r"code=sm_(\d+)(\d[af]?)", flags)):
        raise _not_an_architecture(name)
    ptx = set(re.findall(r"code=compute_(\d+)(\d[af]?)", flags))
    return [f"{major}.{minor}{'+PTX' * ((major, minor) in ptx)}" for major, minor in held]


def _not_an_architecture(arch: str) -> UsageError:
    return UsageError(
        f"'{arch}' is not an architecture. Expected the form of TORCH_CUDA_ARCH_LIST: "
        f"9.0, 8.6+PTX, '8.0;9.0', or a name that this torch knows, such as Hopper."
    )


def _find_toolkit() -> tuple[Path, str]:
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)][:1]
    # nvcc on PATH may be a wrapper that lies elsewhere; it says itself where its home is.
    for nvcc in [Path(home) / "bin" / "nvcc" for home in named] or [
        Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    ]:
        if not nvcc.exists():
            continue
        release = re.search(r"release (\d+\.\d+)", run([nvcc, "--version"]).stdout)
        here = re.search(
            r"^#\$ _HERE_=(.+)$", run([nvcc, "--dryrun", "-x", "cu", os.devnull]).stderr, re.M
        )
        if release and here:
            return Path(here[1]).parent, release[1]
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


def variables(target: Target) -> dict[str, str]:
    """The variables that the extensions' `setup.py` files and torch's build tools read."""
    # One compiler a package; the packages are built side by side.
    settings = {"MAX_JOBS": "1", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}
    if target.cuda is None:
        # Not even where a GPU is at hand.
        return {**settings, "FORCE_ONLY_CPU": "1", "FORCE_CUDA": "0", "FORCE_ONLY_CUDA": "0"}
    includes = [str(folder / "include") for folder in target.cuda.libraries]
    libraries = [str(folder / "lib") for folder in target.cuda.libraries]
    return {
        **settings,
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
            held = _device_code(path, cuda.cuobjdump)
            if not held:
                # It holds code for CPUs alone, and then the linker drops the CUDA runtime.
                continue
            with_code += 1
            if not wanted <= held:
                raise ProofError(
                    f"{member} of {wheel.name} holds device code for {', '.join(sorted(held))}: "
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
    held: set[str] = set()
    for option, kind in (("--list-elf", "sm"), ("--list-ptx", "compute")):
        listed = run([cuobjdump, option, path]).stdout
        archs = re.findall(r"\.sm_(\d+[af]?)\.(?:cubin|ptx)", listed)
        held |= {f"{kind}_{arch}" for arch in archs}
    return held
