"""Exports and imports: files of records, from one store to another."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

from missive.dlq import Query, Status
from missive.dlq.rows import from_json, to_json
from missive.dlq.sql import SQLStore
from missive.errors import UsageError
from missive.operations.export import export_records, private_file, save_lines
from missive.operations.imports import import_records
from tests.support.stores import closed, on_each, record, statuses


@on_each
def test_an_import_does_not_change_known_records(store: SQLStore):
    """A record with a known id stays unchanged; only new records count."""
    store.put([record(id="a", label="mine")])
    assert store.import_([record(id="a", label="other"), record(id="b")]) == 1
    assert store.get("a").label == "mine"
    assert store.import_([record(id="b")]) == 0


def test_a_record_survives_a_round_trip_through_json():
    """Bytes, text and times are equal afterwards; a parked record becomes dead."""
    one = closed("a", key=b"\xff", public={"type": "x"}, error_chain=({"type": "E", "frames": []},), detail="d")
    assert from_json(json.loads(json.dumps(to_json(one)))) == one
    waiting = record(status=Status.parked, due=3.0, lane="l")
    back = from_json(json.loads(json.dumps(to_json(waiting))))
    assert (back.status, back.due, back.lane) == (Status.dead, None, None)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_incomplete_export_is_deleted(tmp_path: Path, error: BaseException):
    """A partial file would hold confidential content; a full disk is a usage error of one line."""

    def write() -> None:
        with private_file(tmp_path / "out") as file:
            file.write("half")
            raise error

    with pytest.raises((UsageError, KeyboardInterrupt), match=r"out cannot be written: No space|^$"):
        write()
    assert not (tmp_path / "out").exists()


def test_a_pipe_is_not_imported(store: SQLStore, tmp_path: Path):
    """An import reads its file twice, and a pipe would be empty the second time."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is not a regular file: an import reads its file twice"):
        import_records(store, tmp_path / "pipe")


def exported(path: Path, *changes: dict[str, object]) -> Path:
    """Write an export of one record for each set of changes."""
    lines = [{**to_json(record(body=b"hunter2")), **change} for change in changes]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0"},
        {"body": 3},
        {"status": "odd"},
        {"attempts": "x"},
        {"id": None},
        {"history": [{}]},
        {"history": [{"at": "x", "reason": "failed", "attempt": 1}]},
        {"error_chain": [{"type": "E"}]},
        {"error_chain": [{"type": "E", "frames": [{}]}]},
        {"explanation": {}},
        {"first_at": float("inf")},
        {"last_at": float("nan")},
        {"attempts": 10**30},
        {"id": "x" * 41},
        {"headers": 3},
    ],
)
def test_a_bad_line_imports_nothing(store: SQLStore, tmp_path: Path, change: dict[str, object]):
    """An invalid line is named, without its content, before any record is stored."""
    path = exported(tmp_path / "x.jsonl", {}, change)
    with pytest.raises(UsageError, match="line 2: this is no exported dead letter") as caught:
        import_records(store, path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None
    assert statuses(store) == {}


def test_an_export_of_a_newer_missive_is_not_imported(store: SQLStore, tmp_path: Path):
    """The error asks for an upgrade, and no record is stored."""
    with pytest.raises(UsageError, match="line 2: a newer Missive has exported it: upgrade Missive"):
        import_records(store, exported(tmp_path / "x.jsonl", {}, {"format": 2}))
    assert statuses(store) == {}


def test_a_masked_export_is_not_imported(store: SQLStore, tmp_path: Path):
    """The error names the option that exports the content."""
    store.put([record(id="a", body=b"hunter2")])
    (line,) = export_records(store, Query(), content=False)
    assert "hunter2" not in line
    assert "aHVudGVyMg" not in line
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(UsageError, match="line 1: the record has no content: export it with --with-content"):
        import_records(store, tmp_path / "x.jsonl")


def test_records_move_from_one_store_to_another(store: SQLStore, tmp_path: Path):
    """An exported and imported record is equal to the original, and an existing file is never overwritten."""
    store.put([record(id=f"{n:04}", body=bytes([n % 256])) for n in range(1200)])
    path = tmp_path / "x.jsonl"
    assert save_lines(export_records(store, Query(), content=True), path) == 1200
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="File exists"), private_file(path):
        pass
    with contextlib.closing(SQLStore(f"sqlite:///{tmp_path}/other.db")) as other:
        assert import_records(other, path) == (1200, 0)
        assert import_records(other, path) == (0, 1200)
        assert list(other.query(Query())) == list(store.query(Query()))
