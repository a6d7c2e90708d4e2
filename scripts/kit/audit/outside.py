"""Which parts of PyG change a model from outside, so that other threads predict wrongly."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit import environments, pages
from kit.errors import ToolError
from kit.processes import last_lines

PROGRAM = environments.PROGRAMS / "outside.py"
DATA = pages.DOCS / "outside.json"


@dataclass(frozen=True)
class Outside:
    """What the parts of one release do to a model.

    Attributes:
        release: The version of PyG.
        torch: The version of torch.
        parts: What `programs/outside.py` says of each part, by its name.
    """

    release: str
    torch: str
    parts: dict[str, dict[str, Any]]


# The parts that explain a model, in the releases up to 2.2.0 and from then on.
EXPLAINED = ("nn.GNNExplainer", "Explainer, GNNExplainer")


def shows_the_race(measured: Outside) -> bool:
    """Whether predictions go wrong while a model is explained, and after an explanation fails."""
    parts = [measured.parts[name] for name in EXPLAINED if name in measured.parts]
    ran = [part for part in parts if "error" not in part]
    return bool(ran) and all(
        part.get("silently_wrong", 0) + part.get("crashed", 0) > 10
        and part["after_a_failure"] in ("silently_wrong", "crashed")
        for part in ran
    )


def measure(root: Path, release: str, python: Path) -> Outside:
    """Lets another thread predict while the parts of a PyG work.

    Args:
        root: The directory that holds `torch_geometric/`.
        release: What to call it.
        python: An interpreter that can import it.

    Raises:
        ToolError: If the program that does it fails.
    """
    process = environments.run_pyg(python, PROGRAM, tree=root)
    if process.returncode != 0:
        raise ToolError(
            f"What changes a model of PyG {release} from outside could not be measured: "
            f"{last_lines(process.stderr)}"
        )
    result = environments.result_of(process)
    return Outside(release, result["torch"], result["parts"])


def dump(measured: list[Outside]) -> str:
    """The data, as JSON with a record a line."""
    return pages.dump({"releases": [asdict(each) for each in measured]})


def load() -> list[Outside]:
    """Reads what `dump` wrote.

    Raises:
        SourceError: If it is missing.
    """
    data = pages.read_data(DATA, "'scripts/kit.sh audit --outside' makes it anew.")
    return [Outside(**each) for each in data["releases"]]


def word_of(part: dict[str, Any]) -> str:
    """What a cell says of a part."""
    if "error" in part:
        return ""
    wrong, crashed = (part.get(end, 0) for end in ("silently_wrong", "crashed"))
    notes = [f"**{wrong + crashed} of {wrong + crashed + part.get('right', 0)}**"]
    if not wrong + crashed:
        notes = ["·"]
    if "disturbed" in part:
        notes.append("disturbed")
    if part["afterwards"] not in ("right", ""):
        notes.append("stays")
    elif part.get("after_a_failure", "") not in ("right", ""):
        notes.append("fails")
    return ", ".join(notes)


def render(measured: list[Outside]) -> list[str]:
    """The part of the page, in lines of Markdown."""
    names = list(measured[-1].parts)
    errors = {name: [each.parts[name].get("error") for each in measured] for name in names}
    nowhere = {name: each[-1] for name, each in errors.items() if all(each)}
    lines = [
        "## What changes a model from outside",
        "",
        "These are called with a model, and need not be a part of its forward pass "
        "(`scripts/kit/programs/outside.py`). Whenever one enters or leaves a function of PyG or "
        "of the model, it is held until another thread has predicted with the same model, and "
        "what that returns is compared bit for bit. A cell says how many of these predictions "
        "were **wrong or crashed**, and of how many; · stands for none. *Fails*: if a call of the "
        "model raises an exception meanwhile, the model predicts wrongly from then on, in one "
        "thread, too. *Stays*: it does so even without an exception. *Disturbed*: the part itself "
        "fails, because another thread predicts: what traces a model with `torch.fx` also traces "
        "what other threads call in that time. A cell is empty where a release does not have the "
        "part, or it could not be run. Explanations themselves are not compared here: `audit "
        "--model ... --explainer` does that, and AttentionExplainer, whose predictions are right, "
        "explains with the attention of others on the released 2.8.1.",
        "",
        "The patches of the series `explainer` mend all explainers, metrics and `to_captum`. "
        "`set_masks` is what it says: whoever calls it masks the model for all threads. "
        "`torch.fx` replaces the methods of `torch.nn.Module` while it traces, for all models of "
        "the process: convert a model before threads predict with any.",
        "",
    ]
    shown = [each.release.split(".dev")[0] for each in measured]
    # Releases that say the same share a column.
    columns: list[tuple[str, list[str]]] = []
    for version, each in zip(shown, measured, strict=True):
        cells = [word_of(each.parts[name]) for name in names]
        if columns and columns[-1][1] == cells:
            first = columns[-1][0].split(" to ")[0]
            columns[-1] = (f"{first} to {version}", cells)
        else:
            columns.append((version, cells))
    lines.append("| part | " + " | ".join(head for head, _ in columns) + " |")
    lines.append("|---" * (len(columns) + 1) + "|")
    for number, name in enumerate(names):
        if name not in nowhere:
            cells = [each[number] for _, each in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    reasons = "; ".join(f"{name} (`{error}`)" for name, error in nowhere.items())
    return [*lines, "", f"Could be run nowhere: {reasons or 'none'}.", ""]
