"""Sortable unique ids (ULIDs): 48 bits of milliseconds and 80 random bits, in Crockford's base 32."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id(milliseconds: int | None = None) -> str:
    """Return a new id of 26 characters. Ids of different milliseconds sort by time.

    `milliseconds` is the time since 1970, and defaults to now. Layout: https://github.com/ulid/spec.
    """
    if milliseconds is None:
        milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join([_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)])


def after(last: str, candidate: str) -> str:
    """Return an id that sorts after `last`: the candidate if possible, otherwise the successor of `last`."""
    if candidate > last:
        return candidate
    number = 0
    for character in last:
        number = number * 32 + _ALPHABET.index(character)
    return "".join([_ALPHABET[(number + 1 >> shift) & 31] for shift in range(5 * (len(last) - 1), -1, -5)])
