"""Numbers with their nouns, in English."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a count and its noun, which gets an s unless the count is one: `1 byte`, `2 bytes`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
