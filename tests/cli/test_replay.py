"""`missive dlq replay`, `replays`, `cancel` and `resume`: here and in running workers, stopped, killed and resumed."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import FIXED, Run, Start
from tests.conftest import wait_until

SLOW = """
import time
import missive

proc = missive.Processor(missive.JSONMessage, name="shop")

@proc.handle_for(lambda message: message.get_json().get("type") == "odd", name="slow")
def slow(message, context):
    with open("handled.txt", "a") as file:
        print(message.get_json()["n"], file=file)
    time.sleep(0.002)
"""


def replays(run: Run) -> list[dict]:
    """Return all replays, newest first."""
    return json.loads(run("dlq", "replays", "--json")[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_killed_replay_is_resumed_exactly(run: Run, missive: Start, tmp_path: Path, seed: int):
    """Every record of the snapshot is handled and resolved, and no other record runs."""
    count, stop = 150, random.Random(seed).randrange(1, 140)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"type":"odd","n":{n}}}\n' for n in range(count)))
    run("run", "app:proc", "--from", "file:in.jsonl")
    (tmp_path / "slow.py").write_text(SLOW)
    done = tmp_path / "handled.txt"

    def handled() -> list[int]:
        return [int(line) for line in done.read_text().splitlines()] if done.exists() else []

    command = missive("dlq", "replay", "reason:unmatched", "--with", "slow.py:proc", "--yes")
    wait_until(lambda: len(handled()) >= stop, "records to be handled")
    command.kill()
    (killed,) = replays(run)
    assert (killed["total"], killed["status"], killed["failed"]) == (count, "running", 0)
    assert killed["resolved"] <= len(handled())
    (tmp_path / "later.jsonl").write_text('{"type":"odd","n":999}\n')
    run("run", "app:proc", "--from", "file:later.jsonl")
    # As if a minute had passed.
    with contextlib.closing(sqlite3.connect(tmp_path / "missive-dlq.db")) as connection, connection:
        connection.execute("UPDATE missive_dead_letters SET leased_until = 0 WHERE leased_until IS NOT NULL")
    code, out, _ = run("dlq", "resume", killed["id"], "--with", "slow.py:proc")
    assert (code, out) == (0, f"{count} replayed: {count} resolved, 0 failed again\n")
    assert set(handled()) == set(range(count))
    # Only records that were leased at the kill run twice.
    assert len(handled()) <= count + 110
    assert [replay["status"] for replay in replays(run)] == ["done"]
    assert len(json.loads(run("dlq", "list", "--json")[1])) == 1


def test_a_replay_is_stored_with_its_options_and_results(run: Run, tmp_path: Path):
    """A stopped replay names its author and options, and can be continued as its message says."""
    (tmp_path / "in.jsonl").write_text('{"type":"bad"}\n' * 5)
    run("run", "app:proc", "--from", "file:in.jsonl")
    code, out, err = run(
        "dlq", "replay", "error:ValueError", "--canary", "2", "--rate", "50/s", "--until-failures", "2", "--with",
        "app:proc", "--yes",
    )  # fmt: skip
    assert (code, out) == (1, "5 replayed: 0 resolved, 1 failed again, 4 not run\n")
    (stored,) = replays(run)
    assert f"missive: stopped; to continue: missive dlq resume {stored['id']} --with TARGET" in err
    assert (stored["canary"], stored["rate"], stored["until_failures"], "@" in stored["by"]) == (2, "50/s", 2, True)
    assert "error:ValueError" in stored["query"]
    (tmp_path / "app.py").write_text(FIXED)
    assert run("dlq", "resume", stored["id"])[0] == 2
    code, out, _ = run("dlq", "resume", stored["id"], "--with", "app:proc", "--json")
    assert (json.loads(out)["resolved"], json.loads(out)["left"], json.loads(out)["status"]) == (4, 0, "done")
    assert "done" in run("dlq", "replays")[1]


def test_running_workers_resolve_queued_records(run: Run, missive: Start, tmp_path: Path):
    """`replay` without `--with` leaves records to the workers of their service."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    (tmp_path / "app.py").write_text(FIXED)
    worker = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    code, out, _ = run("dlq", "replay", "--reason", "failed", "--yes")
    assert (code, out) == (0, "1 queued for the running workers of shop\n")
    for _ in range(100):
        if json.loads(run("dlq", "list", "--status", "resolved", "--json")[1]):
            break
    else:
        pytest.fail("no worker resolved the record")
    worker.finish()
    assert worker.code == 0


def test_queued_records_without_a_worker_can_be_chosen(run: Run, tmp_path: Path):
    """Queued records that no worker has leased can be replayed here or discarded."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    run("dlq", "replay", "--reason", "failed", "--yes")
    run("dlq", "replay", "--reason", "unmatched", "--yes")
    (tmp_path / "app.py").write_text(FIXED)
    code, out, _ = run("dlq", "replay", "--status", "queued", "--reason", "failed", "--with", "app:proc", "--yes")
    assert (code, out) == (0, "1 replayed: 1 resolved, 0 failed again\n")
    assert run("dlq", "discard", "--status", "queued", "--yes")[1] == "1 discarded\n"


def test_workers_keep_the_pace_of_a_replay(run: Run, missive: Start, tmp_path: Path):
    """A canary that fails in a worker stops the others, and `--wait` reports that; after a fix, all are handled."""
    (tmp_path / "in.jsonl").write_text('{"type":"bad","card":"4111-1111"}\n' * 5)
    run("run", "app:proc", "--from", "file:in.jsonl")
    worker = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    code, out, err = run("dlq", "replay", "reason:failed", "--canary", "1", "--wait", "--yes")
    assert (code, out) == (1, "5 replayed: 0 resolved, 1 failed again, 4 not run\n")
    assert "stopped; to continue: missive dlq resume" in err
    worker.finish()
    (tmp_path / "app.py").write_text(FIXED)
    worker = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    code, out, err = run(
        "dlq", "replay", "reason:failed", "--canary", "1", "--rate", "50/s", "--until-failures", "2", "--wait", "--yes"
    )
    assert (code, out) == (0, "5 replayed: 5 resolved, 0 failed again\n")
    assert err.startswith("missive: waiting for the running workers of shop; after Ctrl-C, replay 01")
    worker.finish()
    assert worker.code == 0


def test_a_queued_replay_is_cancelled_and_resumed(run: Run):
    """Without a worker no record has started: all of them return to dead, and can be queued again."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    run("dlq", "replay", "reason:failed", "--yes")
    (stored,) = replays(run)
    assert run("dlq", "cancel", stored["id"])[1] == "cancelled: 1 of 1 did not run\n"
    assert run("dlq", "resume", stored["id"])[1] == "1 queued for the running workers of shop\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["replay", "reason:failed", "--rate", "x", "--with", "app:proc"], "--rate takes messages in a time"),
        (["replay", "reason:failed", "--canary", "0"], "Invalid value for '--canary'"),
        (["cancel", "01NONE"], "there is no replay 01NONE: see missive dlq replays"),
        (["resume", "01NONE"], "there is no replay 01NONE"),
    ],
)
def test_a_mistake_is_one_line(run: Run, arguments: list[str], complaint: str):
    """The error says what to write instead."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    code, _, err = run("dlq", *arguments)
    assert (code, complaint in err.splitlines()[-1]) == (2, True), err
