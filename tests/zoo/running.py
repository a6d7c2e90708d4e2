"""Runs the audit on a model of the zoo, as a stranger does, and grades what it says."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.entries import NOT_SAFE, NOT_SHOWN, SAFE, Entry

TESTS = Path(__file__).parents[1]
KIT = TESTS.parent / "scripts" / "kit.sh"
TIME_LIMIT = 600  # seconds for one audit

# How an audit can end, in the words of the page.
RIGHT, FALSE_ALARM, MISSED = "right", "false alarm", "missed"
INCOMPLETE, NOT_RUN = "incomplete", "not run"


@dataclass(frozen=True)
class Audited:
    """What the audit said of a model.

    Attributes:
        verdict: `SAFE`, `NOT_SAFE`, `NOT_SHOWN`, or empty where there was none.
        exit_code: Of the command; -1 if it was stopped after the time limit.
        text: All that it printed, and the strings of its JSON.
        seconds: How long it took.
    """

    verdict: str
    exit_code: int
    text: str
    seconds: float


def strings(value: object) -> Iterator[str]:
    """The strings of a JSON value; a place, `[file, line, function]`, as `file:line`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, list):
        if len(value) > 1 and isinstance(value[0], str) and isinstance(value[1], int):
            yield f"{value[0]}:{value[1]}"
        for item in value:
            yield from strings(item)


def audit(entry: Entry, tree: Path) -> Audited:
    """Audits a model.

    Args:
        entry: The model.
        tree: The PyG that it runs on.
    """
    inputs = f"{entry.inputs.__module__}:{entry.inputs.__name__}"
    command = [str(KIT), "audit", "--model", entry.model, "--inputs", inputs]
    command += ["--python", sys.executable, "--json", "-"]
    for method in entry.methods:
        command += ["--method", method]
    # As on a terminal of its own: what tox and pytest set is not the stranger's.
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    started = time.monotonic()
    # In a session of its own: what hangs is ended with all that it has started.
    process = subprocess.Popen(
        command,
        cwd=TESTS,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Audited("", -1, f"stopped after {TIME_LIMIT} s", time.monotonic() - started)
    seconds, text = time.monotonic() - started, stdout + stderr
    try:
        told = json.loads(stdout)
    except ValueError:
        return Audited("", process.returncode, text, seconds)
    verdict = told.get("verdict", "") if isinstance(told, dict) else ""
    return Audited(verdict, process.returncode, "\n".join([*strings(told), text]), seconds)


def grade(entry: Entry, audited: Audited) -> tuple[str, str]:
    """How good the answer is, and what is amiss.

    Returns:
        One of the words above, and a sentence; empty where all is right.
    """
    expected = " or ".join(entry.verdicts)
    if audited.verdict not in (SAFE, NOT_SAFE, NOT_SHOWN):
        last = (audited.text.strip().splitlines() or ["no output"])[-1]
        return NOT_RUN, f"no verdict, exit code {audited.exit_code}: {last}"
    if audited.verdict not in entry.verdicts:
        word = MISSED if entry.failure else FALSE_ALARM
        return word, f"expected {expected}, got {audited.verdict}"
    if audited.exit_code != (audited.verdict != SAFE):
        return INCOMPLETE, f"exit code {audited.exit_code} for {audited.verdict}"
    missing = [
        place for place in entry.blamed if not re.search(rf"{re.escape(place)}\b", audited.text)
    ]
    missing += [word for word in entry.says if not re.search(word, audited.text, re.IGNORECASE)]
    if missing:
        return INCOMPLETE, f"does not name {', '.join(missing)}"
    return RIGHT, ""
