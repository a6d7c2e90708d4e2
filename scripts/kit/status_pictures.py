"""The pictures of the matrix: a grid of all that ran, and two releases before and after."""

import re
from typing import Any

from kit import pictures
from kit.releases import Catalogue
from kit.status import Cell, Status, columns, dates, share

# The colours of how a call ended.
ENDS = {"right": pictures.GREEN, "crashed": pictures.ORANGE, "silently wrong": pictures.RED}

# Of the grid: the worst that a release does as it is. What stands for it in a cell is drawn in
# it, too: a colour alone does not tell everybody.
GRID = {
    "races; patched, no call failed": (pictures.ORANGE, "•"),
    "fixed by PyG: no call failed": (pictures.GREEN, ""),
    "a test of the environment failed": (pictures.RED, "x"),
}

# The title of the part of the grid whose environments name their Python.
OTHER_PYTHONS = "on other Pythons"

# As the counts of a layer are named.
TREES = ("pristine", "patched")

# A release of the time before upstream's fix, and one of after it.
BEFORE_AND_AFTER = ("2.3.1", "2.8.1")


def draw_grid(status: Status, catalogue: Catalogue) -> str:
    """Returns a grid for each torch: a cell a layer and release, in the colour of what it does."""
    pyplot = pictures.plotting()
    from matplotlib.patches import Patch

    parts = _parts(status)
    figure, axes = pyplot.subplots(
        len(parts),
        1,
        figsize=(pictures.WIDTH, 2.4 + sum(0.24 * len(rows) + 1.0 for rows in parts.values())),
        squeeze=False,
        height_ratios=[len(rows) + 3 for rows in parts.values()],
    )
    for (title, rows), axis in zip(parts.items(), axes[:, 0], strict=True):
        _draw_rows(axis, rows, catalogue)
        axis.set_title(title, loc="left", weight="bold", pad=8)
    used = {word_of(cell, layer) for cell in status.cells for layer in cell.layers}
    handles = [Patch(color=GRID[word][0], label=word) for word in GRID if word in used]
    if any(layer not in cell.layers for cell in status.cells for layer in catalogue.classes):
        label = "that release does not have it, or keeps nothing of a call in it"
        handles.append(pictures.blank(label))
    figure.legend(handles=handles, loc="lower center", ncols=1, frameon=False)
    figure.tight_layout(rect=(0, 1.25 / figure.get_figheight(), 1, 1))
    return pictures.finish(
        figure,
        "Which classes of PyG race, by release",
        "A row for each release, a column for each class, for each torch. Orange: it races as "
        "released, and no call of the patched one failed. Green: PyG has fixed it. Red: a test "
        "failed. Blank: the release does not have it.",
    )


def _parts(status: Status) -> dict[str, list[Cell | str]]:
    """The parts of the grid by title, with their rows: cells, and lines of text above them."""
    parts: dict[str, list[Cell | str]] = {}
    for column in columns(status):
        cells = [cell for cell in status.cells if cell.column == column]
        parts[f"{column}, {dates(cells)}"] = [*cells]
    others = [cell for cell in status.cells if cell.names_python]
    for column in dict.fromkeys(cell.column for cell in others):
        cells = [cell for cell in others if cell.column == column]
        parts.setdefault(OTHER_PYTHONS, []).extend([f"{column}, {dates(cells)}", *cells])
    return parts


def _draw_rows(axis: Any, rows: list[Cell | str], catalogue: Catalogue) -> None:  # noqa: ANN401
    layers = list(catalogue.classes)
    boxes: dict[str, list[tuple[float, float, float, float]]] = {label: [] for label in GRID}
    for y, cell in enumerate(rows):
        if isinstance(cell, str):
            axis.text(0.04, y + 0.6, cell, ha="left", va="center", color=pictures.INK)
            continue
        for x, layer in enumerate(layers):
            if layer in cell.layers:
                label = word_of(cell, layer)
                boxes[label].append((x + 0.04, y + 0.08, 0.92, 0.84))
                mark = GRID[label][1]
                axis.text(x + 0.5, y + 0.5, mark, ha="center", va="center", color="#24292f")
    for label, shapes in boxes.items():
        pictures.rectangles(axis, shapes, GRID[label][0])
    axis.set_xlim(0, len(layers))
    axis.set_ylim(len(rows), 0)
    names = [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", catalogue.classes[name]) for name in layers]
    axis.set_xticks([x + 0.5 for x in range(len(layers))], names)
    axis.xaxis.tick_top()
    ticks = {y + 0.5: row.release for y, row in enumerate(rows) if isinstance(row, Cell)}
    axis.set_yticks(list(ticks), list(ticks.values()))
    pictures.bare(axis)


def word_of(cell: Cell, layer: str) -> str:
    """Returns what the grid says of a layer: one of the keys of `GRID`."""
    races, fixed, failed = GRID
    counts = cell.layers[layer]["patched"]
    if not cell.holds or any(share(each, "right") < 1 for each in counts.values()):
        return failed
    return races if cell.layers[layer]["status"] == "affected" else fixed


def draw_before_and_after(status: Status, catalogue: Catalogue) -> str:
    """Returns how calls of two threads that are forced to meet end, on two releases, as SVG."""
    # Large letters on a small picture: a phone shows it at half its width.
    pyplot = pictures.plotting(11)
    from matplotlib.patches import Patch

    chosen = [
        next(cell for cell in status.cells if cell.release == version)
        for version in BEFORE_AND_AFTER
        if any(cell.release == version for cell in status.cells)
    ] or status.cells[-1:]
    layers = [name for name in catalogue.classes if any(_races(cell, name) for cell in chosen)]
    height = 1.2 + 0.32 * len(layers)
    figure, axes = pyplot.subplots(
        1, len(chosen), figsize=(6.0, height), sharey=True, squeeze=False
    )
    for cell, axis in zip(chosen, axes[0], strict=True):
        _draw_bars(axis, cell, layers, catalogue)
        axis.set_title(f"PyG {cell.release}", loc="left", weight="bold", pad=26)
    ends = [end for end in ENDS if any(_ends(cell, end) for cell in chosen)]
    handles = [Patch(color=ENDS[end], label=end) for end in ends]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.35 / height, 1, 1))
    return pictures.finish(
        figure,
        "Calls of two threads that share a layer, before and after",
        f"PyG {' and '.join(cell.release for cell in chosen)}. As released, the calls of two "
        "threads that meet crash or return another caller's result; patched, all are right.",
    )


def _races(cell: Cell, layer: str) -> bool:
    return layer in cell.layers and cell.layers[layer]["status"] == "affected"


def _share(cell: Cell, layer: str, tree: str, end: str) -> float:
    return share(cell.layers[layer][tree]["interleaved"], end.replace(" ", "_"))


def _ends(cell: Cell, end: str) -> bool:
    """Whether a call of a layer that races ended so, on one of the trees."""
    layers = [layer for layer in cell.layers if _races(cell, layer)]
    return any(_share(cell, layer, tree, end) for layer in layers for tree in TREES)


def _draw_bars(axis: Any, cell: Cell, layers: list[str], catalogue: Catalogue) -> None:  # noqa: ANN401
    boxes: dict[str, list[tuple[float, float, float, float]]] = {label: [] for label in ENDS}
    for y, layer in enumerate(layers):
        if not _races(cell, layer):
            why = "fixed by PyG" if layer in cell.layers else "not in this release"
            axis.text(1, y + 0.5, why, ha="center", va="center", style="italic")
            continue
        for x, tree in enumerate(TREES):
            left = x + 0.03
            for label in ENDS:
                width = 0.94 * _share(cell, layer, tree, label)
                boxes[label].append((left, y + 0.12, width, 0.76))
                left += width
    for label, shapes in boxes.items():
        pictures.rectangles(axis, shapes, ENDS[label])
    axis.set_xlim(0, 2)
    axis.set_ylim(len(layers), 0)
    axis.set_xticks([0.5, 1.5], ["as released", "patched"])
    axis.xaxis.tick_top()
    axis.set_yticks([y + 0.5 for y in range(len(layers))], [catalogue.classes[n] for n in layers])
    pictures.bare(axis)
