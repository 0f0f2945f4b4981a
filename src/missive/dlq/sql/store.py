"""The dead letter store in an SQL database, through SQLAlchemy Core: SQLite, the embedded default, and servers."""

from __future__ import annotations

from missive.dlq.contract import Store
from missive.dlq.sql.checkpoints import Checkpoints
from missive.dlq.sql.once import SQLOnce
from missive.dlq.sql.records import Records
from missive.dlq.sql.replays import Replays


class SQLStore(Records, Replays, Checkpoints, SQLOnce, Store):
    """Dead letters in an SQL database: `sqlite:///path/to/file.db`, `postgresql://…/database`, `mysql://…/database`.

    A new SQLite file gets mode 0600, for bodies are in it in clear; it uses a write-ahead log and a full sync at
    each commit. The URL may say how long what is closed is kept: `?keep_resolved=30d&keep_discarded=forever`. Raises
    `UsageError` for a URL that says something else, `StoreError` when the database cannot be opened, `StoreRefused`
    when it is of a newer schema or no database.
    """
