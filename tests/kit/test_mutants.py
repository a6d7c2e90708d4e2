"""Mutants: they are made from every patch, and each keeps a value where threads share it."""

import pytest
from kit import mutants, mutating, releases
from kit.errors import TreeError
from kit.mutants import WAYS, mutate
from kit.releases import Patch, Release

CATALOGUE = releases.load()
PATCHED = [(r, layer) for r in CATALOGUE.releases for layer in r.affected()]


def patch_of(release: Release, layer: str) -> Patch:
    """The patch that changes the file in which the fault is put back."""
    path = mutating.mutated_file(release, layer)
    return next(
        p for p in release.patches if p.is_for_library and path in [c.path for c in p.changes]
    )


def hunks_of(patch: Patch, path: str) -> str:
    """What stands in the hunks of a patched file."""
    (file,) = [file for file in patch.hunks if file.path == path]
    return "".join(line.value for hunk in file for line in hunk.target_lines())


def test_every_layer_has_its_sites() -> None:
    assert set(mutants.SITES) == set(CATALOGUE.classes)
    assert set(mutating.ERAS) <= {release.version for release in CATALOGUE.releases}
    tried = {layer for r in map(CATALOGUE.find, mutating.ERAS) for layer in r.affected()}
    assert tried == set(CATALOGUE.classes)


@pytest.mark.parametrize(
    "release, layer", PATCHED, ids=[f"{r.version}-{layer}" for r, layer in PATCHED]
)
def test_every_patch_can_be_mutated(release: Release, layer: str) -> None:
    """Each place is in the hunks: a change of a patch that hides one is noticed here."""
    hunks = hunks_of(patch_of(release, layer), mutating.mutated_file(release, layer))
    made = mutate(layer, hunks)
    assert list(made) == list(WAYS)
    assert len({*made.values(), hunks}) == len(WAYS) + 1
    for way, mutant in made.items():
        assert mutant.endswith(WAYS[way])
        if (layer, way) not in mutants.OWN_SITES:
            assert mutant.count("_keep(") >= 2
            assert mutant.count("_kept(") >= 2


def test_a_file_that_is_not_as_expected_is_refused() -> None:
    with pytest.raises(TreeError, match="cannot be put back into fa_conv: expected 1 places"):
        mutate("fa_conv", "        self._keep_alpha(alpha)\n")


def test_each_way_keeps_one_value() -> None:
    """Alone, each gives back what was kept last; for another layer, where it tells them apart."""

    class Layer:
        pass

    class Other:
        pass

    apart = {"attribute", "class attribute", "cache"}
    for way, code in WAYS.items():
        names: dict[str, object] = {}
        exec(code, names)
        keep, kept = names["_keep"], names["_kept"]
        assert callable(keep) and callable(kept)
        layer, other = Layer(), Other()
        assert kept(layer) is None
        keep(layer, 1)
        keep(layer, 2)
        assert kept(layer) == 2, way
        assert kept(other) == (None if way in apart else 2), way
