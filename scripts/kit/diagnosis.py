"""What `doctor` finds out: which PyG there is, what races in it, and what to do."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import applying, installations, patching, places, receipts, transactions
from kit.errors import KitError
from kit.installations import Interpreter
from kit.patching import State
from kit.receipts import Receipt
from kit.releases import Catalogue, Patch, Release


@dataclass(frozen=True)
class Diagnosis:
    """How a PyG stands.

    Attributes:
        tree: The directory that holds it.
        interpreter: Who imports it; None where nobody was asked.
        release: The release, by content; None where that cannot be told.
        layers: `patched`, `not patched` or `fixed`, by the name of the class.
        unpatched: The series that are to be applied.
        receipt: What the kit has written there, if it has.
        faults: What is wrong besides.
        commands: What to call, from any directory.
    """

    tree: Path
    interpreter: Interpreter | None
    release: Release | None
    layers: Mapping[str, str]
    unpatched: Sequence[str]
    receipt: Receipt | None
    faults: Sequence[str]
    commands: Sequence[str]

    @property
    def is_well(self) -> bool:
        """Whether all that the kit patches in this release is patched."""
        return self.release is not None and not self.unpatched and not self.faults

    def as_data(self) -> dict[str, Any]:
        """The same for a program."""
        interpreter = self.interpreter
        return {
            "patched": self.is_well,
            "tree": str(self.tree),
            "release": self.release.version if self.release else None,
            "python": interpreter.version if interpreter else None,
            "interpreter": str(interpreter.path) if interpreter else None,
            "torch": interpreter.torch if interpreter else None,
            "extensions": dict(interpreter.extensions) if interpreter else None,
            "others": [str(place) for place in interpreter.others] if interpreter else [],
            "layers": dict(self.layers),
            "unpatched": list(self.unpatched),
            "receipt": (
                {"changed": self.receipt.changed, "kit": self.receipt.kit} if self.receipt else None
            ),
            "faults": list(self.faults),
            "commands": list(self.commands),
        }


def examine(
    catalogue: Catalogue, tree: Path | None, python: Path | None, version: str | None = None
) -> Diagnosis:
    """Looks at a tree, or at the PyG that an interpreter imports. Nothing is changed.

    Args:
        catalogue: The pinned releases.
        tree: The tree; None for that of the interpreter.
        python: The interpreter, where there is no tree.
        version: The release, where the content does not tell two apart.

    Raises:
        KitError: If there is no PyG at all, or the interpreter does not run.
    """
    interpreter = None
    if tree is None:
        assert python is not None
        interpreter = installations.describe(python, load=True)
        tree = interpreter.tree
    target = ["--tree", str(tree.absolute())]
    if interpreter is not None and not installations.is_installation(tree):
        # Sources, which are to get no tests. The interpreter is not resolved: that of an
        # environment is a link to another one.
        target = ["--installed", "--python", str(interpreter.path)]
    with transactions.locked(tree, shared=True):
        return _examine(catalogue, tree, interpreter, version, target)


def _examine(
    catalogue: Catalogue,
    tree: Path,
    interpreter: Interpreter | None,
    version: str | None,
    target: Sequence[str],
) -> Diagnosis:
    release: Release | None = None
    unpatched: list[str] = []
    faults: list[str] = []
    layers: dict[str, str] = {}
    receipt: Receipt | None = None
    command = shlex.join([*places.door("apply"), *([version] if version else [])])
    command = f"{command} {shlex.join(target)}"
    if transactions.is_cut_off(tree):
        faults.append("A run of apply was cut off there. Call it again: it puts that right first.")
    else:
        try:
            receipt = receipts.read(installations.receipt_file(tree))
            release = applying.find_release(tree, catalogue, version)
            unpatched, layers = _stand(tree, release, catalogue)
            stale = installations.stale_bytecode(tree, _library(release))
            if stale and not unpatched:
                faults.append(
                    f"{stale[0]} holds the code of before, and Python runs it without a look at "
                    f"the source."
                )
        except KitError as error:
            return Diagnosis(tree, interpreter, release, {}, [], receipt, [str(error)], [])
    commands = [command] if unpatched or faults else []
    return Diagnosis(tree, interpreter, release, layers, unpatched, receipt, faults, commands)


def _library(release: Release) -> list[Patch]:
    return [patch for patch in release.patches if patch.is_for_library]


def _stand(tree: Path, release: Release, catalogue: Catalogue) -> tuple[list[str], dict[str, str]]:
    """The series that are not applied, and the state of each layer."""
    states: dict[str, bool] = {}
    for step in patching.plan(tree, _library(release)):
        series = step.patch.series
        states[series] = states.get(series, True) and step.state is State.PATCHED
    layers = {}
    for layer, status in release.status.items():
        needs = [layer, *catalogue.requires.get(layer, ())]
        is_patched = all(states.get(series, True) for series in needs)
        state = "patched" if is_patched else "not patched"
        layers[catalogue.classes[layer]] = state if status == "affected" else "fixed"
    return [series for series, is_patched in states.items() if not is_patched], layers
