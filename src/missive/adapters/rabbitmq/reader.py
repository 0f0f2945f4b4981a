"""Reads deliveries out of what the broker sends; all else is pika's to read.

pika makes eight objects and a hundred calls of a delivery, which is most of the time that a message takes. It is three
frames, a method, a header and a body, of which the engine needs a few fields:
https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 4.2. The rest is decoded when somebody asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from struct import Struct
from typing import Any

import msgspec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.data import decode_table
from pika.spec import Basic, BasicProperties

from missive.transport import Delivery

_FRAME = Struct(">BHL")
_METHOD, _HEADER, _BODY = 1, 2, 3
_START, _END, _END_BYTE = 7, 1, 0xCE
"""How long a frame's beginning is, and its end, which is a byte of this value."""
_DELIVER = Basic.Deliver.INDEX.to_bytes(4, "big")
_TAG_AND_BITS = Struct(">QB")
_SIZE_AT, _PROPERTIES_AT = 4, 12
"""Where a header has the size of the body, and the properties: flags of which there are, and their values."""
_MOST_TOPICS = 1000
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = (1 << bit for bit in (15, 14, 13, 12, 11))
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP = (1 << bit for bit in (10, 9, 8, 7, 6))


class RabbitMQNative(msgspec.Struct, gc=False):
    """What `context.native` is: the queue, and pika's method and properties, decoded when they are asked for."""

    queue: str
    """The one that the delivery came from."""
    _method: Any
    _properties: Any

    @property
    def method(self) -> Any:
        """The `pika.spec.Basic.Deliver`: `exchange`, `routing_key`, `redelivered`, `delivery_tag`, `consumer_tag`."""
        if isinstance(self._method, bytes):
            self._method = Basic.Deliver().decode(self._method)
        return self._method

    @property
    def properties(self) -> Any:
        """The `pika.BasicProperties`."""
        if isinstance(self._properties, bytes):
            self._properties = BasicProperties().decode(self._properties)
        return self._properties

    def __repr__(self) -> str:
        return "<RabbitMQNative>"


class Reader:
    """Takes the deliveries of one channel out of a stream of bytes, in any pieces, and passes all other frames on."""

    def __init__(
        self,
        channel: int,
        take: Callable[[list[Delivery]], None],
        pass_on: Callable[[bytes], object],
        rest: bytes = b"",
    ) -> None:
        self.queues: dict[bytes, str] = {}
        """The queues by their consumers' tags."""
        self._channel = channel
        self._take = take
        self._pass_on = pass_on
        self._rest = rest
        self._topics: dict[bytes, str] = {}
        self._method = b""
        """That of the delivery that is under way, if there is one."""
        self._properties = b""
        self._parts: list[bytes] = []
        self._missing = 0

    def read(self, data: bytes) -> int:
        """Read the next piece; returns how many bytes were a delivery's."""
        buffer = self._rest + data if self._rest else data
        at, end, own = 0, len(buffer), 0
        deliveries: list[Delivery] = []
        frame, channel = _FRAME.unpack_from, self._channel
        while end - at >= _START + _END:
            kind, number, size = frame(buffer, at)
            start = at + _START
            after = start + size
            if after >= end:
                break
            if buffer[after] != _END_BYTE:
                self._pass_on(buffer[at:])  # which refuses it
                return own
            if number == channel and self._is_own(kind, buffer, start, after):
                own += after + _END - at
                if kind != _METHOD and not self._missing:
                    deliveries.append(self._delivery())
            else:
                self._pass_on(buffer[at : after + _END])
            at = after + _END
        self._rest = buffer[at:]
        if deliveries:
            self._take(deliveries)
        return own

    def _is_own(self, kind: int, buffer: bytes, start: int, after: int) -> bool:
        """Take a frame that is a part of a delivery; tells whether it is."""
        if kind == _METHOD:
            if buffer[start : start + 4] != _DELIVER:
                return False
            self._method = buffer[start + 4 : after]
            return True
        if not self._method:
            return False
        if kind == _HEADER:
            self._missing = int.from_bytes(buffer[start + _SIZE_AT : start + _PROPERTIES_AT], "big")
            self._properties = buffer[start + _PROPERTIES_AT : after]
            return True
        if kind == _BODY:
            self._missing -= after - start
            self._parts.append(buffer[start:after])
            return True
        return False

    def _delivery(self) -> Delivery:
        """Return the delivery that is complete; its token is the tag on the channel."""
        method, encoded, parts = self._method, self._properties, self._parts
        self._method = b""
        if len(parts) == 1:
            body = parts.pop()
        else:
            body = b"".join(parts)
            parts.clear()
        tag_end = 1 + method[0]
        tag, bits = _TAG_AND_BITS.unpack_from(method, tag_end)
        names = method[tag_end + 9 :]
        topic = self._topics.get(names)
        if topic is None:
            topic = self._topic(names)
        headers, counted, message_id, timestamp, content_type = _properties(encoded)
        redelivered = bool(bits & 1)
        native = RabbitMQNative(self.queues[method[1:tag_end]], method, encoded)
        native_id = key = lane = position = None
        # By position, which is the quickest.
        return Delivery(
            body,
            headers,
            native_id,
            message_id,
            topic,
            key,
            timestamp,
            content_type,
            lane,
            position,
            tag,
            1 + redelivered if counted is None else 1 + counted,
            redelivered,
            native,
        )

    def _topic(self, names: bytes) -> str:
        """Return the routing key, which follows the exchange."""
        topic, _ = _short(names, 1 + names[0])
        if len(self._topics) < _MOST_TOPICS:
            self._topics[names] = topic
        return topic


def _properties(encoded: bytes) -> tuple[Any, int | None, str | None, int | None, str | None]:
    """Return headers, the count of a quorum queue, the message id, the time and the content type."""
    content_type: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    counted: int | None = None
    headers: Any = ()
    flags, at = encoded[0] << 8 | encoded[1], 2
    if flags & _CONTENT_TYPE:
        content_type, at = _short(encoded, at)
    if flags & _CONTENT_ENCODING:
        at += 1 + encoded[at]
    if flags & _HEADERS:
        table, at = decode_table(encoded, at)
        headers = _pairs(table)
        count = table.get("x-delivery-count")
        counted = count if isinstance(count, int) else None
    if flags & (_MESSAGE_ID | _TIMESTAMP):
        at += bool(flags & _DELIVERY_MODE) + bool(flags & _PRIORITY)
        for flag in (_CORRELATION_ID, _REPLY_TO, _EXPIRATION):
            if flags & flag:
                at += 1 + encoded[at]
        if flags & _MESSAGE_ID:
            message_id, at = _short(encoded, at)
        if flags & _TIMESTAMP:
            timestamp = int.from_bytes(encoded[at : at + 8], "big")
    return headers, counted, message_id, timestamp, content_type


class Connection(AsyncioConnection):  # type: ignore[misc] # pika has types in some versions only
    """pika's connection, out of which the deliveries of one channel are read beforehand."""

    reader: Reader | None = None
    _frame_buffer: bytes

    def read(self, channel: int, take: Callable[[list[Delivery]], None]) -> Reader:
        """Give the deliveries of a channel to `take` from now on."""
        self.reader = reader = Reader(channel, take, super()._on_data_available, self._frame_buffer)
        self._frame_buffer = b""
        return reader

    def _on_data_available(self, data_in: bytes) -> None:
        """Read what came; pika calls this, in all its versions from 1.0 on."""
        if self.reader is None:
            super()._on_data_available(data_in)
        else:
            own = self.reader.read(data_in)  # in which pika counts what is passed on to it
            self.bytes_received += own


def _short(encoded: bytes, at: int) -> tuple[str, int]:
    """Return a short string and where it ends."""
    start = at + 1
    end = start + encoded[at]
    return encoded[start:end].decode("utf-8", "backslashreplace"), end


def _pairs(table: dict[str | bytes, Any]) -> list[tuple[str, str | bytes]]:
    """Return an AMQP table as headers: other values than text become JSON, or their own text."""
    return [
        (
            name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name,
            value if isinstance(value, (str, bytes)) else json.dumps(value, default=str),
        )
        for name, value in table.items()
    ]
