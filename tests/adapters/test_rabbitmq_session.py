"""A session on a real RabbitMQ broker consumes several queues, refuses streams, and settles each delivery once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pika
import pytest

import missive
from missive import Fatal, Transient, UsageError
from missive.adapters import RabbitMQAdapter, from_url
from missive.adapters.rabbitmq.reader import Connection
from missive.testing.conformance.host import KitHost
from missive.transport import Credit, Delivery, Disposition, Session, Settlement
from tests.support.process import Running, without_common
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.rabbitmq
SECONDS = 20.0
APPLICATION = """
import os, missive
from missive.matchers import Everything

proc = missive.Processor(name="app")

@proc.handle_for(Everything())
def handle(message, context):
    os.write(1, f"{context.native.queue} {message.topic} {message.raw_data.decode()}\\n".encode())
"""


def in_event_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in a new event loop."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


class Host(KitHost):
    """A host with credit for the largest prefetch of these tests."""

    credit = Credit(20_000, 64 << 20)


def names(broker: RabbitMQ, *arguments: dict[str, Any]) -> list[str]:
    """Declare queues, and return their names."""
    found = [f"q-{uuid.uuid4().hex[:8]}" for _ in arguments]
    with broker.channel() as channel:
        for name, one in zip(found, arguments, strict=True):
            channel.queue_declare(name, durable=True, arguments=one)
    return found


def publish(broker: RabbitMQ, queue: str, *bodies: bytes) -> None:
    with broker.channel() as channel:
        for body in bodies:
            channel.basic_publish("", queue, body)


def waiting(broker: RabbitMQ, queue: str) -> int:
    with broker.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def adapter(broker: RabbitMQ, queue: str | Sequence[str], **options: Any) -> RabbitMQAdapter:
    return RabbitMQAdapter(missive.Processor(name="app"), queue, host="127.0.0.1", port=broker.port, **options)


@contextlib.asynccontextmanager
async def opened(source: RabbitMQAdapter) -> AsyncIterator[Session]:
    session = await source.connect(Host())
    try:
        yield session
    finally:
        await session.close()


async def take(session: Session, count: int) -> list[Delivery]:
    """Fetch `count` deliveries."""
    taken: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(taken) < count:
            taken += await session.fetch(Credit(count - len(taken), 1 << 30))
    return taken


def acks(deliveries: Sequence[Delivery]) -> list[Settlement]:
    return [Settlement(one, Disposition.ack) for one in deliveries]


def test_consumes_several_queues(rabbitmq: RabbitMQ, missive: Callable[..., Running], tmp_path: Path):
    """One source consumes a classic and a quorum queue. `native.queue` names the queue, and all messages are acked."""
    (tmp_path / "app.py").write_text(APPLICATION)
    first, second = names(rabbitmq, {}, {"x-queue-type": "quorum"})
    publish(rabbitmq, first, b"1", b"2")
    publish(rabbitmq, second, b"3")
    process = missive("run", "app:proc", "--from", rabbitmq.url(f"{first},{second}"), "--dlq", "sqlite:///dlq.db")
    lines = sorted(process.line().strip() for _ in range(3))
    process.terminate()
    assert lines == sorted([f"{first} {first} 1", f"{first} {first} 2", f"{second} {second} 3"])
    assert [waiting(rabbitmq, name) for name in (first, second)] == [0, 0]


@in_event_loop
async def test_names_a_missing_queue_and_consumes_none(rabbitmq: RabbitMQ):
    """The error names the missing queue, and nothing is consumed until all queues exist."""
    (existing,) = names(rabbitmq, {})
    publish(rabbitmq, existing, b"1")
    missing = f"q-{uuid.uuid4().hex[:8]}"
    source = adapter(rabbitmq, [existing, missing])
    with pytest.raises(Transient, match=f"there is no queue {missing}$"):
        await source.connect(Host())
    with rabbitmq.channel() as channel:
        channel.queue_declare(missing, durable=True)
    publish(rabbitmq, missing, b"2")
    async with opened(source) as session:
        taken = await take(session, 2)
        assert {one.native.queue: one.body for one in taken} == {existing: b"1", missing: b"2"}
        await session.settle(acks(taken))


@in_event_loop
async def test_names_a_deleted_queue(rabbitmq: RabbitMQ):
    """When the broker cancels a consumer, the session ends with an error that names the queue."""
    first, second = names(rabbitmq, {}, {})
    async with opened(adapter(rabbitmq, f"{first},{second}")) as session:
        publish(rabbitmq, first, b"1")
        await take(session, 1)
        with rabbitmq.channel() as channel:
            channel.queue_delete(second)
        with pytest.raises(Transient, match=f"the queue {second} is gone"):
            await take(session, 1)


@in_event_loop
async def test_stop_intake_returns_deliveries_of_all_queues(rabbitmq: RabbitMQ):
    """A stop cancels all consumers and returns the deliveries that were pushed but not fetched, with their queues."""
    first, second = names(rabbitmq, {}, {})
    publish(rabbitmq, first, b"1", b"2")
    publish(rabbitmq, second, b"3", b"4")
    async with opened(adapter(rabbitmq, [first, second])) as session:
        taken = await take(session, 1)
        async with asyncio.timeout(SECONDS):
            while len(session._arrived) < 3:  # type: ignore[attr-defined]
                await session.status()
        left = await session.stop_intake()
        assert sorted(one.body for one in [*taken, *left]) == [b"1", b"2", b"3", b"4"]
        assert {one.native.queue for one in [*taken, *left]} == {first, second}
        await session.settle([Settlement(one, Disposition.release) for one in [*taken, *left]])
        await session.status()
        assert [waiting(rabbitmq, name) for name in (first, second)] == [2, 2]  # and not redelivered to this session


def test_queues_in_urls_and_keywords():
    """Commas or a list give several queues. A missing name and a repeated name are refused with one line."""
    proc = missive.Processor()
    source = from_url("rabbitmq://host/v?queue=a,b", proc)
    assert (source.destination, source.url) == ("a,b", "rabbitmq://host:5672/v?queue=a,b")
    assert RabbitMQAdapter(proc, ["a,b", "c"]).settings.queues == ("a,b", "c")
    for wrong, message in {"": "needs \\?queue=", "?queue=": "names no queue", "?queue=a,": "names no queue"}.items():
        with pytest.raises(UsageError, match=message):
            from_url(f"rabbitmq://host/v{wrong}", proc)
    with pytest.raises(UsageError, match="queue= names a twice"):
        RabbitMQAdapter(proc, "a,b,a")


@in_event_loop
async def test_refuses_a_stream(rabbitmq: RabbitMQ):
    """A stream, even among other queues, is fatal before anything is consumed, and no queue loses a message."""
    classic, stream = names(rabbitmq, {}, {"x-queue-type": "stream"})
    publish(rabbitmq, stream, b"1")
    publish(rabbitmq, classic, b"2")
    with pytest.raises(Fatal, match=f"{stream} is a stream, where an ack does not settle"):
        await adapter(rabbitmq, [classic, stream]).connect(Host())
    with rabbitmq.channel() as channel:
        channel.basic_qos(prefetch_count=1)
        read = channel.consume(stream, arguments={"x-stream-offset": "first"}, inactivity_timeout=SECONDS)
        assert next(read)[2] == b"1"
        channel.cancel()
        method, _, body = channel.basic_get(classic, auto_ack=True)
    assert (body, method.redelivered) == (b"2", False)


def test_reports_a_stream_in_one_line(rabbitmq: RabbitMQ, missive: Callable[..., Running], tmp_path: Path):
    """The worker ends with exit code 1 and one line that names the queue and the remedy."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (stream,) = names(rabbitmq, {"x-queue-type": "stream"})
    process = missive("run", "app:proc", "--from", rabbitmq.url(stream), "--dlq", "sqlite:///dlq.db")
    _, err = process.finish()
    assert (process.code, len(without_common(err).splitlines())) == (1, 1)
    assert f"{stream} is a stream" in err
    assert "consume a classic or a quorum queue" in err


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@in_event_loop
async def test_the_check_for_streams_takes_no_message(rabbitmq: RabbitMQ, kind: str):
    """Connecting to a queue that is not a stream counts as no delivery."""
    (queue,) = names(rabbitmq, {"x-queue-type": kind})
    publish(rabbitmq, queue, b"1")
    for _ in range(3):
        async with opened(adapter(rabbitmq, queue)):
            pass
    async with opened(adapter(rabbitmq, queue)) as session:
        (one,) = await take(session, 1)
        assert (one.attempt, one.redelivered) == (1, False)
        await session.settle(acks([one]))


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@in_event_loop
async def test_repeated_settlements_are_harmless(rabbitmq: RabbitMQ, kind: str):
    """Settling a delivery again, in one call or two, with any disposition, never closes the channel."""
    (queue,) = names(rabbitmq, {"x-queue-type": kind})
    publish(rabbitmq, queue, *(b"%d" % n for n in range(6)))
    async with opened(adapter(rabbitmq, queue)) as session:
        taken = await take(session, 6)
        await session.settle(acks([taken[2], taken[2]]))
        await session.settle(acks([taken[2], taken[0], taken[0]]))
        await session.settle(
            [
                Settlement(taken[0], Disposition.release),
                Settlement(taken[1], Disposition.release),
                Settlement(taken[1], Disposition.ack),
            ]
        )
        await session.settle(acks(taken[:3]))
        await session.settle([Settlement(one, Disposition.release) for one in taken[:3]])
        (redelivered,) = await take(session, 1)
        assert (redelivered.body, redelivered.redelivered) == (b"1", True)
        await session.settle(acks([*taken, redelivered, *taken, redelivered]))
        assert (await session.status()).connected
    assert waiting(rabbitmq, queue) == 0


@in_event_loop
async def test_settles_thousands_behind_a_held_delivery(rabbitmq: RabbitMQ):
    """Behind a held delivery, about 11,000 deliveries are settled, some twice. Only the held one is redelivered."""
    (queue,) = names(rabbitmq, {})
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url()))
    channel = connection.channel()  # without confirms, which would be slow
    for number in range(11_000):
        channel.basic_publish("", queue, b"%d" % number)
    connection.close()
    async with opened(adapter(rabbitmq, queue, prefetch=11_000)) as session:
        held, *others = await take(session, 11_000)
        for start in range(0, len(others), 1000):
            await session.settle(acks(others[start : start + 1000]))
            await session.settle(acks(others[max(0, start - 10) : start + 10]))
        assert (await session.status()).connected
        assert session._unacked._tags == {held.token: None}  # type: ignore[attr-defined]
    async with opened(adapter(rabbitmq, queue)) as session:
        (redelivered,) = await take(session, 1)
        assert (redelivered.body, redelivered.redelivered) == (b"0", True)
        await session.settle(acks([redelivered]))
    assert waiting(rabbitmq, queue) == 0


@in_event_loop
async def test_refuses_an_unsupported_pika(rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch):
    """A version of pika that does not pass received bytes to the reader gives an error instead of silence."""
    monkeypatch.delattr(Connection, "_on_data_available")
    (queue,) = names(rabbitmq, {})
    publish(rabbitmq, queue, b"1")
    async with opened(adapter(rabbitmq, queue)) as session:
        with pytest.raises(Fatal, match=f"pika {pika.__version__} is not supported"):
            await take(session, 1)
    assert waiting(rabbitmq, queue) == 1


@in_event_loop
async def test_a_message_of_many_frames(rabbitmq: RabbitMQ):
    """Bodies that are empty, fill one frame exactly, or span many frames arrive unchanged, even interleaved."""
    first, second = names(rabbitmq, {}, {})
    bodies = [b"", b"x" * (131_072 - 8), b"y" * (131_072 - 7), bytes(range(256)) * 12_000]
    publish(rabbitmq, first, *bodies)
    publish(rabbitmq, second, *bodies)
    async with opened(adapter(rabbitmq, [first, second])) as session:
        taken = await take(session, 8)
        assert [one.body for one in taken if one.native.queue == first] == bodies
        assert [one.body for one in taken if one.native.queue == second] == bodies
        # The bytes of deliveries count for the heartbeat check.
        assert session._connection.bytes_received > 2 * sum(map(len, bodies))  # type: ignore[attr-defined]
        await session.settle(acks(taken))
        assert (await session.status()).connected
    assert [waiting(rabbitmq, name) for name in (first, second)] == [0, 0]


def test_the_doctor_checks_each_queue(rabbitmq: RabbitMQ, missive: Callable[..., Running], tmp_path: Path):
    """The doctor reports the waiting messages of each queue. A stream is an error."""
    (tmp_path / "app.py").write_text(APPLICATION)
    first, second, stream = names(rabbitmq, {}, {}, {"x-queue-type": "stream"})
    publish(rabbitmq, second, b"1")
    command = ("doctor", "app:proc", "--dlq", "sqlite:///dlq.db", "--json", "--from")
    process = missive(*command, rabbitmq.url(f"{first},{second}"))
    out, _ = process.finish()
    messages = [finding["message"] for finding in json.loads(out) if finding["check"] == "queue"]
    assert messages == [f"{first} (classic, 0 messages waiting)", f"{second} (classic, 1 message waiting)"]
    process = missive(*command, rabbitmq.url(stream))
    out, _ = process.finish()
    assert process.code == 1
    assert f"{stream} is a stream" in out
