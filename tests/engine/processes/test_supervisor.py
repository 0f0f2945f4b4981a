"""The supervisor: it restarts workers after delays, adds their counts, and gives up when none is ever ready."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from missive import ProcessingFailed, Processor, UsageError
from missive.engine.processes.supervisor import Supervisor, check_shareable
from missive.engine.runtime import Runtime
from missive.matchers import Everything, by_key
from missive.testing import MemoryAdapter

CHILD = """
import json, os, signal, socket, sys
number, fd = os.environ["MISSIVE_WORKER"].split(":")
line = socket.socket(fileno=int(fd))
counts = dict.fromkeys(["duplicates", "retried", "nacked", "parked", "redelivered", "released", "unsettled"], 1)
counts |= {"handlers": {"h": 10}, "discards": {}, "reasons": {"failed": 2}}
def send(state):
    line.sendall(json.dumps({"state": state, "report": counts, "done": True}).encode() + b"\\n")
with open(f"starts-{number}", "a") as file:
    file.write("x")
starts = os.stat(f"starts-{number}").st_size
"""


class NoSleep(Runtime):
    """A runtime that calls `on_sleep` instead of sleeping. Its clock advances by `life` at each call."""

    def __init__(self, on_sleep: Callable[[float], None] = lambda _: None, life: float = 0.0) -> None:
        self.on_sleep = on_sleep
        self.life = life
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += self.life
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.on_sleep(seconds)
        if seconds == 1.0:  # the wait for the last lines of a dead worker, which have arrived
            await super().sleep(seconds)


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Supervisor]:
    """Return a function that supervises workers of a script, in a new directory."""
    monkeypatch.chdir(tmp_path)

    def supervise(script: str, workers: int = 2, runtime: Runtime | None = None) -> Supervisor:
        return Supervisor([sys.executable, "-c", CHILD + script], workers, runtime=runtime or NoSleep())

    return supervise


def starts(number: int) -> int:
    """Return how often a worker was started."""
    return len(Path(f"starts-{number}").read_text())


def delays(caplog: pytest.LogCaptureFixture, number: int) -> list[float]:
    """Return the logged delays before the restarts of a worker, in seconds."""
    return [float(one) for one in re.findall(rf"worker {number} died .* another in (\S+) s", caplog.text)]


def test_a_finished_worker_is_not_restarted(supervise: Callable[..., Supervisor]):
    """A worker with exit code 0 is not restarted, and the counts of all workers are added."""
    supervisor = supervise("send('running')")
    assert supervisor.run()
    assert (starts(1), starts(2)) == (1, 1)
    report = supervisor.report.to_dict()
    assert (report["handled"], report["dead_lettered"], report["nacked"]) == (20, 4, 2)
    assert (report["handlers"], report["reasons"]) == ({"h": 20}, {"failed": 4})
    assert [worker["state"] for worker in supervisor.view()["workers"]] == ["done", "done"]


def test_a_worker_that_did_not_say_that_it_is_done_is_replaced(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
):
    """A handler may end its process with any exit code: no code alone means that a worker is done."""
    script = """
if starts == 3:
    send("running")
    sys.exit(0)
line.sendall(json.dumps({"state": "running", "report": counts}).encode() + b"\\n")
os._exit({1: 0, 2: 2}[starts])
"""
    assert supervise(script, workers=1).run()
    assert starts(1) == 3
    assert delays(caplog, 1) == [0.2, 0.4]
    assert "worker 1 died (exit code 0), starting another" in caplog.text


def test_the_delay_of_restarts_doubles(supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture):
    """The delay doubles from 0.2 s to 30 s. Each death is logged, and the counts of dead workers remain."""
    supervisor = supervise("send('running')\nsys.exit(0 if starts == 11 else 1)", workers=1)
    assert supervisor.run()
    assert delays(caplog, 1) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert caplog.text.count("worker 1 died (exit code 1), starting another in 0.2 s") == 1
    assert supervisor.report.total_handled == 110


def test_a_long_life_resets_the_delay(supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture):
    """A worker that lived for a minute is restarted after the shortest delay."""
    script = "send('running')\nsys.exit(0 if starts == 4 else 1)"
    assert supervise(script, workers=1, runtime=NoSleep(life=59)).run()
    assert delays(caplog, 1) == [0.2, 0.4, 0.8]
    caplog.clear()
    Path("starts-1").unlink()
    assert supervise(script, workers=1, runtime=NoSleep(life=60)).run()
    assert delays(caplog, 1) == [0.2, 0.2, 0.2]


def test_a_signal_is_named(supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture):
    """The log names the signal that killed a worker."""
    supervisor = supervise("send('running')\nif starts == 1: os.kill(os.getpid(), signal.SIGSEGV)", workers=1)
    assert supervisor.run()
    assert "worker 1 died (SIGSEGV), starting another in 0.2 s" in caplog.text


def test_a_child_of_a_dead_worker_that_holds_its_socket_is_not_waited_for(
    supervise: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
):
    """When a child of a dead worker holds the socket open, the supervisor ends, and asyncio reports no error."""
    script = """
import time
send("running")
if os.fork() == 0:
    while not os.path.exists("over"):
        time.sleep(0.01)
"""
    supervisor = supervise(script, workers=1)
    assert supervisor.run()
    Path("over").touch()
    gc.collect()
    assert supervisor.report.total_handled == 10
    assert caplog.text == ""


def test_the_supervisor_gives_up_when_no_worker_was_ever_ready(supervise: Callable[..., Supervisor]):
    """The supervisor gives up when each worker failed three times and none was ever ready."""
    with pytest.raises(ProcessingFailed, match="each failed 3 times"):
        supervise("send('connecting')\nsys.exit(1)").run()
    assert min(starts(1), starts(2)) == 3


def test_the_supervisor_does_not_give_up_after_a_worker_was_ready(supervise: Callable[..., Supervisor]):
    """After a worker was ready once, failing workers are restarted without limit."""
    supervisor = supervise("send('running') if starts in (1, 6) else None\nsys.exit(0 if starts > 5 else 1)")
    assert supervisor.run()
    assert (starts(1), starts(2)) == (6, 6)


def test_a_command_that_cannot_be_started(tmp_path: Path):
    """A command that cannot be started is tried again and then given up."""
    with pytest.raises(ProcessingFailed):
        Supervisor([str(tmp_path / "nothing")], 1, runtime=NoSleep()).run()


def test_a_usage_error_ends_all_workers(supervise: Callable[..., Supervisor]):
    """A worker's usage error is raised once. No worker is restarted, and the others are stopped."""
    script = """
import time
if number == "1":
    while not os.path.exists("starts-2"):
        time.sleep(0.01)
    line.sendall(b'{"usage": "no such processor"}\\n')
    sys.exit(2)
signal.sigwait([signal.SIGTERM])
"""
    with pytest.raises(UsageError, match=r"^no such processor$"):
        supervise("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n" + script).run()
    assert (starts(1), starts(2)) == (1, 1)


def test_view_describes_each_worker(supervise: Callable[..., Supervisor]):
    """`view` returns the process, state and restarts of each worker, and the sum of their counts."""
    seen: list[dict[str, Any]] = []
    supervisor: Supervisor

    def on_sleep(seconds: float) -> None:
        view = supervisor.view()
        if not seen and [worker["state"] for worker in view["workers"]] == ["waiting", "running"]:
            seen.append(view)
            Path("seen").touch()

    script = """
import time
send("running")
if number == "1":
    sys.exit(not os.path.exists("seen"))
while not os.path.exists("seen"):
    time.sleep(0.01)
"""
    supervisor = supervise(script, runtime=NoSleep(on_sleep))
    assert supervisor.run()
    one, two = seen[0]["workers"]
    assert (one["worker"], one["pid"]) == (1, None)
    assert one["restarts"] >= 1
    assert (two["worker"], two["restarts"]) == (2, 0)
    assert two["pid"] not in (None, os.getpid())
    assert seen[0]["report"]["handled"] == 10 * (one["restarts"] + 1)


@pytest.mark.parametrize("line", ["b'{'", "b'[]\\n'", "b'{}\\n'", "b'\\xff\\n'", 'b\'{"state": 1, "report": 3}\\n\''])
def test_an_invalid_line_is_ignored(supervise: Callable[..., Supervisor], line: str):
    """An invalid line, such as one that a dying worker truncated, is ignored."""
    supervisor = supervise(f"send('running')\nline.sendall({line})", workers=1)
    assert supervisor.run()
    assert supervisor.report.total_handled == 10


# Transports and handlers that several workers cannot share


def handler(message: Any, context: Any) -> None: ...


@pytest.mark.parametrize("exclusive", [False, True])
def test_ordered_handlers_need_exclusive_lanes(monkeypatch: pytest.MonkeyPatch, exclusive: bool):
    """Several workers are refused for a handler with `ordered_by`, unless the lanes of the transport are exclusive."""
    monkeypatch.setattr(MemoryAdapter, "exclusive_lanes", exclusive)
    proc = Processor(name="t")
    proc.add_handler(Everything(), handler, name="orders", ordered_by=by_key)
    if exclusive:
        check_shareable([MemoryAdapter(proc)], 2)
    else:
        with pytest.raises(UsageError, match=r"--workers 2: orders has ordered_by.*Omit"):
            check_shareable([MemoryAdapter(proc)], 2)


def test_a_transport_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Several workers are refused for a transport that would deliver each message to every process."""
    monkeypatch.setattr(MemoryAdapter, "shareable", False)
    with pytest.raises(UsageError, match="memory:memory cannot be shared"):
        check_shareable([MemoryAdapter(Processor(name="t"))], 3)
