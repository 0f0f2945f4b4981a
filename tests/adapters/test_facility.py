"""With `broker:`, dead letters are rejected, and a transport without a dead letter facility is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import missive as missive_package
from missive.dlq import Facility, open_dlq, open_store
from missive.engine.runner import execute
from missive.errors import Fatal, MissiveError, StoreRefused
from missive.matchers import Field
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Disposition
from tests.adapters.test_rabbitmq import Queue
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

APPLICATION = """
import missive
from missive.matchers import Field

proc = missive.Processor(missive.JSONMessage, name="app", dlq="broker:")

@proc.handle_for(Field("type", "ok"))
def handle(message, context): ...

@proc.handle_for(Field("type", "bad"))
def broken(message, context):
    raise ValueError("hunter2")
"""


def processor() -> missive_package.Processor:
    proc = missive_package.Processor(missive_package.JSONMessage, name="app", dlq="broker:")
    proc.add_handler(Field("type", "ok"), lambda message, context: None, name="h")
    return proc


def test_dead_letters_are_rejected():
    """Handled messages are acked, and dead letters are rejected. No record is stored."""
    adapter = MemoryAdapter(
        processor(),
        [Delivery(b'{"type":"ok"}'), Delivery(b'{"type":"odd"}'), Delivery(b"no json")],
        capabilities=Capabilities(rejects=True),
    )
    (report,) = execute([adapter])
    dispositions = {bytes(item.delivery.body): item.disposition for item in adapter.settled}
    assert dispositions == {
        b'{"type":"ok"}': Disposition.ack,
        b'{"type":"odd"}': Disposition.reject,
        b"no json": Disposition.reject,
    }
    assert dict(report.dead) == {"unmatched": 1, "unreadable": 1}


def test_refuses_a_transport_without_a_facility():
    """The start fails before the first fetch, because rejected messages would be lost."""
    adapter = MemoryAdapter(processor(), [Delivery(b"{}")])
    with pytest.raises((Fatal, MissiveError), match="no dead letter facility of the broker is configured"):
        execute([adapter])
    assert adapter.settled == []


def test_dead_letters_in_the_broker_are_not_listed():
    """Commands that read dead letters report that the broker holds them."""
    assert isinstance(open_dlq("broker:"), Facility)
    with pytest.raises(StoreRefused, match="cannot list or replay them"):
        open_store("broker:")
    with pytest.raises(StoreRefused, match="cannot keep a record"):
        Facility().put([])


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_rabbitmq_routes_dead_letters_to_its_exchange(
    rabbitmq: RabbitMQ, missive: Callable[..., Running], tmp_path: Path, kind: str
):
    """The dead letter queue receives unchanged bodies with the broker's `x-death` header, and no handled message."""
    letters = Queue(rabbitmq)
    exchange = f"dlx-{letters.name}"
    with letters.channel() as channel:
        channel.exchange_declare(exchange, "fanout", durable=True)
        channel.queue_bind(letters.name, exchange)
    queue = Queue(rabbitmq, {"x-dead-letter-exchange": exchange, "x-queue-type": kind})
    queue.publish(b'{"type":"ok"}', b'{"type":"bad"}', b'{"type":"odd"}', b"\xff")
    (tmp_path / "app.py").write_text(APPLICATION)
    url = f"{queue.url}&dead_letter_exchange={exchange}"
    worker = missive("run", "app:proc", "--from", url)
    wait_until(lambda: letters.waiting() == 3, "three dead letters")
    _, err = worker.terminate()
    assert (worker.code, queue.waiting()) == (0, 0)
    assert "1 handled, 3 dead-lettered" in err
    assert "hunter2" not in err
    with letters.channel() as channel:
        got = [channel.basic_get(letters.name, auto_ack=True) for _ in range(3)]
    assert sorted(body for _, _, body in got) == sorted([b'{"type":"bad"}', b'{"type":"odd"}', b"\xff"])
    assert {properties.headers["x-death"][0]["queue"] for _, properties, _ in got} == {queue.name}


@pytest.mark.rabbitmq
def test_rabbitmq_without_its_exchange(rabbitmq: RabbitMQ, missive: Callable[..., Running], tmp_path: Path):
    """Without a named exchange, the start fails. With a missing one, the worker waits and consumes nothing."""
    queue = Queue(rabbitmq)
    queue.publish(b'{"type":"odd"}')
    (tmp_path / "app.py").write_text(APPLICATION)
    worker = missive("run", "app:proc", "--from", queue.url)
    _, err = worker.finish()
    assert worker.code == 1
    assert "no dead letter facility of the broker is configured" in err
    worker = missive("run", "app:proc", "--from", f"{queue.url}&dead_letter_exchange=nowhere-{queue.name}")
    while "there is no exchange nowhere-" not in worker.error_line():
        pass
    worker.terminate()
    assert queue.waiting() == 1
