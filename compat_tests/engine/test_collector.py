"""What the node does with tasks, leases and losses, told by a real node in memory and workers that obey."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from compat_tests.engine.system import HERE, Peer, System, task
from zerocelery.engine import processes, wire
from zerocelery.engine.errors import NodeUnreachable, QueueFull, VersionMismatch
from zerocelery.engine.producer import Producer

MakeSystem = Callable[..., System]
LATE = wire.ACK_LATE
REJECT = wire.ACK_LATE | wire.REJECT_ON_LOST


def result(system: System, task_id: str) -> wire.Result | None:
    """What the store has."""
    raw = system.node.journal.find_result(task_id, system.clock.wall())
    found = wire.decode_result(raw) if raw is not None else None
    assert not isinstance(found, wire.Malformed)
    return found


def loss(found: wire.Result | None) -> wire.Loss:
    assert found is not None
    assert found.content_type == wire.LOSS_TYPE
    why = wire.decode_loss(found.value)
    assert isinstance(why, wire.Loss)
    return why


def counters(system: System) -> Any:
    return system.node.collector.counters


def submitted(system: System, *names: str, **more: Any) -> tuple[Producer, list[wire.Task]]:
    producer = system.producer()
    tasks = [task(name, topics=(producer.inbox,), **more) for name in names]
    producer.submit_many(tasks)
    return producer, tasks


def learned(system: System, worker: Peer, name: str, seconds: float) -> None:
    """Let the node know how long tasks of this name take."""
    system.producer().submit(task(name))
    assert system.step(worker)
    worker.finish(runtime=seconds)
    system.turn()
    worker.look()


# ── the usual course ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_run_and_its_result_comes_back(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "add")
    running = system.step(worker)
    assert running is not None
    assert running.task == one
    worker.finish(b"3")
    found = producer.wait(one.id, timeout=5.0)
    assert (found.state, found.value) == (wire.SUCCESS, b"3")
    assert producer.confirm(1.0)
    assert counters(system).finished == 1
    assert system.node.journal.counts(0) == {}


def test_a_task_waits_for_a_worker_and_a_worker_for_a_task(system: System) -> None:
    _, (one, two) = submitted(system, "a", "b")
    worker = Peer(system)
    worker.look()
    assert system.step(worker) is not None
    worker.finish()
    running = system.step(worker)
    assert running is not None
    assert running.task.id == two.id
    worker.finish()
    assert system.step(worker) is None
    assert one.id != two.id


def test_nobody_wants_some_results(system: System) -> None:
    worker = system.worker()
    _, (one, two) = submitted(system, "a", "b", keep=0.0)
    for _ in range(2):
        assert system.step(worker)
        worker.finish(store=worker.starts[-1] == one.id)
    system.turn()
    assert result(system, one.id) is None
    assert result(system, two.id) is None


def test_results_live_as_long_as_their_task_says(system: System) -> None:
    worker = system.worker()
    keeps = [None, 5.0, 1e300, float("inf"), float("nan"), -1.0]
    producer = system.producer()
    tasks = [task(keep=keep) for keep in keeps]
    producer.submit_many(tasks)
    for _ in tasks:
        assert system.step(worker)
        worker.finish()
    system.turn()
    assert [result(system, one.id) is not None for one in tasks] == [True, True, True, True, False, False]
    system.clock.advance(6.0)
    assert [result(system, one.id) is not None for one in tasks] == [True, False, True, True, False, False]
    system.clock.advance(system.limits.result_expires)
    assert [result(system, one.id) is not None for one in tasks] == [False, False, True, True, False, False]


def test_the_upkeep_removes_what_has_expired(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    for _ in range(3):
        producer.submit(task(keep=5.0))
        assert system.step(worker)
        worker.finish()
    system.turn()
    assert system.node.journal.count_results() == 3
    system.turns(61.0)
    assert system.node.journal.count_results() == 0


def test_tasks_with_an_eta_come_when_it_is_time(system: System) -> None:
    worker = system.worker()
    submitted(system, "later", eta=system.clock.wall() + 5.0)
    assert system.step(worker) is None
    queue = system.node.status()["queues"]["celery"]
    assert (queue["waiting"], queue["scheduled"]) == (0, 1)
    assert 4.0 < (system.node.collector.next_deadline() or 0.0) <= 5.0
    system.clock.advance(5.1)
    assert system.node.collector.next_deadline() == 0.0
    assert system.step(worker) is not None


def test_an_eta_survives_a_restart(system: System) -> None:
    submitted(system, "later", eta=system.clock.wall() + 5.0)
    system.turn()
    system.crash()
    system.start()
    worker = system.worker()
    assert system.step(worker) is None
    system.clock.advance(6.0)
    assert system.step(worker) is not None


def test_a_wall_clock_that_jumps_moves_etas_but_no_leases(system: System) -> None:
    worker = system.worker()
    submitted(system, "now")
    assert system.step(worker)
    submitted(system, "later", eta=system.clock.wall() + 3_600.0)
    system.turn()
    system.clock.jump(7_200.0)
    system.turn()
    assert counters(system).lost == 0
    worker.finish()
    assert system.step(worker) is not None


def test_a_task_that_comes_too_late_is_revoked(system: System) -> None:
    producer, (one,) = submitted(system, "late", expires=system.clock.wall() + 1.0)
    system.turn()
    system.clock.advance(2.0)
    worker = system.worker()
    assert system.step(worker) is None
    found = producer.wait(one.id, timeout=5.0)
    assert (found.state, loss(found).kind) == (wire.REVOKED, "expired")


def test_an_update_tells_a_state_and_does_not_end_the_task(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "long")
    running = system.step(worker)
    assert running is not None
    raw = wire.encode_result(one.id, "PROGRESS", False, "text", b"half", b"", 0.0)
    worker.send(wire.Update(running.key, Raw(raw)))
    worker.send(wire.Update(running.key, Raw(b"\xc0")))
    worker.send(wire.Update(12_345, Raw(raw)))
    system.turn()
    found = producer.peek(one.id)
    assert found is not None
    assert (found.state, found.value) == ("PROGRESS", b"half")
    assert counters(system).late == 2
    worker.finish(b"done")
    assert producer.wait(one.id, timeout=5.0).value == b"done"


def test_a_retry_is_accepted_together_with_the_end_of_its_task(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "flaky")
    assert system.step(worker)
    worker.finish(state="RETRY", final=False, followups=[one])
    running = system.step(worker)
    assert running is not None
    assert running.task.id == one.id
    worker.finish(b"at last")
    assert producer.wait(one.id, timeout=5.0).value == b"at last"


def test_a_followup_that_is_no_task_is_counted_and_dropped(system: System) -> None:
    worker = system.worker()
    submitted(system, "a")
    assert system.step(worker)
    report = worker.finish(send=False)
    worker.report([wire.Report(report.key, 0.1, True, report.result, [Raw(b"\xc0")])])
    system.turn()
    assert counters(system).malformed == 1
    assert counters(system).finished == 1


def test_a_result_that_is_none_fails_its_task_with_the_reason(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    running = system.step(worker)
    assert running is not None
    worker.now = None
    worker.report([wire.Report(running.key, 0.1, True, Raw(b"\xc0"))])
    found = producer.wait(one.id, timeout=5.0)
    assert (found.state, loss(found).kind) == (wire.FAILURE, "refused")


def test_what_a_task_returned_does_not_come_back_to_a_worker_that_was_frozen_for_long(system: System) -> None:
    """One outcome: the first one that was recorded."""
    worker = system.worker()
    producer, (one,) = submitted(system, "long", flags=REJECT)
    assert system.step(worker)
    system.machine.stopped.add(worker.pid)
    system.turns(50.0)
    other = system.worker()
    assert system.step(other)
    other.finish(b"second")
    assert producer.wait(one.id, timeout=5.0).value == b"second"
    system.machine.stopped.clear()
    worker.finish(b"first, but too late")
    system.turn()
    worker.look()  # is told to join again
    system.turn()
    assert counters(system).late == 1
    found = result(system, one.id)
    assert found is not None
    assert found.value == b"second"


# ── acceptance ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_message_twice_is_one_task(system: System) -> None:
    producer, _ = submitted(system, "a", "b")
    up = system.link(producer).tasks.up
    frames = [frame for frame in up.arrived if isinstance(wire.decode_from_producer(frame), wire.Submit)]
    up.arrived.extend(frames * 2)
    system.turn()
    assert (counters(system).accepted, counters(system).duplicates) == (2, 4)


def test_the_same_id_in_two_messages_is_two_tasks(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    for _ in range(2):
        producer.submit(task("again", "same"))
    for _ in range(2):
        assert system.step(worker)
        worker.finish()
    assert worker.starts == ["same", "same"]


def test_what_comes_after_a_hole_is_sent_again(system: System) -> None:
    producer, _ = submitted(system, "a")
    assert producer.confirm(1.0)
    up = system.link(producer).tasks.up
    up.held = True
    for name in "bcd":
        producer.submit(task(name))
    del up.under_way[0]
    up.held = False
    up.release()
    assert producer.confirm(2.0)
    assert counters(system).accepted == 4
    assert producer.unacknowledged() == []


def test_a_resend_after_a_crash_is_recognised(system: System) -> None:
    producer, _ = submitted(system, "a", "b")
    system.crash_in_turn(committed=True)
    system.start()
    assert producer.confirm(5.0)
    assert system.node.ledger.waiting(["celery"]) == 2


def test_what_was_not_committed_is_sent_again(system: System) -> None:
    producer, _ = submitted(system, "a", "b")
    system.crash_in_turn(committed=False)
    system.start()
    assert system.node.ledger.waiting(["celery"]) == 0
    assert producer.confirm(5.0)
    assert system.node.ledger.waiting(["celery"]) == 2


def test_a_journal_that_has_lost_what_it_receipted_takes_what_comes_next(system: System) -> None:
    """After a power cut, or with an old copy of the file: nothing hangs, nothing is sent in circles."""
    producer, _ = submitted(system, "a")
    assert producer.confirm(1.0)
    system.stop()
    old = (system.address.directory / "journal.db").read_bytes()
    system.start()
    producer.submit_many([task(name) for name in "bc"])
    assert producer.confirm(5.0)
    system.stop()
    for name in ("journal.db-wal", "journal.db-shm", "journal.log"):
        (system.address.directory / name).unlink(missing_ok=True)
    (system.address.directory / "journal.db").write_bytes(old)
    system.start()
    producer.submit(task("d"))
    assert producer.confirm(5.0)
    assert system.node.ledger.waiting(["celery"]) == 2  # a and d
    assert counters(system).accepted == 1


@pytest.mark.parametrize("lowest", [0, -5, 1 << 63, (1 << 64) - 1])
def test_a_hello_with_an_impossible_number_is_not_believed(system: System, lowest: int) -> None:
    link = system.network.client(system.address)
    link.subscribe("stranger")
    link.send(wire.encode(wire.Hello(wire.VERSION, "stranger", lowest)))
    link.send(wire.encode_submit("stranger", lowest, [task()]))
    system.turn()
    assert counters(system).accepted == 0
    link.close()


def test_a_producer_that_nobody_knows_is_asked_to_say_hello(system: System) -> None:
    link = system.network.client(system.address)
    link.subscribe("stranger")
    link.send(wire.encode_submit("stranger", 5, [task()]))
    system.turn()
    frame = link.receive(0)
    assert frame is not None
    welcome = wire.decode_to_inbox(frame[frame.find(b"\0") + 1 :])
    assert isinstance(welcome, wire.Welcome)
    assert welcome.last == -1
    link.close()


def test_a_producer_of_another_version_is_told_so(system: System) -> None:
    link = system.network.client(system.address)
    link.subscribe("future")
    link.send(wire.encode(wire.Hello(9, "future", 1)))
    system.turn()
    assert link.receive(0) is not None
    link.close()
    producer = system.producer()
    producer.submit(task())
    welcome = wire.Welcome(9, "s", "n", 0, 0, 1)
    system.node.port.publish(wire.topic_prefix(producer.inbox) + wire.encode(welcome))
    producer.look()
    producer._connected = False
    with pytest.raises(VersionMismatch, match="version 9"):
        producer.query("status")


def test_an_unreadable_task_is_refused_and_its_neighbours_are_not(system: System) -> None:
    producer, (first,) = submitted(system, "a")
    assert producer.confirm(1.0)
    frame = wire.encode((257, producer.inbox, 2, [task("b"), ["no", "task"], task("c")]))
    system.link(producer).send(frame)
    system.turn()
    assert (counters(system).accepted, counters(system).refused, counters(system).malformed) == (3, 1, 1)
    assert first.id


def test_an_empty_submit_changes_nothing(system: System) -> None:
    producer, _ = submitted(system, "a")
    assert producer.confirm(1.0)
    system.link(producer).send(wire.encode_submit(producer.inbox, 2, []))
    producer.submit(task())
    assert producer.confirm(1.0)
    assert counters(system).accepted == 2


def test_a_full_queue_pushes_back_and_takes_the_task_when_there_is_room(make_system: MakeSystem) -> None:
    system = make_system(queue_limit=2)
    producer, tasks = submitted(system, "a", "b", "c")
    assert not producer.confirm(0.5)
    assert producer.unacknowledged() == [tasks[2].id]
    with pytest.raises(QueueFull, match=r"queue 'celery' at .* is full, and 1 tasks of this process wait"):
        producer.submit(task("d"))
    producer.submit(task("e", queue="other"))
    worker = system.worker()
    assert system.step(worker)
    worker.finish()
    assert producer.confirm(5.0)
    producer.submit(task("f", queue="other"))
    assert producer.confirm(5.0)


def test_a_refusal_comes_before_the_receipt_even_where_much_is_said_at_once(make_system: MakeSystem) -> None:
    """A receipt lets the producer forget the task: it must have heard of the refusal by then."""
    system = make_system(queue_limit=1)
    worker = system.worker()
    producer = system.producer()
    big = task("big", topics=(producer.inbox,))
    producer.submit(big)
    assert producer.confirm(1.0)
    assert system.step(worker)
    producer.submit(task("fills the queue"))
    assert producer.confirm(1.0)
    worker.finish(b"x" * (2 << 20))  # a delivery of its own
    worker.hand_back()
    refused = task("refused")
    producer.submit(task("fills it again, as the worker takes the other"))
    producer.submit(refused)
    system.turns(0.1)
    producer.look()
    assert refused.id in producer.unacknowledged() or counters(system).refused == 0


@pytest.mark.parametrize("how", ["the delivery is lost", "the node is killed after the commit"])
def test_a_refused_task_is_not_lost_with_its_refusal(make_system: MakeSystem, how: str) -> None:
    system = make_system(queue_limit=1)
    producer, _ = submitted(system, "fills the queue")
    assert producer.confirm(1.0)
    refused = task("refused")
    producer.submit(refused)
    if how == "the delivery is lost":
        system.turn()
        down = system.link(producer).results.down
        down.arrived.clear()
    else:
        system.crash_in_turn(committed=True)
        system.start()
    producer.confirm(0.5)
    system.turns(2.0)
    assert refused.id in producer.unacknowledged() or result(system, refused.id) is not None


def test_malformed_frames_are_counted_and_told_of_ever_more_rarely(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    link = system.network.client(system.address)
    worker = system.worker()
    with caplog.at_level(logging.WARNING):
        for n in range(50):
            link.send(b"\xc1 %d" % n)
            worker.link.send(b"")
        system.turn()
    assert counters(system).malformed == 100
    assert len([r for r in caplog.records if "dropped a frame" in r.message]) == 7
    link.close()


# ── callables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_shipped_callable_goes_to_the_worker_that_asks(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    producer.ship("digest", b"blob")
    producer.ship("digest", b"blob")
    producer.submit(task(digest="digest"))
    assert system.step(worker)
    worker.send(wire.Fetch("digest"))
    worker.send(wire.Fetch("other"))
    system.turn()
    worker.look()
    assert worker.blobs == {"digest": b"blob", "other": None}
    frame = next(iter(producer._kept), None)
    assert frame is None or frame.count == 1


def test_a_ship_that_comes_twice_is_taken_once(system: System) -> None:
    producer = system.producer()
    producer.ship("digest", b"blob")
    up = system.link(producer).tasks.up
    up.arrived.extend([frame for frame in up.arrived if isinstance(wire.decode_from_producer(frame), wire.Ship)])
    assert producer.confirm(1.0)
    assert counters(system).duplicates == 1


def test_a_callable_that_the_node_has_forgotten_is_shipped_again(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    producer.ship("digest", b"blob")
    assert producer.confirm(1.0)
    system.node.journal.expire_quiet(inboxes_before=0, callables_before=1 << 60, groups_before=0)
    system.node.journal.commit()
    producer.submit(task(digest="digest"))
    assert producer.confirm(5.0)
    assert system.step(worker)
    assert system.node.journal.find_callable("digest") == b"blob"


def test_a_task_whose_callable_nobody_has_is_refused_for_good(system: System) -> None:
    producer = system.producer()
    one = task(digest="unknown", topics=(producer.inbox,))
    producer.submit(one)
    found = producer.wait(one.id, timeout=5.0)
    assert loss(found).kind == "refused"
    assert "callable-unknown (unknown)" in loss(found).message


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_asks_late_is_answered_from_the_store(system: System) -> None:
    worker = system.worker()
    _, (one,) = submitted(system, "a")
    assert system.step(worker)
    worker.finish(b"kept")
    system.turn()
    stranger = system.producer()
    assert stranger.wait(one.id, timeout=5.0).value == b"kept"
    assert stranger.peek("unknown") is None


def test_who_asks_early_is_answered_when_the_task_ends(system: System) -> None:
    worker = system.worker()
    _, (one,) = submitted(system, "a", keep=0.0)
    assert system.step(worker)
    stranger = system.producer()
    assert stranger.peek(one.id) is None
    link = system.network.client(system.address)
    link.subscribe("asker")
    for _ in range(2):
        link.send(wire.encode(wire.Ask("asker", [one.id], True)))
    system.turn()
    worker.finish(b"now")
    system.turn()
    got: list[bytes] = []
    while (frame := link.receive(0)) is not None:
        message = wire.decode_to_inbox(frame[frame.find(b"\0") + 1 :])
        if isinstance(message, wire.Delivery):
            got += [bytes(raw) for raw in message.results]
    assert len(got) == 1
    link.close()


def test_a_forgotten_result_is_gone(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    worker.finish()
    system.turn()
    producer.forget([one.id])
    system.turn()
    assert result(system, one.id) is None


def test_the_node_tells_about_itself(system: System) -> None:
    worker = system.worker(queues=["celery", "other"])
    submitted(system, "a")
    assert system.step(worker)
    producer = system.producer()
    status = msgspec.msgpack.decode(producer.query("status"))
    assert status["workers"][0]["queues"] == ["celery", "other"]
    assert status["workers"][0]["running"] == worker.starts
    assert status["counters"]["accepted"] == 1
    assert producer.query("no such question") == b""


def test_several_clients_of_one_topic_are_counted(system: System) -> None:
    one, other = system.network.client(system.address), system.network.client(system.address)
    for link in (one, other):
        link.subscribe("shared")
    system.turn()
    assert system.node.publisher.live == {"shared": 2}
    one.close()
    system.turn()
    assert system.node.publisher.live == {"shared": 1}
    other.close()
    system.turn()
    assert system.node.publisher.live == {}


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tasks_that_nobody_knows_are_leased_one_by_one(system: System) -> None:
    worker = system.worker()
    submitted(system, "a", "b", "c")
    system.turn()
    worker.look()
    assert len(worker.todo) == 1


def test_short_tasks_are_leased_together_and_long_ones_are_not(system: System) -> None:
    worker = system.worker()
    learned(system, worker, "short", 0.0001)
    submitted(system, *["short"] * 100)
    system.turn()
    worker.look()
    assert 20 < len(worker.todo) < 40  # what is expected to take three milliseconds
    while worker.start():
        worker.finish(runtime=0.5)
    for _ in range(60):
        if not system.step(worker):
            break
        worker.finish(runtime=0.5)
    system.turn()
    worker.look()
    submitted(system, *["short"] * 5)
    system.turn()
    worker.look()
    assert len(worker.todo) + bool(worker.now) == 1


def test_idle_workers_share_what_there_is(system: System) -> None:
    one = system.worker()
    learned(system, one, "short", 0.0)
    other = system.worker()
    submitted(system, *["short"] * 10)
    system.turn()
    one.look()
    other.look()
    assert (len(one.todo), len(other.todo)) == (5, 5)


def test_one_task_after_the_other_goes_to_the_worker_that_is_still_awake(system: System) -> None:
    workers = [system.worker() for _ in range(3)]
    client = system.producer()
    for _ in range(5):
        client.submit(task())
        system.turn()
        for worker in workers:
            worker.look()
            if worker.start():
                worker.finish()
        system.turn()
    assert sorted(len(worker.starts) for worker in workers) == [0, 0, 5]


def test_a_worker_takes_no_more_than_it_has_room_for(system: System) -> None:
    worker = system.worker(capacity=3)
    learned(system, worker, "short", 0.0)
    submitted(system, *["short"] * 10)
    system.turn()
    worker.look()
    assert len(worker.todo) == 3


def test_a_busy_worker_gets_nothing_until_it_reports_again(system: System) -> None:
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    submitted(system, "short", "short")
    system.turn()
    worker.look()
    assert worker.start()
    worker.hand_back()
    system.turn()
    assert system.node.ledger.waiting(["celery"]) == 1
    other = system.worker()
    assert system.step(other) is not None
    worker.finish()
    system.turn()
    assert counters(system).finished == 2


def test_what_is_handed_back_keeps_its_place(system: System) -> None:
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    _, tasks = submitted(system, *["short"] * 4)
    system.turn()
    worker.look()
    assert worker.start()
    worker.hand_back()
    system.turn()
    other = system.worker()
    while system.step(other):
        other.finish(runtime=0.0)
    assert other.starts == [one.id for one in tasks[1:]]


def test_a_worker_with_some_work_left_gets_more_of_what_is_short(system: System) -> None:
    worker = system.worker(queues=["celery", "other"])
    learned(system, worker, "short", 0.0)
    producer, _ = submitted(system, "short", "short")
    producer.submit(task("short", queue="other"))
    system.turn()
    worker.look()
    assert worker.start()
    worker.finish(runtime=0.0)
    producer.submit_many([task("short", queue="other"), task("never seen", queue="other")])
    system.turn()
    worker.look()
    assert [entry_name(e) for e in worker.todo] == ["short", "short", "short"]
    while worker.start():
        worker.finish(runtime=0.0)
    assert system.step(worker) is not None


def entry_name(entry: wire.LeaseEntry) -> str:
    one = wire.decode_task(entry.task)
    assert isinstance(one, wire.Task)
    return one.name


def test_run_times_that_are_none_do_no_harm(system: System) -> None:
    worker = system.worker()
    for seconds in (float("nan"), -1.0, float("inf"), 0.0):
        learned(system, worker, f"odd {seconds}", seconds)
        submitted(system, *[f"odd {seconds}"] * 3)
        for _ in range(3):
            if not worker.start():
                assert system.step(worker)
            worker.finish(runtime=0.0)
        system.turn()
        worker.look()
    assert system.node.ledger.waiting(["celery"]) == 0


def test_only_so_many_names_are_remembered(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zerocelery.engine.collector._MAX_NAMES", 1)
    worker = system.worker()
    learned(system, worker, "one", 0.0)
    learned(system, worker, "other", 0.0)
    assert list(system.node.collector._estimates) == ["one"]


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_until_lost(system: System, seconds: float = 0.1) -> None:
    system.turn()
    system.clock.advance(seconds)
    system.turn()


@pytest.mark.parametrize(("flags", "again"), [(0, False), (LATE, True), (REJECT, True)])
def test_a_lost_worker_ends_its_task_or_has_it_run_again(system: System, flags: int, again: bool) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a", flags=flags)
    assert system.step(worker)
    worker.die()
    run_until_lost(system)
    assert counters(system).lost == 1
    other = system.worker()
    running = system.step(other)
    if again:
        assert running is not None
        assert (running.task.id, running.losses) == (one.id, 1)
        other.finish(b"second")
        assert producer.wait(one.id, timeout=5.0).value == b"second"
    else:
        assert running is None
        found = producer.wait(one.id, timeout=5.0)
        assert (found.state, loss(found).kind) == (wire.FAILURE, "worker-lost")
        assert str(worker.pid) in loss(found).message


@pytest.mark.parametrize("flags", [0, LATE, REJECT])
def test_a_task_that_had_not_been_started_is_for_the_next_worker(system: System, flags: int) -> None:
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    _, tasks = submitted(system, "short", "short", flags=flags)
    system.turn()
    worker.look()
    assert worker.start()
    worker.die()
    run_until_lost(system)
    other = system.worker()
    running = system.step(other)
    assert running is not None
    assert running.task.id == tasks[0 if flags else 1].id


def test_policies_of_a_worker_come_before_the_tasks_flags(system: System) -> None:
    strict = system.worker(policy=0)
    submitted(system, "a", flags=REJECT)
    assert system.step(strict)
    strict.die()
    run_until_lost(system)
    named = system.worker(policy=0, policies={"b": REJECT})
    assert system.step(named) is None
    submitted(system, "b")
    assert system.step(named)
    named.die()
    run_until_lost(system)
    assert system.step(system.worker()) is not None


@pytest.mark.parametrize("parent_dies", [False, True])
def test_a_late_task_fails_with_its_child_and_is_run_again_with_its_whole_worker(
    system: System, parent_dies: bool
) -> None:
    """Celery's rule for acks_late without reject_on_worker_lost."""
    system.network.processes.add(50_000)
    worker = system.worker(parent=50_000)
    producer, (one,) = submitted(system, "a", flags=LATE)
    assert system.step(worker)
    worker.die()
    run_until_lost(system, 0.05)
    assert (system.node.collector.next_deadline() or 0.0) <= 0.02
    assert result(system, one.id) is None
    if parent_dies:
        system.network.processes.discard(50_000)
    run_until_lost(system, 0.3)
    running = system.step(system.worker())
    assert (running is not None) == parent_dies
    if not parent_dies:
        assert loss(producer.wait(one.id, timeout=5.0)).kind == "worker-lost"


def test_a_poisonous_task_ends_as_a_dead_letter_with_its_history(make_system: MakeSystem) -> None:
    system = make_system(max_losses=3)
    producer, (one,) = submitted(system, "poison", flags=REJECT)
    pids = []
    for losses in range(3):
        worker = system.worker()
        running = system.step(worker)
        assert running is not None
        assert running.losses == losses
        pids.append(worker.pid)
        worker.die()
        run_until_lost(system)
        if losses == 1:
            system.crash()
            system.start()
    found = loss(producer.wait(one.id, timeout=5.0))
    assert found.kind == "dead"
    assert [str(pid) in what for pid, what in zip(pids, found.history, strict=True)] == [True] * 3
    assert system.node.journal.count_dead() == 1
    assert counters(system).dead == 1
    assert system.step(system.worker()) is None


def test_a_lost_tasks_history_is_forgotten_when_it_ends_well(system: System) -> None:
    _, (one,) = submitted(system, "a", flags=REJECT)
    worker = system.worker()
    running = system.step(worker)
    assert running is not None
    worker.die()
    run_until_lost(system)
    other = system.worker()
    assert system.step(other)
    other.finish()
    system.turn()
    assert system.node.journal.loss_history(running.key) == []
    assert one.id in other.starts


def test_what_a_worker_said_before_it_died_counts(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.network.processes.discard(worker.pid)
    system.turn()  # the end of the process is seen first
    worker.finish(b"last words")
    worker.link.up.release()
    worker.link.close()
    system.turn()
    system.clock.advance(1.0)
    system.turn()
    assert producer.wait(one.id, timeout=5.0).value == b"last words"
    assert counters(system).lost == 0


def two_leased(system: System) -> tuple[Peer, list[wire.Task]]:
    """A worker that holds two short tasks, and has begun the first."""
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    _, tasks = submitted(system, "short", "short")
    system.turn()
    worker.look()
    assert worker.start() is not None
    return worker, tasks


def wait_half_a_second(system: System) -> None:
    for _ in range(5):
        system.turns(0.1)


def value(system: System, one: wire.Task) -> bytes | None:
    found = result(system, one.id)
    return None if found is None else found.value


def test_what_waits_behind_a_task_that_lets_nobody_else_run_goes_to_another_worker(system: System) -> None:
    worker, tasks = two_leased(system)
    other = system.worker()
    assert other.start() is None
    wait_half_a_second(system)
    other.look()
    running = other.start()
    assert running is not None
    assert running.task.id == tasks[1].id
    other.finish(b"other")
    worker.finish(b"first")
    assert worker.start() is None  # it comes to the ban, and joins again
    system.turn()
    assert [value(system, one) for one in tasks] == [b"first", b"other"]
    _, (more,) = submitted(system, "short")
    for _ in range(3):
        system.turn()
        for peer in (worker, other):
            peer.look()
            if peer.start() is not None:
                peer.finish(b"more")
    assert value(system, more) == b"more"


def test_a_worker_that_dies_at_the_ban_has_run_what_it_had_begun(system: System) -> None:
    """Its word names a task that it was not allowed to start; the one before it is not run again."""
    worker, tasks = two_leased(system)
    other = system.worker()
    wait_half_a_second(system)
    worker.finish(send=False)
    worker.link.cut()
    assert worker.start() is None
    worker.die()
    wait_half_a_second(system)
    assert loss(result(system, tasks[0].id)).kind == "worker-lost"
    other.look()
    running = other.start()
    assert running is not None
    assert running.task.id == tasks[1].id
    assert tasks[0].id not in other.starts


def test_a_stopped_worker_keeps_no_task_that_it_has_not_begun(system: System) -> None:
    peers = {system.worker(), system.worker()}
    _, (one,) = submitted(system, "any")
    system.turn()
    holds = {worker.id for worker in system.node.collector.workers.values() if worker.held}
    (stopped,) = (peer for peer in peers if peer.id in holds)
    system.machine.stopped.add(stopped.pid)
    (other,) = peers - {stopped}
    wait_half_a_second(system)
    other.look()
    assert other.start() is not None
    other.finish(b"x")
    system.turn()
    assert value(system, one) == b"x"
    system.machine.stopped.clear()
    stopped.look()
    assert stopped.start() is None
    assert stopped.starts == []


def test_a_worker_that_is_only_slow_keeps_its_tasks_for_some_time(system: System) -> None:
    """There may be no processor for it at the moment."""
    worker = system.worker()
    _, (one,) = submitted(system, "any")
    system.turn()
    system.worker()
    wait_half_a_second(system)
    worker.look()
    assert worker.start() is not None
    worker.finish(b"x")
    system.turn()
    assert value(system, one) == b"x"


def test_a_supervisor_may_say_that_a_worker_died_and_what_it_was_running(system: System) -> None:
    worker = system.worker(host="elsewhere")
    learned(system, worker, "short", 0.0)
    _, tasks = submitted(system, "short", "short")
    system.turn()
    worker.look()
    running = worker.start()
    assert running is not None
    supervisor = system.network.worker(system.address, "supervisor")
    supervisor.send(wire.encode(wire.Lost("nobody", -1)))
    supervisor.send(wire.encode(wire.Lost(worker.id, running.key)))
    system.turn()
    assert result(system, tasks[0].id) is None  # what it had sent may still be on its way
    system.turns(0.1)
    assert loss(result(system, tasks[0].id)).kind == "worker-lost"
    assert result(system, tasks[1].id) is None
    assert system.node.ledger.waiting(["celery"]) == 1
    supervisor.close()


def test_a_supervisor_may_say_why_it_has_killed_a_worker(system: System) -> None:
    worker = system.worker(host="elsewhere")
    _, (one,) = submitted(system, "short")
    system.turn()
    worker.look()
    running = worker.start()
    assert running is not None
    supervisor = system.network.worker(system.address, "supervisor")
    supervisor.send(wire.encode(wire.Lost(worker.id, running.key, processes.TIME_LIMIT, 2.5)))
    system.turn()
    system.turns(0.1)
    assert loss(result(system, one.id)) == wire.Loss("time-limit", "2.5")
    supervisor.close()


def test_nobody_is_believed_about_the_end_of_a_worker_that_the_node_sees_itself(system: System) -> None:
    worker = system.worker()
    _, (one,) = submitted(system, "short")
    system.turn()
    worker.look()
    assert worker.start() is not None
    supervisor = system.network.worker(system.address, "supervisor")
    supervisor.send(wire.encode(wire.Lost(worker.id, -1)))
    system.turn()
    system.turns(0.1)
    worker.finish(b"x")
    system.turn()
    assert result(system, one.id).state == wire.SUCCESS
    supervisor.close()


def test_a_worker_may_say_itself_that_it_gives_up(system: System) -> None:
    worker = system.worker()
    _, tasks = submitted(system, "early", "late", flags=wire.ACK_LATE)
    _, (early,) = submitted(system, "early")
    system.turn()
    worker.look()
    running = worker.start()
    assert running is not None
    worker.link.send(wire.encode(wire.Lost(worker.id, running.key, processes.SHUTDOWN)))
    system.turn()
    system.turns(0.1)
    assert system.node.ledger.waiting(["celery"]) == 3  # acknowledged late: run again, and counted as no loss
    worker.finish(b"x")  # its thread has gone on
    system.turn()
    assert result(system, tasks[0].id) is None
    other = system.worker()
    worker.link.cut()
    while system.step(other) is not None:
        other.finish(b"y")
        system.turn()
    assert {result(system, one.id).state for one in (*tasks, early)} == {wire.SUCCESS}


def test_a_lease_that_can_not_be_sent_goes_to_somebody_else(system: System) -> None:
    worker = system.worker()
    worker.link.cut()
    submitted(system, "a")
    system.turn()
    other = system.worker()
    assert system.step(other) is not None
    worker.link.mend()
    worker.look()
    system.turn()
    worker.look()
    assert worker.joined
    submitted(system, "b")
    assert system.step(worker) is not None


def test_an_idle_worker_that_went_without_a_word_is_forgotten(system: System) -> None:
    """On another machine nobody sees its process end; a lease that can't be sent tells."""
    worker = system.worker(host="elsewhere")
    worker.die()
    submitted(system, "a")
    system.turn()
    assert system.node.status()["workers"] == []
    assert system.step(system.worker()) is not None


def test_a_worker_that_was_cut_off_keeps_what_it_has_and_gets_what_it_missed(system: System) -> None:
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    submitted(system, "short", "short")
    system.turn()
    worker.look()
    assert worker.start()
    submitted(system, "short")
    worker.link.cut()
    worker.link.mend()
    worker.look()
    system.turn()
    worker.look()
    worker.finish(runtime=0.0)
    while worker.start() or system.step(worker):
        worker.finish(runtime=0.0)
    system.turn()
    assert len(worker.starts) == len(set(worker.starts)) == 4
    assert counters(system).finished == 4


def test_a_report_that_was_lost_with_a_connection_is_told_again(system: System) -> None:
    """The next one arrives on the new connection before the worker has noticed that it is new."""
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    _, tasks = submitted(system, "short", "short")
    system.turn()
    worker.look()
    worker.link.up.held = True
    assert worker.start()
    worker.finish(b"one")
    worker.link.cut()
    worker.link.up.held = False
    worker.link.mend()
    assert worker.start()
    worker.finish(b"two")
    for _ in range(3):
        system.turn()
        worker.look()
    assert [getattr(result(system, one.id), "value", None) for one in tasks] == [b"one", b"two"]
    assert system.step(system.worker()) is None


def test_a_worker_that_joins_before_the_node_has_seen_it_end_is_lost_all_the_same(system: System) -> None:
    worker = Peer(system)
    worker.look()
    system.network.processes.discard(worker.pid)
    submitted(system, "a")
    system.turn()
    system.clock.advance(1.0)
    system.turn()
    assert system.node.status()["workers"] == []
    assert system.step(system.worker()) is not None
    worker.link.close()


def test_a_leaving_worker_gives_back_what_it_has_not_started(system: System) -> None:
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    _, tasks = submitted(system, *["short"] * 3)
    system.turn()
    worker.look()
    assert worker.start()
    worker.finish(b"one")
    worker.leave()
    system.turn()
    worker.look()
    assert worker.farewell
    assert system.node.status()["workers"] == []
    other = system.worker()
    while system.step(other):
        other.finish(runtime=0.0)
    assert other.starts == [one.id for one in tasks[1:]]


def test_a_goodbye_that_is_said_twice_is_answered_twice(system: System) -> None:
    worker = system.worker()
    submitted(system, "a")
    system.turn()  # leased while it decides to leave
    worker.leave()
    system.turn()
    worker.link.down.arrived.clear()  # the answer was lost
    worker.leave()
    for _ in range(3):
        system.turn()
        worker.look()
    assert worker.farewell
    assert system.node.status()["workers"] == []
    assert system.step(system.worker()) is not None


def test_a_worker_of_another_version_is_told_so(system: System) -> None:
    link = system.network.worker(system.address, "future")
    link.send(wire.encode(wire.Join(9, 1, "n", "h", 1, 1, "", 0, 0, [], 1, [], [], -1, {})))
    system.turn()
    frame = link.receive(0)
    assert frame is not None
    assert wire.decode_to_worker(frame) == wire.Rejoin(wire.VERSION)
    assert system.node.status()["workers"] == []
    link.close()


# ── silence ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_elsewhere_is_lost_when_nothing_was_heard_of_it_for_long(make_system: MakeSystem) -> None:
    system = make_system(lease_timeout=30.0)
    worker = system.worker(host="elsewhere")
    system.turns(100.0)  # that it was silent while it was idle says nothing
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.turns(27.0)
    assert counters(system).lost == 0
    worker.send(wire.Beat([worker.id, "nobody"]))
    system.turns(27.0)
    assert counters(system).lost == 0
    system.turns(15.0)
    assert loss(producer.wait(one.id, timeout=5.0)).kind == "worker-lost"


def test_without_a_word_all_that_it_held_counts_as_started(system: System) -> None:
    worker = system.worker(host="elsewhere")
    learned(system, worker, "short", 0.0)
    _, tasks = submitted(system, "short", "short")
    system.turn()
    system.turns(45.0)
    assert [loss(result(system, one.id)).kind for one in tasks] == ["worker-lost"] * 2


def test_a_stopped_process_is_given_up_after_the_timeout_and_starts_nothing_when_it_wakes(
    make_system: MakeSystem,
) -> None:
    system = make_system(lease_timeout=30.0)
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    system.turns(100.0)
    _, tasks = submitted(system, *["short"] * 3)
    system.turn()
    worker.look()
    assert worker.start()
    system.machine.stopped.add(worker.pid)
    system.turns(18.0)
    assert counters(system).lost == 0
    system.turns(27.0)
    assert counters(system).lost == 1
    other = system.worker()
    while system.step(other):
        other.finish(runtime=0.0)
    assert other.starts == [one.id for one in tasks[1:]]
    system.machine.stopped.clear()
    worker.finish()
    assert worker.start() is None
    for _ in range(3):
        system.turn()
        worker.look()
    assert worker.joined
    assert not worker.todo


def test_a_process_that_was_stopped_for_a_while_only_keeps_its_task(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.machine.stopped.add(worker.pid)
    system.turns(20.0)
    system.machine.stopped.clear()
    system.turns(50.0)
    worker.finish(b"well")
    assert producer.wait(one.id, timeout=5.0).value == b"well"


def test_a_process_whose_end_nobody_reports_is_found_gone(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.node.port.ended = lambda: []  # type: ignore[method-assign]
    worker.die()
    system.turns(11.0)
    assert loss(producer.wait(one.id, timeout=5.0)).kind == "worker-lost"


def test_where_processes_can_not_be_watched_silence_decides(system: System) -> None:
    system.machine.watchable = False
    worker = system.worker()
    submitted(system, "a")
    assert system.step(worker)
    worker.die()
    run_until_lost(system, 1.0)
    assert counters(system).lost == 0
    system.turns(45.0)
    assert counters(system).lost == 1


def test_the_nodes_own_pause_is_nobodys_silence(make_system: MakeSystem) -> None:
    system = make_system(lease_timeout=30.0)
    worker = system.worker(host="elsewhere")
    submitted(system, "a")
    assert system.step(worker)
    wait = system.node.port.wait

    def asleep(seconds: float | None, awake: float = 0.0) -> None:
        system.clock.advance(300.0)  # the machine sleeps
        wait(seconds, awake)

    system.node.port.wait = asleep  # type: ignore[method-assign]
    system.turn()
    system.node.port.wait = wait  # type: ignore[method-assign]
    system.turn()
    assert counters(system).lost == 0
    worker.finish()
    system.turn()
    assert counters(system).finished == 1


# ── the node's former life ───────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_restart_a_worker_keeps_its_task(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.crash()
    system.start()
    assert system.step(system.worker()) is None
    worker.look()
    system.turn()
    worker.look()
    worker.finish(b"kept")
    assert producer.wait(one.id, timeout=5.0).value == b"kept"
    assert worker.starts == [one.id]


def test_a_report_to_a_dead_node_is_told_to_the_next(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.crash()
    worker.finish(b"told again")
    system.start()
    worker.look()
    assert producer.wait(one.id, timeout=5.0).value == b"told again"


@pytest.mark.parametrize(("flags", "started", "again"), [(0, True, False), (0, False, True), (REJECT, True, True)])
def test_a_worker_that_died_while_the_node_was_down_is_lost(
    system: System, flags: int, started: bool, again: bool
) -> None:
    worker = system.worker()
    submitted(system, "a", flags=flags)
    system.turn()
    worker.look()
    if started:
        assert worker.start()
    system.crash()
    worker.die()
    system.start()
    assert (system.step(system.worker()) is not None) == again


@pytest.mark.parametrize("host", [HERE, "elsewhere"])
def test_a_worker_that_does_not_come_back_is_lost_after_a_while(system: System, host: str) -> None:
    worker = system.worker(host=host)
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.crash()
    worker.link.torn = True  # it never connects again
    system.start()
    system.turns(50.0)
    if host == HERE:
        assert counters(system).lost == 0  # its process runs: it may be in a long task
        system.machine.stopped.add(worker.pid)
        system.turns(50.0)
    assert loss(producer.wait(one.id, timeout=5.0)).kind == "worker-lost"


def test_a_task_that_was_handed_back_and_leased_again_is_restored_once(system: System) -> None:
    worker = system.worker()
    learned(system, worker, "short", 0.0)
    submitted(system, *["short"] * 4)
    system.turn()
    worker.look()
    assert worker.start()
    worker.hand_back()
    system.turn()
    worker.finish(runtime=0.0)
    other = system.worker()
    submitted(system, "short", "short")
    system.turn()
    system.crash()
    system.start()
    for _ in range(12):
        for peer in (worker, other):
            if system.step(peer):
                peer.finish(runtime=0.0)
    assert system.node.journal.counts(0) == {}
    assert system.node.journal.open_leases() == []
    assert len({*worker.starts, *other.starts}) == len(worker.starts) + len(other.starts) == 7


def test_a_lease_whose_worker_nobody_knows_any_more_is_settled_in_time(system: System) -> None:
    worker = system.worker()
    producer, (one,) = submitted(system, "a")
    assert system.step(worker)
    system.node.journal.worker(worker.id, None)
    system.node.journal.commit()
    system.crash()
    worker.link.torn = True
    system.start()
    system.turns(30.0)
    assert loss(producer.wait(one.id, timeout=5.0)).kind == "worker-lost"


def test_a_lease_without_tasks_and_a_worker_without_a_lease_are_forgotten(system: System) -> None:
    journal = system.node.journal
    journal.lease(5, "w", wire.encode([(77, 0)]))
    journal.worker("w", b"whatever")
    journal.worker("v", b"whatever")
    journal.commit()
    system.crash()
    system.start()
    assert system.node.journal.open_leases() == []
    assert system.node.journal.known_workers() == []


def test_a_node_that_stops_leaves_everything_for_the_next(system: System) -> None:
    submitted(system, "a", "b")
    system.turn()
    system.stop()
    system.start()
    worker = system.worker()
    assert system.step(worker)
    worker.finish()
    assert system.step(worker)


def test_without_a_node_a_producer_says_so_in_time_and_how_to_start_one(system: System) -> None:
    system.stop()
    producer = system.producer(connect_timeout=4.0)
    began = system.clock.monotonic()
    with pytest.raises(NodeUnreachable, match=r"within 4 s.*zerocelery node -b zmq:///tmp"):
        producer.submit(task())
    assert system.clock.monotonic() - began == pytest.approx(4.0, abs=0.1)


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def a_group(producer: Producer, count: int = 2, *, flags: int = 0, **more: Any) -> tuple[list[wire.Task], wire.Task]:
    members = [
        task("member", gather="g", flags=wire.MEMBER | wire.AFTERMATH | flags, topics=(producer.inbox,))
        for _ in range(count)
    ]
    body = task("body", topics=(producer.inbox,))
    producer.gather(wire.Gathering(id="g", members=[one.id for one in members], body=Raw(wire.encode(body)), **more))
    producer.submit_many(members)
    return members, body


def test_a_groups_body_is_accepted_once_when_all_have_ended(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    members, body = a_group(producer)
    for value in (b"1", b"2"):
        assert system.step(worker)
        system.crash()
        system.start()
        worker.look()
        system.turn()
        worker.look()
        worker.finish(value)
        system.turn()
    running = system.step(worker)
    assert running is not None
    assert running.task.id == body.id
    inputs = [wire.decode_result(raw) for raw in running.task.inputs]
    assert [(one.id, one.value) for one in inputs if isinstance(one, wire.Result)] == [
        (members[0].id, b"1"), (members[1].id, b"2"),
    ]  # fmt: skip


def test_a_member_that_is_lost_makes_the_body_fail_and_has_an_aftermath(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    members, body = a_group(producer)
    assert system.step(worker)
    worker.die()
    run_until_lost(system)
    other = system.worker()
    seen: dict[str, wire.Task] = {}
    while (running := system.step(other)) is not None:
        seen[f"{running.task.id} {bool(running.task.verdict)}"] = running.task
        other.finish(b"x")
    assert set(seen) == {f"{members[0].id} True", f"{members[1].id} False", f"{body.id} True"}
    assert all(one.flags & wire.SETTLED for one in seen.values() if one.verdict)


def test_a_body_that_is_too_large_fails_and_says_so(make_system: MakeSystem) -> None:
    system = make_system(max_message=2_000)
    worker = system.worker()
    producer = system.producer()
    _, body = a_group(producer)
    for _ in range(2):
        assert system.step(worker)
        worker.finish(b"x" * 1_500)
    assert loss(producer.wait(body.id, timeout=5.0)).kind == "too-large"


def test_a_group_that_is_none_and_results_that_are_none_are_counted(system: System) -> None:
    producer = system.producer()
    producer.query("")
    link = system.link(producer)
    link.send(wire.encode(wire.Gather(producer.inbox, 1, Raw(b"\xc0"))))
    link.send(wire.encode(wire.Put(producer.inbox, 2, Raw(b"\xc0"))))
    link.send(wire.encode(wire.Put(producer.inbox, 2, Raw(b"\xc0"))))
    link.send(wire.encode(wire.Put(producer.inbox, 9, Raw(b"\xc0"))))
    system.turn()
    assert (counters(system).malformed, counters(system).duplicates) == (2, 1)


def test_a_result_may_be_put_into_the_store(system: System) -> None:
    producer = system.producer()
    producer.put(wire.Result(id="mine", state=wire.SUCCESS, final=True, value=b"v"))
    assert producer.wait("mine", timeout=5.0).value == b"v"
    producer.put(wire.Result(id="short", state=wire.SUCCESS, final=True, value=b"v"), keep=0.0)
    assert producer.confirm(1.0)
    assert result(system, "short") is None


def test_tasks_may_end_with_another_and_count_in_its_group(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    members, body = a_group(producer)
    assert system.step(worker)
    report = worker.finish(b"1", send=False)
    ended = wire.Result(id=members[1].id, state=wire.SUCCESS, final=True, value=b"2")
    ending = wire.Ending(result=Raw(wire.encode(ended)), gather="g")
    unstored = wire.Ending(result=Raw(wire.encode(msgspec.structs.replace(ended, id="unstored"))), store=False)
    gathering = wire.Gathering(id="h", members=[], body=Raw(wire.encode(body)))
    worker.report([
        msgspec.structs.replace(report, endings=[ending, unstored], gathers=[Raw(wire.encode(gathering))])
    ])  # fmt: skip
    system.turn()
    assert result(system, members[1].id) is not None
    assert result(system, "unstored") is None
    assert system.node.journal.find_group("h") is not None


def test_a_group_may_grow(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    members, body = a_group(producer, 1, closed=False)
    assert system.step(worker)
    worker.finish()
    system.turn()
    late = task("member", gather="g", flags=wire.MEMBER)
    producer.grow("g", [late.id], close=True)
    producer.submit(late)
    running = system.step(worker)
    assert running is not None
    assert running.task.id == late.id
    worker.finish()
    running = system.step(worker)
    assert running is not None
    assert running.task.id == body.id
    assert members


def test_what_a_worker_holds_and_was_settled_meanwhile_is_void(system: System) -> None:
    worker = system.worker()
    worker.todo.append(wire.LeaseEntry(12_345, 0, Raw(wire.encode(task()))))
    worker.join()
    system.turn()
    worker.look()
    assert not worker.todo
    assert counters(system).late == 1


def test_a_lost_task_that_nobody_can_read_has_no_aftermath(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    producer.query("")
    fields = list(msgspec.structs.astuple(task("broken", "broken", flags=wire.AFTERMATH)))
    fields[wire.Task.__struct_fields__.index("body")] = 7
    system.link(producer).send(wire.encode((257, producer.inbox, 1, [fields])))
    system.turn()
    worker.link.reconnected()
    frame = worker.link.receive(0)
    assert frame is not None
    lease = wire.decode_to_worker(frame)
    assert isinstance(lease, wire.Lease)
    worker.word[0] = lease.entries[0].key
    worker.die()
    run_until_lost(system)
    assert loss(result(system, "broken")).kind == "worker-lost"
    assert system.step(system.worker()) is None


def test_a_member_without_a_group_counts_nowhere(system: System) -> None:
    worker = system.worker()
    submitted(system, "a", flags=wire.MEMBER)
    submitted(system, "b", flags=wire.MEMBER, gather="unknown")
    for _ in range(2):
        assert system.step(worker)
        worker.finish()
    system.turn()
    assert counters(system).finished == 2
