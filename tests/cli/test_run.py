"""`missive run`: its report, and options from the environment."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run, Start
from tests.cli.test_main import HEAD
from tests.conftest import wait_until


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


LATE = """
import time

class Late:
    def __del__(self, touch=Path("late").touch, sleep=time.sleep):
        touch()
        sleep(0.5)

late = Late()
"""


def test_a_signal_at_exit_does_not_change_the_exit_code(missive: Start, tmp_path: Path):
    """A run that is done, and gets SIGTERM while its interpreter exits, exits with 0."""
    (tmp_path / "in.jsonl").write_text('{"type":"ok"}\n')
    (tmp_path / "app.py").write_text(f"from pathlib import Path\n{HEAD}{LATE}")
    running = missive("run", "app:p", "--from", "file:in.jsonl")
    wait_until((tmp_path / "late").exists, "the exit of the interpreter")
    running.terminate()
    assert running.code == 0
