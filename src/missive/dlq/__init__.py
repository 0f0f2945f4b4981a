"""Dead letters: records of messages that could not be handled, and the stores that hold them.

The engine puts records in; workers lease them and operators review, change and replay them. `record` and `failure`
describe one dead letter, `contract` the stores, `rows` the stored form. `sql` and `redis` implement the contract, and
`facility` leaves dead letters to the broker. `query` parses an operator's selection, `pacing` advances a replay,
`retention` deletes closed records, and `once` is the part of a store that claims effects.
`translation` turns exceptions of client libraries into Missive's errors.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib.metadata import entry_points
from importlib.util import find_spec

from missive.dlq.contract import DLQ, DictSink, Group, Note, Query, RecordLease, Replay, Sink, Store
from missive.dlq.facility import URL as BROKER
from missive.dlq.facility import Facility, refusal
from missive.dlq.record import Attempt, Origin, Record, Status
from missive.errors import MissingExtra, StoreRefused, UsageError
from missive.privacy import redact_url
from missive.urls import expand_environment

__all__ = [
    "DLQ",
    "Attempt",
    "DictSink",
    "Facility",
    "Group",
    "Note",
    "Origin",
    "Query",
    "Record",
    "RecordLease",
    "Replay",
    "Sink",
    "Status",
    "Store",
    "open_dlq",
    "open_store",
]

_SQL = frozenset({"sqlite", "postgresql", "mysql", "mariadb"})
_REDIS = frozenset({"redis", "rediss"})


def open_dlq(dlq: DLQ) -> Sink | None:
    """Return the sink for the dead letters of a processor or a command.

    The URL `broker:` leaves dead letters to the broker. Raises `UsageError` for an unknown URL, and `StoreError` when
    the store cannot be opened.
    """
    if dlq is None or isinstance(dlq, Sink):
        return dlq
    if isinstance(dlq, MutableMapping):
        return DictSink(dlq)
    if dlq == BROKER:
        return Facility()
    return open_store(dlq)


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the dead letter store of a URL, such as `sqlite:///dlq.db`. Without `create`, the store must exist.

    A scheme that Missive does not know is looked up in the entry points of the group `missive.dlqs`. The entry point
    is called with the URL and `create=`, and returns the store. Raises `UsageError` for an unknown URL, and
    `StoreError` when the store cannot be opened.
    """
    if url == BROKER:
        raise StoreRefused(refusal("list or replay them"))
    given, url = url, expand_environment(url) if url.startswith("${") else url
    scheme = url.partition(":")[0].partition("+")[0].lower() if ":" in url else ""
    if scheme in _SQL:
        from missive.dlq.sql import SQLStore  # noqa: PLC0415 - SQLAlchemy takes a while to import

        return SQLStore(url, create=create)
    if scheme in _REDIS:
        if find_spec("redis") is None:
            raise MissingExtra("a dead letter store in Redis", "redis")
        from missive.dlq.redis import RedisStore  # noqa: PLC0415 - the client is an extra

        return RedisStore(url, create=create)  # the stores expand the variables in each part of the URL
    points = entry_points(group="missive.dlqs")
    for point in points:
        if point.name == scheme:
            opened: Store = point.load()(expand_environment(url), create=create)
            return opened
    known = ", ".join(sorted({*_SQL, *_REDIS, *points.names}))
    raise UsageError(
        f"{redact_url(given)} is not the URL of a dead letter store: write a URL such as sqlite:///path/to/file.db"
        f" (known schemes: {known})"
    )
