"""Frames and messages: what goes out comes in again, and whatever comes in is a message or a Malformed."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw, Struct

from zerocelery.engine import wire

#: Each decoder, and the messages that it reads.
DECODERS: dict[Callable[..., Any], tuple[type[Struct], ...]] = {
    wire.decode_from_producer: typing.get_args(wire.FromProducer),
    wire.decode_to_inbox: typing.get_args(wire.ToInbox),
    wire.decode_from_worker: typing.get_args(wire.FromWorker),
    wire.decode_to_worker: typing.get_args(wire.ToWorker),
    wire.decode_task: (wire.Task,),
    wire.decode_task_head: (wire.TaskHead,),
    wire.decode_result: (wire.Result,),
    wire.decode_result_head: (wire.ResultHead,),
    wire.decode_gathering: (wire.Gathering,),
    wire.decode_loss: (wire.Loss,),
}
PAIRS = [(decode, message) for decode, messages in DECODERS.items() for message in messages]
IDS = [f"{message.__name__}-{decode.__name__}" for decode, message in PAIRS]

#: What msgpack can carry: 64 bits either way, any text that is text.
integers = st.integers(-(1 << 63), (1 << 64) - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
raws = st.recursive(
    st.none() | st.booleans() | integers | text | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
).map(lambda value: Raw(msgspec.msgpack.encode(value)))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Everything that a field of this type may hold."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    plain = {int: integers, str: text, bytes: st.binary(max_size=20), bool: st.booleans(), type(None): st.none()}
    if kind in plain:
        return plain[kind]
    if kind is float:
        return st.floats(allow_nan=False)
    if kind is Raw:
        return raws
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(one) for one in arguments])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    return messages(kind)


def messages(kind: type[Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values(hints[name]) for name in kind.__struct_fields__})


def plain(value: Any) -> Any:
    """Comparable: Raw is compared by its bytes."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Struct):
        return (type(value).__name__, *(plain(getattr(value, name)) for name in value.__struct_fields__))
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def defined() -> set[type[Struct]]:
    return {
        value
        for value in vars(wire).values()
        if inspect.isclass(value) and issubclass(value, Struct) and value != Struct
    }


# ── round trips ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("decode", "message"), PAIRS, ids=IDS)
def test_what_is_encoded_is_decoded(decode: Callable[..., Any], message: type[Struct]) -> None:
    @settings(max_examples=40, deadline=None)
    @given(messages(message))
    def check(one: Struct) -> None:
        frame = wire.encode(one)
        again = decode(frame)
        assert plain(again) == plain(one)
        assert wire.encode(again) == frame

    check()


def test_every_struct_is_read_by_some_decoder_or_is_part_of_a_message() -> None:
    read = {message for several in DECODERS.values() for message in several}
    parts = {wire.Refusal, wire.Answer, wire.Report, wire.LeaseEntry, wire.Ending, wire.Rate}
    assert defined() == read | parts


def test_every_message_of_a_direction_has_its_own_number() -> None:
    for several in DECODERS.values():
        tags = [one.__struct_config__.tag for one in several]
        assert len(set(tags)) == len(tags)


@settings(max_examples=50, deadline=None)
@given(text, integers, st.lists(messages(wire.Task), max_size=4))
def test_tasks_encoded_at_once_are_a_submit(inbox: str, seq: int, tasks: list[wire.Task]) -> None:
    message = wire.decode_from_producer(wire.encode_submit(inbox, seq, tasks))
    assert isinstance(message, wire.Submit)
    assert (message.inbox, message.seq) == (inbox, seq)
    assert [plain(wire.decode_task(raw)) for raw in message.tasks] == [plain(one) for one in tasks]


@settings(max_examples=50, deadline=None)
@given(messages(wire.Result))
def test_a_result_encoded_from_its_fields_is_a_result(one: wire.Result) -> None:
    frame = wire.encode_result(one.id, one.state, one.final, one.content_type, one.value, one.info, one.finished)
    assert frame == wire.encode(one)
    assert wire.decode_result(frame) == one


# ── heads ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("head", "whole"), [(wire.TaskHead, wire.Task), (wire.ResultHead, wire.Result)])
def test_a_head_is_the_beginning_of_its_whole(head: type[Struct], whole: type[Struct]) -> None:
    fields = head.__struct_fields__
    assert whole.__struct_fields__[: len(fields)] == fields
    hints, wholes = typing.get_type_hints(head), typing.get_type_hints(whole)
    assert {name: hints[name] for name in fields} == {name: wholes[name] for name in fields}


@settings(max_examples=50, deadline=None)
@given(messages(wire.Task), messages(wire.Result))
def test_a_head_is_read_without_the_rest(task: wire.Task, result: wire.Result) -> None:
    for head, one in (
        (wire.decode_task_head(wire.encode(task)), task), (wire.decode_result_head(wire.encode(result)), result),
    ):  # fmt: skip
        assert not isinstance(head, wire.Malformed)
        assert [getattr(head, name) for name in head.__struct_fields__] == [
            getattr(one, name) for name in head.__struct_fields__
        ]


def test_a_head_may_be_whole_where_the_rest_is_not() -> None:
    """The node never looks at the body: what is wrong with it is the worker's to say."""
    fields = list(msgspec.structs.astuple(wire.Task(id="a", name="t")))
    fields[wire.Task.__struct_fields__.index("body")] = 7
    frame = wire.encode(fields)
    assert isinstance(wire.decode_task_head(frame), wire.TaskHead)
    assert isinstance(wire.decode_task(frame), wire.Malformed)


# ── whatever comes in ────────────────────────────────────────────────────────────────────────────────────────────────


def assert_total(frame: Any) -> list[Any]:
    """No decoder raises; what each gives."""
    given_back = [decode(frame) for decode in DECODERS]
    for decoded, several in zip(given_back, DECODERS.values(), strict=True):
        assert isinstance(decoded, (*several, wire.Malformed))
        if isinstance(decoded, wire.Malformed):
            assert decoded.reason
    return given_back


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
def test_any_bytes_are_a_message_or_malformed(frame: bytes) -> None:
    assert_total(frame)
    assert_total(memoryview(frame))


@settings(max_examples=300, deadline=None)
@given(st.recursive(integers | text | st.binary(max_size=9) | st.none() | st.floats(), st.lists, max_leaves=20))
def test_any_value_is_a_message_or_malformed(value: Any) -> None:
    assert_total(wire.encode(value))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PAIRS).flatmap(lambda pair: messages(pair[1])), st.data())
def test_a_damaged_message_is_a_message_or_malformed(one: Struct, data: st.DataObject) -> None:
    frame = bytearray(wire.encode(one))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(frame) - 1))
        frame[place] = data.draw(st.integers(0, 255))
    assert_total(bytes(frame))
    assert_total(bytes(frame[: data.draw(st.integers(0, len(frame)))]))


@pytest.mark.parametrize("frame", [None, 7, "text", [], object()])
def test_what_is_no_frame_at_all_is_a_mistake_of_ours(frame: Any) -> None:
    """Sockets give bytes; anything else is a bug to be seen, not a message to be dropped."""
    with pytest.raises(TypeError):
        wire.decode_task(frame)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million items
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xdb\xff\xff\xff\xffabc",  # a text
        b"\xc6\xff\xff\xff\xffabc",  # bytes
        b"\xc9\xff\xff\xff\xff\x01abc",  # an extension
        b"\x92\x01\xdd\xff\xff\xff\xff",
        b"\x94\xcd\x01\x01\xa1i\x01\xdd\xff\xff\xff\xff",  # a Submit of as many tasks
    ],
)  # fmt: skip
def test_lengths_that_the_frame_does_not_hold_allocate_nothing(frame: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        assert all(isinstance(decoded, wire.Malformed) for decoded in assert_total(frame))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [100, 5_000, 200_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1k"])
def test_deep_nesting_is_refused(opening: bytes, depth: int) -> None:
    nest = opening * depth + b"\xc0"
    assert_total(nest)
    assert_total(b"\x94\xcd\x01\x01\xa1i\x01" + b"\x91" + nest)  # as a task of a Submit
    if depth > 10_000:
        assert all(isinstance(decoded, wire.Malformed) for decoded in assert_total(nest))


def test_text_that_is_no_text_is_refused() -> None:
    for bad in (b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"):
        frame = b"\x94\xcd\x01\x01" + bytes([0xA0 | len(bad)]) + bad + b"\x01\x90"
        assert isinstance(wire.decode_from_producer(frame), wire.Malformed)


@pytest.mark.parametrize(("decode", "message"), PAIRS, ids=IDS)
def test_what_is_too_short_is_refused(decode: Callable[..., Any], message: type[Struct]) -> None:
    tag = message.__struct_config__.tag
    may_be_empty = len(message.__struct_defaults__) == len(message.__struct_fields__)
    assert isinstance(decode(wire.encode([] if tag is None else [tag])), wire.Malformed) is not may_be_empty


# ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────────────

FOR_EVER = {wire.Hello: 1, wire.Welcome: 2, wire.Join: 3, wire.Rejoin: 4}


def tagged() -> list[tuple[Callable[..., Any], type[Struct]]]:
    return [(decode, message) for decode, message in PAIRS if message.__struct_config__.tag is not None]


@pytest.mark.parametrize(("decode", "message"), tagged(), ids=lambda value: getattr(value, "__name__", None))
def test_another_versions_messages_are_unknown_not_wrong(decode: Callable[..., Any], message: type[Struct]) -> None:
    """But for those that tell two versions that they differ: they keep their number."""

    @settings(max_examples=10, deadline=None)
    @given(messages(message))
    def check(one: Struct) -> None:
        items = msgspec.msgpack.decode(wire.encode(one), type=list[Raw])
        number = message.__struct_config__.tag
        if message in FOR_EVER:
            assert number == FOR_EVER[message]
        else:
            assert isinstance(number, int)
            assert number >> 8 == wire.VERSION
            items[0] = Raw(wire.encode(number + 256))
            assert isinstance(decode(wire.encode(items)), wire.Malformed)

    check()


def test_a_greeting_of_a_later_version_may_be_longer() -> None:
    hello = wire.decode_from_producer(wire.encode([1, 2, "inbox", 1, "and", ["more"]]))
    assert hello == wire.Hello(2, "inbox", 1)
    assert wire.decode_to_worker(wire.encode([4, 9, "more"])) == wire.Rejoin(9)
    welcome = wire.decode_to_inbox(wire.encode([2, 2, "session", "node", 5, 1, 1 << 20, {"new": 1}]))
    assert isinstance(welcome, wire.Welcome)
    assert welcome.version == 2


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(text, text)
def test_no_topic_is_the_beginning_of_another(one: str, other: str) -> None:
    if "\0" not in one + other and one != other:
        assert not wire.topic_prefix(one).startswith(wire.topic_prefix(other))


def test_malformed_says_why() -> None:
    assert repr(wire.decode_task(b"\xc0")).startswith("Malformed('")


def test_a_task_that_comes_with_a_verdict_counts_nowhere_and_is_not_run_twice() -> None:
    one = wire.Task(
        id="a", name="t", flags=wire.MEMBER | wire.AFTERMATH | wire.ACK_LATE, eta=5.0, expires=9.0, gather="g"
    )
    after = wire.aftermath(one, b"verdict")
    assert after.flags == wire.ACK_LATE | wire.SETTLED
    assert (after.verdict, after.eta, after.expires, after.gather) == (b"verdict", None, None, None)
    assert (after.id, after.name) == ("a", "t")
