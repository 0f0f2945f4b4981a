"""The SQLite queue: a durable queue in a file, with leases and several consumer processes, and without a server.

`adapter` checks the options, `schema` has the table and its statements, `rows` turns a row into a delivery, and
`session` leases and settles.
"""

from missive.adapters.sqlite.adapter import SQLiteAdapter
from missive.adapters.sqlite.schema import SCHEMA

__all__ = ["SCHEMA", "SQLiteAdapter"]
