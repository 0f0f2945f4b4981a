"""The runner: signals, forced stops, and settings of the process while an engine runs."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from missive import Processor
from missive.engine.runner import execute, serve
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.testing import MemoryAdapter
from tests.support.process import Running

Start = Callable[..., Running]


@pytest.mark.parametrize(("before", "during"), [(700, 10_000), (5000, 5000)])
def test_the_default_threshold_of_the_garbage_collector_is_raised(before, during):
    """While an engine runs, the garbage collector has a threshold of 10,000 objects, unless the application set one."""
    proc, seen, earlier = Processor(RawMessage, name="t", dlq={}), [], gc.get_threshold()
    proc.add_handler(Everything(), lambda message, context: seen.append(gc.get_threshold()[0]))
    gc.set_threshold(before)
    try:
        execute([MemoryAdapter(proc, [b""])])
        assert (seen, gc.get_threshold()[0]) == ([during], before)
    finally:
        gc.set_threshold(*earlier)


def test_a_second_signal_ends_a_blocked_hook(missive: Start, tmp_path: Path):
    """A second signal ends the process, although a hook blocks its thread, and one line reports the forced stop."""
    (tmp_path / "app.py").write_text(
        "import time, missive\nproc = missive.Processor()\n@proc.handle_for(lambda m: True)\ndef h(m, c): ...\n"
        "@proc.before_processing\ndef connect(context):\n    print('in', flush=True)\n    time.sleep(600)\n"
    )
    process = missive("run", "app:proc", "--from", "stdin:", "--drain", "60")
    assert process.line() == "in\n"
    process.send(signal.SIGTERM)
    time.sleep(0.1)  # the kernel merges equal signals that are pending together
    _, err = process.terminate(15)
    assert (process.code, err.splitlines()[-1].startswith("missive: stopped by force")) == (1, True)


@pytest.mark.parametrize("hook", ["def connect(context):\n    {}", "async def connect(context):\n    {}"])
def test_a_hook_that_does_not_end_cannot_delay_a_stop(missive: Start, tmp_path: Path, hook: str):
    """One signal ends a process whose `before_processing` hook hangs, after the time of a drain."""
    wait = "print('in', flush=True)\n    " + ("await asyncio.sleep(600)" if "async" in hook else "time.sleep(600)")
    kind = "async def" if "async" in hook else "def"
    (tmp_path / "app.py").write_text(
        "import asyncio, time, missive\nproc = missive.Processor()\n@proc.handle_for(lambda m: True)\n"
        f"{kind} h(m, c): ...\n@proc.before_processing\n{hook.format(wait)}\n"
    )
    process = missive("run", "app:proc", "--from", "stdin:", "--drain", "0.5")
    assert process.line() == "in\n"
    _, err = process.terminate(30)
    assert (process.code, "stopped by force: a before_processing hook did not end" in err) == (1, True)


def test_a_program_can_clean_up_after_a_forced_stop(tmp_path: Path):
    """A program that catches the SystemExit of a forced stop can clean up without a time limit."""
    (tmp_path / "program.py").write_text(
        "import os, signal, threading, time, missive\nproc = missive.Processor(dlq={})\n"
        "@proc.handle_for(lambda m: True)\ndef h(m, c):\n"
        "    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()\n    time.sleep(600)\n"
        "try:\n    missive.adapters.StdinAdapter(proc, drain=0.2).run()\n"
        "except SystemExit as stop:\n    time.sleep(1.5)\n    print('cleaned up', stop.code)\n"
    )
    program = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(program, input=b"1\n", capture_output=True, timeout=30, check=False)
    assert done.stdout == b"cleaned up 1\n"


def test_a_loop_that_ends_before_its_engine_fails_no_thread():
    """When the application ends its loop before the engine has stopped, the engine's thread ends without an error."""
    proc, started, finish, failures = Processor(RawMessage, name="t", dlq={}), Event(), Event(), list[object]()

    @proc.handle_for(Everything())
    def block(message, context):
        started.set()
        finish.wait(15)

    hook, threading.excepthook = threading.excepthook, lambda args: failures.append(args.exc_value)

    async def leave() -> None:
        serving = asyncio.ensure_future(serve(MemoryAdapter(proc, [b""])))
        await asyncio.to_thread(started.wait, 15)
        for _ in range(2):  # the first asks for a drain, the second no longer waits for it
            serving.cancel()
            await asyncio.sleep(0.01)

    before = set(threading.enumerate())
    try:
        asyncio.run(leave())
        finish.set()
        for thread in set(threading.enumerate()) - before:
            thread.join(15)
    finally:
        threading.excepthook = hook
    assert failures == []
