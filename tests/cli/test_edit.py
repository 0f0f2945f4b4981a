"""`missive dlq edit`."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Run
from tests.cli.test_dlq import listed


def test_a_message_is_edited_and_replayed(run: Run, tmp_path: Path):
    """The body is saved, changed and read again; no content is printed, and the new message is handled."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    (record,) = listed(run, "reason:unreadable")
    code, out, err = run("dlq", "edit", record["id"], "--save", "body")
    assert (code, out.split(" --dlq")[0]) == (
        0, f"after changing it, run: missive dlq edit {record['id']} --body body --version 1\n"
    )  # fmt: skip
    body = tmp_path / "body"
    assert (body.read_bytes(), body.stat().st_mode & 0o777) == (b"hunter2", 0o600)
    assert run("dlq", "edit", record["id"], "--save", "body")[0] == 2
    body.write_text('{"type":"ok","card":"4111-1111"}')
    (tmp_path / "headers").write_text("who: me\n")
    code, out, err = run(
        "dlq", "edit", record["id"], "--body", "body", "--headers", "headers", "--version", "1", "--json"
    )
    done = json.loads(out)
    assert (code, done["edited_from"], done["changed"]["headers"]) == (0, record["id"], ["who"])
    assert done["changed"]["body"]["size"] == [7, 32]
    code, _, err = run("dlq", "edit", record["id"], "--body", "body")
    assert (code, "is discarded: only dead ones can be edited" in err) == (1, True)
    assert (
        run("dlq", "replay", done["id"], "--with", "app:proc", "--yes")[1] == "1 replayed: 1 resolved, 0 failed again\n"
    )
    assert f"edited     from {record['id']}" in run("dlq", "show", done["id"])[1]
    assert f"edited as {done['id']}" in run("dlq", "show", record["id"])[1]


def test_a_mistake_is_one_line(run: Run, tmp_path: Path):
    """The error says what to write instead, and nothing changes."""
    (tmp_path / "x").write_text("x: 1")
    run("run", "app:proc", "--from", "file:in.jsonl")
    (record,) = listed(run, "reason:unmatched")
    for arguments, complaint in (
        ((), "name a change: --body FILE"),
        (("--body", "nowhere"), "nowhere cannot be read: No such file"),
        (("--headers", "in.jsonl"), "--headers: in.jsonl is not valid JSON at line 2, column 1"),
        (("--headers", "x", "--without-header", "X"), "both name x: leave one out"),
        (("--save", "a", "--body", "in.jsonl"), "--save only saves the body"),
        (("--without-header", "x"), "has this body and these headers already"),
    ):
        code, out, err = run("dlq", "edit", record["id"], *arguments)
        assert (code, out, complaint in err) == (2, "", True), err
    code, _, err = run("dlq", "edit", record["id"], "--body", "in.jsonl", "--version", "7")
    assert (code, "at version 1, not 7" in err) == (1, True)
    assert [one["id"] for one in listed(run, "reason:unmatched")] == [record["id"]]
    assert run("dlq", "watch", "--every", "nan")[2] == "missive: --every takes a number of seconds\n"
    assert run("dlq", "watch", "--every", "inf")[0] == 2


def test_a_repeated_header_gives_two_values(run: Run, tmp_path: Path):
    """Names match in any case, and a closed standard input is an error."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    (record,) = listed(run, "reason:unmatched")
    script = f"exec {sys.executable} -m missive dlq edit {record['id']} --body - <&-"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "missive: standard input is closed: name a file with --body FILE\n")
    (tmp_path / "headers").write_text("who: 1\nWho: 2\n")
    run("dlq", "edit", record["id"], "--headers", "headers")
    with contextlib.closing(sqlite3.connect(tmp_path / "missive-dlq.db")) as connection, connection:
        (headers,) = connection.execute(
            "SELECT headers FROM missive_dead_letters WHERE edited_from IS NOT NULL"
        ).fetchone()
    connection.close()
    assert json.loads(headers) == [["who", "1"], ["who", "2"]]
