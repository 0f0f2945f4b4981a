"""`missive doctor`: its findings about sound and faulty deployments. It consumes no message."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.kafka_members import Topic, member
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import RedisServer

APPLICATION = """
import missive
from missive.matchers import Everything, by_key

proc = missive.Processor(name="app")
nothing = missive.Processor(name="nothing")

@proc.handle_for(Everything(), ordered_by=by_key, timeout=100)
def handle(message, context):
    raise SystemExit("the doctor must not call a handler")
"""


Found = tuple[int | None, list[tuple[str, str, str]], str]


@pytest.fixture
def doctor(
    missive: Callable[..., Running], tmp_path: Path
) -> Callable[..., tuple[int | None, list[tuple[str, str, str]], str]]:
    """Run the doctor. Return the exit code, the findings, and standard error."""
    (tmp_path / "app.py").write_text(APPLICATION)

    def run(url: str, *options: str, target: str = "app:proc") -> Found:
        process = missive("doctor", target, "--from", url, "--json", *options)
        out, err = process.finish(60)
        found = [(one["level"], one["check"], one["message"]) for one in json.loads(out)] if out else []
        return process.code, found, err

    return run


def levels(found: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    return [(level, check) for level, check, _ in found]


def test_a_sound_deployment(doctor, tmp_path):
    """An existing queue, a handler and a store give exit code 0."""
    url = "sqlite:///queue.db?queue=q&create=true"
    code, found, err = doctor(url, "--dlq", "sqlite:///dlq.db")
    assert (code, err) == (0, "")
    assert levels(found) == [
        ("ok", "handlers"),
        ("ok", "dead letters"),
        ("ok", "connection"),
        ("warning", "order"),
        ("ok", "queue"),
    ]


def test_findings_are_lines_with_signs(missive, tmp_path):
    """Without --json each finding is a line with a sign, without colours outside a terminal."""
    (tmp_path / "app.py").write_text(APPLICATION)
    process = missive("doctor", "app:nothing", "--from", "sqlite:///none.db?queue=q")
    out, _ = process.finish()
    assert process.code == 1
    assert out.splitlines()[:3] == [
        "nothing",
        "  ✗ handlers: nothing has no handlers and does not start",
        "  ✗ dead letters: there is no store, so missive run will refuse to start: name one with --dlq, MISSIVE_DLQ"
        " or Processor(dlq=…)",
    ]
    assert "  ✗ connection: sqlite:///none.db?queue=q: the file does not exist" in out


def test_a_store_that_cannot_be_opened(doctor, tmp_path):
    """A file that is no database is an error."""
    (tmp_path / "dlq.db").write_bytes(b"this is no database, and never was one" * 100)
    code, found, _ = doctor("sqlite:///queue.db?queue=q&create=true", "--dlq", "sqlite:///dlq.db")
    assert code == 1
    assert ("error", "dead letters") in levels(found)


def test_a_mistake_is_wrong_usage(doctor):
    """An unknown URL gives exit code 2 and one line."""
    code, found, err = doctor("rabid://h/x")
    assert (code, found) == (2, [])
    assert "did you mean" in err or "no adapter is known" in err


@pytest.mark.rabbitmq
def test_rabbitmq(doctor, rabbitmq: RabbitMQ):
    """The doctor consumes no message, and reports a timeout that is longer than the lease."""
    name = f"q-{uuid.uuid4().hex[:8]}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_publish("", name, b"a")
    code, found, _ = doctor(f"{rabbitmq.url(name)}&consumer_timeout=50", "--dlq", "sqlite:///dlq.db")
    assert code == 1
    assert ("error", "timeouts") in levels(found)
    assert any("1 message waiting" in says for _, check, says in found if check == "queue")
    with rabbitmq.channel() as channel:
        method, properties, _ = channel.basic_get(name, auto_ack=True)
        assert not method.redelivered
        assert not (properties.headers or {}).get("x-delivery-count")
    code, found, _ = doctor(rabbitmq.url(name + "-none"), "--dlq", "sqlite:///dlq.db")
    assert code == 1
    assert any("there is no queue" in says for _, _, says in found)


@pytest.mark.redis
def test_redis(doctor, redis: RedisServer):
    """A missing stream is an error; an existing one is sound, and none of its entries is read."""
    name = f"s-{uuid.uuid4().hex[:8]}"
    code, found, _ = doctor(redis.url(name, "g"), "--dlq", "sqlite:///dlq.db")
    assert code == 1
    assert any("there is no stream" in says for _, _, says in found)
    with redis.client() as client:
        client.xgroup_create(name, "g", "0", mkstream=True)
        client.xadd(name, {"data": b"a"})
    code, found, _ = doctor(redis.url(name, "g"), "--dlq", "sqlite:///dlq.db")
    assert code == 0
    with redis.client() as client:
        assert client.xpending(name, "g")["pending"] == 0


@pytest.mark.kafka
def test_kafka(doctor, kafka: Kafka):
    """A missing topic is an error, and a single copy of each message is a warning; the doctor joins no group."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    code, found, _ = doctor(kafka.url(name, "g"), "--dlq", "sqlite:///dlq.db")
    assert code == 1
    assert any(f"the topic {name} does not exist" in says for _, _, says in found)
    kafka.create(name, 3)
    code, found, _ = doctor(kafka.url(name, "g"), "--dlq", "sqlite:///dlq.db")
    assert code == 0
    assert levels(found)[-3:] == [("ok", "connection"), ("ok", "topic"), ("warning", "copies")]


@pytest.mark.kafka
def test_kafka_with_other_members(doctor, kafka: Kafka, tmp_path):
    """Other members of the group are a warning where they would break the order of a handler."""
    topic = Topic(kafka, 2)
    by_field = APPLICATION.replace("by_key", "by_header").replace("by_header, timeout", "by_header('c'), timeout")
    (tmp_path / "other.py").write_text(by_field)
    for target, expected in (("app:proc", []), ("other:proc", ["warning"])):
        _, found, _ = doctor(topic.url(), "--dlq", "sqlite:///dlq.db", target=target)
        assert [level for level, check, _ in found if check == "order"] == expected
        assert [check for _, check, _ in found if check == "members"] == []
    with member(topic, lambda message, context: None):
        wait_until(lambda: kafka.members(topic.group) == 1, "the member")
        for target, expected in (("app:proc", []), ("other:proc", ["warning"])):
            _, found, _ = doctor(topic.url(), "--dlq", "sqlite:///dlq.db", target=target)
            assert [level for level, check, _ in found if check == "members"] == expected
    assert any(f"1 other members consume in the group {topic.group}" in says for _, _, says in found)


@pytest.mark.kafka
def test_kafka_with_a_topic_that_was_created_again(doctor, kafka: Kafka):
    """The doctor reports committed positions of a deleted topic."""
    topic = Topic(kafka)
    topic.publish([b"a"])
    with member(topic, lambda message, context: None):
        wait_until(lambda: topic.committed == [1], "the commit")
    (old,) = kafka.commits(topic.name, topic.group)
    kafka.recreate(topic.name)
    kafka.commit(topic.name, topic.group, old.offset, old.metadata)
    _, found, _ = doctor(topic.url(), "--dlq", "sqlite:///dlq.db")
    assert any("was deleted and created again" in says for level, check, says in found if check == "offsets")


@pytest.mark.redis
def test_a_store_in_redis(doctor, tmp_path, redis):
    """A store in a durable server is sound; a server that is not durable gives a warning."""
    url = "sqlite:///queue.db?queue=q&create=true"
    code, found, _ = doctor(url, "--dlq", redis.store())
    assert (code, [one[0] for one in found if one[1] == "dead letters"]) == (0, ["ok"])
    with RedisServer(tmp_path / "redis", "--appendonly", "no") as server:
        _, found, _ = doctor(url, "--dlq", server.store())
    assert [one[0] for one in found if one[1] == "dead letters"] == ["ok", "warning"]
    assert "no append-only file" in str(found)


def test_files_and_standard_input(doctor, tmp_path):
    """The doctor reports the size of a file and an incomplete last line; standard input is sound."""
    for name, body, expected in (
        ("whole.jsonl", b"{}\n", [("ok", "file")]),
        ("half.jsonl", b"{}\n{", [("ok", "file"), ("warning", "last line")]),
        ("empty.jsonl", b"", [("warning", "file")]),
        ("a.jsonl.gz", gzip.compress(b"{}\n"), [("ok", "file"), ("unknown", "last line")]),
    ):
        (tmp_path / name).write_bytes(body)
        code, found, err = doctor(f"file:{name}", "--dlq", "sqlite:///dlq.db")
        assert (code, err) == (0, "")
        assert [one for one in levels(found) if one[1] in ("file", "last line")] == expected
    code, found, _ = doctor("stdin:", "--dlq", "sqlite:///dlq.db")
    assert ("ok", "standard input") in levels(found)
