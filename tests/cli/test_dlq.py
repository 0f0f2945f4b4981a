"""`missive dlq`: commands that show dead letters."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import FIXED, Run, Start


def listed(run: Run, *query: str) -> list[dict]:
    """Return the records that a query finds."""
    return json.loads(run("dlq", "list", *query, "--json")[1])


def test_dead_letters_from_filing_to_resolution(run: Run, tmp_path: Path):
    """Dead letters are listed, grouped, shown, replayed through fixed code and discarded, as tables and as JSON."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    groups = json.loads(run("dlq", "groups", "--json")[1])
    assert {"failed", "unmatched", "unreadable"} == {group["reason"] for group in groups}
    failed = next(group for group in groups if group["reason"] == "failed")
    assert (failed["count"], failed["handler"], failed["error_type"]) == (1, "app:broken", "ValueError")
    assert failed["fingerprint"] in run("dlq", "groups")[1]
    (listed,) = json.loads(run("dlq", "list", "--reason", "failed", "--json")[1])
    assert listed["public"] == {"type": "bad"}
    code, shown, _ = run("dlq", "show", listed["id"])
    assert code == 0
    assert "in broken" in shown
    details = json.loads(run("dlq", "show", listed["id"], "--json")[1])
    assert details["error"] == "ValueError"
    files = {Path(frame["file"]).name for link in details["stack"] for frame in link["frames"]}
    assert files == {"app.py"}, "the stack shows no frame of Missive"

    code, _, err = run("dlq", "replay", failed["fingerprint"], "--with", "app:proc")
    assert (code, "add --yes" in err) == (2, True)
    code, out, _ = run("dlq", "replay", failed["fingerprint"], "--with", "app:proc", "--yes")
    assert (code, out) == (1, "1 replayed: 0 resolved, 1 failed again\n")
    (again,) = json.loads(run("dlq", "list", "--reason", "failed", "--json")[1])
    assert (listed["id"], 2) == (again["id"], again["attempts"])

    (tmp_path / "app.py").write_text(FIXED)
    code, out, _ = run("dlq", "replay", listed["id"], "--with", "app:proc", "--yes", "--json")
    assert (code, json.loads(out)["resolved"], json.loads(out)["failed"]) == (0, 1, 0)
    code, out, _ = run("dlq", "discard", "--reason", "unmatched", "--yes")
    assert (code, out) == (0, "1 discarded\n")
    stats = {(row["status"], row["reason"]): row["count"] for row in json.loads(run("dlq", "stats", "--json")[1])}
    assert stats == {("dead", "unreadable"): 1, ("discarded", "unmatched"): 1, ("resolved", "failed"): 1}
    assert "resolved" in run("dlq", "stats")[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["replay", "--yes"], "name the dead letters to replay"),
        (["replay", "01NOTHING", "--yes"], "01NOTHING is neither the id of a dead letter nor a group"),
        (["replay", "--reason", "odd", "--yes"], "there is no reason 'odd'"),
        (["replay", "--reason", "failed"], "to replay 1 dead letter of shop, add --yes"),
        (["discard", "--status", "any", "--yes"], "'any' is not one of 'dead', 'queued'"),
        (["show", "01NOTHING"], "there is no dead letter 01NOTHING"),
    ],
)
def test_a_mistake_is_one_line(run: Run, arguments: list[str], complaint: str):
    """The error for a name or filter that finds nothing says what to write instead."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    code, _, err = run("dlq", *arguments)
    assert (code, complaint in err.splitlines()[-1]) == (2, True)


def test_lists_have_pages(run: Run, tmp_path: Path):
    """`--limit` and `--offset` cut the list, newest first."""
    (tmp_path / "in.jsonl").write_text('{"type":"odd"}\n' * 5)
    run("run", "app:proc", "--from", "file:in.jsonl")
    everything = [row["id"] for row in json.loads(run("dlq", "list", "--json")[1])]
    assert len(everything) == 5
    page = json.loads(run("dlq", "list", "--json", "--limit", "2", "--offset", "1")[1])
    assert everything[1:3] == [row["id"] for row in page]


def test_a_term_with_a_minus_is_negated(run: Run):
    """A negated term is no option, even when an option follows it."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    assert {row["reason"] for row in listed(run, "-reason:failed", "status:any")} == {"unmatched", "unreadable"}
    assert run("dlq", "discard", "-reason:failed", "--why", "old", "--yes")[1] == "2 discarded\n"


def test_watch_prints_new_failures(run: Run, missive: Start, tmp_path: Path):
    """Each new failure that matches the query is one line of JSON, and Ctrl-C ends the command."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    watching = missive("dlq", "watch", "reason:failed", "--every", "0.1", "--json")
    for number in range(20):  # the watch may start after the first failure
        (tmp_path / f"{number}.jsonl").write_text('{"type":"bad","card":"4111-1111"}\n{"type":"odd"}\n')
        run("run", "app:proc", "--from", f"file:{number}.jsonl")
        if (line := watching.any_line(1.0)) is not None:
            break
    row = json.loads(line)
    assert (row["reason"], row["handler"], row["error"]) == ("failed", "app:broken", "ValueError")
    watching.send(signal.SIGINT)
    assert watching.finish()[1] == ""
    assert watching.code == 0
