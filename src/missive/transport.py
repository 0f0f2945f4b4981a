"""The adapter contract: what a transport gives the engine, and what the engine asks of it.

An adapter makes sessions; a session is the validity of its deliveries. The engine owns reconnecting,
credits, leases, retries, ordering and draining, so that an adapter stays a translation of one client library.
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

T = TypeVar("T")


class Credit(NamedTuple):
    """How much a fetch may bring."""

    items: int
    """At most so many deliveries."""
    bytes: int
    """None starts without bytes left; the last one may go over."""

    def covers(self, deliveries: Collection[Delivery]) -> int:
        """Return how many of the first of some deliveries it is enough for."""
        if len(deliveries) <= self.items and sum([len(one.body) for one in deliveries]) <= self.bytes:
            return len(deliveries)
        count, left = 0, self.bytes
        for one in deliveries:
            if count >= self.items or left <= 0:
                break
            count, left = count + 1, left - len(one.body)
        return count


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One message as its transport delivered it. Everything but the body is optional.

    The garbage collector does not look at deliveries, of which there may be thousands: nothing in one may refer
    back to it.
    """

    body: bytes
    headers: Any = ()
    """Pairs of name and value, or a mapping; values are `str` or `bytes`."""
    native_id: str | None = None
    """The transport's own id, equal across redeliveries."""
    producer_id: str | None = None
    """The id the producer gave."""
    topic: str | None = None
    key: str | bytes | None = None
    timestamp: float | None = None
    """When it was sent, in seconds since 1970."""
    content_type: str | None = None
    lane: str | None = None
    """The transport's own unit of order, such as a partition."""
    position: int | None = None
    """Where it is in its source (or lane): an offset, a row; redeliveries share it."""
    token: Any = None
    """What the session needs to settle it."""
    attempt: int = 1
    """Which delivery this is, from 1, as exactly as the capabilities say."""
    redelivered: bool = False
    native: Any = None
    """What `context.native` gives the handler."""
    record_id: str | None = None
    """On a replay, the dead letter that this is."""
    record: Any = None
    """On a replay, the same as the store has it."""

    def __repr__(self) -> str:
        return f"<Delivery: {len(self.body)} bytes, attempt {self.attempt}>"


class Disposition(StrEnum):
    """What a transport is told about a delivery."""

    ack = "ack"
    """It is done with: handled, discarded, or kept elsewhere."""
    delay = "delay"
    """It is to come again after a while, where `capabilities.max_delay` allows for that."""
    reject = "reject"
    """It goes to the transport's own dead letter facility, where `capabilities.rejects` says that there is one."""
    release = "release"
    """It was not started: give it back at once, to whoever asks next."""


class Settlement(msgspec.Struct, eq=False, gc=False):
    """One delivery to settle."""

    delivery: Delivery
    disposition: Disposition
    outcome: Outcome | None = None
    """How handling ended, for a transport that can tell its sender; None when it was not handled."""
    label: str | None = None
    """The short constant that goes with a discard."""
    delay: float = 0.0
    """Seconds, for `delay`."""
    attempt: int = 0
    """For `delay`: how many attempts were spent, for a transport that counts them exactly."""


class SettlementResult(StrEnum):
    """What became of one item of a settlement."""

    confirmed = "confirmed"
    """The transport answered that it is settled: it is never redelivered."""
    sent = "sent"
    """Told, in a protocol that does not answer."""
    fenced = "fenced"
    """Refused, because the delivery is no longer ours: somebody else has it, or will."""
    unknown = "unknown"
    """The answer was lost; it may come again."""
    failed = "failed"
    """Refused for now; to be tried again."""


class Watermark(NamedTuple):
    """How far a lane of a cumulative transport is done: everything up to and with `position`, and more beyond it."""

    position: int
    acked_beyond: bytes = b""
    """What is done beyond the position: opaque, printable ASCII, at most `capabilities.max_watermark` bytes."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a session can do, known once it is connected."""

    release: str = "native"
    """`native`: takes unstarted work back at once. `expire`: gives it out again when its lease ends. `none`: cannot;
    what was read is ours to keep."""
    replies: bool = True
    """Whether a settlement is answered: `confirmed`, and never redelivered; else it is `sent`."""
    fences: bool = False
    """Whether settling a delivery that somebody else has by now is refused, and does nothing."""
    commit: str = "each"
    """`each`: deliveries are settled one by one, in batches. `cumulative`: by a mark per lane."""
    lease: float | None = None
    """After so many seconds without renewal a delivery is given to somebody else; None for never."""
    renewable: bool = True
    """Whether a lease can be renewed with `extend`. A handler's timeout must fit into one that cannot."""
    max_watermark: int = 0
    """How many bytes of gaps a mark may carry; 0 where it is a position and nothing else."""
    pauses: bool = False
    """Whether single lanes can be paused and resumed."""
    order: str = "none"
    """`lane`: messages of one lane come in their order, also after a redelivery. `none`: as they come."""
    attempts: str = "none"
    """How exactly deliveries are counted: `exact`, `approximate` or `none`."""
    max_delay: float = 0.0
    """For how many seconds a message can be sent back with `Disposition.delay`; 0 for not at all."""
    rejects: bool = False
    """Whether what is rejected goes to a dead letter facility of the transport's own, and is not dropped."""
    durable: bool = True
    """Whether messages survive the transport's restart."""


class SessionStatus(NamedTuple):
    """How a session is. What a transport does not tell is None."""

    connected: bool | None = None
    """Whether messages can still come. False where the session should have raised, and has not noticed."""
    lag: int | None = None
    """Messages that wait at the transport and are not delivered to anybody yet."""
    oldest: float | None = None
    """The age of the oldest of them in seconds."""


class EndOfInput(Exception):
    """Raised by `Session.fetch` when there will never be more, as at the end of a file."""


class Host(Protocol):
    """What the engine offers a session."""

    @property
    def service(self) -> str:
        """The processor's name."""
        ...

    @property
    def credit(self) -> Credit:
        """The most that will ever be unsettled at once: a prefetch that suits the engine."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait on the engine's clock."""
        ...

    def time(self) -> float:
        """Return the engine's wall clock, in seconds since 1970."""
        ...

    async def recall(self, source: str) -> str | None:
        """Return what `remember` kept for this service and source, or None. Raises `StoreError`."""
        ...

    async def remember(self, source: str, value: str) -> bool:
        """Keep a few bytes beside the dead letters, durably; False where nothing can. Raises `StoreError`."""
        ...

    def say(self, line: str) -> None:
        """Tell the operator one line. It must hold no message content and no secret."""
        ...

    async def lanes_gained(self, marks: Mapping[str, Watermark | None]) -> None:
        """Tell that lanes are this session's from now on, with the marks that were committed; before they deliver.

        What a mark's gaps say is done is not handled again.
        """
        ...

    async def lanes_lost(self, lanes: Collection[str], *, may_commit: bool, deadline: float) -> None:
        """Tell that lanes are about to go to somebody else; returns when they may.

        With `may_commit`, what runs has `deadline` seconds to end, and `Session.commit` is called before this returns;
        without, they are somebody else's already: what runs is cancelled as far as it can be, and nothing is committed.
        After it, nothing that came from these lanes is settled any more, also when they come back.
        """
        ...


class Session(ABC):
    """One connection's worth of deliveries. All methods are called on the engine's loop.

    Raises `Transient` from any method when the connection is gone: the engine then connects again, and nothing
    of this session is settled any more. Raises `Fatal` when no other connection would do better.
    """

    capabilities: Capabilities = Capabilities()
    client: Any = None
    """The client library's object, as the adapter documents it; use it through `Adapter.call`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    @abstractmethod
    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Wait for deliveries and return at least one and at most `credit.items`.

        Cancel-safe: what a cancelled fetch had in hand is returned by the next one, or by `stop_intake`. One at
        a time. Raises `EndOfInput` after the last.
        """

    @abstractmethod
    async def settle(self, items: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Settle deliveries and return a result for each, in order. Works while a fetch waits."""

    async def commit(self, marks: Mapping[str | None, Watermark]) -> Mapping[str | None, SettlementResult]:
        """Commit how far each lane is done, where `capabilities.commit` is cumulative; returns a result for each.

        What was asked for before its lane was lost is `fenced`, also when the lane is back by then.
        """
        raise NotImplementedError

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[SettlementResult]:
        """Renew the lease of deliveries by `capabilities.lease` seconds, where there is one."""
        raise NotImplementedError

    async def pause(self, lanes: Collection[str]) -> None:
        """Deliver no more of these lanes until they are resumed, where `capabilities.pauses`."""
        raise NotImplementedError

    async def resume(self, lanes: Collection[str]) -> None:
        """Deliver paused lanes again."""
        raise NotImplementedError

    async def status(self) -> SessionStatus:
        """Return how the session is, as far as the transport tells; asked every few seconds at the most."""
        return SessionStatus()

    async def stop_intake(self) -> Sequence[Delivery]:
        """Stop delivering, and return what was received and not fetched. Settling still works."""
        return ()

    @abstractmethod
    async def close(self) -> None:
        """Give everything back: connection, threads, files. Idempotent; unsettled deliveries come again."""

    def submit(self, fn: Callable[[], T]) -> Future[T]:
        """Run `fn` on the thread that owns the client, which is the engine's unless a session says otherwise.

        What it returns is awaited there, if it is awaitable, as what an asyncio client's methods return is.
        """
        future: Future[T] = Future()

        async def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = fn()
                    future.set_result(await result if inspect.isawaitable(result) else result)
                except Exception as error:  # noqa: BLE001 - the caller gets it
                    future.set_exception(error)

        asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future
