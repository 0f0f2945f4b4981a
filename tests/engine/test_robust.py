"""One odd message, handler or client never keeps the others from their outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import missive as m
from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore
from missive.engine.engine import Engine
from missive.engine.runner import execute
from missive.errors import Transient
from missive.matchers import Everything, Field
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery, Host, Session, SettlementResult
from tests.support.broker import Broker
from tests.support.engine import until
from tests.support.process import Running

Start = Callable[..., Running]


class Kept(Sink):
    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, records: Sequence[Record]) -> None:
        self.records.extend(records)


def test_an_envelope_that_is_no_text_is_filed(tmp_path: Path):
    """Bytes where text should be, lone surrogates, and labels that are none: each is filed, and the others too."""
    store = SQLStore(f"sqlite:///{tmp_path}/dlq.db")
    proc = m.Processor(m.JSONMessage, name="t", dlq=store, public=["a"], on_overlap="ignore")

    @proc.handle_for(Field("label", True))
    def odd_label(message: m.JSONMessage, context: m.HandlingContext) -> None:
        context.dead_letter(404)  # type: ignore[arg-type]

    @proc.handle_for(Field("raise", True))
    def odd_exception(message: m.JSONMessage, context: m.HandlingContext) -> None:
        raise m.DeadLetter(ValueError("canary"))  # type: ignore[arg-type]

    @proc.handle_for(Field("text", True))
    def surrogate(message: m.JSONMessage, context: m.HandlingContext) -> None:
        raise ValueError("\ud800")

    deliveries = [
        Delivery(b"{}", topic=b"\xff\xfe", headers=[("caf\udce9", "x")]),  # type: ignore[arg-type]
        Delivery(b"{}", content_type=b"\xff", producer_id=b"\xfe"),  # type: ignore[arg-type]
        *(Delivery(b'{"%s":true}' % kind) for kind in (b"label", b"raise", b"text")),
    ]
    (report,) = execute([MemoryAdapter(proc, deliveries)])
    assert report.total_dead == len(deliveries)
    labels = {record.label for record in SQLStore(f"sqlite:///{tmp_path}/dlq.db").query(m_query())}
    assert labels == {None, "404", "ValueError"}


def m_query() -> Any:
    from missive.dlq import Query

    return Query()


def test_what_cannot_be_recorded_in_full_is_recorded_in_part(caplog: pytest.LogCaptureFixture):
    """A message whose own code raises while its record is made is filed with body, reason and origin."""

    class Hostile(m.RawMessage):
        @property
        def headers(self) -> Any:
            raise RuntimeError("canary")

    sink = Kept()
    proc = m.Processor(Hostile, name="t", dlq=sink)
    execute([MemoryAdapter(proc, [b"one", b"two"])])
    assert [(record.body, str(record.reason)) for record in sink.records] == [
        (b"one", "unmatched"),
        (b"two", "unmatched"),
    ]
    assert "the record of a dead letter is incomplete: RuntimeError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
def test_an_odd_settlement_exception_is_a_failure(is_async: bool):
    """A subclass that never called its parent, and a delay beyond all floats, fail their message, and only that."""
    sink = Kept()
    proc = m.Processor(m.RawMessage, name="t", dlq=sink)

    class Odd(m.RetryLater):
        def __init__(self) -> None: ...

    def handle(message: m.RawMessage, context: m.HandlingContext) -> None:
        if message.raw_data == b"odd":
            raise Odd
        if message.raw_data == b"long":
            raise m.RetryLater(10**400)

    async def handle_async(message: m.RawMessage, context: m.HandlingContext) -> None:
        handle(message, context)

    proc.add_handler(Everything(), handle_async if is_async else handle)
    (report,) = execute([MemoryAdapter(proc, [b"odd", b"long", b"fine"])])
    assert (report.total_handled, [record.error_type for record in sink.records]) == (
        1,
        ["AttributeError", "OverflowError"],
    )


def test_a_message_class_that_raises_is_unreadable(caplog: pytest.LogCaptureFixture):
    """A constructor of the user's that raises makes that message a dead letter, with nothing of it in the log."""

    class Card(m.RawMessage):
        def __init__(self, raw_data: bytes, **envelope: Any) -> None:
            super().__init__(raw_data, **envelope)
            self.number = int(raw_data)

    sink = Kept()
    proc = m.Processor(Card, name="t", dlq=sink)
    proc.add_handler(Everything(), lambda message, context: None)
    (report,) = execute([MemoryAdapter(proc, [b"canary", b"7"])])
    assert (report.total_handled, [str(record.reason) for record in sink.records]) == (1, ["unreadable"])
    assert "canary" not in caplog.text


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_generator_is_refused(kind: str):
    """A handler with a `yield` would run nothing when it is called: it is refused when it is registered."""
    namespace: dict[str, Any] = {}
    exec(f"{kind} handler(message, context):\n    yield", namespace)
    with pytest.raises(m.RegistrationError, match="contains a `yield`"):
        m.Processor().add_handler(Everything(), namespace["handler"])


class Dying(MemoryAdapter):
    """Its first session dies while it settles, a few turns of the loop after the engine was told to stop."""

    engine: Engine
    turns = 0

    async def connect(self, host: Any) -> Session:
        session = await super().connect(host)
        if self.sessions == 1:

            async def settle(settlements: Any) -> Any:
                self.engine.stop()
                for _ in range(self.turns):
                    await asyncio.sleep(0)
                raise Transient("gone")

            session.settle = settle  # type: ignore[method-assign]
        return session


@pytest.mark.parametrize("turns", range(8))
def test_a_stop_beside_a_dying_session_ends(turns: int):
    """A session found dead at the very moment of a stop does not let the source connect again and go on for ever."""
    proc = m.Processor(name="t", dlq={})
    proc.add_handler(Everything(), lambda message, context: None)
    adapter = Dying(proc, [b"1", b"2"], ends=False)
    adapter.turns = turns

    async def main() -> None:
        # On one loop, so that the turns are exact.
        loop = asyncio.get_running_loop()
        adapter.engine = Engine(proc, [adapter], sink=None, concurrency=1, drain=60, handlers_loop=loop)
        await asyncio.wait_for(adapter.engine.main(), 10)

    asyncio.run(main())
    assert adapter.sessions <= 2


def test_one_held_message_bounds_what_comes_again():
    """Behind a line that is held for a retry, no more is handled than the credit: so much is seen again at most."""
    proc = m.Processor(name="t", dlq={})
    handled = []

    @proc.handle_for(Everything())
    def handle(message: m.RawMessage, context: m.HandlingContext) -> None:
        if message.raw_data == b"0" and context.attempt == 1:
            context.retry(1)
        else:
            handled.append(int(message.raw_data))

    deliveries = [Delivery(b"%d" % n, position=n) for n in range(3000)]
    marks: list[int] = []

    class Marked(MemoryAdapter):
        async def connect(self, host: Any) -> Session:
            session = await super().connect(host)

            async def commit(given: Any) -> Any:
                marks.append(given[None].position)
                return {None: SettlementResult.confirmed}

            session.commit = commit  # type: ignore[method-assign]
            return session

    (report,) = execute([Marked(proc, deliveries, capabilities=Capabilities(commit="cumulative"))])
    assert (report.total_handled, marks[-1]) == (3000, 2999)
    assert 0 < handled.index(0) <= 1000


def test_corrupt_gzip_ends_the_run(missive: Start, tmp_path: Path):
    """A file that breaks in its middle is handled up to there, and then refused in one line."""
    import gzip

    (tmp_path / "app.py").write_text(
        "import missive\nproc = missive.Processor()\n@proc.handle_for(lambda m: True)\ndef h(m, c): ...\n"
    )
    whole = gzip.compress("".join(f"line {n} {n * 7919 % 1000}\n" for n in range(50_000)).encode())
    (tmp_path / "in.gz").write_bytes(whole[: len(whole) // 2] + b"\xff" * 100 + whole[len(whole) // 2 + 100 :])
    process = missive("run", "app:proc", "--from", "file:in.gz")
    _, err = process.finish(60)
    assert process.code == 1
    assert err.splitlines()[-1] == "missive: file:in.gz is not a complete gzip file"


def test_a_released_message_is_visible_at_once(tmp_path: Path):
    """A message whose sender's clock is wrong, or counts milliseconds, does not vanish when it is given back."""
    from missive.adapters.sqlite import SCHEMA, SQLiteAdapter
    from missive.transport import Credit, Disposition, Settlement

    connection = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
    connection.executescript(SCHEMA)
    connection.execute("INSERT INTO missive_queue (queue, body, sent_at) VALUES ('q', 'x', 1795471108909)")

    class Here:
        service, credit = "t", Credit(10, 1000)

        def time(self) -> float:
            return 9e9

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(seconds)

    async def main() -> None:
        session = await SQLiteAdapter(m.Processor(), tmp_path / "q.db", "q").connect(Here())  # type: ignore[arg-type]
        (delivery,) = await session.fetch(Credit(1, 1000))
        await session.settle([Settlement(delivery, Disposition.release)])
        (again,) = await session.fetch(Credit(1, 1000))
        assert (again.body, again.attempt) == (b"x", 1)
        await session.close()

    asyncio.run(main())
    connection.close()


def test_an_empty_dict_is_a_dead_letter_queue(caplog: pytest.LogCaptureFixture):
    """`dlq={}` is a queue, and not the want of one."""
    caplog.set_level(logging.DEBUG)
    box: dict[str, Any] = {}
    execute([MemoryAdapter(m.Processor(name="t", dlq=box), [b"x"])])
    assert len(box) == 1


def test_a_second_signal_ends_what_cannot_be_interrupted(missive: Start, tmp_path: Path):
    """A hook that blocks its thread does not outlive a second signal; one line says so."""
    (tmp_path / "app.py").write_text(
        "import time, missive\nproc = missive.Processor()\n@proc.handle_for(lambda m: True)\ndef h(m, c): ...\n"
        "@proc.before_processing\ndef connect(context):\n    print('in', flush=True)\n    time.sleep(600)\n"
    )
    process = missive("run", "app:proc", "--from", "stdin:", "--drain", "60")
    assert process.line() == "in\n"
    process.send(signal.SIGTERM)
    time.sleep(0.1)  # two signals at once are one
    _, err = process.terminate(15)
    assert (process.code, err.splitlines()[-1].startswith("missive: stopped by force")) == (1, True)


def test_what_is_done_behind_a_mark_is_let_go_with_its_session():
    """A session that dies with work done behind a gap leaks no credit: the next one delivers it, and the run ends."""
    proc = m.Processor(name="t", dlq={})
    seen: list[bytes] = []

    class Gone(MemoryAdapter):
        async def connect(self, host: Any) -> Session:
            session = await super().connect(host)
            self.waiting.extend(Delivery(b"%d" % n, position=n) for n in range(3))
            fetch, first = session.fetch, self.sessions == 1

            async def die(credit: Any) -> Any:
                if first and not self.waiting:
                    while len(seen) < 3:
                        await host.sleep(0.01)
                    await host.sleep(0.1)  # until the results are with the settler
                    raise Transient("gone")
                return await fetch(credit)

            async def commit(given: Any) -> Any:
                return {None: SettlementResult.confirmed}

            session.fetch, session.commit = die, commit  # type: ignore[method-assign]
            return session

    @proc.handle_for(Everything())
    def handle(message: m.RawMessage, context: m.HandlingContext) -> None:
        seen.append(message.raw_data)
        if seen == [b"0"]:
            context.retry(600)

    (report,) = execute([Gone(proc, capabilities=Capabilities(commit="cumulative"))])
    assert seen == [b"0", b"1", b"2", b"0", b"1", b"2"]
    assert report.unsettled == 0


def test_a_drain_that_is_cut_short_is_a_forced_stop():
    """A transport that does not let go within the deadline makes the stop a forced one, though nothing is running."""
    proc = m.Processor(name="t", dlq={})
    proc.add_handler(Everything(), lambda message, context: None)

    class Frozen(MemoryAdapter):
        async def connect(self, host: Any) -> Session:
            session = await super().connect(host)

            async def stop_intake() -> Any:
                await host.sleep(600)

            session.stop_intake = stop_intake  # type: ignore[method-assign]
            return session

    adapter = Frozen(proc, [b"1"], ends=False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        engine = Engine(proc, [adapter], sink=None, concurrency=1, drain=0.2, handlers_loop=loop)
        loop.call_later(0.2, engine.stop)
        with pytest.raises(m.ForcedStop):
            await asyncio.wait_for(engine.main(), 20)

    asyncio.run(main())


def test_a_forced_stop_does_not_end_the_program_that_caught_it(tmp_path: Path):
    """Who catches the SystemExit of a forced stop has all the time to clean up."""
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


def test_a_cancelled_connect_that_succeeds_all_the_same_does_not_delay_the_drain():
    """A client that swallows the cancellation of its connecting is not fetched from for the rest of the drain."""
    proc, connecting = m.Processor(name="t"), threading.Event()

    class Swallows(Broker):
        async def connect(self, host: Host) -> Session:
            connecting.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            return await super().connect(host)

    async def main() -> float:
        serving = asyncio.create_task(Swallows(proc).serve())
        await until(connecting.is_set, "a connection")
        began = time.monotonic()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        return time.monotonic() - began

    assert asyncio.run(main()) < 10
