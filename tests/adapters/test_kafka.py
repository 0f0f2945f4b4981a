"""The Kafka adapter on a real broker: deliveries, order, closing, missing topics and outages."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import missive
from missive.adapters import KafkaAdapter, from_url
from missive.matchers import Everything, by_key
from missive.testing.conformance import Fault, FaultProxy
from missive.testing.conformance.host import KitHost
from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.kafka_members import APPLICATION, QUICK, Member, Topic, member
from tests.support.kafka_raw import RawMessage, publish
from tests.support.ports import HOST
from tests.support.process import Running

pytestmark = pytest.mark.kafka


def test_a_delivery_has_body_key_headers_ids_and_time(kafka: Kafka):
    """A message arrives with its body, key, headers, ids, time and native message. A tombstone has an empty body."""
    topic, seen = Topic(kafka), []

    def handle(message, context):
        native = context.native
        offsets = context.adapter.call(lambda: [one.partition for one in context.adapter.client.assignment()])
        seen.append((message, native.offset(), native.value(), offsets))

    body = bytes(range(256))
    began = time.time()
    topic.publish([body], key=b"k", headers=[("a", b"1"), ("a", b"2"), ("b", b"\xff"), ("c", None)])
    topic.publish([None], key=b"\xff\xfe")
    with member(topic, handle):
        wait_until(lambda: len(seen) == 2, "both messages")
    (first, offset, _, assigned), (second, _, value, _) = seen
    assert (first.raw_data, first.key, first.topic, offset, assigned) == (body, "k", topic.name, 0, [0])
    assert dict(first.headers.items()) == {"a": ("1", "2"), "b": b"\xff", "c": ""}
    assert (first.message_id, second.message_id) == (f"{topic.name}/0/0", f"{topic.name}/0/1")
    assert began - 5 < first.timestamp < time.time() + 5
    assert (second.raw_data, value, second.key) == (b"", None, b"\xff\xfe")
    assert topic.committed == [2]


def test_messages_of_a_partition_run_in_order_and_partitions_overlap(kafka: Kafka):
    """Without `ordered_by`, each partition runs one message at a time, in order, and partitions run concurrently."""
    topic, seen, running, together = Topic(kafka, 3), {0: [], 1: [], 2: []}, set(), threading.Barrier(3)
    lock = threading.Lock()

    def handle(message, context):
        partition = context.native.partition()
        with lock:
            assert partition not in running
            running.add(partition)
        if message.raw_data in (b"0", b"1", b"2"):  # the first messages of the partitions wait for each other
            together.wait(20)
        time.sleep(0.002)
        with lock:
            running.remove(partition)
            seen[partition].append(int(message.raw_data))

    topic.publish([b"%d" % n for n in range(300)], partition=lambda n: n % 3)
    with member(topic, handle, concurrency=8):
        wait_until(lambda: sum(map(len, seen.values())) == 300, "all messages")
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert not together.broken
    assert topic.committed == [100, 100, 100]


def test_keys_of_a_partition_run_concurrently_and_each_key_in_order(kafka: Kafka):
    """With `ordered_by`, keys of one partition run concurrently, each in order, and all offsets are committed."""
    topic, seen, most = Topic(kafka), Counter(), []
    order: dict[str, list[int]] = {}

    async def handle(message, context):
        seen["now"] += 1
        most.append(seen["now"])
        await asyncio.sleep(0.005)
        seen["now"] -= 1
        order.setdefault(message.key, []).append(int(message.raw_data))

    topic.publish([b"%d" % n for n in range(1000)], key=lambda n: b"k%d" % (n % 50))
    with member(topic, handle, concurrency=40, ordered_by=by_key):
        wait_until(lambda: sum(map(len, order.values())) == 1000, "all messages")
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert max(most) > 20
    assert topic.committed == [1000]


def test_a_handler_may_exceed_the_poll_interval(kafka: Kafka):
    """A handler of three times max.poll.interval.ms keeps its partition, and its message runs once."""
    topic, seen = Topic(kafka), []

    def handle(message, context):
        seen.append(message.raw_data)
        time.sleep(9 if message.raw_data == b"0" else 0)

    topic.publish([b"%d" % n for n in range(3000)])
    parameters = {"session__timeout__ms": 3000, "max__poll__interval__ms": 3000, "heartbeat__interval__ms": 300}
    with member(topic, handle, parameters=parameters):
        wait_until(lambda: len(seen) == 3000, "all messages", 60)
    assert len(set(seen)) == 3000
    assert topic.committed == [3000]


def test_concurrent_and_repeated_close_calls_close_once(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """Concurrent and repeated calls of `close` close the session once, and log nothing afterwards."""
    topic = Topic(kafka)

    async def run() -> None:
        session = await from_url(topic.url(**QUICK), missive.Processor(name="app")).connect(KitHost())
        await asyncio.gather(session.close(), session.close())
        await session.close()

    asyncio.run(run())
    gc.collect()
    assert caplog.text == ""


def test_each_outage_of_all_brokers_logs_one_line(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """Each outage of all brokers logs one line. A new outage begins after a message has arrived."""
    topic, seen = Topic(kafka), []
    with FaultProxy(HOST, kafka.proxied_port, listen=kafka.proxy_port) as proxy:
        proc = missive.Processor(name="app")
        proc.add_handler(Everything(), lambda message, context: seen.append(message.raw_data))
        servers = f"{HOST}:{kafka.proxy_port}"
        running = Member(proc, KafkaAdapter(proc, topic.name, topic.group, servers=servers))
        try:
            for turn in (1, 2):
                topic.publish([b"x"])
                wait_until(lambda turn=turn: len(seen) == turn, "a message")
                proxy.set(Fault.refuse)
                proxy.reset()
                wait_until(lambda turn=turn: caplog.text.count("no broker can be reached") == turn, "the warning", 8)
                proxy.set()
        finally:
            running.stop()


def test_a_message_may_exceed_the_read_ahead_limits(kafka: Kafka):
    """A message larger than the client's read-ahead, and larger than the consumer's limit, is handled."""
    topic, seen = Topic(kafka, max_message_bytes="30000000"), []
    topic.publish([bytes(10), bytes(20_000_000)], message_max_bytes=30_000_000)
    with member(topic, lambda message, context: seen.append(len(message.raw_data))):
        wait_until(lambda: len(seen) == 2, "both messages")
        topic.publish([bytes(5)])
        wait_until(lambda: len(seen) == 3, "the next message")
    assert seen == [10, 20_000_000, 5]


def test_close_does_not_wait_for_a_hanging_broker(kafka: Kafka):
    """A member stops in time when the broker keeps the connection and answers nothing."""
    topic, seen = Topic(kafka), []
    topic.publish([b"0"])
    with member(topic, lambda message, context: seen.append(message.raw_data)) as running:
        wait_until(lambda: topic.committed == [1], "the message")
        kafka.suspend()
        try:
            began = time.monotonic()
            running.stop()
            took = time.monotonic() - began
        finally:
            kafka.resume()
    assert took < 12, took


def test_a_killed_broker_loses_no_message(kafka: Kafka):
    """After the broker is killed under load and restarted, every message is handled, and commits continue."""
    topic, seen = Topic(kafka, 2), []

    async def handle(message, context):
        await asyncio.sleep(0.001)
        seen.append(message.message_id)

    topic.publish([b"%d" % n for n in range(3000)], partition=lambda n: n % 2)
    with member(topic, handle, concurrency=2):
        wait_until(lambda: len(seen) > 300, "some messages")
        kafka.kill()
        kafka.start()
        wait_until(lambda: len(set(seen)) == 3000, "all messages", 60)
        wait_until(lambda: topic.committed == [1500, 1500], "the commits", 60)


def test_several_topics_or_a_pattern_select_topics(kafka: Kafka):
    """A list with commas names topics, and a pattern also matches topics that are created later."""
    prefix = f"p-{uuid.uuid4().hex[:6]}"
    names = [f"{prefix}-{n}" for n in range(3)]
    for name in names[:2]:
        kafka.create(name)
        kafka.publish(name, [name.encode()])
    for where in (f"topic={names[0]},{names[1]}", f"pattern=^{prefix}-.*"):
        seen: list[str] = []
        proc = missive.Processor(name="app")
        proc.add_handler(Everything(), lambda message, context, seen=seen: seen.append(message.topic))
        url = f"kafka://{kafka.servers}?{where}&group=g-{uuid.uuid4().hex[:6]}&topic.metadata.refresh.interval.ms=500"
        running = Member(proc, from_url(url, proc))
        try:
            wait_until(lambda seen=seen: len(seen) == 2, "both topics")
            if "pattern" in where:
                kafka.create(names[2])
                kafka.publish(names[2], [b"x"])
                wait_until(lambda seen=seen: names[2] in seen, "the new topic")
        finally:
            running.stop()
        assert sorted(seen)[:2] == names[:2]


def test_a_missing_topic_is_retried_until_it_exists(kafka: Kafka, start_worker: Callable[..., Running]):
    """A missing topic logs one line and is retried. After its creation, its messages are handled."""
    topic = Topic(kafka)
    name, topic.name = topic.name, f"later-{uuid.uuid4().hex[:6]}"
    assert name != topic.name
    process = start_worker(topic)
    assert f"the topic {topic.name} does not exist; trying again" in process.error_line()
    kafka.create(topic.name)
    topic.publish([b"here"])
    assert json.loads(process.line())[0] == "here"


def test_an_unreachable_broker_is_retried(missive: Callable[..., Running], tmp_path: Path):
    """An unreachable broker logs one line, and the connection is retried."""
    (tmp_path / "app.py").write_text(APPLICATION)
    process = missive("run", "app:proc", "--from", "kafka://127.0.0.1:9?topic=t&group=g", "--dlq", "sqlite:///d.db")
    assert "no broker" in process.error_line(40)
    process.send(signal.SIGTERM)
    _, err = process.finish()
    assert process.code == 0
    assert "Traceback" not in err


def test_odd_header_names_kill_no_process(kafka: Kafka, start_worker: Callable[..., Running]):
    """Header names that are not UTF-8 make their messages dead letters, also in a process that has run for a while.

    confluent-kafka returns a broken list for such headers. Python notices that only in calls that it has not optimised.
    """
    topic = Topic(kafka)
    names = [b"\xff" if number % 3 == 0 else b"name" for number in range(600)]
    messages = [RawMessage(b"%d" % number, [(b"a", b"1"), (name, b"v")]) for number, name in enumerate(names)]
    publish(kafka.servers, topic.name, messages)
    process = start_worker(topic)
    handled = [int(json.loads(process.line())[0]) for _ in range(400)]
    assert handled == [number for number in range(600) if number % 3]
    wait_until(lambda: topic.lag == 0, "all messages")
    out, err = process.terminate()
    assert (process.code, out) == (0, "")
    assert "400 handled, 200 dead-lettered" in err
