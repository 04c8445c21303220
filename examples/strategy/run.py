"""The engine alone, with no Celery API: a strategy is any object with ``accept`` and ``run``.

    python examples/strategy/run.py

Three programs in one file: a node that keeps tasks and results, a worker with our strategy, and a producer that sends
ten numbers and prints what comes back.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import uuid

from zerocelery.engine.node import run_node
from zerocelery.engine.pool import run_worker
from zerocelery.engine.producer import Producer
from zerocelery.engine.wire import SUCCESS, Task


class Factors:
    """What our worker does with a task: takes those named 'factors', and returns the prime factors of the body."""

    def accept(self, task: Task) -> bool:
        return task.name == "factors"

    def run(self, task: Task) -> list[int]:
        number, divisor, factors = int(task.body), 2, []
        while divisor * divisor <= number:
            while number % divisor == 0:
                factors.append(divisor)
                number //= divisor
            divisor += 1
        return [*factors, number] if number > 1 else factors


def produce(address: str) -> None:
    """Send ten tasks, wait for their results, print them."""
    producer = Producer(address)
    numbers = range(10**9, 10**9 + 10)
    tasks = [
        Task(id=str(uuid.uuid4()), name="factors", queue="numbers", topics=(producer.inbox,), body=str(number).encode())
        for number in numbers
    ]
    token = producer.submit_many(tasks)
    for number, task in zip(numbers, tasks, strict=True):
        result = producer.wait(task.id, token=token, timeout=30)
        value = pickle.loads(result.value)
        print(number, "=", " x ".join(map(str, value)) if result.state == SUCCESS else value)
    producer.close()


def main() -> None:
    """Start the other two programs, produce, stop them."""
    with tempfile.TemporaryDirectory(prefix="zc-") as directory:
        address = f"zmq://{directory}"
        others = [subprocess.Popen([sys.executable, __file__, role, address]) for role in ("node", "worker")]
        try:
            produce(address)
        finally:
            for process in reversed(others):
                process.terminate()
                process.wait(timeout=10)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["node", url]:
            sys.exit(run_node(address=url))
        case ["worker", url]:
            sys.exit(
                run_worker(
                    address=url,
                    strategy_factory=Factors,
                    pool="prefork",
                    concurrency=2,
                    queues=["numbers"],
                    name="factors@example",
                )
            )
        case _:
            main()
