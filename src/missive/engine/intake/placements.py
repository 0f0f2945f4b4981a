"""Placements: the lanes in which the values of `partitioned_by=` were seen, to find a value that is in two lanes."""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from missive.engine.stages import Stage

if TYPE_CHECKING:
    from missive.engine.intake.source import Source
    from missive.engine.job import Job, JobsByLane
    from missive.transport import Session

_LATEST = 10_000
"""Number of values whose lane is known at least. Memory holds up to twice as many."""

logger = logging.getLogger("missive")


class Placement(NamedTuple):
    """A value that was seen in a lane."""

    url: str
    """The source."""
    digest: str
    """Keyed digest of the value and its topic."""
    lane: str


class Placements:
    """The lanes of the latest values. Each process has one object, and so has the supervisor of worker processes.

    A worker sends its placements to the supervisor, which compares the placements of all workers. Every other
    process compares its own.
    """

    def __init__(self, digest_key: bytes | None = None) -> None:
        self.digest_key = digest_key or secrets.token_bytes(32)
        self._fresh: dict[tuple[str, str], str] = {}
        self._older: dict[tuple[str, str], str] = {}
        self._reported: set[str] = set()
        self._unsent: deque[Placement] | None = None

    def share(self, digest_key: bytes) -> None:
        """Keep changes for the supervisor, under its key, and report nothing here."""
        self.digest_key = digest_key
        self._unsent = deque(maxlen=_LATEST)

    def unsent(self) -> list[Placement]:
        """Return the changes since the last call, for the supervisor. Safe on any thread."""
        found: list[Placement] = []
        while self._unsent:
            found.append(self._unsent.popleft())
        return found

    def note(self, one: Placement) -> None:
        """Note the lane of a value. Log once for each source where a value is in two lanes."""
        value = (one.url, one.digest)
        known = self._fresh.get(value)
        if known == one.lane:
            return
        if known is None:
            known = self._older.get(value)
        if len(self._fresh) >= _LATEST:
            self._older, self._fresh = self._fresh, {}
        self._fresh[value] = one.lane
        if known == one.lane:
            return
        if self._unsent is not None:
            self._unsent.append(one)
        elif known is not None and one.url not in self._reported:
            self._reported.add(one.url)
            logger.error(
                "%s: messages with one value of partitioned_by= are in the lanes %s and %s, so ordered_by does not hold"
                " across processes. Let every producer partition by this value, or run one process",
                one.url,
                known,
                one.lane,
            )


class PlacementCheck(Stage):
    """Notes the lane of each message of a source with `partitioned_by=`."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements

    def taken(self, source: Source, session: Session, jobs: Sequence[Job], lanes: JobsByLane) -> None:  # noqa: ARG002 - the lanes contain the jobs
        """Note the lanes of new messages."""
        key, url, note = source.adapter.partitioned_by, source.adapter.url, self._placements.note
        if key is None:
            return
        for lane, of_lane in lanes.items():
            for job in of_lane:
                try:
                    value = _encoded(key(job.message))
                except BaseException:  # noqa: BLE001, S112 - the failure concerns the handler, whose lane has the same key
                    continue
                if lane is not None and value is not None:
                    note(Placement(url, self._digest(job.delivery.topic, value), lane))

    def _digest(self, topic: str | None, value: bytes) -> str:
        text = (topic or "").encode() + b"\0" + value
        return blake2b(text, digest_size=16, key=self._placements.digest_key).hexdigest()


def _encoded(value: Any) -> bytes | None:
    """Return equal bytes for equal values, in every process. Return None for no value and for values of other types."""
    if value is None:
        return None
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, (int, float)):  # equal numbers of different types share a lane
        return b"n%d" % value if value == value // 1 else b"n" + repr(float(value)).encode()
    if isinstance(value, (date, Decimal, UUID)):
        return f"{type(value).__name__} {value}".encode()
    if isinstance(value, tuple):
        parts = [_encoded(part) for part in value]
        return b"t" + b"".join(b"-" if part is None else b"%d:%s" % (len(part), part) for part in parts)
    return None
