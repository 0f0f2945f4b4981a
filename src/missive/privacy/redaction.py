"""Redaction of secrets in URLs."""

from __future__ import annotations

import re

_SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|key|credential|signature|sas", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return a URL without its user, its password, and the values of parameters with names of secrets.

    Text up to the last `@` is removed, because it may be a password with unquoted special characters.
    """
    before, at, after = url.rpartition("@")
    if at:
        scheme, slashes, _ = before.partition("://")
        after = f"{scheme}{slashes}{after}" if slashes else after
    head, mark, query = after.partition("#")[0].partition("?")
    if not mark:
        return head
    shown = [
        f"{name}{equals}{'***' if _SECRET_PARAMETER.search(name) else value}"
        for name, equals, value in (part.partition("=") for part in query.split("&"))
    ]
    return f"{head}?{'&'.join(shown)}"
