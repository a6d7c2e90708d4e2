"""How pictures are drawn: matplotlib's settings, and SVG files that read on light and on dark."""

import re
from collections.abc import Iterable
from typing import Any
from xml.sax.saxutils import escape

# Text and axes are drawn in this colour, which the file turns into that of the reader's scheme.
INK = "#010203"

# What is good, doubtful and bad: 3 to 1 or more against a light ground and against a dark one.
GREEN, ORANGE, RED = "#4c9f70", "#c97f14", "#c8373a"

_STYLE = """\
 <style>
  svg { color: #24292f }
  text { fill: currentColor }
  @media (prefers-color-scheme: dark) { svg { color: #d0d7de } }
 </style>
"""


# How wide a picture of a page is, in inches: text of 9 points then has 12 px where the picture
# is 850 px wide, as on GitHub.
WIDTH = 8.8


def plotting(font_size: float = 9) -> Any:  # noqa: ANN401
    """Returns `matplotlib.pyplot`, set up such that the same data give the same bytes.

    Args:
        font_size: Of all text, in points.
    """
    # Here, since few commands draw, and it takes long to import.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "pyg-threadsafe",
            "svg.fonttype": "none",
            "font.size": font_size,
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
            **dict.fromkeys(("xtick.color", "ytick.color"), INK),
        }
    )
    return pyplot


def rectangles(
    axis: Any,  # noqa: ANN401
    boxes: Iterable[tuple[float, float, float, float]],
    colour: str,
) -> None:
    """Draws boxes (left, top, width, height) of one colour as one shape, but for empty ones."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Shape

    shapes = [
        Shape([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], closed=True)
        for x, y, w, h in boxes
        if w and h
    ]
    if shapes:
        axis.add_patch(PathPatch(Shape.make_compound_path(*shapes), color=colour, lw=0))


def blank(label: str) -> Any:  # noqa: ANN401
    """Returns the entry of a legend that says what a cell without a colour means."""
    from matplotlib.patches import Patch

    return Patch(facecolor="none", edgecolor=INK, label=f"blank: {label}")


def bare(axis: Any) -> None:  # noqa: ANN401
    """Takes the frame and the tick marks off a table of boxes."""
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def finish(figure: Any, title: str, description: str) -> str:  # noqa: ANN401
    """Returns a figure as SVG, with a title and a description for screen readers, and closes it.

    Args:
        figure: A figure of matplotlib's.
        title: What it shows, in a few words.
        description: The same in a sentence or two.
    """
    import io

    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    pyplot.close(figure)
    return compact(buffer.getvalue(), title, description)


def compact(svg: str, title: str, description: str) -> str:
    """Returns matplotlib's SVG with a title, in the reader's colours, and a line a shape."""
    head = f" <title>{escape(title)}</title>\n <desc>{escape(description)}</desc>\n{_STYLE}"
    svg = re.sub(r"<svg ([^>]*)>\n", lambda m: f'<svg role="img" {m[1]}>\n{head}', svg, count=1)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    # Any sans-serif font fits: the layout leaves room for a wide one.
    svg = re.sub(r"font-family: [^;]*;", "font-family: sans-serif;", svg)
    # matplotlib writes a line for each corner.
    svg = re.sub(r' d="([^"]*)"', lambda m: f' d="{_path(m[1])}"', svg)
    # A group of one shape or text needs no group, and no name.
    one = re.compile(r'<g(?: id="\w+")?>\s*(<[^<>]*/>|<text [^<>]*>[^<>]*</text>)\s*</g>')
    while one.search(svg):
        svg = one.sub(r"\1", svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def _path(data: str) -> str:
    numbers = re.sub(
        r"-?\d+\.\d+",
        lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."),
        " ".join(data.split()),
    )
    return re.sub(r" (?=M )", "\n", numbers)
