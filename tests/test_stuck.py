"""Handlers that never return: the process ends, names them, and files only their messages."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from missive.adapters.sqlite import SCHEMA
from tests.conftest import wait_until
from tests.support.kafka import Kafka
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis import RedisServer

Start = Callable[..., Running]

APPLICATION = """
import asyncio, ctypes, os, time, missive
from missive.matchers import Field

proc = missive.Processor(missive.JSONMessage, name="app", timeout=0.5)
log = os.open("log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(message):
    os.write(log, f"{message.get_json()['n']}\\n".encode())

def handler(do, **settings):
    return proc.handle_for(Field("do", do), **settings)

@handler("thread")
def thread(message, context):
    time.sleep(600)

@handler("loop")
async def loop(message, context):
    time.sleep(600)

@handler("task")
async def task(message, context):
    async def block():
        time.sleep(600)
    await asyncio.gather(block(), asyncio.sleep(600))

@handler("stubborn")
async def stubborn(message, context):
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@proc.resource()
def hanging(context):
    yield
    time.sleep(600)

@handler("resource")
def resource(message, context):
    context.get(hanging)

@proc.handle_batch_for(Field("do", "batch"), size=10, wait=0.1)
def batch(batch):
    for message in batch.messages:
        if message.get_json()["n"] == 0:
            time.sleep(600)
        note(message)

@handler("kill")
def kill(message, context):
    ctypes.string_at(0)

@handler("wait")
async def wait(message, context):
    await asyncio.sleep(0.1)
    note(message)

@handler("fine")
def fine(message, context):
    note(message)
"""

ORDERED = """
@handler("ordered", ordered_by=missive.matchers.by_field("k"))
def ordered(message, context):
    note(message)
    if message.get_json()["n"] == 0:
        time.sleep(600)
"""

GOOD = 30
"""Number of good messages behind the hanging ones."""


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., None]:
    """Make the application and its queue. Return a function that puts messages into the queue."""
    (tmp_path / "app.py").write_text(APPLICATION)
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as queue, queue:
        queue.execute("PRAGMA journal_mode=WAL")
        queue.executescript(SCHEMA)
    queue.close()

    return functools.partial(insert, tmp_path)


def insert(directory: Path, *messages: tuple[str, int]) -> None:
    """Put messages into the queue."""
    with contextlib.closing(sqlite3.connect(directory / "queue.db", timeout=30)) as queue, queue:
        bodies = [(body(*message),) for message in messages]
        queue.executemany("INSERT INTO missive_queue (queue, body) VALUES ('q', ?)", bodies)
    queue.close()


def body(do: str, n: int) -> bytes:
    """Return the body of a message."""
    return json.dumps({"do": do, "n": n, "k": "a"}).encode()


def numbers(directory: Path) -> set[int]:
    """Return the numbers of the messages that were handled."""
    path = directory / "log.txt"
    return set(map(int, path.read_text().split())) if path.exists() else set()


def dead(directory: Path) -> list[tuple[str, str]]:
    """Return the reason and the kind of each dead letter."""
    with contextlib.closing(sqlite3.connect(directory / "dlq.db", timeout=30)) as store, store:
        found = store.execute("SELECT reason, body FROM missive_dead_letters").fetchall()
    store.close()
    return sorted((reason, json.loads(content)["do"]) for reason, content in found)


def queued(directory: Path) -> int:
    """Return the number of messages in the queue."""
    with contextlib.closing(sqlite3.connect(directory / "queue.db", timeout=30)) as queue, queue:
        count = queue.execute("SELECT count(*) FROM missive_queue").fetchone()[0]
    queue.close()
    return int(count)


def restart(missive: Start, directory: Path, runs: int, *arguments: str) -> str:
    """Start runs that end because every worker is stuck, and a last one that handles the rest. Return their errors."""
    source = "sqlite:///queue.db?queue=q&lease=2"
    command = ("run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db", "--drain", "0.5", *arguments)
    errors = ""
    for _ in range(runs):
        process = missive(*command)
        _, err = process.finish()
        assert process.code == 1
        stuck = "missive: every worker is stuck in a handler past its timeout (app:"
        *_, before, last = err.splitlines()
        if "tasks that handlers left ignore their cancellation" in last:  # logged by another thread
            last = before
        assert last.startswith(stuck)
        errors += err
    insert(directory, ("fine", GOOD))
    process = missive(*command)
    wait_until(lambda: numbers(directory) >= set(range(1, GOOD + 1)), "the good messages")
    wait_until(lambda: not queued(directory), "an empty queue")
    _, err = process.terminate()
    assert process.code == 0
    return errors + err


def filed(name: str, count: int) -> str:
    """Return the log line about filed messages."""
    return f"app:{name}: {count} messages whose handler did not return become dead letters"


@pytest.mark.parametrize("kind", ["thread", "loop", "task", "stubborn", "resource"])
def test_a_stuck_message_is_filed_and_the_others_are_handled(
    missive: Start, tmp_path: Path, put: Callable[..., None], kind: str
):
    """With concurrency 1, one restart is enough: the hanging message is a dead letter, and the others are handled."""
    put((kind, 0), *[("fine", n) for n in range(1, GOOD)])
    err = restart(missive, tmp_path, 1)
    assert dead(tmp_path) == [("timeout", kind)]
    assert filed(kind, 1) in err
    assert "Traceback" not in err


def test_every_stuck_message_is_filed(missive: Start, tmp_path: Path, put: Callable[..., None]):
    """With concurrency 2, both hanging messages are filed in one run."""
    put(("thread", 0), ("fine", 1), ("thread", 0), *[("fine", n) for n in range(2, GOOD)])
    err = restart(missive, tmp_path, 1, "--concurrency", "2")
    assert dead(tmp_path) == [("timeout", "thread")] * 2
    assert filed("thread", 2) in err


@pytest.mark.parametrize("kind", ["loop", "task"])
def test_messages_beside_a_blocked_loop_are_not_filed(
    missive: Start, tmp_path: Path, put: Callable[..., None], kind: str
):
    """A handler that blocks the loop takes other handlers beyond their timeout. Their messages run again."""
    put(*[("wait", n) for n in range(1, 4)], (kind, 0), *[("wait", n) for n in range(4, GOOD)])
    restart(missive, tmp_path, 1 if kind == "loop" else 2, "--concurrency", "4")
    assert dead(tmp_path) == [("timeout", kind)]


def test_only_the_stuck_message_of_a_batch_is_filed(missive: Start, tmp_path: Path, put: Callable[..., None]):
    """The messages of a stuck batch run alone in the next process, where only the hanging one is stuck."""
    put(*[("batch", n) for n in (1, 2, 3, 0, *range(4, GOOD))])
    err = restart(missive, tmp_path, 2)
    assert dead(tmp_path) == [("timeout", "batch")]
    assert "10 messages were stuck together, and run alone in the next process" in err


def test_a_lane_continues_behind_a_stuck_message(missive: Start, tmp_path: Path, put: Callable[..., None]):
    """The rest of the lane goes back to the queue, in order, and is handled after the restart."""
    (tmp_path / "app.py").write_text(APPLICATION + ORDERED)
    put(*[("ordered", n) for n in range(GOOD)])
    restart(missive, tmp_path, 1)
    assert dead(tmp_path) == [("timeout", "ordered")]
    ordered = [n for n in map(int, (tmp_path / "log.txt").read_text().split()) if n < GOOD]
    assert ordered == list(range(GOOD))


def test_a_replaced_worker_handles_the_rest(missive: Start, tmp_path: Path, put: Callable[..., None]):
    """With `--workers 2`, the supervisor replaces the stuck workers, and all good messages are handled."""
    put(("thread", 0), ("thread", 0), ("thread", 0), *[("fine", n) for n in range(1, GOOD)])
    source = "sqlite:///queue.db?queue=q&lease=2"
    process = missive(
        "run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db", "--drain", "0.5", "--workers", "2"
    )
    died = 0
    while died < 3:
        died += "died (exit code 1), starting another" in process.error_line()
    wait_until(lambda: numbers(tmp_path) == set(range(1, GOOD)), "the good messages")
    wait_until(lambda: not queued(tmp_path), "an empty queue")
    process.terminate()
    assert process.code == 0
    assert dead(tmp_path) == [("timeout", "thread")] * 3


def test_a_suspect_that_hangs_does_not_starve_the_others(missive: Start, tmp_path: Path, put: Callable[..., None]):
    """After its timeout, the other messages run again, and one line says so. Only the culprit is quarantined."""
    put(("thread", 0), ("kill", 0), *[("fine", n) for n in range(1, GOOD)])
    source = "sqlite:///queue.db?queue=q&lease=2"
    command = ("run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db", "--concurrency", "4", "--drain", "0.5")
    line = "WARNING missive: app:thread: a message that may have killed a process ran alone past its timeout"
    deaths = 0
    while deaths < 3:
        process = missive(*command)
        _, err = process.finish()
        assert process.code == -signal.SIGSEGV
        deaths += 1
        assert (deaths > 1) == (line in err)
    process = missive(*command)
    wait_until(lambda: numbers(tmp_path) >= set(range(1, GOOD)), "the good messages")
    _, err = process.terminate()
    assert line in err
    assert dead(tmp_path) == [("poison", "kill")]


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_stuck_message_of_rabbitmq(missive: Start, tmp_path: Path, rabbitmq: RabbitMQ, kind: str):
    """RabbitMQ does not deliver a filed message again."""
    name = f"stuck-{kind}-{os.getpid()}"
    (tmp_path / "app.py").write_text(APPLICATION)
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True)
        for do, n in [(kind, 0), *[("fine", n) for n in range(1, GOOD)]]:
            channel.basic_publish("", name, body(do, n), pika.BasicProperties(delivery_mode=2))
    command = ("run", "app:proc", "--from", rabbitmq.url(name), "--dlq", "sqlite:///dlq.db", "--drain", "0.5")
    process = missive(*command)
    process.finish()
    assert process.code == 1
    assert dead(tmp_path) == [("timeout", kind)]
    process = missive(*command)
    wait_until(lambda: numbers(tmp_path) == set(range(1, GOOD)), "the good messages")
    process.terminate()
    assert process.code == 0
    with rabbitmq.channel() as channel:
        assert channel.queue_declare(name, passive=True).method.message_count == 0


def run_twice(missive: Start, directory: Path, source: str) -> None:
    """Run until every worker is stuck, and once more until the good messages are handled."""
    command = ("run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db", "--drain", "0.5")
    process = missive(*command)
    process.finish()
    assert process.code == 1
    assert dead(directory) == [("timeout", "thread")]
    process = missive(*command)
    wait_until(lambda: numbers(directory) == set(range(1, GOOD)), "the good messages")
    process.terminate()
    assert process.code == 0
    assert dead(directory) == [("timeout", "thread")]


def messages() -> list[bytes]:
    """Return the bodies of a hanging message and of the good ones behind it."""
    return [body("thread", 0), *[body("fine", n) for n in range(1, GOOD)]]


def test_a_stuck_line_of_a_file(missive: Start, tmp_path: Path):
    """The checkpoint moves past a filed line."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(messages()) + b"\n")
    run_twice(missive, tmp_path, "file:in.jsonl")


def test_a_stuck_line_of_standard_input(missive: Start, tmp_path: Path):
    """No line is lost: the stuck one is filed as `timeout`, and the others as `shutdown`."""
    (tmp_path / "app.py").write_text(APPLICATION)
    command = ("run", "app:proc", "--from", "stdin:", "--dlq", "sqlite:///dlq.db", "--drain", "0.5")
    process = missive(*command, stdin=subprocess.PIPE)
    process.write(b"\n".join(messages()) + b"\n")
    _, err = process.finish()
    assert process.code == 1
    assert dead(tmp_path) == [*[("shutdown", "fine")] * (GOOD - 1), ("timeout", "thread")]
    assert "lost" not in err


@pytest.mark.redis
def test_a_stuck_message_of_redis(missive: Start, tmp_path: Path, redis: RedisServer):
    """A filed entry is acked."""
    name = f"stuck-{os.getpid()}"
    (tmp_path / "app.py").write_text(APPLICATION)
    with redis.client() as client:
        client.xgroup_create(name, "g", mkstream=True)
        for content in messages():
            client.xadd(name, {"data": content})
        run_twice(missive, tmp_path, redis.url(name, "g"))
        assert client.xpending(name, "g")["pending"] == 0


@pytest.mark.kafka
def test_a_stuck_message_of_kafka(missive: Start, tmp_path: Path, kafka: Kafka):
    """The committed offset moves past a filed message."""
    name = f"stuck-{os.getpid()}"
    (tmp_path / "app.py").write_text(APPLICATION)
    kafka.create(name)
    kafka.publish(name, messages())
    run_twice(missive, tmp_path, kafka.url(name, "g", start="earliest"))
