"""The page on the layers of all releases: its data, its text, its picture."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from kit import pages, pictures
from kit.audit import outside
from kit.audit.kinds import Kind, load_reviewed
from kit.audit.outside import Outside
from kit.audit.survey import Finding, Survey
from kit.releases import Catalogue

PAGE = pages.DOCS / "audit.md"
DATA = pages.DOCS / "audit.json"
PICTURE = pages.DOCS / "audit.svg"

# Whose patches are not for a layer: `outside` tries them.
NO_LAYER = "Explainer"


def dump(surveys: list[Survey], machine: str) -> str:
    """The data of the page, as JSON with a record a line."""
    return pages.dump({"machine": machine, "surveys": [asdict(each) for each in surveys]})


def load() -> tuple[list[Survey], str]:
    """Reads what `dump` wrote.

    Raises:
        SourceError: If it is missing.
    """
    return parse(pages.read_data(DATA, "'scripts/kit.sh audit --survey' makes it anew."))


def parse(data: dict[str, Any]) -> tuple[list[Survey], str]:
    """The surveys in the data, and the machine that they were made on."""
    surveys = []
    for each in data["surveys"]:
        findings = [
            Finding(**{**f, "written": tuple(f["written"]), "read": tuple(f["read"])})
            for f in each["findings"]
        ]
        surveys.append(Survey(**{**each, "findings": findings}))
    return surveys, data["machine"]


def problems(
    surveys: Sequence[Survey], measured: Sequence[Outside], catalogue: Catalogue
) -> Iterator[str]:
    """What of the page does not agree with the patches, or with `audit.toml`; in sentences."""
    by_release = {each.release: each for each in surveys}
    disturbed = {each.release for each in measured if outside.shows_the_race(each)}
    for release in catalogue.releases:
        surveyed = by_release.get(release.version)
        if surveyed is None:
            yield f"PyG {release.version} was not surveyed."
            continue
        confirmed = {each.cls for each in surveyed.findings if each.verdict == "confirmed"}
        # What is no layer is measured in another way.
        confirmed |= {NO_LAYER} if release.version in disturbed else set()
        patched = {catalogue.classes[name] for name in release.affected()}
        for name in sorted(confirmed - patched):
            yield f"PyG {release.version}: {name} races, and no patch is for it."
        for name in sorted(patched - confirmed):
            yield (
                f"PyG {release.version}: {name} has a patch, and the audit confirms no race in it."
            )
    written = {(f.cls, f.attribute, f.kind) for each in surveys for f in each.findings}
    written |= {(cls, "*", kind) for cls, _, kind in written}
    for entry in load_reviewed():
        if (entry.cls, entry.attribute, entry.kind.value) not in written:
            yield (
                f"audit.toml has {entry.cls}.{entry.attribute} as '{entry.kind.value}', which no "
                f"release writes so."
            )


# The words of a cell, the worst first, with the letter and the colour of the picture.
LABELS = {
    "race": (pictures.RED, "a call-dependent value is read back, in the class or in one that it "
             "holds, and threads that were forced to interleave took each other's"),
    "race, not run": (pictures.ORANGE, "a race by the rules; the audit cannot run it, or could not "
                      "force it"),
    "refuted": ("#9fb7d4", "a race by the rules, but every interleaving gave the right results"),
    "benign race": ("#b7c9a8", "threads can take each other's value, and it changes no result but "
                    "by rounding"),
    "left for the caller": ("#d9c8e3", "written, and read by the caller alone"),
    "cache by request": ("#cfd8dc", "with `cached=True`, or its like"),
    "lazy initialisation": ("#cfd8dc", "by the first call"),
    "training only": ("#cfd8dc", "not at inference"),
    "idempotent": ("#cfd8dc", "every thread writes the same"),
    "writes nothing": (pictures.GREEN, "a call leaves nothing in the layer"),
}  # fmt: skip


def word_of(finding: Finding) -> str:
    """The word for a finding in the table."""
    if finding.verdict == "confirmed":
        return "race"
    if finding.kind in ("", Kind.RACE.value):
        if finding.verdict in ("refuted", "not read back"):
            return "refuted"
        return "race, not run" if finding.kind else "idempotent"
    return finding.kind


def labels_of(surveyed: Survey) -> dict[str, str]:
    """The worst word of each class that writes, and of each layer that ran and does not."""
    order = list(LABELS)
    labels = dict.fromkeys(surveyed.layers, "writes nothing") | dict.fromkeys(
        surveyed.racing, "race"
    )
    for finding in surveyed.findings:
        word = word_of(finding)
        old = labels.get(finding.cls, "writes nothing")
        labels[finding.cls] = min(old, word, key=order.index)
    return labels


def render(surveys: list[Survey], machine: str, measured: list[outside.Outside]) -> str:
    """The page, in Markdown."""
    newest = surveys[-1]
    lines = [
        "# What the layers of PyG leave in `self`",
        "",
        "Made by `scripts/kit.sh audit --survey`; nothing here is typed by hand. Each pinned "
        "release, as upstream made it, is read (`scripts/kit/audit/static.py`: every write to "
        "`self` that a forward pass can reach, in all of `torch_geometric.nn`), and its layers are "
        "run "
        "(`scripts/kit/programs/audit`: traced, forced to interleave wherever a written "
        f"attribute is read back, and stressed), on {machine} with torch {newest.torch} and "
        f"Python {newest.python}. The data are in [audit.json](audit.json).",
        "",
        "![Layers by releases: races, and writes that threads can live with](audit.svg)",
        "",
        "## What races",
        "",
        "Confirmed: two threads that were forced to interleave took each other's value.",
        "",
        "| class | attribute | releases | written, in the last of them | read back |",
        "|---|---|---|---|---|",
        *_rows(surveys, {"race"}),
        "",
        "Races by the rules that the audit did not force, with what is known of each:",
        "",
        "| class | attributes | releases | written, in the last of them | what is known |",
        "|---|---|---|---|---|",
        *_rows(surveys, {"race, not run"}, with_reason=True),
        "",
        *outside.render(measured),
        "## All layers by all releases",
        "",
        *(f"- **{word}**: {text}." for word, (_, text) in LABELS.items()),
        "",
        "Of a class with several attributes, the worst one counts. A cell is empty where a "
        "release does not have the class, or where it writes nothing and the audit has no way "
        "to run it.",
        "",
    ]
    lines += [*_table(surveys), "", _legend(surveys)]
    return "\n".join(lines) + "\n"


def _table(surveys: list[Survey]) -> list[str]:
    """All classes by all releases."""
    tables = {each.release: labels_of(each) for each in surveys}
    names = sorted({name for labels in tables.values() for name in labels}, key=str.lower)
    heads = [_short(each.release) for each in surveys]
    lines = ["| class | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    shown = {"writes nothing": "·"}
    for name in names:
        cells = [tables[each.release].get(name, "") for each in surveys]
        lines.append(f"| {name} | " + " | ".join(shown.get(c, c) for c in cells) + " |")
    return lines


def _legend(surveys: list[Survey]) -> str:
    lacking = {name for each in surveys for name in each.failed}
    nowhere = [name for name in lacking if not any(name in each.layers for each in surveys)]
    return (
        "· stands for *writes nothing*. Where a package such as pyg-lib was missing, some of these "
        f"could be read only: {', '.join(sorted(lacking)) or 'none'}. Nowhere could be run: "
        f"{', '.join(sorted(nowhere)) or 'none'}."
    )


def _rows(surveys: list[Survey], labels: set[str], with_reason: bool = False) -> list[str]:
    by_key: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    for surveyed in surveys:
        for finding in surveyed.findings:
            if word_of(finding) in labels:
                # Of what could not be forced, one reason for a class is enough.
                key = (finding.cls, "" if with_reason else finding.attribute)
                by_key.setdefault(key, []).append((surveyed.release, finding))
    order = [surveyed.release for surveyed in surveys]
    rows = []
    for (cls, _), group in sorted(by_key.items()):
        finding = group[-1][1]
        attributes = ", ".join(f"`{name}`" for name in sorted({f.attribute for _, f in group}))
        places = "<br>".join(f"`{place}`" for place in finding.written[:3])
        last = finding.reason if with_reason else f"`{finding.read[0]}`"
        span = _span(list(dict.fromkeys(release for release, _ in group)), order)
        rows.append(f"| `{cls}` | {attributes} | {span} | {places} | {last} |")
    return rows


def _span(releases: list[str], order: list[str]) -> str:
    """Releases in a row, as from and to."""
    spans: list[list[str]] = []
    for release in releases:
        if spans and order.index(spans[-1][-1]) + 1 == order.index(release):
            spans[-1].append(release)
        else:
            spans.append([release])
    return ", ".join(s[0] if len(s) == 1 else f"{s[0]} to {_short(s[-1])}" for s in spans)


def _short(release: str) -> str:
    return re.sub(r"\.dev\d+$", ".dev", release)


def draw(surveys: list[Survey]) -> str:
    """Returns the picture, as SVG: a cell a class and release, in the colour of its word."""
    pyplot = pictures.plotting()
    from matplotlib.patches import Patch

    tables = [labels_of(surveyed) for surveyed in surveys]
    order = list(LABELS)
    names = {name for labels in tables for name in labels}
    worst = {
        name: min(order.index(labels[name]) for labels in tables if name in labels)
        for name in names
    }
    # What races first; then what writes less, each in the order of the alphabet.
    rows = sorted(names, key=lambda name: (worst[name], name.lower()))
    figure, axis = pyplot.subplots(figsize=(pictures.WIDTH, 2.2 + 0.17 * len(rows)))
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for y, name in enumerate(rows):
        for x, labels in enumerate(tables):
            if name in labels:
                boxes.setdefault(LABELS[labels[name]][0], []).append(
                    (x + 0.05, y + 0.06, 0.9, 0.88)
                )
    for colour, shapes in boxes.items():
        pictures.rectangles(axis, shapes, colour)
    axis.set_xlim(0, len(surveys))
    axis.set_ylim(len(rows), 0)
    axis.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axis.set_xticks(
        [x + 0.5 for x in range(len(surveys))],
        [_short(surveyed.release) for surveyed in surveys],
        rotation=90,
    )
    axis.xaxis.tick_top()
    pictures.bare(axis)
    # Words of one colour share an entry.
    entries: dict[str, list[str]] = {}
    for word, (colour, _) in LABELS.items():
        if any(word in labels.values() for labels in tables):
            entries.setdefault(colour, []).append(word)
    handles = [Patch(color=colour, label=", ".join(labels)) for colour, labels in entries.items()]
    if any(name not in labels for labels in tables for name in names):
        label = "the release does not have it, or it writes nothing and could not be run"
        handles.append(pictures.blank(label))
    figure.legend(handles=handles, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 1.5 / figure.get_figheight(), 1, 1))
    return pictures.finish(
        figure,
        "What the layers of PyG leave in self, by release",
        "A row for each class, a column for each release; the colour says whether threads that "
        "share it take each other's values.",
    )
