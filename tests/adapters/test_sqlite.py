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
    """A queue's file, and a connection of a producer's."""
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
    """What was there and what comes later is handled in order, and gone once it is."""
    enqueue(queue, *map(str, range(50)))
    process = missive(*RUN)
    wait_until(lambda: count(queue) == 0, "an empty queue")
    enqueue(queue, *map(str, range(50, 60)))
    wait_until(lambda: count(queue) == 0, "an empty queue again")
    assert [str(n) for n in range(60)] == process.terminate()[0].split()
    assert process.code == 0


def test_several_processes_share_a_queue(missive: Start, queue: sqlite3.Connection):
    """Three workers on one file handle each message once."""
    enqueue(queue, *map(str, range(3000)))
    workers = [missive(*RUN, env={"SLEEP": "0.0005"}) for _ in range(3)]
    wait_until(lambda: count(queue) == 0, "an empty queue", 60)
    handled = []
    for worker in workers:
        handled += worker.terminate()[0].split()
        assert worker.code == 0
    assert sorted(map(str, range(3000))) == sorted(handled)


def test_a_lease_is_renewed_while_its_message_is_handled(missive: Start, queue: sqlite3.Connection):
    """Handlers that take several leases, and messages that wait behind them, are not delivered a second time."""
    enqueue(queue, "1", "2")
    command = [*RUN[:3], "sqlite:///queue.db?queue=q&lease=0.6", *RUN[4:]]
    workers = [missive(*command, env={"SLEEP": "2"}) for _ in range(2)]
    wait_until(lambda: count(queue) == 0, "an empty queue")
    handled = []
    for worker in workers:
        handled += worker.terminate()[0].split()
    assert sorted(handled) == ["1", "2"]


def test_a_signal_gives_unstarted_messages_back_at_once(missive: Start, queue: sqlite3.Connection):
    """On SIGTERM the running message finishes, and the others can be claimed by somebody else without waiting."""
    enqueue(queue, *map(str, range(10)))
    process = missive(*RUN, env={"SLEEP": "1"})
    assert process.line() == "0\n"
    _, err = process.terminate()
    assert "1 handled, 0 dead-lettered, 9 given back unhandled" in err
    rows = queue.execute("SELECT lease, deliveries, visible_at = sent_at FROM missive_queue").fetchall()
    assert rows == [(None, 0, 1)] * 9


def test_the_envelope_arrives(queue: sqlite3.Connection, tmp_path: Path):
    """Headers, key, topic, ids and times of the columns are the message's; a text body is its UTF-8."""
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

    def noted(engine: Engine, *args: Any, **kwargs: Any) -> None:
        start(engine, *args, **kwargs)
        engines.append(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", noted)
        adapter.run()
    (first, native, attempt, rows), (second, *_) = seen
    assert ("héllo".encode(), ("1", "2"), "k", "t", "id-1", 1234.5, "text/plain") == (
        first.raw_data, first.headers["x-a"], first.key, first.topic, first.message_id, first.timestamp,
        first.content_type,
    )  # fmt: skip
    assert (native, attempt, rows) == (1, 1, (2,))
    assert (second.raw_data, second.message_id, second.headers["headers"]) == (b"\xff", "2", "no json")


def test_a_queue_that_is_not_there_yet_is_waited_for(missive: Start, tmp_path: Path):
    """A missing file is said once and tried again; once it is there, its messages are handled."""
    (tmp_path / "app.py").write_text(NUMBERS)
    process = missive(*RUN)
    assert "the file does not exist" in process.error_line()
    connection = sqlite3.connect(tmp_path / "queue.db", isolation_level=None)
    connection.executescript(SCHEMA)
    enqueue(connection, "7")
    wait_until(lambda: count(connection) == 0, "an empty queue")
    assert process.terminate()[0] == "7\n"
    connection.close()


def test_a_file_that_is_no_database_is_fatal(missive: Start, tmp_path: Path):
    """Another kind of file is refused with one line and exit code 1, and stays as it is."""
    (tmp_path / "app.py").write_text(NUMBERS)
    (tmp_path / "queue.db").write_text("nothing of the kind\n" * 100)
    process = missive(*RUN)
    _, err = process.finish()
    assert process.code == 1
    assert err.splitlines()[-1] == "missive: sqlite:///queue.db?queue=q: file is not a database"


def test_an_expired_lease_is_redelivered_and_fenced(missive: Start, queue: sqlite3.Connection):
    """After SIGKILL the leases run out, another worker gets the messages, and knows that it is not the first."""
    enqueue(queue, "1")
    command = [*RUN[:3], "sqlite:///queue.db?queue=q&lease=1", *RUN[4:]]
    first = missive(*command, env={"SLEEP": "60"})
    assert first.line() == "1\n"
    first.kill()
    second = missive(*command)
    wait_until(lambda: count(queue) == 0, "an empty queue")
    assert second.terminate()[0] == "1\n"


class Clock(Host):
    """A host of which only the time is asked."""

    def time(self) -> float:
        """Return the time."""
        return time.time()


@contextlib.asynccontextmanager
async def consuming(path: Path, lease: float = 30) -> AsyncIterator[Session]:
    """Hold a session of the queue's."""
    adapter = SQLiteAdapter(m.Processor(m.JSONMessage, name="app", dlq={}), path, "q", lease=lease)
    session = await adapter.connect(Clock())
    try:
        yield session
    finally:
        await session.close()


@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_only_what_is_ours_is_settled(queue: sqlite3.Connection, tmp_path: Path, left: int):
    """Of what is settled together, what somebody else has since is fenced; what was not named stays leased."""
    enqueue(queue, *"1234")
    stolen = left % 4 + 1

    async def consume() -> dict[int, SettlementResult]:
        async with consuming(tmp_path / "queue.db") as session:
            found = await session.fetch(Credit(4, 1000))
            assert [one.attempt for one in found] == [1] * 4
            queue.execute("UPDATE missive_queue SET lease = 'another' WHERE id = ?", (stolen,))
            items = [Settlement(one, Disposition.ack) for one in found if one.native != left]
            results = await session.settle(items)
            return {item.delivery.native: result for item, result in zip(items, results, strict=True)}

    results = asyncio.run(consume())
    assert results == {
        n: SettlementResult.fenced if n == stolen else SettlementResult.confirmed for n in range(1, 5) if n != left
    }
    assert [row[0] for row in queue.execute("SELECT id FROM missive_queue")] == sorted([left, stolen])


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (1000, 1), (1001, 2), (2500, 3), (10_000, 10), (10_001, 10)])
def test_a_claim_ends_with_the_message_that_is_over_the_credit(
    queue: sqlite3.Connection, tmp_path: Path, size: int, expected: int
):
    """As many are claimed as have bytes of the credit left to begin with; the others stay free."""
    enqueue(queue, *["x" * 1000] * 10)

    async def claim() -> int:
        async with consuming(tmp_path / "queue.db") as session:
            return len(await session.fetch(Credit(100, size)))

    assert asyncio.run(claim()) == expected
    assert queue.execute("SELECT count(lease) FROM missive_queue").fetchone() == (expected,)


def acked(deliveries: Sequence[Delivery]) -> list[Settlement]:
    return [Settlement(one, Disposition.ack) for one in deliveries]


LEASED = "SELECT min(body), max(body), count(*) FROM missive_queue WHERE lease IS NOT NULL"


def test_what_is_settled_makes_room_for_as_much(queue: sqlite3.Connection, tmp_path: Path):
    """While there is more, many settlements lease as many for the next fetch; few lease none; a stop returns them."""
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
def test_what_is_not_fetched_in_time_is_given_back(
    queue: sqlite3.Connection, tmp_path: Path, how: str, *, stolen: bool
):
    """What was claimed with a settlement goes back when leases are renewed, or at a late fetch, as if it never came."""
    enqueue(queue, *map(str, range(1000, 2000)))

    async def consume() -> None:
        async with consuming(tmp_path / "queue.db", lease=4) as session:
            first = await session.fetch(Credit(400, 10_000))
            await session.settle(acked(first[:300]))
            if stolen:
                queue.execute("UPDATE missive_queue SET lease = 'another' WHERE body = '1600'")
            session._fetched_at -= 1.1  # as if so many seconds had passed
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


def test_what_cannot_be_given_back_is_kept(queue: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was claimed ahead, and cannot be given back now, is returned by a stop; others are renewed all the same."""
    enqueue(queue, *map(str, range(1000, 2000)))

    async def refuse(_items: Sequence[Settlement]) -> Sequence[SettlementResult]:
        raise m.Transient("the file is locked")

    async def consume() -> None:
        async with consuming(tmp_path / "queue.db", lease=4) as session:
            first = await session.fetch(Credit(400, 10_000))
            await session.settle(acked(first[:300]))
            session._fetched_at -= 1.1  # as if so many seconds had passed
            monkeypatch.setattr(session, "settle", refuse)
            assert list(await session.extend(first[300:])) == [SettlementResult.confirmed] * 100
            assert len(await session.stop_intake()) == 300
            renewed = "SELECT count(*) FROM missive_queue WHERE visible_at > ? AND body < '1400'"
            assert queue.execute(renewed, (time.time() + 3,)).fetchone() == (100,)

    asyncio.run(consume())


def test_a_claim_that_fails_undoes_no_settlement(queue: sqlite3.Connection, tmp_path: Path):
    """Where what comes next cannot be claimed, what was handled is settled all the same; the next fetch says why."""
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


def test_what_a_producer_wrote_wrong_keeps_no_other_back(queue: sqlite3.Connection, tmp_path: Path):
    """Text that is no UTF-8, a number for a body, headers that are too deep: each is delivered, and what follows."""
    latin = "CAST(x'e9ff' AS TEXT)"
    queue.execute(f"INSERT INTO missive_queue (queue, body, key) VALUES ('q', {latin}, {latin})")
    queue.execute("INSERT INTO missive_queue (queue, body, headers) VALUES ('q', 7, ?)", ("[" * 200_000,))
    enqueue(queue, "last")

    async def consume() -> list[tuple[object, ...]]:
        async with consuming(tmp_path / "queue.db") as session:
            found = await session.fetch(Credit(10, 1000))
            return [(one.body, one.key, len(one.headers)) for one in found]

    assert asyncio.run(consume()) == [(b"\xe9\xff", "\ufffd\ufffd", 0), (b"7", None, 1), (b"last", None, 0)]


STUBBORN = """
import os, time, missive
from missive.matchers import Field
proc = missive.Processor(missive.JSONMessage, name="app", concurrency=2)

@proc.handle_for(Field("kind", "blocks"))
async def blocks(message, context):
    os.write(1, b"blocks\\n")
    time.sleep(2)  # on the loop of the handlers, as nobody should

@proc.handle_for(Field("kind", "computes"))
def computes(message, context):
    os.write(1, b"computes\\n")
    until = time.monotonic() + 2
    while time.monotonic() < until:
        sum(range(1000))
"""


def test_handlers_that_never_yield_keep_their_leases(missive: Start, queue: sqlite3.Connection, tmp_path: Path):
    """A blocking `async def` and a CPU-bound handler, each of three leases, are delivered once, though others wait."""
    (tmp_path / "app.py").write_text(STUBBORN)
    enqueue(queue, '{"kind": "blocks"}', '{"kind": "computes"}')
    command = [*RUN[:3], "sqlite:///queue.db?queue=q&lease=0.6", *RUN[4:]]
    workers = [missive(*command) for _ in range(2)]
    wait_until(lambda: count(queue) == 0, "an empty queue")
    handled, said = [], ""
    for worker in workers:
        out, err = worker.terminate()
        handled += out.split()
        said += err
    assert sorted(handled) == ["blocks", "computes"]
    assert "lost" not in said


def test_a_long_delay_is_the_queues_own(missive: Start, queue: sqlite3.Connection, tmp_path: Path):
    """What is retried late waits in its queue, with all its attempts counted, also without its worker."""
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
    assert (deliveries, lease) == (2, None)
    assert 3590 < delay < 3660
    assert process.terminate()[0].split() == ["1", "2"]
    queue.execute("UPDATE missive_queue SET visible_at = 0")
    process = missive(*RUN)
    assert process.line().strip() == "3"
    process.terminate()
