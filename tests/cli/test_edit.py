"""`missive dlq edit`, `watch`, and replays that running workers run at a pace."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import FIXED, Run, Start


def listed(run: Run, *query: str) -> list[dict]:
    return json.loads(run("dlq", "list", *query, "--json")[1])


def test_a_message_is_edited_and_replayed(run: Run, tmp_path: Path):
    """Its body is saved, changed and given back; nothing of it is printed, and the new one is handled."""
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
    code, out, err = run(
        "dlq", "edit", record["id"], "--body", "body", "--header", "who=me", "--version", "1", "--json"
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


def test_what_cannot_be_edited(run: Run):
    """Each mistake is one line, and changes nothing."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    (record,) = listed(run, "reason:unmatched")
    for arguments, complaint in (
        ((), "name a change: --body FILE"),
        (("--body", "nowhere"), "nowhere cannot be read: No such file"),
        (("--header", "x"), "--header takes NAME=VALUE"),
        (("--header", "x=1", "--without-header", "X"), "both name x: leave one out"),
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


def test_a_header_that_is_given_twice_has_two_values(run: Run, tmp_path: Path):
    """It is as long as both, whatever the case of its name; and nothing is read where there is no standard input."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    (record,) = listed(run, "reason:unmatched")
    script = f"exec {sys.executable} -m missive dlq edit {record['id']} --body - <&-"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "missive: standard input is closed: name a file with --body FILE\n")
    run("dlq", "edit", record["id"], "--header", "who=1", "--header", "Who=2")
    with sqlite3.connect(tmp_path / "missive-dlq.db") as connection:
        (headers,) = connection.execute(
            "SELECT headers FROM missive_dead_letters WHERE edited_from IS NOT NULL"
        ).fetchone()
    connection.close()
    assert json.loads(headers) == [["who", "1"], ["who", "2"]]


def test_watching_prints_what_comes(run: Run, missive: Start, tmp_path: Path):
    """A dead letter of now is one line of JSON, one that is not asked for is none, and Ctrl-C ends it."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    watching = missive("dlq", "watch", "reason:failed", "--every", "0.1", "--json")
    for number in range(20):  # it may have begun after the first
        (tmp_path / f"{number}.jsonl").write_text('{"type":"bad","card":"4111-1111"}\n{"type":"odd"}\n')
        run("run", "app:proc", "--from", f"file:{number}.jsonl")
        if (line := watching.any_line(1.0)) is not None:
            break
    row = json.loads(line)
    assert (row["reason"], row["handler"], row["error"]) == ("failed", "app:broken", "ValueError")
    watching.send(signal.SIGINT)
    assert watching.finish()[1] == ""
    assert watching.code == 0


def test_what_must_not_hold_is_said_with_a_minus(run: Run):
    """A term with a minus is no option, where an option follows too."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    assert {row["reason"] for row in listed(run, "-reason:failed", "status:any")} == {"unmatched", "unreadable"}
    assert run("dlq", "discard", "-reason:failed", "--why", "old", "--yes")[1] == "2 discarded\n"


def test_workers_keep_a_replays_pace(run: Run, missive: Start, tmp_path: Path):
    """Left to a running worker, a canary that fails stops the others, and `--wait` says so; mended, all are handled."""
    (tmp_path / "in.jsonl").write_text('{"type":"bad","card":"4111-1111"}\n' * 5)
    run("run", "app:proc", "--from", "file:in.jsonl")
    worker = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    code, out, err = run("dlq", "replay", "reason:failed", "--canary", "1", "--wait", "--yes")
    assert (code, out) == (1, "5 replayed: 0 resolved, 1 failed again, 4 not run\n")
    assert "stopped; to continue: missive dlq resume" in err
    worker.finish()
    (tmp_path / "app.py").write_text(FIXED.replace('print(f"cannot work with {message.get_json()}")', "pass"))
    worker = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    code, out, err = run(
        "dlq", "replay", "reason:failed", "--canary", "1", "--rate", "50/s", "--until-failures", "2", "--wait", "--yes"
    )
    assert (code, out) == (0, "5 replayed: 5 resolved, 0 failed again\n")
    assert err.startswith("missive: waiting for the running workers of shop; after Ctrl-C, replay 01")
    worker.finish()
    assert worker.code == 0
