"""What is kept of a branch that has been made, beside its patches."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from kit.upstream import repository


@dataclass(frozen=True)
class Prepared:
    """A branch that has been made. Kept beside its patches, for `check`.

    Attributes:
        topic: The name of the topic.
        subject: The title of the pull request.
        repository: The repository with the branch.
        branch: Its name.
        base: The commit that it starts from.
        head: Its last commit.
        target: The branch to merge it into.
        tests: The test files that are about it.
        new_tests: The names of the tests that it adds to the first file, or the new files.
        has_fix: Whether it changes the library.
        version: The PyG release of a backport; "" for a topic.
        left_out: The patches that the base has no files for.
    """

    topic: str
    subject: str
    repository: str
    branch: str
    base: str
    head: str
    target: str
    tests: list[str]
    new_tests: list[str]
    has_fix: bool
    version: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its patches and its description lie."""
        return repository.BUILD / self.topic


def read(topic: str) -> Prepared | None:
    """Returns the branch of a topic as it is now, if there is one."""
    file = repository.BUILD / topic / "prepared.json"
    if not file.exists():
        return None
    prepared = Prepared(**json.loads(file.read_text(encoding="utf-8")))
    # Somebody may have added a commit, or removed the branch.
    clone = Path(prepared.repository)
    head = repository.resolve(clone, f"refs/heads/{prepared.branch}") if clone.is_dir() else ""
    return dataclasses.replace(prepared, head=head) if head else None
