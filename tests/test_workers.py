"""`missive run --workers`: real processes that share a queue, die and are stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest

from missive.adapters.sqlite import SCHEMA
from tests.conftest import wait_until
from tests.support.process import Running, without_common
from tests.support.rabbitmq import RabbitMQ

FROM = "sqlite:///queue.db?queue=work"

APPLICATION = """
import ctypes, os, time
import missive
from missive.matchers import Field

proc = missive.Processor(missive.JSONMessage, name="workers", concurrency=2)
log = os.open("log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(what, message):
    os.write(log, f"{what} {os.getpid()} {message.get_json()['n']}\\n".encode())

@proc.handle_for(Field("do", "work"))
def work(message, context):
    time.sleep(0.005)  # slow enough that one worker cannot handle all messages
    note("done", message)

@proc.handle_for(Field("do", "wait"))
def wait(message, context):
    note("start", message)
    while not os.path.exists("go"):
        time.sleep(0.01)
    note("done", message)

@proc.handle_batch_for(Field("do", "together"), size=10)
def together(batch):
    numbers = [message.get_json()["n"] for message in batch.messages]
    if 7 in numbers:
        os.write(log, f"start {os.getpid()} {len(numbers)}\\n".encode())
        ctypes.string_at(0)
    for message in batch.messages:
        note("done", message)

@proc.handle_for(Field("do", "die"))
def die(message, context):
    note("start", message)
    ctypes.string_at(0)
"""


@pytest.fixture
def queue(tmp_path: Path) -> Callable[..., None]:
    """Make the application and its queue. Return a function that puts messages into the queue."""
    (tmp_path / "app.py").write_text(APPLICATION)
    connection = sqlite3.connect(tmp_path / "queue.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(SCHEMA)
    (tmp_path / "queue.db").chmod(0o600)
    connection.close()

    def put(do: str, *numbers: int) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db", timeout=30)) as connection, connection:
            connection.executemany(
                "INSERT INTO missive_queue (queue, body) VALUES ('work', ?)",
                [(json.dumps({"do": do, "n": n}).encode(),) for n in numbers],
            )
        connection.close()

    return put


@pytest.fixture
def run(missive: Callable[..., Running]) -> Callable[..., Running]:
    """Start two workers on the queue. With a short `lease`, messages of a dead worker are soon redelivered."""
    return lambda *more, lease=30: missive(
        "run", "app:proc", "--from", f"{FROM}&lease={lease}", "--dlq", "sqlite:///dlq.db", "--workers", "2", *more
    )


class Log:
    """The notes of the application: an event, the id of a process and the number of a message."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "log.txt"

    def of(self, event: str) -> list[tuple[int, int]]:
        """Return the process and the message of each note of an event."""
        text = self._path.read_text() if self._path.exists() else ""
        return [(int(pid), int(n)) for found, pid, n in map(str.split, text.splitlines()) if found == event]

    def pids(self, event: str) -> set[int]:
        return {pid for pid, _ in self.of(event)}

    def numbers(self, event: str) -> set[int]:
        return {n for _, n in self.of(event)}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def waiting(directory: Path) -> int:
    """Return the number of messages in the queue."""
    connection = sqlite3.connect(directory / "queue.db", timeout=30)
    try:
        return int(connection.execute("SELECT count(*) FROM missive_queue").fetchone()[0])
    finally:
        connection.close()


def dead(directory: Path) -> list[tuple[str, Any]]:
    """Return the reason and the number of each dead letter."""
    connection = sqlite3.connect(directory / "dlq.db", timeout=30)
    try:
        found = connection.execute("SELECT reason, body FROM missive_dead_letters").fetchall()
    finally:
        connection.close()
    return [(reason, json.loads(body)["n"]) for reason, body in found]


def lives(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def both_at_work(queue: Callable[..., None], log: Log) -> None:
    """Add messages that wait until each of two workers handles one: a single worker may take all that are there."""
    numbers = iter(range(1000))

    def both() -> bool:
        queue("wait", next(numbers))
        return len(log.pids("start")) == 2

    wait_until(both, "both workers at work")


def read_from_both(parent: Running, text: str) -> None:
    """Read standard error until both workers have logged a line with a text."""
    found = 0
    while found < 2:
        found += text in parent.error_line()


def test_two_workers_share_a_queue(queue: Callable[..., None], run: Callable[..., Running], log: Log):
    """Both processes handle messages, SIGTERM drains both, and the last line sums up both reports."""
    queue("work", *range(400))
    parent = run()
    wait_until(lambda: log.numbers("done") == set(range(400)), "all messages")
    queue("work", *range(400, 3000))
    wait_until(lambda: len(log.pids("done")) == 2, "work of both workers")
    assert parent.pid not in log.pids("done")
    _, err = parent.terminate()
    assert parent.code == 0
    assert without_common(err) == f"missive: {len(log.of('done'))} handled, 0 dead-lettered" + released_part(err) + "\n"


def released_part(err: str) -> str:
    """Return the part of the last line about messages that were fetched and not started; their number is random."""
    found = re.search(r", \d+ given back unhandled$", err.rstrip())
    return found[0] if found else ""


def test_the_report_of_all_workers_is_one_json_object(
    queue: Callable[..., None], run: Callable[..., Running], log: Log
):
    """`--json` prints one object on standard output, and no report on standard error."""
    queue("work", *range(50))
    parent = run("--json")
    wait_until(lambda: log.numbers("done") == set(range(50)), "all messages")
    out, err = parent.terminate()
    assert (parent.code, without_common(err)) == (0, "")
    report = json.loads(out)
    assert (report["service"], report["handled"], report["handlers"]) == ("workers", 50, {"app:work": 50})


def test_a_killed_worker_is_replaced(queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path):
    """Other workers handle its messages, no message is lost, and the other worker continues."""
    queue("wait", 0, 1)
    parent = run(lease=2)
    wait_until(lambda: log.numbers("start") == {0, 1}, "two messages that wait")
    victim = log.of("start")[0][0]
    os.kill(victim, signal.SIGKILL)
    assert re.fullmatch(
        r"WARNING missive: worker [12] died \(SIGKILL\), starting another in 0.2 s\n", parent.error_line()
    )
    (tmp_path / "go").touch()
    queue("work", *range(2, 300))
    wait_until(lambda: log.numbers("done") == set(range(300)), "all messages")
    wait_until(lambda: not waiting(tmp_path), "an empty queue")
    assert victim not in log.pids("done")
    parent.terminate()
    assert parent.code == 0
    assert dead(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_workers(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path, number: signal.Signals
):
    """A signal to the whole process group reaches each worker once, and running handlers finish."""
    parent = run()
    both_at_work(queue, log)
    os.killpg(parent.pid, number)
    read_from_both(parent, "stopping: waiting")
    assert not log.of("done")
    (tmp_path / "go").touch()
    _, err = parent.finish()
    assert (parent.code, len(log.pids("done"))) == (0, 2)
    assert log.numbers("done") == log.numbers("start"), "all started messages are handled"
    assert without_common(err) == f"missive: {len(log.of('done'))} handled, 0 dead-lettered" + released_part(err) + "\n"


def test_a_second_signal_forces_a_stop(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """Both workers stop though their handlers run, the exit code is 1, and the messages stay in the queue."""
    parent = run()
    both_at_work(queue, log)
    parent.send(signal.SIGTERM)
    read_from_both(parent, "stopping: waiting")
    _, err = parent.terminate()
    assert parent.code == 1
    assert len(re.findall(r"worker [12] died \(exit code 1\) while stopping", err)) == 2
    assert not any(map(lives, log.pids("start")))
    assert not log.of("done")
    assert waiting(tmp_path) >= len(log.numbers("start"))


def test_workers_drain_when_their_supervisor_is_killed(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """No worker stays: each finishes and settles its running messages, and ends."""
    parent = run()
    both_at_work(queue, log)
    pids, before = log.pids("start"), waiting(tmp_path)
    parent.send(signal.SIGKILL)
    lines = {re.sub(r"\[.\]", "", parent.error_line()) for _ in range(4)}
    assert lines == {
        "WARNING missive: the supervisor is gone: stopping\n",
        "INFO missive: stopping: waiting up to 25 s for running handlers\n",
    }
    (tmp_path / "go").touch()
    assert parent.finish() == ("", "")
    wait_until(lambda: not any(map(lives, pids)), "the end of the workers")
    assert log.numbers("done") == log.numbers("start")
    assert waiting(tmp_path) == before - len(log.numbers("done"))


def test_the_death_of_the_supervisor_does_not_force_a_draining_worker(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """A drain continues when the supervisor dies after the signal."""
    parent = run()
    both_at_work(queue, log)
    pids = log.pids("start")
    parent.send(signal.SIGTERM)
    read_from_both(parent, "stopping: waiting")
    parent.send(signal.SIGKILL)
    read_from_both(parent, "the supervisor is gone")
    (tmp_path / "go").touch()
    _, err = parent.finish()
    assert "by force" not in err
    assert log.numbers("done") == log.numbers("start")
    wait_until(lambda: not any(map(lives, pids)), "the end of the workers")


def test_a_message_that_kills_workers_is_quarantined(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """The third death of any worker quarantines the message; all other messages are handled."""
    queue("work", *range(20))
    queue("die", 20)
    queue("work", *range(21, 60))
    parent = run(lease=2)
    wait_until(lambda: log.numbers("done") >= {*range(20), *range(21, 60)}, "all others")
    wait_until(lambda: not waiting(tmp_path), "an empty queue")
    _, err = parent.terminate()
    assert parent.code == 0
    assert len(re.findall(r"worker [12] died \(SIGSEGV\)", err)) == 3
    assert len(log.of("start")) == 3
    assert dead(tmp_path) == [("poison", 20)]


def test_a_batch_that_kills_workers_loses_one_message(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """All messages of the batch are suspects and run in batches of one, so only the culprit is quarantined."""
    queue("together", *range(40))
    parent = run(lease=2)
    wait_until(lambda: log.numbers("done") == set(range(40)) - {7}, "all others")
    wait_until(lambda: not waiting(tmp_path), "an empty queue")
    _, err = parent.terminate()
    assert parent.code == 0
    assert len(re.findall(r"worker [12] died \(SIGSEGV\)", err)) == 3
    sizes = [size for _, size in log.of("start")]
    assert (len(sizes), sizes[-1]) == (3, 1)
    assert dead(tmp_path) == [("poison", 7)]


@pytest.mark.rabbitmq
def test_a_message_that_kills_workers_is_quarantined_despite_immediate_redelivery(
    queue: Callable[..., None], missive: Callable[..., Running], log: Log, tmp_path: Path, rabbitmq: RabbitMQ
):
    """RabbitMQ redelivers the message before the dead worker is replaced, and still only three workers die."""
    name = f"workers-{os.getpid()}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True)
        for n in range(60):
            body = json.dumps({"do": "die" if n == 20 else "work", "n": n}).encode()
            channel.basic_publish("", name, body, pika.BasicProperties(delivery_mode=2))
    parent = missive("run", "app:proc", "--from", rabbitmq.url(name), "--dlq", "sqlite:///dlq.db", "--workers", "2")
    wait_until(lambda: log.numbers("done") == set(range(60)) - {20}, "all others")
    wait_until(lambda: dead(tmp_path), "the dead letter")
    _, err = parent.terminate()
    assert parent.code == 0
    assert len(re.findall(r"worker [12] died \(SIGSEGV\)", err)) == 3
    assert len(log.of("start")) == 3
    assert dead(tmp_path) == [("poison", 20)]


# Errors


def test_wrong_usage_is_reported_once(missive: Callable[..., Running], queue: Callable[..., None], tmp_path: Path):
    """A usage error that only a worker finds ends all processes with exit code 2 and one line."""
    queue("work", 1)
    # The first import, by the supervisor, makes every later import fail.
    with (tmp_path / "app.py").open("a") as file:
        file.write("os.close(os.open('imported', os.O_CREAT | os.O_EXCL))\n")
    parent = missive("run", "app:proc", "--from", FROM, "--dlq", "sqlite:///dlq.db", "--workers", "3")
    _, err = parent.finish()
    assert parent.code == 2
    assert len(without_common(err).splitlines()) == 1
    assert without_common(err).startswith("missive: ")
    assert "FileExistsError" in err


def test_the_supervisor_gives_up_when_no_worker_can_start(
    missive: Callable[..., Running], queue: Callable[..., None], tmp_path: Path
):
    """After three failed starts of each worker, the supervisor exits with 1 and one line."""
    with (tmp_path / "app.py").open("a") as file:
        file.write("@proc.before_processing\ndef hook(context):\n    raise PermissionError('credentials')\n")
    parent = missive("run", "app:proc", "--from", FROM, "--dlq", "sqlite:///dlq.db", "--workers", "2")
    _, err = parent.finish()
    assert parent.code == 1
    assert err.splitlines()[-1].startswith("missive: no worker was ever ready, and each failed 3 times: giving up")
    assert "the hook app:hook raised PermissionError" in err


@pytest.mark.parametrize(
    ("application", "source", "complaint"),
    [
        ("", "stdin:", "stdin: cannot be shared between processes"),
        ("", "file:in.jsonl", "in.jsonl cannot be shared between processes"),
        (
            "proc.add_handler(Field('k', 1), lambda m, c: None, name='ordered', ordered_by=lambda m: 1)\n",
            FROM,
            "ordered has ordered_by",
        ),
    ],
)
def test_sources_and_handlers_that_workers_cannot_share_are_refused(
    missive: Callable[..., Running],
    queue: Callable[..., None],
    tmp_path: Path,
    application: str,
    source: str,
    complaint: str,
):
    """Without a correct way to share messages, no worker starts, and the exit code is 2."""
    with (tmp_path / "app.py").open("a") as file:
        file.write(application)
    options = ("run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db")
    parent = missive(*options, env={"MISSIVE_WORKERS": "2"})
    out, err = parent.finish()
    assert (parent.code, out) == (2, "")
    assert "missive: --workers 2: " in err
    assert complaint in err
    assert "--concurrency" in err
    assert not (tmp_path / "dlq.db").exists()


def test_one_worker_needs_no_supervisor(missive: Callable[..., Running], queue: Callable[..., None], log: Log):
    """With `--workers 1`, the started process handles the messages itself."""
    queue("work", 1)
    process = missive("run", "app:proc", "--from", FROM, "--dlq", "sqlite:///dlq.db", "--workers", "1")
    wait_until(lambda: log.of("done"), "the message")
    _, err = process.terminate()
    assert log.pids("done") == {process.pid}
    assert without_common(err) == "missive: 1 handled, 0 dead-lettered\n"
