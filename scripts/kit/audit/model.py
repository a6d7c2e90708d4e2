"""The audit of somebody's model: it is run, and its source is read, and both are put together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.audit import branches, static
from kit.audit.kinds import Kind, Write
from kit.audit.running import ProgramDied, find_installed, run_program
from kit.errors import TreeError


@dataclass(frozen=True)
class Options:
    """How a model is called.

    Attributes:
        methods: The methods, as `NAME` or `NAME=MODULE:FACTORY` with inputs of its own; none for
            `forward` and what PyG documents of the class.
        calls: How many calls eight threads make; None for as many as take some seconds.
        grad: Whether gradients are recorded from the start.
        tolerance: How far two results of the same call may differ.
        explainer: `package.module:factory` of what explains the model meanwhile; None for nothing.
    """

    methods: Sequence[str] = ()
    calls: int | None = None
    grad: bool = False
    tolerance: float = 0.0
    explainer: str | None = None
    arguments: list[str] = field(init=False)

    def __post_init__(self) -> None:
        arguments = [word for method in self.methods for word in ("--method", method)]
        if self.calls is not None:
            arguments += ["--calls", str(self.calls)]
        arguments += ["--grad"] if self.grad else []
        arguments += ["--tolerance", str(self.tolerance)] if self.tolerance else []
        arguments += ["--explainer", self.explainer] if self.explainer else []
        object.__setattr__(self, "arguments", arguments)


def audit_model(
    python: Path,
    model: str,
    inputs: str,
    options: Options,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Runs a user's model under watch, and reads its source.

    Args:
        python: The interpreter in which the model runs.
        model: `package.module:factory` of the model.
        inputs: `package.module:factory` of its arguments, called once a request.
        options: How it is called.
        notify: Is told what is going on.

    Returns:
        What `programs/audit` says. Each of its `writes` has the `kind` that its source gives it,
        "" where there is none, and `source_reads`, the lines that read it. `static` lists what
        the source can write beside.

    Raises:
        UsageError: If the model or its inputs cannot be used; the message says why.
        ToolError: If the program fails.
    """
    try:
        report: dict[str, Any] = run_program(
            python, ["model", model, inputs, *options.arguments], notify=notify
        )
    except ProgramDied as died:
        if not died.during.startswith(("letting", "forcing")):
            raise  # in one thread: that has nothing to do with sharing
        return report_of_death(died)
    installed = find_installed(python)
    notify("reading the source")
    join(report, *_read_sources(installed, report))
    writes, unread = branches.writes_not_made(
        report["branches"], installed, lambda file: absolute(file, installed)
    )
    report["static"] += writes
    report["unread"] = sorted({*report["unread"], *unread})
    report["installed"] = str(installed) if installed else None
    return report


def _read_sources(
    installed: Path | None, report: dict[str, Any]
) -> tuple[list[Write], Path | None, list[str]]:
    """The writes that the classes of the model can make, and the files that do not parse here."""
    files = {absolute(each["file"], installed) for each in report["classes"] if each["file"]}
    writes: list[Write] = []
    unread = []
    entries = ("forward", "__call__", *report["methods"])
    for file in sorted(file for file in files if file.suffix == ".py" and file.exists()):
        try:
            writes += static.audit_files(installed, [file], entries)
        except TreeError:
            unread.append(str(file))
    return writes, installed, unread


def absolute(file: str, installed: Path | None) -> Path:
    """Where a file lies that the program or the reading of sources names."""
    path = Path(file)
    if path.is_absolute():
        return path
    for root in (installed, Path.cwd()):
        if root is not None and (root / path).exists():
            return (root / path).resolve()
    return path.absolute()


def join(
    report: dict[str, Any], writes: Sequence[Write], installed: Path | None, unread: Sequence[str]
) -> None:
    """Puts what the source says into a report.

    Args:
        report: What the program said.
        writes: What the source can write.
        installed: The directory that holds PyG.
        unread: Files that this Python cannot parse.
    """
    classes = {each["class"].split(".")[-1] for each in report["classes"]}
    order = list(Kind)
    worst: dict[tuple[str, str], Write] = {}
    lines: dict[tuple[str, str], list[tuple[str, int]]] = {}
    locals_of_threads = set(report.get("thread_locals", ()))
    for write in writes:
        holder = f"{write.cls}.{write.attribute.split('.')[0]}"
        if write.cls not in classes or (holder in locals_of_threads and write.how == "assignment"):
            continue
        key = (write.cls, write.attribute)
        worst[key] = min(worst.get(key, write), write, key=lambda each: order.index(each.kind))
        lines.setdefault(key, []).append((str(absolute(write.file, installed)), write.line))
    by_line = {line: key for key, places in lines.items() for line in places}
    joined = set()
    for traced in report["writes"]:
        places = [(str(absolute(file, installed)), line) for file, line, _ in traced["written"]]
        keys = [by_line[place] for place in places if place in by_line]
        known = [(traced["class"], traced["attribute"])]
        matching = keys or [key for key in known if key in worst]
        joined.update(matching)
        chosen = [worst[key] for key in matching]
        kinds = sorted((each.kind for each in chosen), key=order.index)
        traced["kind"] = kinds[0].value if kinds else ""
        reads = sorted({read for each in chosen for read in each.reads})
        traced["source_reads"] = [f"{file}:{line}" for file, line in reads]
    ran = {
        (str(absolute(file, installed)), line)
        for file, numbers in report["ran_lines"].items()
        for line in numbers
    }
    report["static"] = [
        {
            "class": key[0],
            "attribute": key[1],
            "kind": write.kind.value,
            "reason": write.reason,
            "written": [f"{write.file}:{line}" for _, line in lines[key]],
            "ran": bool(ran & set(lines[key])),
            "conditional": write.conditional,
        }
        for key, write in worst.items()
        if key not in joined
    ]
    report["unread"] = list(unread)


def report_of_death(died: ProgramDied) -> dict[str, Any]:
    """What is said of a model whose process died while threads shared it."""
    stress = {
        **{"threads": 8, "seconds": None, "calls": 0, "right": 0, "crashed": 0},
        **{"silently_wrong": 0, "hung": 0, "errors": [], "died": died.signal, "compared": True},
    }
    return {
        **{"python": "", "torch": "", "torch_geometric": None, "gil": True, "requests": 0},
        **{"methods": [], "modules": 0, "classes": [], "lazy": False, "grad": False},
        **{"tolerance": 0.0, "one_shape": False, "compiled": False, "notes": []},
        **{
            "arguments": {"changed": False, "shared": False},
            "scripted": [],
            "writes": [],
            "graph_breaks": False,
            "uncompared": [],
        },
        **{"first_calls_differ": False, "locks": [], "explored": None, "unwatched": []},
        **{"ran_lines": {}, "stress": stress, "nondeterministic": False, "carried": False},
        **{"random": [], "watched": {"functions": 0, "files": [], "modules": 0}},
        **{"static": [], "unread": [], "installed": None, "explained": None},
    }
