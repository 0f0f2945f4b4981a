"""The Redis Streams adapter: check the options of a source and open its sessions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from missive.adapters.base import DEFAULT_MAX_BODY, Adapter, Finding, open_session
from missive.adapters.parameters import constructor_arguments
from missive.adapters.redis_streams.settings import Settings
from missive.app.processor import Processor
from missive.errors import MissingExtra, UsageError
from missive.transport import Host, Session
from missive.urls import ParsedURL, cleartext_risk

if TYPE_CHECKING:
    from typing_extensions import Self

    from missive.adapters.redis_streams.session import RedisStreamsSession

_PORT = 6379


logger = logging.getLogger("missive")


class RedisStreamsAdapter(Adapter):
    """Consume a stream as a group: `redis://host:6379/0?stream=orders&group=billing`. `rediss://` uses TLS.

    The field `body_field` of an entry is the body, and the other fields are headers. Without that field, the whole
    entry is the body, as a JSON object. `claim_idle` is the lease of an entry, in seconds. Missive renews it while it
    works on the message; when a consumer dies, another consumer takes over its entries after that time. With `create`,
    the adapter creates a missing stream and group. The group then starts at `start`: `0` for all entries, `$` for new
    entries. `consumer` is the name of this consumer in the group. By default, each session has its own name, which it
    removes from the group if it leaves with nothing pending.

    The client is a `redis.asyncio.Redis`; use it through `context.adapter.call` or `acall`. `context.native` has the
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
        port: int = _PORT,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        tls: bool = False,
        ca_file: str | None = None,
        drain: float = 25,
        rate_limit: str | None = None,
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit, max_body=max_body)
        if find_spec("redis") is None:
            raise MissingExtra("Redis", "redis")
        self._warned = False
        self.settings = Settings(
            stream,
            group,
            body_field,
            claim_idle,
            create,
            start,
            consumer,
            host,
            port,
            db,
            username,
            password,
            tls,
            ca_file,
        )

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter of `redis://user:pass@host:6379/0?stream=orders&group=billing`."""
        if not url.authority:
            raise UsageError(
                "a Redis URL must name a host: redis://:${PASSWORD}@host:6379/0?stream=orders&group=billing"
            )
        db = url.path.strip("/") or "0"
        if not db.isdecimal():
            raise UsageError(
                "the path of a Redis URL must be the number of a database: redis://host:6379/0?stream=orders&group=g"
            )
        not_parameters = ("host", "port", "db", "username", "password", "tls")
        return cls(
            processor,
            **constructor_arguments(cls, url, exclude=not_parameters),
            host=url.host or "localhost",
            port=url.port or _PORT,
            db=int(db),
            username=url.username or None,
            password=url.password,
            tls=url.scheme == "rediss",
        )

    @property
    def destination(self) -> str:
        """The stream."""
        return self.settings.stream

    @property
    def identity(self) -> str:
        """The server, stream and group, without credentials."""
        return self.settings.identity

    def show_as(self, url: str) -> None:
        """Show another URL, also in the errors of sessions."""
        super().show_as(url)
        self.settings = replace(self.settings, shown=url)

    async def connect(self, host: Host) -> RedisStreamsSession:
        """Connect and check that the group exists. The session reads nothing before its first fetch.

        Raise `Fatal` for wrong credentials, missing permissions and a key that is not a stream, and `Transient` for
        every other failure.
        """
        from missive.adapters.redis_streams.session import RedisStreamsSession  # noqa: PLC0415 - the client is an extra

        if (risk := cleartext_risk(self.identity)) is not None and not self._warned:
            logger.warning("the connection can be read: %s", risk)
            self._warned = True
        session = RedisStreamsSession(self.settings, host)
        return await open_session(session, session.open())

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Check for settings of the server that lose entries, for trimming, and for consumers that died."""
        from missive.adapters.redis_streams.diagnostics import diagnose  # noqa: PLC0415 - the client is an extra

        found = list(await diagnose(session.client, self.settings))
        risk = cleartext_risk(self.identity)
        return found if risk is None else [*found, Finding("warning", "tls", risk)]
