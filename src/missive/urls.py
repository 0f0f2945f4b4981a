"""URLs that name sources and stores: their parts, and values from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from missive.errors import UsageError
from missive.privacy import redact_url

_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:,\[\]]*))(:(?P<port>\d{0,5}))?")
_LAST_PORT = 65535
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class ParsedURL:
    """A URL in its parts, as an adapter's `from_parsed_url` gets it."""

    original: str
    """As it was written; it may hold a password."""
    scheme: str
    authority: str
    """Host and port, or several with commas between them, without user and password."""
    username: str | None
    password: str | None
    path: str
    parameters: Mapping[str, str]

    @property
    def host(self) -> str | None:
        """The one host, or None. Raises `UsageError` when there are several, or its port is no number."""
        return self._one()[0]

    @property
    def port(self) -> int | None:
        """The one host's port, or None. Raises `UsageError` as `host` does."""
        return self._one()[1]

    def _one(self) -> tuple[str | None, int | None]:
        match = _HOST.fullmatch(self.authority)
        if match is None or (match["port"] and int(match["port"]) > _LAST_PORT):
            # What stands there may be a part of a password that was not quoted: it is not shown.
            raise UsageError(
                f"{redact_url(self.original)} has no host and port that can be read: quote special characters in a"
                " password as %40, or take it from the environment with ${NAME}"
            )
        return match["ipv6"] or match["name"] or None, int(match["port"]) if match["port"] else None

    def __repr__(self) -> str:
        return f"<ParsedURL: {redact_url(self.original)}>"


def parse_url(url: str) -> ParsedURL:
    """Return a URL in its parts, each with what the environment has for it.

    Raises `ValueError`, which may quote the URL, for one that cannot be read, and `UsageError` for a missing variable.
    """
    parts = urlsplit(url)
    credentials, at, authority = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        if name in parameters:
            raise ValueError(f"{name}= is there twice")
        parameters[name] = expand_environment(value, within=url)
    return ParsedURL(
        url,
        parts.scheme,
        expand_environment(authority, within=url),
        # Unquoted before a variable's value takes its place: that value is meant to the character.
        expand_environment(unquote(username), within=url) if at else None,
        expand_environment(unquote(password), within=url) if colon else None,
        expand_environment(unquote(parts.path), within=url),
        parameters,
    )


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
