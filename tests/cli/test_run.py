"""`missive run`: its report, and options from the environment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Start
from tests.conftest import wait_until
from tests.support.process import Running, without_common


def test_a_run_counts_its_outcomes(run: Run):
    """The last line counts outcomes, dead letters are no failure, and the default store is named."""
    code, _, err = run("run", "app:proc", "--from", "file:in.jsonl")
    assert code == 0
    assert "dead letters go to sqlite:///missive-dlq.db" in err.splitlines()[0]
    counts = "missive: 1 handled, 3 dead-lettered (1 failed, 1 unmatched, 1 unreadable)"
    # The order of the reasons depends on the threads.
    assert sorted(counts) == sorted(err.splitlines()[-1])


def test_a_report_as_json(run: Run):
    """`--json` prints one object with the counts by handler and reason."""
    code, out, _ = run("run", "app:adapter", "--json")
    report = json.loads(out)
    assert (code, report["handled"], report["dead_lettered"]) == (0, 1, 3)
    assert report["handlers"] == {"app:fine": 1}
    assert report["reasons"] == {"failed": 1, "unmatched": 1, "unreadable": 1}


def test_options_come_from_the_environment(run: Run, tmp_path: Path):
    """Every option of `run` is also a MISSIVE_… variable, and a new store file is private."""
    code, out, _ = run(
        "run", "app:proc", env={"MISSIVE_FROM": "file:in.jsonl", "MISSIVE_DLQ": "sqlite:///e.db", "MISSIVE_JSON": "1"}
    )
    assert (code, json.loads(out)["handled"]) == (0, 1)
    assert (tmp_path / "e.db").exists()
    assert (tmp_path / "e.db").stat().st_mode & 0o777 == 0o600


HANDLING = """
import missive
p = missive.Processor()

@p.handle_for(lambda message: True)
def handle(message, context): ...
"""
LINGERING = """
import time

def linger(touch=Path("late").touch, sleep=time.sleep):
    touch()
    sleep(0.5)
"""
ENDING = """
import threading

def wait():
    threading.main_thread().join()
    linger()

threading.Thread(target=wait).start()
"""
ENDS = {
    "an exit function": "import atexit\natexit.register(linger)\n",
    "a thread": ENDING,
    "module teardown": "class Late:\n    def __del__(self, linger=linger):\n        linger()\n\nlate = Late()\n",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("end", ENDS)
def test_a_signal_at_exit_does_not_change_the_exit_code(
    missive: Start, tmp_path: Path, end: str, number: signal.Signals
):
    """A run that is done, and gets a signal at any point of its exit, exits with 0."""
    (tmp_path / "in.jsonl").write_text('{"type":"ok"}\n')
    (tmp_path / "app.py").write_text(f"from pathlib import Path\n{HANDLING}{LINGERING}{ENDS[end]}")
    running = missive("run", "app:p", "--from", "file:in.jsonl")
    wait_until((tmp_path / "late").exists, "the exit of the interpreter")
    running.send(number)
    _, err = running.finish()
    assert running.code == 0
    assert err.splitlines()[-1] == "missive: 1 handled, 0 dead-lettered"


IMPORTING = """
import time
from pathlib import Path
Path("importing").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def importing(missive: Start, tmp_path: Path) -> Callable[..., Running]:
    """Return a function that starts a run whose application is being imported until the file `go` exists."""

    def start(*arguments: str) -> Running:
        (tmp_path / "in.jsonl").write_text('{"type":"ok"}\n')
        (tmp_path / "app.py").write_text(IMPORTING + HANDLING)
        running = missive("run", "app:p", "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db", *arguments)
        wait_until((tmp_path / "importing").exists, "the import of the application")
        return running

    return start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_import_starts_nothing(
    importing: Callable[..., Running], tmp_path: Path, number: signal.Signals
):
    """The process exits with 0 when the import ends, and fetches no message."""
    running = importing()
    running.send(number)
    (tmp_path / "go").touch()
    _, err = running.finish()
    assert (running.code, err) == (0, "missive: 0 handled, 0 dead-lettered\n")


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]])
def test_an_import_that_never_ends_does_not_outlive_a_signal(
    importing: Callable[..., Running], numbers: list[signal.Signals]
):
    """After some seconds, or a second signal, the process exits with 0 and one line: nothing was started."""
    running = importing()
    for number in numbers:
        running.send(number)
    _, err = running.finish()
    assert (running.code, err) == (0, "missive: ended by a signal outside of processing\n")


PRINTING = """
import missive

p = missive.Processor(retry=missive.Retry(immediate=2))

@p.handle_for(lambda message: {sync})
def handle(message, context):
    print(message.raw_data.decode(), flush=True)

@p.handle_for(lambda message: not {sync})
async def ahandle(message, context):
    print(message.raw_data.decode(), flush=True)

b = missive.Processor()

@b.handle_batch_for(lambda message: True, size=20)
def handle_batch(batch):
    print(len(batch), flush=True)
"""


BUFFERED = """
import sys
sys.stdout = open(1, "w", closefd=False)
"""


@pytest.mark.parametrize(("target", "sync"), [("app:p", "True"), ("app:p", "False"), ("app:b", "True")])
def test_a_closed_output_stops_the_run_and_fails_no_message(missive: Start, tmp_path: Path, target: str, sync: str):
    """When nothing reads the output of handlers, the run stops with one line, and a later run handles the messages."""
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {number}}}\n' for number in range(200)))
    (tmp_path / "app.py").write_text(PRINTING.format(sync=sync))
    reading, writing = os.pipe()
    os.close(reading)
    stopped = missive("run", target, "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db", stdout=writing)
    os.close(writing)
    _, err = stopped.finish()
    assert stopped.code == 1
    assert "missive: standard output is closed, and app:" in err.splitlines()[-1]
    again = missive("run", target, "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db")
    _, err = again.finish()
    assert (again.code, err.splitlines()[-1]) == (0, "missive: 200 handled, 0 dead-lettered")


def test_lines_that_nothing_reads_at_the_end_are_reported(missive: Start, tmp_path: Path):
    """A run whose buffered output is lost says so after its report, and exits with 1."""
    (tmp_path / "in.jsonl").write_text("{}\n")
    (tmp_path / "app.py").write_text(PRINTING.format(sync="True").replace(", flush=True", "") + BUFFERED)
    reading, writing = os.pipe()
    os.close(reading)
    running = missive("run", "app:p", "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db", stdout=writing)
    os.close(writing)
    _, err = running.finish()
    assert (running.code, without_common(err).splitlines()) == (
        1,
        [
            "missive: 1 handled, 0 dead-lettered",
            "missive: standard output is closed: the last lines that handlers printed are lost",
        ],
    )


REFUSED = {
    "no handler": ("", "p has no handler: "),
    "no parentheses": (
        "@p.handle_for\ndef f(message, context): ...\n",
        "the matcher f must take one message; ",
    ),
    "no parentheses, one argument": (
        "@p.handle_for\ndef f(message, context=None): ...\n",
        "handle_for in ",
    ),
    "no parentheses for a batch": ("@p.handle_batch_for\ndef f(batch): ...\n", "handle_batch_for in "),
    "no function": ("p.handle_for(lambda message: True)\n", "handle_for in "),
    "a class": ("p.handle_for(missive.matchers.Everything)\n", "the matcher Everything is a class: "),
    "an async hook of a def": (
        "@p.before_handling\nasync def hook(one, other): ...\n"
        "@p.handle_for(lambda message: True)\ndef f(message, context): ...\n",
        "the hook app:hook is async, and the handler app:f is not: ",
    ),
}


@pytest.mark.parametrize(
    ("case", "workers"), [*((case, []) for case in REFUSED), ("an async hook of a def", ["--workers", "2"])]
)
def test_a_processor_that_cannot_work_is_a_usage_error(run: Run, tmp_path: Path, case: str, workers: list[str]):
    """A processor without handlers, or with a declaration that can never work, exits with 2 and handles nothing."""
    application, error = REFUSED[case]
    (tmp_path / "app.py").write_text(f'import missive\np = missive.Processor(name="p")\n{application}')
    source = "sqlite:///queue.db?queue=q" if workers else "file:in.jsonl"
    code, _, err = run("run", "app:p", "--from", source, "--dlq", "sqlite:///dlq.db", *workers)
    assert (code, len(err.splitlines())) == (2, 1)
    assert error in err


WAITING = """
import asyncio, os, time
import missive

p = missive.Processor(concurrency=2)

@p.handle_for(lambda message: message.raw_data == b"1")
def sleeps(message, context):
    os.write(1, b"started\\n")
    while not os.path.exists("go"):
        time.sleep(0.01)

async def inner():
    os.write(1, b"started\\n")
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)

@p.handle_for(lambda message: message.raw_data == b"2")
async def waits(message, context):
    await inner()
"""


def test_sigusr1_prints_the_stacks_and_ends_nothing(missive: Start, tmp_path: Path):
    """SIGUSR1 prints the functions of threads and suspended tasks, and the run goes on."""
    (tmp_path / "in.jsonl").write_text("1\n2\n")
    (tmp_path / "app.py").write_text(WAITING)
    running = missive("run", "app:p", "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db")
    running.line()
    running.line()
    running.send(signal.SIGUSR1)
    shown = ""
    while not all(f" in {name}\n" in shown for name in ("sleeps", "waits", "inner")):
        shown += running.error_line()
    (tmp_path / "go").touch()
    _, err = running.finish()
    assert (running.code, err.splitlines()[-1]) == (0, "missive: 2 handled, 0 dead-lettered")


def test_sigusr1_reaches_the_workers(missive: Start, tmp_path: Path):
    """A supervisor passes SIGUSR1 on to its workers."""
    (tmp_path / "app.py").write_text(WAITING)
    source, store = "sqlite:///queue.db?queue=q", "sqlite:///dlq.db"
    missive("doctor", "app:p", "--from", f"{source}&create=true", "--dlq", store).finish()
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as queue, queue:
        queue.execute("INSERT INTO missive_queue (queue, body) VALUES ('q', '1')")
    running = missive("run", "app:p", "--from", source, "--dlq", store, "--workers", "2")
    running.line()

    def is_shown() -> bool:
        running.send(signal.SIGUSR1)  # a worker that has not reported that it is ready gets none
        return " in sleeps\n" in running.errors

    wait_until(is_shown, "the stack of the handler")
    (tmp_path / "go").touch()
    running.terminate()
    assert running.code == 0
