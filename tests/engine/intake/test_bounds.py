"""Bounds of a message: the size of its body, and the number and size of its headers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from missive import Fatal, Processor, RawMessage, UsageError, adapters
from missive.adapters.base import DEFAULT_MAX_BODY
from missive.adapters.registry import from_url
from missive.dlq.record import Record
from missive.engine.intake.bounds import MAX_HEADER_BYTES, MAX_HEADERS
from missive.engine.runner import execute
from missive.matchers import Everything, Header
from missive.testing import MemoryAdapter
from missive.transport import Delivery
from tests.support.broker import Broker
from tests.support.engine import RecordingSink

URLS = {
    "StdinAdapter": "stdin:",
    "FileAdapter": "file:a",
    "SQLiteAdapter": "sqlite:///a?queue=q",
    "RabbitMQAdapter": "rabbitmq://h/?queue=q",
    "RedisStreamsAdapter": "redis://h/?stream=s&group=g",
    "KafkaAdapter": "kafka://h?topic=t&group=g",
}


def handled_and_filed(deliveries: Sequence[Delivery], **options) -> tuple[list[bytes], list[Record]]:
    """Run deliveries; return the bodies that a handler received, and the dead letters."""
    sink, bodies = RecordingSink(), []
    proc = Processor(name="t", dlq=sink)
    proc.add_handler(Everything() | Header("a", "b"), lambda message, context: bodies.append(message.raw_data))
    execute([MemoryAdapter(proc, deliveries, **options)])
    return bodies, sink.records


def test_a_large_body_is_filed_without_it():
    """A body over `max_body` becomes a dead letter, `too_large`, without the body. Other messages are handled."""
    sent = [Delivery(b"x" * 10), Delivery(b"y" * 11, headers=[("tenant", "t")], producer_id="7"), Delivery(b"z")]
    bodies, (record,) = handled_and_filed(sent, max_body=10)
    assert bodies == [b"x" * 10, b"z"]
    assert (record.reason, record.body, record.headers) == ("too_large", b"", (("tenant", "t"),))
    assert record.detail == "the body has 11 bytes, and max_body is 10"


@pytest.mark.parametrize(
    "headers",
    [
        [("a", "b")] * (MAX_HEADERS + 1),
        {str(number): "" for number in range(MAX_HEADERS + 1)},
        [("a", "b" * MAX_HEADER_BYTES)],
        [("a", "é" * (MAX_HEADER_BYTES // 2))],
        [("a", b"\xff" * MAX_HEADER_BYTES)],
    ],
    ids=["number", "number in a mapping", "text", "text in UTF-8", "bytes"],
)
def test_too_many_headers_are_filed_without_them(headers):
    """Headers over a bound make the message a dead letter, `too_large`, without its body and headers."""
    bodies, (record,) = handled_and_filed([Delivery(b"x", headers=headers), Delivery(b"y")])
    assert bodies == [b"y"]
    assert (record.reason, record.body, record.headers) == ("too_large", b"", ())


def test_headers_within_the_bounds_are_kept():
    """10,000 headers, and 1 MiB of headers, are handled."""
    most = Delivery(b"number", headers=[("a", "b")] * MAX_HEADERS)
    largest = Delivery(b"size", headers=[("a", "é" * (MAX_HEADER_BYTES // 2 - 1))])
    assert handled_and_filed([most, largest]) == ([b"number", b"size"], [])


@pytest.mark.parametrize("name", [name for name in adapters.__all__ if name.endswith("Adapter") and name != "Adapter"])
def test_every_adapter_has_the_bound(name: str):
    """`max_body` is a keyword and a URL parameter of every adapter, with 64 MiB as its default."""
    url = URLS[name]
    assert 64 << 20 == DEFAULT_MAX_BODY == from_url(url, Processor()).max_body
    bounded = from_url(f"{url}{'&' if '?' in url else '?'}max_body=1000", Processor())
    assert (1000, name) == (bounded.max_body, type(bounded).__name__)


def test_a_bound_below_one_byte_is_refused():
    """`max_body=0` is a usage error that names the argument."""
    with pytest.raises(UsageError, match="max_body= must be a number of bytes"):
        MemoryAdapter(Processor(), max_body=0)


def small_broker(fits: int) -> tuple[Broker, list[int]]:
    """Return a broker whose fetches of more than `fits` messages do not fit in memory, and its list of credits."""
    proc = Processor(RawMessage, name="t", dlq=RecordingSink())
    proc.add_handler(Everything(), lambda message, context: None)
    broker, asked = Broker(proc, [b"%d" % number for number in range(20)]), []

    def fetch(session, credit):
        asked.append(credit.items)
        if credit.items > fits:
            raise MemoryError

    broker.intercept["fetch"] = fetch
    return broker, asked


def test_a_fetch_that_does_not_fit_in_memory_is_made_smaller():
    """After a MemoryError, the engine asks for less, until the messages fit."""
    broker, asked = small_broker(5)
    (report,) = execute([broker])
    assert report.total_handled == 20
    assert sorted(asked[:4], reverse=True) == asked[:4]
    assert len(broker.sessions) == 1


def test_one_message_that_does_not_fit_in_memory_stops_processing():
    """When a single message does not fit in memory, processing stops with one line instead of trying for ever."""
    broker, asked = small_broker(0)
    with pytest.raises(Fatal, match="does not fit in memory"):
        execute([broker])
    assert asked[-1] == 1
    assert len(asked) < 10


class SmallSink(RecordingSink):
    """A sink that has no memory for `most` bytes in one call."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def put(self, records: Sequence[Record]) -> None:
        """Add the records, or raise MemoryError."""
        if sum(len(record.body) for record in records) > self.most:
            self.tries += 1
            raise MemoryError
        super().put(records)


def test_a_batch_that_does_not_fit_in_memory_is_written_in_parts(caplog: pytest.LogCaptureFixture):
    """Dead letters are written in smaller batches; a record that never fits is filed without its body."""
    sink = SmallSink(25)
    proc = Processor(name="t", dlq=sink)
    proc.discard_for(Header("never", "x"), reason="never")
    with caplog.at_level(logging.WARNING):
        execute([MemoryAdapter(proc, [b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 30, b"e"])])
    filed = sorted((str(record.reason), len(record.body)) for record in sink.records)
    assert filed == [("too_large", 0), *[("unmatched", 1)], *[("unmatched", 10)] * 3]
    assert sink.tries < 15
    assert "memory: a dead letter of 30 bytes does not fit in memory" in caplog.text


def test_the_batches_of_large_dead_letters_are_bounded():
    """A batch of dead letters ends at 64 MiB of bodies."""
    sink = SmallSink(100 << 20)
    proc = Processor(name="t", dlq=sink)
    proc.discard_for(Header("never", "x"), reason="never")
    execute([MemoryAdapter(proc, [bytes(20 << 20) for _ in range(8)])])
    assert [len(record.body) for record in sink.records] == [20 << 20] * 8
