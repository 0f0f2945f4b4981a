"""Publish messages of any bytes to Kafka with the C library, because its Python API encodes names as UTF-8."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import confluent_kafka

_TOPIC, _VALUE, _KEY, _FLAGS, _TIMESTAMP, _HEADERS, _END = (ctypes.c_int(tag) for tag in (1, 4, 5, 7, 8, 10, 0))
_COPY = ctypes.c_int(2)
_PRODUCER = 0
_FLUSH_MILLISECONDS = 30_000


class RawMessage(NamedTuple):
    """A message of any bytes."""

    body: bytes
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    key: bytes | None = None
    timestamp: int = 0
    """In milliseconds; 0 for now."""


def publish(servers: str, topic: str, messages: Iterable[RawMessage]) -> None:
    """Publish messages, and return when the broker has confirmed them."""
    library = _library()
    error = ctypes.create_string_buffer(256)
    settings = library.rd_kafka_conf_new()
    assert library.rd_kafka_conf_set(settings, b"bootstrap.servers", servers.encode(), error, len(error)) == 0
    producer = library.rd_kafka_new(_PRODUCER, settings, error, len(error))
    assert producer, error.value
    try:
        for message in messages:
            headers = library.rd_kafka_headers_new(len(message.headers))
            for name, value in message.headers:
                size = -1 if value is None else len(value)
                assert library.rd_kafka_header_add(headers, name, len(name), value, size) == 0
            key = () if message.key is None else (_KEY, message.key, ctypes.c_size_t(len(message.key)))
            refused = library.rd_kafka_producev(
                ctypes.c_void_p(producer),
                *(_TOPIC, topic.encode()),
                *(_VALUE, message.body, ctypes.c_size_t(len(message.body))),
                *key,
                *(_FLAGS, _COPY),
                *(_TIMESTAMP, ctypes.c_int64(message.timestamp)),
                *(_HEADERS, ctypes.c_void_p(headers)),
                _END,
            )
            assert refused == 0
        assert library.rd_kafka_flush(producer, _FLUSH_MILLISECONDS) == 0
    finally:
        library.rd_kafka_destroy(producer)


def _library() -> ctypes.CDLL:
    (path,) = Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ssize_t
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, name).restype = pointer
    library.rd_kafka_conf_set.argtypes = [pointer, text, text, text, size]
    library.rd_kafka_new.argtypes = [ctypes.c_int, pointer, text, size]
    library.rd_kafka_headers_new.argtypes = [size]
    library.rd_kafka_header_add.argtypes = [pointer, text, size, text, size]
    library.rd_kafka_flush.argtypes = [pointer, ctypes.c_int]
    library.rd_kafka_destroy.argtypes = [pointer]
    return library
