"""The dead letter store in an SQL database, combined from its parts."""

from __future__ import annotations

from missive.dlq.contract import Store
from missive.dlq.sql.applications import Applications
from missive.dlq.sql.checkpoints import Checkpoints
from missive.dlq.sql.once import SQLOnce
from missive.dlq.sql.queries import Queries
from missive.dlq.sql.records import Records
from missive.dlq.sql.replays import Replays
from missive.dlq.sql.waiting import Waiting


class SQLStore(Records, Queries, Replays, Waiting, Applications, Checkpoints, SQLOnce, Store):
    """Dead letters in an SQL database: `sqlite:///path/to/file.db`, `postgresql://…/database`, `mysql://…/database`.

    A new SQLite file gets mode 0600, because it contains bodies in clear text. It has a write-ahead log and a full sync
    at each commit. The URL can set the retention of closed records: `?keep_resolved=30d&keep_discarded=forever`.

    Raises `UsageError` for a faulty URL, `StoreError` when the database cannot be opened, and `StoreRefused` when the
    file is not a database or has a newer schema.
    """
