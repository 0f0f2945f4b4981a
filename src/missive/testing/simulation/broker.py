"""Broker: the simulated transport, as a queue, a queue with leases, partitions with commits, or lanes."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from missive.engine.completion.watermark import decode
from missive.testing.simulation.entry import Entry, Handout
from missive.testing.simulation.loop import Clock
from missive.testing.simulation.trace import Promise, Trace
from missive.transport import Capabilities, Credit, Watermark

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class TransportKind:
    """The properties of a simulated transport."""

    name: str
    lease: float | None = None
    lanes: bool = False
    cumulative: bool = False
    pauses: bool = False
    answers: bool = True
    counts: bool = False
    max_watermark: int = 0
    rebalances: bool = False
    """Whether lanes move to another consumer for a while, and return."""

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of its sessions."""
        return Capabilities(
            commit="cumulative" if self.cumulative else "each",
            lease=self.lease,
            pauses=self.pauses,
            max_watermark=self.max_watermark,
            replies=self.answers,
            order="lane" if self.lanes else "none",
            attempts="exact" if self.counts else "none",
        )


def _queue(random: Random) -> TransportKind:
    return TransportKind("queue", answers=_often(random), counts=_often(random))


def _leases(random: Random) -> TransportKind:
    return TransportKind("leases", lease=random.choice((1.5, 3.0, 6.0)), counts=_often(random))


def _partitions(random: Random) -> TransportKind:
    return TransportKind(
        "partitions",
        lanes=True,
        cumulative=True,
        pauses=_often(random),
        max_watermark=random.choice((0, 20, 4000)),
        rebalances=_often(random),
    )


def _lanes(random: Random) -> TransportKind:
    return TransportKind("lanes", lanes=True, counts=_often(random))


def _often(random: Random) -> bool:
    return random.random() < 0.6  # noqa: PLR2004 - about half


TRANSPORTS: Mapping[str, Callable[[Random], TransportKind]] = {
    "queue": _queue,
    "leases": _leases,
    "partitions": _partitions,
    "lanes": _lanes,
}
"""The kinds of transports by name: a queue as in RabbitMQ, leases as in SQS, partitions with commits as in Kafka, and
ordered lanes whose messages are settled one by one."""


class Broker:
    """Holds messages until they are settled. It outlives the processes that consume them."""

    def __init__(
        self, kind: TransportKind, clock: Clock, trace: Trace, random: Random, fail: Callable[[Promise, str], None]
    ) -> None:
        self.kind = kind
        self.open = 0
        """Number of unsettled messages."""
        self.calm_since = _FOREVER
        """Virtual time of the last fault. Afterwards, held leases must not end."""
        self.emptied: Callable[[], None] = lambda: None
        """Called when all messages are settled."""
        self.changed: Callable[[], None] = lambda: None
        """Called when there may be more messages to fetch."""
        self._clock = clock
        self._trace = trace
        self._random = random
        self._fail = fail
        self._scheduled: list[Entry] = []
        self._waiting: list[tuple[int, Entry]] = []
        self._leased: dict[Handout, None] = {}
        self._lanes: dict[str, list[Entry]] = {}
        self._next: dict[str, int] = {}
        self._committed: dict[str, int] = {}
        self._watermarks: dict[str, Watermark] = {}

    def publish(self, entries: Sequence[Entry]) -> None:
        """Add messages, in the order of their arrival."""
        self.open = len(entries)
        self._scheduled = list(reversed(entries))
        for entry in entries:
            if entry.lane is not None:
                self._lanes.setdefault(entry.lane, []).append(entry)
        for lane, positions in self._lanes.items():
            self._next[lane] = self._committed[lane] = 0
            position = 0
            for entry in positions:
                # Positions have gaps, as in a compacted log.
                position += 1 if self._random.random() < 0.8 else self._random.randrange(2, 9)  # noqa: PLR2004
                entry.position = position

    # Delivering

    @property
    def lanes(self) -> list[str]:
        """The names of all lanes."""
        return list(self._lanes)

    def watermarks(self, lanes: Collection[str]) -> dict[str, Watermark | None]:
        """Return the committed watermarks of lanes; None for a lane without one."""
        return {lane: self._watermarks.get(lane) for lane in lanes}

    def take(self, session: Any, credit: Credit, paused: Collection[str]) -> list[Handout]:
        """Hand out deliveries of lanes that are not paused: at most the credit, and sometimes fewer."""
        self._arrive()
        most = credit.items if self._random.random() < 0.5 else self._random.randint(1, credit.items)  # noqa: PLR2004
        taken: list[Handout] = []
        left = credit.bytes
        for entry in self._from_lanes(paused) if self.kind.cumulative else self._from_queue(most):
            if len(taken) >= most or left <= 0:
                break
            left -= len(entry.template.body)
            taken.append(self._hand_out(entry, session))
        if not self.kind.cumulative:
            out = {handout.entry for handout in taken}
            self._waiting = [one for one in self._waiting if one[1] not in out]
        return taken

    def _from_queue(self, most: int) -> list[Entry]:
        waiting = [entry for _, entry in self._waiting]
        if self.kind.lease is not None and self._random.random() < 0.3:  # noqa: PLR2004 - a queue with leases has no order
            self._random.shuffle(waiting)
        return waiting[:most]

    def _from_lanes(self, paused: Collection[str]) -> list[Entry]:
        lanes = [lane for lane in self._lanes if lane not in paused]
        self._random.shuffle(lanes)
        return [entry for lane in lanes for entry in self._lanes[lane][self._next[lane] :] if entry.at <= self._now]

    def _hand_out(self, entry: Entry, session: Any) -> Handout:
        entry.delivered += 1
        until = _FOREVER if self.kind.lease is None else self._now + self.kind.lease
        attempt = entry.delivered if self.kind.counts else 1
        handout = entry.holder = Handout(entry, session, until, attempt)
        if self.kind.cumulative and entry.lane is not None:
            self._next[entry.lane] = self._lanes[entry.lane].index(entry) + 1
        elif self.kind.lease is not None:
            self._leased[handout] = None
        return handout

    def _arrive(self) -> None:
        while self._scheduled and self._scheduled[-1].at <= self._now:
            entry = self._scheduled.pop()
            if not self.kind.cumulative:
                self._waiting.append((entry.number, entry))
        for handout in [one for one in self._leased if one.until <= self._now]:
            renewed = handout.until - (self.kind.lease or 0)
            if renewed >= self.calm_since and handout.fetched and not handout.settled and handout.session.open:
                self._fail(Promise.leases, f"the lease of m{handout.entry.number} ended")
            self.end_lease(handout, "lease ended")

    def end_lease(self, handout: Handout, event: str) -> None:
        """End the lease of a delivery, and make its message available again."""
        self._leased.pop(handout, None)
        handout.lost = True
        entry = handout.entry
        if entry.removed or entry.holder is not handout:
            return
        self._trace.add(event, entry.number)
        insort(self._waiting, (entry.number, entry))
        self.changed()

    def next_change(self) -> float:
        """Return the next time at which more messages may be available."""
        arrival = self._scheduled[-1].at if self._scheduled else _FOREVER
        return min([arrival, *(handout.until for handout in self._leased)])

    @property
    def waiting(self) -> int:
        """The number of available messages."""
        self._arrive()
        if self.kind.cumulative:
            return len(self._from_lanes(()))
        return len(self._waiting)

    # Settling

    def settle(self, handout: Handout) -> None:
        """Settle and remove a message."""
        entry = handout.entry
        self._leased.pop(handout, None)
        self._trace.add("settled", entry.number)
        if not handout.durable:
            self._fail(Promise.durable, f"m{entry.number} was settled earlier")
        self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        if not entry.removed:
            entry.removed = True
            self.open -= 1
            if not self.open:
                self.emptied()

    def commit(self, session: Any, lane: str, watermark: Watermark) -> None:
        """Commit the watermark of a lane. Messages up to it are done, and so are the positions in `acked_beyond`."""
        self._trace.add("committed", None, watermark.position)
        entries, committed = self._lanes[lane], self._committed[lane]
        passed = [entry for entry in entries if (entry.position or 0) <= watermark.position]
        if len(passed) < committed:
            self._fail(Promise.sessions, f"a watermark went back to {watermark.position}")
            return
        if len(passed) > committed and passed[-1].position != watermark.position and not passed[-1].acked_beyond:
            self._fail(Promise.sessions, f"a watermark is at {watermark.position}, which was never delivered")
        for entry in passed[committed:]:
            self._done(session, entry)
            self._remove(entry)
        self._committed[lane] = len(passed)
        self._commit_acked_beyond(session, entries[len(passed) :], watermark)
        self._watermarks[lane] = watermark

    def _commit_acked_beyond(self, session: Any, entries: Sequence[Entry], watermark: Watermark) -> None:
        ranges = decode(watermark) or []
        if len(watermark.acked_beyond) > self.kind.max_watermark:
            self._fail(Promise.sessions, f"acked_beyond has {len(watermark.acked_beyond)} bytes")
        for entry in entries:
            if any(first <= (entry.position or 0) <= last for first, last in ranges):
                self._done(session, entry)
                entry.acked_beyond = True
            elif entry.acked_beyond:
                self._fail(Promise.sessions, f"acked_beyond no longer contains m{entry.number}")

    def _done(self, session: Any, entry: Entry) -> None:
        handout = entry.holder
        if entry.acked_beyond:
            return
        if handout is None or handout.session is not session or handout.lost or not handout.durable:
            self._fail(Promise.durable, f"the watermark passed m{entry.number} earlier")
        else:
            handout.settled = True

    def lanes_lost(self, session: Any, lanes: Collection[str]) -> None:
        """Note that the engine knows about lost lanes: it must start none of their messages."""
        for lane in lanes:
            for handout in [entry.holder for entry in self._lanes[lane] if entry.holder is not None]:
                handout.lane_lost = handout.session is session and not handout.running and handout.outcome is None

    def revoke(self, session: Any, lanes: Collection[str]) -> None:
        """Take lanes away from a session. Messages after their watermarks are redelivered."""
        for lane in lanes:
            for entry in self._lanes[lane]:
                if entry.holder is not None and entry.holder.session is session:
                    entry.holder.lost = True
            self._next[lane] = self._committed[lane]

    def end(self, session: Any, entries: Sequence[Entry]) -> None:
        """End a session. Its unsettled messages are redelivered."""
        for entry in entries:
            handout = entry.holder
            if handout is None or handout.session is not session or handout.lost:
                continue
            # Leases outlive the session, but messages in its buffer are given back.
            if self.kind.cumulative:
                handout.lost = True
            elif self.kind.lease is None or not handout.fetched:
                self.end_lease(handout, "redelivered")
        if self.kind.cumulative:
            self._next.update(self._committed)
        self.changed()

    @property
    def _now(self) -> float:
        return self._clock.now
