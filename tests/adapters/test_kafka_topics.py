"""Topics that change while a group consumes them: new partitions, new topics, and topics that are created again."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

import missive
from missive.adapters import KafkaAdapter
from missive.matchers import Everything, by_key
from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.kafka_members import QUICK, Member, Topic, member
from tests.support.process import Running

pytestmark = pytest.mark.kafka

LATEST = {**QUICK, "start": "latest", "topic__metadata__refresh__interval__ms": 2000}


def numbers(first: int, count: int) -> list[bytes]:
    return [b"%d" % n for n in range(first, first + count)]


def collector() -> tuple[list[int], Callable[[Any, Any], None]]:
    """Return a list, and a handler that adds the number in each message to the list."""
    seen: list[int] = []
    return seen, lambda message, context: seen.append(int(message.raw_data))


def started(topic: Topic, expected: int = 0) -> None:
    """Wait until the group has committed a position in every partition."""
    wait_until(lambda: all(at >= expected for at in topic.committed), "the start of every partition")


def test_the_start_of_a_partition_is_remembered_without_messages(kafka: Kafka):
    """With `start=latest`, messages that arrive between two runs are handled, although none came in the first run."""
    topic = Topic(kafka, 2)
    topic.publish(numbers(0, 10), partition=lambda n: n % 2)
    seen, handle = collector()
    with member(topic, handle, parameters=LATEST):
        started(topic, 5)
    topic.publish(numbers(10, 10), partition=lambda n: n % 2)
    with member(topic, handle, parameters=LATEST):
        wait_until(lambda: len(seen) == 10, "the messages between the runs")
    assert sorted(seen) == list(range(10, 20))


@pytest.mark.parametrize(
    "start", ["latest", "1000000000", "4000000000"], ids=["latest", "a past time", "a future time"]
)
def test_a_partition_that_is_added_starts_at_its_beginning(kafka: Kafka, caplog: pytest.LogCaptureFixture, start: str):
    """Messages published to a new partition before the member finds it are handled."""
    topic = Topic(kafka)
    seen, handle = collector()
    with member(topic, handle, parameters={**LATEST, "start": start}):
        started(topic)
        kafka.add_partitions(topic.name, 2)
        topic.publish(numbers(0, 50), partition=1)
        wait_until(lambda: len(seen) == 50, "the messages of the new partition")
    assert seen == list(range(50))
    assert caplog.text.count(f"{topic.name}/1 appeared after the group had begun; starting at the beginning") == 1


def test_a_partition_that_is_added_between_two_runs_starts_at_its_beginning(kafka: Kafka):
    """The group has begun in the other partition, so a partition without a committed offset is new."""
    topic = Topic(kafka)
    seen, handle = collector()
    with member(topic, handle, parameters=LATEST):
        started(topic)
    kafka.add_partitions(topic.name, 2)
    topic.publish(numbers(0, 50), partition=1)
    with member(topic, handle, parameters=LATEST):
        wait_until(lambda: len(seen) == 50, "the messages of the new partition")


@pytest.mark.parametrize("by", ["name", "pattern"])
def test_a_topic_that_appears_later_starts_at_its_beginning(kafka: Kafka, by: str):
    """Messages published to a topic before the member finds it are handled."""
    topic, later = Topic(kafka), f"t-{uuid.uuid4().hex[:8]}"
    seen, handle = collector()
    proc = missive.Processor(name="app")
    proc.add_handler(Everything(), handle)
    which: dict[str, Any] = {"topic": later} if by == "name" else {"pattern": f"^({topic.name}|{later})$"}
    quick = {name.replace("__", "."): value for name, value in LATEST.items() if name != "start"}
    adapter = KafkaAdapter(proc, group=topic.group, servers=kafka.servers, start="latest", settings=quick, **which)
    running = Member(proc, adapter)
    if by == "pattern":
        started(topic)
    else:
        deadline = time.monotonic() + 1
        wait_until(lambda: time.monotonic() > deadline, "the first attempts to connect")
    kafka.create(later)
    kafka.publish(later, numbers(0, 50))
    wait_until(lambda: len(seen) == 50, "the messages of the new topic", 40)
    running.stop()


def test_a_new_group_of_several_members_reads_no_history(kafka: Kafka):
    """With `start=latest`, members that join together do not take the partitions of each other for new ones."""
    topic = Topic(kafka, 4)
    topic.publish(numbers(0, 100), partition=lambda n: n % 4)
    seen, handle = collector()
    with member(topic, handle, parameters=LATEST), member(topic, handle, parameters=LATEST):
        started(topic, 25)
        topic.publish(numbers(100, 100), partition=lambda n: n % 4)
        wait_until(lambda: len(seen) >= 100, "the new messages")
    assert sorted(seen) == list(range(100, 200))


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
@pytest.mark.parametrize("count", [1500, 500, 100], ids=["more", "as many", "fewer"])
@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_a_topic_that_is_created_again_is_read_from_its_beginning(
    kafka: Kafka, caplog: pytest.LogCaptureFixture, start: str, count: int, strategy: str
):
    """All messages of a topic that was deleted and quickly created again are handled, however many it has."""
    topic = Topic(kafka)
    seen, handle = collector()
    parameters = {**QUICK, "start": start, "partition__assignment__strategy": strategy}
    with member(topic, handle, parameters=parameters, ordered_by=by_key, concurrency=4):
        started(topic) if start == "latest" else None
        topic.publish(numbers(0, 500), key=lambda n: b"%d" % (n % 7))
        wait_until(lambda: topic.committed == [500], "the commit of the old messages")
        kafka.recreate(topic.name)
        topic.publish(numbers(1000, count), key=lambda n: b"%d" % (n % 7))
        wait_until(lambda: set(range(1000, 1000 + count)) <= set(seen), "all messages of the new topic")
        wait_until(lambda: topic.committed == [count], "the commit of the new messages")
    assert topic.lag == 0
    assert caplog.text.count(f"the topic {topic.name} was deleted and created again; starting at its beginning") == 1
    assert "no longer exists" not in caplog.text


def test_a_position_of_a_deleted_topic_does_not_apply_after_a_restart(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """A commit that reached the new topic with an offset of the old one is ignored, because its metadata says so."""
    topic = Topic(kafka)
    topic.publish(numbers(0, 50))
    seen, handle = collector()
    with member(topic, handle):
        wait_until(lambda: topic.committed == [50], "the commit of the old messages")
    (old,) = kafka.commits(topic.name, topic.group)
    kafka.recreate(topic.name)
    topic.publish(numbers(100, 80))
    kafka.commit(topic.name, topic.group, old.offset, old.metadata)
    with member(topic, handle):
        wait_until(lambda: topic.committed == [80], "the commit of the new messages")
    assert seen[50:] == list(range(100, 180))
    assert f"the topic {topic.name} was deleted and created again" in caplog.text


def test_a_topic_that_is_created_again_with_several_partitions(kafka: Kafka, start_worker: Callable[..., Running]):
    """Every partition starts at its beginning, one line reports the topic, and a restart repeats nothing."""
    topic = Topic(kafka, 3)
    topic.publish(numbers(0, 300), partition=lambda n: n % 3)
    worker = start_worker(topic)
    assert len([worker.line() for _ in range(300)]) == 300
    wait_until(lambda: topic.committed == [100, 100, 100], "the commit of the old messages")
    kafka.recreate(topic.name, 3)
    topic.publish(numbers(1000, 900), partition=lambda n: n % 3)
    new: set[str] = set()
    while len(new) < 900:
        new.add(json.loads(worker.line(30))[0])
    wait_until(lambda: topic.committed == [300, 300, 300], "the commit of the new messages")
    _, err = worker.terminate()
    assert err.count("was deleted and created again") == 1
    again = start_worker(topic)
    topic.publish([b"last"], partition=0)
    assert json.loads(again.line())[0] == "last"
