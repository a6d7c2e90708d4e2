"""`build`: build wheels of a patched PyG and of the extensions that it uses."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource
from rich.text import Text

from kit import environments, places, proving, releases, sources
from kit.building import cuda as toolkit
from kit.building import extensions as built
from kit.building import machine, portability, prebuilt, wheels
from kit.building.cuda import Target
from kit.building.extensions import Extension
from kit.console import (
    build_progress,
    find_links_option,
    help_of,
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


@click.command(
    **help_of(
        "Build wheels of a patched PyG and of the extensions it uses. They are installed into "
        "a fresh environment, and imported.",
        "kit.sh build 2.3.1 --extensions none                  # PyG alone",
        "kit.sh build 2.3.1 --cuda --cuda-arch '8.0;9.0' --torch 2.14.1",
        exits="1 a wheel is not right; 3 no download; 5 no compiler",
    )
)
@click.argument("version", metavar="PYG-VERSION")
@click.option(
    "--extensions",
    default="all",
    metavar="LIST",
    help="Names, 'none', or 'all' (but pyg-lib).",
)
@find_links_option
@click.option(
    "--cpu/--cuda",
    "cpu",
    default=None,
    help="[default: --cuda where torch sees a GPU, or FORCE_CUDA=1]",
)
@click.option(
    "--cuda-arch",
    "archs",
    default="",
    metavar="LIST",
    help="Architectures: '8.0;9.0', Hopper.  [default: the GPUs here]",
)
@click.option(
    "--out",
    "dest",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the wheels go.  [default: build/wheels-*]",
)
@torch_options
@source_options
@click.pass_context
def build(
    context: click.Context,
    version: str,
    extensions: str,
    find_links: str | None,
    cpu: bool | None,
    archs: str,
    dest: Path | None,
    torch: str,
    python: Path | None,
    kind: str,
    git_url: str,
    offline: bool,
) -> None:
    """Builds wheels of a patched PyG and of the extensions it uses."""
    catalogue = releases.load()
    release = catalogue.find(version)
    chosen = built.select(extensions.replace(",", " ").split())
    if python is None:
        built.fit(chosen, torch)  # before anything is installed
    # PyG itself is the same for each torch: one that is not named is not installed for it.
    needs_torch = bool(chosen or python or archs or cpu is not None) or (
        context.get_parameter_source("torch") is not ParameterSource.DEFAULT
    )
    with progress() as notify:
        source = source_of(kind, git_url, offline, notify)
        if not needs_torch:
            target = Target(environments.describe(Path(sys.executable)), None)
        else:
            shared = python or environments.ensure(torch, environments.current_python(), notify)
            target = _target(shared.absolute(), cpu, re.findall(r"[^;,\s]+", archs))
            chosen = built.fit(chosen, target.interpreter.torch)
        dest = dest or places.build_folder() / wheels.folder_name(release, target)
        result = _build(release, catalogue, chosen, target, source, dest, find_links)
    _show(result, target, dest, catalogue, keeps_torch=python is not None)


def _target(python: Path, cpu: bool | None, archs: list[str]) -> Target:
    interpreter = environments.describe(python, with_torch=True)
    if cpu is None:
        cpu = not (interpreter.gpus or toolkit.is_forced())
    if cpu and archs:
        raise UsageError("--cuda-arch goes with --cuda.")
    return Target(interpreter, None if cpu else toolkit.find_cuda(interpreter, archs))


@dataclass(frozen=True)
class _Result:
    """What was built.

    Attributes:
        wheels: PyG's first.
        prebuilt: The names of those that were not built here.
        modules: What was imported.
        proof: That of the threaded tests on a GPU.
    """

    wheels: list[Path]
    prebuilt: set[str]
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
    wanted = ["torch_scatter", "torch_sparse"] if release.needs_extensions and not chosen else []
    if not target.interpreter.torch or machine.find_missing(target.interpreter, wanted):
        modules = []
    source.notify("Installing the wheels into a fresh environment ...")
    proof = None
    with wheels.installed(made, modules, target) as python:
        if target.cuda is not None and target.interpreter.gpus:
            proof = proving.prove(release, catalogue, source, python, source.notify, device="cuda")
    taken = {wheel.name for wheel in compiled if prebuilt.is_prebuilt(wheel)}
    return _Result(made, taken, modules, proof)


def _show(
    result: _Result, target: Target, dest: Path, catalogue: Catalogue, *, keeps_torch: bool
) -> None:
    interpreter = target.interpreter
    alone = len(result.wheels) == 1
    fits = f"torch {interpreter.torch}, Python {interpreter.version}"
    if alone:
        fits = "each torch and Python that this release runs on"
    out.print(Text.assemble((str(shown(dest)), "bold"), f": for {fits}"))
    for wheel in result.wheels:
        origin = "  prebuilt" if wheel.name in result.prebuilt else ""
        out.print(Text(f"  {wheel.name}  {wheel.stat().st_size / 1e6:.1f} MB{origin}"))
        if target.cuda is not None and wheel != result.wheels[0]:
            out.print(Text(f"    {toolkit.check_cuda_wheel(wheel, target.cuda)}", style="dim"))
        if needs := portability.needs(wheel):
            out.print(Text(f"    {needs}", style="dim"))
    if not alone and target.cuda is None and interpreter.cuda is not None:
        out.print(
            f"torch {interpreter.torch} is a build for CUDA, and what was built here is for CPUs "
            f"alone: --cuda builds for its GPUs."
        )
    if result.modules:
        out.print(f"Installed and imported: {', '.join(result.modules)}.")
    else:
        out.print(
            "Installed into a fresh environment, and not imported: that takes a torch, and up to "
            "PyG 2.2.0 torch-scatter and torch-sparse."
        )
    if result.proof is not None:
        show_proof(result.proof, catalogue)
    elif target.cuda is not None:
        out.print("No GPU is at hand, so the threaded tests did not run on one.")
    out.print("Next:")
    line = wheels.pip_line(result.wheels, interpreter, shown(dest), keeps_torch=keeps_torch)
    out.print(Text(f"  {line}"))
    if not alone and not keeps_torch:
        out.print(
            f"pip replaces any other torch by {interpreter.torch_pin}, which the extensions were "
            f"built for. --python PATH builds them for the torch of your environment instead."
        )
    if result.proof is not None and result.proof.problems():
        raise ProofError(" ".join(result.proof.problems()))
