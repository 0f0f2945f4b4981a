"""The adapter: one source of messages for a processor."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from typing_extensions import Self

from missive.adapters.parameters import keywords
from missive.adapters.running import run, serve
from missive.app.processor import Processor
from missive.errors import Transient, UsageError
from missive.privacy import redact_url
from missive.rates import Rate
from missive.transport import Host, Session
from missive.urls import ParsedURL

T = TypeVar("T")


class Finding(NamedTuple):
    """What `missive doctor` found about a deployment. It holds no message content and no secret."""

    level: str
    """`ok`, `unknown` (the transport does not tell: look elsewhere), `warning` (it works, and will hurt) or `error` (it
    does not work, or loses messages)."""
    check: str
    """What was looked at, in a word or two."""
    says: str
    """What was found, and unless it is ok what to do about it; one line."""


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
    def from_parts(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
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
        run(self)

    async def serve(self) -> None:
        """Process messages inside a running loop, on which async handlers then run, until done or cancelled.

        Raises `MissiveError` when processing failed or was cut short.
        """
        await serve(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.url}>"
