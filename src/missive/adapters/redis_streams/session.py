"""One consumer of a group on the engine's loop: read entries, renew leases and settle."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from redis.exceptions import ResponseError

from missive.adapters.redis_streams import scripts
from missive.adapters.redis_streams.client import REPLY_SECONDS, make_client
from missive.adapters.redis_streams.entries import order_of, to_delivery
from missive.adapters.redis_streams.errors import error_code, translated
from missive.adapters.redis_streams.settings import Settings
from missive.errors import Transient
from missive.ids import new_id
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    Disposition,
    Host,
    Session,
    SessionStatus,
    Settlement,
    SettlementResult,
)

_BLOCK_SECONDS = 1.0
"""Limit for the wait of a read for new entries, in seconds."""
_TAKEOVER_SECONDS = 1.0
"""Longest interval between checks for idle entries of other consumers, in seconds."""
_LEAVE_SECONDS = 0.5
"""Limit for leaving the group before the connections close, in seconds."""
_MAX_ENTRIES = 1000
"""Limit of entries for one read or one script."""
_READ_AHEAD = Credit(500, 16 * 1024 * 1024)
"""Credit of a read ahead, which starts while the engine works if the last read left entries behind."""
_FULL_READ = 100
"""Entries of a read, all that it requested, after which more entries probably wait."""
_STALE_SHARE = 0.25
"""Share of its lease after which an entry that was read ahead is given back instead of fetched."""
_FIRST_SIZE = 100_000
"""Expected size of a body before the first one has arrived, in bytes."""


_Refused = dict[str, SettlementResult]
"""The results of entries that this consumer does not own, by id."""


class RedisStreamsSession(Session):
    """One consumer of a group. The token of a delivery counts the deliveries of its entry to this consumer."""

    def __init__(self, settings: Settings, host: Host) -> None:
        super().__init__()
        self.capabilities = Capabilities(lease=settings.claim_idle, attempts="exact", fences=True)
        self._settings = settings
        self._host = host
        self._name = settings.consumer or f"{socket.gethostname()}-{os.getpid()}-{new_id()[-8:]}"
        self._body_field = settings.body_field.encode()
        self._reader: Any = None
        self._reader_id = 0
        self._reading: asyncio.Task[None] | None = None
        self._giving_back: asyncio.Task[None] | None = None
        self._arrived: deque[Delivery] = deque()
        self._arrived_at = 0.0
        """Loop time at which the oldest of the arrived deliveries was read."""
        self._left_behind = False
        """Whether the last read may have left entries behind."""
        self._tokens: dict[str, int] = {}
        """The current token of each unsettled entry."""
        self._mean_size = _FIRST_SIZE
        """Mean size of the bodies of the last read, in bytes."""
        self._next_takeover = 0.0
        self._cursor = "0-0"
        self._closed = False

    async def open(self) -> None:
        """Connect, and check that the stream and the group exist."""
        settings, name = self._settings, f"missive-{self._host.service}".replace(" ", "-")
        self.client = make_client(settings, REPLY_SECONDS, name, lambda: self._closed)
        self._reader = make_client(settings, _BLOCK_SECONDS + REPLY_SECONDS, name, lambda: self._closed)
        with translated(settings):
            await self.client.ping()
            self._reader_id = await self._reader.client_id()
            if settings.create:
                await self._create()
            self._ack = self.client.register_script(scripts.ACK)
            self._extend = self.client.register_script(scripts.EXTEND)
            self._release = self.client.register_script(scripts.release(int(settings.claim_idle * 1000)))
            self._take_over = self.client.register_script(scripts.TAKE_OVER)
            groups = await self.client.xinfo_groups(settings.stream)
        if settings.group.encode() not in [group["name"] for group in groups]:
            raise Transient(f"{settings.url}: the stream has no group {settings.group} (create=true creates it)")

    async def _create(self) -> None:
        settings = self._settings
        try:
            await self.client.xgroup_create(settings.stream, settings.group, settings.start, mkstream=True)
        except ResponseError as error:
            if error_code(error) != "BUSYGROUP":  # the group exists
                raise

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Read new entries, and from time to time take over idle entries of other consumers.

        When this call is cancelled, its read goes on, and the next fetch returns the entries. While many entries wait,
        the next read starts before the next fetch.
        """
        await self._give_back_stale()
        while not self._arrived:
            await asyncio.shield(self._reading or self._start_reading(credit))
            self._reading = None
        if self._reading is not None and self._reading.done():  # its entries have arrived
            self._reading = None
        fetched = [self._arrived.popleft() for _ in range(credit.count_fitting(self._arrived))]
        if self._left_behind and not self._arrived and self._reading is None:
            self._start_reading(_READ_AHEAD)
            try:
                await asyncio.sleep(0)  # send the command before the engine is busy with these deliveries
            except asyncio.CancelledError:
                self._arrived.extendleft(reversed(fetched))
                raise
        return fetched

    def _start_reading(self, credit: Credit) -> asyncio.Task[None]:
        self._reading = reading = asyncio.ensure_future(self._read(credit))
        reading.add_done_callback(_retrieve_exception)
        return reading

    async def _give_back_stale(self) -> None:
        """Give back deliveries that have waited too long for a fetch. Cancelling the call does not stop this."""
        if self._arrived and self._loop.time() - self._arrived_at > _STALE_SHARE * self._settings.claim_idle:
            # A task of its own, because redis-py may swallow a cancellation.
            self._giving_back = asyncio.ensure_future(self._give_back(list(self._arrived)))
            self._giving_back.add_done_callback(_retrieve_exception)
            self._arrived.clear()
            await asyncio.shield(self._giving_back)

    async def _give_back(self, stale: Sequence[Delivery]) -> None:
        try:
            results = await self.settle([Settlement(one, Disposition.release) for one in stale])
        except BaseException:
            self._arrived.extendleft(reversed(stale))  # for `stop_intake` or the next attempt
            raise
        if SettlementResult.gone in results:  # the only copy is here
            kept = [one for one, result in zip(stale, results, strict=True) if result is SettlementResult.gone]
            self._tokens.update((one.native_id or "", one.token) for one in kept)
            self._arrived.extendleft(reversed(kept))
            self._arrived_at = self._loop.time()

    async def _read(self, credit: Credit) -> None:
        settings = self._settings
        # The server accepts no limit in bytes, so derive a number of entries from the mean size.
        count = max(1, min(credit.items, _MAX_ENTRIES, credit.bytes // self._mean_size))
        with translated(settings):
            if (now := self._loop.time()) >= self._next_takeover and await self._take_over_idle(count):
                return
            # A short wait lets the next read find entries that were given back in the meantime.
            block = max(1, int(1000 * min(_BLOCK_SECONDS, max(self._next_takeover - now, 0.05))))
            read = (
                "GROUP",
                settings.group,
                self._name,
                "COUNT",
                count,
                "BLOCK",
                block,
                "STREAMS",
                settings.stream,
                ">",
            )
            found = await self._reader.execute_command("XREADGROUP", *read)
        if found:
            body_field, entries = self._body_field, found[0][1]
            arrived = [to_delivery(native_id.decode(), fields, 1, 0, body_field) for native_id, fields in entries]
            self._tokens.update((one.native_id or "", 0) for one in arrived)
            self._arrived_at = self._loop.time()
            self._arrived += arrived
            self._mean_size = max(1, sum([len(one.body) for one in arrived]) // len(arrived))
            self._left_behind = len(arrived) == count >= _FULL_READ

    async def _take_over_idle(self, count: int) -> bool:
        """Take over up to `count` entries whose lease has expired. Return whether any were found."""
        idle = int(self._settings.claim_idle * 1000)
        arguments = [self._settings.group, self._name, idle, self._cursor, count]
        cursor, entries, deleted = await self._take_over(keys=[self._settings.stream], args=arguments)
        self._cursor = cursor.decode()
        if self._cursor == "0-0":
            self._next_takeover = self._loop.time() + min(_TAKEOVER_SECONDS, self._settings.claim_idle / 2)
        # A message that this session still holds is handled, even if its entry was deleted.
        if trimmed := sum(entry.decode() not in self._tokens for entry in deleted):
            self._host.report(f"{self._settings.url}: {trimmed} entries were trimmed before they were handled")
        self._arrived_at = self._loop.time()
        for native_id, fields, delivered in entries:
            entry = native_id.decode()
            token = self._tokens[entry] = self._tokens.get(entry, -1) + 1
            self._arrived.append(to_delivery(entry, fields, delivered, token, self._body_field))
        return bool(entries)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Ack deliveries, and make released ones free for other consumers, if this consumer still owns them."""
        acked = [one.delivery for one in settlements if one.disposition is Disposition.ack]
        refused = await self._run(self._ack, acked) if acked else _Refused()
        if len(acked) < len(settlements):
            released = [one.delivery for one in settlements if one.disposition is Disposition.release]
            refused |= await self._run(self._release, released)
        confirmed, fenced = SettlementResult.confirmed, SettlementResult.fenced
        tokens, results = self._tokens, []
        for one in settlements:
            entry = one.delivery.native_id or ""
            current = tokens.get(entry) == one.delivery.token
            if current:
                del tokens[entry]
            results.append(refused.get(entry, confirmed) if current else fenced)
        return results

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Renew the leases of the deliveries that this consumer still owns, and give back stale ones."""
        refused = await self._run(self._extend, deliveries)
        confirmed, fenced = SettlementResult.confirmed, SettlementResult.fenced
        results = []
        for one in deliveries:
            entry = one.native_id or ""
            current = self._tokens.get(entry) == one.token
            if current and entry in refused:
                del self._tokens[entry]
            results.append(refused.get(entry, confirmed) if current else fenced)
        with contextlib.suppress(Transient):  # the leases are renewed, and stale deliveries have another attempt
            await self._give_back_stale()
        return results

    async def _run(self, script: Any, deliveries: Sequence[Delivery]) -> _Refused:
        """Run a script on the current deliveries. Return the entries that this consumer does not own.

        Another consumer took such an entry (`fenced`), or it was deleted (`gone`).
        """
        current = [one for one in deliveries if self._tokens.get(one.native_id or "") == one.token]
        refused = _Refused()
        current.sort(key=order_of if any([one.position is None for one in current]) else _position)  # noqa: C419 - faster
        for start in range(0, len(current), _MAX_ENTRIES):
            ids = [one.native_id or "" for one in current[start : start + _MAX_ENTRIES]]
            arguments = [self._settings.group, self._name, ids[0], ids[-1], " ".join(ids)]
            with translated(self._settings):
                reply = await script(keys=[self._settings.stream], args=arguments)
            for entries, result in zip(reply, (SettlementResult.fenced, SettlementResult.gone), strict=False):
                refused.update((entry.decode(), result) for entry in entries)
        return refused

    async def status(self) -> SessionStatus:
        """Return the number of entries that the group has not read, and the age of the first of them."""
        settings = self._settings
        with translated(settings):
            groups = await self.client.xinfo_groups(settings.stream)
            group = next((group for group in groups if group["name"] == settings.group.encode()), None)
            if group is None:
                return SessionStatus(connected=False)
            last = group["last-delivered-id"].decode()
            unread = await self.client.xrange(settings.stream, f"({last}", "+", count=1)
        lag = group.get("lag")
        if not unread:
            return SessionStatus(connected=True, lag=0)
        age = self._host.time() - int(unread[0][0].partition(b"-")[0]) / 1000
        return SessionStatus(connected=True, lag=lag if isinstance(lag, int) else None, oldest_age=max(0.0, age))

    async def stop_intake(self) -> Sequence[Delivery]:
        """Stop reading, and return the deliveries that were read but not fetched."""
        if self._reading is not None and not self._reading.done():
            with contextlib.suppress(Transient), translated(self._settings):  # else the read ends within a second
                await self.client.client_unblock(self._reader_id)
            await asyncio.wait([self._reading], timeout=_BLOCK_SECONDS + 1)
        if self._giving_back is not None and not self._giving_back.done():
            await asyncio.wait([self._giving_back], timeout=REPLY_SECONDS)
        left = list(self._arrived)
        self._arrived.clear()
        return left

    async def close(self) -> None:
        """Leave the group, unless entries are pending for this consumer, and close the connections."""
        client, self.client = self.client, None
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=1)
        if client is not None and self._settings.consumer is None and not self._tokens:
            with contextlib.suppress(Exception):  # a failure leaves only an unused consumer name in the group
                leaving = client.eval(scripts.LEAVE, 1, self._settings.stream, self._settings.group, self._name)
                await asyncio.wait_for(leaving, _LEAVE_SECONDS)  # a half-open connection never answers
        for one in (client, self._reader):
            if one is not None:
                with contextlib.suppress(Exception):  # the connection is lost, or was never open
                    await one.aclose()


def _retrieve_exception(task: asyncio.Task[None]) -> None:
    """Retrieve the exception of a task that may have no waiter, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


_position = attrgetter("position")
"""Sort key for entries that all have a position: the order of their ids, at a tenth of the cost of `order_of`."""
