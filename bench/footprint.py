"""Measure the memory of a stalled processor with a million messages waiting, and the CPU time of an idle one."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.engine import BODY

import missive
from missive.adapters import SQLiteAdapter
from missive.adapters.sqlite import SCHEMA
from missive.engine.runner import execute
from missive.matchers import Everything, Field, by_field
from missive.testing import MemoryAdapter
from missive.testing.memory import MemorySession
from missive.transport import Credit, Delivery

WAITING = 1_000_000
BAR_MIB = 20
IDLE_SECONDS = 10.0
IDLE_BAR = 0.01


def nothing(message: missive.Message, context: missive.HandlingContext) -> None:
    pass


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Endless(MemoryAdapter):
    """A source that makes a million messages when they are fetched, so that waiting ones use no memory here."""

    async def connect(self, host: Any) -> MemorySession:  # noqa: ARG002 - the session needs no host
        made = (Delivery(bytes(bytearray(BODY))) for _ in itertools.repeat(None, WAITING))

        class Session(MemorySession):
            async def fetch(self, credit: Credit) -> Sequence[Delivery]:
                return list(itertools.islice(made, credit.items))

        return Session(self)


def stalled(ordered: bool) -> None:
    """Print the growth of the memory while a handler does not return."""
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})
    begun, go_on = threading.Event(), threading.Event()

    def stalls(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        begun.set()
        go_on.wait()

    proc.add_handler(Field("type", "order.placed"), stalls, ordered_by=by_field("customer") if ordered else None)
    adapter = Endless(proc, drain=0)

    def watch() -> None:
        begun.wait()
        before = resident()
        most = before
        for _ in range(50):
            time.sleep(0.1)
            most = max(most, resident())
        grown = (most - started) / 2**20
        what = "all with one key" if ordered else "without a key"
        print(f"{WAITING:,} messages waiting behind a stalled handler, {what}: RSS + {grown:.1f} MiB (bar {BAR_MIB})")
        os._exit(0)

    # Handle some messages first, so that lazily loaded modules and the engine's threads are not measured.
    warm = missive.Processor(missive.JSONMessage, name="warm", dlq={})
    warm.add_handler(Everything(), nothing)
    execute([MemoryAdapter(warm, [BODY] * 1000)])
    started = resident()
    threading.Thread(target=watch, daemon=True).start()
    adapter.run()


def idle(name: str, make: Callable[[missive.Processor[Any]], Any]) -> None:
    """Print the share of a core that a processor uses without messages."""
    proc = missive.Processor(name="bench", dlq={})
    proc.add_handler(Everything(), nothing)

    def watch() -> None:
        time.sleep(2)
        cpu = time.process_time()
        time.sleep(IDLE_SECONDS)
        share = (time.process_time() - cpu) / IDLE_SECONDS
        print(f"idle, {name}: {share:.2%} of a core (bar {IDLE_BAR:.0%})", flush=True)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    make(proc).run()


def sqlite_queue(proc: missive.Processor[Any]) -> Any:
    path = Path(tempfile.mkdtemp()) / "queue.db"
    with sqlite3.connect(path) as db:
        db.executescript(SCHEMA)
    return SQLiteAdapter(proc, str(path), queue="idle")


def main() -> None:
    for target, arguments in (
        (stalled, (False,)),
        (stalled, (True,)),
        (idle, ("in memory", lambda proc: MemoryAdapter(proc, ends=False))),
        (idle, ("an SQLite queue", sqlite_queue)),
    ):
        # Each measurement runs in a new process.
        process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
        process.start()
        process.join()


if __name__ == "__main__":
    main()
