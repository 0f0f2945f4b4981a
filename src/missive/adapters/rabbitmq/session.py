"""One connection to RabbitMQ, on the engine's loop: pushed deliveries in, acks out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
from pika import exceptions

from missive.adapters.rabbitmq.errors import translated, trouble
from missive.adapters.rabbitmq.reader import Connection, Reader
from missive.adapters.rabbitmq.unacked import Unacked
from missive.errors import Fatal, Transient
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

if TYPE_CHECKING:
    from missive.adapters.rabbitmq.adapter import RabbitMQAdapter

_CLOSE_SECONDS = 3.0
_FIRST_WITH_STREAMS = (3, 9)
_PRECONDITION_FAILED = 406
_NOT_FOUND = 404
_LOOKS = 4
"""How often in a heartbeat it is looked whether something came."""
_SILENT = 1.4
"""After so many heartbeats of silence a connection is half open. That is seen within two."""


class RabbitMQSession(Session):
    """One connection with one channel and a consumer for each queue. A delivery's token is its tag on the channel."""

    def __init__(self, adapter: RabbitMQAdapter, host: Host) -> None:
        super().__init__()
        self.capabilities = Capabilities(
            attempts="approximate",
            lease=adapter.consumer_timeout,
            renewable=False,
            replies=False,
            rejects=adapter.dead_letter_exchange is not None,
        )
        self._adapter = adapter
        self._host = host
        self._connection: Any = None
        self._consumers: dict[str, str] = {}
        """The queues by their consumers' tags."""
        self._asked: str | None = None
        """The queue that the broker is asked about, so that its refusal can name it."""
        self._stopped = False
        self._reader: Reader | None = None
        self._arrived: deque[Delivery] = deque()
        self._arrival = asyncio.Event()
        self._unacked = Unacked()
        self._heard = (0, self._loop.time())
        """How many bytes had come, and when that was seen to be more than before."""
        self._listening: asyncio.TimerHandle | None = None
        self._dead: asyncio.Future[None] = self._loop.create_future()
        self._closed = asyncio.Event()

    async def open(self) -> None:
        """Open connection and channel, and check that the queues are there, and are none of streams."""
        logger = logging.getLogger("pika")
        if logger.level == logging.NOTSET:
            # pika writes half a dozen lines for what the engine says in one.
            logger.setLevel(logging.CRITICAL)
        opened: asyncio.Future[None] = self._loop.create_future()
        self._connection = Connection(
            self._adapter.address.of_pika(self._host.service),
            on_open_callback=lambda _: _answer(opened, None),
            on_open_error_callback=lambda _, error: _answer(opened, trouble(error, self._adapter)),
            on_close_callback=lambda _, error: self._on_close(error),
            custom_ioloop=self._loop,
        )
        await opened
        self._listen()
        self.client = await self._reply(lambda done: self._connection.channel(on_open_callback=done))
        self.client.add_on_close_callback(lambda _, error: self._die(error))
        self.client.add_on_cancel_callback(self._on_cancel)
        queues = self._adapter.queues
        for queue in queues:
            await self.declared(queue)
            if await self._is_stream(queue):
                says = f"{queue} is a stream, where an ack settles nothing, so that nothing would come again"
                raise Fatal(f"{self._adapter.url}: {says}: consume a classic or a quorum queue")
        if (exchange := self._adapter.dead_letter_exchange) is not None and not await self.has_exchange(exchange):
            says = f"there is no exchange {exchange}, so that dead letters would be dropped"
            raise Transient(f"{self._adapter.url}: {says}")
        # The broker's limit is for each consumer.
        prefetch = max(1, min(self._adapter.prefetch, self._host.credit.items // len(queues)))
        await self._reply(lambda done: self.client.basic_qos(prefetch_count=prefetch, callback=done))

    async def _is_stream(self, queue: str) -> bool:
        """Ask for a consumer that no queue gives, on a channel of its own, which the refusal closes.

        A stream gives none that has no prefetch, and every other queue none that begins at an offset.
        """
        server = self._connection.server_properties or {}
        if server.get("product") != "RabbitMQ" or _version(server.get("version")) < _FIRST_WITH_STREAMS:
            return False
        consume = {"queue": queue, "on_message_callback": lambda *_: None, "arguments": {"x-stream-offset": "next"}}
        refusal = await self.attempt(lambda channel, done: channel.basic_consume(**consume, callback=done))
        code, text = getattr(refusal, "reply_code", None), getattr(refusal, "reply_text", "")
        return code == _PRECONDITION_FAILED and "prefetch" in text

    async def has_exchange(self, exchange: str) -> bool:
        """Tell whether the broker has an exchange."""
        refusal = await self.attempt(
            lambda channel, done: channel.exchange_declare(exchange, passive=True, callback=done)
        )
        return getattr(refusal, "reply_code", None) != _NOT_FOUND

    async def attempt(self, ask: Callable[[Any, Any], object]) -> BaseException | None:
        """Ask the broker something on a channel of its own; returns what closed that, or None where nothing did."""
        channel = await self._reply(lambda done: self._connection.channel(on_open_callback=done))
        refused: asyncio.Future[BaseException | None] = self._loop.create_future()
        channel.add_on_close_callback(lambda _, error: _answer_with(refused, error))
        with translated(self._adapter):
            ask(channel, lambda _: _answer(refused, None))
        await self._answer_or_end(refused)
        if channel.is_open:
            channel.close()
        return refused.result()

    async def fetch(self, credit: Credit) -> Sequence[Delivery]:
        """Return what the broker pushed; the first time, tell it to."""
        if len(self._consumers) < len(self._adapter.queues) and not self._stopped:
            await self._consume()
        arrived = self._arrived
        while not arrived:
            self._raise_if_dead()
            self._arrival.clear()
            await self._arrival.wait()
        self._raise_if_dead()
        return [arrived.popleft() for _ in range(credit.count_fitting(arrived))]

    async def _consume(self) -> None:
        for queue in self._adapter.queues:
            if queue not in self._consumers.values():  # one that a cancelled fetch began is there already
                await self._reply(partial(self._begin, queue), queue)

    def _begin(self, queue: str, done: Callable[[object], None]) -> None:
        if self._reader is None:
            self._reader = self._connection.read(self.client.channel_number, self._take)
        tag: str = self.client.basic_consume(queue, self._not_read, callback=done)
        self._consumers[tag] = self._reader.queues[tag.encode()] = queue

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettlementResult]:
        """Ack, requeue and reject. AMQP does not answer an ack, so the results say `sent`."""
        self._raise_if_dead()
        released = [
            settlement.delivery.token for settlement in settlements if settlement.disposition is Disposition.release
        ]
        rejected = [
            settlement.delivery.token for settlement in settlements if settlement.disposition is Disposition.reject
        ]
        acked = [settlement.delivery.token for settlement in settlements if settlement.disposition is Disposition.ack]
        with translated(self._adapter):
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
        """Ask the broker something: an answer is the proof that the connection is not half open.

        Without the number of messages that wait: they may wait for another consumer, where only one is active.
        """
        if self._dead.done():
            return SessionStatus(connected=False)
        await self.declared(self._adapter.queues[0])
        return SessionStatus(connected=len(self._consumers) == len(self.client.consumer_tags))

    async def declared(self, queue: str) -> Any:
        """Return what the broker tells of a queue."""
        ask = self.client.queue_declare
        return (await self._reply(lambda done: ask(queue, passive=True, callback=done), queue)).method

    async def stop_intake(self) -> Sequence[Delivery]:
        """Cancel the consumers and return what was pushed and not fetched."""
        self._stopped = True
        if not self._dead.done():
            for consumer in list(self._consumers):
                await self._reply(partial(self.client.basic_cancel, consumer))
        left = list(self._arrived)
        self._arrived.clear()
        self._consumers.clear()
        return left

    async def close(self) -> None:
        """Close the connection: the broker redelivers what was not settled."""
        connection = self._connection
        if connection is None or connection.is_closed:
            return
        with contextlib.suppress(exceptions.AMQPError):
            connection.close()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), _CLOSE_SECONDS)
        finally:
            # One that is half open never answers, and the broker would keep what was delivered over it.
            if not self._closed.is_set() and (transport := connection._transport) is not None:  # noqa: SLF001 - no other way
                transport.abort()

    async def _reply(self, ask: Callable[[Any], object], queue: str | None = None) -> Any:
        """Ask the broker, and wait for its answer or the end of the channel."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        self._asked = queue
        with translated(self._adapter):
            ask(lambda answer: _answer(answered, answer))
        await self._answer_or_end(answered)
        self._asked = None
        return answered.result()

    async def _answer_or_end(self, answered: asyncio.Future[Any]) -> None:
        await asyncio.wait([answered, self._dead], return_when=asyncio.FIRST_COMPLETED)
        self._raise_if_dead()

    # Called by pika, on the engine's loop

    def _take(self, deliveries: list[Delivery]) -> None:
        self._unacked.add([one.token for one in deliveries])
        self._arrived += deliveries
        self._arrival.set()

    def _not_read(self, *_: object) -> None:
        says = f"pika {pika.__version__} delivers otherwise than is known here: install another"
        self._die(Fatal(f"{self._adapter.url}: {says}"))

    def _on_cancel(self, frame: Any) -> None:
        queue = self._consumers.get(frame.method.consumer_tag, self._adapter.destination)
        self._die(Transient(f"{self._adapter.url}: the queue {queue} is gone"))

    def _listen(self) -> None:
        """Give a connection up on which nothing came for twice the heartbeat; pika would wait for five seconds more.

        The broker sends something at least once in a heartbeat.
        """
        beat = self._connection.params.heartbeat
        if not beat or self._dead.done():
            return
        (before, since), now = self._heard, self._loop.time()
        received = self._connection.bytes_received
        if received != before or (self._listening is not None and now - self._listening.when() > beat / _LOOKS):
            # More came, or may have: this loop was not free to read it.
            self._heard = received, now
        elif now - since >= _SILENT * beat:
            # As pika's own would do it, which has nothing public for it.
            self._connection._terminate_stream(exceptions.AMQPHeartbeatTimeout("nothing came"))  # noqa: SLF001
            return
        self._listening = self._loop.call_later(beat / _LOOKS, self._listen)

    def _on_close(self, error: BaseException) -> None:
        if self._listening is not None:
            self._listening.cancel()
        self._closed.set()
        self._die(error)

    def _die(self, error: BaseException) -> None:
        if not self._dead.done():
            self._dead.set_exception(trouble(error, self._adapter, self._asked))
            self._dead.exception()  # looked at, so that asyncio does not complain when nobody else does
        self._arrival.set()

    def _raise_if_dead(self) -> None:
        if self._dead.done():
            error = self._dead.exception()
            # A new one each time: raised again, an exception's traceback grows.
            raise type(error)(str(error)) if error is not None else Transient(f"{self._adapter.url} is closed")


def _answer(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _answer_with(future: asyncio.Future[Any], answer: object) -> None:
    """Answer, also with an exception as what is asked for."""
    if not future.done():
        future.set_result(answer)


def _version(told: object) -> tuple[int, ...]:
    """Return major and minor of a version such as 3.12.1."""
    parts = str(told).split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else (0, 0)
