"""Edits: a new dead letter with a changed message. The original record stays unchanged, as discarded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from missive.dlq.contract import Store
from missive.dlq.record import HEADER_FIELDS, Record, Status
from missive.errors import StoreConflict, UsageError
from missive.ids import new_id
from missive.operations.selection import find_record

Headers: TypeAlias = tuple[tuple[str, str | bytes], ...]


def edit_record(
    store: Store,
    record_id: str,
    by: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str | Sequence[str] | None] | None = None,
    version: int | None = None,
) -> Record:
    """Store a new dead letter made from another, with a new body or new header values, and return it.

    `headers` maps a name to its new value, to several values, or to None, which removes the header. The new record is
    no arrival of the message: when the transport redelivers the message, the redelivery joins the original's history.

    Raise `UsageError` for an unknown id or an edit that changes nothing. Raise `StoreConflict` when the record is not
    dead, or is no longer at `version`.
    """
    record = find_record(store, record_id)
    if record.status is not Status.dead:
        raise StoreConflict(f"dead letter {record_id} is {record.status}: only dead ones can be edited")
    if version is not None and version != record.version:
        raise StoreConflict(
            f"dead letter {record_id} is at version {record.version}, not {version}: it has changed since you saved it;"
            " save and edit it again"
        )
    new_body = record.body if body is None else body
    values = {name: _as_sequence(value) for name, value in (headers or {}).items()}
    new_headers = _replaced(record.headers, values)
    if (new_body, new_headers) == (record.body, record.headers):
        raise UsageError(f"dead letter {record_id} has this body and these headers already: change at least one")
    fields: dict[str, Any] = {
        field: new[0] if new else None for name, new in values.items() if (field := HEADER_FIELDS.get(name.lower()))
    }
    changed = replace(
        record,
        id=new_id(),
        identity=None,
        body=new_body,
        headers=new_headers,
        sha256=hashlib.sha256(new_body).hexdigest(),
        public={},  # the public values of the original message may no longer apply
        **fields,
        attempts=1,
        replay=None,
        edited_from=record.id,
        version=1,
    )
    store.edit(record.id, record.version, changed, by)
    return changed


def describe_edit(old: Record, new: Record) -> dict[str, Any]:
    """Describe the changes of an edit without content: sizes and digests of the bodies, and names of headers."""
    before, after = _values_by_name(old.headers), _values_by_name(new.headers)
    return {
        "body": None if old.body == new.body else {"size": [old.size, new.size], "sha256": [old.sha256, new.sha256]},
        "headers": sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)),
    }


def _values_by_name(headers: Headers) -> dict[str, list[str | bytes]]:
    found: dict[str, list[str | bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found


def _as_sequence(value: str | Sequence[str] | None) -> Sequence[str]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _replaced(headers: Headers, changes: Mapping[str, Sequence[str]]) -> Headers:
    """Return headers with the values of some names replaced. Names match in any case."""
    changed = {name.lower() for name in changes}
    unchanged = tuple((name, value) for name, value in headers if name.lower() not in changed)
    return unchanged + tuple((name, value) for name, values in changes.items() for value in values)
