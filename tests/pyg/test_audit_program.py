"""The audit: what it says of modules whose races are known, and of mistakes in its use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_toys import TOYS
from conftest import AUDIT, Warm

pytestmark = pytest.mark.usefixtures("on_nightly")


# A model of small modules: each is a case, named after what it does.
@pytest.fixture(scope="module")
def toys_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toys")
    (path / "toys.py").write_text(TOYS)
    (path / "broken.py").write_text("raise ValueError('half a module')\n")
    return path


@pytest.fixture(scope="module")
def run_audit(
    warm: dict[str, Warm], toys_directory: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program beside the file of toys."""
    return lambda *arguments: warm["pristine"].run(AUDIT, *arguments, cwd=toys_directory)


def get_json(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return parsed


@pytest.fixture(scope="module")
def toys(run_audit: Callable[..., Any]) -> dict[str, Any]:
    result = run_audit("model", "toys:Toys", "toys:get_inputs", "--calls", "80")
    assert result.stdout.count("\n") == 1
    assert "the model prints" in result.stderr
    return get_json(result)


CONFIRMED = [
    ("Attribute", "cache", "assignment"),
    ("Deleted", "cache", "assignment"),
    ("Flag", "flow", "assignment"),
    ("ReadFirst", "busy", "assignment"),
    ("Size", "rows", "assignment"),
    ("Property", "_cache", "assignment"),
    ("OwnSetter", "cache", "assignment"),
    ("PastSetter", "cache", "assignment"),
    ("Buffer", "state", "in-place change"),
    ("HeldDict", "held", "in-place change"),
    ("HeldDictOnce", "held", "in-place change"),
    ("Neighbour", "first", "assignment"),
]


def find_write(audited: dict[str, Any], submodule: str, attribute: str) -> dict[str, Any]:
    parsed = [
        write
        for write in audited["writes"]
        if (write["submodule"], write["attribute"]) == (submodule, attribute)
    ]
    assert len(parsed) == 1, audited["writes"]
    return parsed[0]


@pytest.mark.parametrize(("case", "attribute", "how"), CONFIRMED)
def test_race_is_confirmed(toys: dict[str, Any], case: str, attribute: str, how: str) -> None:
    write = find_write(toys, f"cases.{case}", attribute)
    assert (write["verdict"], write["how"]) == ("confirmed", how), write
    interleaved = write["interleaved"]
    assert interleaved["crashed"] + interleaved["silently_wrong"] > 0
    assert interleaved["calls"] == 2 * interleaved["pairs"]
    assert interleaved["hung"] == 0
    places = write["read"] + write["written"]
    lines = {line for file, line, function in places if (file, function) == ("toys.py", "forward")}
    assert lines or case == "Property"
    assert "toys.py:" in write["reason"]


def test_mix_ups_of_every_kind(toys: dict[str, Any]) -> None:
    # A value of the same shape is taken silently; what is gone makes a crash.
    silent = find_write(toys, "cases.Attribute", "cache")
    assert silent["interleaved"]["crashed"] == 0
    assert "silently wrong" in silent["reason"]
    crashed = find_write(toys, "cases.Deleted", "cache")
    assert crashed["interleaved"]["crashed"] > 0
    assert "AttributeError" in crashed["reason"]
    written = TOYS.splitlines().index("        self.cache = x * 2") + 1
    assert silent["written"] == [["toys.py", written, "forward"]]
    assert silent["read"] == [["toys.py", written + 2, "forward"]]


def test_modules_in_modules(toys: dict[str, Any]) -> None:
    # The third of its class: two are forced, and stand for the others.
    assert find_write(toys, "cases.Attribute", "cache")["others"] == ["convs.1"]
    hidden = find_write(toys, "cases.Unregistered.hidden", "cache")
    assert (hidden["class"], hidden["verdict"]) == ("Attribute", "confirmed")


@pytest.mark.parametrize(
    ("case", "attribute", "verdict", "reason"),
    [
        ("NotReadBack", "last", "not read back", "no call reads it"),
        ("Neighbour", "second", "with others", "from what else is written"),
        ("Same", "mode", "refuted", "every call writes the same value: 'mean'"),
        ("Locked", "cache", "refuted", "one thread waited for the other (a lock)"),
        ("Cached", "constant", "first call", "only first calls write it"),
    ],
)
def test_what_is_not_confirmed(
    toys: dict[str, Any], case: str, attribute: str, verdict: str, reason: str
) -> None:
    write = find_write(toys, f"cases.{case}", attribute)
    assert write["verdict"] == verdict, write
    assert reason in write["reason"]
    assert write["first_call_only"] == (case == "Cached")


def test_clean_modules_are_cleared(toys: dict[str, Any]) -> None:
    written = {write["submodule"] for write in toys["writes"]}
    assert not any("Clean" in name or name.startswith("convs.0") for name in written)


def test_objects_of_a_thread_are_told_from_those_of_all(toys: dict[str, Any]) -> None:
    verdicts = {write["class"]: write["verdict"] for write in toys["writes"]}
    assert verdicts["OfAll"] == "confirmed"
    assert not {"OfThread", "Own", "CleanByThread"} & set(verdicts)


def test_the_rest_of_the_report(toys: dict[str, Any]) -> None:
    assert toys["requests"] == 4
    assert not toys["nondeterministic"]
    assert {"class": "Flag", "module": "toys", "file": "toys.py"} in toys["classes"]
    assert not any(cls["module"].startswith("torch.nn") for cls in toys["classes"])
    stress = toys["stress"]
    assert stress["calls"] == 80
    assert stress["right"] + stress["crashed"] + stress["silently_wrong"] == 80
    assert stress["hung"] == 0


def test_arguments_changed_in_place(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:Keen", "toys:get_request", "--calls", "40"))
    assert audited["writes"] == []
    assert audited["stress"]["right"] == 40
    assert audited["arguments"] == {"changed": True, "shared": False}
    assert "In training after eval(): the model, dropout." in " ".join(audited["notes"])


def test_random_results_are_not_compared(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:Noise", "toys:get_request"))
    assert audited["nondeterministic"] and audited["random"] == ["torch"]
    assert not audited["stress"]["compared"]
    # The mix-up is told from what is written and read: no result is needed.
    (write,) = audited["writes"]
    assert (write["attribute"], write["verdict"]) == ("cache", "confirmed")


def test_state_that_calls_carry_on(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:Carried", "toys:get_request"))
    assert audited["carried"] and audited["random"] == []
    assert [write["verdict"] for write in audited["writes"]] == ["carried"]


def test_a_first_call_that_decides_for_all(run_audit: Callable[..., Any]) -> None:
    # Nothing of the model is written, and in this process the first call is always the same.
    audited = get_json(run_audit("model", "toys:FirstInGlobal", "toys:get_inputs", "--calls", "8"))
    assert audited["writes"] == [] and audited["stress"]["right"] == 8
    assert audited["first_calls_differ"]
    assert audited["left_by_first_calls"] == ["toys.means"]


def test_what_is_kept_by_address(run_audit: Callable[..., Any]) -> None:
    arguments = ["toys:get_inputs", "--calls", "8"]
    assert get_json(run_audit("model", "toys:KeptByAddress", *arguments))["confuses_new_arguments"]
    toys = get_json(run_audit("model", "toys:Forces", *arguments))
    assert not toys["confuses_new_arguments"] and not toys["first_calls_differ"]


def test_locks_in_opposite_order_hang(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:TwoLocks", "toys:get_inputs", "--calls", "8"))
    (locks,) = audited["locks"]
    assert locks["hung"] and "hung" in locks["outcomes"]
    assert all("toys.py:" in place for place in locks["places"])


def test_a_lock_is_not_waited_for_at_each_line(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:OneLock", "toys:get_inputs", "--calls", "8"))
    explored = audited["explored"]
    assert explored["points"] > 50 and not explored["left_out"] and not explored["reason"]


def test_what_only_the_interpreter_holds_is_found_line_by_line(
    run_audit: Callable[..., Any],
) -> None:
    audited = get_json(run_audit("model", "toys:Seeds", "toys:get_inputs", "--calls", "8"))
    assert "a silently wrong result" in audited["explored"]["reason"]
    line = TOYS.splitlines().index("        torch.manual_seed(int(x.sum()))") + 1
    assert ["toys.py", line, "forward"] in audited["explored"]["blamed"]


def test_methods(run_audit: Callable[..., Any]) -> None:
    arguments = ["model", "toys:Served", "toys:get_inputs", "--calls", "8"]
    assert get_json(run_audit(*arguments))["writes"] == []
    audited = get_json(run_audit(*arguments, "--method", "serve"))
    assert (audited["methods"], audited["requests"]) == (["serve"], 4)
    assert [write["verdict"] for write in audited["writes"]] == ["confirmed"]
    both = get_json(run_audit(*arguments, "--method", "serve", "--method", "forward"))
    assert both["requests"] == 8


def test_gradients(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:Forces", "toys:get_inputs", "--calls", "8"))
    assert audited["grad"] and audited["stress"]["right"] == 8
    assert "Gradients are recorded" in " ".join(audited["notes"])


def test_lazy_modules(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:Lazy", "toys:get_inputs", "--calls", "8"))
    assert audited["lazy"] and audited["stress"]["right"] == 8


OWN_BUILTINS = """
import builtins

import torch
from toys import get_inputs

# So does the compiler of torch 2.0, with the module of what it compiles.
__builtins__ = dict(vars(builtins))


class Keeps(torch.nn.Module):
    def forward(self, x):
        self.mean = x.mean(dim=0)
        return x - self.mean
"""


def test_a_module_with_builtins_of_its_own(
    run_audit: Callable[..., Any], toys_directory: Path
) -> None:
    (toys_directory / "own_builtins.py").write_text(OWN_BUILTINS)
    result = run_audit("model", "own_builtins:Keeps", "toys:get_inputs", "--calls", "8")
    (write,) = get_json(result)["writes"]
    assert (write["attribute"], write["verdict"]) == ("mean", "confirmed")


def test_scripted_code_is_read(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:get_scripted", "toys:get_inputs", "--calls", "8"))
    (change,) = audited["scripted"]
    assert (change["class"], change["attribute"]) == ("Scripted", "last")
    line = TOYS.splitlines().index("        self.last = x * 3") + 1
    assert (change["file"], change["line"], change["conditional"]) == ("toys.py", line, False)


ARCHIVE = """
import os

import torch

FILE = os.path.join(os.path.dirname(__file__), "archive.pt")


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        from torch_geometric.nn import TransformerConv

        self.conv = TransformerConv(8, 4)

    def forward(self, x, edge_index):
        return self.conv(x, edge_index)


def load():
    return torch.jit.load(FILE)


def get_inputs():
    nodes = int(torch.randint(10, 40, ()))
    return torch.randn(nodes, 8), torch.randint(nodes, (2, 40))


if __name__ == "__main__":
    torch.jit.save(torch.jit.script(Model().eval()), FILE)
"""


def test_an_archive_keeps_the_code_of_its_time(
    warm: dict[str, Warm], toys_directory: Path, pytestconfig: pytest.Config
) -> None:
    """Scripted before PyG is patched, and loaded after."""
    (toys_directory / "archive.py").write_text(ARCHIVE)
    for scripted in ("pristine", "patched"):
        made = warm[scripted].run(toys_directory / "archive.py", cwd=toys_directory)
        assert made.returncode == 0, made.stderr
        for at_hand in ("pristine", "patched"):
            result = warm[at_hand].run(
                AUDIT,
                "model",
                "archive:load",
                "archive:get_inputs",
                "--calls=8",
                cwd=toys_directory,
            )
            changes = get_json(result)["scripted"]
            certain = [each for each in changes if not each["conditional"]]
            if scripted == "patched":
                assert not certain
                continue
            (change,) = certain
            name = (change["class"], change["attribute"], change["file"])
            file = "torch_geometric/nn/conv/transformer_conv.py"
            assert name == ("TransformerConv", "_alpha", file)
            assert change["archived"] == (at_hand == "patched")
            text = (warm[at_hand].tree / file).read_text()
            if at_hand == "pristine":
                assert "self._alpha = alpha" in text.splitlines()[change["line"] - 1]


def test_a_death_is_a_result(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:Dies", "toys:get_inputs", "--calls", "8"))
    assert audited["stress"]["died"] == "SIGSEGV"


FORKS_BESIDE_A_THREAD = """
import hashlib
import importlib
import sys
import threading

sys.path.insert(0, sys.argv[1])
children = importlib.import_module("audit.children")

work = ("sha256", b"", b"", 200_000)  # for which Python's lock is released
thread = threading.Thread(target=hashlib.pbkdf2_hmac, args=work)
thread.start()
print(children.run(lambda: "returned", 60).value, thread.is_alive())
"""


def test_no_child_is_forked_while_another_thread_runs(
    warm: dict[str, Warm], tmp_path: Path
) -> None:
    # As one does that was joined, and frees what MKL keeps by thread, under a lock of MKL's.
    program = tmp_path / "program.py"
    program.write_text(FORKS_BESIDE_A_THREAD)
    result = warm["pristine"].run(program, AUDIT.parents[1])
    assert (result.returncode, result.stdout) == (0, "returned False\n"), result.stderr


def test_objects_that_cannot_be_looked_at(run_audit: Callable[..., Any]) -> None:
    audited = get_json(run_audit("model", "toys:HoldsGenerator", "toys:get_inputs"))
    kinds = {thing["kind"] for thing in audited["unwatched"]}
    assert "generator" in kinds


MISTAKES = [
    ("toys.Toys", "toys:get_inputs", "should be package.module:factory"),
    ("nowhere.models:get", "toys:get_inputs", "there is no module 'nowhere'"),
    ("broken:get", "toys:get_inputs", "ValueError: half a module"),
    ("toys:Toy", "toys:get_inputs", "toys has no 'Toy'. It has Attribute, Deleted"),
    ("toys:get_number", "toys:get_inputs", "returned a int"),
    ("toys:CASES", "toys:get_inputs", "which is a list"),
    ("toys:get_broken", "toys:get_inputs", "KeyError: 'there is no such graph'"),
    ("toys:Clean", "toys:get_broken", "KeyError: 'there is no such graph'"),
    ("toys:Clean", "toys:get_same", "the same inputs 4 times"),
    ("toys:Clean", "toys:get_wrong", "shapes cannot be multiplied"),
    ("toys:Nothing", "toys:get_inputs", "nothing to compare"),
]


@pytest.mark.parametrize("model, inputs, said", MISTAKES, ids=[m[2] for m in MISTAKES])
def test_mistakes_are_explained(
    run_audit: Callable[..., Any], model: str, inputs: str, said: str
) -> None:
    result = run_audit("model", model, inputs)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "audit.py" not in result.stderr  # no traceback of ours
