"""`missive run --workers`: real processes that share a queue, die, and are stopped."""

from __future__ import annotations

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
from tests.support.process import Running
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
    time.sleep(0.005)  # so long that one worker alone does not get all
    note("done", message)

@proc.handle_for(Field("do", "wait"))
def wait(message, context):
    note("start", message)
    while not os.path.exists("go"):
        time.sleep(0.01)
    note("done", message)

@proc.handle_for(Field("do", "die"))
def die(message, context):
    note("start", message)
    ctypes.string_at(0)
"""


@pytest.fixture
def queue(tmp_path: Path) -> Callable[..., None]:
    """Make the application and its queue; returns what puts messages into it."""
    (tmp_path / "app.py").write_text(APPLICATION)
    connection = sqlite3.connect(tmp_path / "queue.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(SCHEMA)
    connection.close()

    def put(do: str, *numbers: int) -> None:
        with sqlite3.connect(tmp_path / "queue.db", timeout=30) as connection:
            connection.executemany(
                "INSERT INTO missive_queue (queue, body) VALUES ('work', ?)",
                [(json.dumps({"do": do, "n": n}).encode(),) for n in numbers],
            )
        connection.close()

    return put


@pytest.fixture
def run(missive: Callable[..., Running]) -> Callable[..., Running]:
    """Start two workers on the queue; what one had that died is soon given to another if `lease` is short."""
    return lambda *more, lease=30: missive(
        "run", "app:proc", "--from", f"{FROM}&lease={lease}", "--dlq", "sqlite:///dlq.db", "--workers", "2", *more
    )


class Log:
    """What the application noted: of which process, and of which message."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "log.txt"

    def of(self, what: str) -> list[tuple[int, int]]:
        text = self._path.read_text() if self._path.exists() else ""
        return [(int(pid), int(n)) for found, pid, n in map(str.split, text.splitlines()) if found == what]

    def pids(self, what: str) -> set[int]:
        return {pid for pid, _ in self.of(what)}

    def numbers(self, what: str) -> set[int]:
        return {n for _, n in self.of(what)}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def waiting(directory: Path) -> int:
    """Return how many messages are in the queue."""
    connection = sqlite3.connect(directory / "queue.db", timeout=30)
    try:
        return int(connection.execute("SELECT count(*) FROM missive_queue").fetchone()[0])
    finally:
        connection.close()


def dead(directory: Path) -> list[tuple[str, Any]]:
    connection = sqlite3.connect(directory / "dlq.db", timeout=30)
    try:
        found = connection.execute("SELECT reason, body FROM missive_dead_letters").fetchall()
    finally:
        connection.close()
    return [(reason, json.loads(body)["n"]) for reason, body in found]


def lives(pid: int) -> bool:
    """Tell whether a process runs: one that is dead and whose parent has not looked does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def both_at_work(queue: Callable[..., None], log: Log) -> None:
    """Have each of two workers run messages that wait: one may take what there is, so there is more until both do."""
    numbers = iter(range(1000))

    def both() -> bool:
        queue("wait", next(numbers))
        return len(log.pids("start")) == 2

    wait_until(both, "both workers at work")


def hear(parent: Running, what: str) -> None:
    """Read what is said on standard error until both workers have said it."""
    heard = 0
    while heard < 2:
        heard += what in parent.error_line()


def test_both_work(queue: Callable[..., None], run: Callable[..., Running], log: Log):
    """Two processes share a queue; SIGTERM drains both, and the last line sums them up, once."""
    queue("work", *range(400))
    parent = run()
    wait_until(lambda: log.numbers("done") == set(range(400)), "all messages")
    queue("work", *range(400, 3000))
    wait_until(lambda: len(log.pids("done")) == 2, "work of both workers")
    assert parent.pid not in log.pids("done")
    _, err = parent.terminate()
    assert parent.code == 0
    assert err == f"missive: {len(log.of('done'))} handled, 0 dead-lettered" + said_of_released(err) + "\n"


def said_of_released(err: str) -> str:
    """Return what the last line says of messages that were fetched and not started: that depends on the moment."""
    found = re.search(r", \d+ given back unhandled$", err.rstrip())
    return found[0] if found else ""


def test_json_is_one_object(queue: Callable[..., None], run: Callable[..., Running], log: Log):
    """The report of all workers is one JSON object on standard output."""
    queue("work", *range(50))
    parent = run("--json")
    wait_until(lambda: log.numbers("done") == set(range(50)), "all messages")
    out, err = parent.terminate()
    assert (parent.code, err) == (0, "")
    report = json.loads(out)
    assert (report["service"], report["handled"], report["handlers"]) == ("workers", 50, {"app:work": 50})


def test_one_that_is_killed_is_replaced(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """What it had is done by others, nothing is lost, and its neighbour goes on."""
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
def test_a_signal_drains_all(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path, number: signal.Signals
):
    """A terminal's Ctrl-C reaches the whole group, and yet each worker is told once: what runs may finish."""
    parent = run()
    both_at_work(queue, log)
    os.killpg(parent.pid, number)
    hear(parent, "stopping: waiting")
    assert not log.of("done")
    (tmp_path / "go").touch()
    _, err = parent.finish()
    assert (parent.code, len(log.pids("done"))) == (0, 2)
    assert log.numbers("done") == log.numbers("start"), "what ran has finished"
    assert err == f"missive: {len(log.of('done'))} handled, 0 dead-lettered" + said_of_released(err) + "\n"


def test_a_second_signal_forces(queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path):
    """Both workers stop though their handlers do not, and the exit code says so; the messages come again."""
    parent = run()
    both_at_work(queue, log)
    parent.send(signal.SIGTERM)
    hear(parent, "stopping: waiting")
    _, err = parent.terminate()
    assert parent.code == 1
    assert len(re.findall(r"worker [12] died \(exit code 1\) while stopping", err)) == 2
    assert not any(map(lives, log.pids("start")))
    assert not log.of("done")
    assert waiting(tmp_path) >= len(log.numbers("start"))


def test_workers_drain_when_their_supervisor_is_killed(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """Nobody is left behind: each finishes what it runs, settles it, and ends."""
    parent = run()
    both_at_work(queue, log)
    pids, before = log.pids("start"), waiting(tmp_path)
    parent.send(signal.SIGKILL)
    said = {re.sub(r"\[.\]", "", parent.error_line()) for _ in range(4)}
    assert said == {
        "WARNING missive: the supervisor is gone: stopping\n",
        "INFO missive: stopping: waiting up to 25 s for running work\n",
    }
    (tmp_path / "go").touch()
    assert parent.finish() == ("", "")
    wait_until(lambda: not any(map(lives, pids)), "the end of the workers")
    assert log.numbers("done") == log.numbers("start")
    assert waiting(tmp_path) == before - len(log.numbers("done"))


def test_a_worker_that_is_already_stopping_is_not_forced_by_the_end_of_its_supervisor(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """A signal, then the supervisor's death: the drain goes on."""
    parent = run()
    both_at_work(queue, log)
    pids = log.pids("start")
    parent.send(signal.SIGTERM)
    hear(parent, "stopping: waiting")
    parent.send(signal.SIGKILL)
    hear(parent, "the supervisor is gone")
    (tmp_path / "go").touch()
    _, err = parent.finish()
    assert "by force" not in err
    assert log.numbers("done") == log.numbers("start")
    wait_until(lambda: not any(map(lives, pids)), "the end of the workers")


def test_a_message_that_kills_workers_is_quarantined(
    queue: Callable[..., None], run: Callable[..., Running], log: Log, tmp_path: Path
):
    """At the third death, with whichever workers these were; all other messages are handled."""
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


@pytest.mark.rabbitmq
def test_a_message_that_kills_workers_is_quarantined_where_it_comes_again_at_once(
    queue: Callable[..., None], missive: Callable[..., Running], log: Log, tmp_path: Path, rabbitmq: RabbitMQ
):
    """RabbitMQ gives it to the other worker before the dead one's successor is there: three deaths, no more."""
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


# What is wrong


def test_wrong_usage_is_said_once(missive: Callable[..., Running], queue: Callable[..., None], tmp_path: Path):
    """What only a worker finds wrong ends all with 2, in one line."""
    queue("work", 1)
    # Imported once, by the supervisor, it can be imported no more.
    with (tmp_path / "app.py").open("a") as file:
        file.write("os.close(os.open('imported', os.O_CREAT | os.O_EXCL))\n")
    parent = missive("run", "app:proc", "--from", FROM, "--dlq", "sqlite:///dlq.db", "--workers", "3")
    _, err = parent.finish()
    assert parent.code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("missive: ")
    assert "FileExistsError" in err


def test_it_gives_up_where_no_worker_can_start(
    missive: Callable[..., Running], queue: Callable[..., None], tmp_path: Path
):
    """Three failures of each, as a hook that raises makes: exit code 1, and a line that says so."""
    with (tmp_path / "app.py").open("a") as file:
        file.write("@proc.before_processing\ndef hook(context):\n    raise PermissionError('credentials')\n")
    parent = missive("run", "app:proc", "--from", FROM, "--dlq", "sqlite:///dlq.db", "--workers", "2")
    _, err = parent.finish()
    assert parent.code == 1
    assert err.splitlines()[-1].startswith("missive: no worker was ever ready, and each failed 3 times: giving up")
    assert "the hook app:hook raised PermissionError" in err


@pytest.mark.parametrize(
    ("application", "source", "said"),
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
def test_what_is_refused(
    missive: Callable[..., Running],
    queue: Callable[..., None],
    tmp_path: Path,
    application: str,
    source: str,
    said: str,
):
    """Where several processes would do something else than one does, nothing is started: exit code 2."""
    with (tmp_path / "app.py").open("a") as file:
        file.write(application)
    options = ("run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db")
    parent = missive(*options, env={"MISSIVE_WORKERS": "2"})
    out, err = parent.finish()
    assert (parent.code, out) == (2, "")
    assert "missive: --workers 2: " in err
    assert said in err
    assert "--concurrency" in err
    assert not (tmp_path / "dlq.db").exists()


def test_one_worker_is_no_worker(missive: Callable[..., Running], queue: Callable[..., None], log: Log):
    """With one, the process that was started handles the messages itself."""
    queue("work", 1)
    process = missive("run", "app:proc", "--from", FROM, "--dlq", "sqlite:///dlq.db", "--workers", "1")
    wait_until(lambda: log.of("done"), "the message")
    _, err = process.terminate()
    assert log.pids("done") == {process.pid}
    assert err == "missive: 1 handled, 0 dead-lettered\n"
