"""A pytest plugin, for `-p missive.testing.conformance.plugin`: `--conformance-table FILE` writes the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from missive.testing.conformance.table import write


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--conformance-table", metavar="FILE", help="write the outcomes of the cases to FILE, as Markdown")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table."""
    path = session.config.getoption("--conformance-table")
    if path:
        write(Path(str(path)))
