"""Printable text: foreign text cannot control a terminal, forge a line, or hide the rest of its line."""

from __future__ import annotations


def printable(text: str, allowed: str = "") -> str:
    """Escape characters that are not printable: controls, line and paragraph separators, bidi controls, surrogates.

    Characters of `allowed` stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in allowed else c.encode("unicode_escape").decode() for c in text)
