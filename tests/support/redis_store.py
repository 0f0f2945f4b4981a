"""Check the consistency of a Redis store: compute all indexes from the records, and compare."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from missive.dlq.redis import RedisStore

WAITING, CLOSED = ("queued", "parked"), ("resolved", "discarded")


def indexes(store: RedisStore) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the stored indexes and counts, and those computed from the records."""
    client, prefix = store._client, store._prefix
    names = sorted(key.decode().removeprefix(prefix + ":") for key in client.scan_iter(f"{prefix}:*", 1000))
    records: dict[str, dict[bytes, bytes]] = {}
    stored: dict[str, Any] = {}
    for name in names:
        key, kind = f"{prefix}:{name}", name.partition(":")[0]
        if kind == "r":
            records[name[2:]] = client.hgetall(key)
        elif kind in ("status", "bucket", "oldest", "closed", "of", "left", "ready", "lane"):
            stored[name] = {one.decode(): at for one, at in client.zrange(key, 0, -1, withscores=True)}
        elif kind in ("lanes", "counts"):
            stored[name] = {one.decode(): int(n) for one, n in client.hgetall(key).items() if n != b"0"}
    return {name: value for name, value in stored.items() if value}, _computed(store, records)


def _computed(store: RedisStore, records: dict[str, dict[bytes, bytes]]) -> dict[str, Any]:
    sets: defaultdict[str, dict[str, float]] = defaultdict(dict)
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    waiting: list[tuple[str, dict[str, str]]] = []
    for one, fields in sorted(records.items()):
        r = {name.decode(): value.decode() for name, value in fields.items() if name not in (b"body", b"doc")}
        status, bucket, last = r["status"], r["bucket"], float(r["last"])
        sets[f"status:{status}"][one] = sets[f"bucket:{bucket}:{status}"][one] = last
        sets[f"oldest:{bucket}:{status}"][one] = float(r["first"])
        if status in CLOSED and "closed" in r:
            sets[f"closed:{status}"][one] = float(r["closed"])
        for name, part in _parts(store, one, r):
            if part is None:
                sets[name][one] = 0.0 if name.startswith("left:") else last
            else:
                counts[name][part] += 1
        if status in WAITING:
            waiting.append((one, r))
            if lane := r.get("lane"):
                sets[f"lane:{r['service']}:{lane}"][one] = 0.0
                counts[f"lanes:{r['service']}"][lane] += 1
    for one, r in waiting:
        if "lane" not in r or min(sets[f"lane:{r['service']}:{r['lane']}"]) == one:
            ready = max(float(r.get("due", 0)), float(r.get("leased", 0)))
            for name in _ready(store, r):
                sets[name][one] = ready
    return {**sets, **{name: dict(one) for name, one in counts.items()}}


def _parts(store: RedisStore, one: str, r: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yield the sets of a replay that contain a record (with None), and its field in the replay's counts."""
    if (replay := r.get("replay")) is None:
        return
    yield f"of:{replay}:{r['status']}", None
    chosen = store._client.hget(f"{store._prefix}:replayed:{replay}", one)
    if chosen is not None:
        dead = "failed" if int(r["attempts"]) > int(chosen) else "left"
        part = {"parked": "failed", "dead": dead}.get(r["status"], r["status"])
        yield f"counts:{replay}", part
        if part == "left":
            yield f"left:{replay}", None


def _ready(store: RedisStore, r: dict[str, str]) -> list[str]:
    """Return the sets from which workers and commands lease a record."""
    workers = [f"ready:{r['service']}"]
    if "replay" not in r or r["status"] != "queued":
        return workers
    of = store._client.hmget(f"{store._prefix}:replay:{r['replay']}", "by_command", "status")
    return [f"ready:{r['service']}:{r['replay']}", *([] if of == [b"1", b"running"] else workers)]


def check(store: RedisStore) -> None:
    """Assert that the indexes and counts of a store match its records."""
    stored, computed = indexes(store)
    wrong = {name: (stored.get(name), computed.get(name)) for name in {*stored, *computed}}
    wrong = {name: both for name, both in wrong.items() if both[0] != both[1]}
    assert not wrong, wrong
    found = store._client.hgetall(store._key("arrivals"))
    assert all(store._client.hget(store._key(f"r:{one.decode()}"), "arrival") == of for of, one in found.items())
