"""The table of the queue, and the statements that find, lease and settle its rows."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from missive.transport import Disposition

SCHEMA = """\
CREATE TABLE IF NOT EXISTS missive_queue (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    queue        TEXT NOT NULL,
    body         BLOB NOT NULL,
    headers      TEXT,     -- a JSON array of [name, value] pairs
    key          TEXT,
    topic        TEXT,
    message_id   TEXT,     -- assigned by the producer
    content_type TEXT,
    sent_at      REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    visible_at   REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    deliveries   INTEGER NOT NULL DEFAULT 0,
    lease        TEXT      -- the holder, until visible_at
);
CREATE INDEX IF NOT EXISTS missive_queue_next ON missive_queue (queue, visible_at, id);
"""
"""The table of the queue. A producer enqueues with `INSERT INTO missive_queue (queue, body) VALUES (?, ?)`."""

FIND = """\
SELECT id, CASE WHEN length(body) > ?1 THEN length(body) ELSE CAST(body AS BLOB) END, headers, key, topic, message_id,
content_type, sent_at, deliveries + 1 FROM missive_queue
WHERE queue = ?2 AND visible_at <= ?3 ORDER BY visible_at, id LIMIT ?4
"""
# A lease and a delay end with their length after a slash: `HOLDER/30`. A row without a lease is ready unless its
# producer delayed it; the length is then the time from `sent_at` to `visible_at`. A time that lies further ahead
# than its length proves that a clock was set back, or that the clock of the producer is ahead: the length then counts
# from now.
_LENGTH = """CASE WHEN lease IS NULL THEN max(visible_at - sent_at, 0.0)
WHEN instr(lease, '/') THEN CAST(substr(lease, instr(lease, '/') + 1) AS REAL) END"""
_AHEAD = f"queue = :queue AND visible_at > :now + 1 AND visible_at - :now > {_LENGTH} + 1"
FIND_AHEAD = f"SELECT 1 FROM missive_queue WHERE {_AHEAD} LIMIT 1"  # noqa: S608 - constants
BRING_BACK = (
    f"UPDATE missive_queue SET visible_at = :now + {_LENGTH}, lease = CASE WHEN lease IS NULL AND visible_at > sent_at"  # noqa: S608 - constants
    f" THEN 'delay/' || (visible_at - sent_at) ELSE lease END WHERE {_AHEAD}"
)
LEASE = "UPDATE missive_queue SET visible_at = :until, lease = :lease, deliveries = deliveries + 1 WHERE "
SETTLE = {
    Disposition.ack: "DELETE FROM missive_queue WHERE ",
    # The column counts attempts, and one delivery may spend several attempts.
    Disposition.delay: (
        "UPDATE missive_queue SET lease = 'delay/' || :delay, deliveries = :attempt, visible_at = :now + :delay WHERE "
    ),
    # The message returns to its old place, but not to the future: the clock of the producer may be wrong.
    Disposition.release: (
        "UPDATE missive_queue SET lease = NULL, deliveries = deliveries - 1, visible_at = min(sent_at, :now) WHERE "
    ),
}


Group: TypeAlias = tuple[Disposition, str, float, int]
"""Disposition, token, delay and attempt: one statement settles the messages that share them."""


def rows_in(ids: list[int]) -> tuple[str, dict[str, Any]]:
    """Return a condition for rows and its parameters. Consecutive ids become a range, which SQLite walks faster."""
    first, last = min(ids), max(ids)
    if last - first + 1 == len(ids) == len(set(ids)):
        return "id BETWEEN :first AND :last", {"first": first, "last": last}
    return "id IN (SELECT value FROM json_each(:ids))", {"ids": json.dumps(ids)}
