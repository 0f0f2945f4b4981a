"""World: the part of a schedule that outlives its processes, and the random numbers of its seed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from zlib import crc32

from missive.app.processor import Processor
from missive.dlq.once import EffectKey, MemoryOnce
from missive.dlq.record import Record
from missive.engine.limits import DEFAULT, Limits
from missive.messages import Message
from missive.routing.router import Misrouted
from missive.testing.simulation.broker import TRANSPORTS, Broker
from missive.testing.simulation.entry import Entry
from missive.testing.simulation.faults import FaultRates, Faults
from missive.testing.simulation.ledger import Ledger
from missive.testing.simulation.loop import Clock
from missive.testing.simulation.trace import Promise, Trace
from missive.transport import Delivery


class World:
    """The clock, the broker with its messages, the ledger, and the rates of faults."""

    def __init__(
        self,
        seed: int,
        processor: Processor[Any],
        messages: Sequence[Message | bytes],
        faults: Faults,
        kind: str | None = None,
        limits: Limits = DEFAULT,
    ) -> None:
        self.limits = limits
        self.max_unfiled = processor.max_unfiled
        """Maximum number of outcomes that may wait for a store that is down, before intake pauses."""
        self.random = random = Random(seed)  # noqa: S311 - a schedule must be repeatable
        self.clock = Clock()
        self.trace = Trace(self.clock)
        self.failure: tuple[Promise, str] | None = None
        """The first broken promise, with a description."""
        self.stop: Callable[[], None] = lambda: None
        """Called when a promise is broken, which ends the schedule."""
        self.rates = FaultRates(faults, random)
        self.ledger = Ledger(self.clock, self.trace, self.fail)
        transport = TRANSPORTS[kind or random.choice(list(TRANSPORTS))](random)
        self.broker = Broker(transport, self.clock, self.trace, random, self.fail)
        self.ledger.redelivers_in_order = transport.lease is None
        self.ledger.cumulative = transport.cumulative
        self.once = MemoryOnce(lambda: self.clock.now)
        """The claims and effects in the store."""
        self.effects: dict[EffectKey, list[Entry]] = {}
        """The messages of each effect, for handlers with `once=`."""
        self._by_id: dict[str, Entry] = {}
        self._publish(processor, messages)

    def fail(self, promise: Promise, what: str) -> None:
        """Record a broken promise, and end the schedule. Only the first one counts."""
        if self.failure is None:
            self.failure = (promise, what)
            self.trace.add("BROKEN", None, what)
            self.stop()

    def entry_of(self, record: Record) -> Entry:
        """Return the message of a record."""
        message = record.message
        return self._by_id[record.message_id if message is None else message.message_id]  # type: ignore[index]

    def _publish(self, processor: Processor[Any], messages: Sequence[Message | bytes]) -> None:
        # Messages arrive together, or within a few seconds.
        spread = self.random.choice((0.0, 0.5, 3.0))
        times = sorted(self.random.random() * spread for _ in messages)
        find = processor.router().find
        for number, (message, at) in enumerate(zip(messages, times, strict=True)):
            entry = Entry(number, _template(message, number), at)
            self.ledger.entries.append(entry)
            self._by_id[entry.template.producer_id or entry.template.native_id or ""] = entry
            self._route(entry, find, processor)
            if entry.group is not None:
                self.ledger.groups.setdefault(entry.group, []).append(entry)
        self.broker.publish(self.ledger.entries)

    def _route(self, entry: Entry, find: Any, processor: Processor[Any]) -> None:
        template = entry.template
        key: Any = template.key
        with contextlib.suppress(Exception):  # an unreadable message has no order
            message = processor.message_cls(
                template.body,
                headers=template.headers,
                topic=template.topic,
                key=template.key,
                message_id=template.producer_id or template.native_id,
                timestamp=template.timestamp,
                content_type=template.content_type,
            )
            found = find(message)
            if not isinstance(found, Misrouted):
                entry.route = found
                entry.passes = found.terms.on_lane_retry == "pass"
                if found.discards is None and found.terms.ordered_by is not None:
                    entry.unreadable_key = True
                    key = found.terms.key_of(message)
                    entry.unreadable_key = False
                    entry.group = None if key is None else (found.terms.ordered_by, key)
                once = found.terms.once
                if found.discards is None and once is not None and once.form == "lease":
                    entry.unreadable_key = True
                    if (digest := once.digest_of(message)) is not None:
                        entry.unreadable_key, entry.effect = False, (found.name, digest)
                        self.effects.setdefault(entry.effect, []).append(entry)
        if self.broker.kind.lanes:
            # A producer sends messages of one key to one lane.
            lane = self.random.randrange(3) if key is None else crc32(repr(key).encode()) % 3
            entry.lane = f"p{lane}"
            if entry.route is not None and entry.route.discards is None and entry.route.terms.ordered_by is None:
                entry.group = entry.lane


def _template(message: Message | bytes, number: int) -> Delivery:
    if isinstance(message, bytes):
        return Delivery(message, native_id=f"m{number}")
    return Delivery(
        message.raw_data,
        headers=message.headers.pairs,
        native_id=f"m{number}",
        producer_id=message.message_id,
        topic=message.topic,
        key=message.key,
        timestamp=message.timestamp,
        content_type=message.content_type,
    )
