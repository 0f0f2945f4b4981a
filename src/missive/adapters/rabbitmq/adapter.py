"""The RabbitMQ adapter: check the options of a source and open its sessions."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from missive.adapters.base import DEFAULT_MAX_BODY, Adapter, Finding, open_session
from missive.adapters.parameters import constructor_arguments
from missive.adapters.rabbitmq.address import Address, TLSFiles, address_of
from missive.adapters.rabbitmq.settings import Settings, queue_names
from missive.app.processor import Processor
from missive.errors import MissingExtra, Transient, UsageError
from missive.privacy import redact_url
from missive.transport import Host, Session
from missive.urls import ParsedURL, cleartext_risk

if TYPE_CHECKING:
    from typing_extensions import Self

    from missive.adapters.rabbitmq.session import RabbitMQSession

logger = logging.getLogger("missive")

_PORT, _TLS_PORT = 5672, 5671
_PREFETCH = 250
"""Default prefetch, in messages for each queue."""
_CONSUMER_TIMEOUT = 1800.0
"""Default `consumer_timeout` of RabbitMQ, in seconds."""
_CONNECT_SECONDS = 15.0


class RabbitMQAdapter(Adapter):
    """Consume queues: `rabbitmq://user:pass@host:5672/vhost?queue=orders`. `amqps://` uses TLS.

    `queue` is one name, or several names in a list or separated by commas. `context.native.queue` is the queue of a
    message. The deployment declares the queues; the adapter never does. While one queue is missing, the adapter
    consumes none of them.

    Missive acks a dead letter when the record is in its own store, so the queue's dead letter exchange does not receive
    the message. With `dlq="broker:"`, Missive rejects dead letters, and the broker sends them to the exchange named by
    `dead_letter_exchange`. AMQP does not reveal whether a policy gives the queue an exchange, and a queue without one
    drops rejected messages.

    `prefetch` limits the unacked messages of each queue in this process. Prefetched messages wait for the messages
    before them: use a small prefetch for slow handlers. `consumer_timeout` is the broker's setting of that name, in
    seconds, which AMQP does not reveal. It is a lease that cannot be renewed. A handler's timeout must be below it, and
    a message that has waited too long for its handler to finish in time returns to the queue. Each return counts as a
    delivery towards the `x-delivery-limit` of a quorum queue.

    With TLS, the client verifies the broker's certificate against `ca_file`, or against the authorities of the machine,
    unless `verify` is false. `cert_file` and `key_file` are the client's certificate. `heartbeat`, in seconds, is
    requested from the broker; by default the broker's proposal is used. The adapter drops a connection that received
    nothing for twice the heartbeat. `connection_parameters`, a `pika.ConnectionParameters` or `pika.URLParameters`,
    replaces all options of the connection.

    The client is pika's channel. `context.native` has the delivery's `method`, `properties` and `queue`.
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
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit, max_body=max_body)
        if find_spec("pika") is None:
            raise MissingExtra("RabbitMQ", "rabbitmq")
        if connection_parameters is None:
            tls_files = TLSFiles(ca_file, cert_file, key_file, verify) if tls else None
            if not tls and (ca_file or cert_file or key_file or not verify):
                raise UsageError(
                    "ca_file=, cert_file=, key_file= and verify= need TLS: use an amqps:// URL, or tls=True"
                )
            port = port or (_TLS_PORT if tls else _PORT)
            address = Address(host, port, vhost, username, password, tls_files, heartbeat)
        else:
            given = (host, port, vhost, username, password, tls, ca_file, cert_file, key_file, verify, heartbeat)
            if given != ("localhost", None, "/", "guest", "guest", False, None, None, None, True, None):
                raise UsageError(
                    "connection_parameters= replaces the other options of the connection: leave out host=, port=,"
                    " vhost=, username=, password=, heartbeat= and the options of TLS"
                )
            address = address_of(connection_parameters)
        self._warned = False
        self.settings = Settings(
            queue_names(queue), address, prefetch, consumer_timeout, dead_letter_exchange, max_body
        )

    @classmethod
    def from_parsed_url(cls, url: ParsedURL, processor: Processor[Any]) -> Self:
        """Return the adapter of `rabbitmq://user:pass@host:5672/vhost?queue=orders`."""
        if not url.authority:
            raise UsageError(
                "a RabbitMQ URL must name a host: rabbitmq://user:${PASSWORD}@host:5672/vhost?queue=orders"
            )
        parameters = dict(url.parameters)
        if (queue := parameters.pop("queue", None)) is None:
            raise UsageError(f"{redact_url(url.original)} needs ?queue=…")
        not_parameters = ("host", "port", "vhost", "username", "password", "tls")
        return cls(
            processor,
            queue,
            **constructor_arguments(cls, dataclasses.replace(url, parameters=parameters), exclude=not_parameters),
            host=url.host or "localhost",
            port=url.port,
            vhost=url.path[1:] or "/",
            username=url.username or "guest",
            password="guest" if url.password is None else url.password,
            tls=url.scheme == "amqps",
        )

    @property
    def destination(self) -> str:
        """The queue names, separated by commas."""
        return self.settings.destination

    @property
    def identity(self) -> str:
        """The broker, virtual host and queues, without credentials."""
        return self.settings.identity

    def show_as(self, url: str) -> None:
        """Show another URL, also in the errors of sessions."""
        super().show_as(url)
        self.settings = replace(self.settings, shown=url)

    def order_hazard(self, key: Callable[[Any], Hashable], session: Session | None = None) -> str | None:
        """Return why equal values of `key` may run in several processes at once, or None.

        Only a session can tell, because a queue may have a single active consumer.
        """
        if len(self.settings.queues) > 1:
            return f"{self.url} reads several queues, and a key may be in each"
        if session is None or super().order_hazard(key, session) is None:
            return None
        return (
            f"{self.url} may deliver messages of one key to several processes. Declare the queue with"
            " x-single-active-consumer"
        )

    async def connect(self, host: Host) -> RabbitMQSession:
        """Connect and check that the queues exist. The session consumes nothing before its first fetch.

        Raise `Fatal` for wrong credentials, missing rights, unusable certificates and a queue that is a stream, and
        `Transient` for every other failure.
        """
        from missive.adapters.rabbitmq.session import RabbitMQSession  # noqa: PLC0415 - the client is an extra

        ordered = any(route.terms.ordered_by is not None for route in self.processor.routes())
        if (risk := cleartext_risk(self.identity)) is not None and not self._warned:
            logger.warning("the connection can be read: %s", risk)
            self._warned = True
        session = RabbitMQSession(self.settings, host, self._learn)
        try:
            return await open_session(session, asyncio.wait_for(session.open(ordered=ordered), _CONNECT_SECONDS))
        except TimeoutError:
            error = Transient(f"{self.url} did not answer within {_CONNECT_SECONDS:g} s")
        raise error

    def _learn(self, seconds: float) -> None:
        """Use the consumer timeout that the broker enforced for later sessions."""
        if seconds < self.settings.consumer_timeout:
            logger.warning(
                "%s: the consumer timeout of the broker is %g s, not %g s: set consumer_timeout=%g, and lower the"
                " timeout= of handlers that may take longer",
                *(self.url, seconds, self.settings.consumer_timeout, seconds),
            )
            self.settings = dataclasses.replace(self.settings, consumer_timeout=seconds)

    async def diagnose(self, session: Session) -> Sequence[Finding]:
        """Check the declaration, the consumers and the prefetch of each queue."""
        from missive.adapters.rabbitmq.diagnostics import diagnose  # noqa: PLC0415 - the client is an extra
        from missive.adapters.rabbitmq.session import RabbitMQSession  # noqa: PLC0415 - as above

        if not isinstance(session, RabbitMQSession):
            raise Transient(f"{self.url} is not connected")
        found = list(await diagnose(session, self.settings, self.processor))
        risk = cleartext_risk(self.identity)
        return found if risk is None else [*found, Finding("warning", "tls", risk)]
