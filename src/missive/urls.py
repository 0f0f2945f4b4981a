"""URLs of sources and stores: their parts, and values from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from missive.errors import UsageError
from missive.privacy import redact_url

_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:,\[\]]*))(:(?P<port>\d{0,5}))?")
_LAST_PORT = 65535
_SPACE, _DELETE = 0x20, 0x7F
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class ParsedURL:
    """The parts of a URL, for `Adapter.from_parsed_url`. Environment variables are already replaced."""

    original: str
    """The URL as written. It may contain a password."""
    scheme: str
    authority: str
    """Host and port without user and password. Several hosts are separated by commas."""
    username: str | None
    password: str | None
    path: str
    parameters: Mapping[str, str]

    @property
    def host(self) -> str | None:
        """The host, or None. Raise `UsageError` for several hosts and for an invalid port."""
        return self._one()[0]

    @property
    def port(self) -> int | None:
        """The port, or None. Raise `UsageError` for several hosts and for an invalid port."""
        return self._one()[1]

    def _one(self) -> tuple[str | None, int | None]:
        match = _HOST.fullmatch(self.authority)
        if match is None or (match["port"] and int(match["port"]) > _LAST_PORT):
            # The authority is not shown, because it may be part of a password with unquoted special characters.
            raise UsageError(
                f"{redact_url(self.original)} has no valid host and port: quote special characters in a password,"
                " such as @ as %40, or take the password from the environment with ${NAME}"
            )
        return match["ipv6"] or match["name"] or None, int(match["port"]) if match["port"] else None

    def __repr__(self) -> str:
        return f"<ParsedURL: {redact_url(self.original)}>"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name or address alone. No name is looked up."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_url(url: str) -> ParsedURL:
    """Split a URL into its parts, and replace environment variables in each part. Their values are literal.

    Raise `UsageError` for an invalid URL, for special characters that must be quoted, and for a missing variable. The
    text shows no part that may be a secret.
    """
    try:
        parts = urlsplit(url)
        fields = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        # The text of urllib's error may quote the part of the URL that contains the password.
        fault: str | None = str(error).partition(":")[0].partition("'")[0].strip()
    else:
        fault = _fault(url, parts)
    if fault is not None:
        raise UsageError(f"the URL {redact_url(url)} cannot be read: {fault}")
    credentials, at, authority = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    parameters: dict[str, str] = {}
    for name, value in fields:
        if name in parameters:
            raise UsageError(f"the URL {redact_url(url)} cannot be read: {name}= is repeated")
        parameters[name] = expand_environment(value, within=url)
    return ParsedURL(
        url,
        parts.scheme,
        expand_environment(authority, within=url),
        # Unquoted before variables are replaced, because their values are literal.
        expand_environment(unquote(username), within=url) if at else None,
        expand_environment(unquote(password), within=url) if colon else None,
        expand_environment(unquote(parts.path), within=url),
        parameters,
    )


def _fault(url: str, parts: SplitResult) -> str | None:
    """Return why a URL is ambiguous, or None."""
    if any(ord(char) < _SPACE or ord(char) == _DELETE for char in url):
        return "it contains a control character"
    if "#" in url:
        return "# must be quoted as %23"
    if parts.netloc and "@" in parts.path:
        # A password that contains a slash ends the authority too early.
        return "quote special characters in a password, such as / as %2F and @ as %40"
    return None


def expand_environment(text: str, *, within: str | None = None) -> str:
    """Replace each `${NAME}` in a text by an environment variable, which keeps secrets out of process lists.

    `within` is the URL that contains the text. Raise `UsageError`, which names the URL and the variable, if the
    variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            shown = redact_url(within or text)
            raise UsageError(f"{shown} uses ${{{match[1]}}}, but this environment variable is not set") from None

    return _VARIABLE.sub(value, text)


def cleartext_risk(url: str) -> str | None:
    """Return why others can read the connection of a URL, in one line with the remedy, or None.

    The URL has no credentials. Its scheme has a twin with TLS, such as `amqps` for `amqp`.
    """
    parts = urlsplit(url)
    twin = {"amqp": "amqps", "rabbitmq": "amqps", "redis": "rediss"}.get(parts.scheme)
    if twin is None or is_loopback(parts.hostname or "localhost"):
        return None
    return f"{url} is not encrypted: use {twin}://"
