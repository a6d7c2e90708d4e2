"""What all verbs have in common: `--quiet`, `--json`, NO_COLOR, and nothing but text in logs."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LAYER, World, refused
from kit.bench import measure
from kit.releases import ROOT, Catalogue
from kit.sources import Source
from test_console import on_terminal
from test_help import ALL

ESCAPE = "\x1b"

# Each verb as it is called where there is no torch: what it does here, or how it refuses.
CALLS = {
    "doctor": ("--tree", "TREE"),
    "apply": ("--tree", "TREE"),
    "audit": ("--path", "TREE", "--static"),
    "build": ("1.8.0", "--source", "sdist", "--extensions", "none", "--out", "OUT"),
    "prove": ("1.8.0", "--python", "/nowhere/python", "--source", "sdist"),
    "bench": ("1.8.0", "--python", "/nowhere/python"),
    "soak": ("1.8.0", "--python", "/nowhere/python", "--source", "sdist"),
    "upstream": (),
    "upstream list": (),
    "upstream prepare": ("no_topic",),
    "upstream check": ("no_topic",),
    "env": ("--python", "/nowhere/python"),
    "validate": ("1.8.0", "--source", "sdist"),
    "example-layer": ("TREE",),
    "add-release": ("1.8.0", "--check"),
    "refresh": ("no_series",),
    "release": ("--out", "/dev/null"),
    "report": ("--results", "TREE"),
    "packages": ("no_package",),
    "mutate": ("1.8.0", "--python", "/nowhere/python", "--source", "sdist"),
    "zoo": ("--results", "TREE"),
}


def arguments(verb: str, tree: Path) -> list[str]:
    places = {"TREE": str(tree), "OUT": str(tree.parent / "out")}
    return [*verb.split(), *(places.get(word, word) for word in CALLS[verb])]


@pytest.mark.parametrize("verb", ALL)
def test_quiet_and_without_a_terminal(world: World, tree: Path, verb: str) -> None:
    """Results and errors alone, and no escape code, whatever FORCE_COLOR says."""
    env = {"FORCE_COLOR": "1", "PYG_THREADSAFE_GIT_URL": world.upstream.as_uri()}
    for asked in (["-q", *arguments(verb, tree)], [*arguments(verb, tree), "--quiet"]):
        result = world.run(*asked, env=env)
        assert ESCAPE not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        if result.returncode in (1, 2, 3, 4, 5) and verb != "upstream":
            refused(result, result.returncode)
            assert re.fullmatch(r"((fault|error): .*\n)+", result.stderr)
        elif verb != "upstream":
            assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("verb", ALL)
def test_no_color(world: World, tree: Path, verb: str) -> None:
    """On a terminal, too, there is no escape code then, not even of progress."""
    env = {"PYG_THREADSAFE_GIT_URL": world.upstream.as_uri(), "COLUMNS": "80"}
    command, environment = world.command(*arguments(verb, tree), env=env)
    _, plain = on_terminal(command, {**environment, "NO_COLOR": "1"})
    assert ESCAPE not in plain
    assert plain.strip()


def test_there_are_colours_on_a_terminal(world: World, tree: Path) -> None:
    command, environment = world.command("doctor", "--tree", tree)
    _, written = on_terminal(command, {**environment, "TERM": "xterm-256color"})
    assert ESCAPE in written


def test_progress_is_there_without_quiet(world: World) -> None:
    result = world.run("validate", "1.8.0", "1.9.0", "--source", "sdist")
    assert result.returncode == 0, result.stderr
    steps = [line for line in result.stderr.splitlines() if " of 2 ..." in line]
    assert steps == ["PyG 1.8.0, 1 of 2 ...", "PyG 1.9.0, 2 of 2 ..."]


def test_bench_says_which_part_of_how_many(
    catalogue: Catalogue, source: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_part(bench: measure.Bench, part: str) -> dict[str, str]:
        bench.notify("under way ...")
        return {}

    monkeypatch.setattr(measure, "measure_part", measure_part)
    told: list[str] = []
    bench = measure.Bench(catalogue, source("sdist"), lambda release: Path(), told.append)
    measure.measure_page(bench, ("threads", "served"), {})
    assert told == ["threads, 1 of 2: under way ...", "served, 2 of 2: under way ..."]


JSON = [verb for verb in ALL if any("--json" in option.opts for option in ALL[verb].params)]


def test_verbs_with_json() -> None:
    assert JSON == ["doctor", "audit", "prove", "soak", "mutate"]


@pytest.mark.parametrize("verb", ["doctor", "audit"])
def test_json(world: World, tree: Path, tmp_path: Path, verb: str) -> None:
    """Alone on the standard output, or in a file beside what is printed; whole on a terminal."""
    if verb == "audit":
        (tree / LAYER).write_text("")  # the small one is no Python
    asked = arguments(verb, tree)
    alone = world.run(*asked, "--json")
    assert world.run(*asked, "--json", "-").stdout == alone.stdout
    data = json.loads(alone.stdout)
    file = tmp_path / "new" / "result.json"
    both = world.run(*asked, "--json", file)
    assert json.loads(file.read_text()) == data
    assert both.stdout == world.run(*asked).stdout
    assert both.returncode == alone.returncode
    command, environment = world.command(*asked, "--json", "--quiet", env={"COLUMNS": "40"})
    _, written = on_terminal(command, {**environment, "NO_COLOR": "1"})
    assert json.loads(written.split("\nerror: ")[0].replace("\r", "")) == data


@pytest.mark.parametrize("verb", JSON)
def test_json_that_cannot_be_written(world: World, tree: Path, tmp_path: Path, verb: str) -> None:
    """It is said at once, and not after minutes of work."""
    (tmp_path / "file").touch()
    asked = [*verb.split(), "--json"]
    place = tmp_path / "file" / "result.json"
    refused(world.run(*asked, place, "1.8.0"), 4, "nothing can be written in", str(place.parent))
    for version in ("1.8.0", "latest", "nightly"):
        refused(world.run(*asked, version), 2, "Name the PYG-VERSION before --json")
    if os.geteuid() != 0:
        tmp_path.chmod(0o555)
        refused(world.run(*asked, tmp_path / "x.json", "1.8.0"), 4, "nothing can be written in")


def test_only_the_console_makes_consoles() -> None:
    """All verbs print by `out` and `err`, or plain text: what is above holds for each."""
    for file in (ROOT / "scripts" / "kit").rglob("*.py"):
        if file.name != "console.py" and "programs" not in file.parts:
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"\bConsole\(|click\.(style|secho|progressbar)", text), file
