"""CUDA toolkits that are found or refused, and wheels that are searched for device code."""

import dataclasses
import os
import zipfile
from pathlib import Path

import pytest
from kit.building import cuda as builds
from kit.building.cuda import Cuda, Target
from kit.environments import Interpreter
from kit.errors import KitError, ProofError, ToolError, UsageError

from .conftest import INTERPRETER, TARGET, script


def make_toolkit(home: Path, version: str = "13.0") -> Path:
    script(
        home / "bin" / "nvcc",
        f"""\
        if [ "$1" = --version ]; then echo "Cuda compilation tools, release {version}, V{version}"
        else echo '#$ _HERE_={home}/bin' >&2; fi
        """,
    )
    script(home / "bin" / "cuobjdump", 'grep "${1#--list-}" "$2"\n')
    return home


CUDA_TORCH = dataclasses.replace(INTERPRETER, torch="2.14.1+cu130", cuda="13.0")


def test_cuda_is_found_behind_a_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_toolkit(tmp_path / "cuda-13.0")
    script(tmp_path / "bin" / "nvcc", f'exec {home}/bin/nvcc "$@"\n')
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "packages" / "nvidia" / "cu13" / "include").mkdir(parents=True)
    torch = dataclasses.replace(CUDA_TORCH, site_packages=tmp_path / "packages", gpus=("9.0",) * 2)
    cuda = builds.find_cuda(torch, [])
    assert (cuda.home, cuda.version, cuda.archs) == (home, "13.0", ("9.0",))
    assert cuda.libraries == (tmp_path / "packages" / "nvidia" / "cu13",)
    variables = builds.variables(Target(torch, cuda))
    assert variables["FORCE_CUDA"] == "1"
    assert variables["TORCH_CUDA_ARCH_LIST"] == "9.0"
    assert variables["CPATH"].endswith("nvidia/cu13/include")


def test_a_cpu_build_is_one_where_a_gpu_is_at_hand() -> None:
    variables = builds.variables(TARGET)
    assert (variables["FORCE_ONLY_CPU"], variables["FORCE_CUDA"]) == ("1", "0")


@pytest.mark.parametrize(
    "archs, variable, gpus, expected",
    [
        ([], "8.0;9.0+PTX", ("7.5",), ("8.0", "9.0+PTX")),
        ([], "8.0 8.6", (), ("8.0", "8.6")),
        (["9.0"], "8.0", (), ("9.0",)),
        ([], "native", ("7.5", "7.5"), ("7.5",)),
        (["Hopper"], "", (), ("9.0+PTX",)),
        ([], "Volta;Ampere", (), ("7.0+PTX", "8.0", "8.6+PTX")),
    ],
)
def test_architectures_as_pytorch_means_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    archs: list[str],
    variable: str,
    gpus: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    home = make_toolkit(tmp_path / "cuda")
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", variable)
    # The flags that torch makes of its names.
    flags = {
        "Hopper": "-gencode=arch=compute_90,code=sm_90 -gencode=arch=compute_90,code=compute_90",
        "Volta": "-gencode=arch=compute_70,code=sm_70 -gencode=arch=compute_70,code=compute_70",
        "Ampere": "-gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_86,code=sm_86 "
        "-gencode=arch=compute_86,code=compute_86",
    }
    cases = "".join(f"{name}) echo '{line} .';;\n" for name, line in flags.items())
    python = script(
        tmp_path / "python", f'case "$TORCH_CUDA_ARCH_LIST" in\n{cases}*) exit 1;; esac'
    )
    torch = dataclasses.replace(CUDA_TORCH, path=python, gpus=gpus)
    assert builds.find_cuda(torch, archs).archs == expected


@pytest.mark.parametrize(
    "torch, toolkit, archs, error, said",
    [
        (INTERPRETER, "13.0", ["9.0"], ToolError, "torch 2.13.0[+]cpu is a CPU build"),
        (CUDA_TORCH, None, ["9.0"], ToolError, "No CUDA toolkit was found: expected nvcc in"),
        (CUDA_TORCH, "12.4", ["9.0"], ToolError, "is 12.4, and torch 2.14.1.cu130 is built with"),
        (CUDA_TORCH, "13.0", [], UsageError, "No GPU was found, so its architecture must be named"),
        (CUDA_TORCH, "13.0", ["sm_90"], UsageError, "'sm_90' is not an architecture"),
        (CUDA_TORCH, "13.0", ["Grasshopper"], UsageError, "'Grasshopper' is not an architecture"),
    ],
)
def test_cuda_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    torch: Interpreter,
    toolkit: str | None,
    archs: list[str],
    error: type[KitError],
    said: str,
) -> None:
    if toolkit is not None:
        make_toolkit(tmp_path / "cuda", toolkit)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    with pytest.raises(error, match=said):
        builds.find_cuda(torch, archs)


@pytest.mark.parametrize(
    "objects, archs, said",
    [
        ({"a": "elf sm_90", "b": ""}, ["9.0"], None),
        ({"a": "elf sm_80 sm_90"}, ["8.0", "9.0"], None),
        ({"a": "elf sm_80"}, ["8.0", "9.0"], "holds device code for sm_80: expected sm_80, sm_90"),
        ({"a": "elf sm_90"}, ["9.0+PTX"], "expected compute_90, sm_90"),
        ({"a": "elf sm_90\nptx sm_90"}, ["9.0+PTX"], None),
        ({"a": "", "b": ""}, ["9.0"], "No object of .* holds device code"),
        ({"a": "elf sm_90 static"}, ["9.0"], "does not link against the CUDA runtime"),
    ],
)
def test_check_cuda_wheel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objects: dict[str, str],
    archs: list[str],
    said: str | None,
) -> None:
    home = make_toolkit(tmp_path / "cuda")
    # Objects are lists here of what cuobjdump and readelf would show.
    script(
        tmp_path / "bin" / "readelf",
        'grep -q static "$3" || echo "(NEEDED) Shared library: [libcudart.so.13]"\n',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, listed in objects.items():
            lines = [
                f"{line.split()[0]} file 1: x.{word}.{'cubin' if line[0] == 'e' else 'ptx'} {line}"
                for line in listed.splitlines()
                for word in line.split()[1:]
            ]
            archive.writestr(f"tiny/_{name}_cuda.so", "\n".join(lines))
        archive.writestr("tiny/__init__.py", "")
    cuda = Cuda(home, "13.0", tuple(archs), (), home / "bin" / "cuobjdump")
    if said is None:
        assert f"1 of {len(objects)} objects hold device code" in builds.check_cuda_wheel(
            wheel, cuda
        )
    else:
        with pytest.raises(ProofError, match=said):
            builds.check_cuda_wheel(wheel, cuda)


def test_a_toolkit_without_cuobjdump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then triton's is taken, which is beside torch; and without one there is no proof."""
    home = make_toolkit(tmp_path / "cuda")
    (home / "bin" / "cuobjdump").unlink()
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setenv("PATH", os.defpath)
    packages = tmp_path / "packages"
    torch = dataclasses.replace(CUDA_TORCH, site_packages=packages)
    with pytest.raises(ToolError, match="cuobjdump was not found, and without it nothing proves"):
        builds.find_cuda(torch, ["9.0"])
    of_triton = script(packages / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump", "")
    assert builds.find_cuda(torch, ["9.0"]).cuobjdump == of_triton
