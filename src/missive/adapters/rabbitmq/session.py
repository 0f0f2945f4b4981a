"""One connection to RabbitMQ on the engine's loop: receive pushed deliveries, and send settlements."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pika
from pika import exceptions

from missive.adapters.rabbitmq.declaration import discover, version_numbers
from missive.adapters.rabbitmq.errors import enforced_timeout, translate, translated
from missive.adapters.rabbitmq.reader import Connection, Reader
from missive.adapters.rabbitmq.settings import Settings
from missive.adapters.rabbitmq.unacked import Unacked
from missive.errors import Fatal, SourceGone, Transient
from missive.transport import (
    Capabilities,
    Credit,
    Delivery,
    Disposition,
    Host,
    Session,
    SessionStatus,
    Settlement,
    SettlementResult,
)

logger = logging.getLogger("missive")

_CLOSE_SECONDS = 3.0
_FIRST_WITH_STREAMS = (3, 9)
_FIRST_TO_CANCEL = (4, 3)
"""The version since which the broker cancels a consumer also for a message that it holds for too long."""
_PRECONDITION_FAILED = 406
_NOT_FOUND = 404
_CHECKS = 4
"""Checks for received data in each heartbeat."""
_MAX_SILENCE = 1.4
"""Silence after which a connection counts as half open, in heartbeats. A check detects it within two."""


class RabbitMQSession(Session):
    """One connection with one channel, and one consumer for each queue. The token of a delivery is its delivery tag."""

    def __init__(self, settings: Settings, host: Host, learn: Callable[[float], object] = float) -> None:
        super().__init__()
        self._learn = learn
        """Called with the consumer timeout of the broker, in seconds, when the broker enforces it."""
        self.capabilities = Capabilities(
            attempts="approximate",
            lease=settings.consumer_timeout,
            renewable=False,
            replies=False,
            rejects=settings.dead_letter_exchange is not None,
            window=self._prefetch(settings, host) * len(settings.queues),
        )
        self._settings = settings
        self._host = host
        self._connection: Any = None
        self._consumers: dict[str, str] = {}
        """Queue names by consumer tag."""
        self._queue_in_request: str | None = None
        """The queue that the pending request concerns; an error of the request names it."""
        self._stopped = False
        self._cancelled: asyncio.Future[None] | None = None
        """Finds out why the broker cancelled a consumer."""
        self._reader: Reader | None = None
        self._incomplete_reported = False
        self._arrived: deque[Delivery] = deque()
        self._arrival = asyncio.Event()
        self._unacked = Unacked()
        self._consuming = asyncio.Lock()
        """Held while consumers start and stop."""
        self._window_after = 0
        """The last delivery tag before the present consumers started."""
        self._widens: bool | None = None
        """Whether consumers may start again; None until it is known."""
        self._received = (0, self._loop.time())
        """The last known number of received bytes, and the loop time at which it last grew."""
        self._next_check: asyncio.TimerHandle | None = None
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._closed = asyncio.Event()

    async def open(self, *, ordered: bool = False) -> None:
        """Open the connection and channel. Check that all queues exist and none is a stream.

        With `ordered`, also look for a single active consumer, which a broker reveals only by several refusals.
        """
        logger = logging.getLogger("pika")
        if logger.level == logging.NOTSET:
            # pika logs about six lines for an error that the engine reports in one.
            logger.setLevel(logging.CRITICAL)
        opened: asyncio.Future[None] = self._loop.create_future()
        self._connection = Connection(
            self._settings.address.pika_parameters(self._host.service),
            on_open_callback=lambda _: _resolve(opened, None),
            on_open_error_callback=lambda _, error: _resolve(opened, translate(error, self._settings)),
            on_close_callback=lambda _, error: self._on_close(error),
            custom_ioloop=self._loop,
        )
        await opened
        server = self._connection.server_properties or {}
        self.broker = f"{server.get('product', 'AMQP')} {server.get('version', '')}"
        self._check_silence()
        self.client = await self._request(lambda done: self._connection.channel(on_open_callback=done))
        self.client.add_on_close_callback(lambda _, error: self._fail(error))
        self.client.add_on_cancel_callback(self._on_cancel)
        url, queues = self._settings.url, self._settings.queues
        for queue in queues:
            await self.inspect_queue(queue)
            if await self._is_stream(queue):
                raise Fatal(
                    f"{url}: {queue} is a stream, where an ack does not settle a message:"
                    " consume a classic or a quorum queue"
                )
        if ordered and len(queues) == 1:
            declared = await discover(self, queues[0])
            if declared is not None and declared.arguments.get("x-single-active-consumer") is True:
                self.capabilities = dataclasses.replace(self.capabilities, order="source")
        if (exchange := self._settings.dead_letter_exchange) is not None and not await self.has_exchange(exchange):
            raise Transient(
                f"{url}: there is no exchange {exchange}, so the broker would drop dead letters; declare the exchange"
            )
        prefetch = self._prefetch(self._settings, self._host)
        await self._request(lambda done: self.client.basic_qos(prefetch_count=prefetch, callback=done))

    @staticmethod
    def _prefetch(settings: Settings, host: Host) -> int:
        """Return the limit of unacked messages that the broker applies to each consumer."""
        return max(1, min(settings.prefetch, host.credit.items // len(settings.queues)))

    async def _is_stream(self, queue: str) -> bool:
        """Return whether a queue is a stream, by the refusal of a consumer that no kind of queue allows.

        A stream refuses a consumer without a prefetch; every other queue refuses a consumer with a stream offset.
        """
        server = self._connection.server_properties or {}
        if server.get("product") != "RabbitMQ" or version_numbers(self._version) < _FIRST_WITH_STREAMS:
            return False
        consume = {"queue": queue, "on_message_callback": lambda *_: None, "arguments": {"x-stream-offset": "next"}}
        refusal = await self.probe(lambda channel, done: channel.basic_consume(**consume, callback=done))
        code, text = getattr(refusal, "reply_code", None), getattr(refusal, "reply_text", "")
        return code == _PRECONDITION_FAILED and "prefetch" in text

    @property
    def _version(self) -> object:
        return (self._connection.server_properties or {}).get("version")

    async def has_exchange(self, exchange: str) -> bool:
        """Return whether the broker has an exchange."""
        refusal = await self.probe(
            lambda channel, done: channel.exchange_declare(exchange, passive=True, callback=done)
        )
        return getattr(refusal, "reply_code", None) != _NOT_FOUND

    async def probe(self, request: Callable[[Any, Any], object]) -> BaseException | None:
        """Send a request on a temporary channel, which a refusal closes.

        Return the error that closed the channel, or None if the broker accepted the request.
        """
        channel = await self._request(lambda done: self._connection.channel(on_open_callback=done))
        refused: asyncio.Future[BaseException | None] = self._loop.create_future()
        channel.add_on_close_callback(lambda _, error: _resolve_with(refused, error))
        with translated(self._settings):
            request(channel, lambda _: _resolve(refused, None))
        await self._wait_for(refused)
        if channel.is_open:
            channel.close()
        return refused.result()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return pushed deliveries. The first call starts the consumers."""
        if len(self._consumers) < len(self._settings.queues) and not self._stopped:
            await self._consume()
        arrived = self._arrived
        while not arrived:
            self._raise_if_failed()
            self._arrival.clear()
            await self._arrival.wait()
        self._raise_if_failed()  # `stop_intake` returns what arrived
        return [arrived.popleft() for _ in range(credit.count_fitting(arrived))]

    async def _consume(self) -> None:
        async with self._consuming:
            for queue in self._settings.queues:
                if queue not in self._consumers.values():  # a cancelled fetch may have started the consumer
                    await self._request(partial(self._start_consumer, queue), queue)

    def room(self) -> int:
        """Return how many more messages the broker pushes before one is settled."""
        return self.capabilities.window - self._unacked.count_after(self._window_after)

    async def widen(self) -> bool:
        """Start the consumers again on the same channel: the broker does not count earlier deliveries against them.

        A queue with a single active consumer would go on with another consumer, and its order would break.
        """
        if self._widens is None:
            found = [await discover(self, queue) for queue in self._settings.queues]
            self._widens = all(one is not None and not one.arguments.get("x-single-active-consumer") for one in found)
        if not self._widens:
            return False
        async with self._consuming:
            for tag, queue in list(self._consumers.items()):
                if self._stopped:
                    return False
                await self._request(partial(self.client.basic_cancel, tag))
                del self._consumers[tag]
                self._window_after = self._unacked.last
                await self._request(partial(self._start_consumer, queue), queue)
        return True

    def _start_consumer(self, queue: str, done: Callable[[object], None]) -> None:
        if self._reader is None:
            self._reader = self._connection.read(self.client.channel_number, self._take, self._settings.max_body)
        tag: str = self.client.basic_consume(queue, self._on_unread, callback=done)
        self._consumers[tag] = self._reader.queues[tag.encode()] = queue

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Ack, requeue and reject deliveries. The results are `sent`, because AMQP does not answer an ack."""
        self._raise_if_failed()
        released = [one.delivery.token for one in settlements if one.disposition is Disposition.release]
        rejected = [one.delivery.token for one in settlements if one.disposition is Disposition.reject]
        acked = [one.delivery.token for one in settlements if one.disposition is Disposition.ack]
        with translated(self._settings):
            if released:
                for tag in self._unacked.take(released):
                    self.client.basic_nack(tag, requeue=True)
            for tag in self._unacked.take(rejected) if rejected else ():
                self.client.basic_reject(tag, requeue=False)
            if acked:
                up_to, single = self._unacked.take_acked(acked)
                if up_to is not None:
                    self.client.basic_ack(up_to, multiple=True)
                for tag in single:
                    self.client.basic_ack(tag)
        return [SettlementResult.sent] * len(settlements)

    async def status(self) -> SessionStatus:
        """Send the broker a request: the answer proves that the connection is not half open.

        The status has no lag: with a single active consumer, the waiting messages may be for another consumer.
        """
        if self._failed.done():
            if isinstance(self._failed.exception(), SourceGone):
                self._raise_if_failed()
            return SessionStatus(connected=False)
        await self.inspect_queue(self._settings.queues[0])
        starting = self._consuming.locked()
        return SessionStatus(connected=starting or len(self._consumers) == len(self.client.consumer_tags))

    async def inspect_queue(self, queue: str) -> Any:
        """Return the broker's `Queue.DeclareOk` for a queue: its name, message count and consumer count."""
        declare = self.client.queue_declare
        return (await self._request(lambda done: declare(queue, passive=True, callback=done), queue)).method

    async def stop_intake(self) -> Sequence[Delivery]:
        """Cancel the consumers and return the deliveries that were pushed but not fetched."""
        self._stopped = True
        if not self._failed.done():
            async with self._consuming:
                for consumer in list(self._consumers):
                    await self._request(partial(self.client.basic_cancel, consumer))
        left = list(self._arrived)
        self._arrived.clear()
        self._consumers.clear()
        return left

    async def close(self) -> None:
        """Close the connection. The broker redelivers unsettled messages."""
        connection = self._connection
        if connection is None or connection.is_closed:
            return
        with contextlib.suppress(exceptions.AMQPError):
            connection.close()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _CLOSE_SECONDS)
        finally:
            # A half-open connection never answers, and the broker would hold the deliveries of an open one.
            if not self._closed.is_set() and (transport := connection._transport) is not None:  # noqa: SLF001 - no other way
                transport.abort()

    async def _request(self, send: Callable[[Any], object], queue: str | None = None) -> Any:
        """Send a request and return the answer. Raise `Fatal` or `Transient` if the channel closes first."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        self._queue_in_request = queue
        with translated(self._settings):
            send(lambda answer: _resolve(answered, answer))
        await self._wait_for(answered)
        self._queue_in_request = None
        return answered.result()

    async def _wait_for(self, answered: asyncio.Future[Any]) -> None:
        await asyncio.wait([answered, self._failed], return_when=asyncio.FIRST_COMPLETED)
        self._raise_if_failed()

    # pika calls these methods on the engine's loop.

    def _take(self, deliveries: list[Delivery]) -> None:
        self._unacked.add([one.token for one in deliveries])
        self._arrived += deliveries
        self._arrival.set()
        if self._reader is not None and self._reader.incomplete and not self._incomplete_reported:
            self._incomplete_reported = True
            logger.warning(
                "%s: headers of a message cannot be decoded: their encoded bytes arrive as values, and"
                " context.native.undecoded names them",
                self._settings.url,
            )

    def _on_unread(self, *_: object) -> None:
        """Fail on a delivery that pika read itself: this version of pika does not call the hook of `Connection`."""
        self._fail(
            Fatal(
                f"{self._settings.url}: pika {pika.__version__} is not supported, because it receives data in an"
                " unknown way: install another version"
            )
        )

    def _on_cancel(self, frame: Any) -> None:
        queue = self._consumers.get(frame.method.consumer_tag, self._settings.destination)
        self._cancelled = asyncio.ensure_future(self._explain_cancel(queue))

    async def _explain_cancel(self, queue: str) -> None:
        """Fail because the broker cancelled a consumer: `SourceGone` when the queue was deleted with its messages."""
        url = self._settings.url
        error = Transient(f"{url}: the broker cancelled the consumer of the queue {queue}")
        with contextlib.suppress(Fatal, Transient):  # the connection is lost as well, and has its own error
            refusal = await self.probe(lambda channel, done: channel.queue_declare(queue, passive=True, callback=done))
            text = getattr(refusal, "reply_text", "")
            if getattr(refusal, "reply_code", None) == _NOT_FOUND and "down" not in text:  # not on a node that is down
                error = SourceGone(f"{url}: the queue {queue} is gone")
            elif refusal is None and version_numbers(self._version) < _FIRST_TO_CANCEL:
                # Before, the broker cancelled a consumer only when its queue was deleted or moved to another node.
                error = SourceGone(f"{url}: the queue {queue} was deleted, and created again")
        self._fail(error)

    def _check_silence(self) -> None:
        """Terminate a connection that received nothing for twice the heartbeat; pika would wait five seconds longer.

        The broker sends data at least once in each heartbeat.
        """
        heartbeat = self._connection.params.heartbeat
        if not heartbeat or self._failed.done():
            return
        (before, since), now = self._received, self._loop.time()
        received = self._connection.bytes_received
        late = self._next_check is not None and now - self._next_check.when() > heartbeat / _CHECKS
        if received != before or late:
            # A late check means that this loop was busy: data may have arrived without being read.
            self._received = received, now
        elif now - since >= _MAX_SILENCE * heartbeat:
            # pika's own check calls the same method; there is no public one.
            self._connection._terminate_stream(exceptions.AMQPHeartbeatTimeout("no data"))  # noqa: SLF001
            return
        self._next_check = self._loop.call_later(heartbeat / _CHECKS, self._check_silence)

    def _on_close(self, error: BaseException) -> None:
        if self._next_check is not None:
            self._next_check.cancel()
        self._closed.set()
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            if (seconds := enforced_timeout(error)) is not None:
                self.enforced_lease = seconds
                self._learn(seconds)
            self._failed.set_exception(translate(error, self._settings, self._queue_in_request))
            self._failed.exception()  # mark the exception as retrieved, so that asyncio does not log it
        self._arrival.set()

    def _raise_if_failed(self) -> None:
        if self._failed.done():
            error = self._failed.exception()
            # Raise a new exception each time, because each raise lengthens the traceback of an exception.
            raise type(error)(str(error)) if error is not None else Transient(f"{self._settings.url} is closed")


def _resolve(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _resolve_with(future: asyncio.Future[Any], result: object) -> None:
    """Set the result of a future, even if the result is an exception."""
    if not future.done():
        future.set_result(result)
