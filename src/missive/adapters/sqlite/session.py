"""One connection to the file of a queue: lease, renew and settle its rows."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from missive._sqlite import create_private, enable_wal, readable_by_others
from missive.adapters.sqlite.rows import to_delivery
from missive.adapters.sqlite.schema import BRING_BACK, FIND, FIND_AHEAD, LEASE, SCHEMA, SETTLE, Group, rows_in
from missive.adapters.threaded import ClientThread, ThreadedSession
from missive.errors import Fatal, SourceGone, Transient
from missive.ids import new_id
from missive.messages import text_or_bytes
from missive.transport import Capabilities, Credit, Delivery, Disposition, Host, Settlement, SettlementResult

if TYPE_CHECKING:
    from missive.adapters.sqlite.adapter import SQLiteAdapter

_POLL = 0.05
"""Poll interval of an empty queue, in seconds."""
_STALE = 0.25
"""Fraction of a lease after which messages leased ahead return to the queue, for consumers that have time."""
_MIN_AHEAD = 300
"""Minimum number of settlements in a call that leases as many messages ahead: the engine will fetch them soon."""
_CHECK_SECONDS = 1.0
"""Time between two checks for rows whose times lie too far ahead, in seconds."""
_BUSY_SECONDS = 30
"""Time to wait for a lock on the file, in seconds."""
_MAX_LEASES = 10_000
"""Number of noted leases above which ended leases are forgotten."""
_MAX_DELAY = 366 * 86400.0
"""Longest delay of a message in the queue, in seconds."""


logger = logging.getLogger("missive")


class SQLiteSession(ThreadedSession):
    """A session with one connection to the file. The token of a delivery names the transaction that leased it."""

    def __init__(self, adapter: SQLiteAdapter, host: Host) -> None:
        super().__init__(ClientThread("missive-sqlite"))
        self.capabilities = Capabilities(lease=adapter.lease, fences=True, attempts="exact", max_delay=_MAX_DELAY)
        self._adapter = adapter
        self._host = host
        self._owner = new_id()[-12:]  # 60 random bits: short tokens make short rows
        self._lease_count = 0
        self._leases: dict[str, tuple[float, float]] = {}
        """When the lease of each token ends, on the wall clock and on the loop's clock."""
        self._next_check = 0.0
        """Loop time from which rows are checked for times that lie too far ahead."""
        self._fetched: deque[Delivery] = deque()
        self._fetched_at = 0.0
        self._more = False
        """Whether the queue had more messages than the last lease took."""
        self._stopped = False

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return the messages leased ahead, or lease messages now. Poll an empty queue."""
        await self._release_stale()
        while not self._fetched:
            await self.thread.run(self._lease_available, credit)
            if not self._fetched:
                await self._host.sleep(_POLL)
        return [self._fetched.popleft() for _ in range(credit.count_fitting(self._fetched))]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Settle messages, and lease the next messages, in one transaction."""
        return await self.thread.run(self._settle, settlements)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Renew the leases in one transaction."""
        results = await self.thread.run(self._extend, deliveries)
        with contextlib.suppress(Transient):  # tried again later; the renewal has succeeded
            await self._release_stale()
        return results

    async def _release_stale(self) -> None:
        """Release messages leased ahead that no fetch returned in time."""
        if self._fetched and self._loop.time() - self._fetched_at > _STALE * self._adapter.lease:
            stale, self._fetched = self._fetched, deque()
            try:
                results = await self.settle([Settlement(one, Disposition.release) for one in stale])
            except BaseException:
                self._fetched.extend(stale)  # for `stop_intake` or the next attempt
                raise
            pairs = zip(stale, results, strict=True)
            self._fetched.extend([one for one, result in pairs if result is SettlementResult.gone])  # the only copies

    async def stop_intake(self) -> Sequence[Delivery]:
        """Return the leased messages that no fetch returned."""
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
        """Connect, and check that the table exists."""
        path, url = self._adapter.path, self._adapter.url
        if path.is_dir():
            raise Fatal(f"{url} is a directory: name a file in it")
        if not self._adapter.create and not path.exists():
            raise Transient(f"{url}: the file does not exist (create=true creates it)")
        with self._translated_errors():
            if self._adapter.create:
                create_private(path)
            if (risk := readable_by_others(path)) is not None:
                logger.warning("the queue can be read: %s", risk)
            self.client = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self.client.text_factory = text_or_bytes
            enable_wal(self.client, _BUSY_SECONDS)
            if not self.client.execute("PRAGMA secure_delete").fetchone()[0]:
                # Zeroes deleted rows. Zeroing freed pages as well (ON) makes an ack of 2 KB three times as expensive.
                self.client.execute("PRAGMA secure_delete=FAST")
            if self._adapter.create:
                self.client.executescript(SCHEMA)
            table = self.client.execute("SELECT 1 FROM sqlite_master WHERE name = 'missive_queue'").fetchone()
        if table is None:
            raise Transient(f"{url}: the file has no table missive_queue (create=true creates it)")

    def _lease_available(self, credit: Credit) -> None:
        # A read without a lock first, so an idle consumer never writes.
        waiting = "SELECT 1 FROM missive_queue WHERE queue = ? AND visible_at <= ? LIMIT 1"
        with self._translated_errors():
            self._bring_back()
            if self.client.execute(waiting, (self._adapter.queue, self._host.time())).fetchone() is None:
                return
            with self._transaction():
                found = self._lease_next(credit)
        self._fetched.extend(found)

    def _bring_back(self) -> None:
        """Correct the times of rows that lie too far ahead, because a clock was set back."""
        if (began := self._loop.time()) < self._next_check:
            return
        given = {"queue": self._adapter.queue, "now": self._host.time()}
        if self.client.execute(FIND_AHEAD, given).fetchone() is not None:
            with self._transaction():
                self.client.execute(BRING_BACK, given)
        # Delayed rows make the check longer: keep it within a small share of the time.
        self._next_check = began + max(_CHECK_SECONDS, 50 * (self._loop.time() - began))

    def _lease_next(self, credit: Credit) -> Sequence[Delivery]:
        now = self._host.time()
        self._lease_count += 1
        token = f"{self._owner}:{self._lease_count}/{self._adapter.lease:g}"
        found, size = [], 0
        with contextlib.closing(
            self.client.execute(FIND, (self._adapter.max_body, self._adapter.queue, now, credit.items))
        ) as rows:
            for row in rows:
                found.append(delivery := to_delivery(row, token))
                size += len(delivery.body)
                if size >= credit.bytes:
                    break
        if found:
            which, given = rows_in([delivery.native for delivery in found])
            given |= {"until": now + self._adapter.lease, "lease": token}
            self.client.execute(LEASE + which, given)
            self._add_lease(token, now)
        self._fetched_at, self._more = self._loop.time(), len(found) == credit.items or size >= credit.bytes
        return found

    def _add_lease(self, token: str, now: float) -> None:
        """Note when the lease of a transaction ends, on the wall clock and on the loop's clock. Forget old leases."""
        started, length = self._loop.time(), self._adapter.lease
        if len(self._leases) >= _MAX_LEASES:
            self._leases = {one: lease for one, lease in self._leases.items() if lease[1] > started}
        self._leases[token] = (now + length, started + length)

    def _settle(self, settlements: Sequence[Settlement]) -> list[SettlementResult]:
        groups: dict[Group, list[int]] = {}
        for settlement in settlements:
            delivery = settlement.delivery
            group = (settlement.disposition, delivery.token, settlement.delay, settlement.attempt)
            if (ids := groups.get(group)) is None:
                ids = groups[group] = []
            ids.append(delivery.native)
        ahead: Sequence[Delivery] = ()
        with self._translated_errors():
            self._bring_back()
            try:
                with self._transaction():
                    for group, ids in groups.items():
                        # Counting rows is cheaper than returning their ids.
                        if self._settle_group(group, ids).rowcount != len(ids):
                            raise _SomeFencedError  # noqa: TRY301 - rolls the transaction back
                    # A consumer that releases messages must not lease them again at once.
                    if len(settlements) >= _MIN_AHEAD and not any(one is Disposition.release for one, *_ in groups):
                        ahead = self._lease_ahead(settlements)
            except _SomeFencedError:
                done: set[int] = set()
                with self._transaction():
                    for group, ids in groups.items():
                        done.update(row[0] for row in self._settle_group(group, ids, " RETURNING id").fetchall())
                return self._results([one.delivery for one in settlements], done)
        self._fetched.extend(ahead)
        return [SettlementResult.confirmed] * len(settlements)

    def _lease_ahead(self, settled: Sequence[Settlement]) -> Sequence[Delivery]:
        """Lease as many messages as were settled, in the same transaction: each transaction waits for the disk."""
        if not self._more or self._fetched or self._stopped:
            return ()
        room = Credit(len(settled), max(1, sum([len(one.delivery.body) for one in settled])))
        self.client.execute("SAVEPOINT ahead")
        try:
            return self._lease_next(room)
        except Exception:  # noqa: BLE001 - the settlements stand; the next fetch raises the error
            self.client.execute("ROLLBACK TO ahead")
            self._more = False
            return ()

    def _settle_group(self, group: Group, ids: list[int], returning: str = "") -> sqlite3.Cursor:
        disposition, token, delay, attempt = group
        which, given = rows_in(ids)
        given |= {"lease": token, "now": self._host.time(), "delay": delay, "attempt": attempt}
        cursor: sqlite3.Cursor = self.client.execute(
            f"{SETTLE[disposition]}{which} AND lease = :lease{returning}", given
        )
        return cursor

    def _extend(self, deliveries: Sequence[Delivery]) -> list[SettlementResult]:
        by_token: dict[str, list[int]] = {}
        for delivery in deliveries:
            by_token.setdefault(delivery.token, []).append(delivery.native)
        until = self._host.time() + self._adapter.lease
        lease = (until, self._loop.time() + self._adapter.lease)
        ours: set[int] = set()
        with self._translated_errors(), self._transaction():
            for token, ids in by_token.items():
                statement = (
                    "UPDATE missive_queue SET visible_at = ?"
                    " WHERE id IN (SELECT value FROM json_each(?)) AND lease = ? RETURNING id"
                )
                ours.update(row[0] for row in self.client.execute(statement, (until, json.dumps(ids), token)))
            results = self._results(deliveries, ours)
        for token in by_token:
            self._leases[token] = lease
        return results

    def _results(self, deliveries: Sequence[Delivery], ours: Collection[int]) -> list[SettlementResult]:
        """Return the results for rows. `ours` are the rows that were changed.

        Another consumer has an existing row. A missing row was deleted, unless the lease may have ended: then another
        consumer may have handled the message.
        """
        others = json.dumps([delivery.native for delivery in deliveries if delivery.native not in ours])
        query = "SELECT id FROM missive_queue WHERE id IN (SELECT value FROM json_each(?))"
        there = {row[0] for row in self.client.execute(query, (others,))} if others != "[]" else set()
        now = (self._host.time(), self._loop.time())
        results = []
        for delivery in deliveries:
            lease = self._leases.get(delivery.token, (0.0, 0.0))
            if delivery.native in ours:
                results.append(SettlementResult.confirmed)
            elif delivery.native in there or now[0] >= lease[0] or now[1] >= lease[1]:
                results.append(SettlementResult.fenced)
            else:
                results.append(SettlementResult.gone)
        return results

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
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
            return
        except sqlite3.OperationalError as sqlite_error:
            kind = SourceGone if str(sqlite_error) == "no such table: missive_queue" else Transient
            # For example, the file is locked, the disk is full or the table is gone. These texts contain no values.
            error: Exception = kind(f"{self._adapter.url}: {sqlite_error}")
        except sqlite3.DatabaseError as sqlite_error:
            error = Fatal(f"{self._adapter.url}: {sqlite_error}")
        raise error


class _SomeFencedError(Exception):
    """Another consumer holds one of the messages."""
