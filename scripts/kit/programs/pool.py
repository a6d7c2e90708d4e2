"""A pool of processes that answer requests, each with a layer of its own, for throughput.py."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import queue
import sys
import time
import traceback
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, Callable, Dict, List

import psutil
import torch
from prove import load

# In seconds, for a worker's first answer, times the number of workers: they share the cores.
START_LIMIT = 60.0

Inputs = Dict[str, torch.Tensor]
Call = Callable[[Inputs], List[torch.Tensor]]


class BrokenError(Exception):
    """What makes a measurement worthless: a worker that is gone, or a call that hangs."""


class CrashedError(Exception):
    """A call that crashed in a worker, with its traceback."""


def flatten(result: object) -> list[torch.Tensor]:
    """Lists the tensors of a result."""
    if isinstance(result, torch.Tensor):
        return [result]
    assert isinstance(result, (tuple, list))
    return [tensor for item in result for tensor in flatten(item)]


def get_call(conv: torch.nn.Module, test: ModuleType) -> Call:
    """What serves a request: one call for inference."""
    options = test.WITH_WEIGHTS

    def call(inputs: Inputs) -> list[torch.Tensor]:
        with torch.no_grad():  # of this thread only
            return flatten(conv(**inputs, **options))

    return call


def pack(message: object) -> bytes:
    """Makes bytes of a message, whose tensors have become arrays.

    A tensor can be sent as well, and then goes through shared memory: that takes 2 ms a
    call for a small graph instead of 0.2, and not much less for a middle one.
    """
    return pickle.dumps(message, protocol=5)


def serve(connection: Connection, test_file: str, state: dict[str, Any]) -> None:
    """What a worker does: it builds the layer, and answers until it is ended."""
    torch.set_num_threads(1)
    test = load("regression_test", test_file)
    conv = test.get_conv()
    conv.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    call = get_call(conv, test)
    while True:
        try:
            request = pickle.loads(connection.recv_bytes())  # noqa: S301
        except EOFError:  # The parent is gone.
            return
        try:
            result = call({key: torch.from_numpy(array) for key, array in request.items()})
            answer: object = [tensor.numpy() for tensor in result]
        except Exception:
            answer = traceback.format_exc()
        connection.send_bytes(pack(answer))


class Pool:
    """Processes with a layer each, which take the requests of all threads.

    Attributes:
        start_s: Seconds until each of them has imported PyG, and has answered once.
    """

    def __init__(
        self, size: int, conv: torch.nn.Module, test_file: str, first_inputs: Inputs
    ) -> None:
        # A fork of a process that has threads can hang: torch has some, and so has this one.
        context = multiprocessing.get_context("spawn")
        state = {key: tensor.numpy() for key, tensor in conv.state_dict().items()}
        self.workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self.idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        start = time.perf_counter()
        try:
            for _ in range(size):
                connection, end = context.Pipe()
                arguments = (end, test_file, state)
                process = context.Process(target=serve, args=arguments, daemon=True)
                process.start()
                end.close()  # Only the worker holds it now: if that dies, reading fails.
                self.workers.append((process, connection))
            for _, connection in self.workers:
                with contextlib.suppress(OSError):
                    self.send(connection, first_inputs)
            for number, (_, connection) in enumerate(self.workers):
                if not connection.poll(max(0, start + START_LIMIT * size - time.perf_counter())):
                    raise BrokenError(f"Worker {number} has not started in time.")
                # How this call ends is its own matter, as long as there is an answer.
                with contextlib.suppress(CrashedError):
                    self.receive(number)
                self.idle.put(number)
        except BaseException:
            self.close()
            raise
        self.start_s = time.perf_counter() - start

    def send(self, connection: Connection, inputs: Inputs) -> None:
        """Sends a request."""
        connection.send_bytes(pack({key: tensor.numpy() for key, tensor in inputs.items()}))

    def receive(self, number: int) -> list[torch.Tensor]:
        """Waits for the answer of a worker.

        Raises:
            CrashedError: The call has crashed.
            BrokenError: The worker is gone.
        """
        process, connection = self.workers[number]
        try:
            answer = pickle.loads(connection.recv_bytes())  # noqa: S301
        except (EOFError, OSError) as error:
            process.join(1)
            message = f"Worker {number} has ended, with exit status {process.exitcode}."
            raise BrokenError(message) from error
        if isinstance(answer, str):
            raise CrashedError(answer)
        return [torch.from_numpy(array) for array in answer]

    def call(self, inputs: Inputs) -> list[torch.Tensor]:
        """Lets a worker that is idle serve a request."""
        number = self.idle.get()
        try:
            # If the worker is gone, receiving says so.
            with contextlib.suppress(OSError):
                self.send(self.workers[number][1], inputs)
            return self.receive(number)
        finally:
            self.idle.put(number)  # even if it is gone: the next thread shall not wait for it

    def get_bytes(self) -> int:
        """The memory that the workers have to themselves, or all, where it is not known."""
        total = 0
        for worker, _ in self.workers:
            process = psutil.Process(worker.pid)
            try:
                total += process.memory_full_info().uss
            except (psutil.AccessDenied, AttributeError):
                print("The memory that workers share counts, too.", file=sys.stderr)
                total += process.memory_info().rss
        return total

    def close(self) -> None:
        """Ends the workers, whatever they do. They have nothing to lose."""
        for process, _ in self.workers:
            process.terminate()
        for process, connection in self.workers:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()
