"""URLs that name transports and stores: their secrets, and where these may come from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from missive.errors import UsageError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|key|credential|signature|sas", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return a URL without its user, its password, and the values of parameters that sound like secrets.

    Everything up to the last `@` may be a password that somebody forgot to quote, and is left out.
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


def expand_environment(text: str, environment: Mapping[str, str] | None = None, *, within: str | None = None) -> str:
    """Replace each `${NAME}` by the environment's, so that no secret stands in a process list.

    `within` is the URL that the text is a part of. Raises `UsageError`, naming both, when a variable is not set.
    """
    known = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        try:
            return known[match[1]]
        except KeyError:
            shown = redact_url(within or text)
            raise UsageError(f"{shown} names ${{{match[1]}}}, which the environment does not have") from None

    return _VARIABLE.sub(value, text)
