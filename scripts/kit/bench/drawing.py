"""The pictures of the performance page."""

import textwrap
from pathlib import Path
from typing import Any

from kit import pictures
from kit.bench.cases import (
    ITSELF,
    MIDDLE_GRAPH,
    ONE_GATHER,
    PATCHED,
    PRISTINE,
    SMALL_GRAPH,
    UPSTREAM,
)
from kit.bench.page import WAYS, variant_of
from kit.releases import ROOT, Catalogue

PICTURES = {
    name: ROOT / "docs" / f"performance-{name}.svg"
    for name in ("ratios", "growth", "threads", "free-threaded")
}


COLOURS = {
    PRISTINE: "#5b6770",
    PATCHED: "#1f77b4",
    UPSTREAM: pictures.ORANGE,
    ITSELF: pictures.RED,
    ONE_GATHER: "#8e6bb0",
    "upstream": pictures.ORANGE,
    "lock": pictures.RED,
    "deepcopy": pictures.GREEN,
    "processes": "#8e6bb0",
}

# What each picture shows: its title, and a sentence for screen readers.
_TITLES = {
    "ratios": (
        "Time over that of the unpatched layer, by layer and graph",
        "Ratios with their 95% intervals, for inference and training. The numbers are in the "
        "tables below the picture.",
    ),
    "growth": (
        "Time of a call of GATv2Conv by edges and by heads",
        "Two plots of milliseconds a call. The lines of the patched and the unpatched layer lie "
        "on each other; that of upstream's fix lies above.",
    ),
    "threads": (
        "Right answers a second by the number of threads",
        "Two plots, for a small and a middle graph, with a line for each way of sharing a model. "
        "The numbers are in the table below the picture.",
    ),
    "free-threaded": (
        "Right answers a second by the number of threads, without the GIL",
        "Two plots, for a small and a middle graph, with a line for each way of sharing a model. "
        "The numbers are in the table below the picture.",
    ),
}


def draw(data: dict[str, Any], catalogue: Catalogue) -> dict[Path, str]:
    """Returns the pictures of what was measured, as SVG, by the files that the page shows."""
    pictures.plotting()
    drawn = {
        "ratios": _draw_ratios(
            [*data["layers"]["ratios"], *data.get("large", {}).get("ratios", [])], catalogue
        ),
        "growth": _draw_growth(data["growth"]["ratios"]),
        "threads": _draw_threads(data["threads"]),
    }
    if "free-threaded" in data:
        drawn["free-threaded"] = _draw_threads(data["free-threaded"])
    return {
        PICTURES[name]: pictures.finish(figure, *_TITLES[name]) for name, figure in drawn.items()
    }


def _tidy(axis: Any) -> None:  # noqa: ANN401
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _draw_ratios(ratios: list[dict[str, Any]], catalogue: Catalogue) -> Any:  # noqa: ANN401
    """Each ratio with its interval, by layer and graph."""
    pyplot = pictures.plotting()
    shown = [ratio for ratio in ratios if ratio["variant"] != PRISTINE]
    groups = list(dict.fromkeys((f["release"], f["layer"]) for f in shown))
    keys = list(dict.fromkeys((f["release"], f["layer"], f["graph"]) for f in shown))
    keys.sort(key=lambda key: groups.index(key[:2]))
    figure, axes = pyplot.subplots(
        1, 2, figsize=(pictures.WIDTH, 1.6 + 0.24 * len(keys)), sharey=True, squeeze=False
    )
    labels: dict[str, Any] = {}
    for axis, mode in zip(axes[0], ("inference", "training"), strict=True):
        axis.axvline(1, color="#999999", lw=1)
        for ratio in shown:
            if ratio["mode"] != mode:
                continue
            shift = {PATCHED: 0.0, ITSELF: 0.44}.get(ratio["variant"], 0.22)
            y = keys.index((ratio["release"], ratio["layer"], ratio["graph"])) + shift
            errors = [
                [max(ratio["ratio"] - ratio["low"], 0)],
                [max(ratio["high"] - ratio["ratio"], 0)],
            ]
            name = variant_of(ratio, catalogue)
            colour = pictures.GREEN if name == "single gather" else COLOURS[ratio["variant"]]
            labels[name] = axis.errorbar(
                ratio["ratio"], y, xerr=errors, fmt="o", ms=4, color=colour, capsize=2, lw=1.2
            )
        axis.set_title(mode, loc="left", weight="bold")
        axis.set_xlabel("time over that of the unpatched layer")
        _tidy(axis)
    names = [f"{catalogue.classes[layer]} {release}, {graph}" for release, layer, graph in keys]
    axes[0][0].set_yticks(range(len(keys)), names)
    axes[0][0].set_ylim(len(keys) - 0.4, -0.6)
    figure.legend(list(labels.values()), list(labels), loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.4 / figure.get_figheight(), 1, 1))
    return figure


def _draw_growth(ratios: list[dict[str, Any]]) -> Any:  # noqa: ANN401
    """Time by edges and by heads, patched and unpatched on top of each other."""
    pyplot = pictures.plotting()
    figure, axes = pyplot.subplots(1, 2, figsize=(pictures.WIDTH, 3.6))
    for axis, graph in zip(axes, ("edges", "heads"), strict=True):
        shown = [r for r in ratios if r["graph"] == graph]
        # The unpatched one is drawn wide, such that the other can be seen on top of it.
        for variant, style in (
            (PRISTINE, {"lw": 6, "alpha": 0.6}),
            (UPSTREAM, {"lw": 1.2, "ls": "--", "marker": "o", "ms": 3}),
            (PATCHED, {"lw": 1.5, "marker": "o", "ms": 3}),
        ):
            points = [(r[graph], r["ms"]) for r in shown if r["variant"] == variant]
            xs, ys = zip(*points, strict=True)
            axis.plot(xs, ys, color=COLOURS[variant], label=variant, **style)
        axis.set_xscale("log", base=10 if graph == "edges" else 2)
        axis.set_yscale("log")
        if graph == "heads":
            edges = shown[0]["edges"]
            axis.set_xlabel(f"heads of 8 channels, {edges:,} edges")
            heads = [r["heads"] for r in shown if r["variant"] == PATCHED]
            axis.set_xticks(heads, list(map(str, heads)))
        else:
            axis.set_xlabel("edges, ten a node")
            axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.set_ylabel("ms a call")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}" if graph == "heads" else "")
        _tidy(axis)
    axes[0].legend(frameon=False)
    title = f"GATv2Conv of PyG {ratios[0]['release']}, inference, one thread"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.tight_layout()
    return figure


# A line falls where the last point is below this share of its highest one.
_FALLS = 0.9


def reasons(part: dict[str, Any], graph: str) -> dict[str, list[str]]:
    """Why lines fall as threads are added: each reason, with the ways whose lines do."""
    known: dict[str, list[str]] = {}
    for way, label in WAYS.items():
        rows = [r for r in part["rows"] if (r["graph"], r["way"]) == (graph, way)]
        rates = [r["right"] / r["seconds"] for r in sorted(rows, key=lambda r: int(r["threads"]))]
        if not rates or rates[-1] >= _FALLS * max(rates):
            continue
        if way == "unpatched":
            why = "wrong answers do not count"
        elif way == "lock":
            why = "one thread computes, and the others wait"
        elif way != "processes" and graph == "small" and part["gil"]:
            why = "threads spend their time on handing over the GIL"
        else:
            why = f"there are {part['cores']} cores, and more wait for them"
        known.setdefault(why, []).append(label.replace("`", "").removeprefix("one layer, "))
    return known


def _below(part: dict[str, Any], graph: str) -> str:
    """The reasons, as the lines of text below a plot."""
    sentences = [f"{', '.join(ways)}: {why}." for why, ways in reasons(part, graph).items()]
    lines = [line for each in sentences for line in textwrap.wrap(each, 54)]
    return "\n".join(["What falls, and why:", *lines] if lines else [])


def _draw_threads(part: dict[str, Any]) -> Any:  # noqa: ANN401
    """Calls a second by the number of threads, for each way."""
    pyplot = pictures.plotting()
    rows = part["rows"]
    graphs = list(dict.fromkeys(row["graph"] for row in rows))
    below = [_below(part, graph) for graph in graphs]
    lines = max(text.count("\n") + 1 for text in below)
    figure, axes = pyplot.subplots(
        1, len(graphs), figsize=(pictures.WIDTH, 4.2 + 0.16 * lines), squeeze=False
    )
    for axis, graph, text in zip(axes[0], graphs, below, strict=True):
        counts = sorted({row["threads"] for row in rows})
        for way, label in WAYS.items():
            points = [r for r in rows if r["graph"] == graph and r["way"] == way]
            if points:
                axis.plot(
                    [r["threads"] for r in points],
                    [r["right"] / r["seconds"] for r in points],
                    color=COLOURS[way],
                    label=label.replace("`", ""),
                    # Wide, and below the others, which lie on it.
                    lw=4 if way == "patched" else 1.5,
                    zorder=2 if way == "patched" else 3,
                    marker="o",
                    ms=3,
                )
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, list(map(str, counts)))
        axis.set_ylim(bottom=0)
        axis.set_xlabel("threads")
        size = {each.name: each for each in (SMALL_GRAPH, MIDDLE_GRAPH)}[graph]
        axis.set_title(f"{graph} graph: {size.nodes:,} nodes, {size.edges:,} edges", loc="left")
        # Below the label of the axis, which has a line and the numbers another one.
        below_axis = {"xytext": (0, -40), "textcoords": "offset points"}
        axis.annotate(text, (0, 0), xycoords="axes fraction", va="top", **below_axis)
        _tidy(axis)
    axes[0][0].set_ylabel("right answers a second")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    python = f"Python {part['python']}{'' if part['gil'] else ', without the GIL'}"
    title = f"One GATv2Conv of PyG {part['release']}, {part['cores']} cores, {python}"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    return figure
