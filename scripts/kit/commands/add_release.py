"""`add-release`: pin a new PyG release or nightly build."""

import click
from rich.text import Text

from kit import adding, releases
from kit.adding import Addition
from kit.console import EXIT_CODES, git_url_option, out, progress, source_of
from kit.errors import shown


@click.command("add-release", epilog=EXIT_CODES)
@click.argument("version", metavar="PYG-VERSION")
@git_url_option
@click.option("--check", is_flag=True, help="Write nothing, show the record.")
def add_release(version: str, check: bool, git_url: str) -> None:
    """Pin a new PyG release or nightly build.

    Its archive comes from PyPI, its commit from the git repository. The patches that
    fit it, blob for blob, are taken; what a person must decide is listed at the end.
    """
    catalogue = releases.load()
    with progress() as notify:
        addition = adding.add(version, catalogue, source_of("auto", git_url, False, notify))
    out.print(Text(adding.format_record(addition.release)))
    for sentence in addition.findings:
        out.print(sentence)
    for patch in addition.fits:
        out.print(f"{patch.name} names it from now on, in `Releases:`.")
    if not check:
        adding.write(addition)
    out.print(Text("To do:", style="bold"))
    for sentence in _worklist(addition):
        out.print(f"  - {sentence}")


def _worklist(addition: Addition) -> list[str]:
    version = addition.release.version
    return [
        *addition.worklist,
        *(
            f"The proposal for {path} is {shown(adding.proposal_file(addition, path))}."
            for path, content in addition.proposals.items()
            if content is not None
        ),
        "Name it in README.md, tox.ini and tests/kit/test_releases.py; 'scripts/test.sh --quick' "
        "says what is missing.",
        f"Run 'scripts/kit.sh validate' and 'scripts/kit.sh prove {version}'.",
    ]
