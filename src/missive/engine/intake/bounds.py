"""Bounds: deliveries with too large a body, or too many headers, lose both before a job is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from missive.transport import Delivery

MAX_HEADERS = 10_000
"""Maximum number of headers of a message."""
MAX_HEADER_BYTES = 1 << 20
"""Maximum size of all header names and values of a message, in bytes."""
_BYTES_PER_CHARACTER = 4
"""Maximum size of a character in UTF-8, in bytes."""


def enforce_bounds(deliveries: Sequence[Delivery], max_body: int) -> int:
    """Mark the deliveries that exceed a bound as `too_large`, and take their body and headers away.

    Return the size of the bodies that are left, in bytes.

    The sum of the sizes decides whether any body can be too large, so that a normal chunk costs little.
    """
    size = sum([len(delivery.body) for delivery in deliveries])
    if size > max_body:
        for delivery in deliveries:
            if len(delivery.body) > max_body:
                delivery.too_large = f"the body has {len(delivery.body)} bytes, and max_body is {max_body}"
                size -= len(delivery.body)
                delivery.body = b""
    for delivery in [delivery for delivery in deliveries if delivery.headers]:
        if (why := _exceeded(delivery.headers)) is not None:
            size -= len(delivery.body)
            delivery.too_large, delivery.body, delivery.headers = why, b"", ()
    return size


def _exceeded(headers: Any) -> str | None:
    """Return which bound the headers exceed, or None."""
    try:
        count = len(headers)
        if count > MAX_HEADERS:
            return f"the message has {count} headers, and the limit is {MAX_HEADERS}"
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        if sum(map(len, chain.from_iterable(pairs))) * _BYTES_PER_CHARACTER <= MAX_HEADER_BYTES:
            return None
        size = sum([_size(one) for pair in pairs for one in pair])
    except (TypeError, AttributeError):  # not pairs of text or bytes: the message class raises
        return None
    return f"the headers have {size} bytes, and the limit is {MAX_HEADER_BYTES}" if size > MAX_HEADER_BYTES else None


def _size(text: str | bytes) -> int:
    return len(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
