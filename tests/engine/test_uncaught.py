"""Exceptions and warnings that nothing handles: standard error shows types and frames, and no content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CANARY = "canary-4711"

_APPLICATION = """
import asyncio, concurrent.futures, gc, logging, sys, threading, warnings, weakref
import missive, missive.adapters

p = missive.Processor()


class Left:
    def __init__(self, text): self.text = text
    def __del__(self): raise ValueError(self.text)
    def __repr__(self): return self.text


async def fail(text): raise ValueError(text)


async def generate(text):
    try:
        yield text
    finally:
        raise ValueError(text)


async def leave_generator(text):
    async for _ in generate(text):
        break


def fail_now(text, *_): raise ValueError(text)


def start_thread(text):
    thread = threading.Thread(target=fail_now, args=[text], name=text)
    thread.start()
    thread.join()


def run_loop(text):
    async def main():
        asyncio.get_running_loop().call_soon(fail_now, text)
        task = asyncio.create_task(fail(text))
        await asyncio.sleep(0.01)
    asyncio.run(main(), debug=True)


def fail_callback(text):
    future = concurrent.futures.Future()
    future.add_done_callback(lambda _: fail_now(text))
    future.set_result(None)


def fail_group(text):
    error = ExceptionGroup(text, [ValueError(text)])
    error.add_note(text)
    raise error


def start_group(text):
    thread = threading.Thread(target=fail_group, args=[text])
    thread.start()
    thread.join()


def keep(text, kept=[]): kept.append(weakref.finalize(p, fail_now, text)); kept.append(Left(text))


def call_excepthook(text):
    try:
        fail_now(text)
    except ValueError:
        sys.excepthook(*sys.exc_info())


def warn(text): warnings.warn(text)


def log(text): logging.getLogger("app").warning("two %s %s", text)
"""

_ASYNC = """
@p.handle_for(lambda message: True)
async def handle(message, context):
    text = message.raw_data.decode()
    CASE
    await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0.01)
"""

_SYNC_CASES = {
    "thread": "start_thread(text)",
    "group in a thread": "start_group(text)",
    "del": "Left(text)",
    "own loop": "run_loop(text)",
    "future callback": "fail_callback(text)",
    "exit": "keep(text)",
    "warning": "warn(text)",
    "log call": "log(text)",
    "excepthook": "call_excepthook(text)",
}
_ASYNC_CASES = {
    "task": "asyncio.create_task(fail(text))",
    "callback": "asyncio.get_running_loop().call_soon(fail_now, text)",
    "generator": "await leave_generator(text)",
    "loop handler": "asyncio.get_running_loop().call_exception_handler({'message': text})",
}
_SYNC = """
@p.handle_for(lambda message: True)
def handle(message, context):
    text = message.raw_data.decode()
    CASE
    gc.collect()
"""


def _run(directory: Path, source: str, *arguments: str) -> str:
    """Run an application on one message, and return its output."""
    (directory / "app.py").write_text(source)
    (directory / "in.jsonl").write_text(f'{{"text": "{CANARY}"}}\n')
    command = arguments or ("-m", "missive", "run", "app:p", "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db")
    done = subprocess.run(
        [sys.executable, *command], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("case", [*_SYNC_CASES, *_ASYNC_CASES])
@pytest.mark.parametrize("way", ["command", "developer mode", "script"])
def test_what_nothing_catches_shows_no_content(tmp_path: Path, case: str, way: str):
    """An exception or a warning that a handler leaves is one line with its place, and without its text."""
    handler = _SYNC if case in _SYNC_CASES else _ASYNC
    source = _APPLICATION + handler.replace("CASE", {**_SYNC_CASES, **_ASYNC_CASES}[case])
    arguments: list[str] = []
    if way == "script":
        if case == "exit":
            pytest.skip("after run() the process belongs to the application")
        source += "\nif __name__ == '__main__':\n    missive.adapters.FileAdapter(p, 'in.jsonl').run()\n"
        arguments = ["app.py"]
    elif way == "developer mode":
        arguments = [
            "-X",
            "dev",
            "-m",
            "missive",
            "run",
            "app:p",
            "--from",
            "file:in.jsonl",
            "--dlq",
            "sqlite:///dlq.db",
        ]
    printed = _run(tmp_path, source, *arguments)
    assert CANARY not in printed
    assert case == "loop handler" or "app.py" in printed or "logging" in printed


def test_hooks_of_the_application_stay(tmp_path: Path):
    """A hook that the application sets before the start is kept, and Missive's hooks are gone after run()."""
    source = _APPLICATION + _SYNC.replace("CASE", "start_thread(text)")
    source += (
        "\nthreading.excepthook = lambda args: print('own hook')\n"
        "if __name__ == '__main__':\n"
        "    before = sys.unraisablehook, warnings.showwarning, logging.Handler.handleError\n"
        "    missive.adapters.FileAdapter(p, 'in.jsonl').run()\n"
        "    print(before == (sys.unraisablehook, warnings.showwarning, logging.Handler.handleError))\n"
    )
    assert _run(tmp_path, source, "app.py").split("\n")[:2] == ["own hook", "True"]


def test_warnings_of_the_import_and_of_missive_stay_readable(tmp_path: Path):
    """A warning that the application issues at its import is shown with its text, like Missive's own warnings."""
    source = (
        _APPLICATION
        + "warnings.warn('at the import')\n"
        + _SYNC.replace("CASE", "warnings.warn(missive.OverlapWarning('of missive'))")
    )
    printed = _run(tmp_path, source)
    assert "at the import" in printed
    assert "of missive" in printed
