"""``zerocelery top`` and ``events``: what top makes of what it is told; and both in a real terminal."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_until
from zerocelery import Celery
from zerocelery.bin.topview import Model, percentile, seconds
from zerocelery.events.cursesmon import CursesMonitor
from zerocelery.events.state import State


def status(**changes: Any) -> dict[str, Any]:
    queue = {"waiting": 10, "scheduled": 1, "leased": 2, "dead": 0, "oldest": 61.0}
    counters = {"accepted": 100, "finished": 80, "lost": 0, "refused": 0}
    process = {"name": "w1@h/1", "queues": ["celery"], "running": ["id-1"], "tasks": [("id-1", "proj.add", 1000.0)]}
    idle = {"name": "w1@h/2", "queues": ["celery"], "running": [], "tasks": []}
    return {
        "session": 1, "uptime": 3700.0, "durability": "process", "inboxes": 2, "results": 5, "dead": 0,
        "queues": {"celery": queue}, "counters": counters, "workers": [process, idle], **changes,
    }  # fmt: skip


def shown(model: Model, *, width: int = 120, height: int = 50, now: float = 1007.5) -> str:
    return "\n".join(line.text for line in model.lines(width, height, now))


def test_workers_queues_and_running_tasks_with_their_age() -> None:
    model = Model("zmq://")
    model.told(status(), 10.0)
    text = shown(model)
    assert "up 1 h 1 min" in text
    assert re.search(r"w1@h +1/2 .* celery", text)
    assert re.search(r"celery +10 +\+0\.0 +1 +2 +0  1 min 1 s", text)
    assert re.search(r"proj\.add +w1@h +7\.50 s  id-1", text)


def test_a_running_tasks_id_is_whole_and_columns_are_as_wide_as_their_names() -> None:
    task_id = "01a20bdb-4c11-7bbf-b39f-7fa450e4d0ef"
    long = "a-worker-with-a-long-name@a-host-with-a-long-name.example.com"
    held = {"running": [task_id], "tasks": [(task_id, "proj.a_module.with_a_long_name.add", 1000.0)]}
    model = Model("zmq://")
    model.told(status(workers=[{"name": f"{long}/1", "queues": ["celery"], **held}]), 10.0)
    assert task_id in shown(model, width=80)
    wide = shown(model, width=200)
    assert re.search(rf"proj\.a_module\.with_a_long_name\.add {long} +7\.50 s  {task_id}", wide)
    assert max(map(len, wide.splitlines())) < 150


def test_rates_are_taken_from_two_answers_of_one_node() -> None:
    model = Model("zmq://")
    model.told(status(), 10.0)
    later = status(queues={"celery": {**status()["queues"]["celery"], "waiting": 4}})
    later["counters"] = {**later["counters"], "accepted": 120, "finished": 106}
    model.told(later, 12.0)
    text = shown(model)
    assert "accepted 10/s  finished 13/s" in text
    assert re.search(r"celery +4 +-3\.0", text)
    model.told(status(session=2), 13.0)  # another life of the node counts from 0: no rate is made of that
    assert "accepted 10/s" in shown(model)


def events(model: Model, *told: dict[str, Any]) -> None:
    for event in told:
        model.event({"hostname": "w1@h", "timestamp": 1005.0, **event})


def test_events_tell_run_times_and_failures() -> None:
    model = Model("zmq://")
    model.told(status(), 10.0)
    for number in range(100):
        events(
            model,
            {"type": "task-received", "uuid": f"a{number}", "name": "proj.add", "args": "()", "kwargs": "{}"},
            {"type": "task-succeeded", "uuid": f"a{number}", "runtime": (number + 1) / 1000},
        )
    events(
        model,
        {"type": "task-received", "uuid": "b", "name": "proj.fail", "args": "()", "kwargs": "{}"},
        {"type": "task-failed", "uuid": "b", "exception": "ValueError('boom')"},
        {"type": "worker-heartbeat", "processed": 101, "loadavg": [0.5, 0, 0]},
    )
    text = shown(model)
    assert re.search(r"proj\.add +100 +0 +50\.0 ms +95\.0 ms +99\.0 ms", text)
    assert re.search(r"proj\.fail +0 +1", text)
    assert "proj.fail w1@h: ValueError('boom')" in text
    assert re.search(r"w1@h +1/2 +101 +1 +0\.50", text)


def test_a_broker_that_is_no_node_has_events_only() -> None:
    model = Model("redis://")
    events(
        model,
        {"type": "worker-heartbeat", "active": 1, "processed": 3, "loadavg": [0.1, 0, 0]},
        {"type": "task-received", "uuid": "a", "name": "proj.add", "args": "(1,)", "kwargs": "{}"},
        {"type": "task-started", "uuid": "a"},
    )
    text = shown(model)
    assert re.search(r"w1@h +1 +3", text)
    assert re.search(r"proj\.add +w1@h +2\.50 s  a", text)
    events(model, {"type": "task-succeeded", "uuid": "a", "runtime": 1.0}, {"type": "worker-offline"})
    assert "no worker is there" in shown(model)


def test_selection_stays_with_its_task_and_ends_with_it() -> None:
    model = Model("zmq://")
    two = status()
    two["workers"][1] = {"name": "w1@h/2", "queues": [], "running": ["id-2"], "tasks": [("id-2", "proj.b", 900.0)]}
    model.told(two, 10.0)
    model.move(1)
    assert model.selected == "id-2"  # the oldest
    model.move(1)
    assert model.selected == "id-1"
    model.move(1)
    assert model.selected == "id-1"
    model.details = True
    assert "proj.add" in shown(model)
    model.told(status(workers=[]), 11.0)
    assert "runs no more" in shown(model)
    model.move(1)
    assert model.selected is None


@pytest.mark.parametrize(("width", "height"), [(80, 24), (20, 5), (1, 1), (200, 3)])
def test_it_never_shows_more_than_fits(width: int, height: int) -> None:
    model = Model("zmq://")
    many = status(queues={f"queue-{n}": status()["queues"]["celery"] for n in range(100)})
    model.told(many, 10.0)
    lines = model.lines(width, height, 1000.0)
    assert len(lines) <= height
    assert all(len(line.text) < width for line in lines)


def test_percentiles_and_units() -> None:
    assert percentile([], 50) == 0
    assert percentile([3.0], 99) == 3
    assert percentile(list(range(1, 11)), 50) == 5
    assert [seconds(0.0000125), seconds(0.25), seconds(3), seconds(7300)] == [
        "12 µs",
        "250.0 ms",
        "3.00 s",
        "2 h 1 min",
    ]


# ── in a terminal ────────────────────────────────────────────────────────────────────────────────────────────────────

PROJECT = """
import time
from zerocelery import Celery

app = Celery("proj")

@app.task
def sleep(seconds):
    time.sleep(seconds)

@app.task
def fail():
    raise ValueError("boom")
"""


class Terminal:
    """A program in a pty: keys go in, text comes out."""

    def __init__(self, sandbox: Sandbox, *command: str) -> None:
        self.fd, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zerocelery", *command], stdin=other, stdout=other, stderr=other, cwd=sandbox.home,
            env={**sandbox.environment, "TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        os.close(other)

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def sees(self, text: str, timeout: float) -> bool:
        """Whether the program writes this within so many seconds, or has since something was last seen."""
        deadline = time.monotonic() + timeout
        while text not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                return False
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # the other end is closed: the program has ended
                raise AssertionError(f"it ended before {text!r}:\n{self.text}") from None
        self.text = ""
        return True

    def wait_for(self, text: str) -> None:
        """Return when the program has written this."""
        assert self.sees(text, PATIENCE), f"no {text!r} in:\n{self.text}"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def terminal(sandbox: Sandbox) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*command: str) -> Terminal:
        made.append(Terminal(sandbox, *command))
        return made[-1]

    yield start
    for each in made:
        each.end()


def test_in_a_terminal_with_keys(
    sandbox: Sandbox, running_worker: Callable[..., str], terminal: Callable[..., Terminal]
) -> None:
    url = running_worker(PROJECT, "-c", "2", "-n", "w1@here")
    with Celery("client", broker=url, set_as_current=False) as app:
        sleeping = app.send_task("proj.sleep", [60])
        screen = terminal("-A", "proj", "-b", url, "top", "-i", "0.2")
        screen.wait_for("proj.sleep")
        screen.press("e")
        screen.wait_for("1 workers send events")
        # A process of the pool hears of it with its next look at the node: one of these is told.
        wait_until(lambda: bool(app.send_task("proj.fail")) and screen.sees("boom", 0.5), what="a failure")
        screen.press("j")
        screen.press("i")
        screen.wait_for("DETAILS")
        screen.press("i")
        screen.press("R")
        screen.wait_for("and ended where it runs")
        sleeping.get(timeout=PATIENCE, propagate=False)
        assert sleeping.state == "REVOKED"
        screen.press("q")
        assert screen.process.wait(PATIENCE) == 0


def test_without_a_terminal_it_is_printed_once(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    url = running_worker(PROJECT, "-c", "1", "-n", "w1@here")
    done = subprocess.run(
        [sys.executable, "-m", "zerocelery", "-b", url, "top"], env=sandbox.environment, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"w1@here +0/1 .* celery", done.stdout)


def test_the_screen_of_events_is_full_of_tasks_and_not_of_their_events() -> None:
    state = State()
    clock = itertools.count(1)
    for number in range(30):
        for kind in ("received", "started", "succeeded"):
            told = {"uuid": f"id-{number}", "hostname": "w1@h", "clock": next(clock), "timestamp": time.time()}
            told["local_received"] = time.time()
            state.event({"type": f"task-{kind}", **told})
    screen = CursesMonitor(state, Celery("client", broker="memory://", set_as_current=False))
    screen.win = SimpleNamespace(getmaxyx=lambda: (24, 80))
    assert [uuid for uuid, _ in screen.tasks] == [f"id-{number}" for number in range(29, 15, -1)]
    lines: list[str] = []
    screen._show_lines = lambda told, title: lines.extend(told)  # type: ignore[method-assign]
    screen.selected_task = "id-29"
    screen.selection_info()
    assert [line for line in lines if line.startswith(f"started: {time.strftime('%Y-%m-')}")], lines


def test_the_screen_of_events_in_a_terminal(
    sandbox: Sandbox, running_worker: Callable[..., str], terminal: Callable[..., Terminal]
) -> None:
    url = running_worker(PROJECT, "-c", "2", "-n", "w1@here", "-E")
    with Celery("client", broker=url, set_as_current=False) as app:
        screen = terminal("-A", "proj", "-b", url, "events")
        screen.wait_for("w1@here")
        sleeping = app.send_task("proj.sleep", [60])
        screen.wait_for("STARTED")
        screen.press("i")
        screen.wait_for(f"Task details for {sleeping.id}")
        screen.press(" ")
        screen.wait_for("Workers online")
        screen.press("c")
        screen.wait_for("Remote Control Command Replies")
        screen.press(" ")
        app.control.terminate(sleeping.id)
        screen.wait_for("REVOK")  # the rest of STARTED stays: a terminal is only sent what is new
        failing = app.send_task("proj.fail")
        screen.wait_for("FAILURE")
        assert failing.get(timeout=PATIENCE, propagate=False)
        screen.press("k")
        screen.press("t")
        screen.wait_for("ValueError: boom")
        screen.process.send_signal(signal.SIGINT)  # it ends also where it waits for a key
        assert screen.process.wait(PATIENCE) == 0
