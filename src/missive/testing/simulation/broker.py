"""The simulated transport: queues, leases, and partitions that are committed."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from missive.engine.completion.watermark import decode
from missive.testing.simulation.ledger import Entry, Handout
from missive.testing.simulation.loop import Clock
from missive.testing.simulation.trace import Promise, Trace
from missive.transport import Capabilities, Credit, Watermark

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Kind:
    """What kind of a transport it is."""

    name: str
    lease: float | None = None
    lanes: bool = False
    cumulative: bool = False
    pauses: bool = False
    answers: bool = True
    counts: bool = False
    max_watermark: int = 0
    moves: bool = False
    """Whether lanes go to somebody else for a while, and come back."""

    @property
    def capabilities(self) -> Capabilities:
        """What its sessions can do."""
        return Capabilities(
            commit="cumulative" if self.cumulative else "each",
            lease=self.lease,
            pauses=self.pauses,
            max_watermark=self.max_watermark,
            replies=self.answers,
            order="lane" if self.lanes else "none",
            attempts="exact" if self.counts else "none",
        )


def _queue(random: Random) -> Kind:
    return Kind("queue", answers=_often(random), counts=_often(random))


def _leases(random: Random) -> Kind:
    return Kind("leases", lease=random.choice((1.5, 3.0, 6.0)), counts=_often(random))


def _partitions(random: Random) -> Kind:
    return Kind(
        "partitions",
        lanes=True,
        cumulative=True,
        pauses=_often(random),
        max_watermark=random.choice((0, 20, 4000)),
        moves=_often(random),
    )


def _lanes(random: Random) -> Kind:
    return Kind("lanes", lanes=True, counts=_often(random))


def _often(random: Random) -> bool:
    return random.random() < 0.6  # noqa: PLR2004 - about half


TRANSPORTS: Mapping[str, Callable[[Random], Kind]] = {
    "queue": _queue,
    "leases": _leases,
    "partitions": _partitions,
    "lanes": _lanes,
}
"""The kinds of transports, by name: a queue like RabbitMQ's, leases like those of SQS, partitions that are committed
like Kafka's, and lanes of which each message is settled."""


class Broker:
    """Keeps messages until they are settled, and outlives the processes that consume them."""

    def __init__(
        self, kind: Kind, clock: Clock, trace: Trace, random: Random, fail: Callable[[Promise, str], None]
    ) -> None:
        self.kind = kind
        self.open = 0
        """Messages that are not settled."""
        self.calm_since = _FOREVER
        """Since when nothing goes wrong any more, and so no lease ends that is held."""
        self.emptied: Callable[[], None] = lambda: None
        """Called when there is nothing left."""
        self.changed: Callable[[], None] = lambda: None
        """Called when there may be more to fetch."""
        self._clock = clock
        self._trace = trace
        self._random = random
        self._fail = fail
        self._coming: list[Entry] = []
        self._waiting: list[tuple[int, Entry]] = []
        self._leased: dict[Handout, None] = {}
        self._lanes: dict[str, list[Entry]] = {}
        self._next: dict[str, int] = {}
        self._committed: dict[str, int] = {}
        self._marks: dict[str, Watermark] = {}

    def publish(self, entries: Sequence[Entry]) -> None:
        """Take in messages, in the order in which they arrive."""
        self.open = len(entries)
        self._coming = list(reversed(entries))
        for entry in entries:
            if entry.lane is not None:
                self._lanes.setdefault(entry.lane, []).append(entry)
        for lane, positions in self._lanes.items():
            self._next[lane] = self._committed[lane] = 0
            position = 0
            for entry in positions:
                # With gaps, as a log that is compacted has.
                position += 1 if self._random.random() < 0.8 else self._random.randrange(2, 9)  # noqa: PLR2004
                entry.position = position

    # Delivering

    @property
    def lanes(self) -> list[str]:
        """The lanes there are."""
        return list(self._lanes)

    def marks(self, lanes: Collection[str]) -> dict[str, Watermark | None]:
        """Return what was committed of lanes."""
        return {lane: self._marks.get(lane) for lane in lanes}

    def take(self, session: Any, credit: Credit, paused: Collection[str]) -> list[Handout]:
        """Hand out what waits in lanes that are not paused, no more than the credit and sometimes less."""
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
        if self.kind.lease is not None and self._random.random() < 0.3:  # noqa: PLR2004 - such a queue is in no order
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
        while self._coming and self._coming[-1].at <= self._now:
            entry = self._coming.pop()
            if not self.kind.cumulative:
                self._waiting.append((entry.number, entry))
        for handout in [one for one in self._leased if one.until <= self._now]:
            renewed = handout.until - (self.kind.lease or 0)
            if renewed >= self.calm_since and handout.given and not handout.told and handout.session.open:
                self._fail(Promise.leases, f"that of m{handout.entry.number} was not")
            self.take_away(handout, "lease ended")

    def take_away(self, handout: Handout, why: str) -> None:
        """End the hold on a delivery: somebody else may have it."""
        self._leased.pop(handout, None)
        handout.lost = True
        entry = handout.entry
        if entry.gone or entry.holder is not handout:
            return
        self._trace.add(why, entry.number)
        insort(self._waiting, (entry.number, entry))
        self.changed()

    def next_change(self) -> float:
        """Return when something will be there to fetch that is not now."""
        coming = self._coming[-1].at if self._coming else _FOREVER
        return min([coming, *(handout.until for handout in self._leased)])

    @property
    def waiting(self) -> int:
        """How many could be fetched."""
        self._arrive()
        if self.kind.cumulative:
            return len(self._from_lanes(()))
        return len(self._waiting)

    # Settling

    def settle(self, handout: Handout) -> None:
        """Forget a message: it is done with."""
        entry = handout.entry
        self._leased.pop(handout, None)
        self._trace.add("settled", entry.number)
        if not handout.durable:
            self._fail(Promise.durable, f"m{entry.number} was settled before that")
        self._gone(entry)

    def _gone(self, entry: Entry) -> None:
        if not entry.gone:
            entry.gone = True
            self.open -= 1
            if not self.open:
                self.emptied()

    def commit(self, session: Any, lane: str, mark: Watermark) -> None:
        """Move the mark of a lane: all before it is done with, and what its gaps say besides."""
        self._trace.add("committed", None, mark.position)
        entries, committed = self._lanes[lane], self._committed[lane]
        passed = [entry for entry in entries if (entry.position or 0) <= mark.position]
        if len(passed) < committed:
            self._fail(Promise.sessions, f"a mark went back to {mark.position}")
            return
        if len(passed) > committed and passed[-1].position != mark.position and not passed[-1].beyond:
            self._fail(Promise.sessions, f"a mark is at {mark.position}, which was never delivered")
        for entry in passed[committed:]:
            self._done(session, entry)
            self._gone(entry)
        self._committed[lane] = len(passed)
        self._commit_gaps(session, entries[len(passed) :], mark)
        self._marks[lane] = mark

    def _commit_gaps(self, session: Any, entries: Sequence[Entry], mark: Watermark) -> None:
        ranges = decode(mark) or []
        if len(mark.acked_beyond) > self.kind.max_watermark:
            self._fail(Promise.sessions, f"the gaps of a mark have {len(mark.acked_beyond)} bytes")
        for entry in entries:
            if any(first <= (entry.position or 0) <= last for first, last in ranges):
                self._done(session, entry)
                entry.beyond = True
            elif entry.beyond:
                self._fail(Promise.sessions, f"a mark says no more that m{entry.number} is done")

    def _done(self, session: Any, entry: Entry) -> None:
        handout = entry.holder
        if entry.beyond:
            return
        if handout is None or handout.session is not session or handout.lost or not handout.durable:
            self._fail(Promise.durable, f"the mark passed m{entry.number} before that")
        else:
            handout.told = True

    def leave(self, session: Any, lanes: Collection[str]) -> None:
        """Note that a session knows that lanes are somebody else's: it begins with nothing more of them."""
        for lane in lanes:
            for handout in [entry.holder for entry in self._lanes[lane] if entry.holder is not None]:
                handout.left = handout.session is session and not handout.running and handout.outcome is None

    def move(self, session: Any, lanes: Collection[str]) -> None:
        """Take lanes away from a session: what it had of them comes again, from their marks on."""
        for lane in lanes:
            for entry in self._lanes[lane]:
                if entry.holder is not None and entry.holder.session is session:
                    entry.holder.lost = True
            self._next[lane] = self._committed[lane]

    def end(self, session: Any, entries: Sequence[Entry]) -> None:
        """End a session: what it holds and has not settled comes again."""
        for entry in entries:
            handout = entry.holder
            if handout is None or handout.session is not session or handout.lost:
                continue
            # A lease goes on; but what was received and not fetched is given back.
            if self.kind.cumulative:
                handout.lost = True
            elif self.kind.lease is None or not handout.given:
                self.take_away(handout, "comes again")
        if self.kind.cumulative:
            self._next.update(self._committed)
        self.changed()

    @property
    def _now(self) -> float:
        return self._clock.now
