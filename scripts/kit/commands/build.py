"""`build`: build wheels of a patched PyG and of the extensions that it uses."""

import re
from dataclasses import dataclass
from pathlib import Path

import click
from rich.text import Text

from kit import environments, proving, releases, sources
from kit.building import cuda as toolkit
from kit.building import extensions as built
from kit.building import wheels
from kit.building.cuda import Target
from kit.building.extensions import Extension
from kit.console import (
    EXIT_CODES,
    build_progress,
    out,
    progress,
    show_proof,
    source_of,
    source_options,
    torch_options,
)
from kit.errors import ProofError, UsageError, shown
from kit.proving import Proof
from kit.releases import Catalogue, Release


@click.command(epilog=EXIT_CODES)
@click.argument("version", metavar="PYG-VERSION")
@click.option(
    "--cpu/--cuda",
    "cpu",
    default=None,
    help="Which build.  [default: --cuda where torch sees a GPU, else --cpu]",
)
@click.option(
    "--cuda-arch",
    "archs",
    default="",
    metavar="LIST",
    help="GPU architectures, such as '8.0;9.0'.  [default: those of the GPUs here]",
)
@click.option(
    "--extensions",
    default="all",
    show_default=True,
    metavar="LIST",
    help="Of torch-scatter, torch-sparse, torch-cluster, torch-spline-conv and pyg-lib those "
    "to build, with commas between; 'all' (but pyg-lib), or 'none'.",
)
@click.option(
    "--find-links",
    metavar="LOCATION",
    help="Take pyg-lib from this wheel index or directory instead of building it from git.",
)
@click.option(
    "--out",
    "dest",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where to put the wheels.  [default: build/wheels-VERSION-TORCH-BUILD]",
)
@torch_options
@source_options
def build(
    version: str,
    cpu: bool | None,
    archs: str,
    extensions: str,
    find_links: str | None,
    dest: Path | None,
    torch: str,
    python: Path | None,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Build wheels of a patched PyG and of the extensions it uses.

    The wheels are installed into a fresh environment and imported; those for CUDA
    are searched for device code of every architecture. With a GPU at hand, the
    threaded tests run on it too.
    """
    catalogue = releases.load()
    release = catalogue.find(version)
    chosen = built.select(extensions.replace(",", " ").split())
    if python is None:
        built.check_fit(chosen, torch)  # before anything is installed
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        if python is None:
            python = environments.ensure(torch, environments.current_python(), notify)
        target = _target(python.absolute(), cpu, re.findall(r"[^;,\s]+", archs))
        built.check_fit(chosen, target.interpreter.torch)
        dest = dest or releases.ROOT / "build" / wheels.folder_name(release, target)
        result = _build(release, catalogue, chosen, target, source, dest, find_links)
    _show(result, target, dest, catalogue)


def _target(python: Path, cpu: bool | None, archs: list[str]) -> Target:
    interpreter = environments.describe(python, with_torch=True)
    if cpu is None:
        cpu = not interpreter.gpus
    if cpu and archs:
        raise UsageError("--cuda-arch goes with --cuda.")
    return Target(interpreter, None if cpu else toolkit.find_cuda(interpreter, archs))


@dataclass(frozen=True)
class _Result:
    """What was built: the wheels, PyG's first; what was imported; the proof on a GPU."""

    wheels: list[Path]
    modules: list[str]
    proof: Proof | None


def _build(
    release: Release,
    catalogue: Catalogue,
    chosen: list[Extension],
    target: Target,
    source: sources.Source,
    dest: Path,
    find_links: str | None,
) -> _Result:
    with build_progress() as update:
        compiled = built.build_extensions(
            chosen, target, source.cache, update, offline=source.offline, find_links=find_links
        )
        update(f"PyG {release.version}", "building", False)
        made = [
            wheels.build_pyg(release, release.patches, source, dest),
            *wheels.copy(compiled, dest),
        ]
        update(f"PyG {release.version}", "built", True)
    modules = ["torch_geometric", *(extension.module for extension in chosen)]
    source.notify("Installing the wheels into a fresh environment ...")
    proof = None
    with wheels.installed(made, modules, target) as python:
        if target.cuda is not None and target.interpreter.gpus:
            proof = proving.prove(release, catalogue, source, python, source.notify, device="cuda")
    return _Result(made, modules, proof)


def _show(result: _Result, target: Target, dest: Path, catalogue: Catalogue) -> None:
    interpreter = target.interpreter
    versions = f"torch {interpreter.torch}, Python {interpreter.version}"
    out.print(Text.assemble((str(shown(dest)), "bold"), f": for {versions}"))
    for wheel in result.wheels:
        out.print(Text(f"  {wheel.name}  {wheel.stat().st_size / 1e6:.1f} MB"))
        if target.cuda is not None and wheel != result.wheels[0]:
            out.print(Text(f"    {toolkit.check_cuda_wheel(wheel, target.cuda)}", style="dim"))
    out.print(f"Installed and imported: {', '.join(result.modules)}.")
    if result.proof is not None:
        show_proof(result.proof, catalogue)
    elif target.cuda is not None:
        out.print("No GPU is at hand, so the threaded tests did not run on one.")
    out.print("Next:")
    out.print(Text(f"  {wheels.pip_line(result.wheels, interpreter, shown(dest))}"))
    if result.proof is not None and result.proof.problems():
        raise ProofError(" ".join(result.proof.problems()))
