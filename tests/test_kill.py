"""SIGKILL at random moments loses no message on a durable transport."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from missive.adapters.sqlite import SCHEMA
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

MESSAGES = 20_000
KILLS = 20

APPLICATION = """
import os, time
import missive
from missive.matchers import Field, Present

proc = missive.Processor(missive.JSONMessage, name="kill")
handled = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Field("n", Present()))
def handle(message, context):
    number = message.get_json()["n"]
    if number % 10 == 0:
        raise ValueError("on purpose")
    time.sleep(0.001)  # slow enough that the last worker always has messages left
    os.write(handled, b"%d\\n" % number)
"""


def run_and_kill(
    missive: Callable[..., Running],
    directory: Path,
    url: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Kill worker after worker, let the last one finish, and compare handled and dead messages with the sent ones."""
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    (directory / "app.py").write_text(APPLICATION)
    command = ("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db")
    kills = 0
    for _ in range(KILLS):
        worker = missive(*command)
        time.sleep(chance.uniform(0.3, 1.2))  # a random moment of the kill, not a wait for an event
        assert worker.code is None
        worker.kill()
        kills += 1
    last = missive(*command)
    everything = set(range(MESSAGES))
    wait_until(lambda: handled(directory).keys() | dead(directory).keys() >= everything, f"all (seed {seed})", 120)
    last.terminate(60)
    assert last.code == 0
    done, filed = handled(directory), dead(directory)
    assert set(done) | set(filed) == everything, f"seed {seed}"
    assert not set(done) & set(filed)
    assert set(filed) == {n for n in everything if n % 10 == 0}
    twice = {"handled twice": sum(done.values()) - len(done), "filed twice": sum(filed.values()) - len(filed)}
    record_property("duplicates", f"{kills} kills, {MESSAGES} messages, seed {seed}: {twice}")


def handled(directory: Path) -> Counter[int]:
    """Return how often each message was handled."""
    path = directory / "handled.txt"
    # Each line is one write, so that a kill leaves no partial line.
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def dead(directory: Path) -> Counter[int]:
    """Return how often each message is in the dead letter store."""
    if not (directory / "dlq.db").exists():
        return Counter()
    with contextlib.closing(sqlite3.connect(directory / "dlq.db", timeout=30)) as connection, connection:
        try:
            rows = connection.execute("SELECT body FROM missive_dead_letters").fetchall()
        except sqlite3.OperationalError:  # the worker was killed before it created the table
            return Counter()
        finally:
            connection.rollback()
    connection.close()
    return Counter(json.loads(body)["n"] for (body,) in rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sqlite_queue(
    missive: Callable[..., Running],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """An SQLite queue whose workers are killed twenty times loses no message, and files no message twice."""
    connection = sqlite3.connect(tmp_path / "queue.db")
    connection.executescript(SCHEMA)
    connection.executemany(
        "INSERT INTO missive_queue (queue, body) VALUES ('work', ?)",
        [(json.dumps({"n": n}).encode(),) for n in range(MESSAGES)],
    )
    connection.commit()
    run_and_kill(missive, tmp_path, "sqlite:///queue.db?queue=work&lease=2", record_property)
    assert connection.execute("SELECT count(*) FROM missive_queue").fetchone() == (0,)
    connection.close()
    assert set(dead(tmp_path).values()) == {1}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.rabbitmq
def test_rabbitmq(
    missive: Callable[..., Running],
    tmp_path: Path,
    rabbitmq: RabbitMQ,
    record_property: Callable[[str, object], None],
) -> None:
    """A RabbitMQ queue whose workers are killed twenty times loses no message, and files none with an id twice."""
    queue = f"kill-{os.getpid()}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(queue, durable=True)
        for n in range(MESSAGES):
            properties = pika.BasicProperties(delivery_mode=2, message_id=str(n))
            channel.basic_publish("", queue, json.dumps({"n": n}).encode(), properties)
    run_and_kill(missive, tmp_path, rabbitmq.url(queue), record_property)
    with rabbitmq.channel() as channel:
        assert channel.queue_declare(queue, passive=True).method.message_count == 0
    assert set(dead(tmp_path).values()) == {1}
