"""The RabbitMQ adapter: which queues are consumed, and how the broker is reached."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from missive.adapters.base import Adapter, Finding
from missive.adapters.parameters import constructor_arguments
from missive.adapters.rabbitmq.address import Address, TLSFiles, given_address
from missive.app.processor import Processor
from missive.errors import MissingExtra, Transient, UsageError
from missive.privacy import redact_url
from missive.transport import Host, Session
from missive.urls import ParsedURL

if TYPE_CHECKING:
    from typing_extensions import Self

    from missive.adapters.rabbitmq.session import RabbitMQSession

_PORT, _TLS_PORT = 5672, 5671
_CONNECT_SECONDS = 15.0
_PREFETCH = 250
_CONSUMER_TIMEOUT = 1800.0


class RabbitMQAdapter(Adapter):
    """Consumes queues: `rabbitmq://user:pass@host:5672/vhost?queue=orders`; `amqps://` speaks TLS.

    `queue` is one, or several with commas or as a list; `context.native.queue` is the one that a message came from.
    They are the deployment's: they are never declared here, and while one is missing, nothing of the others is consumed
    either. Dead letters are acked once they are in Missive's store, so a queue's own dead letter exchange does not see
    them. With `dlq="broker:"` they are rejected instead, and go to that exchange. Name it in `dead_letter_exchange`: a
    queue that has none would drop them, and its policy is not told by AMQP.

    `prefetch` is how many messages of each queue the broker may have here at once, unacked. Each waits for those before
    it: with slow handlers make it small. `consumer_timeout` is the broker's own, in seconds, which it does not tell: a
    lease that nobody can renew. A handler's timeout must be below it, and what waits here for so long that its handler
    might not be done in time is given back. What is given back counts as a delivery on a quorum queue: mind its
    `x-delivery-limit`.

    With TLS the broker's certificate is checked against the machine's authorities, or those in `ca_file`, unless
    `verify` is false, and `cert_file` with `key_file` is what the client shows. `heartbeat`, in seconds, is asked of
    the broker, else it is what the broker proposes: a connection on which nothing came for twice as long is given up.
    `connection_parameters`, a `pika.ConnectionParameters` or `pika.URLParameters`, takes the place of all that.

    The client is pika's channel; `context.native` has the delivery's `method`, `properties` and `queue`.
    """

    transport = "rabbitmq"

    def __init__(
        self,
        processor: Processor[Any],
        queue: str | Sequence[str],
        *,
        prefetch: int = _PREFETCH,
        consumer_timeout: float = _CONSUMER_TIMEOUT,
        dead_letter_exchange: str | None = None,
        host: str = "localhost",
        port: int | None = None,
        vhost: str = "/",
        username: str = "guest",
        password: str = "guest",  # noqa: S107 - RabbitMQ's own default, for loopback only
        tls: bool = False,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        verify: bool = True,
        heartbeat: int | None = None,
        connection_parameters: Any = None,
        drain: float = 25,
        rate_limit: str | None = None,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        if find_spec("pika") is None:
            raise MissingExtra("RabbitMQ", "rabbitmq")
        if prefetch < 1:
            raise UsageError("prefetch= is a whole number from 1; AMQP's 0, for no limit, is refused")
        if not consumer_timeout > 0:
            raise UsageError("consumer_timeout= is a number of seconds above zero, as the broker is configured")
        self.queues = _queues(queue)
        self.prefetch = prefetch
        self.consumer_timeout = consumer_timeout
        self.dead_letter_exchange = dead_letter_exchange
        if connection_parameters is None:
            tls_files = TLSFiles(ca_file, cert_file, key_file, verify) if tls else None
            if not tls and (ca_file or cert_file or key_file or not verify):
                raise UsageError(
                    "ca_file=, cert_file=, key_file= and verify= are for TLS: amqps:// in a URL, or tls=True"
                )
            port = port or (_TLS_PORT if tls else _PORT)
            self.address = Address(host, port, vhost, username, password, tls_files, heartbeat)
        else:
            given = (host, port, vhost, username, password, tls, ca_file, cert_file, key_file, verify, heartbeat)
            if given != ("localhost", None, "/", "guest", "guest", False, None, None, None, True, None):
                raise UsageError(
                    "connection_parameters= says how the broker is reached: leave out host=, port=, vhost=, username=,"
                    " password=, heartbeat= and what is said of TLS"
                )
            self.address = given_address(connection_parameters)

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter of `rabbitmq://user:pass@host:5672/vhost?queue=orders`."""
        if not url.authority:
            raise UsageError("a RabbitMQ URL names its host: rabbitmq://user:${PASSWORD}@host:5672/vhost?queue=orders")
        plain = dict(url.parameters)
        if (queue := plain.pop("queue", None)) is None:
            raise UsageError(f"{redact_url(url.original)} needs ?queue=…")
        said_elsewhere = ("host", "port", "vhost", "username", "password", "tls")
        return cls(
            processor,
            queue,
            **constructor_arguments(cls, dataclasses.replace(url, parameters=plain), exclude=said_elsewhere),
            host=url.host or "localhost",
            port=url.port,
            vhost=url.path[1:] or "/",
            username=url.username or "guest",
            password="guest" if url.password is None else url.password,
            tls=url.scheme == "amqps",
        )

    @property
    def destination(self) -> str:
        """The queue, or the queues with commas between them."""
        return ",".join(self.queues)

    @property
    def url(self) -> str:
        """The broker, virtual host and queues, without credentials."""
        return f"{self.address.url}?queue={self.destination}"

    async def connect(self, host: Host) -> RabbitMQSession:
        """Connect, and see that the queues are there; nothing is consumed before the first fetch.

        Raises `Fatal` for credentials, rights and a queue that is a stream, `Transient` for all else.
        """
        from missive.adapters.rabbitmq.session import RabbitMQSession  # noqa: PLC0415 - the client is an extra

        session = RabbitMQSession(self, host)
        try:
            await asyncio.wait_for(session.open(), _CONNECT_SECONDS)
        except TimeoutError:
            await session.close()
            trouble = Transient(f"{self.url} does not answer")
        except BaseException:
            await session.close()
            raise
        else:
            return session
        raise trouble

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Look at each queue: who else consumes it, and what AMQP tells of it."""
        from missive.adapters.rabbitmq.diagnostics import examine  # noqa: PLC0415 - the client is an extra
        from missive.adapters.rabbitmq.session import RabbitMQSession  # noqa: PLC0415 - as above

        if not isinstance(session, RabbitMQSession):
            raise Transient(f"{self.url} is not connected")
        return await examine(session, self)


def _queues(queue: str | Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for name in queue.split(",")] if isinstance(queue, str) else list(queue)
    if not names or not all(names):
        raise UsageError("queue= names a queue, or several: ?queue=orders,refunds, or a list")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"queue= names {twice} twice")
    return tuple(names)
