"""Redaction of secrets in URLs."""

from __future__ import annotations

import re

SHOWN_PARAMETERS = frozenset({
    "body_field", "ca_file", "cert_file", "channel", "claim_idle", "connect_timeout", "consumer", "consumer_timeout",
    "create", "db", "dead_letter_exchange", "drain", "durable", "group", "handover", "heartbeat", "host",
    "instance_id", "keep_discarded", "keep_resolved", "key_file", "lease", "max_body", "partitioned_by", "path",
    "pattern", "port", "prefetch", "prefix", "progress", "queue", "rate_limit", "region", "sslmode", "sslrootcert",
    "start", "stream", "subject", "tls", "topic", "unix_socket", "verify", "vhost", "wait",
})  # fmt: skip
"""Names of parameters whose values are shown. The value of any other parameter may be a secret."""

_HOSTS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:,\[\]/]*)(?::(?:\d{0,5}|\$\{\w+\}))?")
_WITHOUT_HOST = frozenset({"file", "stdin", "broker", "memory"})
"""Schemes of URLs that have no host, and therefore no credentials."""


def redact_url(url: str) -> str:
    """Return a URL without its user and password, and with the values of known harmless parameters only.

    Text up to the last `@` is removed, because it may be a password with unquoted special characters. So is an
    authority that is no host with a port, because it may be a user and a password without a host.
    """
    before, at, after = url.rpartition("@")
    if at:
        scheme, slashes, _ = before.partition("://")
        after = f"{scheme}{slashes}{after}" if slashes else after
    head, mark, query = after.partition("#")[0].partition("?")
    head = _without_credentials(head)
    if not mark:
        return head
    return f"{head}?{'&'.join(map(_shown, query.split('&')))}"


def _without_credentials(head: str) -> str:
    scheme, slashes, rest = head.partition("://")
    if slashes:
        authority, slash, path = rest.partition("/")
        hosts = authority.split(",") if slash or authority else []
        return head if all(map(_HOSTS.fullmatch, hosts)) else f"{scheme}://***{slash}{path}"
    scheme, colon, rest = head.partition(":")
    return f"{scheme}:***" if colon and ":" in rest and scheme not in _WITHOUT_HOST else head


def _shown(part: str) -> str:
    name, equals, value = part.partition("=")
    if name in SHOWN_PARAMETERS or (equals and not value):
        return part
    return f"{name}=***" if equals else "***"  # a word alone may be the end of a password
