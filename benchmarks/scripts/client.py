"""The client of a contestant: ``python client.py APP_MODULE``, one JSON request a line in, one JSON answer a line out.

It is the same for all of them; the app modules differ only in SEND (how to send each task), SHAPES (of a canvas,
where there is one), listen (to events, likewise) and get (how to wait).
"""

from __future__ import annotations

import collections
import importlib
import json
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

#: Seconds that one result may take.
PATIENCE = 60.0

Figures = dict[str, float]


class Client:
    """What can be asked for, one method each; the figures in seconds unless the name says otherwise."""

    def __init__(self, app: str) -> None:
        module = importlib.import_module(app)
        self._send: dict[str, Callable[..., Any]] = module.SEND
        self._shapes: dict[str, Callable[[int], Any]] = getattr(module, "SHAPES", {})
        self._get: Callable[[Any, float], Any] = module.get
        self._listen: Callable[..., None] | None = getattr(module, "listen", None)
        self._events = 0
        self._waiting: collections.deque[Any] = collections.deque()

    def ready(self) -> Figures:
        """Answered once everything is imported."""
        return {}

    def first(self) -> Figures:
        """One task there and back."""
        self._get(self._send["noop"](), PATIENCE)
        return {}

    def throughput(self, *, task: str, tasks: int, size: int = 0) -> Figures:
        """Send all, then collect all."""
        send, arguments = self._send[task], _arguments(task, size)
        begin, cpu, thread = time.perf_counter(), time.process_time(), time.thread_time()
        handles = [send(*arguments) for _ in range(tasks)]
        sent, thread_sent = time.perf_counter() - begin, time.thread_time() - thread
        for handle in handles:
            self._get(handle, PATIENCE)
        return {
            "seconds": time.perf_counter() - begin,
            "enqueue_seconds": sent,
            "enqueue_thread_cpu": thread_sent,
            "client_cpu": time.process_time() - cpu,
        }

    def latency(self, *, trips: int) -> Figures:
        """One task at a time, there and back."""
        send, cpu, took = self._send["noop"], time.process_time(), []
        for _ in range(trips):
            begin = time.perf_counter()
            self._get(send(), PATIENCE)
            took.append((time.perf_counter() - begin) * 1000)
        took.sort()
        figures = {f"{name}_ms": _quantile(took, q) for name, q in (("median", 0.5), ("p95", 0.95), ("p99", 0.99))}
        return {**figures, "client_cpu": time.process_time() - cpu}

    def shapes(self, *, sizes: dict[str, int], rounds: int) -> Figures:
        """Canvas shapes of these sizes, one at a time: from the call to the last result; the first doesn't count."""
        figures, cpu = {}, time.process_time()
        for name, size in sizes.items():
            took = []
            for _ in range(1 + rounds):
                begin = time.perf_counter()
                self._get(self._shapes[name](size), PATIENCE)
                took.append((time.perf_counter() - begin) * 1000)
            figures[f"{name}_ms"] = _quantile(sorted(took[1:]), 0.5)
        return {**figures, "client_cpu": time.process_time() - cpu}

    def listen(self) -> Figures:
        """Count task events from here on, in a thread of their own; answered when they are heard."""
        if self._listen is None:
            raise ValueError("there are no events to listen to")
        ready = threading.Event()
        threading.Thread(target=self._listen, args=(ready.set, self._hear), daemon=True).start()
        if not ready.wait(PATIENCE):
            raise TimeoutError("the events' receiver did not come up")
        return {}

    def _hear(self, event: object) -> None:
        self._events += 1

    def heard(self) -> Figures:
        """How many task events there were so far."""
        return {"events": self._events}

    def enqueue(self, *, task: str, tasks: int, keep: bool = True) -> Figures:
        """Send only; the handles are kept for `collect`, or dropped."""
        send, arguments = self._send[task], _arguments(task, 0)
        begin, cpu, thread = time.perf_counter(), time.process_time(), time.thread_time()
        kept = self._waiting if keep else collections.deque[Any](maxlen=0)
        kept.extend(send(*arguments) for _ in range(tasks))
        return {
            "seconds": time.perf_counter() - begin,
            "thread_cpu": time.thread_time() - thread,
            "client_cpu": time.process_time() - cpu,
        }

    def collect(self) -> Figures:
        """Wait for everything that was enqueued."""
        begin, cpu = time.perf_counter(), time.process_time()
        while self._waiting:
            self._get(self._waiting.popleft(), PATIENCE)
        return {"seconds": time.perf_counter() - begin, "client_cpu": time.process_time() - cpu}

    def backlog(self, *, before: int, first: str, between: int, last: str, after: int) -> Figures:
        """Send only, two stamps among them: the tasks between these are what is timed, `after` still wait then."""
        begin = time.perf_counter()
        for tasks, path in ((before, first), (between, last), (after, "")):
            self.enqueue(task="noop", tasks=tasks)
            if path:
                self._waiting.append(self._send["stamp"](path))
        return {"seconds": time.perf_counter() - begin}


def _arguments(task: str, size: int) -> tuple[Any, ...]:
    if task == "echo":
        return ("x" * size,)
    return (2, 3) if task == "add" else ()


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The nearest rank: always a time that was measured."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def _answer(client: Client, line: str) -> dict[str, Any]:
    request = json.loads(line)
    try:
        answer: Figures = getattr(client, request.pop("action"))(**request)
    except Exception as error:  # whatever it is, the runner reports it
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return dict(answer)


def main() -> None:
    """Serve until the input ends."""
    client = Client(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(client, line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
