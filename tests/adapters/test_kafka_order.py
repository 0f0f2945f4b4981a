"""Order by a field across worker processes, on a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.kafka_members import Topic
from tests.support.process import Running

pytestmark = pytest.mark.kafka

APPLICATION = """
import os, time
import missive
from missive.matchers import Everything, by_field

proc = missive.Processor(missive.JSONMessage, name="app", concurrency=4)

@proc.handle_for(Everything(), ordered_by=by_field("customer"))
def handle(message, context):
    customer, number = message.content["customer"], message.content["n"]
    os.write(1, b"begin %s %d\\n" % (customer.encode(), number))
    time.sleep(0.002)
    os.write(1, b"end %s %d\\n" % (customer.encode(), number))
"""


def publish(topic: Topic, count: int, *, by_customer: bool) -> None:
    bodies = [json.dumps({"customer": f"canary-{n % 10}", "n": n}).encode() for n in range(count)]
    topic.publish(bodies, key=lambda n: f"{n % 10 if by_customer else n}".encode())


@pytest.fixture
def workers(missive: Callable[..., Running], tmp_path: Path) -> Callable[..., Running]:
    """Start two worker processes on a topic."""
    (tmp_path / "app.py").write_text(APPLICATION)

    def start(topic: Topic, **parameters: object) -> Running:
        url = topic.url(session__timeout__ms=3000, heartbeat__interval__ms=300, **parameters)
        return missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db", "--workers", "2")

    return start


def test_an_undeclared_field_is_refused(kafka: Kafka, workers: Callable[..., Running]):
    """Without `partitioned_by=`, two workers end with exit code 2 and one line, and handle nothing."""
    topic = Topic(kafka, 4)
    publish(topic, 10, by_customer=True)
    process = workers(topic)
    out, err = process.finish()
    assert (process.code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(
        "missive: --workers 2: app:handle has ordered_by, which holds within one process, but kafka:"
    )
    assert "partitioned_by=" in line


def test_a_declared_field_keeps_its_order(kafka: Kafka, workers: Callable[..., Running]):
    """Producers that partition by the declared field keep the order of each value, and no line is logged."""
    topic = Topic(kafka, 4)
    publish(topic, 1000, by_customer=True)
    process = workers(topic, partitioned_by="customer")
    wait_until(lambda: topic.lag == 0, "all messages", 40)
    out, err = process.terminate()
    running: dict[str, str] = {}
    last: dict[str, int] = {}
    for line in out.splitlines():
        what, customer, number = line.split()
        if what == "begin":
            assert customer not in running, "two messages of one customer overlap"
            running[customer] = number
            assert int(number) > last.get(customer, -1)
            last[customer] = int(number)
        else:
            del running[customer]
    assert len(out.splitlines()) == 2000
    assert "partitioned_by" not in err
    assert "within this process" not in err


def test_a_wrong_declaration_is_reported_once(kafka: Kafka, workers: Callable[..., Running]):
    """Producers that partition by something else cause one line, without the value, for all workers together."""
    topic = Topic(kafka, 4)
    publish(topic, 1000, by_customer=False)
    process = workers(topic, partitioned_by="customer")
    wait_until(lambda: topic.lag == 0, "all messages", 40)
    _, err = process.terminate()
    assert err.count("messages with one value of partitioned_by= are in the lanes") == 1
    assert "canary" not in err
    assert "ERROR missive: kafka:" in err
