"""Kafka, a real broker: envelope, order, marks with gaps, partitions that come and go."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import missive
from missive import UsageError
from missive.adapters import KafkaAdapter, from_url
from missive.engine.completion.watermark import decoded, encoded
from missive.engine.engine import Engine
from missive.engine.runner import loop_factory
from missive.matchers import Everything, by_key
from missive.testing.conformance import Fault, FaultProxy
from missive.testing.conformance.host import KitHost
from missive.transport import Credit, Session, Watermark
from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.ports import HOST
from tests.support.process import Running

pytestmark = pytest.mark.kafka

QUICK = {"session__timeout__ms": 3000, "heartbeat__interval__ms": 300}

APPLICATION = """
import json, os, sys, time
import missive
from missive.matchers import Everything, by_key

ordered = {"ordered_by": by_key} if os.environ.get("ORDERED") else {}
proc = missive.Processor(name="app", concurrency=int(os.environ.get("CONCURRENCY", "1")))

@proc.handle_for(Everything(), **ordered)
def handle(message, context):
    os.write(1, (json.dumps([message.raw_data.decode(), message.key, context.native.partition()]) + "\\n").encode())
    if message.raw_data.decode() in os.environ.get("STUCK", "").split(","):
        time.sleep(3600)
    time.sleep(float(os.environ.get("SLEEP", "0")))
"""


class Topic:
    """A topic of the test's own, and a group."""

    def __init__(self, broker: Kafka, partitions: int = 1, **config: str) -> None:
        self.broker = broker
        self.name, self.group = f"t-{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:8]}"
        self.partitions = partitions
        broker.create(self.name, partitions, **config)

    def publish(self, bodies: Any, **options: Any) -> None:
        self.broker.publish(self.name, bodies, **options)

    def url(self, **parameters: object) -> str:
        return self.broker.url(self.name, self.group, **parameters)

    @property
    def lag(self) -> int:
        return self.broker.lag(self.name, self.group, self.partitions)

    @property
    def committed(self) -> list[int]:
        return self.broker.committed(self.name, self.group, self.partitions)


class Member:
    """An engine on a thread of its own, with one adapter."""

    def __init__(self, proc: missive.Processor[Any], adapter: Any, concurrency: int = 1, drain: float = 10) -> None:
        self.handlers = asyncio.new_event_loop()
        self.engine = Engine(
            proc, [adapter], sink=None, concurrency=concurrency, drain=drain, handlers_loop=self.handlers
        )
        self.error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self.handlers.run_forever, daemon=True),
            threading.Thread(target=self._live, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _live(self) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self.engine.main())
        except missive.MissiveError as error:
            self.error = error

    def stop(self) -> None:
        if self.handlers.is_closed():
            return
        self.engine.stop_once()
        self._threads[1].join(30)
        self.handlers.call_soon_threadsafe(self.handlers.stop)
        self._threads[0].join(10)
        self.handlers.close()
        assert not self._threads[1].is_alive()


@contextmanager
def member(topic: Topic, handle: Callable[..., Any], concurrency: int = 1, **settings: Any) -> Iterator[Member]:
    """Run a processor with one handler on a topic."""
    parameters, drain = settings.pop("parameters", QUICK), settings.pop("drain", 10)
    proc = missive.Processor(name="app", concurrency=concurrency)
    proc.add_handler(Everything(), handle, **settings)
    running = Member(proc, from_url(topic.url(**parameters), proc), concurrency, drain)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def work(missive: Callable[..., Running], tmp_path: Path) -> Callable[..., Running]:
    """Start a worker process on a topic."""
    (tmp_path / "app.py").write_text(APPLICATION)

    def start(topic: Topic, parameters: dict[str, Any] | None = None, login: str | None = None, **env: str) -> Running:
        url = topic.url(**QUICK, **(parameters or {}))
        if login is not None:
            url = url.replace(topic.broker.servers, f"{login}@{topic.broker.sasl_servers}")
        return missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db", env=env)

    return start


def test_the_envelope_arrives(kafka: Kafka):
    """Body to the byte, key, headers with duplicates and bytes, ids, time, the native message; a tombstone is empty."""
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


def test_a_partition_is_in_order_and_different_ones_overlap(kafka: Kafka):
    """Without `ordered_by` each partition runs one message at a time, in order, beside the others."""
    topic, seen, running, together = Topic(kafka, 3), {0: [], 1: [], 2: []}, set(), threading.Barrier(3)
    lock = threading.Lock()

    def handle(message, context):
        partition = context.native.partition()
        with lock:
            assert partition not in running
            running.add(partition)
        if message.raw_data in (b"0", b"1", b"2"):  # the first of each wait for one another
            together.wait(20)
        time.sleep(0.002)
        with lock:
            running.remove(partition)
            seen[partition].append(int(message.raw_data))

    topic.publish([b"%d" % n for n in range(300)], partition=lambda n: n % 3)
    with member(topic, handle, concurrency=8):
        wait_until(lambda: sum(map(len, seen.values())) == 300, "all of them")
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert not together.broken
    assert topic.committed == [100, 100, 100]


def test_keys_of_one_partition_overlap_and_are_each_in_order(kafka: Kafka):
    """With `ordered_by` the keys of one partition run beside each other, each in order, and all is committed."""
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
        wait_until(lambda: sum(map(len, order.values())) == 1000, "all of them")
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert max(most) > 20
    assert topic.committed == [1000]


def test_what_was_done_out_of_order_is_not_done_again_after_a_kill(kafka: Kafka, work: Callable[..., Running]):
    """The commit's metadata says what is done beyond a stuck message: after SIGKILL only the rest is handled."""
    topic = Topic(kafka)
    topic.publish([b"%d" % n for n in range(100)], key=lambda n: b"k%d" % n)
    first = work(topic, CONCURRENCY="4", ORDERED="1", STUCK="3")
    lines = [json.loads(first.line())[0] for _ in range(100)]
    assert sorted(map(int, lines)) == list(range(100))

    def gaps() -> int:
        (one,) = kafka.commits(topic.name, topic.group)
        done = decoded(Watermark(one.offset - 1, (one.metadata or "").encode())) or []
        return sum(last - first + 1 for first, last in done)

    wait_until(lambda: gaps() == 96, "all that is done beyond offset 3 to be committed")
    assert topic.committed == [3]
    first.kill()
    second = work(topic, CONCURRENCY="4", ORDERED="1")
    assert json.loads(second.line())[0] == "3"
    wait_until(lambda: topic.committed == [100], "the commit to pass all of it")
    out, err = second.terminate()
    assert out == ""
    assert "1 handled" in err


def test_a_handler_may_take_longer_than_the_poll_interval(kafka: Kafka):
    """A handler that takes three times max.poll.interval.ms keeps its partition, and its message is handled once."""
    topic, seen = Topic(kafka), []

    def handle(message, context):
        seen.append(message.raw_data)
        time.sleep(9 if message.raw_data == b"0" else 0)

    topic.publish([b"%d" % n for n in range(3000)])
    parameters = {"session__timeout__ms": 3000, "max__poll__interval__ms": 3000, "heartbeat__interval__ms": 300}
    with member(topic, handle, parameters=parameters):
        wait_until(lambda: len(seen) == 3000, "all of them", 60)
    assert len(set(seen)) == 3000
    assert topic.committed == [3000]


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_a_second_member_gets_partitions_and_nothing_twice(kafka: Kafka, strategy: str):
    """When a member joins, what runs ends and is committed before its partition goes: nothing is handled twice."""
    parameters = {**QUICK, "partition__assignment__strategy": strategy}
    topic, seen = Topic(kafka, 4), {"a": [], "b": []}

    def handler(name):
        async def handle(message, context):
            await asyncio.sleep(0.002)
            seen[name].append(message.message_id)

        return handle

    topic.publish([b"%d" % n for n in range(4000)], partition=lambda n: n % 4)
    with member(topic, handler("a"), concurrency=4, parameters=parameters):
        wait_until(lambda: len(seen["a"]) > 200, "the first to be at work")
        with member(topic, handler("b"), concurrency=4, parameters=parameters):
            wait_until(lambda: len(seen["b"]) > 200, "the second to be at work")
            wait_until(lambda: len(seen["a"]) + len(seen["b"]) >= 2500, "most of them")
        wait_until(lambda: len(set(seen["a"]) | set(seen["b"])) == 4000, "all of them, after the second left")
    assert len(seen["a"]) + len(seen["b"]) == 4000
    assert topic.committed == [1000] * 4


def test_a_static_member_that_restarts_in_time_has_its_partitions_again(kafka: Kafka):
    """With `instance_id` a restart within the session timeout moves no partition, and what came meanwhile waits."""
    topic = Topic(kafka, 4)
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def handler(name):
        return lambda message, context: seen[name].append(context.native.partition())

    def parameters(name):
        return {"session__timeout__ms": 15000, "heartbeat__interval__ms": 300, "instance_id": name}

    def publish():
        before = len(seen["a"]) + len(seen["b"])
        topic.publish([b"x"] * 4, partition=lambda n: n)
        return before

    with member(topic, handler("b"), parameters=parameters("b")):
        with member(topic, handler("a"), parameters=parameters("a")):
            wait_until(lambda: publish() and len(set(seen["a"][-20:])) == 2, "both to have two partitions")
            wait_until(lambda: topic.lag == 0, "what was published")
            mine, seen["a"][:], seen["b"][:] = set(seen["a"][-20:]), [], []
        away = time.monotonic()
        while time.monotonic() < away + 1.5:  # in which the other would be given the rest
            before = len(seen["b"])
            publish()
            wait_until(lambda before=before: len(seen["b"]) >= before + 2, "the other to go on with its own")
        with member(topic, handler("a"), parameters=parameters("a")):
            wait_until(lambda: len(seen["a"]) == len(seen["b"]), "the rest to be handled after the restart", 10)
    assert set(seen["a"]) == mine
    assert set(seen["b"]) == set(range(4)) - mine


def test_a_group_of_another_kind_is_left_alone(kafka: Kafka, work: Callable[..., Running]):
    """Where the group's members share partitions in another way it is one line with a way out, and exit code 1."""
    from confluent_kafka import Consumer

    topic = Topic(kafka)
    settings = {"group.id": topic.group, "partition.assignment.strategy": "range", "log_level": 0}
    consumer = Consumer({"bootstrap.servers": kafka.servers, **settings})
    try:
        consumer.subscribe([topic.name])
        wait_until(lambda: consumer.poll(0.1) or consumer.assignment(), "the other's assignment")
        _, err = work(topic).finish()
    finally:
        consumer.close()
    assert err.count("\n") == 1
    assert f"the members of the group {topic.group} share partitions with another strategy" in err
    assert "Use another group" in err


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_stopping_in_the_middle_of_a_rebalance(kafka: Kafka, strategy: str):
    """A member that is told to stop while it hands over a partition stops at its own deadline, and nothing is lost."""
    topic, seen = Topic(kafka, 2), {"a": [], "b": []}
    parameters = {**QUICK, "handover": 60, "partition__assignment__strategy": strategy}

    async def slow(message, context):
        seen["a"].append(message.message_id)
        await asyncio.sleep(60)

    topic.publish([b"0", b"1"], partition=lambda n: n)
    with member(topic, slow, concurrency=2, parameters=parameters, drain=1) as first:
        wait_until(lambda: len(seen["a"]) == 2, "both to run")
        with member(topic, lambda message, context: seen["b"].append(message.message_id), parameters=parameters):
            wait_until(lambda: first.engine._sources[0].leaving, "the handover to begin")
            began = time.monotonic()
            first.stop()
            assert time.monotonic() - began < 4
            wait_until(lambda: len(seen["b"]) == 2, "the other to handle both", 20)
    assert sorted(seen["b"]) == sorted(seen["a"])
    assert topic.committed == [1, 1]


def test_closing_at_once_and_again_is_one_closing(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """A session that is closed from several sides closes once, and leaves nothing that is said later."""
    topic = Topic(kafka)

    async def run() -> None:
        session = await from_url(topic.url(**QUICK), missive.Processor(name="app")).connect(KitHost())
        await asyncio.gather(session.close(), session.close())
        await session.close()

    asyncio.run(run())
    gc.collect()
    assert caplog.text == ""


def test_pausing_what_is_lost_does_not_hold_it_when_it_is_back(kafka: Kafka):
    """A lane that is paused just after it went away is delivered when it comes back: nobody would resume it."""
    topic = Topic(kafka, 2)
    topic.publish([b"0", b"1"], partition=lambda n: n)

    async def taken(session: Session, count: int) -> list[str]:
        lanes: list[str] = []
        async with asyncio.timeout(20):
            while len(lanes) < count:
                lanes += [str(one.lane) for one in await session.fetch(Credit(10, 1000))]
        return lanes

    async def run() -> None:
        adapter = from_url(topic.url(**QUICK), missive.Processor(name="app"))
        first, second = await adapter.connect(KitHost()), await adapter.connect(KitHost())
        await taken(first, 2)
        lost = await taken(second, 1)
        await first.pause(lost)
        await second.close()
        assert await taken(first, 1) == lost
        await first.close()

    asyncio.run(run())


def test_brokers_that_are_down_are_said_each_time(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """That no broker can be reached is one line, and another when it happens again after messages came."""
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
                wait_until(lambda turn=turn: caplog.text.count("no broker can be reached") == turn, "it to be said", 8)
                proxy.set()
        finally:
            running.stop()


def test_a_message_larger_than_what_is_read_ahead(kafka: Kafka):
    """A message of more bytes than the client reads ahead, or than may wait between it and the engine, is handled."""
    topic, seen = Topic(kafka, max_message_bytes="30000000"), []
    topic.publish([bytes(10), bytes(20_000_000)], message_max_bytes=30_000_000)
    with member(topic, lambda message, context: seen.append(len(message.raw_data))):
        wait_until(lambda: len(seen) == 2, "it")
        topic.publish([bytes(5)])
        wait_until(lambda: len(seen) == 3, "what comes behind it")
    assert seen == [10, 20_000_000, 5]


def test_closing_does_not_wait_for_a_broker_that_hangs(kafka: Kafka):
    """A member stops in good time, also when the broker keeps the connection and answers nothing."""
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


def test_what_is_revoked_in_the_middle_is_fenced(kafka: Kafka):
    """A handler that outlasts the handover is not settled here: its message is handled by whoever has the partition."""
    topic, seen, go = Topic(kafka, 2), {"a": [], "b": []}, threading.Event()

    def slow(message, context):
        seen["a"].append(message.message_id)
        go.wait(30)

    def quick(message, context):
        seen["b"].append(message.message_id)

    topic.publish([b"0", b"1"], partition=lambda n: n)
    short = {**QUICK, "handover": 0.5}
    with member(topic, slow, concurrency=2, parameters=short) as first:
        wait_until(lambda: len(seen["a"]) == 2, "both to run")
        with member(topic, quick):
            wait_until(lambda: len(seen["b"]) == 1, "the other member to get one of them")
            go.set()
            wait_until(lambda: first.engine.report.total_handled, "the late one to end")
        (again,) = seen["b"]
        assert again in seen["a"]
    assert topic.committed == [1, 1]
    assert first.engine.report.total_handled + first.engine.report.redelivered == 2


def test_a_killed_broker_loses_nothing(kafka: Kafka):
    """The broker is killed under load and comes back: every message is handled, and the commits go on."""
    topic, seen = Topic(kafka, 2), []

    async def handle(message, context):
        await asyncio.sleep(0.001)
        seen.append(message.message_id)

    topic.publish([b"%d" % n for n in range(3000)], partition=lambda n: n % 2)
    with member(topic, handle, concurrency=2):
        wait_until(lambda: len(seen) > 300, "some of them")
        kafka.kill()
        kafka.start()
        wait_until(lambda: len(set(seen)) == 3000, "all of them", 60)
        wait_until(lambda: topic.committed == [1500, 1500], "the commits", 60)


def test_a_killed_worker_loses_nothing(kafka: Kafka, work: Callable[..., Running]):
    """Workers are killed again and again: every message is handled, and twice at most what was not committed yet."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(2000)])
    for _ in range(4):
        process = work(topic)
        seen += [json.loads(process.line())[0] for _ in range(250)]
        out, _ = process.kill()
        seen += [json.loads(line)[0] for line in out.splitlines() if line.endswith("]")]
    process = work(topic)
    wait_until(lambda: topic.committed == [2000], "the rest")
    out, _ = process.terminate()
    seen += [json.loads(line)[0] for line in out.splitlines()]
    assert set(seen) == {str(n) for n in range(2000)}


def test_a_stopped_worker_leaves_the_rest_to_the_next(kafka: Kafka, work: Callable[..., Running]):
    """On SIGTERM what runs ends and is committed, and the next worker goes on right behind it, without waiting."""
    topic = Topic(kafka)
    topic.publish([b"%d" % n for n in range(100)])
    first = work(topic, SLEEP="0.05")
    began = [json.loads(first.line())[0] for _ in range(5)]
    out, _ = first.terminate()
    began += [json.loads(line)[0] for line in out.splitlines()]
    assert topic.committed == [len(began)]
    second = work(topic)
    assert json.loads(second.line(5))[0] == str(len(began))


@pytest.mark.parametrize(
    ("start", "first"), [("earliest", b"0"), ("latest", b"10"), ("time", b"5")], ids=["earliest", "latest", "a time"]
)
def test_where_a_group_without_commits_begins(kafka: Kafka, start: str, first: bytes):
    """`start=` is the earliest message, the latest, or the first of a time."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(5)])
    time.sleep(0.05)  # so that the times of the messages differ, which are of milliseconds
    at = time.time()
    time.sleep(0.05)
    topic.publish([b"%d" % n for n in range(5, 10)])
    parameters = {**QUICK, "start": f"{at:.3f}" if start == "time" else start}
    with member(topic, lambda message, context: seen.append(message.raw_data), parameters=parameters) as running:
        wait_until(lambda: running.engine.state == "running", "the member")
        if start == "latest":
            deadline = time.monotonic() + 20
            while not seen and time.monotonic() < deadline:
                topic.publish([b"10"])
                time.sleep(0.1)
        wait_until(lambda: seen, "a message")
    assert seen[0] == first


def test_several_topics_and_a_pattern(kafka: Kafka):
    """Topics are named with commas, or matched; one that is made later is found."""
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
                wait_until(lambda seen=seen: names[2] in seen, "the topic that was made later")
        finally:
            running.stop()
        assert sorted(seen)[:2] == names[:2]


def test_a_topic_that_is_missing_is_waited_for(kafka: Kafka, work: Callable[..., Running]):
    """A missing topic is one line, tried again; when it is made, its messages are handled."""
    topic = Topic(kafka)
    name, topic.name = topic.name, f"later-{uuid.uuid4().hex[:6]}"
    assert name != topic.name
    process = work(topic)
    assert f"the topic {topic.name} does not exist; trying again" in process.error_line()
    kafka.create(topic.name)
    topic.publish([b"here"])
    assert json.loads(process.line())[0] == "here"


def test_a_broker_that_is_not_there_is_waited_for(missive: Callable[..., Running], tmp_path: Path):
    """Where nobody listens it is said in one line, and tried again."""
    (tmp_path / "app.py").write_text(APPLICATION)
    process = missive("run", "app:proc", "--from", "kafka://127.0.0.1:9?topic=t&group=g", "--dlq", "sqlite:///d.db")
    assert "no broker" in process.error_line(40)
    process.send(signal.SIGTERM)
    _, err = process.finish()
    assert process.code == 0
    assert "Traceback" not in err


def test_a_position_that_is_gone_is_said_aloud(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """Messages that were deleted before they were read are one error line, and the rest is handled."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(10)])
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: len(seen) == 10, "the first ten")
    topic.publish([b"%d" % n for n in range(10, 30)])
    kafka.trim(topic.name, 20)
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: b"29" in seen, "the rest")
    assert seen[10:] == [b"%d" % n for n in range(20, 30)]
    assert f"the position 10 of {topic.name}/0 no longer exists" in caplog.text


def test_what_is_written_to_a_truncated_log_is_handled(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """A position beyond the end, and what was done beyond it, says nothing of the messages that come there later."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(10)])
    kafka.commit(topic.name, topic.group, 20, encoded(19, [(25, 27)]).decode())
    with member(topic, lambda message, context: seen.append(int(message.raw_data))):
        wait_until(lambda: f"the position 20 of {topic.name}/0 no longer exists" in caplog.text, "it to be said")
        wait_until(lambda: topic.committed == [10], "the position to be committed")
        topic.publish([b"%d" % n for n in range(10, 30)])
        wait_until(lambda: 29 in seen, "the last")
    assert seen == list(range(10, 30))
    assert topic.committed == [30]


def test_compaction_gaps_do_not_hold_the_commit(kafka: Kafka):
    """Offsets that no message has any more do not keep the commit from going on."""
    topic, seen = Topic(kafka), []
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.servers, "transactional.id": uuid.uuid4().hex, "log_level": 0})
    producer.init_transactions(30)
    for number in range(5):  # each transaction ends with an offset that is no message
        producer.begin_transaction()
        producer.produce(topic.name, b"%d" % number)
        producer.flush(30)
        producer.abort_transaction(30) if number % 2 else producer.commit_transaction(30)
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: len(seen) == 3, "those that were committed")
    assert seen == [b"0", b"2", b"4"]
    assert topic.committed == [9]


def test_metadata_of_other_tools_is_ignored_with_a_warning(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """What somebody else wrote beside the offset says nothing about what is done."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(5)])
    kafka.commit(topic.name, topic.group, 2, "reset by hand")
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: len(seen) == 3, "the rest")
    assert seen == [b"2", b"3", b"4"]
    assert "is not Missive's, and is ignored" in caplog.text
    assert "reset by hand" not in caplog.text


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://h:9092?topic=t", "group="),
        ("kafka://h:9092?group=g", "either topic="),
        ("kafka://h:9092?topic=t&pattern=^t&group=g", "either topic="),
        ("kafka://h:9092?pattern=t.*&group=g", "begins with ^"),
        ("kafka://h:9092?topic=t&group=g&enable.auto.commit=true", "Missive sets enable.auto.commit itself"),
        ("kafka://h:9092?topic=t&group=g&strat=x", "did you mean start=?"),
        ("kafka://h:9092?topic=t&group=g&start=soon", "start= must be earliest"),
        ("kafka://h:9092/x?topic=t&group=g", "no path"),
        ("kafka:?topic=t&group=g", "names its brokers"),
    ],
)
def test_what_cannot_work_is_said(url: str, says: str):
    """Each mistake in a URL is one line that names it."""
    with pytest.raises(UsageError) as refused:
        from_url(url, missive.Processor())
    assert says in str(refused.value)


def test_a_setting_that_librdkafka_does_not_know_is_named(work: Callable[..., Running], kafka: Kafka):
    """It ends with exit code 1, and the setting's name."""
    process = work(Topic(kafka), parameters={"no__such__setting": "secret-value"})
    _, err = process.finish()
    assert process.code == 1
    assert "librdkafka does not accept the setting no.such.setting" in err
    assert "secret-value" not in err


def test_a_wrong_password_is_one_line_without_it(kafka: Kafka, work: Callable[..., Running]):
    """Where one logs in, wrong credentials are one line and exit code 1, and the right ones work."""
    topic = Topic(kafka)
    topic.publish([b"here"])
    wrong = work(topic, login="worker:canary-pass")
    out, err = wrong.finish()
    assert wrong.code == 1
    assert "refused the credentials of user worker" in err
    assert "canary" not in out + err
    right = work(topic, login="worker:right")
    assert json.loads(right.line())[0] == "here"


def test_the_client_writes_no_password(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """Whatever the client is told to write to its log, the password is not in it."""
    topic, seen = Topic(kafka), []
    topic.publish([b"here"])
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "confluent_kafka")
    proc = missive.Processor(name="app")
    proc.add_handler(Everything(), lambda message, context: seen.append(message.raw_data))
    loud = {"debug": "all", "log_level": 7}
    for password in ("canary-pass", "right"):
        login = {"username": "worker", "password": password, "settings": loud}
        running = Member(proc, KafkaAdapter(proc, topic.name, topic.group, servers=kafka.sasl_servers, **login))
        wait_until(lambda running=running: seen or running.error, "an end, or the message")
        running.stop()
    assert seen == [b"here"]
    assert "confluent_kafka" in {record.name for record in caplog.records}
    assert "canary" not in caplog.text
    assert "right" not in caplog.text.replace("copyright", "")


def test_the_password_is_nowhere():
    """The password is in no repr, and in no URL that is shown."""
    url = "kafka://me:canary-pass@h:9092?topic=t&group=g&sasl=SCRAM-SHA-256&tls=true"
    adapter = from_url(url, missive.Processor())
    assert isinstance(adapter, KafkaAdapter)
    assert "canary" not in f"{adapter!r} {adapter.url} {adapter.destination}"
    settings = adapter.settings.configuration("app")
    assert settings["sasl.password"] == "canary-pass"
    assert (settings["security.protocol"], settings["sasl.mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
