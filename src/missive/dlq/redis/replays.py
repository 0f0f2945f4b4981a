"""Replays in Redis: the records of each replay, its pace and its results."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from missive.dlq.contract import Replay
from missive.dlq.pacing import pace
from missive.dlq.redis.database import AT_ONCE, portions, translated
from missive.dlq.redis.fields import encoded, number
from missive.dlq.redis.leases import Leases

_COUNTS = ("queued", "resolved", "discarded", "failed", "left")
_TRIES = 20


class Replays(Leases):
    """The part of the store for replays. A replay runs the ids it was started with, and no later failures."""

    @translated("written")
    def start_replay(self, replay: Replay, ids: Collection[str]) -> int:
        """Store a replay and assign its records. The last step stores the replay."""
        fields: dict[str, str | bytes] = {
            "by": encoded(replay.by),
            "query": encoded(replay.query),
            "by_command": str(int(replay.by_command)),
            "canary": _optional(replay.canary),
            "rate": _optional(replay.rate),
            "until_failures": _optional(replay.until_failures),
            "status": replay.status,
        }
        row = [argument for pair in fields.items() for argument in pair]
        steps = list(portions(sorted(set(ids)))) or [()]
        now, total = number(self._clock()), 0
        for place, some in enumerate(steps, 1):
            last = str(int(place == len(steps)))
            total = int(self._run("start_replay", replay.id, now, last, total, len(row), *row, *some))
        return total

    @translated("written")
    def queue_remaining(self, replay: str, limit: int | None = None) -> int:
        """Queue remaining records of a running replay, in steps of up to 500."""
        count = 0
        while limit is None or count < limit:
            size = AT_ONCE if limit is None else min(AT_ONCE, limit - count)
            queued = int(self._run("queue_remaining", replay, size))
            count += queued
            if queued < size:
                break
        return count

    @translated("written")
    def advance(self) -> None:
        """Queue more records of replays that workers run, as far as canaries, rates and failures allow."""
        for one in sorted(self._client.smembers(self._key("paced"))):
            for _ in range(_TRIES):  # another worker may take the same step
                if self._step(one.decode()):
                    break

    def _step(self, replay_id: str) -> bool:
        fields, counts = self._replay(replay_id)
        now = self._clock()
        replay = _parsed(replay_id, fields, counts)
        if fields.get(b"status") != b"running":
            return True
        step = pace(replay, now)
        count = replay.left if step.queue is None else step.queue
        changed = {"paced_until": number(step.paced_until)}
        if step.status != "running":
            changed |= {"status": step.status, "finished_at": number(now)}
        elif not count and step.paced_until == replay.paced_until:
            return True
        arguments = [argument for pair in changed.items() for argument in pair]
        was = (fields[b"rev"].decode(), *(str(counts[name]) for name in _COUNTS))
        return bool(self._run("step", replay_id, *was, number(now), count, *arguments))

    @translated("written")
    def set_replay(self, replay: str, status: str, *, by_command: bool | None = None) -> None:
        """Set the status of a replay."""
        now = number(self._clock())
        if status != "running":  # in portions, because the server runs nothing else during a step
            _, counts = self._replay(replay)
            for _ in range(counts["queued"] // AT_ONCE):
                self._run("unqueue", replay, now, AT_ONCE)
        changed = ["status", status, "finished_at", "" if status == "running" else now]
        self._run(
            "set_replay", replay, now, *changed, *([] if by_command is None else ["by_command", str(int(by_command))])
        )

    @translated("read")
    def replays(self, replay: str | None = None, *, limit: int | None = None, offset: int = 0) -> list[Replay]:
        """Return replays with their results, newest first, or one replay."""
        ids = [replay]
        if replay is None:
            last = -1 if limit is None else offset + limit - 1
            found = self._client.zrevrange(self._key("replays"), offset, last) if limit != 0 else []
            ids = [one.decode() for one in found]
        stored = [(one, *self._replay(one)) for one in ids if one is not None]
        return [_parsed(one, fields, counts) for one, fields, counts in stored if fields]

    def _replay(self, replay_id: str) -> tuple[dict[bytes, bytes], dict[str, int]]:
        pipeline = self._client.pipeline(transaction=True)  # so that the counts belong to the same moment
        pipeline.hgetall(self._key(f"replay:{replay_id}"))
        pipeline.hmget(self._key(f"counts:{replay_id}"), _COUNTS)
        fields, counts = pipeline.execute()
        return fields, {name: int(count or 0) for name, count in zip(_COUNTS, counts, strict=True)}


def _optional(value: object) -> bytes:
    return b"" if value is None else encoded(str(value))


def _parsed(replay_id: str, fields: Mapping[bytes, bytes], counts: dict[str, int]) -> Replay:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    numbers: dict[str, Any] = {name: int(text[name]) if name in text else None for name in ("canary", "until_failures")}
    replay = Replay(
        replay_id,
        text.get("by", ""),
        text.get("query", ""),
        by_command=text.get("by_command") == "1",
        rate=text.get("rate"),
        status=text.get("status", ""),
        created_at=float(text.get("created_at", 0)),
        paced_until=float(text.get("paced_until", 0)),
        finished_at=float(text["finished_at"]) if "finished_at" in text else None,
        total=int(text.get("total", 0)),
        **numbers,
    )
    return replay.with_counts(**counts)
