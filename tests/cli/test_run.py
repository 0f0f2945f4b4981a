"""`missive run`: its report, and options from the environment."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Start
from tests.conftest import wait_until
from tests.support.process import Running


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
