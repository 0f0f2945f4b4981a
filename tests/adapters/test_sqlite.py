"""The SQLite queue: leases, redelivery, and several processes on one file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import missive as m
from missive.adapters.sqlite import SCHEMA, SQLiteAdapter
from missive.engine.engine import Engine
from missive.matchers import Everything
from missive.transport import Credit, Delivery, Disposition, Host, Session, Settlement, SettlementResult
from tests.conftest import wait_until
from tests.support.process import Running

Start = Callable[..., Running]

NUMBERS = """
import os, time, missive
proc = missive.Processor(missive.JSONMessage, name="app")
@proc.handle_for(lambda message: True)
def number(message, context):
    print(message.get_json(), flush=True)
    time.sleep(float(os.environ.get("SLEEP", "0")))
"""


@pytest.fixture
def queue(tmp_path: Path) -> sqlite3.Connection:
    """Create a queue file, and return the connection of a producer."""
    connection = sqlite3.connect(tmp_path / "queue.db", isolation_level=None, timeout=30)
    connection.executescript(SCHEMA)
    (tmp_path / "app.py").write_text(NUMBERS)
    yield connection
    connection.close()


def enqueue(connection: sqlite3.Connection, *bodies: str) -> None:
    connection.executemany("INSERT INTO missive_queue (queue, body) VALUES ('q', ?)", [(body,) for body in bodies])


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM missive_queue").fetchone()[0])


RUN = ("run", "app:proc", "--from", "sqlite:///queue.db?queue=q", "--dlq", "sqlite:///dlq.db")


def test_messages_are_handled_in_order_and_deleted(missive: Start, queue: sqlite3.Connection):
    """Earlier and later messages are handled in order, and their rows are deleted."""
    enqueue(queue, *map(str, range(50)))
    process = missive(*RUN)
    wait_until(lambda: count(queue) == 0, "an empty queue")
    enqueue(queue, *map(str, range(50, 60)))
    wait_until(lambda: count(queue) == 0, "an empty queue again")
    assert [str(n) for n in range(60)] == process.terminate()[0].split()
    assert process.code == 0


def test_several_processes_share_a_queue(missive: Start, queue: sqlite3.Connection):
    """Three workers on one file handle each message exactly once."""
    enqueue(queue, *map(str, range(3000)))
    workers = [missive(*RUN, env={"SLEEP": "0.0005"}) for _ in range(3)]
    wait_until(lambda: count(queue) == 0, "an empty queue", 60)
    handled = []
    for worker in workers:
        handled += worker.terminate()[0].split()
        assert worker.code == 0
    assert sorted(map(str, range(3000))) == sorted(handled)


def test_a_lease_is_renewed_while_its_message_is_handled(missive: Start, queue: sqlite3.Connection):
    """A message is not redelivered while its handler runs for several leases, or while it waits for a worker."""
    enqueue(queue, "1", "2")
    command = [*RUN[:3], "sqlite:///queue.db?queue=q&lease=0.6", *RUN[4:]]
    workers = [missive(*command, env={"SLEEP": "2"}) for _ in range(2)]
    wait_until(lambda: count(queue) == 0, "an empty queue")
    handled = []
    for worker in workers:
        handled += worker.terminate()[0].split()
    assert sorted(handled) == ["1", "2"]


def test_a_signal_releases_unstarted_messages_at_once(missive: Start, queue: sqlite3.Connection):
    """On SIGTERM, the running handler finishes, and other consumers can lease the other messages at once."""
    enqueue(queue, *map(str, range(10)))
    process = missive(*RUN, env={"SLEEP": "1"})
    assert process.line() == "0\n"
    _, err = process.terminate()
    assert "1 handled, 0 dead-lettered, 9 given back unhandled" in err
    rows = queue.execute("SELECT lease, deliveries, visible_at = sent_at FROM missive_queue").fetchall()
    assert rows == [(None, 0, 1)] * 9


def test_a_message_has_the_envelope_of_its_row(queue: sqlite3.Connection, tmp_path: Path):
    """The columns become headers, key, topic, id and times of the message. A text body becomes UTF-8."""
    queue.execute(
        "INSERT INTO missive_queue (queue, body, headers, key, topic, message_id, content_type, sent_at)"
        " VALUES ('q', 'héllo', ?, 'k', 't', 'id-1', 'text/plain', 1234.5)",
        (json.dumps([["X-A", "1"], ["x-a", "2"]]),),
    )
    queue.execute("INSERT INTO missive_queue (queue, body, headers) VALUES ('q', ?, 'no json')", (b"\xff",))
    proc = m.Processor(name="t")
    seen: list[Any] = []
    adapter = SQLiteAdapter(proc, tmp_path / "queue.db", "q")

    @proc.handle_for(Everything())
    def handle(message: m.RawMessage, context: m.HandlingContext) -> None:
        rows = context.adapter.call(
            lambda: context.adapter.client.execute("SELECT count(*) FROM missive_queue").fetchone()
        )
        seen.append((message, context.native, context.attempt, rows))
        if len(seen) == 2:
            engines[0].stop()

    engines: list[Engine] = []
    start = Engine.__init__

    def recorded(engine: Engine, *args: Any, **kwargs: Any) -> None:
        start(engine, *args, **kwargs)
        engines.append(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", recorded)
        adapter.run()
    (first, native, attempt, rows), (second, *_) = seen
    assert ("héllo".encode(), ("1", "2"), "k", "t", "id-1", 1234.5, "text/plain") == (
        first.raw_data, first.headers["x-a"], first.key, first.topic, first.message_id, first.timestamp,
        first.content_type,
    )  # fmt: skip
    assert (native, attempt, rows) == (1, 1, (2,))
    assert (second.raw_data, second.message_id, second.headers["headers"]) == (b"\xff", "2", "no json")


def test_a_consumer_waits_for_a_missing_queue(missive: Start, tmp_path: Path):
    """A missing file is reported, and its messages are handled after it is created."""
    (tmp_path / "app.py").write_text(NUMBERS)
    process = missive(*RUN)
    assert "the file does not exist" in process.error_line()
    connection = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
    connection.executescript(SCHEMA)
    enqueue(connection, "7")
    wait_until(lambda: count(connection) == 0, "an empty queue")
    assert process.terminate()[0] == "7\n"
    connection.close()


def test_a_file_that_is_not_a_database_is_fatal(missive: Start, tmp_path: Path):
    """A file of another kind ends processing with one line and exit code 1."""
    (tmp_path / "app.py").write_text(NUMBERS)
    (tmp_path / "queue.db").write_text("this is not a database\n" * 100)
    process = missive(*RUN)
    _, err = process.finish()
    assert process.code == 1
    assert err.splitlines()[-1] == "missive: sqlite:///queue.db?queue=q: file is not a database"


def test_a_message_is_redelivered_after_its_lease(missive: Start, queue: sqlite3.Connection):
    """After SIGKILL, the leases expire and another worker handles the messages."""
    enqueue(queue, "1")
    command = [*RUN[:3], "sqlite:///queue.db?queue=q&lease=1", *RUN[4:]]
    first = missive(*command, env={"SLEEP": "60"})
    assert first.line() == "1\n"
    first.kill()
    second = missive(*command)
    wait_until(lambda: count(queue) == 0, "an empty queue")
    assert second.terminate()[0] == "1\n"


class Clock(Host):
    """A host that provides the time only."""

    def time(self) -> float:
        """Return the time."""
        return time.time()


@contextlib.asynccontextmanager
async def consuming(path: Path, lease: float = 30) -> AsyncIterator[Session]:
    """Open a session of the queue, and close it afterwards."""
    adapter = SQLiteAdapter(m.Processor(m.JSONMessage, name="app", dlq={}), path, "q", lease=lease)
    session = await adapter.connect(Clock())
    try:
        yield session
    finally:
        await session.close()


@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_only_messages_of_this_session_are_settled(queue: sqlite3.Connection, tmp_path: Path, left: int):
    """In one call, messages of another consumer are fenced; messages outside the call stay leased."""
    enqueue(queue, *"1234")
    stolen = left % 4 + 1

    async def consume() -> dict[int, SettlementResult]:
        async with consuming(tmp_path / "queue.db") as session:
            found = await session.fetch(Credit(4, 1000))
            assert [one.attempt for one in found] == [1] * 4
            queue.execute("UPDATE missive_queue SET lease = 'another' WHERE id = ?", (stolen,))
            settlements = [Settlement(one, Disposition.ack) for one in found if one.native != left]
            results = await session.settle(settlements)
            return {one.delivery.native: result for one, result in zip(settlements, results, strict=True)}

    results = asyncio.run(consume())
    assert results == {
        n: SettlementResult.fenced if n == stolen else SettlementResult.confirmed for n in range(1, 5) if n != left
    }
    assert [row[0] for row in queue.execute("SELECT id FROM missive_queue")] == sorted([left, stolen])


def test_a_released_message_is_available_at_once(queue: sqlite3.Connection, tmp_path: Path):
    """A released message is available at once, although its `sent_at` is far in the future."""
    queue.execute("INSERT INTO missive_queue (queue, body, sent_at) VALUES ('q', 'x', 1795471108909)")

    async def release() -> Delivery:
        async with consuming(tmp_path / "queue.db") as session:
            (delivery,) = await session.fetch(Credit(1, 1000))
            await session.settle([Settlement(delivery, Disposition.release)])
            (redelivery,) = await session.fetch(Credit(1, 1000))
            return redelivery

    redelivery = asyncio.run(release())
    assert (redelivery.body, redelivery.attempt) == (b"x", 1)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (1000, 1), (1001, 2), (2500, 3), (10_000, 10), (10_001, 10)])
def test_a_fetch_ends_with_the_message_that_exceeds_the_credit(
    queue: sqlite3.Connection, tmp_path: Path, size: int, expected: int
):
    """A fetch leases messages until the bytes of the credit are used up; the other messages stay free."""
    enqueue(queue, *["x" * 1000] * 10)

    async def fetched() -> int:
        async with consuming(tmp_path / "queue.db") as session:
            return len(await session.fetch(Credit(100, size)))

    assert asyncio.run(fetched()) == expected
    assert queue.execute("SELECT count(lease) FROM missive_queue").fetchone() == (expected,)


def acked(deliveries: Sequence[Delivery]) -> list[Settlement]:
    return [Settlement(one, Disposition.ack) for one in deliveries]


LEASED = "SELECT min(body), max(body), count(*) FROM missive_queue WHERE lease IS NOT NULL"


def test_many_settlements_lease_as_many_messages_ahead(queue: sqlite3.Connection, tmp_path: Path):
    """Many settlements lease as many messages for the next fetch; few lease none; `stop_intake` returns them."""
    enqueue(queue, *map(str, range(1000, 2000)))

    async def consume() -> None:
        async with consuming(tmp_path / "queue.db") as session:
            first = await session.fetch(Credit(350, 10_000))
            await session.settle(acked(first[:300]))
            assert queue.execute(LEASED).fetchone() == ("1300", "1649", 350)
            second = await session.fetch(Credit(300, 10_000))
            assert [one.body for one in second] == [b"%d" % number for number in range(1350, 1650)]
            await session.settle(acked(second[:299]))
            assert queue.execute(LEASED).fetchone() == ("1300", "1649", 51)
            third = await session.fetch(Credit(299, 10_000))
            await session.settle(acked([*third, second[299]]))
            left = await session.stop_intake()
            assert [one.body for one in left] == [b"%d" % number for number in range(1949, 2000)]
            await session.settle([Settlement(one, Disposition.release) for one in [*left, *first[300:]]])
            assert queue.execute(LEASED).fetchone() == (None, None, 0)

    asyncio.run(consume())
    assert queue.execute("SELECT count(*), max(deliveries) FROM missive_queue").fetchone() == (101, 0)


@pytest.mark.parametrize("stolen", [False, True])
@pytest.mark.parametrize("how", ["fetch", "extend"])
def test_messages_leased_ahead_return_to_the_queue(
    queue: sqlite3.Connection, tmp_path: Path, how: str, *, stolen: bool
):
    """Messages leased ahead return at a renewal or a late fetch, and this counts as no delivery."""
    enqueue(queue, *map(str, range(1000, 2000)))

    async def consume() -> None:
        async with consuming(tmp_path / "queue.db", lease=4) as session:
            first = await session.fetch(Credit(400, 10_000))
            await session.settle(acked(first[:300]))
            if stolen:
                queue.execute("UPDATE missive_queue SET lease = 'another' WHERE body = '1600'")
            session._fetched_at -= 1.1  # seconds in the past
            if how == "fetch":
                found = await session.fetch(Credit(10, 10_000))
                assert [(one.body, one.attempt) for one in found[:2]] == [(b"1400", 1), (b"1401", 1)]
                await session.settle([Settlement(one, Disposition.release) for one in found])
            else:
                await session.extend(first[300:])
            assert queue.execute(LEASED).fetchone() == (("1300", "1600", 101) if stolen else ("1300", "1399", 100))

    asyncio.run(consume())
    free = "SELECT min(body), count(*), max(deliveries) FROM missive_queue WHERE lease IS NULL"
    assert queue.execute(free).fetchone() == ("1400", 599 if stolen else 600, 0)


def test_a_failed_release_keeps_the_messages(
    queue: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """If the release fails, `stop_intake` returns the messages leased ahead; the renewal of others succeeds."""
    enqueue(queue, *map(str, range(1000, 2000)))

    async def refuse(_settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        raise m.Transient("the file is locked")

    async def consume() -> None:
        async with consuming(tmp_path / "queue.db", lease=4) as session:
            first = await session.fetch(Credit(400, 10_000))
            await session.settle(acked(first[:300]))
            session._fetched_at -= 1.1  # seconds in the past
            monkeypatch.setattr(session, "settle", refuse)
            assert list(await session.extend(first[300:])) == [SettlementResult.confirmed] * 100
            assert len(await session.stop_intake()) == 300
            renewed = "SELECT count(*) FROM missive_queue WHERE visible_at > ? AND body < '1400'"
            assert queue.execute(renewed, (time.time() + 3,)).fetchone() == (100,)

    asyncio.run(consume())


def test_a_failed_lease_ahead_undoes_no_settlement(queue: sqlite3.Connection, tmp_path: Path):
    """If the next messages cannot be leased, the settlements stand; the next fetch raises the error."""
    enqueue(queue, *map(str, range(1000, 2000)))

    async def consume() -> None:
        async with consuming(tmp_path / "queue.db") as session:
            found = await session.fetch(Credit(300, 10_000))
            queue.execute(
                "CREATE TRIGGER broken BEFORE UPDATE ON missive_queue WHEN new.body = '1400'"
                " BEGIN SELECT RAISE(ABORT, 'broken'); END"
            )
            assert list(await session.settle(acked(found))) == [SettlementResult.confirmed] * 300
            assert queue.execute("SELECT count(*), count(lease) FROM missive_queue").fetchone() == (700, 0)
            with pytest.raises(m.MissiveError, match="broken"):
                await session.fetch(Credit(300, 10_000))

    asyncio.run(consume())


def test_an_invalid_row_does_not_block_other_messages(queue: sqlite3.Connection, tmp_path: Path):
    """Invalid UTF-8, a number as body and deeply nested headers are delivered, and so are later messages."""
    latin = "CAST(x'e9ff' AS TEXT)"
    queue.execute(f"INSERT INTO missive_queue (queue, body, key) VALUES ('q', {latin}, {latin})")
    queue.execute("INSERT INTO missive_queue (queue, body, headers) VALUES ('q', 7, ?)", ("[" * 200_000,))
    enqueue(queue, "last")

    async def consume() -> list[tuple[object, ...]]:
        async with consuming(tmp_path / "queue.db") as session:
            found = await session.fetch(Credit(10, 1000))
            return [(one.body, one.key, len(one.headers)) for one in found]

    assert asyncio.run(consume()) == [(b"\xe9\xff", b"\xe9\xff", 0), (b"7", None, 1), (b"last", None, 0)]


@pytest.mark.parametrize(
    ("column", "headers"),
    [
        (
            '[["f", 0.75], ["t", true], ["n", null], ["s", "é"]]',
            [("f", "0.75"), ("t", "true"), ("n", "null"), ("s", "é")],
        ),
        (
            '{"a": 1, "a": 1e400, "b": 0.12345678901234567890}',
            [("a", "1"), ("a", "1E+400"), ("b", "0.12345678901234567890")],
        ),
        ('[["o", {"a": [1.50, "é"], "a": {}}]]', [("o", '{"a": [1.50, "\\u00e9"], "a": {}}')]),
        (b'[["\xff", "\xfe"]]', [("\\xff", b"\xfe")]),
        (r'[["\ud800", "\ud801"]]', [("\\ud800", "\\ud801")]),
        ('["ab"]', [("headers", '["ab"]')]),
        (17, [("headers", "17")]),
    ],
)
def test_header_values_read_back_to_the_same_values(
    queue: sqlite3.Connection, tmp_path: Path, column: object, headers: list[tuple[str, str | bytes]]
):
    """A value that is not text arrives as JSON with its digits. Names and values of any bytes arrive."""
    queue.execute("INSERT INTO missive_queue (queue, body, headers) VALUES ('q', '1', ?)", (column,))

    async def consume() -> Any:
        async with consuming(tmp_path / "queue.db") as session:
            (found,) = await session.fetch(Credit(10, 1000))
            return found.headers

    assert asyncio.run(consume()) == headers


STUBBORN = """
import os, time, missive
from missive.matchers import Field
proc = missive.Processor(missive.JSONMessage, name="app", concurrency=2)

@proc.handle_for(Field("kind", "blocks"))
async def blocks(message, context):
    os.write(1, b"blocks\\n")
    time.sleep(2)  # blocks the loop of the handlers on purpose

@proc.handle_for(Field("kind", "computes"))
def computes(message, context):
    os.write(1, b"computes\\n")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        sum(range(1000))
"""


def test_handlers_that_never_yield_keep_their_leases(missive: Start, queue: sqlite3.Connection, tmp_path: Path):
    """A blocking `async def` and a CPU-bound handler, each of three leases, get their messages once."""
    (tmp_path / "app.py").write_text(STUBBORN)
    enqueue(queue, '{"kind": "blocks"}', '{"kind": "computes"}')
    command = [*RUN[:3], "sqlite:///queue.db?queue=q&lease=0.6", *RUN[4:]]
    workers = [missive(*command) for _ in range(2)]
    wait_until(lambda: count(queue) == 0, "an empty queue")
    handled, errors = [], ""
    for worker in workers:
        out, err = worker.terminate()
        handled += out.split()
        errors += err
    assert sorted(handled) == ["blocks", "computes"]
    assert "lost" not in errors


def test_a_long_delay_waits_in_the_queue(missive: Start, queue: sqlite3.Connection, tmp_path: Path):
    """A late retry waits in its queue with its number of attempts, and another worker handles it."""
    application = """
import missive
proc = missive.Processor(missive.JSONMessage, name="app", retry=missive.Retry(immediate=1, delays=[3600]))
@proc.handle_for(lambda message: True)
def number(message, context):
    print(context.attempt, flush=True)
    raise ConnectionError("down")
"""
    (tmp_path / "app.py").write_text(application)
    enqueue(queue, "1")
    process = missive(*RUN)
    row = "SELECT deliveries, visible_at - sent_at, lease FROM missive_queue"
    wait_until(lambda: queue.execute(row).fetchone()[1] > 3000, "the delay")
    deliveries, delay, lease = queue.execute(row).fetchone()
    assert (deliveries, lease.partition("/")[0]) == (2, "delay")
    assert 3590 < delay < 3660
    assert process.terminate()[0].split() == ["1", "2"]
    queue.execute("UPDATE missive_queue SET visible_at = 0")
    process = missive(*RUN)
    assert process.line().strip() == "3"
    process.terminate()
