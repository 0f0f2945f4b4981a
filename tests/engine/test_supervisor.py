"""The supervisor: whom it starts again and when, what it sums up, and when it gives up."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from missive import ProcessingFailed, Processor, UsageError
from missive.engine.processes.supervisor import Supervisor, check_shareable
from missive.engine.processes.worker import VARIABLE, Worker
from missive.engine.report import Report
from missive.engine.runtime import Runtime
from missive.matchers import Everything
from missive.testing import MemoryAdapter

CHILD = """
import json, os, signal, socket, sys
number, fd = os.environ["MISSIVE_WORKER"].split(":")
line = socket.socket(fileno=int(fd))
counts = dict.fromkeys(["duplicates", "retried", "nacked", "parked", "redelivered", "released", "unsettled"], 1)
counts |= {"handlers": {"h": 10}, "discards": {}, "reasons": {"failed": 2}}
def tell(state):
    line.sendall(json.dumps({"state": state, "report": counts}).encode() + b"\\n")
with open(f"starts-{number}", "a") as file:
    file.write("x")
starts = os.stat(f"starts-{number}").st_size
"""


class Quick(Runtime):
    """Waits for nothing. `asked` is called with each wait."""

    def __init__(self, asked: Callable[[float], None] = lambda _: None, life: float = 0.0) -> None:
        self.asked = asked
        self.life = life
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += self.life
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.asked(seconds)
        if seconds == 1.0:  # for the last words of one that died, which are there
            await super().sleep(seconds)


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Supervisor]:
    """Make supervisors of a script, in a directory of their own."""
    monkeypatch.chdir(tmp_path)

    def supervise(script: str, workers: int = 2, runtime: Runtime | None = None) -> Supervisor:
        return Supervisor([sys.executable, "-c", CHILD + script], workers, runtime=runtime or Quick())

    return supervise


def starts(number: int) -> int:
    return len(Path(f"starts-{number}").read_text())


def waits(caplog: pytest.LogCaptureFixture, number: int) -> list[float]:
    return [float(one) for one in re.findall(rf"worker {number} died .* another in (\S+) s", caplog.text)]


def test_one_that_is_done_is_not_started_again(supervise: Callable[..., Supervisor]):
    """Exit code 0 is the end of its input; what all counted is summed, by handler and reason too."""
    supervisor = supervise("tell('running')")
    assert supervisor.run()
    assert (starts(1), starts(2)) == (1, 1)
    report = supervisor.report.to_dict()
    assert (report["handled"], report["dead_lettered"], report["nacked"]) == (20, 4, 2)
    assert (report["handlers"], report["reasons"]) == ({"h": 20}, {"failed": 4})
    assert [worker["state"] for worker in supervisor.view()["workers"]] == ["done", "done"]


def test_the_back_off_doubles(supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture):
    """From a fifth of a second to thirty; each death is one line, and the counts of the dead are kept."""
    supervisor = supervise("tell('running')\nsys.exit(0 if starts == 11 else 1)", workers=1)
    assert supervisor.run()
    assert waits(caplog, 1) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert caplog.text.count("worker 1 died (exit code 1), starting another in 0.2 s") == 1
    assert supervisor.report.total_handled == 110


def test_a_long_life_begins_again(supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture):
    """One that lived for a minute is followed after the shortest time."""
    script = "tell('running')\nsys.exit(0 if starts == 4 else 1)"
    assert supervise(script, workers=1, runtime=Quick(life=59)).run()
    assert waits(caplog, 1) == [0.2, 0.4, 0.8]
    caplog.clear()
    Path("starts-1").unlink()
    assert supervise(script, workers=1, runtime=Quick(life=60)).run()
    assert waits(caplog, 1) == [0.2, 0.2, 0.2]


def test_a_signal_is_named(supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture):
    """What it died of is said as a person knows it."""
    supervisor = supervise("tell('running')\nif starts == 1: os.kill(os.getpid(), signal.SIGSEGV)", workers=1)
    assert supervisor.run()
    assert "worker 1 died (SIGSEGV), starting another in 0.2 s" in caplog.text


def test_it_gives_up_where_none_was_ever_ready(supervise: Callable[..., Supervisor]):
    """Each failed three times, as with wrong credentials: there is no use in going on."""
    with pytest.raises(ProcessingFailed, match="each failed 3 times"):
        supervise("tell('connecting')\nsys.exit(1)").run()
    assert min(starts(1), starts(2)) == 3


def test_it_does_not_give_up_where_one_was_ready(supervise: Callable[..., Supervisor]):
    """Where a worker could start once, what is wrong now may have an end."""
    supervisor = supervise("tell('running') if starts == 1 else None\nsys.exit(0 if starts > 5 else 1)")
    assert supervisor.run()
    assert (starts(1), starts(2)) == (6, 6)


def test_a_command_that_cannot_be_started(tmp_path: Path):
    """It is tried again, and given up."""
    with pytest.raises(ProcessingFailed):
        Supervisor([str(tmp_path / "nothing")], 1, runtime=Quick()).run()


def test_wrong_usage_is_said_once(supervise: Callable[..., Supervisor]):
    """The first that says so ends all, at once: nobody is started again, and the others are told to stop."""
    script = """
import time
if number == "1":
    while not os.path.exists("starts-2"):
        time.sleep(0.01)
    line.sendall(b'{"usage": "there is no such thing"}\\n')
    sys.exit(2)
signal.sigwait([signal.SIGTERM])
"""
    with pytest.raises(UsageError, match=r"^there is no such thing$"):
        supervise("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n" + script).run()
    assert (starts(1), starts(2)) == (1, 1)


def test_the_view(supervise: Callable[..., Supervisor]):
    """One look: each worker's process, state and restarts, and what all of them counted."""
    seen: list[dict[str, Any]] = []
    supervisor: Supervisor

    def asked(seconds: float) -> None:
        view = supervisor.view()
        if not seen and [worker["state"] for worker in view["workers"]] == ["waiting", "running"]:
            seen.append(view)
            Path("seen").touch()

    script = """
import time
tell("running")
if number == "1":
    sys.exit(not os.path.exists("seen"))
while not os.path.exists("seen"):
    time.sleep(0.01)
"""
    supervisor = supervise(script, runtime=Quick(asked))
    assert supervisor.run()
    one, two = seen[0]["workers"]
    assert (one["worker"], one["pid"]) == (1, None)
    assert one["restarts"] >= 1
    assert (two["worker"], two["restarts"]) == (2, 0)
    assert two["pid"] not in (None, os.getpid())
    assert seen[0]["report"]["handled"] == 10 * (one["restarts"] + 1)


@pytest.mark.parametrize(
    "nonsense", ["b'{'", "b'[]\\n'", "b'{}\\n'", "b'\\xff\\n'", 'b\'{"state": 1, "report": 3}\\n\'']
)
def test_a_line_that_was_cut_off_is_left_out(supervise: Callable[..., Supervisor], nonsense: str):
    """A worker may die in the middle of a word."""
    supervisor = supervise(f"tell('running')\nline.sendall({nonsense})", workers=1)
    assert supervisor.run()
    assert supervisor.report.total_handled == 10


# Reports


def test_a_report_comes_back_from_json():
    """What a worker sends is what it counted."""
    report = Report()
    report.handled.update(a=1, b=2)
    report.discarded.update(a=3)
    report.dead.update(failed=4)
    report.retried, report.nacked, report.redelivered, report.released, report.unsettled = range(5, 10)
    again = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.to_dict() == report.to_dict()
    again.add(report)
    assert (again.handled["b"], again.dead["failed"], again.unsettled) == (4, 8, 18)


# Refusals


def handler(message: Any, context: Any) -> None: ...


@pytest.mark.parametrize("exclusive", [False, True])
def test_order_needs_lanes_that_one_consumer_has(monkeypatch: pytest.MonkeyPatch, exclusive: bool):
    """With ordered_by it is refused, by the handler's name, but for a transport whose lanes are exclusive."""
    monkeypatch.setattr(MemoryAdapter, "exclusive_lanes", exclusive)
    proc = Processor(name="t")
    proc.add_handler(Everything(), handler, name="orders", ordered_by=lambda message: message.key)
    if exclusive:
        check_shareable([MemoryAdapter(proc)], 2)
    else:
        with pytest.raises(UsageError, match=r"--workers 2: orders has ordered_by.*Omit"):
            check_shareable([MemoryAdapter(proc)], 2)


def test_what_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A transport of which several processes would each get everything."""
    monkeypatch.setattr(MemoryAdapter, "shareable", False)
    with pytest.raises(UsageError, match="memory:memory cannot be shared"):
        check_shareable([MemoryAdapter(Processor(name="t"))], 3)


# The worker's end


def test_a_process_that_nobody_started_is_no_worker():
    """Without the variable there is no line, and a made-up one is wrong usage."""
    assert Worker.inherited({}) is None
    environment = {VARIABLE: "1:x"}
    with pytest.raises(UsageError, match="must not be set"):
        Worker.inherited(environment)
    assert environment == {}, "what a handler starts is no worker"
    with pytest.raises(UsageError, match="must not be set"):
        Worker.inherited({VARIABLE: f"1:{os.sysconf('SC_OPEN_MAX') + 1}"})
