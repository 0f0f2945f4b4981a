"""Records as JSON lines: out, with or without their content, and in again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from missive.dlq.contract import Query, Store
from missive.dlq.record import Record
from missive.dlq.rows import from_json, to_json
from missive.errors import UsageError
from missive.operations.showing import details

_AT_ONCE = 500
_WITHOUT = "it has no content: export it with --with-content"


def export(store: Store, query: Query, *, content: bool) -> Iterator[str]:
    """Yield a line of JSON for each record, newest first: masked as `show` is, or whole."""
    for record in store.query(query):
        yield json.dumps(to_json(record) if content else details(record))


@contextmanager
def private_file(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a new file of mode 0600, which is deleted again where not all of it is written.

    Raises `UsageError` where one is there already, or it cannot be made or written.
    """
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise UsageError(f"{path} cannot be made: {error.strerror}") from None
    try:
        with os.fdopen(number, "wb") if binary else os.fdopen(number, "w", encoding="ascii") as file:
            yield file
    except BaseException as error:
        path.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        complaint = f"{path} cannot be written: {error.strerror}"
    else:
        return
    raise UsageError(complaint)


def import_file(store: Store, path: Path) -> tuple[int, int]:
    """Keep the records of a file that was exported whole; returns how many were new, and how many are there already.

    Records that waited to be taken up are dead: their workers and replays are those of another store. Raises
    `UsageError` for a line that is no record, before anything is imported; and for a pipe, which cannot be read twice.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no file: what is imported is read twice")
    for _ in _records(path):
        pass
    new = seen = 0
    batch: list[Record] = []
    for record in _records(path):
        batch.append(record)
        if len(batch) == _AT_ONCE:
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
            complaint = _WITHOUT
        else:
            return from_json(value)
    except UsageError as newer:
        complaint = str(newer)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        complaint = "it is no dead letter"
    # Outside the except block: what json raises holds the line.
    raise UsageError(f"{where}: {complaint}")
