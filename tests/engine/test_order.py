"""Order across processes: where it holds, the log line where it does not, and the refusal of several workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest

from missive import JSONMessage, Processor, UsageError
from missive.adapters import KafkaAdapter, from_url
from missive.adapters.base import Adapter
from missive.engine.engine import Engine
from missive.engine.order import check_order
from missive.engine.runner import loop_factory
from missive.matchers import Field, by_field, by_header, by_key
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Session

Key = Callable[[Any], Hashable]


def own_key(message: JSONMessage) -> Hashable:
    return message.content["customer"]


def handler(message: Any, context: Any) -> None: ...


def processor(*keys: Key) -> Processor[JSONMessage]:
    proc = Processor(JSONMessage, name="t")
    for number, key in enumerate(keys, 1):
        proc.add_handler(Field("n", number), handler, name=f"h{number}", ordered_by=key)
    return proc


def run(proc: Processor[Any], *adapters: Adapter, worker: bool = False) -> None:
    """Run an engine until its input ends."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        handlers = runner.get_loop()
        engine = Engine(proc, adapters, sink=None, concurrency=1, drain=1, handlers_loop=handlers)
        if worker:
            engine.share_sources(b"key")
        runner.run(engine.main())


KAFKA = "kafka://h:9092?topic=t&group=g"


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("url", "key", "hazard"),
    [
        (KAFKA, by_key, None),
        (KAFKA, by_field("customer"), "keeps only the values of by_key"),
        (KAFKA, own_key, "keeps only the values of by_key"),
        (f"{KAFKA}&partitioned_by=customer", by_field("customer"), None),
        (f"{KAFKA}&partitioned_by=customer", by_key, None),
        (f"{KAFKA}&partitioned_by=customer", by_field("order"), "keeps only the values of by_key"),
        (f"{KAFKA}&partitioned_by=customer", by_header("customer"), "keeps only the values of by_key"),
        ("kafka://h:9092?topic=t,u&group=g", by_key, "reads several topics"),
        ("kafka://h:9092?pattern=^t&group=g", by_key, "reads several topics"),
        ("sqlite:///q.db?queue=q", by_key, "delivers messages of one key to several processes"),
        ("redis://h/0?stream=s&group=g", by_key, "delivers messages of one key to several processes"),
        ("rabbitmq://h/v?queue=q", by_key, None),  # the queue may have a single active consumer
        ("rabbitmq://h/v?queue=q,r", by_key, "reads several queues"),
        ("file:in.jsonl", by_key, "cannot be shared"),
    ],
)
def test_several_workers_need_a_lane_that_contains_the_key(url: str, key: Key, hazard: str | None):
    """Several workers are refused unless an exclusive lane of the transport contains all messages of a key."""
    adapter = from_url(url, processor(key))
    if hazard is None:
        check_order([adapter], 2)
        return
    if adapter.shareable:
        with pytest.raises(UsageError, match=rf"^--workers 2: h1 has ordered_by.*{hazard}.*Omit"):
            check_order([adapter], 2)


@pytest.mark.kafka
def test_the_same_callable_declares_the_partitions():
    """`partitioned_by=` takes the callable of `ordered_by=`. An equal key function is the same."""
    proc = processor(own_key)
    check_order([KafkaAdapter(proc, "t", "g", partitioned_by=own_key)], 2)
    proc = processor(by_field("a"))
    check_order([KafkaAdapter(proc, "t", "g", partitioned_by=by_field("a"))], 2)
    with pytest.raises(UsageError, match="h1 has ordered_by"):
        check_order([KafkaAdapter(proc, "t", "g", partitioned_by=by_field("b"))], 2)


@pytest.mark.kafka
def test_a_wrong_partitioned_by_is_named():
    """A value that is no key function raises an error of one line."""
    with pytest.raises(UsageError, match=r"partitioned_by= \(for the Kafka adapter\).*by_field\('customer'\)"):
        KafkaAdapter(processor(), "t", "g", partitioned_by="customer")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="reads a StructuredMessage"):
        from_url(f"{KAFKA}&partitioned_by=customer", Processor())


@pytest.mark.kafka
def test_a_key_may_be_in_a_lane_of_each_source():
    """Several workers are refused when a processor with an ordered handler has several sources."""
    proc = processor(by_key)
    adapters = [KafkaAdapter(proc, topic, "g") for topic in ("t", "u")]
    with pytest.raises(UsageError, match="several sources"):
        check_order(adapters, 2)
    check_order([KafkaAdapter(processor(by_key), topic, "g") for topic in ("t", "u")], 2)


def test_the_refusal_names_some_handlers():
    """A refusal names three handlers, and counts the others."""
    proc = processor(*(by_field(name) for name in "abcde"))
    with pytest.raises(UsageError, match=r"^--workers 4: h1, h2, h3 and 2 more have ordered_by, "):
        check_order([MemoryAdapter(proc)], 4)


def ordered_lines(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [line for line in caplog.messages if "ordered within this process only" in line]


def test_each_start_without_the_guarantee_logs_a_line(caplog: pytest.LogCaptureFixture):
    """A start with an ordered handler logs once where its order holds within this process only."""
    proc = processor(by_key)
    for _ in range(2):
        run(proc, MemoryAdapter(proc, [b'{"n": 1}']))
    reason = "memory:memory delivers messages of one key to several processes"
    line = f"ordered within this process only: h1 has ordered_by, but {reason}"
    assert ordered_lines(caplog) == [line, line]


def test_starts_with_the_guarantee_log_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """No line is logged without ordered handlers, with exclusive lanes, or where processes cannot share a source."""
    proc = processor()
    proc.discard_for(lambda message: False, reason="never")
    run(proc, MemoryAdapter(proc))
    proc = processor(by_key)
    run(proc, MemoryAdapter(proc, capabilities=Capabilities(order="source")))
    monkeypatch.setattr(MemoryAdapter, "exclusive_lanes", True)
    run(proc, MemoryAdapter(proc))
    monkeypatch.setattr(MemoryAdapter, "exclusive_lanes", False)
    monkeypatch.setattr(MemoryAdapter, "shareable", False)
    run(proc, MemoryAdapter(proc))
    assert ordered_lines(caplog) == []


class SessionTells(MemoryAdapter):
    """An adapter for which only a session can tell."""

    def order_hazard(self, key: Key, session: Session | None = None) -> str | None:
        return None if session is None else super().order_hazard(key, session)


def test_a_worker_refuses_a_session_without_the_guarantee():
    """Where only a session can tell, one of several workers ends with a usage error before it handles a message."""
    proc = processor(by_key)
    adapter = SessionTells(proc, [b'{"n": 1}'])
    check_order([adapter], 2)
    with pytest.raises(UsageError, match="--workers above 1: h1 has ordered_by"):
        run(proc, adapter, worker=True)
    assert adapter.settled == []
    adapter = SessionTells(proc, [b'{"n": 1}'], capabilities=Capabilities(order="source"))
    run(proc, adapter, worker=True)
    assert len(adapter.settled) == 1
