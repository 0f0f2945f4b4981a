"""A durable queue in an SQLite file: leases, redelivery, several processes on one file, and no server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from missive._sqlite import enable_wal, network_filesystem
from missive.adapters.base import Adapter, Finding
from missive.adapters.parameters import constructor_arguments
from missive.adapters.threaded import ClientThread, ThreadedSession
from missive.app.processor import Processor
from missive.errors import Fatal, Transient, UsageError
from missive.ids import new_id
from missive.transport import Capabilities, Credit, Delivery, Disposition, Host, Session, Settlement, SettlementResult
from missive.urls import ParsedURL

if TYPE_CHECKING:
    from typing_extensions import Self

SCHEMA = """\
CREATE TABLE IF NOT EXISTS missive_queue (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    queue        TEXT NOT NULL,
    body         BLOB NOT NULL,
    headers      TEXT,     -- a JSON array of [name, value] pairs
    key          TEXT,
    topic        TEXT,
    message_id   TEXT,     -- the producer's
    content_type TEXT,
    sent_at      REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    visible_at   REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    deliveries   INTEGER NOT NULL DEFAULT 0,
    lease        TEXT      -- who has it, until visible_at
);
CREATE INDEX IF NOT EXISTS missive_queue_next ON missive_queue (queue, visible_at, id);
"""
"""The queue's table. Enqueueing is one INSERT: `INSERT INTO missive_queue (queue, body) VALUES (?, ?)`."""

_POLL = 0.05
_STALE = 0.25
"""What was claimed ahead is not handed out after this share of its lease: somebody else may have time for it."""
_MUCH = 300
"""Only beside so many settlements is as much claimed ahead: then the engine is about to ask for it."""
_BUSY_SECONDS = 30
_MOST_DELAY = 366 * 86400.0
_FIND = """\
SELECT id, CAST(body AS BLOB), headers, key, topic, message_id, content_type, sent_at, deliveries + 1 FROM missive_queue
WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?
"""
_LEASE = "UPDATE missive_queue SET visible_at = :until, lease = :lease, deliveries = deliveries + 1 WHERE "
_SETTLE = {
    Disposition.ack: "DELETE FROM missive_queue WHERE ",
    # Deliveries are counted as attempts, and several may have been spent in one.
    Disposition.delay: (
        "UPDATE missive_queue SET lease = NULL, deliveries = :attempt, visible_at = :now + :delay WHERE "
    ),
    # In its old place, but never in the future: sent_at is the producer's, and its clock may be wrong.
    Disposition.release: (
        "UPDATE missive_queue SET lease = NULL, deliveries = deliveries - 1, visible_at = min(sent_at, :now) WHERE "
    ),
}


class SQLiteAdapter(Adapter):
    """Consumes a queue in an SQLite file: `sqlite:///queue.db?queue=orders`.

    A message that is fetched is leased for `lease` seconds, renewed while it is worked on; a worker that dies lets
    its leases run out, and others get the messages. `create=True` makes the file and its table; otherwise one that
    is missing is waited for. Producers write with one INSERT; the table is `missive.adapters.sqlite.SCHEMA`.
    `context.native` is the row's id, and the client is the `sqlite3.Connection`, on its own thread.
    """

    transport = "sqlite"

    def __init__(
        self,
        processor: Processor[Any],
        path: str | Path,
        queue: str,
        *,
        lease: float = 30.0,
        create: bool = False,
        drain: float = 25,
        rate_limit: str | None = None,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        if not lease > 0:
            raise UsageError("lease= is a number of seconds above zero")
        self.path = Path(path)
        self.queue = queue
        self.lease = lease
        self.create = create

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter of `sqlite:///path/to/file.db?queue=NAME`, with SQLAlchemy's count of slashes."""
        if url.authority or not url.path.strip("/"):
            raise UsageError(f"an SQLite queue's URL is sqlite:///queue.db?queue=orders ({url!r} names no file)")
        return cls(processor, url.path[1:], **constructor_arguments(cls, url, exclude=("path",)))

    @property
    def destination(self) -> str:
        """The queue."""
        return self.queue

    @property
    def url(self) -> str:
        """The file and the queue."""
        return f"sqlite:///{self.path}?queue={self.queue}"

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Say how many messages wait, and whether the file is where SQLite's locks work."""
        count = "SELECT count(*) FROM missive_queue WHERE queue = ?"
        waiting = session.submit(lambda: session.client.execute(count, (self.queue,)).fetchone()[0])
        findings = [Finding("ok", "queue", f"{self.queue} has {await asyncio.wrap_future(waiting)} messages")]
        if (kind := network_filesystem(self.path)) is not None:
            says = f"{self.path} is on a network disk ({kind}), where SQLite's locks do not work: use a local one"
            findings.append(Finding("error", "disk", says))
        return findings

    async def connect(self, host: Host) -> SQLiteSession:
        """Open the file. Raises `Transient` when it or its table is missing, `Fatal` when it is no such database."""
        session = SQLiteSession(self, host)
        try:
            await session.thread.run(session.open)
        except BaseException:
            await session.close()
            raise
        return session


class SQLiteSession(ThreadedSession):
    """One connection to the file. A delivery's token is the claim it belongs to."""

    def __init__(self, adapter: SQLiteAdapter, host: Host) -> None:
        super().__init__(ClientThread("missive-sqlite"))
        self.capabilities = Capabilities(lease=adapter.lease, fences=True, attempts="exact", max_delay=_MOST_DELAY)
        self._adapter = adapter
        self._host = host
        self._owner = new_id()[-12:]  # 60 random bits: what is short makes rows short
        self._claims = 0
        self._fetched: deque[Delivery] = deque()
        self._fetched_at = 0.0
        self._more = False
        """Whether the last claim left something behind."""
        self._stopped = False

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return what was claimed with the last settlements, or claim now; look again every so often."""
        await self._give_back_stale()
        while not self._fetched:
            await self.thread.run(self._claim, credit)
            if not self._fetched:
                await self._host.sleep(_POLL)
        return [self._fetched.popleft() for _ in range(credit.count_fitting(self._fetched))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Delete what is done with, and make visible what is released, in one transaction with the next claim."""
        return await self.thread.run(self._settle, settlements)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Move the end of the leases, in one transaction."""
        results = await self.thread.run(self._extend, deliveries)
        with contextlib.suppress(Transient):  # it is tried again, and these are renewed
            await self._give_back_stale()
        return results

    async def _give_back_stale(self) -> None:
        """Give back what has waited too long to be fetched."""
        if self._fetched and self._host.time() - self._fetched_at > _STALE * self._adapter.lease:
            stale, self._fetched = self._fetched, deque()
            try:
                await self.settle([Settlement(one, Disposition.release) for one in stale])
            except BaseException:
                self._fetched.extend(stale)  # for `stop_intake`, or the next try
                raise

    async def stop_intake(self) -> Sequence[Delivery]:
        """Return what was claimed and not fetched."""
        self._stopped = True
        await self.quiesce()
        left = list(self._fetched)
        self._fetched.clear()
        return left

    async def close(self) -> None:
        """Close the connection."""
        if self.client is not None:
            client, self.client = self.client, None
            await self.thread.run(client.close)
        await super().close()

    # On the connection's thread

    def open(self) -> None:
        """Connect, and see that the queue's table is there."""
        path, url = self._adapter.path, self._adapter.url
        if path.is_dir():
            raise Fatal(f"{url} is a directory: name a file in it")
        if not self._adapter.create and not path.exists():
            raise Transient(f"{url}: the file does not exist (create=true makes it)")
        with self._troubles():
            self.client = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self.client.text_factory = _text
            enable_wal(self.client, _BUSY_SECONDS)
            if self._adapter.create:
                self.client.executescript(SCHEMA)
            there = self.client.execute("SELECT 1 FROM sqlite_master WHERE name = 'missive_queue'").fetchone()
        if there is None:
            raise Transient(f"{url}: the file has no table missive_queue (create=true makes it)")

    def _claim(self, credit: Credit) -> None:
        # Looked for before it is locked, so that an idle consumer never writes.
        there = "SELECT 1 FROM missive_queue WHERE queue = ? AND visible_at <= ? LIMIT 1"
        with self._troubles():
            if self.client.execute(there, (self._adapter.queue, self._host.time())).fetchone() is None:
                return
            with self._transaction():
                found = self._lease_next(credit)
        self._fetched.extend(found)

    def _lease_next(self, credit: Credit) -> Sequence[Delivery]:
        now = self._host.time()
        self._claims += 1
        token = f"{self._owner}:{self._claims}"
        found, size = [], 0
        with contextlib.closing(self.client.execute(_FIND, (self._adapter.queue, now, credit.items))) as rows:
            for row in rows:
                found.append(delivery := _delivery(row, token))
                size += len(delivery.body)
                if size >= credit.bytes:
                    break
        if found:
            which, given = _rows([delivery.native for delivery in found])
            given |= {"until": now + self._adapter.lease, "lease": token}
            self.client.execute(_LEASE + which, given)
        self._fetched_at, self._more = now, len(found) == credit.items or size >= credit.bytes
        return found

    def _settle(self, items: Sequence[Settlement]) -> list[SettlementResult]:
        verbs: dict[tuple[Disposition, str, float, int], list[int]] = {}
        for item in items:
            delivery = item.delivery
            told = (item.disposition, delivery.token, item.delay, item.attempt)
            if (ids := verbs.get(told)) is None:
                ids = verbs[told] = []
            ids.append(delivery.native)
        ahead: Sequence[Delivery] = ()
        with self._troubles():
            try:
                with self._transaction():
                    for told, ids in verbs.items():
                        # Counted, which is cheaper than to have SQLite name each.
                        if self._tell(told, ids).rowcount != len(ids):
                            raise _SomeFencedError  # noqa: TRY301 - it undoes the transaction
                    # What is given back is not taken again at once.
                    if len(items) >= _MUCH and not any(verb is Disposition.release for verb, *_ in verbs):
                        ahead = self._claim_ahead(items)
            except _SomeFencedError:
                done: set[int] = set()
                with self._transaction():
                    for told, ids in verbs.items():
                        done.update(row[0] for row in self._tell(told, ids, " RETURNING id").fetchall())
                return [
                    SettlementResult.confirmed if item.delivery.native in done else SettlementResult.fenced
                    for item in items
                ]
        self._fetched.extend(ahead)
        return [SettlementResult.confirmed] * len(items)

    def _claim_ahead(self, settled: Sequence[Settlement]) -> Sequence[Delivery]:
        """Claim as much as was settled, where there is more, in the same transaction: each waits for the disk."""
        if not self._more or self._fetched or self._stopped:
            return ()
        room = Credit(len(settled), max(1, sum([len(item.delivery.body) for item in settled])))
        self.client.execute("SAVEPOINT ahead")
        try:
            return self._lease_next(room)
        except Exception:  # noqa: BLE001 - what is settled stays settled; the next fetch says what is wrong
            self.client.execute("ROLLBACK TO ahead")
            self._more = False
            return ()

    def _tell(self, told: tuple[Disposition, str, float, int], ids: list[int], returning: str = "") -> sqlite3.Cursor:
        verb, token, delay, attempt = told
        which, given = _rows(ids)
        given |= {"lease": token, "now": self._host.time(), "delay": delay, "attempt": attempt}
        cursor: sqlite3.Cursor = self.client.execute(f"{_SETTLE[verb]}{which} AND lease = :lease{returning}", given)
        return cursor

    def _extend(self, deliveries: Sequence[Delivery]) -> list[SettlementResult]:
        claims: dict[str, list[int]] = {}
        for delivery in deliveries:
            claims.setdefault(delivery.token, []).append(delivery.native)
        until = self._host.time() + self._adapter.lease
        ours: set[int] = set()
        with self._troubles(), self._transaction():
            for token, ids in claims.items():
                statement = (
                    "UPDATE missive_queue SET visible_at = ?"
                    " WHERE id IN (SELECT value FROM json_each(?)) AND lease = ? RETURNING id"
                )
                ours.update(row[0] for row in self.client.execute(statement, (until, json.dumps(ids), token)))
        return [
            SettlementResult.confirmed if delivery.native in ours else SettlementResult.fenced
            for delivery in deliveries
        ]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.client.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self.client.execute("ROLLBACK")
            raise
        self.client.execute("COMMIT")

    @contextlib.contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
            return
        except sqlite3.OperationalError as trouble:
            # Locked, full, or a table that went away: SQLite's words name no value.
            error: Exception = Transient(f"{self._adapter.url}: {trouble}")
        except sqlite3.DatabaseError as trouble:
            error = Fatal(f"{self._adapter.url}: {trouble}")
        raise error


class _SomeFencedError(Exception):
    """Not all that was to be settled is ours."""


def _rows(ids: list[int]) -> tuple[str, dict[str, Any]]:
    """Return a condition for these rows and what it is given: a range, which is walked faster, if they are one."""
    first, last = min(ids), max(ids)
    if last - first + 1 == len(ids) == len(set(ids)):
        return "id BETWEEN :first AND :last", {"first": first, "last": last}
    return "id IN (SELECT value FROM json_each(:ids))", {"ids": json.dumps(ids)}


def _delivery(row: tuple[Any, ...], token: str) -> Delivery:
    row_id, body, headers, key, topic, message_id, content_type, sent_at, deliveries = row
    return Delivery(
        body,
        headers=() if headers is None else _headers(headers),
        native_id=str(row_id),
        producer_id=message_id,
        key=key,
        topic=topic,
        timestamp=sent_at,
        content_type=content_type,
        position=row_id,
        token=token,
        attempt=deliveries,
        redelivered=deliveries > 1,
        native=row_id,
    )


def _text(value: bytes) -> str:
    """Return text that a producer wrote in another encoding too: it must not keep the others from being read."""
    return value.decode("utf-8", "replace")


def _headers(text: str) -> list[tuple[str, str]]:
    """Return the pairs of a headers column; what a producer wrote wrong is one header, and loses no message."""
    try:
        pairs = json.loads(text)
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        return [(str(name), str(value)) for name, value in pairs]
    except (TypeError, ValueError, RecursionError):
        return [("headers", text)]
