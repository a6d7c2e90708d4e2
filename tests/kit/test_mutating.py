"""What is said of the mutants: a miss is a fault."""

import pytest
from conftest import World, refused
from kit import mutating
from kit.mutating import Mutation, Tried


@pytest.mark.parametrize(
    "tried, said",
    [
        (Tried("fa_conv", "cache", 100, 100, True, ""), ""),
        (Tried("fa_conv", "", 1_000, 0, True, ""), ""),
        (Tried("fa_conv", "cache", 100, 99, True, ""), "cache: of 100 rounds, 99 failed, not 100"),
        (Tried("fa_conv", "", 1_000, 1, True, ""), "as patched: of 1,000 rounds, 1 failed, not 0"),
        (Tried("fa_conv", "cache", 0, 0, True, ""), "of 0 rounds"),
        (Tried("fa_conv", "cache", 100, 100, False, ""), "so this is no race"),
        (Tried("fa_conv", "", 100, 0, True, "the threads wait for each other"), "wait for each"),
    ],
)
def test_a_miss_is_a_fault(tried: Tried, said: str) -> None:
    problems = Mutation("2.8.1", "3.11.7", "2.13.0", [tried]).problems()
    assert len(problems) == bool(said)
    assert said in "".join(problems)
    assert Mutation("2.8.1", "3.11.7", "2.13.0", []).problems()


def test_results_are_read() -> None:
    jobs = [{"layer": "fa_conv", "way": way} for way in ("", "cache", "attribute", "lock left out")]
    results = [
        {"rounds": 10, "failed": 0, "alone": "a"},
        {"rounds": 1, "failed": 1, "alone": "a"},
        {"rounds": 1, "failed": 1, "alone": "b"},
        {"rounds": 1, "end": "the process died of signal 11"},
    ]
    tried = mutating.read_results(jobs, results)
    assert [each.same for each in tried] == [True, True, False, False]
    assert [bool(each.problem()) for each in tried] == [False, False, True, True]
    assert tried[3].end == "the process died of signal 11"


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["1.8.7"], 2, "nearest releases are 1.8.0 and 1.9.0"),
        (["1.8.0", "--rounds", "0"], 2, "--rounds"),
        (["1.8.0", "--python", "/nowhere/python"], 4, "cannot be put back into gatv2_conv"),
        (["2.0.0", "--python", "/nowhere/python"], 1, "no layer of PyG 2.0.0 is patched"),
    ],
)
def test_refusals(world: World, arguments: list[str], code: int, said: str) -> None:
    refused(world.run("mutate", *arguments, "--git-url", world.upstream.as_uri()), code, said)
