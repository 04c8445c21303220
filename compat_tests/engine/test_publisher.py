"""Topics, the numbers of their deliveries, and who asked for what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import Raw

from zerocelery.engine import publisher as module
from zerocelery.engine import wire
from zerocelery.engine.journal import Journal
from zerocelery.engine.publisher import Publisher


@pytest.fixture
def journal() -> Iterator[Journal]:
    one = Journal(None, durability="none")
    yield one
    one.close()


@pytest.fixture
def publisher(journal: Journal) -> Publisher:
    return Publisher(journal, session="s", node="n", max_message=1 << 20)


def sent(publisher: Publisher) -> list[tuple[str, wire.Welcome | wire.Delivery]]:
    """What leaves with the next flush."""
    frames: list[bytes] = []
    publisher.flush(frames.append)
    found = []
    for frame in frames:
        topic, _, body = frame.partition(b"\0")
        message = wire.decode_to_inbox(body)
        assert not isinstance(message, wire.Malformed)
        found.append((topic.decode(), message))
    return found


def numbers(publisher: Publisher) -> list[tuple[str, int]]:
    return [(topic, message.seq) for topic, message in sent(publisher)]


def result(task_id: str, *, final: bool = True, size: int = 1) -> Raw:
    return Raw(wire.encode_result(task_id, "SUCCESS" if final else "STARTED", final, "", b"x" * size, b"", 0.0))


def test_deliveries_are_numbered_by_topic(publisher: Publisher) -> None:
    for topic in ("a", "b"):
        publisher.subscribed(topic)
    for _ in range(2):
        publisher.result("t", result("t"), ["a"], final=True)
        assert len(sent(publisher)) == 1
    publisher.result("t", result("t"), ["a", "b"], final=True)
    assert numbers(publisher) == [("a", 3), ("b", 1)]
    publisher.welcome("a", 7)
    publisher.welcome("nobody", 7)
    assert numbers(publisher) == [("a", 3)]


def test_what_is_said_at_once_goes_as_one_delivery(publisher: Publisher) -> None:
    publisher.subscribed("a")
    for n in range(3):
        publisher.result(f"{n}", result(f"{n}"), ["a"], final=True)
    publisher.refuse("a", wire.Refusal(4, "queue-full"))
    publisher.answer("a", "token", b"answer")
    publisher.receipt("a", 5)
    ((_, message),) = sent(publisher)
    assert isinstance(message, wire.Delivery)
    assert (len(message.results), len(message.refusals), len(message.answers), message.upto) == (3, 1, 1, 5)
    assert sent(publisher) == []


def test_large_results_are_sent_only_so_far_ahead_of_their_reader(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AHEAD_BYTES", 1_000)
    monkeypatch.setattr(module, "_STEP_BYTES", 100)
    publisher.subscribed("a")
    for _ in range(5):
        publisher.result("t", result("t", size=400), ["a"], final=True)
        publisher.receipt("a", 9)
        publisher.send_owed()
        last = sent(publisher)[-1][1]
    # Three went; the other two are two gaps, and what is small came all the same.
    assert isinstance(last, wire.Delivery)
    assert (last.seq, last.results, last.upto) == (7, [], 9)
    publisher.heard("a", 2)
    assert numbers(publisher) == [("a", 8)]  # tells at once that something is missing
    publisher.result("t", result("t", size=400), ["a"], final=True)
    ((_, delivery),) = sent(publisher)
    assert isinstance(delivery, wire.Delivery)
    assert len(delivery.results) == 1
    publisher.heard("a", delivery.seq)
    assert numbers(publisher) == []
    for _ in range(5):
        publisher.result("t", result("t", size=400), ["a"], final=True)
    publisher.subscribed("a")  # a new connection: what was on the old one is gone
    ((_, delivery),) = sent(publisher)
    assert isinstance(delivery, wire.Delivery)
    assert len(delivery.results) == 5


def test_what_somebody_has_read_who_has_got_nothing_is_nothing(publisher: Publisher) -> None:
    publisher.subscribed("a")
    publisher.heard("a", 1 << 61)
    publisher.heard("nobody", 3)
    assert numbers(publisher) == []


def test_a_receipt_waits_for_company_and_then_goes_alone(publisher: Publisher) -> None:
    publisher.subscribed("a")
    publisher.receipt("a", 5)
    assert publisher.owes
    assert sent(publisher) == []
    publisher.send_owed()
    assert not publisher.owes
    ((_, message),) = sent(publisher)
    assert isinstance(message, wire.Delivery)
    assert message.upto == 5


def test_large_things_go_in_several_deliveries_and_the_receipt_with_the_last(publisher: Publisher) -> None:
    publisher.subscribed("a")
    for n in range(3):
        publisher.result(f"{n}", result(f"{n}", size=700_000), ["a"], final=True)
    publisher.refuse("a", wire.Refusal(5, "queue-full"))
    publisher.receipt("a", 5)
    first, second = (message for _, message in sent(publisher))
    assert isinstance(first, wire.Delivery)
    assert isinstance(second, wire.Delivery)
    assert (len(first.results), first.upto) == (2, -1)
    assert (len(second.results), len(second.refusals), second.upto) == (1, 1, 5)
    assert (first.seq, second.seq) == (1, 2)


def test_a_receipt_for_which_only_full_deliveries_were_left_comes_later(publisher: Publisher) -> None:
    publisher.subscribed("a")
    publisher.result("t", result("t", size=2 << 20), ["a"], final=True)
    publisher.receipt("a", 5)
    ((_, message),) = sent(publisher)
    assert isinstance(message, wire.Delivery)
    assert message.upto == -1
    assert publisher.owes


def test_who_was_away_sees_by_the_number_that_something_was_missed(publisher: Publisher) -> None:
    publisher.subscribed("a")
    publisher.result("1", result("1"), ["a"], final=True)
    assert numbers(publisher) == [("a", 1)]
    publisher.unsubscribed("a")
    publisher.result("2", result("2"), ["a"], final=True)
    publisher.result("2", result("2"), ["never seen"], final=True)
    assert numbers(publisher) == []
    publisher.subscribed("a")
    publisher.welcome("a", 0)
    assert numbers(publisher) == [("a", 2)]


def test_only_the_newest_of_those_who_left_are_remembered(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED_TOPICS", 2)
    for topic in "abc":
        publisher.subscribed(topic)
        publisher.result("1", result("1"), [topic], final=True)
        sent(publisher)
        publisher.unsubscribed(topic)
    publisher.unsubscribed("never there")
    assert sorted(publisher._numbers) == ["b", "c"]
    assert publisher.live == {}


def test_a_hole_is_told_with_where_it_begins(publisher: Publisher) -> None:
    publisher.subscribed("a")
    publisher.gap("a", 3)
    ((_, message),) = sent(publisher)
    assert isinstance(message, wire.Delivery)
    assert (message.upto, message.gap) == (3, True)


def test_who_asked_is_told_once_even_where_the_task_would_have_told_it_anyway(publisher: Publisher) -> None:
    for topic in "ab":
        publisher.subscribed(topic)
        publisher.ask(topic, ["t"], wait=True, now=0.0)
    assert [message.pending for _, message in sent(publisher) if isinstance(message, wire.Delivery)] == [["t"], ["t"]]
    publisher.result("t", result("t", final=False), ["a"], final=False)
    assert numbers(publisher) == [("a", 2), ("b", 2)]
    publisher.result("t", result("t"), ["a"], final=True)
    assert numbers(publisher) == [("a", 3), ("b", 3)]
    publisher.result("t", result("t"), [], final=True)
    assert numbers(publisher) == []


def test_a_state_in_the_store_is_an_answer_and_the_end_still_to_come(publisher: Publisher, journal: Journal) -> None:
    publisher.subscribed("a")
    journal.result("t", "STARTED", 100, bytes(result("t", final=False)), 0)
    journal.result("u", "SUCCESS", 100, bytes(result("u")), 0)
    publisher.ask("a", ["t", "u"], wait=False, now=50.0)
    ((_, message),) = sent(publisher)
    assert isinstance(message, wire.Delivery)
    assert (len(message.results), message.pending) == (2, ["t"])


def test_only_so_much_is_remembered_of_who_asked(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ASKED", 2)
    publisher.subscribed("a")
    publisher.ask("a", ["1", "2", "3"], wait=True, now=0.0)
    sent(publisher)
    assert publisher.dropped_asks == 1
    for task_id in "123":
        publisher.result(task_id, result(task_id), [], final=True)
    ((_, message),) = sent(publisher)
    assert isinstance(message, wire.Delivery)
    assert len(message.results) == 2
