"""Settings that a worker has its effect from, each observed in runs of tasks: with the setting, and as it is without.

Four workers are shared by all tests, each with its own node: one as it comes, the others with settings that don't get
into each other's way.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_until
from zerocelery import Celery, chord
from zerocelery.exceptions import (
    ChordError,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkerLostError,
)
from zerocelery.exceptions import TimeoutError as WaitTimeout

TASKS = """
import logging, os, signal, sys, threading, time
from pathlib import Path
from zerocelery import Celery
from zerocelery.exceptions import SoftTimeLimitExceeded
from zerocelery.utils.log import get_task_logger

own = logging.StreamHandler()
own.setFormatter(logging.Formatter("own handler: %(message)s"))
logging.getLogger().addHandler(own)

app = Celery("proj")
app.conf.update({settings!r})
HERE = Path(__file__).parent
logger = get_task_logger(__name__)

def runs(name):
    with (HERE / name).open("a") as file:
        file.write("run\\n")
    return len((HERE / name).read_text().splitlines())

def hold(name):
    while not (HERE / name).exists():
        time.sleep(0.01)

@app.task
def pid():
    return os.getpid()

@app.task
def thread():
    return os.getpid(), threading.current_thread() is threading.main_thread()

@app.task
def waits(name):
    hold(name)

@app.task
def meets(name, other):
    (HERE / name).touch()
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        if (HERE / other).exists():
            return True
        time.sleep(0.01)
    return False

@app.task(default_retry_delay=0.01)
def dies_once(name):
    if runs(name) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs(name)

@app.task
def fail(message):
    raise ValueError(message)

@app.task
def erred(request, exc, traceback, name):
    runs(name)

@app.task
def total(counts):
    return sum(counts)

@app.task(ignore_result=True)
def fail_quietly(message):
    raise ValueError(message)

@app.task
def oversleeps(name):
    if runs(name) > 1:
        return "again"
    time.sleep(30)

@app.task
def goes_on():
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        time.sleep(30)

@app.task
def grows(megabytes):
    globals()["kept"] = bytearray(megabytes << 20)
    return os.getpid()

@app.task
def speak(text):
    print("printed " + text)
    logger.error("logged %s", text)
    logging.getLogger("elsewhere").error("said %s", text)
    return sys.stdout.__class__.__module__

@app.task
def limited():
    return time.time()
"""

#: What the workers are told, beside their broker.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"worker_concurrency": 2},
    "careful": {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_track_started": True,
        "task_soft_time_limit": 1.5,
        "task_time_limit": 2.5,
        "task_store_errors_even_if_ignored": True,
        "worker_concurrency": 1,
        "worker_direct": True,
        "worker_max_tasks_per_child": 3,
        "worker_send_task_events": True,
        "worker_log_format": "[main %(levelname)s] %(message)s",
        "worker_task_log_format": "[task %(asctime)s %(task_name)s] %(message)s",
        "worker_task_log_datefmt": "year %Y",
        "worker_redirect_stdouts_level": "CRITICAL",
    },
    "strict": {
        "task_acks_late": True,
        "task_acks_on_failure": False,
        "task_acks_on_timeout": False,
        "task_retry_on_worker_lost": True,
        "task_time_limit": 2.0,
        "task_default_rate_limit": "5/s",
        "worker_concurrency": 1,
        "worker_max_memory_per_child": 150_000,
        "worker_pool_start_method": "spawn",
        "worker_log_format": "[%(asctime)s] %(message)s",
        "worker_log_datefmt": "year %Y",
    },
    "threads": {
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": False,
        "task_default_rate_limit": "1/m",
        "worker_concurrency": 4,
        "worker_disable_rate_limits": True,
        "worker_hijack_root_logger": False,
        "worker_log_color": True,
        "worker_pool": "threads",
        "worker_redirect_stdouts": False,
    },
}


class Running:
    """A worker that runs, and a client of it."""

    def __init__(self, box: Sandbox, process: subprocess.Popen[bytes], hostname: str) -> None:
        self.box = box
        self.process = process
        self.hostname = hostname

    def client(self) -> Celery:
        return Celery("client", broker=self.box.url, set_as_current=False)

    @property
    def output(self) -> str:
        return self.box.output(self.process)


@pytest.fixture(scope="module")
def workers() -> Iterator[Callable[[str], Running]]:
    """``workers(name)``: that worker, started by whoever needs it first."""
    running: dict[str, Running] = {}

    def get(name: str) -> Running:
        if name not in running:
            box = Sandbox(Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp")))
            box.write("proj.py", TASKS.format(settings={"broker_url": box.url, **SETTINGS[name]}))
            process = box.python("-m", "zerocelery", "-A", "proj", "worker", "-n", f"{name}@here", "-l", "INFO")
            running[name] = Running(box, process, f"{name}@here")
            box.wait_for_output(process, "ready.")
        return running[name]

    get("plain"), get("careful"), get("strict"), get("threads")
    yield get
    try:
        for each in running.values():
            each.process.send_signal(signal.SIGTERM)
        for each in running.values():
            each.process.wait(PATIENCE)
    finally:
        for each in running.values():
            each.box.end()
            shutil.rmtree(each.box.home, ignore_errors=True)


Workers = Callable[[str], Running]


@pytest.fixture
def call(workers: Workers) -> Iterator[Callable[..., Any]]:
    """``call(worker, task, *args, **options)``: the result of a task that is sent there."""
    clients: dict[str, Celery] = {}

    def send(worker: str, task: str, *args: Any, **options: Any) -> Any:
        if worker not in clients:
            clients[worker] = workers(worker).client()
        return clients[worker].send_task(f"proj.{task}", args, **options)

    yield send
    for app in clients.values():
        app.close()


Call = Callable[..., Any]


def test_worker_concurrency(call: Call) -> None:
    two = [call("plain", "meets", "a", "b"), call("plain", "meets", "b", "a")]
    assert [result.get(timeout=20) for result in two] == [True, True]
    one = [call("careful", "meets", "a", "b"), call("careful", "meets", "b", "a")]
    assert [result.get(timeout=20) for result in one] == [False, True]


def test_task_track_started(call: Call, workers: Workers) -> None:
    for worker, states in (("careful", {"STARTED"}), ("plain", {"PENDING"})):
        result = call(worker, "waits", "go-started")
        name = f"proj.waits[{result.id}] received"
        wait_until(lambda worker=worker, name=name: name in workers(worker).output, what="its start")
        if worker == "careful":
            wait_until(lambda result=result: result.state == "STARTED", what="STARTED")
        assert {result.state} == states
        (workers(worker).box.home / "go-started").touch()
        result.get(timeout=20)


def test_task_acks_late_and_reject_on_worker_lost(call: Call) -> None:
    assert call("careful", "dies_once", "dies-careful").get(timeout=20) == 3
    with pytest.raises(WorkerLostError):
        call("plain", "dies_once", "dies-plain").get(timeout=20)


def test_task_retry_on_worker_lost(call: Call, workers: Workers) -> None:
    result = call("strict", "dies_once", "dies-strict")  # not rejected on loss, so else it would fail
    assert result.get(timeout=20) == 3
    assert f"proj.dies_once[{result.id}] retry: Retry in 0.01s" in workers("strict").output


def test_task_allow_error_cb_on_chord_header(call: Call, workers: Workers) -> None:
    running = workers("plain")
    for allowed, calls in ((True, 3), (False, 1)):
        with running.client() as app:
            app.conf.task_allow_error_cb_on_chord_header = allowed
            name = f"erred-{allowed}"
            failing = [app.signature("proj.fail", (str(n),)) for n in range(2)]
            whole = chord(failing, app.signature("proj.total"))
            whole.link_error(app.signature("proj.erred", (name,)))
            result = whole.apply_async()
            with pytest.raises((ValueError, ChordError)):
                result.get(timeout=20)

            def count(name: str = name) -> int:
                path = running.box.home / name
                return len(path.read_text().splitlines()) if path.exists() else 0

            wait_until(lambda count=count, calls=calls: count() == calls, what=f"{calls} calls of the errback")
            call("plain", "pid").get(timeout=20)
            assert count() == calls


def test_task_remote_tracebacks(workers: Workers) -> None:
    pytest.importorskip("tblib")
    for wanted in (True, False):
        with workers("plain").client() as app:
            app.conf.task_remote_tracebacks = wanted
            with pytest.raises(ValueError, match="far away") as caught:
                app.send_task("proj.fail", ("far away",)).get(timeout=20)
            names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert ("fail" in names) is wanted


def test_broker_connection_max_retries(sandbox: Sandbox) -> None:
    settings = {"broker_url": "redis://127.0.0.1:1", "broker_connection_max_retries": 1}
    sandbox.write("proj.py", TASKS.format(settings=settings))
    process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-c", "1")
    assert process.wait(PATIENCE) != 0
    assert "was not there after 1 attempts" in sandbox.output(process)
    assert sandbox.output(process).count("trying again in") == 1


def test_time_limits(call: Call) -> None:
    soft, hard = call("careful", "oversleeps", "sleeps"), call("careful", "goes_on")
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=20)
    with pytest.raises(TimeLimitExceeded):
        hard.get(timeout=20)


def test_task_acks_on_timeout(call: Call) -> None:
    assert call("strict", "oversleeps", "again").get(timeout=20) == "again"


@pytest.mark.parametrize("worker", ["strict", "threads", "careful"])
def test_task_acks_on_failure_and_acks_on_failure_or_timeout(call: Call, workers: Workers, worker: str) -> None:
    result = call(worker, "fail", "sick")
    with pytest.raises(ValueError, match="sick"):
        result.get(timeout=20)
    with workers(worker).client() as app:
        kept = [letter["id"] for letter in app.control.dead_letters()]
    assert (result.id in kept) is (worker != "careful")


def test_task_store_errors_even_if_ignored(call: Call) -> None:
    for worker, state in (("careful", "FAILURE"), ("plain", "PENDING")):
        result = call(worker, "fail_quietly", "no")
        call(worker, "pid").get(timeout=20)  # one more of the same worker has ended since
        if worker == "careful":
            wait_until(lambda result=result: result.state == "FAILURE", what="the error")
        assert result.state == state


def test_task_default_rate_limit_and_worker_disable_rate_limits(call: Call) -> None:
    def seconds(worker: str) -> float:
        at = sorted(result.get(timeout=30) for result in [call(worker, "limited") for _ in range(6)])
        return float(at[-1] - at[0])

    assert seconds("strict") > 0.6
    # one a minute would take minutes
    assert seconds("threads") < 20


def test_worker_direct(call: Call, workers: Workers) -> None:
    assert call("careful", "pid", queue="careful@here.dq").get(timeout=20)
    left = call("plain", "pid", queue="plain@here.dq")
    with pytest.raises(WaitTimeout):
        left.get(timeout=0.3)


def test_worker_max_tasks_per_child(call: Call) -> None:
    pids = [call("careful", "pid").get(timeout=20) for _ in range(9)]
    assert len(set(pids)) >= 3
    assert len({call("strict", "pid").get(timeout=20) for _ in range(4)}) == 1


def test_worker_max_memory_per_child(call: Call) -> None:
    grown = call("strict", "grows", 200).get(timeout=20)
    wait_until(lambda: not psutil.pid_exists(grown), what="the end of the process that has grown")
    assert call("strict", "pid").get(timeout=20) != grown


def test_worker_pool(call: Call, workers: Workers) -> None:
    pid, is_main = call("threads", "thread").get(timeout=20)
    assert (pid, is_main) == (workers("threads").process.pid, False)
    pid, is_main = call("plain", "thread").get(timeout=20)
    assert pid != workers("plain").process.pid
    assert is_main


def test_worker_pool_start_method(call: Call) -> None:
    def begun_with(worker: str) -> str:
        return " ".join(psutil.Process(call(worker, "pid").get(timeout=20)).cmdline())

    assert "multiprocessing" in begun_with("strict")
    assert "multiprocessing" not in begun_with("plain")


def test_worker_send_task_events(call: Call, workers: Workers) -> None:
    for worker, wanted in (("careful", True), ("plain", False)):
        with workers(worker).client() as app:
            heard: list[str] = []

            def note(event: dict[str, Any], worker: str = worker, heard: list[str] = heard) -> None:
                heard.append(event["type"])
                if event["type"] == "worker-heartbeat":  # so it is listened to
                    call(worker, "pid")

            receiver = app.events.Receiver(app.connection(), handlers={"*": note})
            for _ in receiver.itercapture(timeout=10, wakeup=False):
                if "task-succeeded" in heard or heard.count("worker-heartbeat") == 3:
                    break
            assert ("task-succeeded" in heard) is wanted, (worker, heard)


def test_log_formats_and_redirected_output(call: Call, workers: Workers) -> None:
    text = "here"
    answers = {worker: call(worker, "speak", text).get(timeout=20) for worker in SETTINGS}
    for worker in SETTINGS:
        wait_until(lambda worker=worker: f"said {text}" in workers(worker).output, what="what was said")
    careful, strict, plain, threads = (workers(name).output for name in ("careful", "strict", "plain", "threads"))

    # worker_log_format, worker_task_log_format and their dates
    assert f"[main ERROR] said {text}" in careful
    assert re.search(rf"\[task year \d{{4}} proj.speak\] logged {text}", careful)
    assert re.search(rf"\[year \d{{4}}\] said {text}", strict)
    assert re.search(rf"\[\d{{4}}-\d\d-\d\d .*ERROR/.*\] said {text}", plain)
    # worker_redirect_stdouts, and its level
    assert re.search(rf"CRITICAL.*printed {text}|\[task .*\] printed {text}", careful)
    assert re.search(rf"WARNING/.*\] printed {text}", plain)
    assert f"\nprinted {text}\n" in threads
    assert answers["plain"] != answers["threads"]
    # worker_hijack_root_logger: the module's own handler is there, or gone
    assert f"own handler: said {text}" in threads
    assert "own handler" not in plain
    # worker_log_color: nothing here is a terminal
    assert "\x1b[" not in plain


def test_worker_log_color(sandbox: Sandbox) -> None:
    program = """
        import logging, sys
        from zerocelery import Celery
        app = Celery("colours", set_as_current=False, worker_log_color=sys.argv[1] == "on")
        app.log.setup_logging_subsystem(loglevel="INFO")
        logging.getLogger("x").error("said")
    """
    assert "\x1b[" in sandbox.run(program, "on")
    assert "\x1b[" not in sandbox.run(program, "off")


def test_worker_state_db_and_settings_without_effect(sandbox: Sandbox) -> None:
    settings = {
        "broker_url": sandbox.url,
        "worker_state_db": str(sandbox.home / "state"),
        "worker_pool": "solo",
        "worker_consumer": "mine:Consumer",
        "broker_heartbeat": 7,
        "broker_transport_options": {"visibility_timeout": 3},
        "task_acks_lat": True,
    }
    sandbox.write("proj.py", TASKS.format(settings=settings))

    def once() -> str:
        process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-l", "INFO")
        sandbox.wait_for_output(process, "ready.")
        with Celery("client", broker=sandbox.url, set_as_current=False) as app:
            (told,) = app.control.inspect(timeout=5).revoked().values()
            app.control.revoke("never")
            wait_until(lambda: "Tasks flagged as revoked: never" in sandbox.output(process), what="the revocation")
        process.terminate()
        assert process.wait(PATIENCE) == 0
        return f"{told} {sandbox.output(process)}"

    first = once()
    assert list(sandbox.home.glob("state*"))
    shutil.rmtree(sandbox.node_dir, ignore_errors=True) if not sandbox.node_pid() else sandbox.kill_node()
    shutil.rmtree(sandbox.node_dir, ignore_errors=True)  # so that only the file can know of it
    second = once()
    assert "'never'" not in first.split("\n")[0]
    assert "'never'" in second.split("\n")[0]
    # and what has no effect is said
    assert "the setting worker_consumer has no effect" in first
    assert "the setting broker_heartbeat has no effect: with a node as the broker" in first
    assert "these broker_transport_options have no effect on a node: visibility_timeout" in first
    assert "there is no setting task_acks_lat: is task_acks_late meant?" in first
