"""One consumer of a group, on the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import ResponseError

from missive.adapters.redis_streams import scripts
from missive.adapters.redis_streams.adapter import REPLY
from missive.adapters.redis_streams.errors import code, translated
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

if TYPE_CHECKING:
    from missive.adapters.redis_streams.adapter import RedisStreamsAdapter

_BLOCK = 1.0
"""Seconds that a read waits for new entries."""
_LOOK = 1.0
"""Seconds between two looks for entries that nobody works on any more."""
_LEAVE = 0.5
"""Seconds to leave the group in, before the connections are closed."""
_AT_ONCE = 1000
_AHEAD = Credit(500, 16 * 1024 * 1024)
"""So much is read ahead while the engine works, where the last read left more behind."""
_MUCH = 100
"""A read that was for so many and got them may have left more behind."""
_STALE = 0.25
"""What was read ahead is not handed out after this share of its lease: somebody else may have time for it."""
_SEQUENCE = 20
"""Bits of a position for an entry's number within its millisecond; an id of a producer's own may have a larger one."""
_FIRST_SIZE = 100_000
"""The size in bytes that a body is taken for before any has come."""


class RedisNative(msgspec.Struct, frozen=True, gc=False):
    """What `context.native` is: the entry's id, and its fields as they came."""

    id: str
    fields: Sequence[bytes]

    def __repr__(self) -> str:
        return f"<RedisNative {self.id}>"


class RedisStreamsSession(Session):
    """One consumer of a group. A delivery's token says which of the times it came to this consumer it is."""

    def __init__(self, adapter: RedisStreamsAdapter, host: Host) -> None:
        super().__init__()
        self.capabilities = Capabilities(lease=adapter.claim_idle, attempts="exact", fences=True)
        self._adapter = adapter
        self._host = host
        self._name = adapter.consumer or f"{socket.gethostname()}-{os.getpid()}-{new_id()[-8:]}"
        self._keys = (adapter.stream, adapter.group, self._name)
        self._body_field = adapter.body_field.encode()
        self._reader: Any = None
        self._reader_id = 0
        self._reading: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None
        self._arrived: deque[Delivery] = deque()
        self._arrived_at = 0.0
        """When the oldest of these came."""
        self._more = False
        """Whether the last read left something behind."""
        self._out: dict[str, int] = {}
        """Which time each entry came, of those that are here."""
        self._typical = _FIRST_SIZE
        """The size in bytes of a body, as they last came."""
        self._next_look = 0.0
        self._cursor = "0-0"
        self._trimmed_said = False

    async def open(self) -> None:
        """Connect, and see that stream and group are there."""
        adapter, name = self._adapter, f"missive-{self._host.service}".replace(" ", "-")
        self.client = adapter.connection(REPLY, name)
        self._reader = adapter.connection(_BLOCK + REPLY, name)
        with translated(self._adapter):
            await self.client.ping()
            self._reader_id = await self._reader.client_id()
            if adapter.create:
                await self._create()
            self._ack = self.client.register_script(scripts.ACK)
            self._extend = self.client.register_script(scripts.EXTEND)
            self._release = self.client.register_script(scripts.release(int(adapter.claim_idle * 1000)))
            self._take_over = self.client.register_script(scripts.TAKE_OVER)
            groups = await self.client.xinfo_groups(adapter.stream)
        if adapter.group.encode() not in [group["name"] for group in groups]:
            raise Transient(f"{adapter.url}: the stream has no group {adapter.group} (create=true makes it)")

    async def _create(self) -> None:
        adapter = self._adapter
        try:
            await self.client.xgroup_create(adapter.stream, adapter.group, adapter.start, mkstream=True)
        except ResponseError as error:
            if code(error) != "BUSYGROUP":  # which says that it is there
                raise

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Read new entries, and now and then those that nobody works on any more.

        The read goes on when this is cancelled, and what it brings is for the next fetch. While there is much to read,
        the next read is begun before it is asked for.
        """
        await self._give_back_stale()
        while not self._arrived:
            await asyncio.shield(self._reading or self._start_reading(credit))
            self._reading = None
        if self._reading is not None and self._reading.done():  # it brought what is here
            self._reading = None
        fetched = [self._arrived.popleft() for _ in range(credit.count_fitting(self._arrived))]
        if self._more and not self._arrived and self._reading is None:
            self._start_reading(_AHEAD)
            try:
                await asyncio.sleep(0)  # so that the server begins before the engine is busy with these
            except asyncio.CancelledError:
                self._arrived.extendleft(reversed(fetched))
                raise
        return fetched

    def _start_reading(self, credit: Credit) -> asyncio.Task[None]:
        self._reading = reading = asyncio.ensure_future(self._read(credit))
        reading.add_done_callback(_look_at)
        return reading

    async def _give_back_stale(self) -> None:
        """Give back what has waited too long to be fetched, to the end also when this is cancelled."""
        if self._arrived and self._loop.time() - self._arrived_at > _STALE * self._adapter.claim_idle:
            # Not awaited itself: the client may swallow that it is cancelled.
            self._returning = asyncio.ensure_future(self._give_back(list(self._arrived)))
            self._returning.add_done_callback(_look_at)
            self._arrived.clear()
            await asyncio.shield(self._returning)

    async def _give_back(self, stale: Sequence[Delivery]) -> None:
        try:
            await self.settle([Settlement(one, Disposition.release) for one in stale])
        except BaseException:
            self._arrived.extendleft(reversed(stale))  # for `stop_intake`, or the next try
            raise

    async def _read(self, credit: Credit) -> None:
        adapter = self._adapter
        # As many as the credit in bytes is likely to have room for: the server cannot be told a size.
        count = max(1, min(credit.items, _AT_ONCE, credit.bytes // self._typical))
        with translated(self._adapter):
            if (now := self._loop.time()) >= self._next_look and await self._look(count):
                return
            # So that what is given back meanwhile is soon found.
            block = max(1, int(1000 * min(_BLOCK, max(self._next_look - now, 0.05))))
            read = ("GROUP", adapter.group, self._name, "COUNT", count, "BLOCK", block, "STREAMS", adapter.stream, ">")
            found = await self._reader.execute_command("XREADGROUP", *read)
        if found:
            entries = found[0][1]
            arrived = [self._delivery(native_id.decode(), fields, 1, 0) for native_id, fields in entries]
            self._out.update((one.native_id or "", 0) for one in arrived)
            self._arrived_at = self._loop.time()
            self._arrived += arrived
            self._typical = max(1, sum([len(one.body) for one in arrived]) // len(arrived))
            self._more = len(arrived) == count >= _MUCH

    async def _look(self, count: int) -> bool:
        """Take over entries that nobody has worked on for too long; tells whether there were any."""
        idle = int(self._adapter.claim_idle * 1000)
        arguments = [self._adapter.group, self._name, idle, self._cursor, count]
        cursor, entries, trimmed = await self._take_over(keys=[self._adapter.stream], args=arguments)
        self._cursor = cursor.decode()
        if self._cursor == "0-0":
            self._next_look = self._loop.time() + min(_LOOK, self._adapter.claim_idle / 2)
        if trimmed and not self._trimmed_said:
            self._trimmed_said = True
            self._host.report(f"{self._adapter.url}: {trimmed} entries were trimmed before they were handled")
        self._arrived_at = self._loop.time()
        for native_id, fields, delivered in entries:
            entry = native_id.decode()
            token = self._out[entry] = self._out.get(entry, -1) + 1
            self._arrived.append(self._delivery(entry, fields, delivered, token))
        return bool(entries)

    def _delivery(self, entry: str, fields: Sequence[bytes], delivered: int, token: int) -> Delivery:
        headers: Sequence[tuple[str, str | bytes]] = ()
        if len(fields) == 2 and fields[0] == self._body_field:  # noqa: PLR2004 - a name and its value
            body = fields[1]
        else:
            body, headers = self._parts(fields)
        milliseconds, _, sequence = entry.partition("-")
        at, number = int(milliseconds), int(sequence)
        return Delivery(
            body,
            headers=headers,
            native_id=entry,
            timestamp=at / 1000,
            position=at << _SEQUENCE | number if number < 1 << _SEQUENCE else None,
            token=token,
            attempt=delivered,
            redelivered=delivered > 1,
            native=RedisNative(entry, fields),
        )

    def _parts(self, fields: Sequence[bytes]) -> tuple[bytes, Sequence[tuple[str, str | bytes]]]:
        """Return body and headers of an entry of several fields, or without a field for its body."""
        pairs = list(zip(fields[::2], fields[1::2], strict=False))
        bodies = [value for name, value in pairs if name == self._body_field]
        if not bodies:
            whole = {_text(name): _text(value) for name, value in pairs}
            return json.dumps(whole, ensure_ascii=False).encode(), ()
        return bodies[0], [(_text(name), _value(value)) for name, value in pairs if name != self._body_field]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Ack what is done with, and make what is released free for others, where it is still this consumer's."""
        acked = [settlement.delivery for settlement in settlements if settlement.disposition is Disposition.ack]
        gone = await self._run(self._ack, acked) if acked else set[str]()
        if len(acked) < len(settlements):
            gone |= await self._run(
                self._release,
                [settlement.delivery for settlement in settlements if settlement.disposition is Disposition.release],
            )
        out, results = self._out, []
        for settlement in settlements:
            entry = settlement.delivery.native_id or ""
            ours = out.get(entry) == settlement.delivery.token
            if ours:
                del out[entry]
            results.append(SettlementResult.confirmed if ours and entry not in gone else SettlementResult.fenced)
        return results

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Begin the leases anew of what is still this consumer's."""
        gone = await self._run(self._extend, deliveries)
        results = []
        for one in deliveries:
            entry = one.native_id or ""
            ours = self._out.get(entry) == one.token
            if ours and entry in gone:
                del self._out[entry]
            results.append(SettlementResult.confirmed if ours and entry not in gone else SettlementResult.fenced)
        with contextlib.suppress(Transient):  # it is tried again, and these are renewed
            await self._give_back_stale()
        return results

    async def _run(self, script: Any, deliveries: Sequence[Delivery]) -> set[str]:
        """Run a script over entries that are still here; returns those that are somebody else's."""
        here = [one for one in deliveries if self._out.get(one.native_id or "") == one.token]
        gone: set[str] = set()
        here.sort(key=_place if any([one.position is None for one in here]) else _position)  # noqa: C419 - quicker
        for start in range(0, len(here), _AT_ONCE):
            ids = [one.native_id or "" for one in here[start : start + _AT_ONCE]]
            arguments = [self._adapter.group, self._name, ids[0], ids[-1], " ".join(ids)]
            with translated(self._adapter):
                answer = await script(keys=[self._adapter.stream], args=arguments)
            gone.update([entry.decode() for entry in answer])
        return gone

    async def status(self) -> SessionStatus:
        """Return how many entries the group has not read yet, and how old the first of them is."""
        adapter = self._adapter
        with translated(self._adapter):
            groups = await self.client.xinfo_groups(adapter.stream)
            ours = next((group for group in groups if group["name"] == adapter.group.encode()), None)
            if ours is None:
                return SessionStatus(connected=False)
            last = ours["last-delivered-id"].decode()
            waiting = await self.client.xrange(adapter.stream, f"({last}", "+", count=1)
        lag = ours.get("lag")
        if not waiting:
            return SessionStatus(connected=True, lag=0)
        age = self._host.time() - int(waiting[0][0].partition(b"-")[0]) / 1000
        return SessionStatus(connected=True, lag=lag if isinstance(lag, int) else None, oldest_age=max(0.0, age))

    async def stop_intake(self) -> Sequence[Delivery]:
        """Read no more; returns what a read that was waited for in vain brought."""
        if self._reading is not None and not self._reading.done():
            with contextlib.suppress(Transient), translated(self._adapter):  # it ends by itself, in a moment
                await self.client.client_unblock(self._reader_id)
            await asyncio.wait([self._reading], timeout=_BLOCK + 1)
        if self._returning is not None and not self._returning.done():
            await asyncio.wait([self._returning], timeout=REPLY)
        left = list(self._arrived)
        self._arrived.clear()
        return left

    async def close(self) -> None:
        """Leave the group, unless something of it is pending here, and close the connections."""
        client, self.client = self.client, None
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading], timeout=1)
        if client is not None and self._adapter.consumer is None and not self._out:
            with contextlib.suppress(Exception):  # it is only tidying up, and what is left of it is a name
                leaving = client.eval(scripts.LEAVE, 1, self._adapter.stream, self._adapter.group, self._name)
                await asyncio.wait_for(leaving, _LEAVE)  # a connection that is half open never answers
        for one in (client, self._reader):
            if one is not None:
                with contextlib.suppress(Exception):  # the connection is gone, or was never there
                    await one.aclose()


def _look_at(read: asyncio.Task[None]) -> None:
    """Look at how a read ended that nobody waits for any more, so that asyncio does not complain."""
    if not read.cancelled():
        read.exception()


_position = attrgetter("position")
"""In the order of the ids, where every id makes one, at a tenth of the cost."""


def _place(delivery: Delivery) -> tuple[int, int]:
    """Return an entry's id as what it is ordered by: its position is for telling entries apart."""
    milliseconds, _, sequence = (delivery.native_id or "0-0").partition("-")
    return int(milliseconds), int(sequence)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _value(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
