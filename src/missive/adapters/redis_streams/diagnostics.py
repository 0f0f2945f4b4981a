"""What `missive doctor` looks at: what would lose entries, and consumers that died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from missive.adapters.base import Finding
from missive.adapters.redis_streams.errors import translated

if TYPE_CHECKING:
    from missive.adapters.redis_streams.adapter import RedisStreamsAdapter


async def examine(client: Any, adapter: RedisStreamsAdapter) -> Sequence[Finding]:
    """Look at the server, the stream and the group. Raises `Fatal` and `Transient`."""
    with translated(adapter):
        settings = await _settings(client)
        consumers = await client.xinfo_consumers(adapter.stream, adapter.group)
        info = await client.xinfo_stream(adapter.stream)
        groups = await client.xinfo_groups(adapter.stream)
    findings = list(_durability(settings))
    silent = [one for one in consumers if one["pending"] and one["idle"] > _SILENT * 1000 * adapter.claim_idle]
    if silent:
        says = f"{len(silent)} consumers have entries pending and are silent: they are taken over when this runs"
        findings.append(Finding("warning", "consumers", says))
    ours = next(group for group in groups if group["name"] == adapter.group.encode())
    first, last = info.get("first-entry"), _ms(ours["last-delivered-id"])
    read, added = ours.get("entries-read"), info.get("entries-added")
    counted = isinstance(read, int) and isinstance(added, int)
    # Where all that is there is unread, and less than was never read, the rest is gone.
    if first and _ms(first[0]) > last and counted and added - read > info["length"]:
        says = "entries were trimmed that the group had not read; let the stream be longer"
        findings.append(Finding("warning", "trimming", says))
    findings.append(Finding("ok", "stream", f"{adapter.stream} has {info['length']} entries"))
    return findings


_SILENT = 10
"""A consumer that did nothing for so many times `claim_idle` is dead."""


async def _settings(client: Any) -> dict[str, str]:
    try:
        told: dict[bytes | str, bytes | str] = await client.config_get("append*", "maxmemory-policy")
    except ResponseError:  # hosted servers do not tell
        return {}
    return {_text(name): _text(value) for name, value in told.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _durability(settings: dict[str, str]) -> Iterator[Finding]:
    if settings.get("appendonly") == "no":
        yield Finding(
            "warning", "appendonly", "no append-only file: a server that is killed loses entries; set it to yes"
        )
    elif settings.get("appendfsync") not in (None, "always"):
        says = f"appendfsync is {settings['appendfsync']}: a killed machine loses a second of entries, or more"
        yield Finding("ok", "appendonly", says)
    if settings.get("maxmemory-policy", "noeviction") not in ("noeviction", ""):
        policy = settings["maxmemory-policy"]
        yield Finding("warning", "maxmemory-policy", f"{policy} may evict the stream; set it to noeviction")


def _ms(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])
