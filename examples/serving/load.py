"""The load: clients that ask a served model for predictions, and check each answer.

    python examples/serving/load.py http://127.0.0.1:8000 --clients 8 --seconds 5

The right answers are asked for first, one request at a time, when no thread can disturb
another. The last line of what it prints is JSON.
"""

import http.client
import json
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import click

# The graphs that are asked about, by their number of nodes. Half of them have the same
# size: an answer that holds the attention weights of another one of these looks right.
NODES = (24, 24, 24, 24, 10, 16, 32, 40)
EDGES_A_NODE = 8

# In seconds, for an answer; and for an explanation, which calls the model many times.
TIME_LIMIT = 10
EXPLAIN_LIMIT = 120


class LoadError(Exception):
    """The server cannot be measured."""


@dataclass(frozen=True)
class Outcome:
    """How the requests of a round ended, or those of several.

    Attributes:
        seconds: How long it took.
        right: Answers that are, byte for byte, what was expected.
        errors: Answers with the status 500.
        wrong: Answers with the status 200 that differ from what was expected.
        latencies: In milliseconds, of each answer with the status 200: an error comes early.
        explanations: Explanations that another client asked for meanwhile.
        failed: Of these, the answers with the status 500.
    """

    seconds: float
    right: int
    errors: int
    wrong: int
    latencies: tuple[float, ...]
    explanations: int = 0
    failed: int = 0

    @property
    def requests(self) -> int:
        """All requests."""
        return self.right + self.errors + self.wrong

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def as_json(self) -> dict[str, Any]:
        """The counts, the rate and the percentiles."""
        return {
            "seconds": round(self.seconds, 3),
            "requests": self.requests,
            "right": self.right,
            "errors": self.errors,
            "wrong": self.wrong,
            "explanations": self.explanations,
            "failed_explanations": self.failed,
            "requests_per_second": round(self.rate, 1),
            "right_per_second": round(self.right / self.seconds, 1),
            **{f"p{p}_ms": percentile(self.latencies, p) for p in (50, 95, 99)},
        }


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """Returns the outcome of several rounds as if of one."""
    return Outcome(
        seconds=sum(outcome.seconds for outcome in outcomes),
        right=sum(outcome.right for outcome in outcomes),
        errors=sum(outcome.errors for outcome in outcomes),
        wrong=sum(outcome.wrong for outcome in outcomes),
        latencies=tuple(latency for outcome in outcomes for latency in outcome.latencies),
        explanations=sum(outcome.explanations for outcome in outcomes),
        failed=sum(outcome.failed for outcome in outcomes),
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Returns the smallest of the values that so many percent of them do not exceed."""
    if not values:
        return None
    return round(sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)], 2)


def make_requests(features: int) -> list[bytes]:
    """Returns the requests: seeded graphs, the same in each run.

    Each request carries its graph, though the server could have known them by name: that is
    how a service is asked, and it makes plain whose answer a wrong one is. Reading the JSON is
    a small part of the work, and the same on both sides of a comparison.
    """
    requests = []
    for seed, nodes in enumerate(NODES):
        generator = random.Random(seed)  # noqa: S311
        x = [[round(generator.gauss(0, 1), 3) for _ in range(features)] for _ in range(nodes)]
        sources = [generator.randrange(nodes) for _ in range(EDGES_A_NODE * nodes)]
        # GATv2Conv puts its own in place of self-loops, so there are none here.
        targets = [(source + generator.randrange(1, nodes)) % nodes for source in sources]
        requests.append(json.dumps({"x": x, "edge_index": [sources, targets]}).encode())
    return requests


class Client:
    """A connection that is kept, as clients of services do."""

    def __init__(self, url: str, time_limit: float = TIME_LIMIT) -> None:
        parts = urlsplit(url)
        # Elsewhere, the network would be measured; and nobody else's service is to be loaded.
        if parts.hostname not in ("127.0.0.1", "localhost") or parts.port is None:
            raise LoadError(f"{url} is not on this machine. Name a URL as http://127.0.0.1:8000.")
        self._url = url
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=time_limit
        )

    def ask(self, request: bytes, path: str = "/predict") -> tuple[int, bytes]:
        """Asks for a prediction, or with /explain for an explanation.

        Returns:
            The status, 200 or 500, and the answer.
        """
        status, answer = self._send("POST", path, request)
        if status == 500:
            # Uvicorn closes a connection after an error, and does not announce it.
            self._connection.close()
        elif status != 200:
            raise LoadError(f"{self._url} said {status} to {path}: {answer[:200]!r}.")
        return status, answer

    def health(self) -> dict[str, Any]:
        """Asks what is served."""
        status, answer = self._send("GET", "/health", None)
        if status != 200:
            raise LoadError(f"{self._url}/health said {status}, not 200. Is it app.py?")
        health: dict[str, Any] = json.loads(answer)
        return health

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            self._connection.request(method, path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise LoadError(f"{self._url} does not answer: {error or type(error)}.") from None


def expect(url: str, requests: Sequence[bytes]) -> list[bytes]:
    """Returns the right answers: those that are given to one request at a time."""
    client = Client(url)
    answers = []
    for request in requests:
        status, answer = client.ask(request)
        if status != 200:
            raise LoadError(f"{url} answers with an error even to a request that is alone.")
        answers.append(answer)
    client.close()
    return answers


def explain(url: str, requests: Sequence[bytes], goes_on: Callable[[list[str]], bool]) -> list[str]:
    """Has graphs explained, one after the other; returns how that ended: 'done' or 'failed'."""
    client = Client(url, EXPLAIN_LIMIT)
    ends: list[str] = []
    while goes_on(ends):
        status, _ = client.ask(requests[len(ends) % len(requests)], "/explain")
        ends.append("done" if status == 200 else "failed")
    client.close()
    return ends


def predict(
    url: str,
    requests: Sequence[bytes],
    expected: Sequence[bytes],
    number: int,
    goes_on: Callable[[list[str]], bool],
) -> tuple[list[str], list[float]]:
    """Asks for predictions, one after the other; returns how that ended, and the latencies."""
    choose = random.Random(number)  # noqa: S311
    client = Client(url)
    ends: list[str] = []
    latencies = []
    while goes_on(ends):
        which = choose.randrange(len(requests))
        sent = time.perf_counter()
        status, answer = client.ask(requests[which])
        took = time.perf_counter() - sent
        if status != 200:
            ends.append("error")
            continue
        ends.append("right" if answer == expected[which] else "wrong")
        latencies.append(1000 * took)
    client.close()
    return ends, latencies


def run(
    url: str,
    requests: Sequence[bytes],
    expected: Sequence[bytes],
    clients: int,
    seconds: float,
    explains: bool = False,
) -> Outcome:
    """Lets clients ask at the same time, each for as long, and counts how that ends.

    Args:
        url: The server.
        requests: What to ask.
        expected: The right answer to each.
        clients: How many ask at once. Each sends its next request once it has an answer.
        seconds: For how long.
        explains: Whether one more client asks for explanations meanwhile.

    Raises:
        LoadError: If the server stops answering.
    """
    stop = threading.Event()
    start = time.perf_counter()

    def goes_on(ends: list[str]) -> bool:
        return not (ends and (stop.is_set() or time.perf_counter() - start >= seconds))

    with ThreadPoolExecutor(clients + 1) as pool:

        def ask(number: int) -> "Future[tuple[list[str], list[float]]]":
            return pool.submit(predict, url, requests, expected, number, goes_on)

        try:
            explaining = pool.submit(explain, url, requests, goes_on) if explains else None
            results = [future.result() for future in [ask(i) for i in range(clients)]]
            explained = explaining.result() if explaining else []
        finally:
            # A client that failed, or Ctrl-C, ends the others.
            stop.set()
    took = time.perf_counter() - start
    ends = [end for of_client, _ in results for end in of_client]
    return Outcome(
        seconds=took,
        right=ends.count("right"),
        errors=ends.count("error"),
        wrong=ends.count("wrong"),
        latencies=tuple(latency for _, of_client in results for latency in of_client),
        explanations=len(explained),
        failed=explained.count("failed"),
    )


# The same for compare.py, which runs several rounds of this.
clients_option = click.option(
    "--clients",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="How many clients ask at the same time.",
)
seconds_option = click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    default=5,
    show_default=True,
    help="How long a round takes.",
)


@click.command()
@click.argument("url")
@clients_option
@seconds_option
def main(url: str, clients: int, seconds: float) -> None:
    """Ask the model served at URL for predictions, and check each answer."""
    try:
        requests = make_requests(Client(url).health()["features"])
        outcome = run(url, requests, expect(url, requests), clients, seconds)
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(json.dumps({"url": url, "clients": clients, **outcome.as_json()}))


if __name__ == "__main__":
    main()
