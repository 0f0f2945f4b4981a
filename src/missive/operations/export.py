"""Exports: records as JSON lines, masked or with their content, and bodies as files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from missive.dlq.contract import Query, Store
from missive.dlq.record import Record
from missive.dlq.rows import to_json
from missive.errors import UsageError
from missive.operations.views import details


def export_records(store: Store, query: Query, *, content: bool) -> Iterator[str]:
    """Yield one line of JSON for each record, newest first: the whole record with `content`, else its `details`."""
    for record in store.query(query):
        yield json.dumps(to_json(record) if content else details(record))


def save_lines(lines: Iterable[str], path: Path) -> int:
    """Write lines to a new file of mode 0600, and return their number. Raise `UsageError` as `private_file` does."""
    count = 0
    with private_file(path) as file:
        for count, line in enumerate(lines, 1):  # noqa: B007 - the count is returned
            file.write(line + "\n")
    return count


def save_body(record: Record, path: Path) -> None:
    """Write the body of a record to a new file of mode 0600. Raise `UsageError` as `private_file` does."""
    with private_file(path, binary=True) as file:
        file.write(record.body)


@contextmanager
def private_file(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a new file of mode 0600 for writing. Delete the file when the block raises.

    Raise `UsageError` when the file exists already, or cannot be created or written.
    """
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise UsageError(f"{path} cannot be created: {error.strerror}") from None
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
