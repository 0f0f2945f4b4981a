"""Leftovers of a handler: callbacks, tasks, children and changes of the process neither end nor hijack the worker."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.adapters.sqlite import SCHEMA
from tests.conftest import wait_until
from tests.support.process import Running

Start = Callable[..., Running]

HEAD = """
import asyncio, atexit, ctypes, multiprocessing, os, signal, sys, threading, time, missive
from missive.matchers import Field

proc = missive.Processor(missive.JSONMessage, name="app", timeout=20)

class Evil(Exception):
    def __str__(self):
        raise SystemExit(0)
    __repr__ = __str__
    __notes__ = property(__str__)
    __cause__ = property(__str__)

def forever():
    time.sleep(600)

@proc.handle_for(Field("do", "odd"))
"""
TAIL = """
@proc.handle_for(Field("do", "fine"))
async def fine(message, context):
    await asyncio.sleep(0)

@proc.handle_for(Field("do", "thread"))
def thread(message, context):
    time.sleep(0.005)
"""

CANARY = "hunter2"
LEFTOVERS = {
    "a callback that exits": "async def odd(m, c): asyncio.get_running_loop().call_soon(sys.exit, 0)",
    "a callback that interrupts": """async def odd(m, c):
    def interrupt():
        raise KeyboardInterrupt("hunter2")
    asyncio.get_running_loop().call_soon(interrupt)""",
    "a task that exits": """async def odd(m, c):
    async def leave():
        sys.exit("hunter2")
    asyncio.create_task(leave())""",
    "a task that fails": """async def odd(m, c):
    async def fail():
        raise ValueError("hunter2")
    asyncio.create_task(fail())""",
    "a callback that fails": """async def odd(m, c):
    asyncio.get_running_loop().call_soon(int, "hunter2")""",
    "a task that ignores its cancellation": """async def odd(m, c):
    async def stubborn():
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass
    asyncio.create_task(stubborn())""",
    "a stopped loop": "async def odd(m, c): asyncio.get_running_loop().stop()",
    "cancelled tasks": """async def odd(m, c):
    for task in asyncio.all_tasks():
        task.cancel()""",
    "an executor thread": "async def odd(m, c): asyncio.get_running_loop().run_in_executor(None, forever)",
    "a thread": "def odd(m, c): threading.Thread(target=forever).start()",
    "closed descriptors": "def odd(m, c): os.close(0); os.close(1)",
    "closed standard streams": "def odd(m, c): sys.stdout.close()",
    "an exit function": "def odd(m, c): atexit.register(sys.exit, 3)",
    "a forked child that returns": """def odd(m, c):
    if (child := os.fork()):
        assert os.waitpid(child, 0)[1] == 0""",
    "a forked child of an async handler": """async def odd(m, c):
    if (child := os.fork()):
        assert os.waitpid(child, 0)[1] == 0""",
    "a forked child that exits": """def odd(m, c):
    child = os.fork()
    if child == 0:
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0""",
    "a terminated process": """def odd(m, c):
    process = multiprocessing.get_context("fork").Process(target=forever)
    process.start()
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGTERM""",
    "a terminated process of an async handler": """async def odd(m, c):
    process = multiprocessing.get_context("fork").Process(target=forever)
    process.start()
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGTERM""",
}
FAILURES = {
    "an exception whose text exits": "def odd(m, c): raise Evil",
    "an exception whose text exits, async": "async def odd(m, c): raise Evil",
    "exit": "def odd(m, c): sys.exit(0)",
    "exit, async": "async def odd(m, c): sys.exit(0)",
    "a retry whose delay exits": """class Delay(missive.RetryLater):
    @property
    def after(self):
        raise SystemExit(0)
    @after.setter
    def after(self, value): pass

def odd(m, c): raise Delay(1)""",
    "an exception with an odd class": """class Odd(Exception):
    __class__ = property(lambda self: sys.exit(0))

def odd(m, c): raise Odd""",
    "an injected exception": """def odd(m, c):
    thread = ctypes.c_ulong(threading.get_ident())
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
    time.sleep(0)""",
}


@pytest.fixture
def run(missive: Start, tmp_path: Path) -> Callable[..., Running]:
    """Return a function that runs a handler once, among others, from a queue."""

    def run(handler: str, *arguments: str, count: int = 60) -> Running:
        before, _, last = handler.rpartition("\n\n")
        head = HEAD.replace("@proc.handle_for", f"{before}\n\n@proc.handle_for")
        (tmp_path / "app.py").write_text(head + last + TAIL)
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db")) as queue, queue:
            queue.execute("PRAGMA journal_mode=WAL")
            queue.executescript(SCHEMA)
            (tmp_path / "queue.db").chmod(0o600)
            bodies = [json.dumps({"do": "odd" if n == 3 else "thread" if n % 2 else "fine"}) for n in range(count)]
            queue.executemany("INSERT INTO missive_queue (queue, body) VALUES ('q', ?)", [(body,) for body in bodies])
        queue.close()
        source = "sqlite:///queue.db?queue=q&lease=2"
        return missive("run", "app:proc", "--from", source, "--dlq", "sqlite:///dlq.db", "--drain", "5", *arguments)

    return run


def left(directory: Path) -> int:
    """Return the number of messages in the queue."""
    with contextlib.closing(sqlite3.connect(directory / "queue.db", timeout=30)) as queue, queue:
        count = queue.execute("SELECT count(*) FROM missive_queue").fetchone()[0]
    queue.close()
    return int(count)


def check(process: Running, directory: Path, counts: str) -> str:
    """Wait for all messages, end the process, and return its errors."""
    wait_until(lambda: not left(directory) or process.code is not None, "an empty queue")
    assert process.code is None
    _, err = process.terminate()
    assert process.code == 0
    assert f"missive: {counts}\n" in err
    assert CANARY not in err
    return err


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_leftover_does_not_end_the_worker(run: Callable[..., Running], tmp_path: Path, leftover: str):
    """All messages are handled, SIGTERM drains, and the exit code is 0."""
    process = run(LEFTOVERS[leftover])
    err = check(process, tmp_path, "60 handled, 0 dead-lettered")
    assert "Traceback" not in err


@pytest.mark.parametrize("failure", FAILURES)
def test_an_odd_exception_fails_its_message_only(run: Callable[..., Running], tmp_path: Path, failure: str):
    """The message becomes a dead letter, and its worker handles the others."""
    check(run(FAILURES[failure]), tmp_path, "59 handled, 1 dead-lettered (1 failed)")


@pytest.mark.parametrize(
    ("number", "change"),
    [
        ("SIGTERM", "signal.signal(signal.SIGTERM, signal.SIG_DFL)"),
        ("SIGINT", "signal.signal(signal.SIGINT, signal.SIG_IGN)"),
        ("SIGTERM", "asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, int)"),
    ],
)
def test_a_replaced_signal_handler_is_restored(run: Callable[..., Running], number: str, change: str):
    """One line says that a handler changed the handling of signals, and a signal drains as before."""
    process = run(f"async def odd(m, c): {change}")
    line = process.error_line()
    assert line == "WARNING missive: a handler changed the handling of SIGINT or SIGTERM, which is restored\n"
    process.send(signal.Signals[number])
    process.finish()
    assert process.code == 0


def test_a_worker_that_a_handler_ends_is_replaced(run: Callable[..., Running], tmp_path: Path):
    """Under `--workers`, a handler that ends its process with exit code 0 does not end the service."""
    handler = "def odd(m, c): None if os.path.exists('odd') else (os.close(os.open('odd', os.O_CREAT)), os._exit(0))"
    process = run(handler, "--workers", "2")
    assert "died (exit code 0), starting another in 0.2 s" in process.error_line()
    wait_until(lambda: not left(tmp_path), "an empty queue")
    process.terminate()
    assert process.code == 0


def test_a_hook_that_does_not_end_is_reported(missive: Start, tmp_path: Path):
    """One line reports an `after_processing` hook that hangs, and the process ends without it."""
    (tmp_path / "in.jsonl").write_text("{}\n")
    (tmp_path / "app.py").write_text(
        "import time, missive\nproc = missive.Processor(name='app')\n"
        "@proc.handle_for(lambda message: True)\ndef handle(message, context): ...\n"
        "@proc.after_processing\ndef last(context): time.sleep(600)\n"
    )
    process = missive("run", "app:proc", "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db")
    _, err = process.finish()
    assert process.code == 0
    assert "WARNING missive: after_processing hooks or resources did not end in 5 s\n" in err
