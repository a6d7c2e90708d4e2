"""`add-release`: pin a new PyG release or nightly build."""

import click
from rich.text import Text

from kit import adding, places, releases
from kit.adding import Addition
from kit.console import git_url_option, help_of, out, progress, source_of
from kit.errors import shown


@click.command(
    "add-release",
    **help_of(
        "Pin a new PyG release or nightly build. Its archive comes from PyPI, its commit from "
        "the git repository; the patches that fit it, blob for blob, are taken.",
        "kit.sh add-release 2.8.2 --check    # show the record",
        "kit.sh add-release 2.8.2            # write it",
        exits="3 no such release; 4 patches/ is not as committed",
    ),
)
@click.argument("version", metavar="PYG-VERSION")
@git_url_option
@click.option("--check", is_flag=True, help="Write nothing, show the record.")
def add_release(version: str, check: bool, git_url: str) -> None:
    """Pins a new PyG release or nightly build."""
    places.need_checkout("add-release")
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
