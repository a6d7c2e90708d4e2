"""`upstream`: prepare and check pull requests for PyG, and backports for a fork of it."""

import dataclasses
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from kit import environments, pages, places, releases, sources
from kit.console import (
    find_python,
    git_url_option,
    help_of,
    out,
    print_path,
    progress,
    source_of,
    torch_options,
)
from kit.errors import ProofError, TreeError, UsageError, shown
from kit.releases import Catalogue
from kit.upstream import branch, checks, page, prepared, repository, topics
from kit.upstream.prepared import Prepared


@click.group(
    "upstream",
    invoke_without_command=True,
    **help_of(
        "Prepare and check pull requests for PyG, and backports for a fork of it.",
        "kit.sh upstream list",
        "kit.sh upstream prepare transformer_conv",
        exits="1 a check failed; 3 no download; 4 the clone",
    ),
)
@click.pass_context
def upstream(context: click.Context) -> None:
    """Prepare and check pull requests for PyG, and backports for a fork of it."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)


@upstream.command(
    "list",
    **help_of(
        "List the pull requests that there are to be made.",
        "kit.sh upstream list",
        exits="4 a topic cannot be read",
    ),
)
def list_topics() -> None:
    """List the pull requests that there are to be made."""
    for topic in topics.load():
        out.print(Text.assemble((topic.name, "bold"), f": {topic.subject}"))
        made = prepared.read(topic.name)
        if made is not None:
            where = shown(Path(made.repository))
            out.print(Text(f"  branch {made.branch} in {where}", style="dim"))
    affected = [release for release in releases.load().releases if release.affected()]
    versions = [release.version for release in affected if not release.is_nightly]
    out.print(
        Text.assemble(
            (f"{topics.BACKPORT}VERSION", "bold"),
            f": the patches of a release, for a fork of PyG: {versions[0]} to {versions[-1]}",
        )
    )


@upstream.command(
    "prepare",
    **help_of(
        "Make the branch, the patches and the description of a pull request. Nothing is pushed: "
        "the commands that do so are printed. Your own work tree and branches are left alone.",
        "kit.sh upstream prepare transformer_conv",
        "kit.sh upstream prepare backport-2.3.1 --repo DIR --base REF",
        exits="3 no download; 4 the clone, or a conflict",
    ),
)
@click.argument("topic", metavar="TOPIC")
@click.option(
    "--repo",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Your clone of PyG.  [default: one is made in build/upstream]",
)
@git_url_option
@click.option(
    "--base",
    metavar="REF",
    help="Where to start: a branch, tag or commit of that clone.  [default: upstream's main "
    "branch as it is now; of a backport, the release]",
)
@click.option(
    "--pr",
    "number",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="The number of the pull request, for the CHANGELOG.",
)
def prepare(
    topic: str, repo: Path | None, git_url: str, base: str | None, number: int | None
) -> None:
    """Makes the branch, the patches and the description of a pull request."""
    catalogue = releases.load()
    release = topics.find_backport(topic, catalogue)
    made: Prepared | None
    with progress() as notify:
        source = source_of("auto", git_url, False, notify)
        if release is None:
            made = branch.prepare(topics.find(topic), catalogue, source, repo, base, number)
        elif number is not None:
            raise UsageError("--pr is for upstream's CHANGELOG: a backport has no use for it.")
        else:
            made = branch.prepare_backport(release, catalogue, source, repo, base)
    if made is None:
        out.print(f"Nothing to do: {base or 'upstream'} has all of {topic} already.")
        return
    _show_branch(made)
    out.print("Next:")
    commands = [f"scripts/kit.sh upstream check {topic}", *branch.next_commands(made)]
    if release is None and number is None:
        commands.append(f"scripts/kit.sh upstream prepare {topic} --pr NUMBER   # and push again")
    for command in commands:
        out.print(Text(f"  {command}"))


def _show_branch(made: Prepared) -> None:
    clone = Path(made.repository)
    out.print(Text.assemble((made.branch, "bold"), " in ", (str(shown(clone)), "bold")))
    paths = repository.changed(clone, made.base, made.head)
    out.print(f"  on {made.base[:12]}, {len(paths)} files changed:")
    for path in paths:
        out.print(Text(f"    {path}"))
    for name in made.left_out:
        out.print(
            Text.assemble("  ", ("left out", "yellow"), f": {name} (the base lacks its file)")
        )
    out.print("  its patches and its description:")
    for file in sorted(made.folder.iterdir()):
        if file.suffix in (".patch", ".md"):
            out.print(Text(f"    {shown(file)}"))


@upstream.command(
    "check",
    **help_of(
        "Check a prepared branch as upstream's CI would, and that it does what it says: linters, "
        "upstream's tests, the new ones fifty times and once without the fix, the reproducer.",
        "kit.sh upstream check transformer_conv",
        exits="1 a check failed; 4 there is no branch yet; 5 no torch",
    ),
)
@click.argument("topic", metavar="TOPIC")
@torch_options
@click.option(
    "--record", is_flag=True, help="Time it too, and keep all in docs/upstream.md (minutes)."
)
def check_topic(topic: str, torch: str, python: Path | None, record: bool) -> None:
    """Checks a prepared branch."""
    if record:
        places.need_checkout("upstream check --record")
    catalogue = releases.load()
    release = topics.find_backport(topic, catalogue) or catalogue.find("nightly")
    if not topic.startswith(topics.BACKPORT):
        topics.find(topic)
    made = prepared.read(topic)
    if made is None:
        raise TreeError(
            f"There is no branch for {topic} yet: 'scripts/kit.sh upstream prepare {topic}' makes "
            f"it."
        )
    # Upstream's own tests of older releases import torch-sparse, even where PyG need not.
    needs_extensions = bool(made.version) or release.needs_extensions
    cache = sources.default_cache()
    python = find_python(release, python, torch, cache, extensions=needs_extensions)
    proof, failed = _run_checks(made, python)
    if failed:
        raise ProofError(f"Failed checks: {', '.join(failed)}.")
    if record:
        _record(made, catalogue, python, proof)


def _run_checks(made: Prepared, python: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns what is to be recorded, and the names of the checks that failed."""
    failed, done = [], []
    proof: dict[str, Any] = {}
    out.print(Text.assemble((made.branch, "bold"), f", on {made.base[:12]}"))
    with progress() as notify:
        for check, facts in checks.check(made, python, notify):
            mark = ("ok  ", "green") if check.holds else ("FAIL", "red")
            out.print(Text.assemble("  ", mark, " ", (check.name, "bold"), f": {check.detail}"))
            done.append(dataclasses.asdict(check))
            for key, value in facts.items():
                nested = isinstance(proof.get(key), dict)
                proof[key] = {**proof[key], **value} if nested else value
            failed += [] if check.holds else [check.name]
    return {**proof, "base": made.base, "checks": done}, failed


def _record(made: Prepared, catalogue: Catalogue, python: Path, proof: dict[str, Any]) -> None:
    described = environments.describe(python, with_torch=True)
    with progress() as notify:
        cost = checks.measure(made, catalogue, python, notify)
    entry = {
        "proof": {**proof, "torch": described.torch, "python": described.version},
        "cost": cost,
        **pages.stamp(f"scripts/kit.sh upstream check {made.topic} --record"),
    }
    topic = None if made.version else topics.find(made.topic)
    for file in page.record(topic, made, entry):
        print_path(file)
