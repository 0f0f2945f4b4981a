"""The adapter: one source of messages for a processor."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from typing_extensions import Self

from missive.adapters.parameters import constructor_arguments
from missive.adapters.running import run, serve
from missive.app.processor import Processor
from missive.errors import Transient, UsageError
from missive.matchers import by_key
from missive.privacy import redact_url
from missive.rates import Rate
from missive.transport import CONTRACT_VERSION, ContractVersion, Host, Session
from missive.urls import ParsedURL
from missive.version import VERSION

T = TypeVar("T")
S = TypeVar("S", bound=Session)


DEFAULT_MAX_BODY = 64 * 1024 * 1024
"""The largest body that is handled by default, in bytes."""


class Finding(NamedTuple):
    """One result of `missive doctor`. It contains no message content and no secret."""

    level: str
    """`ok`; `unknown`: the transport does not report the answer; `warning`: the deployment works but is at risk;
    `error`: the deployment does not work or loses messages."""
    check: str
    """Name of the check, in one or two words."""
    message: str
    """The result, in one line. Unless the level is `ok`, the line includes the remedy."""


class Adapter(ABC):
    """One source of messages for a processor. The constructor opens no connection.

    `drain` is the time that running handlers have to finish after a stop request, in seconds. `rate_limit` limits how
    many messages of this source start in this process in a period, for example "100/s". `max_body` is the largest body
    that is handled, in bytes; a larger message becomes a dead letter, `too_large`, without its body.

    The constructor raises `UsageError` when `contract_version` is not compatible with this release, and for invalid
    arguments.
    """

    contract_version: ClassVar[tuple[int, int]] = (1, 0)
    """The `missive.transport.CONTRACT_VERSION` for which the adapter was written. The default is the first version."""
    transport: ClassVar[str]
    """The name of the transport in dead letters and metrics."""
    background: ClassVar[bool] = False
    """Whether processing ends without this source, once all other sources have ended."""
    shareable: ClassVar[bool] = True
    """Whether several processes share the messages. Otherwise, each process would receive all of them."""
    default_store: ClassVar[bool] = False
    """Whether the command line may create a dead letter store in the working directory."""
    exclusive_lanes: ClassVar[bool] = False
    """Whether the transport delivers each lane to one consumer at a time."""
    partitioned_by: Callable[[Any], Hashable] | None = None
    """Returns the value by which producers choose the lane of a message, where that is not the key."""

    def __init__(
        self,
        processor: Processor[Any],
        *,
        drain: float = 25,
        rate_limit: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        _check_contract(type(self))
        if not drain >= 0:
            raise UsageError("drain= must be a number of seconds, zero or more")
        if not max_body >= 1:
            raise UsageError("max_body= must be a number of bytes, one or more")
        self.max_body = max_body
        self.processor = processor
        self.drain = drain
        self.rate_limit = None if rate_limit is None else Rate.parse(rate_limit)
        self._session: Session | None = None
        self._shown: str | None = None

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return an adapter for a URL. Override it if the URL has a host or a path.

        The default passes the parameters of the URL to the constructor. Raise `UsageError` for an invalid URL.
        """
        if url.authority or url.username or url.path.strip("/"):
            raise UsageError(
                f"{redact_url(url.original)}: {url.scheme}: URLs have parameters only, no host and no path"
            )
        return cls(processor, **constructor_arguments(cls, url))

    @property
    @abstractmethod
    def destination(self) -> str:
        """The name of the queue, topic or file."""

    @property
    def identity(self) -> str:
        """The URL of the source with the values of variables. It tells sources apart, and is never shown."""
        return f"{self.transport}:{self.destination}"

    @property
    def url(self) -> str:
        """The URL of the source as it may be shown: without credentials, and with variables as they were written."""
        return self._shown or self.identity

    def show_as(self, url: str) -> None:
        """Show another URL in place of `identity`, because the value of a variable may be a secret."""
        self._shown = url

    @abstractmethod
    async def connect(self, host: Host) -> Session:
        """Open a session. Raise `Transient` when a later attempt may succeed, and `Fatal` when it cannot."""

    async def diagnose(self, session: Session) -> Sequence[Finding]:  # noqa: ARG002 - overrides use the session
        """Return findings about the deployment behind a new session that has fetched nothing.

        An adapter checks facts that only its transport knows, such as a policy that drops messages. `missive doctor`
        checks the connection, the timeouts and the dead letter store itself.
        """
        return ()

    def order_hazard(self, key: Callable[[Any], Hashable], session: Session | None = None) -> str | None:
        """Return why equal values of `key` may run in several processes at once, in one line with the remedy.

        Return None where they cannot: a lane that the transport makes exclusive contains all messages of a value. Also
        return None without a session, where only a session can tell.
        """
        if session is not None and session.capabilities.order == "source":
            return None
        if not self.exclusive_lanes:
            return f"{self.url} delivers messages of one key to several processes"
        if key in (by_key, self.partitioned_by):
            return None
        return (
            f"{self.url} keeps only the values of by_key and of partitioned_by= in one lane each. Partition by the"
            " value of ordered_by, and declare it with partitioned_by="
        )

    def attach(self, session: Session | None) -> None:
        """Set the current session. Only the engine calls this method."""
        self._session = session

    @property
    def session(self) -> Session:
        """The current session. Raise `Transient` without a connection."""
        if self._session is None:
            raise Transient(f"{self.url} is not connected")
        return self._session

    @property
    def client(self) -> Any:
        """The client library's object of the current session. Raise `Transient` without a connection."""
        return self.session.client

    def call(self, fn: Callable[[], T]) -> T:
        """Run `fn` on the thread that owns the client and return its result. Use it in sync handlers.

        With an asyncio client, `fn` may return an awaitable, which is awaited on that thread.
        """
        return self.session.submit(fn).result()

    async def acall(self, fn: Callable[[], T]) -> T:
        """Run `fn` on the thread that owns the client and return its result. Use it in async handlers."""
        return await asyncio.wrap_future(self.session.submit(fn))

    def run(self) -> None:
        """Process messages until the input ends or a signal arrives; then drain and return.

        Raise SystemExit(1), after one line on standard error, when processing fails or is cut short. Raise
        SystemExit(2) for a mistake in the configuration.
        """
        run(self)

    async def serve(self) -> None:
        """Process messages inside a running loop until the input ends. Async handlers run on the caller's loop.

        Cancelling the call drains first. Raise `MissiveError` when processing fails or is cut short.
        """
        await serve(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.url}>"


async def open_session(session: S, opening: Awaitable[object]) -> S:
    """Wait until a session is open, and return the session. Close the session when the opening fails."""
    try:
        await opening
    except BaseException:
        await session.close()
        raise
    return session


def _check_contract(adapter: type[Adapter]) -> None:
    """Raise `UsageError` when an adapter was written for an incompatible version of the contract."""
    declared = ContractVersion(*adapter.contract_version)
    if not CONTRACT_VERSION.accepts(declared):
        remedy = "missive" if declared > CONTRACT_VERSION else f"the package of {adapter.__module__}"
        raise UsageError(
            f"{adapter.__module__}.{adapter.__qualname__} was written for version {declared} of the adapter contract,"
            f" but missive {VERSION} implements version {CONTRACT_VERSION}: upgrade {remedy}"
        )
