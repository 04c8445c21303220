"""Calls to stations by name, streams, revocations, unique keys and clients' leases, over the memory transport."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest

from compat_tests.engine.system import System, task
from zerocelery.engine import wire
from zerocelery.engine.errors import NodeUnreachable
from zerocelery.engine.processes import started
from zerocelery.engine.purging import purge_queue
from zerocelery.engine.station import Station


@pytest.fixture
def attend(system: System) -> Callable[[str], Station]:
    """``attend(name)``: a station that answers with its name and what it was asked."""

    def make(name: str) -> Station:
        station = system.station()
        system.network.processes.add(os.getpid())
        station.attend(name, lambda body: name.encode() + b" " + body if body != b"silent" else b"", timeout=5.0)
        system.network.actors.append(lambda: station.serve() if station._link is not None else None)
        return station

    return make


def test_a_call_reaches_all_stations_or_those_that_it_names(system: System, attend: Callable[[str], Station]) -> None:
    for name in ("one", "two", "three"):
        attend(name)
    caller = system.station()
    assert dict(caller.call(b"hello", timeout=5.0)) == {
        "one": b"one hello", "two": b"two hello", "three": b"three hello",
    }  # fmt: skip
    assert dict(caller.call(b"hello", ["two", "nobody"], timeout=5.0)) == {"two": b"two hello"}
    assert caller.ask("stations") == ["one", "three", "two"]


def test_a_call_ends_when_all_have_answered_and_not_later(system: System, attend: Callable[[str], Station]) -> None:
    attend("one")
    caller = system.station()
    before = system.clock.monotonic()
    assert list(caller.call(b"silent", timeout=50.0)) == [("one", b"")]
    assert list(caller.call(b"x", ["nobody"], timeout=50.0)) == []
    assert system.clock.monotonic() - before < 5.0
    assert len(list(caller.call(b"x", timeout=50.0, limit=1))) == 1


def test_a_call_is_not_waited_for_beyond_its_timeout(system: System) -> None:
    deaf = system.station()
    system.network.processes.add(os.getpid())
    deaf.attend("deaf", lambda body: body, timeout=5.0)  # and never serves
    caller = system.station()
    before = system.clock.monotonic()
    assert list(caller.call(b"x", timeout=2.0)) == []
    assert 2.0 <= system.clock.monotonic() - before < 3.0


def test_a_station_whose_process_has_died_is_not_called(system: System, attend: Callable[[str], Station]) -> None:
    attend("one")
    stations = system.node.collector.switchboard.stations
    stations.update({k: wire.Attend(k, "one", "this-host", 999_999, 1) for k in stations})
    assert list(system.station().call(b"x", timeout=50.0)) == []
    assert stations == {}


def test_a_station_is_known_to_the_next_node_by_itself(system: System, attend: Callable[[str], Station]) -> None:
    station = attend("one")
    system.crash()
    system.start()
    for _ in range(4):  # subscription, welcome, hello, welcome
        system.turns()
        station.serve()
    system.turn()
    caller = system.station()
    assert dict(caller.call(b"again", timeout=5.0)) == {"one": b"one again"}


def test_nothing_is_answered_where_there_is_no_node(system: System) -> None:
    caller = system.station(connect_timeout=1.0)
    system.crash()
    with pytest.raises(NodeUnreachable):
        caller.call(b"x", timeout=1.0)


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_casts_where_nobody_listens_is_told_and_told_again_when_somebody_does(system: System) -> None:
    sender, listener = system.station(), system.station()
    assert sender.is_watched("news")  # as far as it knows
    sender.cast("news", [b"1"])
    system.turns()
    assert not sender.cast("news", [b"2"])
    assert not sender.is_watched("news")
    listener.listen("news", timeout=5.0)
    system.turns()
    assert sender.cast("news", [b"3", b"4"])
    assert listener.hear("news", 5.0) == [b"3", b"4"]
    assert listener.hear("news", 0.5) == []


def test_a_worker_casts_too_and_is_told(system: System) -> None:
    worker = system.worker()
    worker.send(wire.Cast("", "news", [b"1"]))
    system.turn()
    assert wire.decode_to_worker(worker.link.receive(0) or b"") == wire.Watched("news", False)
    listener = system.station()
    listener.listen("news", timeout=5.0)
    assert wire.decode_to_worker(worker.link.receive(0) or b"") == wire.Watched("news", True)
    worker.send(wire.Cast("", "news", [b"2"]))
    assert listener.hear("news", 5.0) == [b"2"]


# ── revoking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_waiting_task_is_taken_out_of_its_queue_at_once(system: System) -> None:
    client = system.station()
    client.submit_many([task(task_id="a"), task(task_id="b"), task(task_id="c")])
    client.revoke(["b"])
    assert client.confirm(5.0)
    assert client.wait("b", timeout=5.0).state == wire.REVOKED
    assert system.node.status()["queues"]["celery"]["waiting"] == 2
    worker = system.worker()
    for _ in range(2):
        assert system.step(worker) is not None
        worker.finish()
    assert system.step(worker) is None
    assert worker.starts == ["a", "c"]


def test_a_task_with_an_eta_is_taken_out_and_one_of_a_backlog_on_disk_too(system: System) -> None:
    client = system.station()
    client.submit(task(task_id="later", eta=system.clock.wall() + 1_000.0))
    client.submit_many([task(task_id=f"n{i}") for i in range(9_000)])
    client.revoke(["later", "n8999"])
    assert client.confirm(5.0)
    assert client.wait("later", timeout=5.0).state == wire.REVOKED
    assert client.wait("n8999", timeout=5.0).state == wire.REVOKED
    queue = system.node.status()["queues"]["celery"]
    assert (queue["waiting"], queue["scheduled"]) == (8_999, 0)
    assert system.node.collector.next_deadline() is None


def test_a_revocation_holds_for_what_is_still_to_come_and_over_a_restart(system: System) -> None:
    client = system.station()
    client.revoke(["a"], keep=100.0)
    assert client.confirm(5.0)
    system.stop()
    system.start()
    client = system.station()
    worker = system.worker()
    client.submit(task(task_id="a"))
    client.submit(task(task_id="b"))
    running = system.step(worker)
    assert running is not None
    assert running.task.id == "b"
    assert client.wait("a", timeout=5.0).state == wire.REVOKED
    worker.finish()
    system.turns(200.0)
    client.submit(task(task_id="a"))
    again = system.step(worker)
    assert again is not None
    assert again.task.id == "a"


def test_a_label_revokes_all_that_have_it(system: System) -> None:
    client = system.station()
    for name in "abc":
        labels = ["day=monday", f"me={name}"] if name != "c" else []
        client.submit(task(task_id=name, labels=labels, flags=wire.LABELLED if labels else 0))
    client.revoke([], ["day=monday"])
    client.submit(task(task_id="d", labels=["day=monday"], flags=wire.LABELLED))
    worker = system.worker()
    running = system.step(worker)
    assert running is not None
    assert running.task.id == "c"
    assert [client.wait(name, timeout=5.0).state for name in "abd"] == [wire.REVOKED] * 3


def test_what_is_terminated_was_revoked_and_not_lost(system: System) -> None:
    client = system.station()
    worker = system.worker(policy=wire.ACK_LATE | wire.REJECT_ON_LOST)
    client.submit(task(task_id="a"))
    assert system.step(worker) is not None
    client.revoke(["a"], terminate=True)
    assert client.confirm(5.0)
    worker.die()
    system.turns(1.0)
    result = client.wait("a", timeout=5.0)
    loss = wire.decode_loss(result.value)
    assert result.state == wire.REVOKED
    assert isinstance(loss, wire.Loss)
    assert loss.kind == "terminated"


def test_what_runs_is_not_touched_by_a_revocation_alone(system: System) -> None:
    client = system.station()
    worker = system.worker()
    client.submit(task(task_id="a"))
    assert system.step(worker) is not None
    client.revoke(["a"])
    assert client.confirm(5.0)
    worker.finish(b"done")
    assert client.wait("a", timeout=5.0).state == wire.SUCCESS


def test_a_station_hears_of_what_its_pool_will_not_run(system: System, attend: Callable[[str], Station]) -> None:
    station = attend("one")
    told: list[tuple[str, str]] = []

    def notice(body: bytes) -> None:
        kind, _, raw = msgspec.msgpack.decode(body)
        message = wire.decode_task(raw)
        assert isinstance(message, wire.Task)
        told.append((kind, message.id))

    station.on_notice = notice
    pid = os.getpid()
    worker = system.worker(parent=pid)
    stations = system.node.collector.switchboard.stations
    stations.update({k: wire.Attend(k, s.name, worker.host, pid, started(pid)) for k, s in stations.items()})
    client = system.station()
    client.submit(task(task_id="long"))
    assert system.step(worker) is not None
    client.submit(task(task_id="a"))
    client.revoke(["a"])
    assert client.confirm(5.0)
    system.turns(0.5)
    station.serve()
    assert told == [("revoked", "a")]


# ── names that only one may have ─────────────────────────────────────────────────────────────────────────────────────


def unique(task_id: str, key: str = "k", **more: float) -> wire.Task:
    return task(task_id=task_id, unique=key, flags=wire.UNIQUE, **more)


def test_a_second_message_with_a_unique_key_is_refused_until_the_first_has_ended(system: System) -> None:
    client, worker = system.station(), system.worker()
    client.submit(unique("a"))
    client.submit(unique("b"))
    client.submit(unique("other", "another key"))
    refused = client.wait("b", timeout=5.0)
    loss = wire.decode_loss(refused.value)
    assert refused.state == wire.REVOKED
    assert isinstance(loss, wire.Loss)
    assert loss.kind == "duplicate"
    assert "task a " in loss.message
    system.step(worker)
    worker.finish()
    system.step(worker)
    worker.finish()
    system.turn()
    client.submit(unique("c"))
    assert system.step(worker) is not None
    assert worker.starts == ["a", "other", "c"]


def test_a_unique_key_may_outlive_its_task_and_outlives_the_node(system: System) -> None:
    client, worker = system.station(), system.worker()
    client.submit(unique("a", unique_for=60))
    system.step(worker)
    worker.finish()
    assert client.wait("a", timeout=5.0).state == wire.SUCCESS
    system.stop()
    system.start()
    client = system.station()
    client.submit(unique("b"))
    assert client.wait("b", timeout=5.0).state == wire.REVOKED
    system.turns(61.0)
    client.submit(unique("c"))
    assert client.confirm(5.0)
    assert system.node.status()["queues"]["celery"]["waiting"] == 1


def test_a_retry_has_its_tasks_unique_key(system: System) -> None:
    client, worker = system.station(), system.worker()
    client.submit(unique("a"))
    system.step(worker)
    worker.finish(state="RETRY", final=False, followups=[unique("a")])
    system.turn()
    client.submit(unique("b"))
    assert client.wait("b", timeout=5.0).state == wire.REVOKED
    assert system.step(worker) is not None
    assert worker.starts == ["a", "a"]


def test_a_lease_is_one_clients_until_it_is_gone(system: System) -> None:
    one, two = system.station(), system.station()
    assert one.lease("beat", 30.0) == (True, b"")
    assert one.lease("beat", 30.0, value=b"state") == (True, b"state")
    assert two.lease("beat", 30.0) == (False, b"state")
    one.close(timeout=0.0)
    system.turns(6.0)
    assert two.lease("beat", 30.0, value=b"mine") == (True, b"state")  # what the former holder left comes first
    assert two.lease("beat", 30.0, value=b"mine") == (True, b"mine")
    assert two.lease("beat", 0.0, release=True)[0] is False


def test_a_lease_that_was_not_renewed_is_free(system: System) -> None:
    one, two = system.station(), system.station()
    assert one.lease("beat", 5.0)[0]
    system.turns(4.0)
    assert not two.lease("beat", 5.0)[0]
    system.turns(2.0)
    assert two.lease("beat", 5.0)[0]
    assert not one.lease("beat", 5.0)[0]


def test_a_purged_task_lets_its_unique_key_go(system: System) -> None:
    client = system.station()
    client.submit(unique("a"))
    assert purge_queue(client, "celery") == 1
    client.submit(unique("b"))
    assert client.confirm(5.0)
    assert system.node.status()["queues"]["celery"]["waiting"] == 1


def test_the_oldest_of_a_queue_has_an_age_also_after_a_restart(system: System) -> None:
    client = system.station()
    client.submit(task(task_id="a"))
    assert client.confirm(5.0)
    system.turns(30.0)
    client.submit(task(task_id="b"))
    assert client.confirm(5.0)
    assert 29.0 <= system.node.status()["queues"]["celery"]["oldest"] <= 32.0
    system.stop()
    system.start()
    assert 29.0 <= system.node.status()["queues"]["celery"]["oldest"] <= 32.0
