"""Imports: records from a file that `export_records` wrote with their content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from missive.dlq.contract import Store
from missive.dlq.record import Record
from missive.dlq.rows import from_json
from missive.errors import UsageError

_BATCH = 500
"""Number of records that one transaction stores."""
_MASKED = "the record has no content: export it with --with-content"


def import_records(store: Store, path: Path) -> tuple[int, int]:
    """Store the records of an exported file. Return how many are new, and how many the store had already.

    Parked and queued records become dead, because the workers and replays that they waited for belong to another store.

    Raise `UsageError` for a line that is no record, before any record is stored, and for a pipe, because the file is
    read twice.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file: an import reads its file twice, so save it to a file first")
    for _ in _records(path):
        pass
    new = seen = 0
    batch: list[Record] = []
    for record in _records(path):
        batch.append(record)
        if len(batch) == _BATCH:
            seen, new, batch = seen + len(batch), new + store.import_(batch), []
    seen, new = seen + len(batch), new + store.import_(batch)
    return new, seen - new


def _records(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _record(f"{path}, line {number}", line)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _record(where: str, line: bytes) -> Record:
    try:
        value: Any = json.loads(line)
        if isinstance(value, dict) and "body" not in value and "id" in value:
            complaint = _MASKED
        else:
            return from_json(value)
    except UsageError as newer:
        complaint = str(newer)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        complaint = "this is no exported dead letter"
    # Raised outside the except block: the JSON decoder's exception holds the line.
    raise UsageError(f"{where}: {complaint}")
