"""The adapter contract: the types that an adapter and the engine exchange.

An adapter opens sessions. A session delivers messages and settles them; its deliveries are valid within that session
only. The engine owns credit, leases, retries, ordering, reconnecting and draining, so an adapter only translates one
client library.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from missive.outcome import Outcome
from missive.words import counted

__all__ = [
    "CONTRACT_VERSION",
    "Capabilities",
    "ContractVersion",
    "Credit",
    "Delivery",
    "Disposition",
    "EndOfInput",
    "Host",
    "Session",
    "SessionStatus",
    "Settlement",
    "SettlementResult",
    "Watermark",
]

T = TypeVar("T")


class ContractVersion(NamedTuple):
    """A version of the adapter contract."""

    major: int
    """Incremented by changes that break existing adapters."""
    minor: int
    """Incremented by additions that existing adapters can ignore."""

    def accepts(self, declared: ContractVersion) -> bool:
        """Return whether an adapter written for the `declared` version works with this version."""
        return declared.major == self.major and declared.minor <= self.minor

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


CONTRACT_VERSION = ContractVersion(1, 1)
"""The version of the adapter contract that this release implements."""


class Credit(NamedTuple):
    """The limits of one fetch."""

    items: int
    """Maximum number of deliveries."""
    bytes: int
    """Budget for message bodies, in bytes. The last delivery may exceed the budget; no delivery follows it."""

    def count_fitting(self, deliveries: Collection[Delivery]) -> int:
        """Return the number of leading deliveries that this credit covers."""
        if len(deliveries) <= self.items and sum([len(one.body) for one in deliveries]) <= self.bytes:
            return len(deliveries)
        count, left = 0, self.bytes
        for one in deliveries:
            if count >= self.items or left <= 0:
                break
            count, left = count + 1, left - len(one.body)
        return count


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One message as the transport delivered it. Every field except `body` is optional.

    The garbage collector does not track deliveries, because there may be thousands. Therefore no value in a delivery
    may refer back to the delivery.
    """

    body: bytes
    headers: Any = ()
    """Pairs of name and value, or a mapping. A value is a `str` or `bytes`."""
    native_id: str | None = None
    """Id that the transport assigned. Redeliveries have the same id."""
    producer_id: str | None = None
    """Id that the producer assigned."""
    topic: str | None = None
    key: str | bytes | None = None
    timestamp: float | None = None
    """Time at which the message was sent, in seconds since 1970."""
    content_type: str | None = None
    lane: str | None = None
    """The transport's unit of order, such as a partition."""
    position: int | None = None
    """Position in the source or lane, such as an offset or a row number. Redeliveries have the same position."""
    token: Any = None
    """Data that the session needs to settle the delivery."""
    attempt: int = 1
    """Number of this delivery, starting at 1; as exact as `Capabilities.attempts` declares."""
    redelivered: bool = False
    native: Any = None
    """The client library's object, which handlers reach as `context.native`."""
    record_id: str | None = None
    """Id of the dead letter that this delivery replays."""
    record: Any = None
    """The stored record that this delivery replays."""
    unreadable: str | None = None
    """Why the transport's data cannot be decoded, without content. The engine files the delivery as `unreadable`."""
    too_large: str | None = None
    """Which bound the message exceeds, without content. The engine files the delivery as `too_large`."""

    def __repr__(self) -> str:
        return f"<Delivery: {counted(len(self.body), 'byte')}, attempt {self.attempt}>"


class Disposition(StrEnum):
    """The transport's next step with a delivery."""

    ack = "ack"
    """Delete or complete the message: it was handled, discarded or stored elsewhere."""
    delay = "delay"
    """Redeliver the message after a delay, which `Capabilities.max_delay` limits."""
    reject = "reject"
    """Move the message to the transport's dead letter facility, where `Capabilities.rejects` declares one."""
    release = "release"
    """Return the message to the transport at once: its handling did not start."""


class Settlement(msgspec.Struct, eq=False, gc=False):
    """The settlement of one delivery."""

    delivery: Delivery
    disposition: Disposition
    outcome: Outcome | None = None
    """How handling ended, for transports that report it to the sender. None for a message that was not handled."""
    label: str | None = None
    """The short constant reason of a discard."""
    delay: float = 0.0
    """For `delay`: the time until redelivery, in seconds."""
    attempt: int = 0
    """For `delay`: the number of attempts spent, for transports that count attempts exactly."""


class SettlementResult(StrEnum):
    """The transport's answer to one settlement."""

    confirmed = "confirmed"
    """The transport confirmed the settlement. It never redelivers the message."""
    sent = "sent"
    """The settlement was sent; the protocol has no reply."""
    fenced = "fenced"
    """The transport refused the settlement, because the delivery no longer belongs to this session."""
    gone = "gone"
    """The transport no longer has the message: it was deleted while this session held it. No other consumer has it."""
    unknown = "unknown"
    """The reply was lost. The transport may redeliver the message."""
    failed = "failed"
    """The transport refused the settlement for now. The engine tries again."""


class Watermark(NamedTuple):
    """The progress of a lane on a cumulative transport: every message up to and including `position` is done."""

    position: int
    acked_beyond: bytes = b""
    """Messages that are done beyond the position, as opaque printable ASCII. `Capabilities.max_watermark` limits its
    size."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The features of a connected session."""

    release: str = "native"
    """Return of messages whose handling did not start. `native`: at once. `expire`: when the lease ends. `none`:
    impossible; the engine stores these messages as dead letters."""
    replies: bool = True
    """Whether the transport answers a settlement with `confirmed`. Without replies, the result is `sent`."""
    fences: bool = False
    """Whether the transport refuses to settle a delivery that another consumer holds."""
    commit: str = "each"
    """`each`: settle deliveries individually, in batches. `cumulative`: commit one watermark per lane."""
    lease: float | None = None
    """Time after which the transport redelivers an unsettled message, in seconds. None for no limit."""
    renewable: bool = True
    """Whether `Session.extend` renews a lease. Handler timeouts must be shorter than a lease without renewal."""
    max_watermark: int = 0
    """Maximum size of `Watermark.acked_beyond`, in bytes; 0 where a commit stores a position only."""
    pauses: bool = False
    """Whether the session can pause and resume single lanes."""
    order: str = "none"
    """`lane`: messages of one lane arrive in order, redeliveries included. `source`: one consumer at a time receives
    all messages of the source. `none`: there is no order."""
    attempts: str = "none"
    """Accuracy of `Delivery.attempt`: `exact`, `approximate` or `none`."""
    window: int = 0
    """Number of unsettled deliveries at which the transport stops delivering; 0 where only the credit of a fetch limits
    them. See `Session.room` and `Session.widen`."""
    max_delay: float = 0.0
    """Maximum delay for `Disposition.delay`, in seconds; 0 where the transport has no delays."""
    rejects: bool = False
    """Whether the transport moves rejected messages to its own dead letter facility. Without one, it drops them."""
    durable: bool = True
    """Whether messages survive a restart of the transport."""


class SessionStatus(NamedTuple):
    """The status of a session. A value is None where the transport does not report it."""

    connected: bool | None = None
    """Whether messages can still arrive. False where the session is broken but has not raised an error yet."""
    lag: int | None = None
    """Number of waiting messages that the transport has not delivered to any consumer."""
    oldest_age: float | None = None
    """Age of the oldest waiting message, in seconds."""


class EndOfInput(Exception):
    """Raised by `Session.fetch` when the source has no more messages, for example at the end of a file."""


class Host(Protocol):
    """The engine as a session sees it."""

    @property
    def service(self) -> str:
        """The name of the processor."""
        ...

    @property
    def credit(self) -> Credit:
        """The maximum number and size of unsettled deliveries of this source. Use it to choose a prefetch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait on the engine's clock."""
        ...

    def time(self) -> float:
        """Return the time of the engine's wall clock, in seconds since 1970."""
        ...

    async def load_checkpoint(self, source: str) -> str | None:
        """Return the stored checkpoint of a source for this service, or None. Raise `StoreError` on failure."""
        ...

    async def save_checkpoint(self, source: str, value: str) -> bool:
        """Store a short checkpoint durably in the dead letter store.

        Return False where the store cannot hold checkpoints. Raise `StoreError` on failure.
        """
        ...

    def report(self, line: str) -> None:
        """Report one line to the operator. The line must contain no message content and no secret."""
        ...

    async def lanes_gained(self, watermarks: Mapping[str, Watermark | None]) -> None:
        """Announce lanes that now belong to this session, with their committed watermarks.

        Call it before the session delivers any message of these lanes. The engine skips the messages that
        `Watermark.acked_beyond` marks as done.
        """
        ...

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Announce that lanes move to another consumer; return when they may move.

        With `may_commit`, running handlers have `deadline` seconds to finish, and the engine calls `Session.commit`
        before this call returns. Without it, another consumer already owns the lanes: the engine cancels running
        handlers where possible and commits nothing. After the call, the engine settles no delivery of these lanes,
        even if this session gains the lanes again.
        """
        ...

    async def lanes_deleted(self, lanes: Collection[str], unfetched: Sequence[Delivery]) -> None:
        """Announce that the messages of lanes no longer exist, because their topic was deleted.

        The engine handles the messages of these lanes that it holds, and the deliveries that no fetch returned. It
        does not commit their progress. Call `lanes_gained` before the lanes deliver the messages of another topic.
        """
        ...


class Session(ABC):
    """One connection and its deliveries. The engine calls every method on its own loop.

    Any method raises `Transient` when the connection is gone. The engine then connects again and settles no delivery
    of the old session. Any method raises `Fatal` when another connection would fail too.
    """

    capabilities: Capabilities = Capabilities()
    client: Any = None
    """The client library's object, which the adapter documents. Use it through `Adapter.call`."""
    broker: str = ""
    """Name and version of the broker, for the log, where the session knows them."""
    enforced_lease: float | None = None
    """The lease, in seconds, if the transport ended this session because a delivery was held for longer. Set it before
    the session raises `Transient`, where the lease cannot be renewed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    @abstractmethod
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Wait for deliveries; return at least one and at most `credit.items`.

        The engine runs one fetch at a time and may cancel it. The next fetch, or `stop_intake`, returns the
        deliveries of a cancelled fetch. Raise `EndOfInput` after the last delivery.
        """

    @abstractmethod
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Settle deliveries; return one result for each, in order. A waiting fetch must not block this call."""

    async def commit(self, watermarks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Commit the watermark of each lane, where `capabilities.commit` is `cumulative`; return a result for each.

        The result is `fenced` for a lane that was lost after the call, even if the session gained the lane again.
        """
        raise NotImplementedError

    async def first_positions(self, lanes: Collection[str]) -> Mapping[str, int]:  # noqa: ARG002 - the default
        """Return the first position of each lane that still exists, where the transport deletes unsettled messages.

        The engine asks at a drain, before it gives deliveries back. It files the deleted ones.
        """
        return {}

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Renew the leases of deliveries by `capabilities.lease` seconds; return one result for each."""
        raise NotImplementedError

    async def pause(self, lanes: Collection[str]) -> None:
        """Stop delivering messages of these lanes, where `capabilities.pauses` is true."""
        raise NotImplementedError

    async def resume(self, lanes: Collection[str]) -> None:
        """Deliver messages of paused lanes again."""
        raise NotImplementedError

    def room(self) -> int:
        """Return how many more messages the transport delivers before one is settled, where it has a window."""
        return self.capabilities.window

    async def widen(self) -> bool:
        """Let the transport deliver another window of messages, while the earlier ones stay unsettled.

        The engine calls this when most deliveries of the window wait for their lane, limit or retry. Return False where
        that is impossible without a change of the order. The engine then parks waiting messages in the store.
        """
        return False

    async def status(self) -> SessionStatus:
        """Return the status of the session. The engine calls it at most once every few seconds."""
        return SessionStatus()

    async def stop_intake(self) -> Sequence[Delivery]:
        """Stop delivering; return the received deliveries that no fetch returned. Settling continues to work."""
        return ()

    @abstractmethod
    async def close(self) -> None:
        """Close the connection, threads and files. Repeated calls have no effect.

        The transport redelivers unsettled deliveries.
        """

    def submit(self, fn: Callable[[], T]) -> Future[T]:
        """Run `fn` on the thread that owns the client. By default, this is the thread of the engine's loop.

        An awaitable result is awaited on that loop, so `fn` can call an asyncio client.
        """
        future: Future[T] = Future()

        async def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = fn()
                    future.set_result(await result if inspect.isawaitable(result) else result)
                except Exception as error:  # noqa: BLE001 - the caller receives the exception
                    future.set_exception(error)

        asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future
