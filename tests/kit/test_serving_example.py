"""The served model: how answers are counted, what is refused, and one run of all of it."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from kit import environments, releases
from kit.errors import ToolError
from kit.releases import ROOT, Catalogue
from rich.console import Console

EXAMPLE = ROOT / "examples" / "serving"
sys.path.insert(0, str(EXAMPLE))

import compare  # noqa: E402
import load  # noqa: E402

# In place of uvicorn, which the tests of the kit do without: a server that does as a tree
# says, in `behaviour`. `{n}` is the number of the answer.
UVICORN = """
import http.server, json, os, pathlib, sys, threading, time

tree = pathlib.Path(__file__).parent
behaviour = (tree / "behaviour").read_text()
# By a rename: whoever is killed here leaves a whole file, or none.
(tree / "pid.new").write_text(str(os.getpid()))
(tree / "pid.new").rename(tree / "pid")
answers = 0
lock = threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        file = tree / "torch_geometric" / "__init__.py"
        if behaviour == "another PyG":
            file = "/elsewhere/torch_geometric/__init__.py"
        self.reply(200, {"torch_geometric_file": str(file), "features": 2,
                         "torch": "2.13.0+cpu", "python": "3.11.7"})

    def do_POST(self):
        global answers
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            answers += 1
            number = answers
        time.sleep(0.002)
        # The first answers, to requests that are alone, are right.
        turn = number % 4 if number > 8 else 0
        if behaviour == "races" and turn == 1:
            self.reply(500, {})
            self.close_connection = True
        elif behaviour == "races" and turn == 2:
            self.reply(200, {"nodes": 0})
        elif behaviour == "dies" and number > 20:
            print("out of memory", file=sys.stderr, flush=True)
            os._exit(1)
        elif behaviour == "refuses":
            self.reply(422, {"detail": "no"})
        elif behaviour == "fails":
            self.reply(500, {})
        else:
            self.reply(200, {"nodes": len(request["x"]), "is": behaviour == "other"})

    def reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

if behaviour == "does not start":
    sys.exit("no such thing as a socket")
if behaviour == "does not answer":
    print("waiting for the disk", file=sys.stderr, flush=True)
    time.sleep(60)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"Uvicorn running on http://127.0.0.1:{server.server_port} (Press CTRL+C to quit)",
      file=sys.stderr, flush=True)
server.serve_forever()
"""


def make_tree(root: Path, name: str, behaviour: str) -> Path:
    tree = root / name
    tree.mkdir()
    (tree / "uvicorn.py").write_text(UVICORN)
    (tree / "behaviour").write_text(behaviour)
    return tree


def make_trees(root: Path, pristine: str, patched: str) -> list[Path]:
    behaviours = {"pristine": pristine, "patched": patched}
    return [make_tree(root, name, behaviour) for name, behaviour in behaviours.items()]


def compared(root: Path, pristine: str, patched: str, rounds: int = 1) -> compare.Comparison:
    trees = make_trees(root, pristine, patched)
    return compare.compare(Path(sys.executable), trees, 4, 0.2, rounds, lambda message: None)


def is_running(tree: Path) -> bool:
    try:
        os.kill(int((tree / "pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def pinned() -> Catalogue:
    return releases.load()


def outcome(right: int, errors: int = 0, wrong: int = 0) -> load.Outcome:
    latencies = tuple(float(number) for number in range(1, right + wrong + 1))
    return load.Outcome(2.0, right, errors, wrong, latencies)


def comparison(
    before: load.Outcome,
    after: load.Outcome,
    same: bool = True,
    rounds: int = 1,
    explained: list[tuple[str, load.Outcome]] | None = None,
) -> compare.Comparison:
    health = {tree: {"python": "3.11.7", "torch": "2.13.0+cpu"} for tree in compare.TREES}
    both = [("pristine", before), ("patched", after)] * rounds
    return compare.Comparison(health, same, both, explained or both)


@pytest.mark.parametrize(
    "values, percent, expected",
    [
        ([], 50, None),
        ([7.0], 50, 7.0),
        ([7.0], 99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 51, 3.0),
        ([float(n) for n in range(1, 101)], 95, 95.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([float(n) for n in range(1, 102)], 99, 100.0),
    ],
)
def test_percentiles(values: list[float], percent: float, expected: float | None) -> None:
    assert load.percentile(values, percent) == expected


def test_total() -> None:
    both = load.total([outcome(98, 1, 1), outcome(10, 0, 2)])
    assert (both.right, both.errors, both.wrong, both.requests) == (108, 1, 3, 112)
    assert both.rate == 112 / 4.0
    assert len(both.latencies) == 111
    assert both.as_json()["p99_ms"] == 98.0


def test_requests_are_the_same_in_each_run() -> None:
    requests = load.make_requests(16)
    assert requests == load.make_requests(16)
    assert len(set(requests)) == len(requests) == 8
    graphs = [json.loads(request) for request in requests]
    # Graphs of the same size: what a thread takes of another one's does not look odd.
    assert [len(graph["x"]) for graph in graphs].count(24) == 4
    for graph in graphs:
        sources, targets = graph["edge_index"]
        assert len(sources) == len(targets) == 8 * len(graph["x"])
        assert max(sources + targets) < len(graph["x"])
        assert all(s != t for s, t in zip(sources, targets, strict=True))
        assert {len(row) for row in graph["x"]} == {16}


def test_each_answer_is_counted(tmp_path: Path) -> None:
    both = compared(tmp_path, "races", "answers", rounds=2)
    assert [tree for tree, _ in both.rounds] == [
        "pristine",
        "patched",
        "patched",
        "pristine",
    ]
    before, after = (load.total(both.of(tree)) for tree in ("pristine", "patched"))
    assert before.requests > 100
    for count in (before.errors, before.wrong):
        assert count == pytest.approx(before.requests / 4, abs=4)
    assert before.right == pytest.approx(before.requests / 2, abs=6)
    assert (after.errors, after.wrong) == (0, 0)
    assert min(after.latencies) >= 2.0
    assert len(before.latencies) == before.right + before.wrong
    assert both.holds
    assert [tree for tree, _ in both.explained] == [tree for tree, _ in both.rounds]
    explained = both.of_explained("patched")
    assert explained.right == explained.requests > 50
    assert explained.explanations > 10 and explained.failed == 0
    # The one client that has graphs explained meets the errors, too.
    assert both.of_explained("pristine").failed > 0
    assert before.explanations == after.explanations == 0
    for tree in compare.TREES:
        assert not is_running(tmp_path / tree)


@pytest.mark.parametrize(
    "explained",
    [outcome(99, 0, 1), outcome(99, 1), load.Outcome(2.0, 9, 0, 0, (1.0,), 5, 1)],
    ids=["wrong", "error", "failed explanation"],
)
def test_a_patched_server_that_is_disturbed_by_explanations(
    pinned: Catalogue, explained: load.Outcome
) -> None:
    rounds = [("pristine", outcome(10)), ("patched", explained)]
    both = comparison(outcome(100), outcome(100), explained=rounds)
    assert not both.holds
    assert "while it explained, with" in compare.verdict(both, pinned.find("2.8.1"))


def test_a_patched_server_that_races_is_told(tmp_path: Path, pinned: Catalogue) -> None:
    both = compared(tmp_path, "answers", "races")
    assert not both.holds
    assert "patched server gave errors" in compare.verdict(both, pinned.find("2.4.0"))


def test_patches_that_change_an_answer_are_told(tmp_path: Path, pinned: Catalogue) -> None:
    both = compared(tmp_path, "answers", "other")
    assert not both.holds
    assert "change what the model answers" in compare.verdict(both, pinned.find("2.4.0"))


@pytest.mark.parametrize(
    "behaviour, said",
    [
        ("does not start", "ended before it answered. It said: no such thing as a socket"),
        ("does not answer", "did not answer within 1 seconds. It said: waiting for the disk"),
        ("another PyG", "uses another PyG, /elsewhere"),
        ("dies", "did not stand the load"),
        ("refuses", "said 422 to /predict"),
        ("fails", "answers with an error even to a request that is alone"),
    ],
)
def test_servers_that_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, behaviour: str, said: str
) -> None:
    monkeypatch.setattr(compare, "START_LIMIT", 1 if behaviour == "does not answer" else 30)
    with pytest.raises(ToolError) as error:
        compared(tmp_path, behaviour, "answers")
    assert said in str(error.value)
    assert "pristine PyG" in str(error.value)
    assert ("out of memory" in str(error.value)) == (behaviour == "dies")
    for tree in compare.TREES:
        if (tmp_path / tree / "pid").exists():
            assert not is_running(tmp_path / tree)


@pytest.mark.parametrize(
    "url", ["http://example.org:80", "http://127.0.0.1", "http://10.0.0.1:8000", "nonsense"]
)
def test_other_machines_are_not_loaded(url: str) -> None:
    with pytest.raises(load.LoadError, match="not on this machine"):
        load.Client(url)


@pytest.mark.parametrize(
    "before, after, version, said",
    [
        (outcome(90, 8, 2), outcome(100), "2.4.0", "Unpatched, 10 of 100 answers were errors or"),
        (outcome(100), outcome(100), "2.4.0", "'scripts/kit.sh prove 2.4.0' forces it"),
        (outcome(100), outcome(100), "2.8.1", "upstream has fixed GATv2Conv in this release"),
        (outcome(90, 0, 10), outcome(100), "2.8.1", "10 of 100 predictions were errors or wrong"),
        (outcome(90, 8, 2), outcome(99, 0, 1), "2.4.0", "errors or wrong answers: 1 of 100"),
    ],
)
def test_verdict(
    pinned: Catalogue, before: load.Outcome, after: load.Outcome, version: str, said: str
) -> None:
    assert said in compare.verdict(comparison(before, after), pinned.find(version))


@pytest.mark.parametrize("busy, warns", [(3.0, False), (87.0, True)])
def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, busy: float, warns: bool) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: busy)
    assert ("87 %" in compare.busy_warning()) == warns


def test_table_fits_a_terminal() -> None:
    many = load.Outcome(1.0, 10**7, 10**6, 10**6, (123456.7,) * 100)
    console = Console(width=300)
    with console.capture() as capture:
        console.print(compare.make_table(comparison(many, many, rounds=2)))
    lines = capture.get().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    rows = {re.split(r"\s{2,}", line.strip())[0] for line in lines}
    wanted = {"requests/s", "p50", "p99", "error answers", "wrong answers", "explanations"}
    assert wanted <= rows


def test_json_holds_all_rounds(pinned: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"1.0 of {name}")
    both = comparison(outcome(90, 8, 2), outcome(100), rounds=2)
    result = compare.as_json(both, pinned.find("2.4.0"), "run.sh 2.4.0", {"clients": 8})
    result = json.loads(json.dumps(result))
    assert [one["tree"] for one in result["rounds"]] == ["pristine", "patched"] * 2
    assert result["rounds"][0]["errors"] == 8
    assert result["total"]["pristine"]["wrong"] == 4
    assert result["versions"]["uvicorn"] == "1.0 of uvicorn"
    assert result["machine"] and result["command"] == "run.sh 2.4.0" and result["holds"]


def run_compare(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "compare.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["2.4.7"], 2, "nearest releases are 2.4.0 and 2.5.0"),
        (["--seconds", "0"], 2, "'--seconds': 0.0 is not in the range"),
        (["--clients", "many"], 2, "'many' is not a valid integer"),
        (["--rounds", "0"], 2, "'--rounds'"),
        (["--nothing"], 2, "No such option"),
        (["--json", ROOT], 2, "is a directory"),
        (["--json", ROOT / "README.md" / "result.json"], 4, "Nothing can be written in"),
    ],
)
def test_refusals(arguments: list[str | Path], code: int, said: str) -> None:
    result = run_compare(*arguments)
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_help_fits_a_terminal() -> None:
    result = run_compare("--help")
    assert result.returncode == 0
    for option in ("--clients", "--seconds", "--rounds", "--json", "Exit codes"):
        assert option in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_under_load(tmp_path: Path, number: signal.Signals) -> None:
    trees, temporary = tmp_path / "trees", tmp_path / "temporary"
    trees.mkdir()
    temporary.mkdir()
    make_trees(trees, "answers", "answers")
    program = textwrap.dedent(
        f"""
        import pathlib, signal, sys
        # Whoever runs the tests in the background has this one ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.path.insert(0, {str(EXAMPLE)!r})
        import compare

        def prepare(release, directory):
            (directory / "made").touch()
            return [pathlib.Path({str(trees)!r}, name) for name in compare.TREES]

        compare.prepare = prepare
        compare.main()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "2.4.0", "--seconds", "60"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Round 1"):
            break
    assert list(temporary.iterdir())
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.strip().startswith("error: interrupted.")
    assert list(temporary.iterdir()) == []
    for tree in compare.TREES:
        assert not is_running(trees / tree)


def test_the_whole_of_it(tmp_path: Path) -> None:
    tag = environments.describe(environments.current_python()).tag
    shared = ROOT / ".kit" / f"torch-{environments.TORCH}-{tag}"
    if not (shared / "made-from.json").exists():
        pytest.skip("needs torch, which is not got for this alone; 'scripts/kit.sh env' gets it")
    file = tmp_path / "result.json"
    command = [str(EXAMPLE / "run.sh"), "2.4.0", "--seconds", "3", "--rounds", "1"]
    command += ["--json", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert max(map(len, ended.stdout.splitlines())) <= 80
    # Where a line ends depends on how many digits the counts have.
    said = " ".join(ended.stdout.split())
    assert re.search(r"Unpatched, [\d,]+ of [\d,]+ answers were errors or another request's;", said)
    assert re.search(r"; patched, all of [\d,]+ were right\.", said)
    assert re.search(r"While graphs were explained, [\d,]+ of [\d,]+ predictions were", said)
    result = json.loads(file.read_text())
    assert result["same_answers"] and result["holds"]
    before, after = (result["total"][tree] for tree in ("pristine", "patched"))
    assert before["errors"] + before["wrong"] > 0
    assert after["right"] == after["requests"] > 50
    before, after = (result["explained"][tree] for tree in ("pristine", "patched"))
    assert before["wrong"] > 0 and before["explanations"] > 0
    assert after["right"] == after["requests"] > 50
    assert after["explanations"] > 0 and after["failed_explanations"] == 0
    assert (result["release"], result["clients"]) == ("2.4.0", 8)
    assert result["versions"]["torch"].startswith(environments.TORCH)
