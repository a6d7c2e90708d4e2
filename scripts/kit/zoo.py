"""The page of the zoo: what the audit says of models whose truth is known."""

import datetime
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from kit import pages
from kit.errors import SourceError
from kit.releases import ROOT

# Where the environments of tox leave their results.
RESULTS = ROOT / "build" / "zoo"

# The models, a file a family.
MODELS = ROOT / "tests" / "zoo"

PAGE = pages.DOCS / "zoo.md"
DATA = pages.DOCS / "zoo.json"

# How good an answer of the audit can be, as `tests/zoo/running.py` grades it.
GRADES = {
    "right": "the right verdict, for the right reason",
    "incomplete": "the right verdict, but a line, a name or a piece of advice is missing",
    "false alarm": "the model is safe, and the audit does not say so",
    "missed": "the model is not safe, and the audit says that it is",
    "not run": "the audit gave no verdict",
}


@dataclass(frozen=True)
class Answer:
    """What the audit said of a model.

    Attributes:
        environment: The environment of tox that ran it.
        family: The file of the zoo that holds the model.
        model: Its name there.
        why: Its truth in a line.
        truth: "safe", or how calls fail, such as "wrong" or "hang".
        expected: The verdicts that are right, joined by "or".
        verdict: What the audit said; empty where it gave no verdict.
        grade: One of `GRADES`.
        amiss: What is wrong with the answer; empty where nothing is.
        seconds: How long the audit took.
    """

    environment: str
    family: str
    model: str
    why: str
    truth: str
    expected: str
    verdict: str
    grade: str
    amiss: str
    seconds: float


@dataclass(frozen=True)
class Zoo:
    """All answers, and when they were given.

    Attributes:
        day: The day of the oldest answer, as `YYYY-MM-DD`.
        machine: What the audits ran on, in words.
        models: How many models the zoo has, those that have not run as well.
        answers: In the order of the zoo.
    """

    day: str
    machine: str
    models: int
    answers: list[Answer]


def gather(directory: Path) -> Zoo:
    """Reads the results that the environments have left.

    Args:
        directory: Holds `<environment>.xml`, as pytest writes it.

    Raises:
        SourceError: If there are no results, or a file is none.
    """
    answers: dict[tuple[str, str], Answer] = {}
    days = []
    # The quick ones first, since the whole has them as well; the packages last.
    order = ("quick", "zoo", "packages")
    files = [file for file in directory.glob("*.xml") if file.stem.split("-")[-1] in order]
    for file in sorted(files, key=lambda file: order.index(file.stem.split("-")[-1])):
        try:
            # Written by pytest, on this machine.
            suite = ElementTree.parse(file).getroot().find("testsuite")  # noqa: S314
            assert suite is not None
            for answer in _answers(file.stem, suite):
                answers[answer.family, answer.model] = answer
            days.append(datetime.datetime.fromisoformat(suite.get("timestamp", "")).date())
        except (OSError, ValueError, TypeError, AssertionError, ElementTree.ParseError) as error:
            raise SourceError(
                f"{file} is not what the zoo leaves there ({type(error).__name__}: {error}). "
                f"Run it again: tox run -e {file.stem}."
            ) from None
    if not answers:
        raise SourceError(f"{directory} holds no results of the zoo. Run it first: tox run -m zoo.")
    # Tests that run two at once end in any order.
    ordered = sorted(
        answers.values(),
        key=lambda answer: (answer.environment.endswith("packages"), answer.family, answer.model),
    )
    return Zoo(min(days).isoformat(), pages.machine(), count_models(), ordered)


def count_models() -> int:
    """Counts the models of the zoo, by the marks that they begin with."""
    texts = (file.read_text(encoding="utf-8") for file in MODELS.glob("*.py"))
    return sum(len(re.findall(r"^@(?:un)?safe\(", text, re.M)) for text in texts)


def _answers(environment: str, suite: ElementTree.Element) -> Iterable[Answer]:
    for case in suite.iter("testcase"):
        told = {str(item.get("name")): str(item.get("value")) for item in case.iter("property")}
        if "grade" in told:
            seconds = float(told.pop("seconds"))
            yield Answer(environment=environment, seconds=seconds, **told)


def dump(zoo: Zoo) -> str:
    """The data as JSON, an answer a line."""
    return pages.dump(asdict(zoo))


def load() -> Zoo:
    """Reads the data that the page was made from.

    Raises:
        SourceError: If there are none.
    """
    data = pages.read_data(DATA, "without --render, it is made from the results of the zoo.")
    return Zoo(**{**data, "answers": [Answer(**answer) for answer in data["answers"]]})


def render(zoo: Zoo) -> str:
    """The page, in Markdown."""
    totals = Counter(answer.grade for answer in zoo.answers)
    lines = [
        "# What the audit says of models whose truth is known",
        "",
        "Made by `scripts/kit.sh zoo`; nothing here is typed by hand. "
        f"{len(zoo.answers)} of {zoo.models} models, each audited as a user would do it, on "
        f"{zoo.day}, on {zoo.machine}. The data are in [zoo.json](zoo.json).",
        "",
        "The models are in [tests/zoo](../tests/zoo), a file a family. Whether threads can share "
        "one is known by construction, and checked without the audit: `tests/zoo/truth.py` holds "
        "one call before each of its lines while another call runs.",
        "",
        "| | models | what it means |",
        "|---|---|---|",
        *(f"| {grade} | {totals[grade]} | {meaning} |" for grade, meaning in GRADES.items()),
        "",
        "| family | models | " + " | ".join(GRADES) + " |",
        "|---" * (len(GRADES) + 2) + "|",
    ]
    families = list(dict.fromkeys(answer.family for answer in zoo.answers))
    for family in families:
        counts = Counter(answer.grade for answer in zoo.answers if answer.family == family)
        cells = [str(counts[grade] or "") for grade in GRADES]
        lines.append(f"| [{family}](#{family}) | {counts.total()} | " + " | ".join(cells) + " |")
    for family in families:
        lines += [
            "",
            f"## {family.capitalize()}",
            "",
            "| model | what is true of it | threads get | verdict | |",
            "|---|---|---|---|---|",
            *(_row(answer) for answer in zoo.answers if answer.family == family),
        ]
    return "\n".join(lines) + "\n"


def _row(answer: Answer) -> str:
    truth = "right results" if answer.truth == "safe" else TRUTHS[answer.truth]
    grade = "" if answer.grade == "right" else f"**{answer.grade}**: {_cell(answer.amiss)}"
    return (
        f"| `{answer.model}` | {_cell(answer.why)} | {truth} | {answer.verdict or 'none'} | "
        f"{grade} |"
    )


# How calls fail, in the cell of a table; `tests/zoo/entries.py` has the words.
TRUTHS = {
    "wrong": "wrong results",
    "crash": "crashes",
    "hang": "no answer: calls hang",
    "killed": "a dead process",
    "leaks": "earlier callers' state",
}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
