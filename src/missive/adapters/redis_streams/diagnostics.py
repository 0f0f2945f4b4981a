"""The checks of `missive doctor` for Redis Streams: settings that lose entries, trimming, and dead consumers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from missive.adapters.base import Finding
from missive.adapters.redis_streams.errors import translated
from missive.adapters.redis_streams.settings import Settings

_SILENT = 10
"""Idle time after which a consumer counts as dead, in multiples of `claim_idle`."""


async def diagnose(client: Any, settings: Settings) -> Sequence[Finding]:
    """Check the server, the stream and the group. Raise `Fatal` or `Transient` if the connection fails."""
    with translated(settings):
        configuration = await _configuration(client)
        consumers = await client.xinfo_consumers(settings.stream, settings.group)
        info = await client.xinfo_stream(settings.stream)
        groups = await client.xinfo_groups(settings.stream)
    findings = list(_durability(configuration))
    silent = [one for one in consumers if one["pending"] and one["idle"] > _SILENT * 1000 * settings.claim_idle]
    if silent:
        message = f"{len(silent)} silent consumers have pending entries, which a running worker takes over"
        findings.append(Finding("warning", "consumers", message))
    group = next(group for group in groups if group["name"] == settings.group.encode())
    first, last = info.get("first-entry"), _milliseconds(group["last-delivered-id"])
    read, added = group.get("entries-read"), info.get("entries-added")
    counted = isinstance(read, int) and isinstance(added, int)
    # If every remaining entry is unread, and fewer remain than were never read, the others were trimmed unread.
    if first and _milliseconds(first[0]) > last and counted and added - read > info["length"]:
        message = "the stream was trimmed of entries that the group had not read; let producers keep a longer stream"
        findings.append(Finding("warning", "trimming", message))
    findings.append(Finding("ok", "stream", f"{settings.stream} has {info['length']} entries"))
    return findings


async def _configuration(client: Any) -> dict[str, str]:
    try:
        reply: dict[bytes | str, bytes | str] = await client.config_get("append*", "maxmemory-policy")
    except ResponseError:  # hosted servers refuse the command
        return {}
    return {_text(name): _text(value) for name, value in reply.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _durability(configuration: dict[str, str]) -> Iterator[Finding]:
    if configuration.get("appendonly") == "no":
        message = "without an append-only file, a killed server loses entries; set appendonly to yes"
        yield Finding("warning", "appendonly", message)
    elif configuration.get("appendfsync") not in (None, "always"):
        message = f"appendfsync is {configuration['appendfsync']}: a power failure loses entries of a second or more"
        yield Finding("ok", "appendonly", message)
    if configuration.get("maxmemory-policy", "noeviction") not in ("noeviction", ""):
        policy = configuration["maxmemory-policy"]
        message = f"maxmemory-policy {policy} may evict the stream; set it to noeviction"
        yield Finding("warning", "maxmemory-policy", message)


def _milliseconds(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])
