"""Workers that are asked and told by name while they work; tasks that are revoked wherever they are."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from zerocelery import Celery
from zerocelery.exceptions import TaskRevokedError, TimeoutError

from ..conftest import Sandbox, wait_for_end, wait_until, worker_process

TASKS = '''
import os, time
from zerocelery import Celery, signals
from zerocelery.worker import state as worker_state
from zerocelery.worker.control import control_command, inspect_command

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))

def tell(text):
    with open(os.path.join(HERE, "told"), "a") as file:
        file.write(text + "\\n")

@signals.task_revoked.connect
def revoked(sender, request, terminated, signum, expired, **kwargs):
    tell(f"revoked {sender.name} {request.id} {request.args} {terminated} {signum} {expired}")

@app.task
def add(x, y):
    return x + y

@app.task
def pid():
    return os.getpid()

@app.task(bind=True)
def hold(self, seconds, name=""):
    tell(f"began {name}")
    try:
        time.sleep(seconds)
    finally:
        tell(f"left {name}")
    return "held"

@app.task(acks_late=True, reject_on_worker_lost=True)
def late(seconds):
    time.sleep(seconds)

@inspect_command(args=[("factor", int)], signature="[factor]", alias="times")
def multiplied(state, factor=2):
    """What the worker's concurrency is, times a factor."""
    return {"ok": state.consumer.pool.num_processes * factor, "app": state.app.main, "name": state.hostname}

@control_command()
def fails(state):
    raise KeyError("as told")

@control_command()
def allow(state, task_id):
    worker_state.revoked.discard(task_id)
    worker_state.revoked_stamps.clear()
    return {"ok": "allowed"}
'''


def told(sandbox: Sandbox) -> list[str]:
    path = sandbox.home / "told"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def app(sandbox: Sandbox) -> Celery:
    made = Celery("client", broker=sandbox.url, set_as_current=False)
    for name in ("add", "pid", "hold", "late"):
        setattr(made, name, made.signature(f"proj.{name}", app=made))
    return made


def hold(app: Celery, sandbox: Sandbox, seconds: float, name: str, **options: Any) -> Any:
    """A task that runs."""
    result = app.send_task("proj.hold", (seconds, name), **options)
    wait_until(lambda: f"began {name}" in told(sandbox), what=f"the beginning of {name}")
    return result


def test_a_worker_answers_at_once_while_all_its_children_are_busy(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "2", "-n", "w1@h")
    first, second = hold(app, sandbox, 30, "a"), hold(app, sandbox, 30, "b")
    waiting = app.send_task("proj.add", (1, 1))
    inspect = app.control.inspect(timeout=10.0)
    assert inspect.ping() == {"w1@h": {"ok": "pong"}}
    fastest = min(_seconds(inspect.ping) for _ in range(5))
    assert fastest < 0.1  # and not the timeout: it is over when all have answered
    (active,) = inspect.active().values()
    assert {item["id"] for item in active} == {first.id, second.id}
    item = next(item for item in active if item["id"] == first.id)
    assert (item["name"], item["type"]) == ("proj.hold", "proj.hold")
    assert item["args"] == [30, "a"]
    assert item["kwargs"] == {}
    assert item["hostname"] == "w1@h"
    assert item["acknowledged"] is True
    assert item["delivery_info"] == {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    assert abs(item["time_start"] - time.time()) < 10.0
    os.kill(item["worker_pid"], 0)
    (safe,) = inspect.active(safe=True).values()
    assert {one["args"] for one in safe} == {"(30, 'a')", "(30, 'b')"}
    assert inspect.stats()["w1@h"]["total"] == {"proj.hold": 2}
    assert inspect.queues()["w1@h"]["celery"]["waiting"] == 1
    app.control.revoke([first.id, second.id], terminate=True)
    assert waiting.get(timeout=10) == 2


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_workers_are_chosen_by_name_or_pattern(app: Celery, sandbox: Sandbox) -> None:
    with (
        worker_process(sandbox, TASKS, "-c", "1", "-n", "one@h"),
        worker_process(sandbox, TASKS, "-c", "1", "-n", "two@h"),
    ):
        control = app.control
        assert set(control.inspect(timeout=5.0).ping()) == {"one@h", "two@h"}
        assert control.ping(destination=["two@h"], timeout=5.0) == [{"two@h": {"ok": "pong"}}]
        assert control.inspect("one@h", timeout=5.0).ping() == {"ok": "pong"}
        assert control.inspect(pattern="o*", matcher="glob", timeout=5.0).ping() == {"one@h": {"ok": "pong"}}
        assert control.inspect(pattern="^t", matcher="pcre", timeout=5.0).ping() == {"two@h": {"ok": "pong"}}
        assert control.inspect(["nobody@h"], timeout=5.0).ping() is None
        assert len(control.broadcast("ping", reply=True, limit=1, timeout=5.0)) == 1
        seen: list[Any] = []
        control.broadcast("ping", reply=True, timeout=5.0, callback=seen.append)
        assert len(seen) == 2
        assert control.broadcast("ping") is None
        # The node holds tasks with an ETA for both; each is listed by one.
        later = {app.send_task("proj.add", (1, n), countdown=600).id for n in range(30)}
        wait_until(lambda: sum(map(len, control.inspect(timeout=5.0).scheduled().values())) >= 30)
        scheduled = control.inspect(timeout=5.0).scheduled()
        listed = {name: [item["request"]["id"] for item in items] for name, items in scheduled.items()}
        assert sorted(listed["one@h"] + listed["two@h"]) == sorted(later)
        assert all(listed.values())
        assert control.inspect("one@h", timeout=5.0).scheduled() == scheduled["one@h"]
        found = control.inspect(timeout=5.0).query_task(*later)
        assert {name: set(tasks) for name, tasks in found.items()} == {name: set(ids) for name, ids in listed.items()}
        control.cancel_consumer("celery", destination=["one@h"], reply=True)
        wait_until(lambda: len(control.inspect("two@h", timeout=5.0).scheduled()) == 30)


def test_a_worker_without_remote_control_works_and_answers_nobody(
    app: Celery, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS + "app.conf.worker_enable_remote_control = False\n", "-c", "1", "-n", "silent@h")
    assert app.send_task("proj.add", (1, 1)).get(timeout=10) == 2
    assert app.control.inspect(timeout=1.0).ping() is None
    app.control.shutdown()
    assert app.send_task("proj.add", (2, 2)).get(timeout=10) == 4


def test_what_a_worker_tells_of_itself(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "2", "-n", "w1@h")
    inspect = app.control.inspect(timeout=5.0)
    assert inspect.registered("max_retries")["w1@h"][0] == "proj.add [max_retries=3]"
    stats = inspect.stats()["w1@h"]
    assert stats["pool"]["max-concurrency"] == 2
    assert len(stats["pool"]["processes"]) == 2
    assert stats["pool"]["implementation"] == "zerocelery.concurrency.prefork:TaskPool"
    assert stats["broker"]["transport"] == "zmq"
    assert isinstance(stats["clock"], str)
    assert [queue["name"] for queue in inspect.active_queues()["w1@h"]] == ["celery"]
    assert inspect.clock()["w1@h"]["clock"] > 0
    assert "broker_url" in inspect.conf()["w1@h"]
    assert "zerocelery" in inspect.report()["w1@h"]["ok"]
    assert inspect.memsample()["w1@h"].endswith("MB")
    assert "rss" in inspect.memdump()["w1@h"]
    assert inspect.reserved() == {"w1@h": []}
    assert inspect.revoked() == {"w1@h": []}
    assert inspect.hello("other@h")["w1@h"]["revoked"] == []


def test_a_task_with_an_eta_is_scheduled_and_can_be_queried(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    later = app.send_task("proj.add", (1, 2), countdown=600)
    inspect = app.control.inspect(timeout=5.0)
    (item,) = inspect.scheduled()["w1@h"]
    assert item["eta"].endswith("+00:00")
    assert item["request"]["id"] == later.id
    assert item["request"]["args"] == [1, 2]
    assert item["request"]["time_start"] is None
    found = inspect.query_task(later.id, "no such task")["w1@h"]
    assert list(found) == [later.id]
    assert found[later.id][0] == "scheduled"


def test_commands_of_an_app_are_answered_and_errors_too(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "2", "-n", "w1@h")
    control = app.control
    assert control.broadcast("multiplied", arguments={"factor": 5}, reply=True, timeout=5.0) == [
        {"w1@h": {"ok": 10, "app": "proj", "name": "w1@h"}}
    ]
    assert control.broadcast("times", reply=True, timeout=5.0)[0]["w1@h"]["ok"] == 4
    assert control.broadcast("fails", reply=True, timeout=5.0) == [{"w1@h": {"error": "KeyError('as told')"}}]
    assert control.broadcast("no_such", reply=True, timeout=5.0) == [{"w1@h": {"error": "KeyError('no_such')"}}]
    (answer,) = control.broadcast("rate_limit", reply=True, timeout=5.0)
    assert answer["w1@h"]["error"].startswith("TypeError")


def test_a_command_changes_tasks_queues_and_the_pools_size(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    control, inspect = app.control, app.control.inspect(timeout=5.0)
    patient = {"reply": True, "timeout": 5.0}
    assert control.time_limit("proj.hold", hard=0.5, **patient) == [{"w1@h": {"ok": "time limits set successfully"}}]
    assert control.time_limit("nope", hard=1, **patient) == [{"w1@h": {"error": "unknown task"}}]
    with pytest.raises(Exception, match=r"TimeLimitExceeded\(0.5"):
        hold(app, sandbox, 30, "a").get(timeout=10)
    assert "Invalid rate limit" in control.rate_limit("proj.add", "often", **patient)[0]["w1@h"]["error"]
    other = app.send_task("proj.add", (1, 1), queue="other")
    assert control.add_consumer("other", **patient) == [{"w1@h": {"ok": "add consumer other"}}]
    assert other.get(timeout=10) == 2
    assert [queue["name"] for queue in inspect.active_queues()["w1@h"]] == ["celery", "other"]
    assert control.cancel_consumer("other", **patient) == [{"w1@h": {"ok": "no longer consuming from other"}}]
    with pytest.raises(TimeoutError):
        app.send_task("proj.add", (1, 1), queue="other").get(timeout=0.5)
    assert control.pool_grow(2, **patient) == [{"w1@h": {"ok": "pool will grow"}}]
    wait_until(lambda: len(inspect.stats()["w1@h"]["pool"]["processes"]) == 3, what="three processes")
    assert control.pool_shrink(2, **patient) == [{"w1@h": {"ok": "pool will shrink"}}]
    wait_until(lambda: len(inspect.stats()["w1@h"]["pool"]["processes"]) == 1, what="one process")
    assert "Autoscale not enabled" in control.autoscale(3, 1, **patient)[0]["w1@h"]["error"]
    assert "Pool restarts not enabled" in control.pool_restart(**patient)[0]["w1@h"]["error"]


def test_a_pool_is_restarted_by_a_command(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS + "\napp.conf.worker_pool_restarts = True\n", "-c", "1", "-n", "w1@h")
    before = app.send_task("proj.pid").get(timeout=10)
    assert app.control.pool_restart(reply=True, timeout=5.0) == [{"w1@h": {"ok": "reload started"}}]
    wait_for_end(before)
    assert app.send_task("proj.pid").get(timeout=10) != before


def test_a_worker_is_shut_down_by_a_command(app: Celery, sandbox: Sandbox) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "-n", "w1@h") as process:
        running = hold(app, sandbox, 0.5, "a")
        app.control.shutdown()
        assert process.wait(20) == 0
        assert running.get(timeout=5) == "held"
        assert app.control.inspect(timeout=1.0).ping() is None


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_pool_without_processes_answers_while_it_is_busy(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str], pool: str
) -> None:
    running_worker(TASKS, "-c", "1", "-P", pool, "-n", "w1@h")
    result = hold(app, sandbox, 2, "a")
    inspect = app.control.inspect(timeout=5.0)
    assert _seconds(inspect.ping) < 1.0
    assert [item["id"] for item in inspect.active()["w1@h"]] == [result.id]
    (answer,) = app.control.revoke(result.id, terminate=True, reply=True, timeout=5.0)
    assert "prefork" in answer["w1@h"]["error"]
    assert result.get(timeout=10) == "held"


# ── revoking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_waiting_task_is_revoked_at_once_and_the_worker_tells_of_it(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    busy = hold(app, sandbox, 30, "a")
    waiting = app.send_task("proj.add", (1, 2))
    later = app.send_task("proj.add", (3, 4), countdown=600)
    assert app.control.revoke(waiting.id, reply=True, timeout=5.0) == [
        {"w1@h": {"ok": f"tasks {{{waiting.id!r}}} flagged as revoked"}}
    ]
    later.revoke()
    for result in (waiting, later):
        with pytest.raises(TaskRevokedError, match=r"^revoked$"):
            result.get(timeout=5)
        assert result.state == "REVOKED"
    assert set(app.control.inspect(timeout=5.0).revoked()["w1@h"]) == {waiting.id, later.id}
    line = f"revoked proj.add {waiting.id} [1, 2] False None False"
    wait_until(lambda: line in told(sandbox), what="task_revoked")
    busy.revoke(terminate=True)


def test_a_revocation_needs_no_worker_and_survives_the_node(app: Celery, sandbox: Sandbox) -> None:
    with worker_process(sandbox, TASKS, "-c", "1"):
        pass  # its node stays for some seconds
    before = app.send_task("proj.add", (1, 1))
    app.control.revoke(before.id)
    with pytest.raises(TaskRevokedError):
        before.get(timeout=5)
    app.control.revoke("to-come")
    assert app.client.producer.confirm(5.0)
    sandbox.kill_node()
    with worker_process(sandbox, TASKS, "-c", "1"):
        assert app.send_task("proj.add", (1, 1)).get(timeout=10) == 2
        with pytest.raises(TaskRevokedError):
            app.send_task("proj.add", (1, 1), task_id="to-come").get(timeout=10)


@pytest.mark.parametrize("keeps", [True, False], ids=["with-the-file", "without-it"])
def test_a_state_db_brings_revocations_to_a_node_that_knows_nothing_of_them(
    app: Celery, sandbox: Sandbox, keeps: bool
) -> None:
    options = "-c", "1", "-n", "w1@h", *(["--statedb", str(sandbox.home / "state")] if keeps else [])
    with worker_process(sandbox, TASKS, *options):
        (answer,) = app.control.revoke(["one", "two"], reply=True, timeout=5.0)
        assert "flagged as revoked" in answer["w1@h"]["ok"]
    assert bool(list(sandbox.home.glob("state*"))) is keeps
    sandbox.kill_node()
    shutil.rmtree(sandbox.node_dir)  # the node would know it, too: what is left is the worker's file

    for _ in range(2):  # what a worker has read it writes again
        with worker_process(sandbox, TASKS, *options):
            for task_id in ("one", "two"):
                result = app.send_task("proj.add", (1, 2), task_id=task_id)
                if keeps:
                    with pytest.raises(TaskRevokedError):
                        result.get(timeout=10)
                else:
                    assert result.get(timeout=10) == 3
            assert app.send_task("proj.add", (1, 2)).get(timeout=10) == 3
        sandbox.kill_node()
        shutil.rmtree(sandbox.node_dir)


def test_terminate_ends_the_child_of_that_task_and_no_other(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "2", "-n", "w1@h")
    victim, other = hold(app, sandbox, 30, "victim"), hold(app, sandbox, 3, "other")
    items = {item["id"]: item["worker_pid"] for item in app.control.inspect(timeout=5.0).active()["w1@h"]}
    (answer,) = app.control.terminate(victim.id, reply=True, timeout=5.0)
    assert answer == {"w1@h": {"ok": f"terminate: {victim.id}"}}
    with pytest.raises(TaskRevokedError, match=r"^terminated$"):
        victim.get(timeout=5)
    assert victim.state == "REVOKED"
    wait_for_end(items[victim.id])
    assert "left victim" in told(sandbox)  # it could clean up
    line = f"revoked proj.hold {victim.id} [30, 'victim'] True {int(signal.SIGTERM)} False"
    wait_until(lambda: line in told(sandbox), what="task_revoked")
    os.kill(items[other.id], 0)
    assert other.get(timeout=10) == "held"
    assert app.send_task("proj.add", (1, 1)).get(timeout=10) == 2
    (answer,) = app.control.terminate("unknown", reply=True, timeout=5.0)
    assert answer == {"w1@h": {"ok": "terminate: tasks unknown"}}


def test_a_signal_that_can_not_be_caught_ends_a_late_task_for_good(
    app: Celery, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    victim = app.send_task("proj.late", (30,))
    inspect = app.control.inspect(timeout=5.0)
    wait_until(lambda: inspect.active()["w1@h"], what="a running task")
    victim.revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError, match=r"^terminated$"):
        victim.get(timeout=5)
    assert app.send_task("proj.add", (1, 1)).get(timeout=10) == 2
    (answer,) = app.control.revoke("x", terminate=True, signal="NOPE", reply=True, timeout=5.0)
    assert "NOPE" in answer["w1@h"]["error"]


def test_tasks_are_revoked_by_their_stamps(app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    busy = hold(app, sandbox, 30, "a", stamped_headers=["tenant"], tenant="acme")
    mine = app.send_task("proj.add", (1, 1), stamped_headers=["tenant"], tenant=["acme", "other"])
    theirs = app.send_task("proj.add", (2, 2), stamped_headers=["tenant"], tenant="umbrella")
    (answer,) = app.control.revoke_by_stamped_headers({"tenant": ["acme"]}, reply=True, timeout=5.0)
    assert "flagged as revoked, but not terminated" in answer["w1@h"]["ok"]
    with pytest.raises(TaskRevokedError):
        mine.get(timeout=5)
    (answer,) = app.control.revoke_by_stamped_headers({"tenant": "acme"}, terminate=True, reply=True, timeout=5.0)
    assert answer == {"w1@h": {"ok": f"terminate: {busy.id}"}}
    with pytest.raises(TaskRevokedError):
        busy.get(timeout=5)
    assert theirs.get(timeout=10) == 4


def test_a_command_of_an_app_takes_a_revocation_back(
    app: Celery, running_worker: Callable[..., str], sandbox: Sandbox
) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")

    def send(task_id: str) -> Any:
        return app.send_task("proj.add", (1, 2), task_id=task_id)

    def stamped() -> Any:
        return app.send_task("proj.add", (3, 4), stamped_headers=["tenant"], tenant="acme")

    app.control.revoke(["kept", "allowed"], reply=True, timeout=5.0)
    app.control.revoke_by_stamped_headers({"tenant": ["acme"]}, reply=True, timeout=5.0)
    with pytest.raises(TaskRevokedError):
        stamped().get(timeout=10)
    assert app.control.broadcast("allow", {"task_id": "allowed"}, reply=True, timeout=5.0) == [
        {"w1@h": {"ok": "allowed"}}
    ]
    assert send("allowed").get(timeout=10) == 3
    assert stamped().get(timeout=10) == 7
    with pytest.raises(TaskRevokedError):
        send("kept").get(timeout=10)


def test_a_group_with_a_revoked_member_does_not_wait_for_ever(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    busy = hold(app, sandbox, 30, "a")
    from zerocelery import chord

    add = app.signature("proj.add", app=app)
    made = chord([add.clone((1, 1)), add.clone((2, 2))], app=app)(app.signature("proj.add", (1,), app=app))
    made.parent.results[0].revoke()
    busy.revoke(terminate=True)
    with pytest.raises(Exception, match="revoked"):
        made.get(timeout=10)


def test_an_expired_task_is_told_of_as_expired(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    result = app.send_task("proj.add", (1, 1), expires=-1)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=5)
    line = f"revoked proj.add {result.id} [1, 1] False None True"
    wait_until(lambda: line in told(sandbox), what="task_revoked")


def test_queues_are_told_of_with_the_age_of_their_oldest(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    app.send_task("proj.add", (1, 1), queue="other")
    app.send_task("proj.add", (1, 1), queue="other", countdown=600)
    assert app.client.producer.confirm(5.0)
    found = app.control.queues()["other"]
    assert (found["waiting"], found["scheduled"], found["leased"], found["dead"]) == (1, 1, 0, 0)
    assert 0.0 <= found["oldest"] < 10.0
    assert list(app.control.inspect(timeout=5.0).queues()["w1@h"]) == ["celery"]


def test_the_command_line_asks_through_the_node(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    process = sandbox.python("-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "inspect", "multiplied", "3")
    assert process.wait(20) == 0
    assert "w1@h: OK" in sandbox.output(process)
