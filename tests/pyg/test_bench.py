"""The program that times layers: it tells a slower one, and one that takes more memory."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAMS, REGRESSION_TEST, Warm
from patched_layers import LAYERS


@pytest.fixture(scope="module")
def seen(
    on_nightly: None,
    trees: dict[str, Path],
    warm: dict[str, Warm],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    tree = trees["patched"]
    code = (tree / LAYERS["transformer_conv"].module).read_text()
    costly = tmp_path_factory.mktemp("bench") / "costly.py"
    last = "        out = out * alpha.view(-1, self.heads, 1)\n"
    assert code.count(last) == 1
    # A list, such that all of it is held at once.
    wasted = "        wasted = [out.exp() + i for i in range(8)]\n"
    costly.write_text(code.replace(last, wasted + last))
    case = {
        "class": "TransformerConv",
        "test": str(tree / REGRESSION_TEST.format("transformer_conv")),
        "variants": {
            "unpatched": None,
            "patched": str(tree / LAYERS["transformer_conv"].module),
            "costly": str(costly),
        },
        "nodes": 2_000,
        "edges": 20_000,
        "rounds": 6,
        "calls": 2,
    }
    build = {"args": [8, 8], "kwargs": {"heads": 4}}
    cases = [
        {**case, "mode": mode, "build": build if mode == "inference" else None}
        for mode in ("inference", "training")
    ]
    result = warm["pristine"].run(PROGRAMS / "bench.py", json.dumps(cases))
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])["cases"]
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["inference", "training"])
def test_costs_are_seen(seen: list[dict[str, Any]], number: int) -> None:
    times, peak = seen[number]["times"], seen[number]["peak_bytes"]
    assert {variant: len(found) for variant, found in times.items()} == dict.fromkeys(
        ("unpatched", "patched", "costly"), 6
    )
    middle = {variant: statistics.median(found) for variant, found in times.items()}
    assert middle["costly"] > 1.2 * middle["unpatched"]
    assert peak["costly"] > 1.2 * peak["unpatched"]
    assert peak["patched"] == peak["unpatched"]
