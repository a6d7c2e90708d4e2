"""The program that times layers: it tells a slower one, and one that takes more memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAMS, REGRESSION_TEST, Warm
from patched_layers import LAYERS


@pytest.fixture(scope="module")
def measured(
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
    samples: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])["cases"]
    return samples


@pytest.mark.parametrize("number", [0, 1], ids=["inference", "training"])
def test_costs_are_seen(measured: list[dict[str, Any]], number: int) -> None:
    times, peak = measured[number]["times"], measured[number]["peak_bytes"]
    assert {variant: len(samples) for variant, samples in times.items()} == dict.fromkeys(
        ("unpatched", "patched", "costly"), 6
    )
    # The fastest of each: what else the machine does comes and goes.
    fastest = {variant: min(samples) for variant, samples in times.items()}
    assert fastest["costly"] > 1.2 * fastest["unpatched"]
    assert peak["costly"] > 1.2 * peak["unpatched"]
    assert peak["patched"] == peak["unpatched"]


@pytest.mark.parametrize("count", [2, 3])
def test_variants_take_turns(
    on_nightly: None, warm: dict[str, Warm], tmp_path: Path, count: int
) -> None:
    program = tmp_path / "turns.py"
    program.write_text(
        f"import json, sys\nsys.path.insert(0, {str(PROGRAMS)!r})\nfrom bench import in_turn\n"
        f"print(json.dumps([in_turn(list('abc'[:{count}]), n) for n in range(4 * {count})]))\n"
    )
    result = warm["pristine"].run(program)
    assert result.returncode == 0, result.stderr
    orders = json.loads(result.stdout)
    # Each is first as often as any other one, and each follows each.
    assert {label: [order[0] for order in orders].count(label) for label in orders[0]} == (
        dict.fromkeys(orders[0], 4)
    )
    followed = {pair for order in orders for pair in zip(order, order[1:])}
    assert len(followed) == count * (count - 1)
