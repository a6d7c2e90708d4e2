"""Finds the writes to `self` that a forward pass can reach, and classes them.

Nothing is imported or run: the analysis reads the syntax trees alone. A thread that
shares a layer with another one can see whatever such a write leaves behind.

`classes` reads files. `expressions` and `statements` look at one method and note what it does
to `self`. `reach` takes a class with the methods of all its bases, and walks from `forward`
along the references. `kinds` gives a reached write its kind.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kit import releases
from kit.audit.classes import Program
from kit.audit.kinds import REVIEWED, Kind, Write, load_reviewed
from kit.audit.reach import ENTRIES, Scanner, View
from kit.errors import TreeError


def audit_tree(root: Path, package: str = "torch_geometric/nn") -> list[Write]:
    """Audits the modules of PyG.

    Args:
        root: The directory that holds `torch_geometric/`.
        package: The part of it to audit.

    Raises:
        TreeError: If there is no PyG, or a file of it does not parse.
    """
    files = sorted((root / package).rglob("*.py"))
    if not files:
        raise TreeError(f"{root / package} holds no Python files: expected a part of PyG there.")
    return audit_files(root, files)


def audit_files(
    root: Path | None, files: Iterable[Path], entries: Sequence[str] = ENTRIES
) -> list[Write]:
    """Audits the modules in some files, such as a user's own models.

    Args:
        root: The directory that holds `torch_geometric/`, where bases are looked up; None where
            there is no PyG.
        files: What to audit.
        entries: The methods that are called from outside.

    Raises:
        TreeError: If there is no PyG, or a file does not parse.
    """
    if root is not None and not (root / releases.VERSION_FILE).is_file():
        raise TreeError(
            f"{root} holds no PyG: expected a directory with {releases.VERSION_FILE} in it, "
            f"such as a checkout, an unpacked sdist, or site-packages."
        )
    program = Program(root)
    scanner = Scanner(program)
    modules = [program.add(file) for file in files]
    worst: dict[tuple[str, str, str, int], Write] = {}
    reviewed = {(entry.cls, entry.attribute): entry for entry in load_reviewed()}
    order = list(Kind)
    for cls in (cls for module in modules for cls in module.classes):
        mro = program.mro(cls)
        if not program.is_module(mro):
            continue
        for write in View(scanner, mro, entries).writes():
            entry = reviewed.get((write.cls, write.attribute), reviewed.get((write.cls, "*")))
            if entry and write.module.startswith("torch_geometric."):
                reason = REVIEWED + entry.reason
                write = replace(write, kind=entry.kind, reason=reason)
            key = (write.file, write.cls, write.attribute, write.line)
            other = worst.get(key, write)
            reads = tuple(sorted({*write.reads, *other.reads}))
            chosen = min(other, write, key=lambda w: order.index(w.kind))
            worst[key] = replace(chosen, reads=reads)
    audited = {module.file for module in modules}
    return [write for _, write in sorted(worst.items()) if write.file in audited]
