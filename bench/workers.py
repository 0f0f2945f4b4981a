"""Compare the gain of a second worker process with the gain of a second bare process, for handlers that compute."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from missive.adapters.sqlite import SCHEMA

PAIRS = 3
MESSAGES = 12_000
FROM, TO = 0.1, 0.75
"""Measured part of the work, as shares. Outside of it, one worker may hold all remaining messages."""
BAR = 0.9

APPLICATION = """
import missive
from bench.workers import compute

proc = missive.Processor(name="bench")

@proc.handle_for(lambda message: True)
def handle(message, context):
    compute()
"""


def compute() -> int:
    """Compute for about two milliseconds."""
    return sum(number * number for number in range(40_000))


def missive_rate(workers: int) -> float:
    """Return the rate of the workers of `missive run`, in messages a second."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "app.py").write_text(APPLICATION)
        with contextlib.closing(sqlite3.connect(f"{directory}/queue.db", isolation_level=None)) as queue:
            queue.executescript(SCHEMA)
            queue.execute("BEGIN")
            queue.executemany("INSERT INTO missive_queue (queue, body) VALUES ('q', ?)", [(b"{}",)] * MESSAGES)
            queue.execute("COMMIT")
            command = ["-m", "missive", "run", "app:proc", "--from", "sqlite:///queue.db?queue=q"]
            command += ["--dlq", "sqlite:///dlq.db", "--workers", str(workers), "--log-level", "error"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([directory, *sys.path])}
            process = subprocess.Popen(
                [sys.executable, *command], cwd=directory, env=environment, stderr=subprocess.DEVNULL
            )
            try:

                def handled() -> int:
                    if process.poll() is not None:
                        sys.exit(f"missive run ended with {process.returncode}, before it handled all messages")
                    return MESSAGES - int(queue.execute("SELECT count(*) FROM missive_queue").fetchone()[0])

                return _rate(handled)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()


def bare_rate(processes: int) -> float:
    """Return the rate of bare processes that compute the same, in calls a second."""
    done = multiprocessing.get_context("fork").Value("i", 0)
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            process = multiprocessing.get_context("fork").Process(target=_bare, args=(done,), daemon=True)
            process.start()
            stack.callback(process.kill)
        return _rate(lambda: int(done.value))


def _bare(done: Any) -> None:
    while True:
        compute()
        with done.get_lock():
            done.value += 1


def _rate(done: Callable[[], int]) -> float:
    samples: list[tuple[float, int]] = []
    for share in (FROM, TO):
        while (count := done()) < share * MESSAGES:
            time.sleep(0.01)
        samples.append((time.perf_counter(), count))
    (began, first), (ended, last) = samples
    return (last - first) / (ended - began)


def _pairs() -> Iterator[tuple[float, float]]:
    for _ in range(PAIRS):
        bare, ours = bare_rate(2) / bare_rate(1), missive_rate(2) / missive_rate(1)
        print(f"  a second process: bare {bare:.2f}×, missive {ours:.2f}×", flush=True)
        yield bare, ours


def main() -> None:
    print(f"handlers that compute for {1e3 / bare_rate(1):.1f} ms, from an SQLite queue:")
    pairs = list(_pairs())
    bare, ours = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"two workers gain {ours:.2f}×, two bare processes {bare:.2f}×: {ours / bare:.2f}× (bar {BAR})")


if __name__ == "__main__":
    main()
