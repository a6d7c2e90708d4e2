"""Mutants of the patched layers: their source, with the fault put back.

Imports no package, so that what runs in a PyG environment can use it, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kit.errors import TreeError

# Where a value of a call can be kept, such that threads take each other's. `_keep()` and
# `_kept()` are added to the module of the layer, which calls them (see `SITES`).
WAYS = {
    "attribute": """
def _keep(owner, value):
    owner._kept_value = value


def _kept(owner):
    return getattr(owner, '_kept_value', None)
""",
    "class attribute": """
def _keep(owner, value):
    type(owner)._kept_value = value


def _kept(owner):
    return getattr(type(owner), '_kept_value', None)
""",
    "module global": """
_kept_value = None


def _keep(owner, value):
    global _kept_value
    _kept_value = value


def _kept(owner):
    return _kept_value
""",
    # Its key tells layers apart, and no threads.
    "cache": """
_kept_values = {}


def _keep(owner, value):
    _kept_values[id(owner)] = value


def _kept(owner):
    return _kept_values.get(id(owner))
""",
    # It is held while the value is written, and while it is read, and not in between.
    "lock left out": """
import threading as _threading

_lock = _threading.Lock()
_kept_values = []


def _keep(owner, value):
    with _lock:
        _kept_values[:] = [value]


def _kept(owner):
    with _lock:
        return _kept_values[0] if _kept_values else None
""",
}


@dataclass(frozen=True)
class Site:
    """A place in a patched file that is changed to put the fault back.

    Attributes:
        before: A regular expression for whole lines, which begins with their indentation.
        after: What stands there in the mutant, as `re.sub` takes it.
        count: How many places match.
    """

    before: str
    after: str
    count: int = 1


# The attention weights, as the released layers kept them: in one place from `message()` on,
# until `forward()` reads and resets them.
_ATTENTION = (
    Site(r"( +)self\._keep_alpha\(alpha, attention\)\n", r"\1_keep(self, alpha)\n"),
    Site(
        r"( +)alpha = self\._take_alpha\(attention\)\n",
        r"\1alpha = _kept(self)\n\1_keep(self, None)\n",
    ),
)

SITES: dict[str, tuple[Site, ...]] = {
    "gatv2_conv": _ATTENTION,
    "transformer_conv": _ATTENTION,
    "fa_conv": _ATTENTION,
    "rgat_conv": _ATTENTION,
    "gat_conv": _ATTENTION,
    # Where the release has what the patch takes away.
    "lpformer": (
        Site(
            r"( +)(return x_j \* alpha\.unsqueeze\(-1\)\n)",
            r"\1_keep(self, alpha)\n\1\2",
        ),
        Site(
            r"( +ppr_rpes=ppr_rpes, size=None\)\n)",
            r"\1        alpha = _kept(self)\n"
            r"        assert alpha is not None\n"
            r"        _keep(self, None)\n",
        ),
    ),
    # The direction of the messages, in one place for all threads.
    "hypergraph_conv": (
        Site(
            r"( +)with _Direction\(self, (.*)\):\n",
            r"\1_keep(self, \2)\n\1if True:\n",
            count=2,
        ),
        Site(
            r"( +)(def __get__\(self, layer, cls=None\):\n)",
            r"\1\2\1    if layer is not None and _kept(layer) is not None:\n"
            r"\1        return _kept(layer)\n",
        ),
    ),
    # The mean of the embeddings.
    "autoencoder": (
        Site(
            r"( +)(mu, logstd = self\.encoder\(\*args, \*\*kwargs\)\n)",
            r"\1\2\1_keep(self, mu)\n",
        ),
        Site(
            r"( +)(z = self\.reparametrize\()mu, logstd\)\n",
            r"\1\2_kept(self), logstd)\n",
        ),
    ),
    # The edge types, which the hook on the messages of a layer reads.
    "to_hetero_with_bases": (
        Site(
            r"( +)(outer, current\.edge_type = current\.edge_type, edge_type\n)",
            r"\1\2\1_keep(conv, edge_type)\n",
        ),
        Site(r"( +)edge_type = current\.edge_type\n", r"\1edge_type = _kept(module)\n"),
    ),
    # The structural copy, which the next explanation of the same model uses again.
    "explainer": (
        Site(
            r"( +)(self\.originals = originals\n)",
            r"\1kept = _kept(originals[0])\n"
            r"\1if kept is not None and kept.originals == originals:\n"
            r"\1    vars(self).update(vars(kept))\n"
            r"\1    return\n"
            r"\1\2\1_keep(originals[0], self)\n",
        ),
    ),
}

# Where a way has places of its own. What an explainer keeps in attributes are masks, and the
# released one keeps them in those of the layers that predict.
OWN_SITES: dict[tuple[str, str], tuple[Site, ...]] = {
    ("explainer", "attribute"): (
        Site(r"( +)(def are_separate\(self\) -> bool:\n)", r"\1\2\1    return False\n"),
    ),
}


def mutate(layer: str, text: str) -> dict[str, str]:
    """Puts the fault back into a patched file, in each of the ways.

    Args:
        layer: The layer, as its series is called.
        text: The patched file.

    Returns:
        The text of each mutant.

    Raises:
        TreeError: If the file is not as it is expected.
    """
    return {
        way: _change(layer, OWN_SITES.get((layer, way), SITES[layer]), text) + "\n" + code
        for way, code in WAYS.items()
    }


def _change(layer: str, sites: tuple[Site, ...], text: str) -> str:
    for site in sites:
        text, count = re.subn(rf"(?m)^{site.before}", site.after, text)
        if count != site.count:
            raise TreeError(
                f"The fault cannot be put back into {layer}: expected {site.count} places like "
                f"'{site.before}', found {count}. Change SITES in scripts/kit/mutants.py."
            )
    return text
