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
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import msgspec
from typing_extensions import Self

from missive.adapters.registry import AdapterURL, keywords
from missive.errors import Transient, UsageError
from missive.outcome import Outcome
from missive.privacy import redact_url
from missive.rates import Rate

if TYPE_CHECKING:
    from missive.processor import Processor

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


class Verb(StrEnum):
    """What a transport is told about a delivery."""

    ack = "ack"
    """It is done with: handled, discarded, or kept elsewhere."""
    delay = "delay"
    """It is to come again after a while, where `capabilities.max_delay` allows for that."""
    reject = "reject"
    """It goes to the transport's own dead letter facility, where `capabilities.rejects` says that there is one."""
    release = "release"
    """It was not started: give it back at once, to whoever asks next."""


class Item(msgspec.Struct, eq=False, gc=False):
    """One delivery to settle."""

    delivery: Delivery
    verb: Verb
    outcome: Outcome | None = None
    """How handling ended, for a transport that can tell its sender; None when it was not handled."""
    label: str | None = None
    """The short constant that goes with a discard."""
    delay: float = 0.0
    """Seconds, for `delay`."""
    attempt: int = 0
    """For `delay`: how many attempts were spent, for a transport that counts them exactly."""


class Result(StrEnum):
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


class Mark(NamedTuple):
    """How far a lane of a cumulative transport is done: everything up to and with `position`, and more beyond it."""

    position: int
    gaps: bytes = b""
    """What is done beyond the position: opaque, printable ASCII, at most `capabilities.max_mark` bytes."""


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
    max_mark: int = 0
    """How many bytes of gaps a mark may carry; 0 where it is a position and nothing else."""
    pauses: bool = False
    """Whether single lanes can be paused and resumed."""
    order: str = "none"
    """`lane`: messages of one lane come in their order, also after a redelivery. `none`: as they come."""
    attempts: str = "none"
    """How exactly deliveries are counted: `exact`, `approximate` or `none`."""
    max_delay: float = 0.0
    """For how many seconds a message can be sent back with `Verb.delay`; 0 for not at all."""
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


class Finding(NamedTuple):
    """What `missive doctor` found about a deployment. It holds no message content and no secret."""

    level: str
    """`ok`, `unknown` (the transport does not tell: look elsewhere), `warning` (it works, and will hurt) or `error` (it
    does not work, or loses messages)."""
    check: str
    """What was looked at, in a word or two."""
    says: str
    """What was found, and unless it is ok what to do about it; one line."""


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

    async def lanes_gained(self, marks: Mapping[str, Mark | None]) -> None:
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
    async def settle(self, items: Sequence[Item]) -> Sequence[Result]:
        """Settle deliveries and return a result for each, in order. Works while a fetch waits."""

    async def commit(self, marks: Mapping[str | None, Mark]) -> Mapping[str | None, Result]:
        """Commit how far each lane is done, where `capabilities.commit` is cumulative; returns a result for each.

        What was asked for before its lane was lost is `fenced`, also when the lane is back by then.
        """
        raise NotImplementedError

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Result]:
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


class Adapter(ABC):
    """One source of messages for a processor. Constructing it opens nothing.

    `drain` is how many seconds running work has to finish once the processor is told to stop. `rate_limit` is how many
    messages from here begin to be handled in any stretch of time, such as "100/s", in this process.
    """

    transport: ClassVar[str]
    """What the transport is called in dead letters and metrics."""
    background: ClassVar[bool] = False
    """Whether it only helps out: when all other sources have ended, processing ends."""
    shareable: ClassVar[bool] = True
    """Whether several processes that consume it share its messages; else each would get all, or take them away."""
    exclusive_lanes: ClassVar[bool] = False
    """Whether each of its lanes is delivered to one consumer at a time, so that order holds across processes."""

    def __init__(self, processor: Processor[Any], *, drain: float = 25, rate_limit: str | None = None) -> None:
        if not drain >= 0:
            raise UsageError("drain= is a number of seconds, zero or more")
        self.processor = processor
        self.drain = drain
        self.rate_limit = None if rate_limit is None else Rate.parse(rate_limit)
        self._session: Session | None = None

    @classmethod
    def from_parts(cls, url: AdapterURL, processor: Processor[Any]) -> Self:
        """Return the adapter that a URL describes; here for one whose URL is all parameters."""
        if url.authority or url.username or url.path.strip("/"):
            raise UsageError(f"{redact_url(url.whole)}: {url.scheme}: takes parameters only, and neither host nor path")
        return cls(processor, **keywords(cls, url))

    @property
    @abstractmethod
    def destination(self) -> str:
        """What is consumed: a queue, a topic, a file."""

    @property
    def url(self) -> str:
        """Where from, without credentials."""
        return f"{self.transport}:{self.destination}"

    @property
    def default_store(self) -> bool:
        """Whether the command line may choose a dead letter store by itself: where there is a working directory."""
        return False

    @abstractmethod
    async def connect(self, host: Host) -> Session:
        """Open a session. Raises `Transient` for what may work later and `Fatal` for what will not."""

    async def diagnose(self, session: Session) -> Sequence[Finding]:  # noqa: ARG002 - most have more to ask
        """Look for what is not sound in the deployment behind a session that was just opened and consumes nothing.

        Here for what only this transport knows, such as a policy that would drop messages. What all have in common
        (reachable, timeouts within the lease, a dead letter store) the command looks at itself.
        """
        return ()

    def attach(self, session: Session | None) -> None:
        """Tell the adapter which session is the current one; the engine does."""
        self._session = session

    @property
    def session(self) -> Session:
        """The current session. Raises `Transient` while there is none."""
        if self._session is None:
            raise Transient(f"{self.url} is not connected")
        return self._session

    @property
    def client(self) -> Any:
        """The client library's object of the current session. Raises `Transient` while there is none."""
        return self.session.client

    def call(self, fn: Callable[[], T]) -> T:
        """Run `fn` on the thread that owns the client, wait, and return its result; for sync handlers.

        Where the client is an asyncio one, `fn` may return what its methods return, which is awaited there.
        """
        return self.session.submit(fn).result()

    async def acall(self, fn: Callable[[], T]) -> T:
        """Run `fn` on the thread that owns the client, and return its result; for async handlers."""
        return await asyncio.wrap_future(self.session.submit(fn))

    def run(self) -> None:
        """Process messages until the input ends or a signal says stop; then drain and return.

        Raises SystemExit(1) after one line on standard error when processing failed or was cut short, and
        SystemExit(2) for what cannot work as written.
        """
        from missive.engine.run import run  # noqa: PLC0415 - importing missive does not load the engine

        run(self)

    async def serve(self) -> None:
        """Process messages inside a running loop, on which async handlers then run, until done or cancelled.

        Raises `MissiveError` when processing failed or was cut short.
        """
        from missive.engine.run import serve  # noqa: PLC0415 - as above

        await serve(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.url}>"
