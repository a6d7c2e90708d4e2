"""The page on what the proof is worth: it says what its data say, and all of it holds."""

import json
from pathlib import Path
from typing import Any

import pytest
from kit import mutants, mutating, pages, proofs, releases, soaking
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


def test_what_is_recorded_holds(pinned: Catalogue) -> None:
    soaks, mutations = read()
    assert set(mutations) >= set(mutating.ERAS)
    for version, each in mutations.items():
        tried = [mutating.Tried(**one) for one in each["tried"]]
        assert not [one.problem() for one in tried if one.problem()]
        assert list(dict.fromkeys(one.layer for one in tried)) == pinned.find(version).affected()
        assert {one.rounds for one in tried} == {100, 1_000}
        # Each layer was tried as patched, and with each of the mutants that there are.
        assert {(one.layer, one.way) for one in tried} == {
            (layer, way) for layer in pinned.find(version).affected() for way in ("", *mutants.WAYS)
        }
    assert soaks
    for version, each in soaks.items():
        assert set(each["calls"]) == set(pinned.find(version).affected())
        assert each["problems"] == [] and each["growth"] <= soaking.GROWTH_LIMIT
        assert each["threads"] == 16 and each["seconds"] >= 600


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
