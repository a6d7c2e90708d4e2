"""The installed PyG: where it is, what belongs to it, and the books that it keeps of itself."""

import contextlib
import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import patching, places, receipts
from kit.errors import ToolError, TreeError
from kit.patching import blob_of
from kit.processes import last_lines, run
from kit.receipts import Original, Receipt
from kit.releases import NO_BLOB, ROOT, VERSION_FILE, Change, Patch, Release
from kit.transactions import Wanted

_PROGRAM = Path(__file__).parent / "programs" / "installed.py"

# How long an interpreter may take for an answer, in seconds: torch is slow on a cold disk.
_TIMEOUT = 300.0

# What only source trees have, beside the package.
_MARKS_OF_SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", ".git", "test")

_INFO = re.compile(r"(torch[-_.]geometric|pyg[-_.]nightly)-.+\.(dist|egg)-info", re.IGNORECASE)


@dataclass(frozen=True)
class Interpreter:
    """An interpreter, and the PyG that it imports.

    Attributes:
        path: The interpreter, as it was named.
        version: Its version.
        tree: The directory that holds the PyG.
        others: Other directories on its path that hold a PyG, which it does not import.
        torch: The version of its torch; "" where there is none, or nobody asked.
        extensions: The same of torch-scatter and its like.
    """

    path: Path
    version: str
    tree: Path
    others: tuple[Path, ...]
    torch: str
    extensions: Mapping[str, str]


def describe(python: Path, *, load: bool = False) -> Interpreter:
    """Asks an interpreter for its PyG, which is not imported.

    Args:
        python: The interpreter.
        load: Whether to import torch and the extensions, too.

    Raises:
        ToolError: If it does not run.
        TreeError: If it has no PyG, or none in plain files.
    """
    result = run([python, _PROGRAM, *(["--load"] if load else [])], timeout=_TIMEOUT)
    described = _described(result.stdout) if result.returncode == 0 else None
    if described is None:
        # What is no Python says something else, or nothing.
        said = f": {last_lines(result.stderr, 1)}" if result.stderr.strip() else "."
        raise ToolError(
            f"{python} cannot be used{said} Expected a Python of 3.7 or newer that imports PyG; "
            f"--python PATH names it."
        )
    if described["origin"] is None:
        raise TreeError(
            f"{described['executable'] or python} (Python {described['python']}) has no PyG: "
            f"'import torch_geometric' finds nothing. Activate the environment of the service, or "
            f"name its interpreter: --python PATH."
        )
    origin = Path(described["origin"])
    if not origin.is_file() or origin.name != "__init__.py":
        raise TreeError(
            f"{python} imports PyG from {origin}. Expected a directory with plain files: what is "
            f"in an archive, or has no __init__.py, cannot be patched."
        )
    tree = origin.parent.parent
    return Interpreter(
        path=python,
        version=described["python"],
        tree=tree,
        others=tuple(Path(p) for p in described["places"] if Path(p) != tree.resolve()),
        torch=described.get("torch", ""),
        extensions=described.get("extensions", {}),
    )


def _described(output: str) -> dict[str, Any] | None:
    """What the program has printed; None where something else has."""
    try:
        described = json.loads((output.splitlines() or [""])[-1])
    except ValueError:
        return None
    return described if isinstance(described, dict) and "origin" in described else None


def is_installation(tree: Path) -> bool:
    """Whether a tree is an installed PyG rather than sources: then it gets no tests.

    It is one where its metadata lies beside the package, or nothing that sources have: images
    that drop the metadata, and `pip install --target`, have any name.
    """
    if tree.resolve().name in ("site-packages", "dist-packages") or tree.name.endswith(".egg"):
        return True
    if any(info.name.endswith(".dist-info") for info in _infos(tree)):
        return True
    return not any((tree / mark).exists() for mark in _MARKS_OF_SOURCES)


def _infos(tree: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(p for p in tree.iterdir() if _INFO.fullmatch(p.name) and p.is_dir())
    return []


def info_of(tree: Path) -> Path | None:
    """Returns the folder with the metadata of an installed PyG, if it has one."""
    if tree.name.endswith(".egg") and (tree / "EGG-INFO").is_dir():
        return tree / "EGG-INFO"
    infos = _infos(tree)
    # pip leaves others behind where it cannot remove them.
    owners = [info for info in infos if _manifest_has(info, VERSION_FILE)]
    return (owners or infos)[-1] if infos else None


def _manifest_has(info: Path, path: str) -> bool:
    manifest = _manifest_of(info)
    data = patching.read(manifest) if manifest else None
    return manifest is not None and data is not None and _row_in(manifest, data, path) is not None


def _manifest_of(info: Path) -> Path | None:
    """The list of what belongs to the package: `RECORD`, or what setuptools wrote before it."""
    for name in ("RECORD", "installed-files.txt"):
        if (info / name).is_file():
            return info / name
    return None


def _listed(manifest: Path, path: str) -> str:
    """A path below `site-packages` as the list names it."""
    return path if manifest.name == "RECORD" else f"../{path}"


def _row_in(manifest: Path, data: bytes, path: str) -> str | None:
    return receipts.find_row(data, _listed(manifest, path))


def receipt_file(tree: Path) -> Path:
    """Returns where the receipt of an installation is, or would be."""
    return (info_of(tree) or tree / "torch_geometric") / receipts.NAME


def conda_record(tree: Path) -> Path | None:
    """Returns conda's record of the package that a PyG belongs to; None where there is none.

    The record has a hash of each file. Conda does not read them where it removes or replaces a
    package; `conda doctor` does.

    Args:
        tree: The directory that holds the PyG.
    """
    # The prefix is above lib/python3.11/site-packages, and above Lib/site-packages on Windows.
    for prefix in list(tree.parents)[:3]:
        for record in sorted((prefix / "conda-meta").glob("*.json")):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                files = json.loads(record.read_text(encoding="utf-8")).get("files") or ()
                if (tree / VERSION_FILE).relative_to(prefix).as_posix() in files:
                    return record
    return None


def keeps_books(tree: Path, *, is_installed: bool) -> bool:
    """Whether an installed PyG has books of its own: not where it is the sources themselves."""
    return is_installed and is_installation(tree)


def books(tree: Path, release: Release, files: Mapping[Path, Wanted]) -> dict[Path, Wanted]:
    """Returns what an installation is to say of itself once some files are changed.

    Args:
        tree: The `site-packages`, or what takes its place.
        release: The release that it holds.
        files: What is wanted of the patched files, or of the released ones.

    Returns:
        The same files and those of the books: the list of what is installed, and the receipt,
        which goes with the last patch.

    Raises:
        TreeError: If the books cannot be read.
    """
    wanted = dict(files)
    receipt_path = receipt_file(tree)
    receipt = receipts.read(receipt_path) or Receipt()
    info = info_of(tree)
    manifest = _manifest_of(info) if info else None
    record = (patching.read(manifest) if manifest else None) or b""
    originals: dict[str, Original] = {}
    rows: dict[str, str | None] = {}
    patches: dict[str, str] = {}
    for patch in (patch for patch in release.all_patches() if patch.is_for_library):
        for change in patch.changes:
            path = tree / change.path
            data = wanted[path].data if path in wanted else patching.read(path)
            blob = _blob(data, change)
            before = receipt.files.get(change.path)
            row = _row_in(manifest, record, change.path) if manifest else None
            if blob == change.after:
                patches[patch.name] = hashlib.sha256(patch.file.read_bytes()).hexdigest()
                if before is None and path in files:
                    before = _original(path, row)
                if before is not None:
                    originals[change.path] = before
            elif blob != change.before or path not in files:
                continue
            elif before is not None:
                wanted[path] = _as_before(path, wanted[path], before, change)
            if blob == change.before and before is not None:
                rows[change.path] = before.row
            elif row is not None or change.before == NO_BLOB:
                rows[change.path] = None if data is None else _row(manifest, change.path, data)
    new = Receipt(release.version, patches, "", _commit(), originals)
    data = _receipt_data(receipt, new)
    if data is not None or receipt_path.exists():
        wanted[receipt_path] = Wanted(data)
    if manifest is not None and info is not None:
        path_of_receipt = f"{info.name}/{receipts.NAME}"
        rows[path_of_receipt] = None if data is None else _row(manifest, path_of_receipt, data)
        named = {_listed(manifest, path): row for path, row in rows.items()}
        wanted[manifest] = Wanted(receipts.set_rows(record, named))
    return wanted


def _blob(data: bytes | None, change: Change) -> str:
    known = (change.before, change.after)
    return NO_BLOB if data is None else patching.blob_id(patching.recognised(data, known)[0])


def _row(manifest: Path | None, path: str, data: bytes) -> str:
    if manifest is not None and manifest.name != "RECORD":
        return _listed(manifest, path)
    return receipts.row(path, data)


def _original(path: Path, row: str | None) -> Original:
    """What a file is that is about to be patched."""
    link = str(path.readlink()) if path.is_symlink() else None
    return Original(row, path.stat().st_mtime_ns if path.exists() else None, link)


def _as_before(path: Path, wanted: Wanted, before: Original, change: Change) -> Wanted:
    if before.link is not None:
        target = path.parent / before.link
        # A link again, if what it points to is still the released file.
        with contextlib.suppress(TreeError):
            if blob_of(target, (change.before,)) == change.before:
                return Wanted(None, link=before.link)
    return Wanted(wanted.data, mtime_ns=before.mtime_ns)


def _receipt_data(old: Receipt, new: Receipt) -> bytes | None:
    """The content of the receipt; None where nothing is patched that it could speak of."""
    if not new.files:
        return None
    same = (old.release, old.patches, old.files) == (new.release, new.patches, new.files)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    changed, kit = (old.changed, old.kit) if same else (now, new.kit)
    return receipts.dump(Receipt(new.release, new.patches, changed, kit, new.files))


def _commit() -> str:
    """The commit of the kit; "" where it is no repository."""
    if not places.IS_CHECKOUT:
        return ""  # a repository around it is somebody else's
    result = run(["git", "rev-parse", "--verify", "--quiet", "HEAD^{commit}"], cwd=ROOT)
    return result.stdout.strip() if result.returncode == 0 else ""


def stale_bytecode(tree: Path, patches: Sequence[Patch]) -> list[Path]:
    """Returns bytecode that Python runs without a look at the source, and that is older than it.

    With `unchecked-hash` (PEP 552), as images that are only read are compiled, the code of a
    file that has been patched since goes on to run.
    """
    stale = []
    for change in (change for patch in patches for change in patch.changes):
        source = tree / change.path
        for file in patching.bytecode_of(source):
            with contextlib.suppress(OSError):
                with file.open("rb") as opened:
                    flags = int.from_bytes(opened.read(8)[4:], "little")
                if flags & 3 == 1 and file.stat().st_mtime_ns < source.stat().st_mtime_ns:
                    stale.append(file)
    return stale
