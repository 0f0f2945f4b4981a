"""RabbitMQ, through pika's asyncio connection on the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from missive.adapters.contract import (
    Adapter,
    Capabilities,
    Credit,
    Delivery,
    Finding,
    Host,
    Item,
    Result,
    Session,
    SessionStatus,
    Verb,
)
from missive.adapters.registry import AdapterURL, keywords
from missive.errors import Fatal, MissingExtra, Transient, UsageError
from missive.processor import Processor

try:
    import pika
    from pika import exceptions as pika_errors
    from pika.adapters.asyncio_connection import AsyncioConnection
except ImportError:
    pika = None

if TYPE_CHECKING:
    from typing_extensions import Self

_PORT, _TLS_PORT = 5672, 5671
_CONNECT_SECONDS = 15.0
_CLOSE_SECONDS = 3.0
_MOST_SETTLED = 10_000
_PREFETCH = 250
_CONSUMER_TIMEOUT = 1800.0

# Replies of the broker: https://www.rabbitmq.com/amqp-0-9-1-reference#constants
_ACCESS_REFUSED, _NOT_FOUND, _RESOURCE_LOCKED, _NOT_ALLOWED = 403, 404, 405, 530


class RabbitMQNative(NamedTuple):
    """What `context.native` is: pika's method and properties of the delivery."""

    method: Any
    properties: Any

    def __repr__(self) -> str:
        return "<RabbitMQNative>"


class RabbitMQAdapter(Adapter):
    """Consumes a queue: `rabbitmq://user:pass@host:5672/vhost?queue=orders`; `amqps://` speaks TLS.

    The queue is the deployment's: it is never declared here, and one that is missing is waited for. Dead letters
    are acked once they are in Missive's store, so the queue's own dead letter exchange does not see them.

    `prefetch` is how many messages the broker may have here at once, unacked. Each waits for those before it: with
    slow handlers make it small. `consumer_timeout` is the broker's own, in seconds, which it does not tell: a lease
    that nobody can renew. A handler's timeout must be below it, and what waits here for so long that its handler might
    not be done in time is given back. What is given back counts as a delivery on a quorum queue: mind its
    `x-delivery-limit`.

    The client is pika's channel; `context.native` has the delivery's `method` and `properties`.
    """

    transport = "rabbitmq"

    def __init__(
        self,
        processor: Processor[Any],
        queue: str,
        *,
        prefetch: int = _PREFETCH,
        consumer_timeout: float = _CONSUMER_TIMEOUT,
        host: str = "localhost",
        port: int | None = None,
        vhost: str = "/",
        username: str = "guest",
        password: str = "guest",  # noqa: S107 - RabbitMQ's own default, for loopback only
        tls: bool = False,
        drain: float = 25,
        rate_limit: str | None = None,
    ) -> None:
        super().__init__(processor, drain=drain, rate_limit=rate_limit)
        if pika is None:
            raise MissingExtra("RabbitMQ", "rabbitmq")
        if prefetch < 1:
            raise UsageError("prefetch= is a whole number from 1; AMQP's 0, for no limit, is refused")
        self.queue = queue
        if not consumer_timeout > 0:
            raise UsageError("consumer_timeout= is a number of seconds above zero, as the broker is configured")
        self.prefetch = prefetch
        self.consumer_timeout = consumer_timeout
        self.host = host
        self.port = port or (_TLS_PORT if tls else _PORT)
        self.vhost = vhost
        self.username = username
        self.tls = tls
        self._password = password

    @classmethod
    def from_parts(cls, url: AdapterURL, processor: Processor[Any]) -> Self:
        """Return the adapter of `rabbitmq://user:pass@host:5672/vhost?queue=orders`."""
        if not url.authority:
            raise UsageError("a RabbitMQ URL names its host: rabbitmq://user:${PASSWORD}@host:5672/vhost?queue=orders")
        said_elsewhere = ("host", "port", "vhost", "username", "password", "tls")
        return cls(
            processor,
            **keywords(cls, url, known=said_elsewhere),
            host=url.host or "localhost",
            port=url.port,
            vhost=url.path[1:] or "/",
            username=url.username or "guest",
            password="guest" if url.password is None else url.password,
            tls=url.scheme == "amqps",
        )

    @property
    def destination(self) -> str:
        """The queue."""
        return self.queue

    @property
    def url(self) -> str:
        """The broker, virtual host and queue, without credentials."""
        vhost = "" if self.vhost == "/" else self.vhost
        return f"{'amqps' if self.tls else 'rabbitmq'}://{self.host}:{self.port}/{vhost}?queue={self.queue}"

    async def connect(self, host: Host) -> RabbitMQSession:
        """Connect, and see that the queue is there; nothing is consumed before the first fetch.

        Raises `Fatal` for credentials or rights, `Transient` for all else.
        """
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
        """Say how many consumers the queue has; AMQP tells no more of it."""
        if not isinstance(session, RabbitMQSession):
            raise Transient(f"{self.url} is not connected")
        queue = await session.declared()
        findings = [Finding("ok", "queue", f"{self.queue} has {queue.message_count} messages waiting")]
        ordered = any(route.terms.ordered_by is not None for route in self.processor.freeze())
        if queue.consumer_count and ordered:
            says = f"{queue.consumer_count} other consumers share the queue, and a handler asks for order by key"
            findings.append(Finding("warning", "order", f"{says}: give the queue x-single-active-consumer"))
        says = "whether it is durable, and policies that drop messages, AMQP does not tell: see rabbitmqctl list_queues"
        return [*findings, Finding("ok", "policies", says)]

    def parameters(self, service: str) -> Any:
        """Return pika's parameters of the connection."""
        context = ssl.create_default_context() if self.tls else None
        return pika.ConnectionParameters(
            self.host,
            self.port,
            self.vhost,
            pika.PlainCredentials(self.username, self._password),
            ssl_options=None if context is None else pika.SSLOptions(context, self.host),
            client_properties={"connection_name": f"missive {service}"},
        )


class RabbitMQSession(Session):
    """One connection with one channel and one consumer. A delivery's token is its tag on the channel."""

    def __init__(self, adapter: RabbitMQAdapter, host: Host) -> None:
        super().__init__()
        self.capabilities = Capabilities(
            attempts="approximate", lease=adapter.consumer_timeout, renewable=False, replies=False
        )
        self._adapter = adapter
        self._host = host
        self._connection: Any = None
        self._consumer = ""
        self._stopped = False
        self._arrived: deque[tuple[Any, Any, bytes]] = deque()
        self._arrival = asyncio.Event()
        self._unacked: deque[int] = deque()
        self._settled: set[int] = set()
        self._dead: asyncio.Future[None] = self._loop.create_future()
        self._closed = asyncio.Event()

    async def open(self) -> None:
        """Open connection and channel, and check that the queue is there."""
        logger = logging.getLogger("pika")
        if logger.level == logging.NOTSET:
            # pika writes half a dozen lines for what the engine says in one.
            logger.setLevel(logging.CRITICAL)
        opened: asyncio.Future[None] = self._loop.create_future()
        self._connection = AsyncioConnection(
            self._adapter.parameters(self._host.service),
            on_open_callback=lambda _: _answer(opened, None),
            on_open_error_callback=lambda _, error: _answer(opened, self._trouble(error)),
            on_close_callback=lambda _, error: self._on_close(error),
            custom_ioloop=self._loop,
        )
        await opened
        self.client = await self._reply(lambda done: self._connection.channel(on_open_callback=done))
        self.client.add_on_close_callback(lambda _, error: self._die(error))
        self.client.add_on_cancel_callback(lambda _: self._die(Transient(f"{self._adapter.url}: the queue is gone")))
        queue = self._adapter.queue
        await self._reply(lambda done: self.client.queue_declare(queue, passive=True, callback=done))
        prefetch = min(self._adapter.prefetch, self._host.credit.items)
        await self._reply(lambda done: self.client.basic_qos(prefetch_count=prefetch, callback=done))

    def _consume(self, done: Any) -> str:
        tag: str = self.client.basic_consume(self._adapter.queue, self._on_message, callback=done)
        return tag

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return what the broker pushed; the first time, tell it to."""
        if not self._consumer and not self._stopped:
            await self._reply(lambda done: setattr(self, "_consumer", self._consume(done)))
        arrived = self._arrived
        while not arrived:
            self._raise_if_dead()
            self._arrival.clear()
            await self._arrival.wait()
        self._raise_if_dead()
        deliveries: list[Delivery] = []
        left = credit.bytes
        while arrived and len(deliveries) < credit.items and left > 0:
            method, properties, body = arrived.popleft()
            left -= len(body)
            deliveries.append(_delivery(method, properties, body))
        return deliveries

    async def settle(self, items: Sequence[Item]) -> Sequence[Result]:
        """Ack and requeue. AMQP does not answer an ack, so the results say `sent`."""
        self._raise_if_dead()
        tags = {item.delivery.token for item in items if item.verb is Verb.ack}
        released = [item.delivery.token for item in items if item.verb is Verb.release]
        if released:  # one that is settled already would close the channel
            oldest = self._unacked[0] if self._unacked else math.inf
            released = [tag for tag in released if tag >= oldest and tag not in self._settled]
        with self._troubles():
            for tag in released:
                self.client.basic_nack(tag, requeue=True)
            self._settled.update(released)
            self._ack(tags)
        return [Result.sent] * len(items)

    def _ack(self, tags: set[int]) -> None:
        """Ack the unbroken run from the oldest with one frame, and each tag past a gap with its own."""
        unacked, settled, last = self._unacked, self._settled, None
        tags -= settled  # a second ack of a tag would close the channel
        if tags and min(tags) < (unacked[0] if unacked else math.inf):
            tags = {tag for tag in tags if unacked and tag >= unacked[0]}
        if len(settled) > _MOST_SETTLED:
            # One that is held for long has thousands settled behind it.
            self._unacked = unacked = deque(tag for tag in unacked if tag not in settled)
            settled.clear()
        settled |= tags
        while unacked and unacked[0] in settled:
            tag = unacked.popleft()
            settled.discard(tag)
            if tag in tags:
                # The frame must name a tag that is still unacked, and stands for all before it.
                tags.discard(tag)
                last = tag
        if last is not None:
            self.client.basic_ack(last, multiple=True)
        for tag in sorted(tags):
            self.client.basic_ack(tag)

    async def status(self) -> SessionStatus:
        """Ask the broker something: an answer is the proof that the connection is not half open.

        Without the number of messages that wait: they may wait for another consumer, where only one is active.
        """
        if self._dead.done():
            return SessionStatus(connected=False)
        await self.declared()
        return SessionStatus(connected=not self._consumer or bool(self.client.consumer_tags))

    async def declared(self) -> Any:
        """Return what the broker tells of the queue."""
        queue = self._adapter.queue
        return (await self._reply(lambda done: self.client.queue_declare(queue, passive=True, callback=done))).method

    async def stop_intake(self) -> Sequence[Delivery]:
        """Cancel the consumer and return what was pushed and not fetched."""
        self._stopped = True
        if not self._dead.done() and self._consumer:
            consumer, self._consumer = self._consumer, ""
            await self._reply(lambda done: self.client.basic_cancel(consumer, callback=done))
        left = [_delivery(*arrived) for arrived in self._arrived]
        self._arrived.clear()
        return left

    async def close(self) -> None:
        """Close the connection: the broker redelivers what was not settled."""
        connection = self._connection
        if connection is None or connection.is_closed:
            return
        with contextlib.suppress(pika_errors.AMQPError):
            connection.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), _CLOSE_SECONDS)

    async def _reply(self, ask: Any) -> Any:
        """Ask the broker, and wait for its answer or the end of the channel."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        with self._troubles():
            ask(lambda answer: _answer(answered, answer))
        await asyncio.wait([answered, self._dead], return_when=asyncio.FIRST_COMPLETED)
        self._raise_if_dead()
        return answered.result()

    # Called by pika, on the engine's loop

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._unacked.append(method.delivery_tag)
        if not self._arrived:
            self._arrival.set()
        self._arrived.append((method, properties, body))

    def _on_close(self, error: BaseException) -> None:
        self._closed.set()
        self._die(error)

    def _die(self, error: BaseException) -> None:
        if not self._dead.done():
            self._dead.set_exception(self._trouble(error))
            self._dead.exception()  # looked at, so that asyncio does not complain when nobody else does
        self._arrival.set()

    def _raise_if_dead(self) -> None:
        if self._dead.done():
            error = self._dead.exception()
            # A new one each time: raised again, an exception's traceback grows.
            raise type(error)(str(error)) if error is not None else Transient(f"{self._adapter.url} is closed")

    @contextlib.contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
            return
        except pika_errors.AMQPError as error:
            trouble = self._trouble(error)
        raise trouble

    def _trouble(self, error: BaseException) -> Exception:
        """Translate what pika says; never with its text, which may hold more than we know."""
        url = self._adapter.url
        if isinstance(error, (Fatal, Transient)):
            return error
        codes = {code for cause in _causes(error) if isinstance(code := getattr(cause, "reply_code", None), int)}
        kinds = tuple(type(cause) for cause in _causes(error) if not _is_guess(cause))
        if not kinds:
            return Transient(f"{url}: the connection failed while logging in")
        if pika_errors.ProbableAuthenticationError in kinds or pika_errors.AuthenticationError in kinds:
            return Fatal(f"{url} refused the credentials of user {self._adapter.username}")
        if pika_errors.ProbableAccessDeniedError in kinds or _NOT_ALLOWED in codes:
            return Fatal(f"{url}: there is no virtual host {self._adapter.vhost}, or the user may not use it")
        if _ACCESS_REFUSED in codes:
            return Fatal(f"{url}: user {self._adapter.username} may not read this queue, or the credentials are wrong")
        if _NOT_FOUND in codes:
            return Transient(f"{url}: there is no queue {self._adapter.queue}")
        if _RESOURCE_LOCKED in codes:
            return Transient(f"{url}: another connection has the queue {self._adapter.queue} for itself")
        code = f" (code {min(codes)})" if codes else ""
        return Transient(f"{url}: the connection failed{code}: {kinds[-1].__name__}")


def _answer(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception and those that pika put inside it."""
    found = [error]
    for inside in (getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args):
        if isinstance(inside, BaseException) and inside is not error:
            found += _causes(inside)
    return found


def _is_guess(error: BaseException) -> bool:
    """Tell whether pika took a connection that was lost during the handshake for a refusal.

    RabbitMQ says a refusal: https://www.rabbitmq.com/docs/auth-notification; it is then quoted in pika's error.
    """
    probable = (pika_errors.ProbableAuthenticationError, pika_errors.ProbableAccessDeniedError)
    return isinstance(error, probable) and pika_errors.StreamLostError.__name__ in str(error.args[:1])


def _delivery(method: Any, properties: Any, body: bytes) -> Delivery:
    headers = properties.headers
    redelivered = method.redelivered
    counted = None if headers is None else headers.get("x-delivery-count")  # quorum queues count
    return Delivery(
        body,
        headers=() if headers is None else _pairs(headers),
        producer_id=None if (message_id := properties.message_id) is None else _text(message_id),
        topic=_text(method.routing_key),
        timestamp=properties.timestamp,
        content_type=None if (content_type := properties.content_type) is None else _text(content_type),
        token=method.delivery_tag,
        attempt=counted + 1 if isinstance(counted, int) else 1 + redelivered,
        redelivered=redelivered,
        native=RabbitMQNative(method, properties),
    )


def _pairs(table: dict[str, Any]) -> list[tuple[str, str | bytes]]:
    """Return an AMQP table as headers: other values than text become JSON, or their own text."""
    return [
        (_text(name), value if isinstance(value, (str, bytes)) else json.dumps(value, default=str))
        for name, value in table.items()
    ]


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
