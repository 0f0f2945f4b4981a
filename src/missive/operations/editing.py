"""Another message in place of a dead letter's: the original stays as it is, and is discarded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from missive.dlq.contract import Store
from missive.dlq.record import HEADER_FIELDS, Record, Status
from missive.errors import StoreConflict, UsageError
from missive.ids import new_id

Headers: TypeAlias = tuple[tuple[str, str | bytes], ...]


def edit(
    store: Store,
    record_id: str,
    by: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str | Sequence[str] | None] | None = None,
    version: int | None = None,
) -> Record:
    """Keep a new dead letter with another body, or other values of headers (several, or None for none); returns it.

    It is not another arrival of the message: when that comes again it joins the original's history. Raises
    `UsageError` for an id that is none's or a change that is none, `StoreConflict` where the record is not dead, or not
    of the `version` that was looked at.
    """
    record = store.get(record_id)
    if record is None:
        raise UsageError(f"there is no dead letter {record_id}: see missive dlq list")
    if record.status is not Status.dead:
        raise StoreConflict(f"dead letter {record_id} is {record.status}: only a dead one is edited")
    if version is not None and version != record.version:
        raise StoreConflict(
            f"dead letter {record_id} is at version {record.version}, and not {version}: somebody has changed it since;"
            " look at it again"
        )
    new_body = record.body if body is None else body
    values = {name: _several(said) for name, said in (headers or {}).items()}
    new_headers = _with(record.headers, values)
    if (new_body, new_headers) == (record.body, record.headers):
        raise UsageError(f"that is what dead letter {record_id} has already")
    fields: dict[str, Any] = {
        field: said[0] if said else None for name, said in values.items() if (field := HEADER_FIELDS.get(name.lower()))
    }
    changed = replace(
        record,
        id=new_id(),
        identity=None,
        body=new_body,
        headers=new_headers,
        sha256=hashlib.sha256(new_body).hexdigest(),
        public={},  # of the message as it was
        **fields,
        attempts=1,
        replay=None,
        edited_from=record.id,
        version=1,
    )
    store.edit(record.id, record.version, changed, by)
    return changed


def difference(old: Record, new: Record) -> dict[str, Any]:
    """Return what an edit changed, without a word of either message."""
    before, after = _by_name(old.headers), _by_name(new.headers)
    return {
        "body": None if old.body == new.body else {"size": [old.size, new.size], "sha256": [old.sha256, new.sha256]},
        "headers": sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)),
    }


def _by_name(headers: Headers) -> dict[str, list[str | bytes]]:
    found: dict[str, list[str | bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found


def _several(said: str | Sequence[str] | None) -> Sequence[str]:
    return () if said is None else (said,) if isinstance(said, str) else said


def _with(headers: Headers, changes: Mapping[str, Sequence[str]]) -> Headers:
    lower = {name.lower() for name in changes}
    kept = tuple((name, value) for name, value in headers if name.lower() not in lower)
    return kept + tuple((name, value) for name, values in changes.items() for value in values)
