"""What each verb says of itself: one screen, examples first, its own exit codes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from kit import __version__, errors
from kit.cli import UPKEEP, VERBS, cli
from kit.releases import ROOT


def verbs(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from verbs(command, f"{name} ")


ALL = dict(verbs(cli))


@pytest.mark.parametrize("verb", ALL)
def test_one_screen(verb: str) -> None:
    context = click.Context(ALL[verb], info_name=f"scripts/kit.sh {verb}", max_content_width=80)
    lines = ALL[verb].get_help(context).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    # Examples first, which name this verb; exit codes last.
    assert re.match(rf"  \$ scripts/(kit\.sh {verb}|apply\.sh)", lines[2])
    assert any(line.startswith("  Exit codes: ") for line in lines[-2:])


def test_the_door_has_one_screen() -> None:
    """With each verb: those that users need in a line of their own, the others by name."""
    lines = run("--help").splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    rows = [line.split()[0] for line in lines if re.match(r"  [a-z]\S*  +[A-Z]", line)]
    (rest,) = re.findall(r"look after the kit itself: (.*?)\.", " ".join(map(str.strip, lines)))
    assert [*rows, *rest.split(", ")] == list(VERBS)
    assert rows[:3] == ["doctor", "apply", "audit"]
    assert len(rest.split(", ")) == len(UPKEEP)


def test_exit_codes_are_documented() -> None:
    """In a line of the help, and in a table."""
    codes = {"0", "130"} | {
        str(error.exit_code)
        for error in vars(errors).values()
        if isinstance(error, type) and hasattr(error, "exit_code")
    }
    said = run("--help").split("Exit codes: ")[1]
    assert set(re.findall(r"\d+", said)) == codes
    details = (ROOT / "docs" / "details.md").read_text()
    assert set(re.findall(r"^\| (\d+) \| .+ \|$", details, re.M)) == codes


@pytest.mark.parametrize("verb", ALL)
def test_options_that_are_alike(verb: str) -> None:
    options = {name: option for option in ALL[verb].params for name in option.opts}
    assert "--quiet" in options and "-q" in options
    if "--json" in options:
        assert options["--json"].metavar == "[FILE]"


@pytest.mark.parametrize("verb", ALL)
def test_examples_parse(verb: str) -> None:
    """Each option in an example is one of the verb's."""
    options = {name for option in ALL[verb].params for name in option.opts + option.secondary_opts}
    for example in re.findall(r"^\$ (.*?)(?: #.*)?$", ALL[verb].help or "", re.M):
        assert set(re.findall(r"(?<= )--[\w-]+", example)) <= options


@pytest.mark.parametrize("verb", ALL)
def test_what_may_be_left_out_is_in_brackets(verb: str) -> None:
    for parameter in ALL[verb].params:
        if isinstance(parameter, click.Argument):
            shown = parameter.make_metavar(click.Context(ALL[verb]))
            assert shown.startswith("[") is not parameter.required


def run(*arguments: str, **env: str) -> str:
    command = [str(ROOT / "scripts" / "kit.sh"), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **env}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_version() -> None:
    assert run("--version") == f"pyg-threadsafe {__version__}\n"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## {__version__}" in changelog


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_PYG_THREADSAFE_COMPLETE" in run(_PYG_THREADSAFE_COMPLETE=f"{shell}_source")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_no_other(verb: str) -> None:
    """All of them take longer to import than most of them to run."""
    program = (
        f"import sys; sys.argv[1:] = [{verb!r}, '--help']\n"
        "from kit import cli\n"
        "try: cli.main()\n"
        "finally: print([name for name in sys.modules if name.startswith('kit.commands.')])\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    output = subprocess.check_output(command, env=environment, text=True)
    assert output.splitlines()[-1] == f"['kit.commands.{verb.replace('-', '_')}']"
