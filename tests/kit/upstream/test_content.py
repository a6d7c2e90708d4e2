"""Patches that are merged with three sides, tests that are added, the CHANGELOG."""

from pathlib import Path

from conftest import git
from kit.errors import TreeError
from kit.upstream import content, topics

from .conftest import CHANGELOG, LIBRARY, ONE, prepare, run, state


def test_main_has_moved_on(build: Path, main: Path) -> None:
    file = main / LIBRARY
    text = file.read_text()
    file.write_text(
        "# A new first line.\n" + text.replace("beta: bool = False", "beta: bool = True")
    )
    changelog = main / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace(
            "### Fixed\n\n- Fixed some", "### Fixed\n\n- New\n- Fixed some"
        )
    )
    git("commit", "-qam", "move on", cwd=main)
    prepare(build, ONE, "--repo", main, "--base", "master")
    branch = topics.find(ONE).branch
    merged = git("show", f"{branch}:{LIBRARY}", cwd=main)
    assert merged.startswith("# A new first line.\n") and "beta: bool = True" in merged
    assert "attention.append(alpha)" in merged and "_alpha" not in merged


def test_conflict(build: Path, main: Path) -> None:
    file = main / LIBRARY
    file.write_text(
        file.read_text().replace("self._alpha = alpha\n", "self._alpha = alpha.clone()\n")
    )
    git("commit", "-qam", "move on", cwd=main)
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == TreeError.exit_code
    assert state(main) == before
    assert not (build / ONE).exists()
    said = result.stderr
    assert f"upstream/{ONE}/fix.patch conflicts" in said and LIBRARY in said
    # Both sides, and what to do.
    ours, theirs = said.index("self._alpha = alpha.clone()"), said.index("attention.append(alpha)")
    assert said.index("<<<<<<<", said.index("diff --cc")) < ours < theirs
    assert "--base REF" in said and "CONTRIBUTING.md" in said


def test_a_file_that_is_gone(build: Path, main: Path) -> None:
    git("rm", "-q", LIBRARY, cwd=main)
    git("commit", "-qm", "remove", cwd=main)
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == TreeError.exit_code and LIBRARY in result.stderr
    assert state(main) == before


def test_changelog_of_a_release(build: Path, main: Path) -> None:
    (main / "CHANGELOG.md").write_text("# Changelog\n\n## [2.9.0] - 2026-12-01\n\n### Fixed\n")
    git("commit", "-qam", "release", cwd=main)
    before = state(main)
    result = run(build, "prepare", ONE, "--repo", main, "--base", "master")
    assert result.returncode == 4 and "[Unreleased]" in result.stderr
    assert state(main) == before


def test_add_entry() -> None:
    text = content.add_entry(CHANGELOG, "Added", "New")
    assert "### Added\n\n- New\n\n### Changed\n" in text
    text = content.add_entry(text, "Added", "Newer")
    assert "### Added\n\n- Newer\n- New\n\n### Changed\n" in text
    assert text.split("## [1.0.0]")[1] == CHANGELOG.split("## [1.0.0]")[1]


def test_add_tests(tmp_path: Path) -> None:
    added = "import threading\n\nimport torch\n"
    added += "".join(f"\n\ndef test_{name}():\n    pass\n" for name in "ab")
    existing = "import torch\n\n\ndef test_a():\n    assert True\n"
    text = content.add_tests(existing, added, tmp_path)
    assert text == (
        "import threading\n\nimport torch\n\n\ndef test_a():\n    assert True\n"
        "\n\ndef test_b():\n    pass\n"
    )
    assert content.add_tests(text, added, tmp_path) == text
    assert content.add_tests("", added, tmp_path) == added
