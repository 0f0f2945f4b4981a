"""Rebalances on a real broker: partitions that move between members, and groups that refuse a member."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

import missive
from missive.adapters import from_url
from missive.testing.conformance.host import KitHost
from missive.transport import Credit, Session
from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.kafka_members import QUICK, Topic, member
from tests.support.process import Running, without_common

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_partitions_move_to_a_second_member_without_duplicates(kafka: Kafka, strategy: str):
    """Before a partition moves to a new member, running handlers finish and their offsets are committed."""
    parameters = {**QUICK, "partition__assignment__strategy": strategy}
    topic, seen = Topic(kafka, 4), {"a": [], "b": []}

    def handler(name):
        async def handle(message, context):
            await asyncio.sleep(0.002)
            seen[name].append(message.message_id)

        return handle

    topic.publish([b"%d" % n for n in range(4000)], partition=lambda n: n % 4)
    with member(topic, handler("a"), concurrency=4, parameters=parameters):
        wait_until(lambda: len(seen["a"]) > 200, "messages at the first member")
        with member(topic, handler("b"), concurrency=4, parameters=parameters):
            wait_until(lambda: len(seen["b"]) > 200, "messages at the second member")
            wait_until(lambda: len(seen["a"]) + len(seen["b"]) >= 2500, "most messages")
        wait_until(lambda: len(set(seen["a"]) | set(seen["b"])) == 4000, "all messages after the second member left")
    assert len(seen["a"]) + len(seen["b"]) == 4000
    assert topic.committed == [1000] * 4


def test_a_static_member_keeps_its_partitions_through_a_restart(kafka: Kafka):
    """With `instance_id`, a restart within the session timeout moves no partition, and its messages wait."""
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
            wait_until(lambda: publish() and len(set(seen["a"][-20:])) == 2, "two partitions for each member")
            wait_until(lambda: topic.lag == 0, "all published messages")
            mine, seen["a"][:], seen["b"][:] = set(seen["a"][-20:]), [], []
        away = time.monotonic()
        while time.monotonic() < away + 1.5:  # long enough for a rebalance to a member that is not static
            before = len(seen["b"])
            publish()
            wait_until(lambda before=before: len(seen["b"]) >= before + 2, "messages at the other member")
        with member(topic, handler("a"), parameters=parameters("a")):
            wait_until(lambda: len(seen["a"]) == len(seen["b"]), "the remaining messages after the restart", 10)
    assert set(seen["a"]) == mine
    assert set(seen["b"]) == set(range(4)) - mine


def test_a_group_with_another_assignment_strategy_is_an_error(kafka: Kafka, start_worker: Callable[..., Running]):
    """A group with another strategy produces one line with the remedy, and exit code 1."""
    from confluent_kafka import Consumer

    topic = Topic(kafka)
    settings = {"group.id": topic.group, "partition.assignment.strategy": "range", "log_level": 0}
    consumer = Consumer({"bootstrap.servers": kafka.servers, **settings})
    try:
        consumer.subscribe([topic.name])
        wait_until(lambda: consumer.poll(0.1) or consumer.assignment(), "the assignment of the other consumer")
        _, err = start_worker(topic).finish()
    finally:
        consumer.close()
    assert without_common(err).count("\n") == 1
    assert f"the members of the group {topic.group} share partitions with another strategy" in err
    assert "Use another group" in err


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_a_stop_during_a_rebalance_keeps_its_own_deadline(kafka: Kafka, strategy: str):
    """A member that stops while a partition moves meets its drain deadline, and no message is lost."""
    topic, seen = Topic(kafka, 2), {"a": [], "b": []}
    parameters = {**QUICK, "handover": 60, "partition__assignment__strategy": strategy}

    async def slow(message, context):
        seen["a"].append(message.message_id)
        await asyncio.sleep(60)

    topic.publish([b"0", b"1"], partition=lambda n: n)
    with member(topic, slow, concurrency=2, parameters=parameters, drain=1) as first:
        wait_until(lambda: len(seen["a"]) == 2, "two running handlers")
        with member(topic, lambda message, context: seen["b"].append(message.message_id), parameters=parameters):
            wait_until(lambda: first.engine._state.sources[0].leaving, "the start of the handover")
            began = time.monotonic()
            first.stop()
            assert time.monotonic() - began < 4
            wait_until(lambda: len(seen["b"]) == 2, "both messages at the other member", 20)
    assert sorted(seen["b"]) == sorted(seen["a"])
    assert topic.committed == [1, 1]


def test_pausing_a_lost_lane_has_no_effect_after_its_return(kafka: Kafka):
    """A lane that is paused after its loss delivers again after its return: the engine would never resume it."""
    topic = Topic(kafka, 2)
    topic.publish([b"0", b"1"], partition=lambda n: n)

    async def fetched(session: Session, count: int) -> list[str]:
        lanes: list[str] = []
        async with asyncio.timeout(20):
            while len(lanes) < count:
                lanes += [str(one.lane) for one in await session.fetch(Credit(10, 1000))]
        return lanes

    async def run() -> None:
        adapter = from_url(topic.url(**QUICK), missive.Processor(name="app"))
        first, second = await adapter.connect(KitHost()), await adapter.connect(KitHost())
        await fetched(first, 2)
        lost = await fetched(second, 1)
        await first.pause(lost)
        await second.close()
        assert await fetched(first, 1) == lost
        await first.close()

    asyncio.run(run())


def test_a_handler_that_outlasts_the_handover_is_fenced(kafka: Kafka):
    """A message still running after the handover is not settled here: the partition's next owner handles it."""
    topic, seen, go = Topic(kafka, 2), {"a": [], "b": []}, threading.Event()

    def slow(message, context):
        seen["a"].append(message.message_id)
        go.wait(30)

    def quick(message, context):
        seen["b"].append(message.message_id)

    topic.publish([b"0", b"1"], partition=lambda n: n)
    short = {**QUICK, "handover": 0.5}
    with member(topic, slow, concurrency=2, parameters=short) as first:
        wait_until(lambda: len(seen["a"]) == 2, "two running handlers")
        with member(topic, quick):
            wait_until(lambda: len(seen["b"]) == 1, "a message at the other member")
            go.set()
            wait_until(lambda: first.engine.report.total_handled, "the end of a late handler")
        (again,) = seen["b"]
        assert again in seen["a"]
    assert topic.committed == [1, 1]
    assert first.engine.report.total_handled + first.engine.report.redelivered == 2
