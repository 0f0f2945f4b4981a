"""The reader reads the same deliveries as pika from a stream of frames, in pieces of any size."""

from __future__ import annotations

import json
from typing import Any

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import frame, spec

from missive.adapters.rabbitmq.reader import Reader
from missive.transport import Delivery

CHANNEL, OTHER, TAG = 3, 4, "ctag3.x"
SHORT = st.text(max_size=20)
VALUES = st.one_of(
    SHORT, st.integers(-(1 << 62), 1 << 62), st.booleans(), st.none(), st.lists(st.integers(0, 9), max_size=3)
)
PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["content_type", "content_encoding", "correlation_id", "reply_to", "expiration"], SHORT),
        **dict.fromkeys(["message_id", "type", "user_id", "app_id", "cluster_id"], SHORT),
        "headers": st.dictionaries(st.text(min_size=1, max_size=20), VALUES, max_size=3),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 1 << 40),
    },
)
METHODS = st.fixed_dictionaries({"redelivered": st.booleans(), "exchange": SHORT, "routing_key": SHORT})
MESSAGES = st.tuples(METHODS, PROPERTIES, st.lists(st.binary(min_size=1, max_size=50), max_size=3))


def content(method: Any, properties: dict[str, Any], parts: list[bytes], channel: int = CHANNEL) -> list[bytes]:
    header = frame.Header(channel, sum(map(len, parts)), pika.BasicProperties(**properties))
    frames = [frame.Method(channel, method), header, *(frame.Body(channel, part) for part in parts)]
    return [one.marshal() for one in frames]


def others() -> list[list[bytes]]:
    """Return frames that the reader must pass on: other channels, other methods and heartbeats."""
    got = spec.Basic.GetOk(delivery_tag=9, redelivered=False, exchange="", routing_key="q", message_count=0)
    elsewhere = spec.Basic.Deliver("other", 1, False, "", "q")
    return [
        [frame.Heartbeat().marshal()],
        content(got, {"message_id": "got"}, [b"got"]),
        content(elsewhere, {}, [b"elsewhere"], OTHER),
        [frame.Method(CHANNEL, spec.Basic.ConsumeOk(TAG)).marshal()],
    ]


def read(data: bytes, sizes: list[int]) -> tuple[list[Delivery], bytes, int]:
    """Read in pieces of these sizes. Return the deliveries, the bytes passed on, and the number of consumed bytes."""
    taken: list[Delivery] = []
    passed: list[bytes] = []
    reader = Reader(CHANNEL, taken.extend, passed.append, data[:1])
    reader.queues[TAG.encode()] = "orders"
    consumed, left, sizes = 0, data[1:], [*sizes, len(data)]
    while left:
        consumed += reader.read(left[: sizes[0]])
        left, sizes = left[sizes[0] :], [*sizes[1:], len(data)]
    return taken, b"".join(passed), consumed


@settings(deadline=None, max_examples=200)
@given(
    messages=st.lists(st.tuples(MESSAGES, st.lists(st.sampled_from(range(4)), max_size=2)), max_size=5),
    sizes=st.lists(st.integers(1, 100), max_size=50),
)
def test_reads_deliveries_as_pika_does(messages: list[Any], sizes: list[int]):
    """All properties and bodies of several frames arrive. Frames of anything else are passed on unchanged."""
    stream, foreign = [], []
    for tag, ((method, properties, parts), between) in enumerate(messages, 1):
        deliver = spec.Basic.Deliver(TAG, tag, method["redelivered"], method["exchange"], method["routing_key"])
        stream += content(deliver, properties, parts)
        for which in between:
            stream += others()[which]
            foreign += others()[which]
    data = b"".join(stream)
    taken, passed, consumed = read(data, sizes) if data else ([], b"", 0)
    assert passed == b"".join(foreign)
    assert consumed == len(data) - len(passed)
    assert len(taken) == len(messages)
    for tag, (one, ((method, properties, parts), _)) in enumerate(zip(taken, messages, strict=True), 1):
        # pika decodes some values of a table as other types than it encoded: compare with the decoded table.
        table = one.native.properties.headers
        assert one.body == b"".join(parts)
        assert (one.token, one.topic, one.redelivered) == (tag, method["routing_key"], method["redelivered"])
        assert one.attempt == 1 + method["redelivered"]
        wanted = [properties.get(name) for name in ("message_id", "content_type", "timestamp")]
        assert [one.producer_id, one.content_type, one.timestamp] == wanted
        assert (table or {}) == properties.get("headers", {})
        assert list(one.headers) == [
            (name, value if isinstance(value, str) else json.dumps(value)) for name, value in (table or {}).items()
        ]
        for name, value in properties.items():
            assert getattr(one.native.properties, name) == value
        assert one.native.queue == "orders"
        assert one.native.method.exchange == method["exchange"]
        assert (one.native.method.routing_key, one.native.method.delivery_tag) == (method["routing_key"], tag)


def test_escapes_invalid_text_and_reads_the_delivery_count():
    """Bytes that are not UTF-8 are escaped, and the delivery count of a quorum queue gives the attempt."""
    deliver = spec.Basic.Deliver(TAG, 1, True, "", "key")
    frames = content(deliver, {"message_id": "#", "headers": {"x-delivery-count": 4}}, [])
    data = b"".join(frames).replace(b"#", b"\xff").replace(b"key", b"k\xfe!")
    (one,), _, _ = read(data, [])
    assert (one.producer_id, one.topic, one.attempt) == ("\\xff", "k\\xfe!", 5)


def test_passes_on_a_malformed_frame():
    """A frame without its end byte goes to pika, which raises the error."""
    deliver = frame.Method(CHANNEL, spec.Basic.Deliver(TAG, 1, False, "", "q")).marshal()
    broken = deliver[:-1] + b"X"
    taken, passed, consumed = read(broken, [])
    assert (taken, passed, consumed) == ([], broken, 0)


def test_caches_a_limited_number_of_topics(monkeypatch: pytest.MonkeyPatch):
    """All routing keys are read, and the cache keeps to its limit."""
    monkeypatch.setattr("missive.adapters.rabbitmq.reader._MAX_TOPICS", 3)
    frames: list[bytes] = []
    for tag in range(1, 11):
        frames += content(spec.Basic.Deliver(TAG, tag, False, "x", f"t{tag % 5}"), {}, [])
    taken: list[Delivery] = []
    reader = Reader(CHANNEL, taken.extend, lambda _: None)
    reader.queues[TAG.encode()] = "orders"
    reader.read(b"".join(frames))
    assert [one.topic for one in taken] == [f"t{tag % 5}" for tag in range(1, 11)]
    assert len(reader._topics) == 3


def test_does_not_keep_a_body_over_the_bound():
    """A body over the bound is dropped frame by frame, and the delivery says so. The next delivery is complete."""
    large = content(spec.Basic.Deliver(TAG, 1, False, "x", "t"), {"message_id": "1"}, [b"a" * 60, b"b" * 60])
    small = content(spec.Basic.Deliver(TAG, 2, False, "x", "t"), {}, [b"c" * 100])
    taken: list[Delivery] = []
    reader = Reader(CHANNEL, taken.extend, lambda _: None, max_body=100)
    reader.queues[TAG.encode()] = "orders"
    for one in large:
        reader.read(one)
        assert reader._parts == []
    for one in small:
        reader.read(one)
    why = "the body has 120 bytes, and max_body is 100"
    assert [(b"", why, "1"), (b"c" * 100, None, None)] == [(one.body, one.too_large, one.producer_id) for one in taken]
