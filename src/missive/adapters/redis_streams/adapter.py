"""The Redis Streams adapter: which stream is consumed, and as whom."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from missive.adapters.base import Adapter, Finding
from missive.adapters.parameters import constructor_arguments
from missive.app.processor import Processor
from missive.errors import MissingExtra, UsageError
from missive.transport import Host, Session
from missive.urls import ParsedURL

if TYPE_CHECKING:
    from typing_extensions import Self

    from missive.adapters.redis_streams.session import RedisStreamsSession

PORT = 6379
_SHORTEST, _LONGEST = 0.1, 7 * 86400.0
REPLY = 10.0
"""Seconds within which the server answers what it need not wait for: longer, and the connection is half open."""


class RedisStreamsAdapter(Adapter):
    """Consumes a stream as a group: `redis://host:6379/0?stream=orders&group=billing`; `rediss://` speaks TLS.

    The body is the field `body_field`, and the other fields are headers; in an entry without that field, the whole of
    it is the body, as a JSON object. `claim_idle` is when an entry of a consumer that died is taken over: a lease that
    is renewed while a message is worked on. With `create`, stream and group are made if they are missing, the group at
    `start`: `0` for all there is, `$` for what comes. `consumer` is this consumer's name in the group; by default each
    has its own, and is removed when it leaves with nothing pending.

    The client is a `redis.asyncio.Redis`, used through `context.adapter.call` or `acall`; `context.native` has the
    entry's `id` and raw `fields`.
    """

    transport = "redis"

    def __init__(
        self,
        processor: Processor[Any],
        stream: str,
        group: str,
        *,
        body_field: str = "data",
        claim_idle: float = 30.0,
        create: bool = False,
        start: str = "0",
        consumer: str | None = None,
        host: str = "localhost",
        port: int = PORT,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        ca_file: str | None = None,
        drain: float = 25,
        rate_limit: str | None = None,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        if find_spec("redis") is None:
            raise MissingExtra("Redis", "redis")
        if not _SHORTEST <= claim_idle <= _LONGEST:
            raise UsageError(f"claim_idle= is a number of seconds from {_SHORTEST:g} to {_LONGEST:g}")
        self.stream = stream
        self.group = group
        self.body_field = body_field
        self.claim_idle = claim_idle
        self.create = create
        self.start = start
        self.consumer = consumer
        self.host = host
        self.port = port
        self.db = db
        self.username = username
        self.tls = tls
        self.ca_file = ca_file
        self._password = password

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter of `redis://user:pass@host:6379/0?stream=orders&group=billing`."""
        if not url.authority:
            raise UsageError("a Redis URL names its host: redis://:${PASSWORD}@host:6379/0?stream=orders&group=billing")
        db = url.path.strip("/") or "0"
        if not db.isdecimal():
            raise UsageError(
                "a Redis URL's path is the number of a database: redis://host:6379/0?stream=orders&group=g"
            )
        said_elsewhere = ("host", "port", "db", "username", "password", "tls")
        return cls(
            processor,
            **constructor_arguments(cls, url, exclude=said_elsewhere),
            host=url.host or "localhost",
            port=url.port or PORT,
            db=int(db),
            username=url.username or None,
            password=url.password,
            tls=url.scheme == "rediss",
        )

    @property
    def destination(self) -> str:
        """The stream."""
        return self.stream

    @property
    def url(self) -> str:
        """The server, stream and group, without credentials."""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{self.host}:{self.port}/{self.db}?stream={self.stream}&group={self.group}"

    def connection(self, seconds: float, name: str) -> Any:
        """Return a client of one connection, which answers within so many seconds."""
        from redis.asyncio import Redis  # noqa: PLC0415 - an extra
        from redis.asyncio.retry import Retry  # noqa: PLC0415 - an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra

        client = Redis(
            host=self.host,
            port=self.port,
            db=self.db,
            username=self.username,
            password=self._password,
            protocol=2,
            single_connection_client=True,
            socket_timeout=seconds,
            socket_connect_timeout=REPLY,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),  # the engine connects again, and nothing is sent twice
            client_name=name,
            ssl=self.tls,
            ssl_ca_certs=self.ca_file,
            ssl_check_hostname=True,
        )
        # As the server said it: what is made of it here costs less.
        client.set_response_callback("XREADGROUP", lambda response, **_: response)
        return client

    async def connect(self, host: Host) -> RedisStreamsSession:
        """Connect, and see that the group is there; nothing is read before the first fetch.

        Raises `Fatal` for credentials, rights and a key that is no stream, `Transient` for all else.
        """
        from missive.adapters.redis_streams.session import RedisStreamsSession  # noqa: PLC0415 - the client is an extra

        session = RedisStreamsSession(self, host)
        try:
            await session.open()
        except BaseException:
            await session.close()
            raise
        return session

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Look at what would lose entries: no append-only file, eviction, trimming; and at consumers that died."""
        from missive.adapters.redis_streams.diagnostics import examine  # noqa: PLC0415 - the client is an extra

        return await examine(session.client, self)
