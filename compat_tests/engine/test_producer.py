"""The client over the memory transport, in one thread, on a clock of its own: acceptance, results, what it keeps."""

from __future__ import annotations

import itertools
import logging
import threading

import msgspec
import pytest
from msgspec import Raw

from compat_tests.engine.system import Peer, System, task
from zerocelery.engine import producer as module
from zerocelery.engine import wire
from zerocelery.engine.address import parse_address
from zerocelery.engine.errors import EngineError, NodeUnreachable, PayloadTooLarge
from zerocelery.engine.producer import Producer
from zerocelery.transport.memory import MemoryNetwork


def finished(system: System, worker: Peer, *values: bytes) -> None:
    for value in values:
        assert system.step(worker)
        worker.finish(value)
    system.turn()


def give(
    producer: Producer, task_id: str, value: bytes = b"v", *, final: bool = True, state: str = wire.SUCCESS
) -> None:
    """Let a result come in, as a delivery brings it."""
    producer._result(Raw(wire.encode_result(task_id, state, final, "", value, b"", 0.0)))


def cached(producer: Producer) -> int:
    return sum(memoryview(raw).nbytes for raw in producer._results.values())


# ── results in memory ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_kept_is_counted_whatever_becomes_of_it(system: System) -> None:
    """A count that only grows would in the end throw out each result as it comes."""
    producer = system.producer()
    producer.query("")
    for n in range(4):
        give(producer, f"{n}", b"x" * 100)
    give(producer, "1", b"y" * 7)  # said again
    producer.forget(["0", "unknown"])
    assert producer.wait("2").id == "2"
    assert [one.id for one in producer.wait_each({"3": producer.epoch})] == ["3"]
    assert producer._results_bytes == cached(producer) > 0
    producer.wait("1")
    assert producer._results_bytes == cached(producer) == 0


def test_what_nobody_came_for_makes_room_and_is_asked_for_again(system: System) -> None:
    worker = system.worker()
    producer = system.producer(cache=5)
    tasks = [task(topics=(producer.inbox,)) for _ in range(20)]
    token = producer.submit_many(tasks)
    finished(system, worker, *(b"%d" % n for n in range(20)))
    producer.look()
    assert len(producer._results) <= 5
    assert producer._results_bytes == cached(producer)
    assert [producer.wait(one.id, token=token, timeout=5.0).value for one in tasks] == [b"%d" % n for n in range(20)]


def test_a_result_larger_than_all_that_may_be_kept_reaches_who_waits_for_it(system: System) -> None:
    worker = system.worker()
    producer = system.producer(cache_bytes=1_000)
    tasks = [task(topics=(producer.inbox,)) for _ in range(3)]
    token = producer.submit_many(tasks)
    finished(system, worker, *[b"x" * 5_000] * 3)
    producer.look()
    for one in tasks:
        assert len(producer.wait(one.id, token=token, timeout=5.0).value) == 5_000
    assert producer._results_bytes == 0


def test_states_and_answers_that_nobody_came_for_are_not_kept_for_ever(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    producer = system.producer()
    producer.query("")
    for n in range(9):
        give(producer, f"{n}", final=False, state="STARTED")
        producer._delivered(
            wire.Delivery(
                producer._session, producer._deliveries + 1, pending=[f"{n}"], answers=[wire.Answer(f"{n}", b"")]
            )
        )  # fmt: skip
    assert (len(producer._states), len(producer._pending), len(producer._answers)) == (3, 3, 3)
    producer._result(Raw(b"\xc0"))
    assert producer._results == {}


def test_a_state_is_known_until_the_end_comes(system: System) -> None:
    producer = system.producer()
    token = producer.submit(task())
    give(producer, "a", final=False, state="STARTED")
    state = producer.peek("a", token=token)
    assert state is not None
    assert state.state == "STARTED"
    give(producer, "a")
    state = producer.peek("a", token=token)
    assert state is not None
    assert state.final
    assert producer.peek("unknown", token=token) is None


def test_an_unreadable_result_is_an_error_not_a_silence(system: System) -> None:
    producer = system.producer()
    producer.query("")
    producer._result(Raw(wire.encode(["a", "SUCCESS", True, 5])))  # its head is fine
    with pytest.raises(EngineError, match="can't be read"):
        producer.wait("a", timeout=1.0)


def test_waiting_has_an_end(system: System) -> None:
    producer = system.producer()
    token = producer.submit(task("never", "never"))
    began = system.clock.monotonic()
    with pytest.raises(TimeoutError, match="task never has not ended in time"):
        producer.wait("never", token=token, timeout=3.0)
    with pytest.raises(TimeoutError, match="1 of the tasks"):
        list(producer.wait_each({"never": token}, timeout=3.0))
    assert system.clock.monotonic() - began == pytest.approx(6.0, abs=0.1)
    assert producer._waiters == {}


def test_many_results_come_as_they_come(system: System) -> None:
    worker = system.worker()
    producer, other = system.producer(), system.producer()
    mine = [task(topics=(producer.inbox,)) for _ in range(3)]
    tokens = {one.id: producer.submit(one) for one in mine}
    foreign = task()
    other.submit(foreign)
    finished(system, worker, b"0", b"1", b"2", b"3")
    got = {one.id: one.value for one in producer.wait_each({**tokens, foreign.id: None}, timeout=5.0)}
    assert set(got) == {*tokens, foreign.id}
    assert list(producer.wait_each({})) == []


# ── deliveries that did not come ─────────────────────────────────────────────────────────────────────────────────────


def test_a_delivery_that_was_lost_is_noticed_and_its_results_are_asked_for(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    tasks = [task(topics=(producer.inbox,)) for _ in range(3)]
    token = producer.submit_many(tasks)
    assert producer.confirm(1.0)
    finished(system, worker, b"1", b"2")
    system.link(producer).results.down.arrived.clear()  # it was too slow, and ZeroMQ dropped them
    finished(system, worker, b"3")
    assert [producer.wait(one.id, token=token, timeout=5.0).value for one in tasks] == [b"1", b"2", b"3"]
    assert producer.epoch != token


def test_a_lost_welcome_is_asked_for_again(system: System) -> None:
    """What a new node says before it has welcomed this producer can't be judged, and must not be waited for in vain."""
    worker = system.worker()
    producer = system.producer()
    one = task(topics=(producer.inbox,))
    token = producer.submit(one)
    assert producer.confirm(1.0)
    assert system.step(worker)
    system.crash()
    system.start()
    system.turn()
    system.link(producer).results.down.arrived.clear()
    worker.look()
    system.turn()
    worker.finish(b"v")
    assert producer.wait(one.id, token=token, timeout=10.0).value == b"v"


def test_a_foreign_frame_on_the_own_topic_changes_nothing(system: System) -> None:
    producer = system.producer()
    producer.query("")
    for body in (b"", b"\xc1", wire.encode(["no", "message"])):
        system.node.port.publish(wire.topic_prefix(producer.inbox) + body)
    producer.look()
    assert producer.query("status")


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def submits(system: System, producer: Producer) -> list[wire.Submit]:
    up = system.link(producer).tasks.up
    messages = [wire.decode_from_producer(frame) for frame in [*up.arrived, *up.under_way]]
    return [message for message in messages if isinstance(message, wire.Submit)]


def test_many_tasks_go_in_few_frames_of_bounded_size(system: System) -> None:
    producer = system.producer()
    producer.query("")
    producer.submit_many([task() for _ in range(1_200)])
    assert [len(message.tasks) for message in submits(system, producer)] == [500, 500, 200]
    system.turn()
    producer.submit_many([task(body=b"x" * 300_000) for _ in range(5)])
    assert [len(message.tasks) for message in submits(system, producer)] == [3, 2]
    producer.submit_many([])
    assert producer.confirm(5.0)


def test_frames_fit_into_what_the_node_takes_even_where_that_is_little(make_system: type[System]) -> None:
    system = make_system(max_message=20_000)  # type: ignore[call-arg]
    producer = system.producer()
    producer.submit_many([task(body=b"x" * 1_000) for _ in range(100)])
    assert producer.confirm(5.0)
    assert system.node.collector.counters.accepted == 100
    with pytest.raises(PayloadTooLarge, match=r"takes \d+,\d+ bytes, .* takes 20,000 \(its --max-message\)"):
        producer.submit(task(body=b"x" * 30_000))
    with pytest.raises(PayloadTooLarge, match="the function, with what it refers to"):
        producer.ship("digest", b"x" * 30_000)
    with pytest.raises(PayloadTooLarge, match="a result"):
        producer.put(wire.Result(id="a", state="SUCCESS", final=True, value=b"x" * 30_000))
    producer.submit(task())
    assert producer.confirm(5.0)


def test_refused_tasks_are_offered_again_in_frames_of_bounded_size(make_system: type[System]) -> None:
    """One frame with all of them could be larger than the node takes: it would be cut off, again and again."""
    system = make_system(queue_limit=1, max_message=20_000)  # type: ignore[call-arg]
    producer = system.producer()
    producer.submit_many([task(body=b"x" * 4_000) for _ in range(5)])
    producer.submit_many([task(body=b"x" * 4_000, queue="other") for _ in range(5)])
    system.turns(0.1)
    producer.look()
    assert len(producer._refused) == 8
    system.turns(0.2)
    producer.look()
    offered = submits(system, producer)
    assert sum(len(message.tasks) for message in offered) == 8
    assert max(sum(memoryview(raw).nbytes for raw in message.tasks) for message in offered) <= 10_000


def test_what_the_pipe_has_no_room_for_is_sent_later_in_order(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    producer.query("")
    system.link(producer).tasks.up.room = 2
    tasks = [task() for _ in range(6)]
    for one in tasks:
        producer.submit(one)
    assert producer.confirm(5.0)
    while system.step(worker):
        worker.finish()
    assert worker.starts == [one.id for one in tasks]


def test_what_is_unacknowledged_is_bounded(system: System) -> None:
    producer = system.producer(window=3, connect_timeout=1.0)
    producer.query("")
    system.link(producer).tasks.up.held = True
    for _ in range(3):
        producer.submit(task())
    with pytest.raises(NodeUnreachable, match="3 tasks of this process wait"):
        producer.submit(task())
    system.link(producer).tasks.up.held = False
    system.link(producer).tasks.up.release()
    producer.submit(task())
    assert producer.confirm(5.0)
    small = system.producer(window_bytes=1_000, connect_timeout=1.0)
    small.query("")
    system.link(small).tasks.up.held = True
    small.submit(task(body=b"x" * 2_000))
    with pytest.raises(NodeUnreachable):
        small.submit(task())


# ── silence ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_silence_makes_it_say_hello_ever_more_rarely_and_send_no_data_again(system: System) -> None:
    producer = system.producer()
    producer.query("")
    up = system.link(producer).tasks.up
    up.held = True
    producer.submit(task())
    hellos: list[float] = []
    for _ in range(400):
        before = len(up.under_way)
        system.clock.advance(0.1)
        producer.look()
        if len(up.under_way) > before:
            hellos.append(system.clock.monotonic())
    pauses = [later - earlier for earlier, later in itertools.pairwise(hellos)]
    assert all(later > earlier - 0.01 for earlier, later in itertools.pairwise(pauses))
    assert 4.9 < pauses[-1] < 5.3
    assert len(submits(system, producer)) == 1
    assert not producer._connected
    up.held = False
    up.release()
    assert producer.confirm(10.0)


def test_an_unanswered_question_is_an_error(system: System) -> None:
    producer = system.producer()
    producer.query("")
    system.link(producer).results.down.held = True
    with pytest.raises(NodeUnreachable):
        producer.query("status", timeout=1.0)
    with pytest.raises(TimeoutError, match="did not answer within 1 s"):
        producer.peek("a", timeout=1.0)


# ── its end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_never_acknowledged_is_reported_at_the_end(system: System, caplog: pytest.LogCaptureFixture) -> None:
    producer = system.producer()
    producer.query("")
    system.link(producer).tasks.up.held = True
    tasks = [task() for _ in range(12)]
    producer.submit_many(tasks)
    assert producer.flush(0.1) == 12
    with caplog.at_level(logging.ERROR):
        producer.close(timeout=0.1)
    assert f"12 tasks were not acknowledged by the node at {system.address.url} within 0.1 s" in caplog.text
    assert tasks[9].id in caplog.text
    assert tasks[10].id not in caplog.text
    assert "…" in caplog.text
    producer.close()
    with pytest.raises(EngineError, match="this producer is closed"):
        producer.submit(task())


def test_a_producer_that_was_never_used_ends_in_silence(system: System) -> None:
    producer = system.producer()
    producer.close()
    assert producer.unacknowledged() == []


# ── threads, on the real clock ───────────────────────────────────────────────────────────────────────────────────────


class Echo:
    """A node that welcomes, receipts, and answers each task with its own body; in a thread."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.address = parse_address("zmq:///nowhere")
        self.port = self.network.node(self.address)
        self.number = 0
        self.ending = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.ending:
            self.port.wait(1.0)
            self.port.subscriptions()
            for frame in self.port.from_producers(100):
                message = wire.decode_from_producer(frame)
                if isinstance(message, wire.Hello):
                    self.say(message.inbox, wire.Welcome(1, "s", "n", message.lowest - 1, self.number, 1 << 20))
                elif isinstance(message, wire.Submit):
                    self.number += 1
                    upto = message.seq + len(message.tasks) - 1
                    results = [self.echo(raw) for raw in message.tasks]
                    self.say(message.inbox, wire.Delivery("s", self.number, upto, results=results))

    def say(self, topic: str, message: object) -> None:
        self.port.publish(wire.topic_prefix(topic) + wire.encode(message))

    @staticmethod
    def echo(raw: Raw) -> Raw:
        one = wire.decode_task(raw)
        assert isinstance(one, wire.Task)
        return Raw(wire.encode_result(one.id, "SUCCESS", True, "", one.body, b"", 0.0))

    def end(self) -> None:
        self.ending = True
        self.port.wake()
        self.thread.join()
        self.port.close()


def test_several_threads_wait_and_one_reads_for_all() -> None:
    echo = Echo()
    producer = Producer(echo.address, link=echo.network.client)
    results: dict[str, bytes] = {}

    def use(n: int) -> None:
        for m in range(20):
            one = task(body=b"%d-%d" % (n, m))
            token = producer.submit(one)
            results[one.id] = producer.wait(one.id, token=token, timeout=20.0).value
            assert results[one.id] == one.body

    try:
        users = [threading.Thread(target=use, args=(n,)) for n in range(6)]
        for user in users:
            user.start()
        for user in users:
            user.join()
        assert len(results) == 120
        assert producer.flush(5.0) == 0
    finally:
        producer.close()
        echo.end()


def test_two_who_wait_for_one_result_both_get_it(system: System) -> None:
    worker = system.worker()
    producer = system.producer()
    one = task(topics=(producer.inbox,))
    token = producer.submit(one)
    finished(system, worker, b"v")
    assert producer.wait(one.id, token=token, timeout=5.0).value == b"v"
    assert producer.wait(one.id, timeout=5.0).value == b"v"
    assert msgspec.msgpack.decode(producer.query("status"))["inboxes"] == 1
