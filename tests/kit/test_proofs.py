"""The page on what the proof is worth: it says what its data say, and keeps what is recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
from kit import mutating, pages, proofs, releases, soaking
from kit.releases import Catalogue


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the data, and a page of the test's own."""
    for module, name in ((soaking, "soak.json"), (mutating, "mutations.json")):
        (tmp_path / name).write_bytes((pages.DOCS / name).read_bytes())
        monkeypatch.setattr(module, "DATA", tmp_path / name)
    monkeypatch.setattr(proofs, "PAGE", tmp_path / "proofs.md")
    return tmp_path


def read() -> tuple[dict[str, Any], dict[str, Any]]:
    return proofs.read(soaking.DATA), proofs.read(mutating.DATA)


def test_the_page_is_what_its_data_say(pinned: Catalogue) -> None:
    soaks, mutations = read()
    assert proofs.PAGE.read_text() == proofs.render(soaks, mutations, pinned)
    assert soaking.DATA.read_text() == pages.dump(soaks)
    assert mutating.DATA.read_text() == pages.dump(mutations)


def test_a_new_record_takes_the_place_of_its_release(elsewhere: Path, pinned: Catalogue) -> None:
    before = proofs.read(soaking.DATA)
    (version, kept), *_ = before.items()
    samples = [(float(i), 2**30, i) for i in range(600)]
    worse = {**kept, "samples": samples, "problems": ["It leaks."]}
    written = proofs.record(soaking.DATA, worse, kept["stamp"], pinned)
    assert written == [soaking.DATA, proofs.PAGE]
    after = json.loads(soaking.DATA.read_text())
    assert set(after) == set(before)
    assert len(after[version]["samples"]) == 31
    assert after[version]["samples"][-1] == [599.0, 2**30, 599]
    assert "**It leaks.**" in proofs.PAGE.read_text()


def test_without_any_record(elsewhere: Path, pinned: Catalogue) -> None:
    kept = next(iter(proofs.read(mutating.DATA).values()))
    soaking.DATA.unlink()
    mutating.DATA.unlink()
    proofs.record(mutating.DATA, kept, kept["stamp"], pinned)
    assert list(proofs.read(mutating.DATA)) == [kept["release"]]
    assert f"| {kept['release']} | " in proofs.PAGE.read_text()
