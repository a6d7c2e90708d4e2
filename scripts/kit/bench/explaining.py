"""Measures what an explanation costs, patched against unpatched: it works on a copy."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import environments, sources
from kit.bench.cases import KEEP_MEMORY, MIDDLE_GRAPH, SMALL_GRAPH, interval
from kit.errors import ToolError
from kit.processes import last_lines
from kit.releases import Release
from kit.trees import pristine_and_patched

# What most people pin, and the newest one.
RELEASES = ("2.3.1", "2.8.1")
# One epoch is the shortest explanation that there is; 100 are GNNExplainer's default.
CASES = [
    {"graph": graph.name, "nodes": graph.nodes, "edges": graph.edges, "epochs": epochs}
    | {"calls": calls}
    for graph, epochs, calls in (
        (SMALL_GRAPH, 1, 40),
        (SMALL_GRAPH, 100, 4),
        (MIDDLE_GRAPH, 1, 8),
        (MIDDLE_GRAPH, 100, 1),
    )
]


def measure_explained(
    release: Release,
    source: sources.Source,
    python: Path,
    rounds: int,
    notify: Callable[[str], None],
) -> dict[str, Any]:
    """Times explanations on the released and on the patched tree, in processes that take turns.

    Args:
        release: The release.
        source: Where to get it from.
        python: An interpreter with torch and what the release needs.
        rounds: How many processes there are on each tree.
        notify: Is told what is under way.

    Returns:
        The versions, and a row for each case: the medians in milliseconds, the median of the
        ratios of the rounds, and its 95% confidence interval.

    Raises:
        ToolError: If the program that runs there fails.
    """
    test = next(p for p in release.patches if p.name == "regression_test/explainer.patch")
    times: dict[str, list[list[list[float]]]] = {"pristine": [], "patched": []}
    result: dict[str, Any] = {}
    with pristine_and_patched(release, source, release.patches) as trees:
        both = {"pristine": trees.pristine, "patched": trees.patched}
        for number in range(rounds):
            notify(f"PyG {release.version}, explanations, round {number + 1} of {rounds} ...")
            # Each is first as often as the other one.
            for name in sorted(both, reverse=bool(number % 2)):
                program = environments.PROGRAMS / "explain.py"
                file = trees.patched / test.changes[0].path
                process = environments.run_pyg(
                    *(python, program, file, json.dumps(CASES)), tree=both[name], env=KEEP_MEMORY
                )
                if process.returncode != 0:
                    said = last_lines(process.stderr)
                    raise ToolError(f"The measurement could not be run: {said}")
                result = environments.result_of(process)
                times[name].append(result["times"])
    rows = [row_of(release.version, number, times) for number in range(len(CASES))]
    return {"python": result["python"], "torch": result["torch"], "rows": rows}


def row_of(version: str, number: int, times: dict[str, list[list[list[float]]]]) -> dict[str, Any]:
    """Puts together what the rounds have measured of a case.

    Args:
        version: The release.
        number: Which of `CASES`.
        times: Seconds, by tree, round, case and explanation.
    """
    medians = {
        name: [statistics.median(cases[number]) for cases in rounds]
        for name, rounds in times.items()
    }
    ratios = [a / b for a, b in zip(medians["patched"], medians["pristine"], strict=True)]
    low, high = interval([[ratio] for ratio in ratios])
    return {
        "release": version,
        **CASES[number],
        **{f"{name}_ms": 1e3 * statistics.median(each) for name, each in medians.items()},
        "ratio": statistics.median(ratios),
        "low": low,
        "high": high,
        "rounds": len(ratios),
    }


def section(part: dict[str, Any], provenance: str) -> str:
    """The section of the page."""
    lines = [
        "## An explanation\n",
        provenance,
        "`GNNExplainer` explains the two `GraphConv` of its threaded test. Patched, it works on a "
        "structural copy of the model, which is made once an explanation; the parameters are "
        "shared, so a larger model costs no more memory. A prediction runs the code of the "
        "release, and pays nothing.",
        "",
        "| PyG | graph | epochs | unpatched | patched | ratio | interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in part["rows"]:
        lines.append(
            f"| {row['release']} | {row['graph']} | {row['epochs']} | {row['pristine_ms']:.3g} ms "
            f"| {row['patched_ms']:.3g} ms | {row['ratio']:.3f} "
            f"| {row['low']:.3f} to {row['high']:.3f} |"
        )
    return "\n".join(lines) + "\n"
