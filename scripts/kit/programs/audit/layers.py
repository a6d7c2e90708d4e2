"""The layers of the PyG on the path, each in every form in which it infers."""

import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

from . import analysis
from .calls import Problem, Request, Subject
from .model import environment
from .places import last_line

PROGRAMS = str(Path(__file__).parents[1])


def audit_layers(names: List[str], calls: int, notify: Callable[[str], None]) -> Dict[str, Any]:
    """Audits each layer in each form in which it infers.

    Args:
        names: The layers; all that layers.py can build where there is none.
        calls: How many calls threads make of each.
        notify: Is told which layer runs.
    """
    sys.path.insert(0, PROGRAMS)
    import layers as known  # type: ignore[import-not-found,unused-ignore]

    unknown = sorted(set(names) - set(known.names()))
    if unknown:
        raise Problem(
            "No layer {}: PyG {} and layers.py have {}. Name one of these.".format(
                ", ".join(unknown), environment()["torch_geometric"], ", ".join(known.names())
            )
        )
    audited: Dict[str, Any] = {}
    names = names or known.names()
    for number, name in enumerate(names):
        notify(f"running {name}, {number + 1} of {len(names)}")
        # Two requests of the same shapes, and one of other shapes.
        drawn = [known.forms(name, 12345), known.forms(name, 54321), known.forms(name, 7, nodes=9)]
        results: Dict[str, Any] = {}
        for form in drawn[0]:
            requests = [Request((), arguments[form]) for arguments in drawn]
            try:
                layer = known.get_layer(name, form).eval()
                subject = Subject(layer, requests)
                # One form is enough for what is out of sight.
                results[form] = analysis.audit(subject, calls, explores=not results)
            except Exception as error:
                results[form] = {"error": last_line(error.__cause__ or error)}
        audited[name] = {"forms": results}
    return {**environment(), "layers": audited}
