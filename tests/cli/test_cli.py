"""The command line: every mistake is one clear line and the right exit code, and says nothing it should not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import FIXED, Run, Start
from tests.conftest import wait_until
from tests.support.rabbitmq import RabbitMQ

HEAD = "import missive\np = missive.Processor()\n"
MISTAKES = [
    (["run"], 2, "Missing argument 'TARGET'"),
    (["run", "app:proc"], 2, "app:proc is a processor: name its source of messages"),
    (["run", "app", "--from", "stdin:"], 2, "is not a target: write module:name"),
    (["run", "nothing:proc", "--from", "stdin:"], 2, "there is no module nothing in "),
    (["run", "nothing.py:proc", "--from", "stdin:"], 2, "there is no file nothing.py"),
    (
        ["run", "queue.py:proc", "--from", "stdin:"],
        2,
        "queue.py has the name of the module queue, and would replace it: rename the file",
    ),
    (["run", "app:prok", "--from", "stdin:"], 2, "app has no prok; it has proc, adapter"),
    (["run", "app:number", "--from", "stdin:"], 2, "app:number is of type int, neither a processor nor an adapter"),
    (["run", "app:make", "--from", "stdin:"], 2, "if it returns one, add --factory"),
    (["run", "app:adapter", "--from", "stdin:"], 2, "leave --from out"),
    (["run", "app:proc", "--from", "kafcar://x"], 2, "no adapter is known by the URL kafcar://x"),
    (["run", "app:proc", "--from", "rabitmq://me:hunter2@h/?queue=q"], 2, "did you mean rabbitmq:?"),
    (["run", "app:proc", "--from", "sqlite:///q.db?que=q", "--dlq", "sqlite:///d.db"], 2, "no parameter que="),
    (["run", "app:proc", "--from", "sqlite:///q.db", "--dlq", "sqlite:///d.db"], 2, "needs ?queue="),
    (
        ["run", "app:proc", "--from", "sqlite:///q.db?queue=q&lease=x", "--dlq", "sqlite:///d.db"],
        2,
        "lease= must be a number",
    ),
    (["run", "app:proc", "--from", "sqlite:///q.db?queue=q"], 2, "needs a dead letter store"),
    (["run", "app:proc", "--from", "rabbitmq://${NOT_SET}@h/?queue=q"], 2, "names ${NOT_SET}"),
    (
        ["run", "app:proc", "--from", "file:in.jsonl", "--dlq", "mongodb://h"],
        2,
        "no dead letter store is known by the URL",
    ),
    (["run", "app:proc", "--from", "file:in.jsonl", "--dlq", "sqlite:////no/such/place/d.db"], 1, "cannot be opened"),
    (["run", "app:proc", "--from", "file:in.jsonl", "--dlq", "sqlite:///app.py"], 1, "file is not a database"),
    (["run", "app:proc", "--concurrency", "0"], 2, "Invalid value for '--concurrency'"),
    (["dlq", "list"], 2, "name the dead letter store"),
    (["dlq", "list", "--dlq", "sqlite:///none.db"], 2, "there is no dead letter store sqlite:///none.db"),
    (["explain", "app:proc", "none.json"], 2, "does not exist"),
    (["rum"], 2, "No such command 'rum'"),
]


@pytest.mark.parametrize(("arguments", "code", "complaint"), MISTAKES, ids=lambda v: None)
def test_a_mistake_is_one_line(run: Run, tmp_path: Path, arguments: list[str], code: int, complaint: str):
    """The last line of standard error names what is wrong; nothing is handled, and no secret is shown."""
    (tmp_path / "queue.py").touch()
    returned, out, err = run(*arguments)
    assert (code, "") == (returned, out)
    assert complaint in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("x = (", "SyntaxError"),
        (HEAD + "@p.handle_for(lambda m: 1)\ndef h(m): ...\n", "must take a message and a context; it takes (m)"),
        (HEAD + "@p.handle_for('orders')\ndef h(m, c): ...\n", "a matcher is a callable"),
    ],
)
def test_a_broken_application_is_one_line(run: Run, tmp_path: Path, source: str, complaint: str):
    """An application that cannot be imported is told with its file and line, and without a traceback."""
    (tmp_path / "app.py").write_text(source)
    code, _, err = run("run", "app:proc", "--from", "stdin:")
    assert code == 2
    assert complaint in err.splitlines()[-1]
    assert "app.py" in err.splitlines()[-1]


def test_a_missing_extra_says_what_to_install(run: Run, tmp_path: Path):
    """An adapter whose client is not installed names the extra."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pika'] = None")
    arguments = ("run", "app:proc", "--from", "rabbitmq://h/?queue=q", "--dlq", "sqlite:///d.db")
    code, _, err = run(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert (code, err.splitlines()[-1]) == (2, "missive: RabbitMQ needs an extra: pip install 'missive[rabbitmq]'")


def test_a_run_counts_its_outcomes(run: Run):
    """The last line counts; dead letters are no failure, and the default store is named."""
    code, _, err = run("run", "app:proc", "--from", "file:in.jsonl")
    assert code == 0
    assert "dead letters go to sqlite:///missive-dlq.db" in err.splitlines()[0]
    counts = "missive: 1 handled, 3 dead-lettered (1 failed, 1 unmatched, 1 unreadable)"
    # Which reason is filed first depends on which thread is.
    assert sorted(counts) == sorted(err.splitlines()[-1])


def test_a_run_as_json(run: Run):
    """`--json` prints one object with the counts by handler and reason."""
    code, out, _ = run("run", "app:adapter", "--json")
    report = json.loads(out)
    assert (code, report["handled"], report["dead_lettered"]) == (0, 1, 3)
    assert report["handlers"] == {"app:fine": 1}
    assert report["reasons"] == {"failed": 1, "unmatched": 1, "unreadable": 1}


def test_flags_come_from_the_environment(run: Run, tmp_path: Path):
    """Every flag is also a MISSIVE_… variable."""
    code, out, _ = run(
        "run", "app:proc", env={"MISSIVE_FROM": "file:in.jsonl", "MISSIVE_DLQ": "sqlite:///e.db", "MISSIVE_JSON": "1"}
    )
    assert (code, json.loads(out)["handled"]) == (0, 1)
    assert (tmp_path / "e.db").exists()
    assert (tmp_path / "e.db").stat().st_mode & 0o777 == 0o600


def test_routes(run: Run):
    """`routes` lists handlers and matchers; `--json` is one array."""
    code, out, _ = run("routes", "app.py:proc", "--json")
    assert (code, [route["handler"] for route in json.loads(out)]) == (0, ["app:fine", "app:broken", "app:refused"])
    assert "Field('type', Equals('ok'))" in run("routes", "app:make", "--factory")[1]


def test_explain(run: Run, tmp_path: Path):
    """`explain` says who would get a message, by its body and headers, and shows public values only."""
    (tmp_path / "no.json").write_text('{"type": "no", "card": "4111-1111"}')
    code, out, _ = run("explain", "app:proc", "no.json", "--header", "WHO=me")
    assert (code, out.splitlines()[0]) == (0, "handled by app:refused")
    code, out, _ = run("explain", "app:proc", "no.json", "--json")
    explained = json.loads(out)
    assert (explained["handler"], explained["reason"]) == (None, "unmatched")
    assert explained["considered"][0]["handler"] == "app:refused"
    assert explained["considered"][0]["because"] == ["Header('who', Equals('me')): expected 'me', got nothing"]
    assert "expected 'ok', got 'no'" in out
    assert run("explain", "app:proc", "no.json", "--header", "WHO")[0] == 2


def test_dead_letters_from_end_to_end(run: Run, tmp_path: Path):
    """What failed is listed, grouped, shown, replayed through fixed code, and given up; each as table and JSON."""
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
    assert "execution.py" not in shown
    assert json.loads(run("dlq", "show", listed["id"], "--json")[1])["error"] == "ValueError"

    code, _, err = run("dlq", "replay", failed["fingerprint"], "--with", "app:proc")
    assert (code, "add --yes" in err) == (2, True)
    code, out, _ = run("dlq", "replay", failed["fingerprint"], "--with", "app:proc", "--yes")
    assert (code, out) == (1, "1 replayed: 0 resolved, 1 failed again\n")
    (again,) = json.loads(run("dlq", "list", "--reason", "failed", "--json")[1])
    assert (listed["id"], 2) == (again["id"], again["attempts"])

    (tmp_path / "app.py").write_text(FIXED.replace('print(f"cannot work with {message.get_json()}")', "pass"))
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
def test_a_mistake_about_dead_letters_is_one_line(run: Run, arguments: list[str], complaint: str):
    """A name or filter that chooses nothing is refused with what to write instead."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    code, _, err = run("dlq", *arguments)
    assert (code, complaint in err.splitlines()[-1]) == (2, True)


def test_queued_records_are_taken_up_by_a_running_worker(run: Run, missive: Start, tmp_path: Path):
    """`replay` without `--with` leaves records to the workers of their service, which resolve them."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    (tmp_path / "app.py").write_text(FIXED.replace('print(f"cannot work with {message.get_json()}")', "pass"))
    worker = missive("run", "app:proc", "--from", "stdin:", stdin=subprocess.PIPE)
    code, out, _ = run("dlq", "replay", "--reason", "failed", "--yes")
    assert (code, out) == (0, "1 queued for the running workers of shop\n")
    for _ in range(100):
        if json.loads(run("dlq", "list", "--status", "resolved", "--json")[1]):
            break
    else:
        pytest.fail("nobody took it up")
    worker.finish()
    assert worker.code == 0


def test_queued_records_that_nobody_takes_up_can_be_chosen(run: Run, tmp_path: Path):
    """Without a worker of their service, queued records can still be replayed here and now, or given up."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    run("dlq", "replay", "--reason", "failed", "--yes")
    run("dlq", "replay", "--reason", "unmatched", "--yes")
    (tmp_path / "app.py").write_text(FIXED.replace('print(f"cannot work with {message.get_json()}")', "pass"))
    code, out, _ = run("dlq", "replay", "--status", "queued", "--reason", "failed", "--with", "app:proc", "--yes")
    assert (code, out) == (0, "1 replayed: 1 resolved, 0 failed again\n")
    assert run("dlq", "discard", "--status", "queued", "--yes")[1] == "1 discarded\n"


def test_lists_are_paged(run: Run, tmp_path: Path):
    """`--limit` and `--offset` cut the list, newest first."""
    (tmp_path / "in.jsonl").write_text('{"type":"odd"}\n' * 5)
    run("run", "app:proc", "--from", "file:in.jsonl")
    everything = [row["id"] for row in json.loads(run("dlq", "list", "--json")[1])]
    assert len(everything) == 5
    page = json.loads(run("dlq", "list", "--json", "--limit", "2", "--offset", "1")[1])
    assert everything[1:3] == [row["id"] for row in page]


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda url: url.replace("guest:guest", "guest:hunter2"), "refused the credentials of user guest"),
        (lambda url: url.replace("?", "hunter?"), "there is no virtual host"),
    ],
)
def test_wrong_credentials_are_fatal(run: Run, rabbitmq: RabbitMQ, change: Callable[[str], str], complaint: str):
    """Wrong credentials, or a virtual host that is not, end the run with one line, exit code 1, and no password."""
    code, _, err = run("run", "app:proc", "--from", change(rabbitmq.url("q")), "--dlq", "sqlite:///d.db")
    assert (code, len(err.splitlines())) == (1, 1)
    assert complaint in err


def test_output_in_a_pipe_has_no_colours(run: Run):
    """In a pipe nothing is coloured."""
    assert "\x1b" not in run("routes", "app:proc")[1]


def test_a_reader_that_has_seen_enough_is_no_error(run: Run, missive: Start):
    """Output into a closed pipe, as `| head` does, ends quietly."""
    run("run", "app:proc", "--from", "file:in.jsonl")
    reader, writer = os.pipe()
    os.close(reader)
    process = missive("dlq", "list", stdout=writer)
    os.close(writer)
    assert process.finish()[1] == ""
    assert process.code in {0, 1}


ODD = """
import missive
from missive.matchers import Field

class Own(missive.JSONMessage):
    def __init__(self, body, **envelope):
        raise TypeError(body)

proc = missive.Processor(missive.JSONMessage, name="odd")
own = missive.Processor(Own, name="own")

@proc.handle_for(Field("漢", 1), name="evil\\n\\x1b[31m")
def handle(message, context): ...
"""


def test_what_is_printed_controls_no_terminal(run: Run, tmp_path: Path):
    """Control characters in a name are escaped, and so is what the terminal's encoding does not have."""
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    code, out, _ = run("routes", "odd:proc", env={"PYTHONIOENCODING": "cp1252"})
    assert code == 0
    assert "evil\\n\\x1b[31m" in out
    assert "\\u6f22" in out
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("> /dev/full", 1, "missive: the output cannot be written: No space left on device"),
        (">&-", 0, ""),
    ],
)
@pytest.mark.parametrize("command", ["routes", "check", "check --json"])
def test_an_output_that_cannot_be_written_is_one_line(
    start: Start, run: Run, command: str, redirected: str, code: int, said: str
):
    """A full disk is one line, and no standard output at all is no mistake."""
    del run  # it wrote the application
    executable = Path(sys.executable).parent / "missive"
    process = start("bash", "-c", f"{executable} {command} app:proc {redirected}")
    _, err = process.finish(60)
    assert (process.code, err.strip()) == (code, said)


def test_what_cannot_be_explained_is_one_line(run: Run, tmp_path: Path):
    """A message class that refuses what it is given, and a file that cannot be read, are one line without content."""
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    (tmp_path / "body").write_text("hunter2")
    code, _, err = run("explain", "odd:own", "body")
    assert (code, err.strip()) == (2, "missive: Own refuses this message: TypeError")
    code, _, err = run("explain", "app:proc", "/proc/self/mem")
    assert (code, err.strip()) == (2, "missive: /proc/self/mem cannot be read: Input/output error")


def test_a_signal_after_the_end(missive: Start, tmp_path: Path):
    """A worker that has done all, and gets SIGTERM while its interpreter ends, has ended well."""
    (tmp_path / "in.jsonl").write_text('{"type":"ok"}\n')
    ends = """
import time

class Late:
    def __del__(self, touch=Path("late").touch, sleep=time.sleep):
        touch()
        sleep(0.5)

late = Late()
"""
    (tmp_path / "app.py").write_text(f"from pathlib import Path\n{HEAD}{ends}")
    running = missive("run", "app:p", "--from", "file:in.jsonl")
    wait_until((tmp_path / "late").exists, "its last moments")
    running.terminate()
    assert running.code == 0
