"""The house: what CONTRIBUTING.md says of where things are, and of how they hang together."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.releases import ROOT

KIT = ROOT / "scripts" / "kit"
CODE = sorted(
    file
    for folder in ("scripts", "tests", "examples")
    for file in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in file.parts
)
MAP = re.search(
    r"## Where things are\n\n```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
)

# The modules of the core, each with the name it is imported by.
CORE = {
    ".".join(("kit", *file.relative_to(KIT).with_suffix("").parts)): file
    for file in CODE
    if file.is_relative_to(KIT)
    and file.relative_to(KIT).parts[0] not in ("programs", "__init__.py", "__main__.py")
    and file.name != "__init__.py"
}


def mapped() -> Iterator[Path]:
    """The files and folders that the map names."""
    assert MAP
    parents: list[Path] = [ROOT]
    for line in MAP[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names, _, subject = line.strip().partition("  ")
        assert subject or names.endswith("/")
        for name in names.split():
            path = parents[depth] / name
            if name != "<series>/":
                yield path
        if names.endswith("/"):
            parents[depth + 1 :] = [path]


def test_the_map_names_what_there_is() -> None:
    named = set(mapped())
    assert [path for path in named if not path.exists()] == []
    missing = [
        path.name
        for path in KIT.iterdir()
        if path not in named and not path.name.startswith("__") and path.suffix in ("", ".py")
    ]
    assert missing == []
    folders = {path for path in named if path.parent in (ROOT, ROOT / "examples")}
    tops = {ROOT / name for name in ("patches", "scripts", "tests", "docs")}
    examples = {path for path in (ROOT / "examples").iterdir() if path.is_dir()}
    assert tops | examples <= folders


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    long = [
        (node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_the_door_is_only_a_door() -> None:
    assert len((KIT / "cli.py").read_text(encoding="utf-8").splitlines()) < 150


# They say of a release, a result or an argument that somebody has met it, and not what it is.
NO_NAMES = {"found", "seen", "words"}


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_say_what_they_are(file: Path) -> None:
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.id))
        elif isinstance(node, ast.arg):
            names.append((node.lineno, node.arg))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.append((node.lineno, node.attr))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append((node.lineno, node.name))
    assert [name for name in names if name[1].lower().strip("_") in NO_NAMES] == []


def imports_of(name: str, file: Path) -> set[str]:
    """The modules of the kit that a module imports."""
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {module for module in imported if module in CORE} - {name}


GRAPH = {name: imports_of(name, file) for name, file in CORE.items()}


def test_no_import_runs_in_a_circle() -> None:
    above: dict[str, set[str]] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in above:
            return
        for imported in sorted(GRAPH[name]):
            visit(imported, (*path, name))
        above[name] = GRAPH[name]

    for name in sorted(GRAPH):
        visit(name, ())


def test_nothing_of_the_core_imports_a_command() -> None:
    for name, imported in GRAPH.items():
        upward = {"kit.cli"}
        if name != "kit.cli":
            upward |= {other for other in CORE if other.startswith("kit.commands.")}
        if not name.startswith(("kit.cli", "kit.commands.")):
            upward.add("kit.console")
        assert imported & upward == set(), name


def test_imports_run_down_the_map() -> None:
    """A module imports what stands below it in the map of CONTRIBUTING.md."""
    order = {path.stem: number for number, path in enumerate(mapped()) if path.parent == KIT}
    assert len(order) > 30
    upward = []
    for name, imported in GRAPH.items():
        for other in imported:
            above, below = name.split(".")[1], other.split(".")[1]
            if above != below and order[above] > order[below]:
                upward.append(f"{name} -> {other}")
    assert upward == []


def test_packages_do_not_import_each_other_both_ways() -> None:
    def package(name: str) -> str:
        return name.split(".")[1]

    arrows = {
        (package(name), package(other)) for name, imported in GRAPH.items() for other in imported
    }
    both = [(a, b) for a, b in arrows if a < b and (b, a) in arrows]
    assert both == []


# How Python and click print, exit, and read the command line.
DOORS = {"print", "exit", "quit", "os._exit", "click.echo", "click.secho", "click.get_text_stream"}
DOORS |= {f"sys.{name}" for name in ("stdout", "stderr", "__stdout__", "__stderr__")}
DOORS |= {"sys.exit", "sys.argv"}


def test_only_the_door_and_the_commands_print_and_exit() -> None:
    for name, file in CORE.items():
        if name in ("kit.cli", "kit.console") or name.startswith("kit.commands."):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, (ast.Name, ast.Attribute))}
        assert used & DOORS == set(), name
        imported = {f"{n.module}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert imported & {"sys", "rich", "rich.console", "click"} == set(), name


def test_programs_import_nothing_of_the_kit() -> None:
    for file in (KIT / "programs").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) kit\b", text, re.MULTILINE), file.name


OLD_PYTHONS = [*(ROOT / "scripts/kit/programs").rglob("*.py"), *(ROOT / "tests/pyg").rglob("*.py")]


@pytest.mark.parametrize("file", OLD_PYTHONS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_type_is_made_that_python_38_cannot_make(file: Path) -> None:
    """vermin, which holds these files to old Pythons, does not see `Callable[...]` at run time."""
    module = ast.parse(file.read_text())
    abstract = {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "collections.abc"
        for alias in node.names
    }
    evaluated = {"list", "dict", "tuple", "set", "frozenset", "type", *abstract}
    if any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in module.body):
        for node in ast.walk(module):  # Then nothing evaluates these.
            for name in ("annotation", "returns"):
                if hasattr(node, name):
                    setattr(node, name, None)
    made = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(module)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in evaluated
    ]
    assert not made, made


def test_each_module_of_the_core_has_tests() -> None:
    missing = []
    for name, file in CORE.items():
        relative = file.relative_to(KIT)
        if relative.parts[0] == "commands":
            continue
        if not (ROOT / "tests" / "kit" / relative.parent / f"test_{relative.name}").exists():
            missing.append(name)
    assert missing == []


def uses_of(text: str) -> Iterator[str]:
    """The names that a module uses, but for those that it defines and imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_nothing_is_there_for_tests_alone() -> None:
    """A function, method or class is used by the kit itself."""
    uses = {
        name
        for folder in ("scripts", "examples", "patches/upstream")
        for file in (ROOT / folder).rglob("*.py")
        for name in uses_of(file.read_text(encoding="utf-8"))
    }
    for file in (ROOT / "patches/upstream").rglob("*.jinja"):
        uses |= set(re.findall(r"\w+", file.read_text(encoding="utf-8")))
    unused = []
    for name, file in CORE.items():
        body = ast.parse(file.read_text(encoding="utf-8")).body
        # What has a base may define what only the base calls, as click and rich do.
        classes = [node for node in body if isinstance(node, ast.ClassDef) and not node.bases]
        for node in itertools.chain(body, *(each.body for each in classes)):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("__"):
                continue
            # A decorator of click's makes a command of a function.
            is_command = name.startswith(("kit.commands.", "kit.cli")) and node.decorator_list
            if not is_command and node.name not in uses:
                unused.append(f"{name}.{node.name}")
    assert unused == []
