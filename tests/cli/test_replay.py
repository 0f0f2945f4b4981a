"""`missive dlq replay`, `replays`, `cancel` and `resume`, as commands; a replay that is killed is resumed exactly."""

from __future__ import annotations

import json
import random
import sqlite3
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
    return json.loads(run("dlq", "replays", "--json")[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_replay_that_is_killed_is_resumed_exactly(run: Run, missive: Start, tmp_path: Path, seed: int):
    """Every record of the snapshot is handled and resolved, none that was not handled, and no other is run."""
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
    with sqlite3.connect(tmp_path / "missive-dlq.db") as connection:  # as a minute later
        connection.execute("UPDATE missive_dead_letters SET leased_until = 0 WHERE leased_until IS NOT NULL")
    connection.close()
    code, out, _ = run("dlq", "resume", killed["id"], "--with", "slow.py:proc")
    assert (code, out) == (0, f"{count} replayed: {count} resolved, 0 failed again\n")
    assert set(handled()) == set(range(count))
    # What was taken up when it was killed is handled twice, and no other.
    assert len(handled()) <= count + 110
    assert [replay["status"] for replay in replays(run)] == ["done"]
    assert len(json.loads(run("dlq", "list", "--json")[1])) == 1


def test_a_replay_is_kept(run: Run, tmp_path: Path):
    """Who chose what, and what became of it; a stopped one says how to go on, and goes on."""
    (tmp_path / "in.jsonl").write_text('{"type":"bad"}\n' * 5)
    run("run", "app:proc", "--from", "file:in.jsonl")
    code, out, err = run(
        "dlq", "replay", "error:ValueError", "--canary", "2", "--rate", "50/s", "--until-failures", "2", "--with",
        "app:proc", "--yes",
    )  # fmt: skip
    assert (code, out) == (1, "5 replayed: 0 resolved, 1 failed again, 4 not run\n")
    (kept,) = replays(run)
    assert f"missive: stopped; to continue: missive dlq resume {kept['id']} --with TARGET" in err
    assert (kept["canary"], kept["rate"], kept["until_failures"], "@" in kept["by"]) == (2, "50/s", 2, True)
    assert "error:ValueError" in kept["query"]
    (tmp_path / "app.py").write_text(FIXED.replace('print(f"cannot work with {message.get_json()}")', "pass"))
    assert run("dlq", "resume", kept["id"])[0] == 2
    code, out, _ = run("dlq", "resume", kept["id"], "--with", "app:proc", "--json")
    assert (json.loads(out)["resolved"], json.loads(out)["left"], json.loads(out)["status"]) == (4, 0, "done")
    assert "done" in run("dlq", "replays")[1]


def test_a_queued_replay_is_cancelled_and_resumed(run: Run):
    """Without a worker nothing has been taken up: all of it is left, and can be queued again."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    run("dlq", "replay", "reason:failed", "--yes")
    (kept,) = replays(run)
    assert run("dlq", "cancel", kept["id"])[1] == "cancelled: 1 of 1 did not run\n"
    assert run("dlq", "resume", kept["id"])[1] == "1 queued for the running workers of shop\n"


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
    """What cannot be done as asked is refused with what to write instead."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    code, _, err = run("dlq", *arguments)
    assert (code, complaint in err.splitlines()[-1]) == (2, True), err
