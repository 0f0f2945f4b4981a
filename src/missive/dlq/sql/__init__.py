"""The dead letter store in an SQL database."""

from missive.dlq.sql.schema import SCHEMA_VERSION
from missive.dlq.sql.store import SQLStore

__all__ = ["SCHEMA_VERSION", "SQLStore"]
