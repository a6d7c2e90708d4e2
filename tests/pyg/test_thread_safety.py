"""The threaded regression tests: red on a pristine release that races, green on a patched one."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAMS, REGRESSION_TEST, Warm, find_affected, find_patched, find_tested
from patched_layers import LAYERS

# Both tests of a file together, in seconds.
SECONDS_A_FILE = 5.0


@pytest.fixture(scope="session")
def regression_tests(
    trees: dict[str, Path], warm: dict[str, Warm], pytestconfig: pytest.Config
) -> dict[str, subprocess.CompletedProcess[str]]:
    """What pytest says of all regression tests, on each tree."""
    layers = find_tested(pytestconfig)
    assert layers
    ended: dict[str, subprocess.CompletedProcess[str]] = {}
    for tree, python in warm.items():
        # The test files are the patched tree's; the PyG that they import is `tree`'s.
        files = [trees["patched"] / REGRESSION_TEST.format(layer) for layer in layers]
        options = ["-p", "no:cacheprovider", "--rootdir", files[0].parent, "-c", os.devnull]
        options += ["--verbose", "--durations=0", "--durations-min=0"]
        if tree == "pristine":  # What fails by luck is counted below.
            options += ["-k", "interleaved"]
        ended[tree] = python.run("-m", "pytest", *options, *files)
    return ended


@pytest.fixture(scope="session")
def proof(
    trees: dict[str, Path],
    warm: dict[str, Warm],
    pytestconfig: pytest.Config,
    record_testsuite_property: Callable[[str, object], None],
) -> dict[str, dict[str, Any]]:
    """How the calls of the regression tests end, in many rounds; kept for the report, too."""
    patched, affected = find_patched(pytestconfig), find_affected(pytestconfig)
    counts: dict[str, dict[str, Any]] = {}
    # Where no patch changes a layer, both trees run the same code.
    for tree, layers in (("pristine", find_tested(pytestconfig)), ("patched", patched)):
        files = [trees["patched"] / REGRESSION_TEST.format(layer) for layer in layers]
        ended = warm[tree].run(PROGRAMS / "prove.py", "cpu", *files)
        assert ended.returncode == 0, ended.stderr
        proof = json.loads(ended.stdout.splitlines()[-1])
        counts[tree] = dict(zip(layers, proof.pop("measured")))
    proved = {
        layer: {
            "status": "affected" if layer in affected else "fixed",
            "pristine": count,
            "patched": counts["patched"].get(layer, count),
        }
        for layer, count in counts["pristine"].items()
    }
    release = pytestconfig.getoption("release")
    record_testsuite_property("proof", json.dumps({"release": release, **proof, "layers": proved}))
    return proved


@pytest.mark.parametrize("tree", ["pristine", "patched"])
def test_calls(
    proof: dict[str, dict[str, Any]], pytestconfig: pytest.Config, tested_layer: str, tree: str
) -> None:
    interleaved, stress = (proof[tested_layer][tree][how] for how in ("interleaved", "stress"))
    rounds = interleaved["rounds"]
    assert rounds >= 50
    assert stress["calls"] >= 400
    if tree == "patched" or tested_layer not in find_affected(pytestconfig):
        assert (interleaved["right"], interleaved["spoiled_rounds"]) == (2 * rounds, 0)
        assert stress["right"] == stress["calls"]
        return
    # What is forced does not depend on luck.
    ends = tuple(interleaved[end] for end in ("right", "crashed", "silently_wrong"))
    assert ends == tuple(rounds * calls for calls in LAYERS[tested_layer].forced)
    assert interleaved["spoiled_rounds"] == rounds


def test_pristine(
    regression_tests: dict[str, subprocess.CompletedProcess[str]],
    pytestconfig: pytest.Config,
    tested_layer: str,
) -> None:
    output = regression_tests["pristine"].stdout
    name = f"test_{tested_layer}_interleaved_threads"
    if tested_layer not in find_affected(pytestconfig):
        assert f"::{name} PASSED" in output, output
        return
    assert f"::{name} FAILED" in output, output
    counts = r"AssertionError: (\d+) calls: (\d+) right, (\d+) crashed, (\d+) silently wrong"
    (report,) = re.findall(rf"^_+ {name} _+$(.*?)^(?:_|=){{9,}}", output, re.M | re.S)
    (ended,) = re.findall(counts, report)
    assert tuple(map(int, ended)) == (2, *LAYERS[tested_layer].forced)
    # The traceback of a crash is shown.
    assert LAYERS[tested_layer].forced[1] == 0 or "Traceback" in report


def test_patched(
    regression_tests: dict[str, subprocess.CompletedProcess[str]], tested_layer: str
) -> None:
    result = regression_tests["patched"]
    assert result.returncode == 0, result.stdout
    passed = re.findall(rf"::test_{tested_layer}_\w+_threads PASSED", result.stdout)
    assert len(passed) == 2, result.stdout
    times = re.findall(rf"^([\d.]+)s call .*::test_{tested_layer}_", result.stdout, re.M)
    assert len(times) == 2
    assert sum(map(float, times)) < SECONDS_A_FILE


FUSION = """
import torch
from thread_safety import assert_all_right, run_interleaved, run_stress

enabled = torch._C._jit_texpr_fuser_enabled
seen = []

class Layer:
    def __call__(self, x):
        self.update()
        return x

    def update(self):
        seen.append(enabled())

def get_inputs(num_nodes, num_edges, seed):
    return {"x": torch.randn(num_nodes)}

for before in (True, False):
    torch._C._jit_set_texpr_fuser_enabled(before)
    assert_all_right(run_interleaved(Layer(), get_inputs, {}))
    assert_all_right(run_stress(Layer(), get_inputs, [{}], num_threads=2, num_calls=2))
    assert enabled() == before
assert seen and not any(seen), seen
"""


def test_nothing_is_fused(
    on_nightly: None, trees: dict[str, Path], warm: dict[str, Warm], tmp_path: Path
) -> None:
    """Whether that changes a result depends on the processor, and on torch."""
    helpers = trees["patched"] / "test" / "nn" / "conv" / "thread_safety.py"
    (tmp_path / "fusion.py").write_text(FUSION)
    (tmp_path / helpers.name).write_bytes(helpers.read_bytes())
    result = warm["patched"].run(tmp_path / "fusion.py")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 11)", "signal.pause()"])
def test_a_death_is_a_result(
    on_nightly: None, warm: dict[str, Warm], tmp_path: Path, end: str
) -> None:
    """A race can end or stop the process: then all calls of the stress have crashed."""
    program = (PROGRAMS / "prove.py").read_text()
    limit = "STRESS_SECONDS = 30.0"
    assert program.count(limit) == 1
    (tmp_path / "prove.py").write_text(program.replace(limit, "STRESS_SECONDS = 2.0"))
    (tmp_path / "ends.py").write_text(
        f"import os\nimport signal\n\ndef stress(**kwargs):\n    {end}\n\n"
        "def interleave():\n    return ['right', 'silently wrong']\n"
    )
    result = warm["pristine"].run(tmp_path / "prove.py", "cpu", tmp_path / "ends.py")
    assert result.returncode == 0, result.stderr
    (measured,) = json.loads(result.stdout.splitlines()[-1])["measured"]
    stress = measured["stress"]
    assert stress["crashed"] == stress["calls"] == 400
    assert measured["interleaved"]["spoiled_rounds"] == 50


def test_a_call_leaves_nothing_in_the_layer(
    observe: Callable[..., Any], pytestconfig: pytest.Config, patched_conv: str
) -> None:
    pristine, patched = (observe(tree, f"state:{patched_conv}") for tree in ("pristine", "patched"))
    left = not pristine["unchanged"]
    assert left == (patched_conv in find_affected(pytestconfig))
    assert patched == {"unchanged": True, "methods": pristine["methods"]}


def test_a_call_in_torchscript_leaves_nothing_in_the_layer(
    observe: Callable[..., Any], patched_conv: str
) -> None:
    pristine, patched = (
        observe(tree, f"scripted_state:{patched_conv}") for tree in ("pristine", "patched")
    )
    if "error" in pristine:
        pytest.skip(f"TorchScript, or `_alpha`: {pristine['error'].splitlines()[0]}")
    assert (pristine["result"], patched["result"]) == (False, True)
