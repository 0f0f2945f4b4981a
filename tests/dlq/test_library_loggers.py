"""Lines that client libraries of the store log themselves."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from missive.dlq.sql.deadlines import Deadlines
from missive.dlq.sql.dialects import connected


def test_a_connection_that_cannot_be_reset_logs_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The pool of SQLAlchemy would log the exception of the driver, which the store reports in one line."""
    engine = connected(sa.URL.create("sqlite", database=str(tmp_path / "dlq.db")), Deadlines(lambda: 5.0))
    with caplog.at_level(logging.WARNING):
        connection = engine.raw_connection()
        assert isinstance(connection.driver_connection, sqlite3.Connection)
        connection.driver_connection.close()
        connection.close()
    engine.dispose()
    assert not [record for record in caplog.records if record.name.startswith("sqlalchemy")]
