"""A pristine and a patched tree, side by side."""

from collections.abc import Callable

from conftest import AFTER, BEFORE, LAYER, NEW_TEST
from kit.releases import Catalogue
from kit.sources import Source
from kit.trees import pristine_and_patched


def test_both_trees(catalogue: Catalogue, source: Callable[..., Source]) -> None:
    release = catalogue.find("1.8.0")
    with pristine_and_patched(release, source("sdist"), release.patches) as trees:
        assert (trees.pristine / LAYER).read_text() == BEFORE
        assert (trees.patched / LAYER).read_text() == AFTER
        assert (trees.patched / NEW_TEST).exists() and not (trees.pristine / NEW_TEST).exists()
        assert trees.pristine.parent == trees.patched.parent == trees.folder
    assert not trees.folder.exists()
