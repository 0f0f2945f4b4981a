"""Security: the settings of librdkafka that a URL may set, and the encryption of connections with credentials."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from missive.errors import UsageError
from missive.urls import is_loopback

URL_SETTINGS = frozenset(
    {
        "allow.auto.create.topics",
        "api.version.fallback.ms",
        "api.version.request",
        "api.version.request.timeout.ms",
        "broker.address.family",
        "broker.address.ttl",
        "broker.version.fallback",
        "check.crcs",
        "client.dns.lookup",
        "client.id",
        "client.rack",
        "connections.max.idle.ms",
        "coordinator.query.interval.ms",
        "enable.metrics.push",
        "enable.sparse.connections",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.protocol",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "isolation.level",
        "max.in.flight.requests.per.connection",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "message.copy.max.bytes",
        "message.max.bytes",
        "metadata.max.age.ms",
        "metadata.recovery.rebootstrap.trigger.ms",
        "metadata.recovery.strategy",
        "partition.assignment.strategy",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "receive.message.max.bytes",
        "reconnect.backoff.max.ms",
        "reconnect.backoff.ms",
        "retry.backoff.max.ms",
        "retry.backoff.ms",
        "sasl.kerberos.keytab",
        "sasl.kerberos.principal",
        "sasl.kerberos.service.name",
        "security.protocol",
        "session.timeout.ms",
        "socket.connection.setup.timeout.ms",
        "socket.keepalive.enable",
        "socket.max.fails",
        "socket.nagle.disable",
        "socket.receive.buffer.bytes",
        "socket.send.buffer.bytes",
        "socket.timeout.ms",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.cipher.suites",
        "ssl.crl.location",
        "ssl.curves.list",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.keystore.location",
        "ssl.keystore.password",
        "ssl.sigalgs.list",
        "topic.metadata.propagation.max.ms",
        "topic.metadata.refresh.fast.interval.ms",
        "topic.metadata.refresh.interval.ms",
    }
)
"""The settings that a URL may set. They load no code, run no program, and do not weaken the checks of TLS."""

_SASL, _TLS = ("SASL_PLAINTEXT", "SASL_SSL"), ("SSL", "SASL_SSL")


def check_url_settings(names: Iterable[str]) -> None:
    """Raise `UsageError` for a setting that a URL may not set."""
    for name in names:
        if name in URL_SETTINGS:
            continue
        near = difflib.get_close_matches(name, URL_SETTINGS, 1, 0.8)
        hint = f"did you mean {near[0]}=? Otherwise, set" if near else "set"
        raise UsageError(f"a Kafka URL cannot set {name}: {hint} it in Python, in KafkaAdapter(settings=…)")


def security_protocol(servers: str, settings: Mapping[str, Any], *, login: bool, tls: bool | None) -> str:
    """Return the protocol of the connection, such as `SASL_SSL`. `login` states whether there is a user.

    Outside this machine, credentials travel with TLS unless `tls` is False. Raise `UsageError` for settings that say
    otherwise.
    """
    off_machine = not all(is_loopback(host) for host in hosts_of(servers))
    given = settings.get("security.protocol")
    if given is None:
        encrypted = tls if tls is not None else login and off_machine
        return f"{'SASL_' if login else ''}{'SSL' if encrypted else 'PLAINTEXT'}"
    protocol = str(given).upper()
    if tls is not None and tls is not (protocol in _TLS):
        raise UsageError(f"tls={'on' if tls else 'off'} contradicts security.protocol={protocol}. Omit one of them")
    if (login or protocol in _SASL) and protocol not in _TLS and off_machine and tls is None:
        raise UsageError(
            f"security.protocol={protocol} would send credentials without TLS to {servers}. Use SASL_SSL, or"
            " add tls=off"
        )
    return protocol


def is_encrypted(protocol: str) -> bool:
    """Return whether connections of a protocol use TLS."""
    return protocol in _TLS


def hosts_of(servers: str) -> list[str]:
    """Return the hosts in a list of brokers with commas, without ports."""
    hosts = []
    for server in servers.split(","):
        address = server.strip().rpartition("://")[2]
        hosts.append(address[1:].partition("]")[0] if address.startswith("[") else address.partition(":")[0])
    return hosts
