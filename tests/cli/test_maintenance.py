"""`missive dlq test`, `discard`, `restore`, `note`, `export`, `import` and `purge`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_dlq import listed


@pytest.fixture
def filed(run: Run) -> Run:
    """Make a store with three dead letters: failed, unmatched and unreadable."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    return run


def test_a_record_through_all_operations(filed: Run, tmp_path: Path):
    """A record is discarded, noted, restored, exported, purged and imported; each command prints its count."""
    assert filed("dlq", "discard", "--reason", "unmatched", "--yes")[1] == "1 discarded\n"
    (one,) = listed(filed, "--status", "discarded")
    assert filed("dlq", "note", one["id"], "--text", "asked the sender")[1] == "1 noted\n"
    assert filed("dlq", "restore", one["id"], "--yes", "--json")[1] == '{\n  "restored": 1\n}\n'
    shown = json.loads(filed("dlq", "show", one["id"], "--json")[1])
    assert [note["text"] for note in shown["notes"]] == ["asked the sender", "restored: it was discarded"]
    assert {"@" in note["by"] for note in shown["notes"]} == {True}
    assert "asked the sender" in filed("dlq", "show", one["id"])[1]

    masked = [json.loads(line) for line in filed("dlq", "export")[1].splitlines()]
    assert len(masked) == 3
    code, out, err = filed("dlq", "export", "--with-content", "--output", "out.jsonl")
    assert (code, out, "3 dead letters are in out.jsonl, with all of their confidential content" in err) == (
        0,
        "",
        True,
    )
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600

    code, _, err = filed("dlq", "purge", one["id"], "--yes")
    assert (code, "no dead letter matches: there is nothing to purge" in err) == (0, True)
    assert filed("dlq", "purge", one["id"], "--status", "dead", "--yes")[1] == "1 purged\n"
    assert filed("dlq", "import", "out.jsonl")[1] == "1 imported, 2 already in the store\n"
    assert listed(filed, "--reason", "unmatched")[0]["id"] == one["id"]


def test_a_preview_changes_nothing(filed: Run):
    """`test` shows the handler of each record, and changes no record."""
    rows = json.loads(filed("dlq", "test", "--status", "dead", "--reason", "failed", "--with", "app:proc", "--json")[1])
    assert [(row["was"], row["handler"], row["reason"]) for row in rows] == [("failed", "app:broken", None)]
    code, out, _ = filed("dlq", "test", "--reason", "unmatched", "--with", "app:proc")
    assert (code, out.split()[-2:]) == (0, ["unmatched", "unmatched"])
    assert {row["attempts"] for row in listed(filed)} == {1}


def test_a_query_narrows_lists_and_operations(filed: Run):
    """Terms work alone and next to options, and a plain word searches text."""
    assert [row["reason"] for row in listed(filed, "reason:failed", "age<1h", "type")] == ["failed"]
    assert listed(filed, "age>1h") == []
    assert [row["reason"] for row in listed(filed, "attempts:1 error:ValueError")] == ["failed"]
    groups = json.loads(filed("dlq", "groups", "handler:app:broken", "--json")[1])
    assert [group["count"] for group in groups] == [1]
    assert len(filed("dlq", "export", "reason:unmatched")[1].splitlines()) == 1
    assert filed("dlq", "discard", "reason:unmatched", "--service", "shop", "--yes")[1] == "1 discarded\n"
    assert filed("dlq", "purge", "reason:failed", "--yes")[1] == ""
    assert filed("dlq", "purge", "reason:failed", "status:dead", "--yes")[1] == "1 purged\n"


def test_filters_apply_to_named_records(run: Run, tmp_path: Path):
    """A status restricts the records of a group, and a filter restricts a record that is named by id."""
    (tmp_path / "in.jsonl").write_text('{"type": "bad"}\n' * 3)
    run("run", "app:proc", "--from", "file:in.jsonl")
    rows = listed(run)
    group, (first, second, third) = rows[0]["group"], (row["id"] for row in rows)
    run("dlq", "discard", first, "--yes")
    assert (
        run("dlq", "discard", second, "handler:app:other", "--yes")[2]
        == "missive: no dead letter matches: there is nothing to discard\n"
    )
    assert run("dlq", "purge", group, "--status", "resolved", "--yes")[1] == ""
    assert run("dlq", "purge", group, "status:resolved", "--yes")[1] == ""
    assert run("dlq", "restore", group, "--status", "resolved", "--yes")[1] == ""
    assert run("dlq", "purge", group, "--status", "dead", "--yes")[1] == "2 purged\n"
    assert [row["id"] for row in listed(run, "--status", "any")] == [first]
    assert run("dlq", "note", first, "--status", "dead", "--text", "x")[1] == ""
    assert run("dlq", "restore", group, "--yes")[1] == "1 restored\n"
    assert third not in run("dlq", "list")[1]


def test_an_empty_selection_prints_json(filed: Run):
    """A script reads an object even when no record matches."""
    arguments = "reason:poison", "--json", "--yes"
    assert json.loads(filed("dlq", "discard", *arguments)[1]) == {"discarded": 0}
    replay = json.loads(filed("dlq", "replay", *arguments)[1])
    assert (replay["id"], replay["total"], replay["status"]) == (None, 0, "done")


def test_values_that_no_database_stores_are_one_line(filed: Run):
    """Bytes that are no text and numbers that are too large are one line."""
    for arguments in (("show", b"\xff"), ("list", b"\xff"), ("list", b"id:\xff"), ("cancel", b"\xff")):
        code, out, err = filed("dlq", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert "a text or a number is out of range" in err
    for option in ("--limit", "--offset"):
        code, out, err = filed("dlq", "list", option, str(2**64))
        assert (code, out, "is not in the range 0<=x<=1000000000" in err) == (2, "", True), err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["list", "status:dead", "--status", "any"], "--status and status: are the same condition"),
        (["list", "-label:not today"], "quote a value with a space twice: '-label:\"not today\"'"),
        (["discard", "reason:failed today", "--yes"], "quote a value with a space twice: 'reason:\"failed today\"'"),
        (["discard", "01NOTHING", "id:01OTHER", "--yes"], "01NOTHING is an id or a group, and the query names another"),
        (["restore", "--yes"], "name the dead letters to restore"),
        (["restore", "--reason", "failed", "--status", "dead", "--yes"], "'dead' is not one of"),
        (["purge", "--yes"], "name the dead letters to purge"),
        (["purge", "--status", "dead"], "add --yes"),
        (["purge", "--status", "queued", "--yes"], "'queued' is not one of"),
        (["list", "raeson:failed"], "raeson:failed: there is no field raeson: did you mean reason?"),
        (["list", "reason:failed", "--reason", "failed"], "--reason and reason: are the same condition"),
        (["replay", "status:resolved", "--yes"], "status:resolved: replay takes only records that are dead or queued"),
        (["purge", "status:queued", "--yes"], "status:queued: purge takes only records that are"),
        (["note", "--text", "x"], "name the dead letters to note"),
        (["note", "01NOTHING", "--text", "x"], "01NOTHING is neither the id"),
        (["note", "01NOTHING", "--text", " "], "--text takes a text"),
        (["test", "--reason", "failed"], "Missing option '--with'"),
        (["export", "--with-content"], "add --output FILE"),
        (["export", "--output", "app.py"], "app.py cannot be created: File exists"),
        (["import", "none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["import", "in.jsonl"], "in.jsonl, line 1: this is no exported dead letter"),
    ],
)
def test_a_mistake_is_one_line(filed: Run, arguments: list[str], complaint: str):
    """The error says what to write instead."""
    code, _, err = filed("dlq", *arguments)
    assert (code, complaint in err.splitlines()[-1]) == (2, True), err


def test_ids_may_be_shortened(filed: Run):
    """Four characters at the beginning or end of an id name a dead letter, where no other id has them."""
    one, other, third = listed(filed)
    others = (other["id"], third["id"])
    beginning = next(one["id"][:end] for end in range(5, 27) if not any(o.startswith(one["id"][:end]) for o in others))
    for part in (one["id"][-6:], one["id"][-6:].lower(), beginning):
        assert json.loads(filed("dlq", "show", part, "--json")[1])["id"] == one["id"]
    assert filed("dlq", "discard", one["id"][-6:], "--yes")[1] == "1 discarded\n"
    assert filed("dlq", "note", one["id"][-6:], "--text", "why")[1] == "1 noted\n"
    assert (
        filed("dlq", "show", one["id"][-3:])[2]
        == f"missive: there is no dead letter {one['id'][-3:]}: see missive dlq list\n"
    )
    common = one["id"][:4]
    code, _, err = filed("dlq", "show", common)
    assert (code, err) == (
        2,
        f"missive: {common} is the beginning or end of several ids: write more characters of one\n",
    )


def test_a_test_shows_any_status_up_to_its_limit(filed: Run):
    """`dlq test` takes dead letters of any status, and says how many are left out."""
    (one,) = listed(filed, "--reason", "unmatched")
    filed("dlq", "discard", one["id"], "--yes")
    rows = json.loads(filed("dlq", "test", one["id"], "--with", "app:proc", "--json")[1])
    assert [row["id"] for row in rows] == [one["id"]]
    code, out, err = filed("dlq", "test", "status:any", "--with", "app:proc", "--limit", "1")
    assert (code, out.count("\n"), err) == (0, 2, "missive: 2 dead letters more: see them with --limit\n")


def test_an_import_creates_a_store_on_request(filed: Run, tmp_path: Path):
    """`dlq import` refuses a store that does not exist, and with --create creates it."""
    filed("dlq", "export", "--with-content", "--output", "out.jsonl")
    code, _, err = filed("dlq", "import", "out.jsonl", "--dlq", "sqlite:///new.db")
    assert (code, "there is no dead letter store sqlite:///new.db" in err) == (2, True)
    assert not (tmp_path / "new.db").exists()
    code, out, _ = filed("dlq", "import", "out.jsonl", "--dlq", "sqlite:///new.db", "--create")
    assert (code, out) == (0, "3 imported, 0 already in the store\n")
