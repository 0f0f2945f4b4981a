"""While a dependency is down, real workers lose no message, keep the order by key, and make no dead letters."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pika
import pytest

from missive.adapters.sqlite import SCHEMA
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.rabbitmq import RabbitMQ

PROBE = 1.0
KEYS = 50

APPLICATION = f"""
import http.client, os, threading
import missive
from missive.matchers import Field, by_field

local = threading.local()
handled = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
billing = missive.Breaker("billing", on=(OSError, http.client.HTTPException), after=5, probe={PROBE})
retry = missive.Retry(on=(OSError, http.client.HTTPException), attempts=10)
proc = missive.Processor(missive.JSONMessage, name="outage", concurrency=4, retry=retry)

def call(message):
    number = message.get_json()["n"]
    if not hasattr(local, "http"):
        local.http = http.client.HTTPConnection("127.0.0.1", int(os.environ["PORT"]), timeout=10)
    try:
        local.http.request("POST", "/", b"%d" % number)
        response = local.http.getresponse()
        response.read()
    except BaseException:
        local.http.close()
        raise
    if response.status != 200:
        raise ConnectionError("down")
    os.write(handled, b"%d\\n" % number)

@proc.handle_for(Field("kind", "plain"), breaker=billing)
def plain(message, context):
    call(message)

@proc.handle_for(Field("kind", "ordered"), breaker=billing, ordered_by=by_field("key"))
def ordered(message, context):
    call(message)

@proc.handle_for(Field("kind", "other"))
def other(message, context):
    os.write(handled, b"%d\\n" % message.get_json()["n"])
"""


class Billing:
    """An HTTP server that answers 503 while `down` is set, and records the times of these requests."""

    def __init__(self) -> None:
        billing = self
        self.down = threading.Event()
        self.refused: list[float] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if billing.down.is_set():
                    billing.refused.append(time.monotonic())
                self.send_response(503 if billing.down.is_set() else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Write no log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def billing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Billing]:
    """Start the dependency, and put its port into the environment of the workers."""
    server = Billing()
    monkeypatch.setenv("PORT", str(server.port))
    yield server
    server.close()


def body_of(n: int) -> bytes:
    kind = ("plain", "plain", "ordered", "other")[n % 4]
    return json.dumps({"n": n, "kind": kind, "key": n % KEYS}).encode()


def handled(directory: Path) -> list[int]:
    path = directory / "handled.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def statuses(directory: Path) -> Counter[str]:
    """Count the records of the store by status."""
    if not (directory / "dlq.db").exists():
        return Counter()
    with contextlib.closing(sqlite3.connect(directory / "dlq.db", timeout=30)) as connection:
        try:
            return Counter(
                dict(connection.execute("SELECT status, count(*) FROM missive_dead_letters GROUP BY status"))
            )
        except sqlite3.OperationalError:
            return Counter()


def outlast(
    missive: Callable[..., Running],
    directory: Path,
    billing: Billing,
    source: tuple[str, int, float],
    record_property: Callable[[str, object], None],
) -> None:
    """Start a worker while the dependency is down, end the outage, and check that every message is handled."""
    url, count, outage = source
    (directory / "app.py").write_text(APPLICATION)
    billing.down.set()
    worker = missive("run", "app:proc", "--from", url, "--dlq", "sqlite:///dlq.db")
    wait_until(lambda: billing.refused, "a request to the dependency", 30)
    time.sleep(outage)  # the length of the outage is the subject of the test
    refused = list(billing.refused)
    parked = statuses(directory)["parked"]
    billing.down.clear()
    began = time.monotonic()
    wait_until(lambda: len(set(handled(directory))) >= count, "all messages to be handled", 120 + count / 200)
    took = time.monotonic() - began
    wait_until(lambda: not statuses(directory)["parked"], "no parked record", 60)
    worker.terminate(60)
    assert worker.code == 0
    done = handled(directory)
    assert sorted(set(done)) == list(range(count))
    assert statuses(directory)["dead"] == 0
    probes = [at for at in refused if at > refused[0] + PROBE / 2]
    assert len(refused) - len(probes) <= 5 + 8, "only the calls that ran when the breaker opened"
    assert outage / PROBE / 3 <= len(probes) <= outage / PROBE + 1, "one probe in each period"
    assert all(later - earlier > PROBE * 0.8 for earlier, later in itertools.pairwise(probes))
    first = list(dict.fromkeys(done))
    for key in range(KEYS):
        ordered = [n for n in first if n % 4 == 2 and n % KEYS == key]
        assert ordered == sorted(ordered), "ordered by key"
    record_property(
        "outage",
        f"{count} messages, {outage:g} s down: {len(probes)} probes, {parked} parked, then {took:.1f} s,"
        f" {len(done) - count} handled twice",
    )


@pytest.fixture
def size(request: pytest.FixtureRequest) -> tuple[int, float]:
    """Return the number of messages and the length of the outage in seconds."""
    return (200_000, 60.0) if request.config.getoption("--deep") else (20_000, 5.0)


def fill(path: Path, bodies: Iterator[bytes]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
        rows = [(body,) for body in bodies]
        connection.executemany("INSERT INTO missive_queue (queue, body) VALUES ('work', ?)", rows)
        connection.commit()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sqlite_queue(missive, tmp_path, billing, size, record_property):
    """With an SQLite queue, an outage costs no message and no order, and causes one probe in each period."""
    fill(tmp_path / "queue.db", map(body_of, range(size[0])))
    outlast(missive, tmp_path, billing, ("sqlite:///queue.db?queue=work", *size), record_property)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.rabbitmq
def test_rabbitmq(missive, tmp_path, rabbitmq: RabbitMQ, billing, size, record_property):
    """With RabbitMQ, an outage costs no message and no order, and causes one probe in each period."""
    queue = f"outage-{os.getpid()}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(queue, durable=True)
        for n in range(size[0]):
            properties = pika.BasicProperties(delivery_mode=2, message_id=str(n))
            channel.basic_publish("", queue, body_of(n), properties)
    outlast(missive, tmp_path, billing, (rabbitmq.url(queue), *size), record_property)


KILLED = """
import os, time
import missive
from missive.matchers import Field, by_field

handled = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
retry = missive.Retry(attempts=50, immediate=0, delays=missive.constant(0.3))
proc = missive.Processor(missive.JSONMessage, name="killed", concurrency=2, retry=retry)

from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
import missive.adapters.sqlite.session
Runtime.limits = Limits(hold_seconds=0.1)  # park failed messages instead of holding them or delaying them in the queue
missive.adapters.sqlite.session._MAX_DELAY = 0.0

def run(message, context):
    number = message.get_json()["n"]
    time.sleep(0.001)
    if context.attempt < 3 and number % 3 == 0:
        raise ConnectionError("down")
    os.write(handled, b"%d\\n" % number)

proc.add_handler(Field("kind", "plain"), run, name="plain")
proc.add_handler(Field("kind", "other"), run, name="other")
proc.add_handler(Field("kind", "ordered"), run, name="ordered", ordered_by=by_field("key"), on_lane_retry="park")
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_while_parking_and_leasing_lose_nothing(missive, tmp_path, request, record_property):
    """A worker that is killed repeatedly while it parks messages and leases parked ones loses no message."""
    count, kills = (20_000, 60) if request.config.getoption("--deep") else (1_500, 5)
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    (tmp_path / "app.py").write_text(KILLED)
    fill(tmp_path / "queue.db", map(body_of, range(count)))
    command = ("run", "app:proc", "--from", "sqlite:///queue.db?queue=work&lease=1", "--dlq", "sqlite:///dlq.db")
    for _ in range(kills):
        worker = missive(*command)
        time.sleep(chance.uniform(0.5, 1.5))  # kill at a random moment
        assert worker.code is None
        worker.kill()
    worker = missive(*command)
    fill(tmp_path / "queue.db", map(body_of, range(count, count := count + 100)))  # work for the last worker
    wait_until(lambda: len(set(handled(tmp_path))) >= count, f"all messages to be handled (seed {seed})", 180)
    wait_until(lambda: not statuses(tmp_path)["parked"], f"no parked record (seed {seed})", 90)
    worker.terminate(60)
    assert worker.code == 0
    done = handled(tmp_path)
    assert set(done) == set(range(count)), f"seed {seed}"
    assert statuses(tmp_path)["dead"] == 0, f"seed {seed}"
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        assert connection.execute("SELECT count(*) FROM missive_queue").fetchone() == (0,)
    record_property("kills", f"{kills} kills, seed {seed}: {len(done) - count} handled twice, {statuses(tmp_path)}")
