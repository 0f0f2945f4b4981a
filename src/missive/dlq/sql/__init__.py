"""The dead letter store in an SQL database, through SQLAlchemy Core: SQLite, PostgreSQL, MySQL and MariaDB.

`database` opens the database, with the tables of `schema`, their `migrations` and the differences of `dialects`.
`records`, `queries`, `changes`, `leases` and `replays` implement the store's contract for records, `checkpoints` and
`once` the rest of it. `conditions` translates queries, and `group_counts` counts groups. `store` combines the parts.
"""

from missive.dlq.sql.schema import SCHEMA_VERSION
from missive.dlq.sql.store import SQLStore

__all__ = ["SCHEMA_VERSION", "SQLStore"]
