"""Dead letters: their record, the stores that keep them, and the way back into the engine."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from missive.dlq.contract import Claim, DictSink, Group, Note, Query, Replay, Sink, Store
from missive.dlq.record import Attempt, Origin, Record, Status
from missive.errors import UsageError
from missive.privacy import expand_environment, redact_url

if TYPE_CHECKING:
    from missive.processor import DLQ

__all__ = [
    "Attempt",
    "Claim",
    "DictSink",
    "Group",
    "Note",
    "Origin",
    "Query",
    "Record",
    "Replay",
    "Sink",
    "Status",
    "Store",
    "open_dlq",
    "open_store",
]

_SQL = frozenset({"sqlite", "postgresql", "mysql", "mariadb"})


def open_dlq(dlq: DLQ) -> Sink | None:
    """Return the place for dead letters that a processor or a command named.

    Raises `UsageError` for a URL that names none, and `StoreError` when it cannot be opened.
    """
    if dlq is None or isinstance(dlq, Sink):
        return dlq
    if isinstance(dlq, MutableMapping):
        return DictSink(dlq)
    return open_store(dlq)


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the dead letter store of a URL, such as `sqlite:///dlq.db`; without `create`, only one that is there.

    Raises `UsageError` for an unknown URL, and `StoreError` when it cannot be opened.
    """
    expanded = expand_environment(url)
    if expanded.partition(":")[0].partition("+")[0] in _SQL:
        from missive.dlq.sql import SQLStore  # noqa: PLC0415 - SQLAlchemy takes a while to import

        return SQLStore(expanded, create=create)
    raise UsageError(f"no dead letter store is known by the URL {redact_url(url)}: write sqlite:///path/to/file.db")
