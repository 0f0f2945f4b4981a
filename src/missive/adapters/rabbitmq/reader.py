"""Read deliveries out of the received bytes, and pass all other frames to pika.

For each delivery, pika makes eight objects and a hundred calls, which take most of the time of a message. A delivery is
a method frame, a header frame and body frames, and the engine needs only a few of their fields:
https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, section 4.2. `context.native` decodes the rest on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import msgspec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic, BasicProperties

from missive.adapters.base import DEFAULT_MAX_BODY
from missive.adapters.headers import Table
from missive.adapters.rabbitmq.tables import Raw, decode_table, to_headers, to_pika
from missive.transport import Delivery

_FRAME = Struct(">BHL")
_METHOD, _HEADER, _BODY = 1, 2, 3
_START, _END, _END_BYTE = 7, 1, 0xCE
"""Lengths of the start and the end of a frame, in bytes, and the value of the end byte."""
_DELIVER = Basic.Deliver.INDEX.to_bytes(4, "big")
_TAG_AND_BITS = Struct(">QB")
_SIZE_AT, _PROPERTIES_AT = 4, 12
"""Offsets of the body size and of the properties (flags, then values) in a header frame, in bytes."""
_MAX_TOPICS = 1000
"""Limit of cached routing keys."""
_MAX_COUNT = 1 << 31
"""Limit of a delivery count: a header of this name may have any other value."""
_MORE_FLAGS = 1
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = (1 << bit for bit in (15, 14, 13, 12, 11))
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP = (1 << bit for bit in (10, 9, 8, 7, 6))


class RabbitMQNative(msgspec.Struct, gc=False):
    """The value of `context.native`: the queue, and pika's method and properties, which are decoded on first use."""

    queue: str
    """The queue of the delivery."""
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
        """The `pika.BasicProperties`. Its headers have the exact numbers."""
        if isinstance(self._properties, bytes):
            self._properties = _pika_properties(self._properties)
        return self._properties

    @property
    def undecoded(self) -> tuple[str | bytes, ...]:
        """The names of headers whose values cannot be decoded. Such a header has the encoded bytes as its value."""
        headers = self.properties.headers or {}
        return tuple(name for name, value in headers.items() if isinstance(value, Raw))

    def __repr__(self) -> str:
        return "<RabbitMQNative>"


class Reader:
    """Extract the deliveries of one channel from a stream of bytes in pieces of any size, and pass on other frames."""

    def __init__(
        self,
        channel: int,
        take: Callable[[list[Delivery]], None],
        pass_on: Callable[[bytes], object],
        rest: bytes = b"",
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        self.queues: dict[bytes, str] = {}
        """Queue names by consumer tag."""
        self.incomplete = 0
        """Number of deliveries with a property or header that could not be decoded."""
        self._channel = channel
        self._take = take
        self._pass_on = pass_on
        self._rest = rest
        self._topics: dict[bytes, str] = {}
        self._method = b""
        """The method of the incomplete delivery; empty between deliveries."""
        self._properties = b""
        self._parts: list[bytes] = []
        self._missing = 0
        self._max_body = max_body
        self._too_large: str | None = None
        """Which bound the incomplete delivery exceeds. Its body is not kept."""

    def read(self, data: bytes) -> int:
        """Read the next piece. Return the number of bytes that belonged to deliveries."""
        buffer = self._rest + data if self._rest else data
        at, end, consumed = 0, len(buffer), 0
        deliveries: list[Delivery] = []
        frame, channel = _FRAME.unpack_from, self._channel
        while end - at >= _START + _END:
            kind, number, size = frame(buffer, at)
            start = at + _START
            after = start + size
            if after >= end:
                break
            if buffer[after] != _END_BYTE:
                self._pass_on(buffer[at:])  # pika raises the error
                return consumed
            if number == channel and self._store(kind, buffer, start, after):
                consumed += after + _END - at
                if kind != _METHOD and not self._missing:
                    deliveries.append(self._delivery())
            else:
                self._pass_on(buffer[at : after + _END])
            at = after + _END
        self._rest = buffer[at:]
        if deliveries:
            self._take(deliveries)
        return consumed

    def _store(self, kind: int, buffer: bytes, start: int, after: int) -> bool:
        """Store a frame of a delivery. Return False for any other frame."""
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
            if self._missing > self._max_body:
                self._too_large = f"the body has {self._missing} bytes, and max_body is {self._max_body}"
            return True
        if kind == _BODY:
            self._missing -= after - start
            if self._too_large is None:
                self._parts.append(buffer[start:after])
            return True
        return False

    def _delivery(self) -> Delivery:
        """Return the completed delivery. Its token is its tag on the channel."""
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
        too_large, self._too_large = self._too_large, None
        unreadable = None
        try:
            headers, complete, counted, message_id, timestamp, content_type = _properties(encoded)
        except Exception:  # noqa: BLE001 - no bytes of a message may end the connection
            unreadable, headers = "the properties of the message cannot be decoded", [("properties", encoded)]
            complete, counted, message_id, timestamp, content_type = False, None, None, None, None
        if not complete:
            self.incomplete += 1
        redelivered = bool(bits & 1)
        native = RabbitMQNative(self.queues[method[1:tag_end]], method, encoded)
        native_id = key = lane = position = record_id = record = None
        # Positional arguments are the fastest.
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
            # A first delivery has the count of another queue, or of its producer.
            1 + counted if counted is not None and redelivered else 1 + redelivered,
            redelivered,
            native,
            record_id,
            record,
            unreadable,
            too_large,
        )

    def _topic(self, names: bytes) -> str:
        """Return the routing key, which follows the exchange name."""
        topic, _ = _short(names, 1 + names[0])
        if len(self._topics) < _MAX_TOPICS:
            self._topics[names] = topic
        return topic


def _properties(  # noqa: C901 - one step for each property
    encoded: bytes,
) -> tuple[Any, bool, int | None, str | None, int | None, str | None]:
    """Return the headers, whether all could be decoded, delivery count, message id, timestamp and content type.

    Only quorum queues have the delivery count. Raise an exception where the properties are longer than their frame.
    """
    content_type: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    counted: int | None = None
    headers: Any = ()
    complete = True
    flags, at = encoded[0] << 8 | encoded[1], 2
    if flags & _MORE_FLAGS:
        at = _flags_end(encoded)
    if flags & _CONTENT_TYPE:
        content_type, at = _short(encoded, at)
    if flags & _CONTENT_ENCODING:
        at += 1 + encoded[at]
    if flags & _HEADERS:
        table, at, complete = decode_table(encoded, at)
        headers = to_headers(table)
        counted = _delivery_count(table)
    if flags & (_MESSAGE_ID | _TIMESTAMP):
        at += bool(flags & _DELIVERY_MODE) + bool(flags & _PRIORITY)
        for flag in (_CORRELATION_ID, _REPLY_TO, _EXPIRATION):
            if flags & flag:
                at += 1 + encoded[at]
        if flags & _MESSAGE_ID:
            message_id, at = _short(encoded, at)
        if flags & _TIMESTAMP:
            timestamp, at = int.from_bytes(encoded[at : at + 8], "big", signed=True), at + 8
    if at > len(encoded):
        raise ValueError("the properties are longer than their frame")
    return headers, complete, counted, message_id, timestamp, content_type


def _delivery_count(table: Table) -> int | None:
    for name, value in table:
        if name == "x-delivery-count":
            return value if type(value) is int and 0 <= value < _MAX_COUNT else None
    return None


def _pika_properties(encoded: bytes) -> Any:
    """Return pika's properties. The headers are decoded here, because pika truncates numbers and refuses some values.

    Properties that are longer than their frame become one header.
    """
    properties = BasicProperties()
    try:
        flags = encoded[0] << 8 | encoded[1]
        if not flags & _HEADERS:
            return properties.decode(encoded)
        at = _flags_end(encoded)
        for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
            if flags & flag:
                at += 1 + encoded[at]
        table, end, _ = decode_table(encoded, at)
        without = flags & ~_HEADERS
        properties.decode(without.to_bytes(2, "big") + encoded[2:at] + encoded[end:])
        properties.headers = to_pika(table)
    except Exception:  # noqa: BLE001 - malformed bytes may raise anything
        properties = BasicProperties(headers={"properties": Raw(encoded)})
    return properties


def _flags_end(encoded: bytes) -> int:
    """Return the offset of the first property: the last bit of each flags word announces another word."""
    at = 2
    while encoded[at - 1] & _MORE_FLAGS:
        at += 2
    return at


class Connection(AsyncioConnection):  # type: ignore[misc] # pika has types in some versions only
    """A connection of pika that reads the deliveries of one channel before pika sees them."""

    reader: Reader | None = None
    _frame_buffer: bytes

    def read(self, channel: int, take: Callable[[list[Delivery]], None], max_body: int) -> Reader:
        """Start to pass the deliveries of a channel to `take`."""
        self.reader = reader = Reader(channel, take, super()._on_data_available, self._frame_buffer, max_body)
        self._frame_buffer = b""
        return reader

    def _on_data_available(self, data_in: bytes) -> None:
        """Read received data. Every version of pika since 1.0 calls this method."""
        if self.reader is None:
            super()._on_data_available(data_in)
        else:
            consumed = self.reader.read(data_in)  # pika counts the bytes that are passed on to it
            self.bytes_received += consumed


def _short(encoded: bytes, at: int) -> tuple[str, int]:
    """Return a short string and the offset of its end."""
    start = at + 1
    end = start + encoded[at]
    return encoded[start:end].decode("utf-8", "backslashreplace"), end
