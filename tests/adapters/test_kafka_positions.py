"""Positions on a real broker: commits, starts of partitions, and positions that the log does not contain."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable

import pytest

from missive.engine.completion.watermark import decode, encode
from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.kafka_members import QUICK, Topic, member
from tests.support.process import Running

pytestmark = pytest.mark.kafka


def test_messages_done_out_of_order_do_not_repeat_after_a_kill(kafka: Kafka, start_worker: Callable[..., Running]):
    """Commit metadata lists the messages done after a stuck one. After SIGKILL, only the stuck message runs."""
    topic = Topic(kafka)
    topic.publish([b"%d" % n for n in range(100)], key=lambda n: b"k%d" % n)
    first = start_worker(topic, CONCURRENCY="4", ORDERED="1", STUCK="3")
    lines = [json.loads(first.line())[0] for _ in range(100)]
    assert sorted(map(int, lines)) == list(range(100))

    def done_beyond() -> int:
        from missive.adapters.kafka.positions import position_of

        (one,) = kafka.commits(topic.name, topic.group)
        position = position_of(one)
        done = [] if position is None else decode(position.watermark) or []
        return sum(last - first + 1 for first, last in done)

    wait_until(lambda: done_beyond() == 96, "the commit of all messages after offset 3")
    assert topic.committed == [3]
    first.kill()
    second = start_worker(topic, CONCURRENCY="4", ORDERED="1")
    assert json.loads(second.line())[0] == "3"
    wait_until(lambda: topic.committed == [100], "the commit of all messages")
    out, err = second.terminate()
    assert out == ""
    assert "1 handled" in err


def test_killed_workers_lose_no_message(kafka: Kafka, start_worker: Callable[..., Running]):
    """Workers are killed repeatedly, and every message is handled."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(2000)])
    for _ in range(4):
        process = start_worker(topic)
        seen += [json.loads(process.line())[0] for _ in range(250)]
        out, _ = process.kill()
        seen += [json.loads(line)[0] for line in out.splitlines() if line.endswith("]")]
    process = start_worker(topic)
    wait_until(lambda: topic.committed == [2000], "the remaining messages")
    out, _ = process.terminate()
    seen += [json.loads(line)[0] for line in out.splitlines()]
    assert set(seen) == {str(n) for n in range(2000)}


def test_the_next_worker_continues_after_a_stopped_one(kafka: Kafka, start_worker: Callable[..., Running]):
    """On SIGTERM, running handlers finish and are committed. The next worker continues there at once."""
    topic = Topic(kafka)
    topic.publish([b"%d" % n for n in range(100)])
    first = start_worker(topic, SLEEP="0.05")
    began = [json.loads(first.line())[0] for _ in range(5)]
    out, _ = first.terminate()
    began += [json.loads(line)[0] for line in out.splitlines()]
    assert topic.committed == [len(began)]
    second = start_worker(topic)
    assert json.loads(second.line(5))[0] == str(len(began))


@pytest.mark.parametrize(
    ("start", "first"), [("earliest", b"0"), ("latest", b"10"), ("time", b"5")], ids=["earliest", "latest", "a time"]
)
def test_start_of_a_group_without_commits(kafka: Kafka, start: str, first: bytes):
    """`start=` selects the earliest message, the latest, or the first one after a time."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(5)])
    time.sleep(0.05)  # timestamps have a resolution of one millisecond
    at = time.time()
    time.sleep(0.05)
    topic.publish([b"%d" % n for n in range(5, 10)])
    parameters = {**QUICK, "start": f"{at:.3f}" if start == "time" else start}
    with member(topic, lambda message, context: seen.append(message.raw_data), parameters=parameters) as running:
        wait_until(lambda: running.engine.state == "running", "the start of the member")
        if start == "latest":
            deadline = time.monotonic() + 20
            while not seen and time.monotonic() < deadline:
                topic.publish([b"10"])
                time.sleep(0.1)
        wait_until(lambda: seen, "a message")
    assert seen[0] == first


def test_messages_deleted_before_they_were_read_log_an_error(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """Messages deleted before they were read log one error, and the remaining messages are handled."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(10)])
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: len(seen) == 10, "the first ten messages")
    topic.publish([b"%d" % n for n in range(10, 30)])
    kafka.trim(topic.name, 20)
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: b"29" in seen, "the remaining messages")
    assert seen[10:] == [b"%d" % n for n in range(20, 30)]
    assert f"the position 10 of {topic.name}/0 no longer exists" in caplog.text


def test_messages_after_a_truncation_are_handled(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """A committed watermark beyond the end of the log does not apply to messages that arrive there later."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(10)])
    kafka.commit(topic.name, topic.group, 20, encode(19, [(25, 27)]).decode())
    with member(topic, lambda message, context: seen.append(int(message.raw_data))):
        wait_until(lambda: f"the position 20 of {topic.name}/0 no longer exists" in caplog.text, "the error")
        wait_until(lambda: topic.committed == [10], "the commit of the new position")
        topic.publish([b"%d" % n for n in range(10, 30)])
        wait_until(lambda: 29 in seen, "the last message")
    assert seen == list(range(10, 30))
    assert topic.committed == [30]


def test_offsets_without_messages_do_not_block_commits(kafka: Kafka):
    """The commit advances past offsets that have no message, such as the ends of transactions."""
    topic, seen = Topic(kafka), []
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.servers, "transactional.id": uuid.uuid4().hex, "log_level": 0})
    producer.init_transactions(30)
    for number in range(5):  # each transaction ends with an offset that has no message
        producer.begin_transaction()
        producer.produce(topic.name, b"%d" % number)
        producer.flush(30)
        producer.abort_transaction(30) if number % 2 else producer.commit_transaction(30)
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: len(seen) == 3, "the committed messages")
    assert seen == [b"0", b"2", b"4"]
    assert topic.committed == [9]


def test_metadata_of_other_tools_is_ignored_with_a_warning(kafka: Kafka, caplog: pytest.LogCaptureFixture):
    """Metadata that another tool stored with an offset marks no message as done."""
    topic, seen = Topic(kafka), []
    topic.publish([b"%d" % n for n in range(5)])
    kafka.commit(topic.name, topic.group, 2, "reset by hand")
    with member(topic, lambda message, context: seen.append(message.raw_data)):
        wait_until(lambda: len(seen) == 3, "the remaining messages")
    assert seen == [b"2", b"3", b"4"]
    assert "was not written by Missive, and is ignored" in caplog.text
    assert "reset by hand" not in caplog.text
