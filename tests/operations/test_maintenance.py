"""What an operator does to records: restore, note, purge, take from one store to another; on each database."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest

import missive
from missive import operations
from missive.dlq import Query, Status, Store
from missive.dlq.rows import from_json, to_json
from missive.dlq.sql import SQLStore
from missive.errors import UsageError
from missive.matchers import Field
from tests.dlq.conftest import Clock, queued
from tests.dlq.test_store import on_each, record


def statuses(store: Store) -> dict[str, str]:
    return {one.id: str(one.status) for one in store.query(Query())}


def closed(record_id: str, status: Status = Status.resolved, **changes: object):
    return record(id=record_id, status=status, closed_at=5.0, closed_by="me", **changes)


@on_each
def test_what_is_closed_is_restored(store: SQLStore, clock: Clock):
    """Resolved and discarded records are dead again, with a note of who did it; others stay as they are."""
    store.put([closed("a"), closed("b", Status.discarded), record(id="c", status=Status.queued, replay="r")])
    clock.now = 77.0
    assert store.restore(["a", "b", "c", "none"], "ann@host") == 2
    assert statuses(store) == {"a": "dead", "b": "dead", "c": "queued"}
    assert (store.get("a").closed_at, store.get("a").closed_by) == (None, None)
    assert store.notes("a") == [(77.0, "ann@host", "restored: it was resolved")]
    assert store.notes("b") == [(77.0, "ann@host", "restored: it was discarded")]
    assert store.notes("c") == []
    assert queued(store, ["a"], "again") == 1


@on_each
def test_notes_outlive_another_failure(store: SQLStore, clock: Clock):
    """Notes are in the order they were made, and stay when the record fails again."""
    store.put([record(id="a")])
    assert store.note(["a", "none"], "ann", "first") == 1
    clock.now += 1
    store.note(["a"], "bob", "second")
    store.put([record(id="a")])
    assert [(one.by, one.text) for one in store.notes("a")] == [("ann", "first"), ("bob", "second")]


@on_each
def test_only_what_is_closed_is_purged(store: SQLStore):
    """Dead records go only where the query says that status, and what waits to be taken up never."""
    store.put([closed("a"), closed("b", Status.discarded), record(id="c"), record(id="d", status=Status.queued)])
    store.put([record(id="e", status=Status.parked)])
    store.note(["a", "c"], "me", "x")
    assert store.purge(Query(), limit=1) == 1
    assert store.purge(Query()) == 1
    assert store.purge(Query(statuses=(Status.queued, Status.parked))) == 0
    assert statuses(store) == {"c": "dead", "d": "queued", "e": "parked"}
    assert (store.notes("a"), len(store.notes("c"))) == ([], 1)
    assert store.purge(Query(statuses=(Status.dead,))) == 1
    assert store.notes("c") == []


@on_each
def test_what_changed_since_it_was_chosen_is_not_purged(store: SQLStore):
    """A record that was restored between the choice and the purge stays."""
    store.put([closed("a"), closed("b")])
    chosen = operations.select_records(store, [], Query(statuses=operations.CLOSED), operations.CLOSED)
    store.restore(["a"], "me")
    assert operations.purge_records(store, operations.CLOSED, chosen.ids) == 1
    assert statuses(store) == {"a": "dead"}


@on_each
def test_import_keeps_what_is_there(store: SQLStore):
    """A record whose id is known is left as it is; the others are new."""
    store.put([record(id="a", label="mine")])
    assert store.import_([record(id="a", label="other"), record(id="b")]) == 1
    assert store.get("a").label == "mine"
    assert store.import_([record(id="b")]) == 0


def test_a_record_is_the_same_as_json():
    """Bytes, text and times come back as they were; what waited to be taken up is dead."""
    one = closed("a", key=b"\xff", public={"type": "x"}, error_chain=({"type": "E", "frames": []},), detail="d")
    assert from_json(json.loads(json.dumps(to_json(one)))) == one
    waiting = record(status=Status.parked, due=3.0, lane="l")
    back = from_json(json.loads(json.dumps(to_json(waiting))))
    assert (back.status, back.due, back.lane) == (Status.dead, None, None)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_is_not_written_to_its_end_is_deleted(tmp_path: Path, error: BaseException):
    """What is in it is confidential, and no whole; a full disk is one line."""

    def write() -> None:
        with operations.private_file(tmp_path / "out") as file:
            file.write("half")
            raise error

    with pytest.raises((UsageError, KeyboardInterrupt), match=r"out cannot be written: No space|^$"):
        write()
    assert not (tmp_path / "out").exists()


def test_a_pipe_is_not_imported(store: SQLStore, tmp_path: Path):
    """It is read twice, and empty the second time: said, and not counted as nothing."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is not a regular file: an import reads its file twice"):
        operations.import_records(store, tmp_path / "pipe")


def exported(path: Path, *changes: dict[str, object]) -> Path:
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
    """One line that is no record is named, without its content, before anything is kept."""
    path = exported(tmp_path / "x.jsonl", {}, change)
    with pytest.raises(UsageError, match="line 2: this is no exported dead letter") as caught:
        operations.import_records(store, path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None
    assert statuses(store) == {}


def test_an_export_of_a_newer_missive_is_not_imported(store: SQLStore, tmp_path: Path):
    """It says to upgrade, and keeps nothing."""
    with pytest.raises(UsageError, match="line 2: a newer Missive has written it: upgrade Missive"):
        operations.import_records(store, exported(tmp_path / "x.jsonl", {}, {"format": 2}))
    assert statuses(store) == {}


def test_a_masked_export_is_not_imported(store: SQLStore, tmp_path: Path):
    """What was exported without its content says so, and how to export it."""
    store.put([record(id="a", body=b"hunter2")])
    (line,) = operations.export_records(store, Query(), content=False)
    assert "hunter2" not in line
    assert "aHVudGVyMg" not in line
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(UsageError, match="line 1: the record has no content: export it with --with-content"):
        operations.import_records(store, tmp_path / "x.jsonl")


def test_from_one_store_to_another(store: SQLStore, tmp_path: Path):
    """What is exported whole and imported is the same; a file that is there is not overwritten."""
    store.put([record(id=f"{n:04}", body=bytes([n % 256])) for n in range(1200)])
    path = tmp_path / "x.jsonl"
    with operations.private_file(path) as file:
        file.writelines(line + "\n" for line in operations.export_records(store, Query(), content=True))
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="File exists"), operations.private_file(path):
        pass
    with contextlib.closing(SQLStore(f"sqlite:///{tmp_path}/other.db")) as other:
        assert operations.import_records(other, path) == (1200, 0)
        assert operations.import_records(other, path) == (0, 1200)
        assert list(other.query(Query())) == list(store.query(Query()))


def test_a_dry_run_runs_no_handler(store: SQLStore):
    """It says which handler would get a record, or why none would; the store and the handlers know nothing of it."""
    proc = missive.Processor(missive.JSONMessage)
    ran = []

    @proc.handle_for(Field("type", "a"), name="of_a")
    def of_a(message, context):
        ran.append(message)

    bodies = [b'{"type": "a"}', b'{"type": "b"}', b"hunter2"]
    store.put([record(id=str(n), body=body, handler="old") for n, body in enumerate(bodies)])
    before = list(store.query(Query()))
    found = [one.to_dict() for one in operations.preview_routes(store, ("0", "1", "2", "gone"), proc)]
    assert [(one["id"], one["handler"], one["reason"]) for one in found] == [
        ("0", "of_a", None),
        ("1", None, "unmatched"),
        ("2", None, "unreadable"),
    ]
    assert {(one["was"], one["handler_was"]) for one in found} == {("failed", "old")}
    assert (ran, list(store.query(Query()))) == ([], before)
