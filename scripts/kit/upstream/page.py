"""What is said of a branch: its description, and the page on what its checks gave."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit import pages, releases, status
from kit.releases import ROOT, Catalogue, Patch, Release
from kit.upstream.prepared import Prepared
from kit.upstream.topics import BACKPORT, Topic, folder, load

PAGE = ROOT / "docs" / "upstream.md"
DATA = ROOT / "docs" / "upstream.json"


def fill_in(name: str, **values: object) -> str:
    """Fills in a template."""
    import jinja2  # not at the top: `apply` takes a second, and has no use for it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown, of the kit's own text)
    )
    return environment.get_template(name).render(**values)


def read_data() -> dict[str, Any]:
    """Returns what `check --record` has kept, by topic."""
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    return data


def digest(name: str) -> str:
    """Returns a digest of what a branch is made from.

    Args:
        name: A topic, whose files count, or a backport, for which the patches of its release do.
    """
    if name.startswith(BACKPORT):
        release = releases.load().find(name.removeprefix(BACKPORT))
        files = [patch.file for patch in release.patches]
    else:
        files = sorted(file for file in (folder() / name).iterdir() if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        of_file = hashlib.sha256(file.read_bytes()).hexdigest()
        whole.update(f"{file.parent.name}/{file.name} {of_file}\n".encode())
    return whole.hexdigest()


def _record_of(name: str) -> dict[str, Any]:
    """What was recorded of a branch, as it would be made today; {} where its files have changed."""
    recorded: dict[str, Any] = read_data().get(name, {})
    return recorded if recorded.get("files") == digest(name) else {}


def record(topic: Topic | None, prepared: Prepared, entry: dict[str, Any]) -> Iterator[Path]:
    """Keeps what the checks of a branch gave, in the page and in the description that quotes it.

    Yields:
        Each file that was written.
    """
    data = read_data() | {prepared.topic: {**entry, "files": digest(prepared.topic)}}
    files = {DATA: pages.dump(data), PAGE: render(data)}
    yield from pages.write(files)
    if topic is not None:
        yield from pages.write({prepared.folder / "body.md": describe(topic, prepared)})


def render(data: dict[str, Any]) -> str:
    """Returns the page on what the checks of each branch gave, in Markdown."""
    topics = [topic for topic in load() if topic.name in data]
    backports = sorted(name for name in data if name.startswith(BACKPORT))
    changed = [name for name in data if data[name].get("files") != digest(name)]
    text = fill_in("page.md.jinja", data=data, topics=topics, backports=backports, changed=changed)
    return _tidy(text)


def describe(topic: Topic, prepared: Prepared) -> str:
    """Returns the description of a pull request, in Markdown."""
    recorded = _record_of(topic.name)
    text = fill_in(
        "body.md.jinja",
        topic=topic,
        has_fix=prepared.has_fix,
        takes_list=topic.takes_list,
        uses_helper="assert_thread_safe" in topic.read("test.py"),
        base=prepared.base,
        reproducer=topic.read("reproducer.py"),
        scripted=topic.reproducers.get("reproducer_torchscript.py"),
        proof=recorded.get("proof"),
        cost=recorded.get("cost"),
        machine=recorded.get("machine"),
    )
    return _unwrap(_tidy(text))


def describe_backport(
    prepared: Prepared,
    release: Release,
    catalogue: Catalogue,
    taken: list[Patch],
    reproducer: str,
) -> str:
    """Returns the description of a backport, in Markdown."""
    cells = [
        cell
        for cell in status.load(status.DATA).cells
        if cell.release == release.version and cell.holds
    ]
    fixed = [
        f"{catalogue.classes[layer]} is fixed from {first_fixed.version} on"
        for layer in release.affected()
        if (first_fixed := catalogue.fixed_in(layer))
    ]
    text = fill_in(
        "backport/body.md.jinja",
        topic=prepared.topic,
        release=release,
        layers=[f"`{catalogue.classes[layer]}`" for layer in release.affected()],
        fixed=", ".join(fixed),
        base=prepared.base,
        reproducer=reproducer,
        commits=[patch.subject for patch in taken],
        left_out=prepared.left_out,
        environments=[cell.environment for cell in cells],
        proof=_record_of(prepared.topic).get("proof"),
    )
    return _unwrap(_tidy(text))


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _unwrap(text: str) -> str:
    """Puts each paragraph and each item of a list on one line: GitHub breaks at every newline."""
    lines: list[str] = []
    in_code = False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        previous = lines[-1] if lines else ""
        starts = not line or line.startswith(("- ", "|", "### ", "```"))
        if in_code or starts or not previous or previous.startswith(("|", "### ", "```")):
            lines.append(line)
        else:
            lines[-1] = f"{previous} {line.strip()}"
    return "\n".join(lines) + "\n"
