"""Message content reaches no log, exception text, repr or output."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import missive as m
from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore
from missive.engine.runner import execute
from missive.errors import StoreError
from missive.matchers import Field, Present, by_field
from missive.once import create_table
from missive.testing import MemoryAdapter
from missive.transport import Delivery, Disposition, Settlement
from tests.support.process import Running

CANARY = "canary-7f3a91"

BODIES = [
    f'{{"kind":"fail","v":"{CANARY}"}}',
    f'{{"kind":"none","v":"{CANARY}"}}',
    f'{{"kind":"two","v":"{CANARY}","w":"{CANARY}"}}',
    f'{{"kind":"retry","v":"{CANARY}"}}',
    f'{{"kind":"say","v":"{CANARY}"}}',
    f"{CANARY} is no JSON",
    f'"{CANARY}',
]


class Flaky(Sink):
    """A sink that first fails with content in the text of its exception, and later stores records."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.fail = 2

    def put(self, records: Any) -> None:
        if self.fail:
            self.fail -= 1
            raise StoreError("down") if self.fail else ValueError(CANARY)
        self.records.extend(records)


def application(sink: Sink) -> m.Processor[m.JSONMessage]:
    proc = m.Processor(m.JSONMessage, name="t", dlq=sink, on_overlap="ignore")

    @proc.handle_for(Field("kind", "fail"))
    def fail(message: m.JSONMessage, context: m.HandlingContext) -> None:
        raise ValueError(f"cannot use {message.get_json()['v']}")

    proc.add_handler(Field("kind", "two"), lambda message, context: None)
    proc.add_handler(Field("w", Present()), lambda message, context: None)

    @proc.handle_for(Field("kind", "retry"))
    async def again(message: m.JSONMessage, context: m.HandlingContext) -> None:
        if context.attempt == 1:
            context.retry(0)
        raise KeyError(message.get_json()["v"])

    @proc.handle_for(Field("kind", "say"))
    def say(message: m.JSONMessage, context: m.HandlingContext) -> None:
        context.dead_letter("label", detail=CANARY)

    return proc


def test_no_outcome_shows_content(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    """Unreadable, unmatched, ambiguous, failed, retried and rejected messages, and a failing store, show none."""
    caplog.set_level(logging.DEBUG)
    sink = Flaky()
    deliveries = [
        Delivery(body.encode(), headers=[("h", CANARY)], key=CANARY, producer_id=f"{CANARY}-{n}", topic=CANARY)
        for n, body in enumerate(BODIES)
    ]
    (report,) = execute([MemoryAdapter(application(sink), deliveries)])
    assert report.total_dead == len(BODIES)
    out, err = capfd.readouterr()
    shown = [out, err, str(report), repr(report.to_dict()), *map(repr, sink.records), *map(repr, deliveries)]
    shown += [record.getMessage() for record in caplog.records]
    shown += [str(record.exc_info) for record in caplog.records if record.exc_info]
    assert not [text for text in shown if CANARY in text]
    # The check is effective: the confidential part of each record contains the canary.
    assert all(CANARY in str(record.body) for record in sink.records)


def test_reprs_show_no_content():
    """Reprs of messages, headers, deliveries, results and settlements show sizes and digests only."""
    message = m.JSONMessage.of({"v": CANARY}, headers={"h": CANARY}, message_id=CANARY, key=CANARY)
    delivery = Delivery(message.raw_data, headers=[("h", CANARY)], producer_id=CANARY, key=CANARY)
    proc = application(Flaky())
    proc.set_dlq({})
    with proc.test_client() as client:
        result = client.send(m.JSONMessage.of({"kind": "fail", "v": CANARY}))
    assert CANARY in str(result.exception)
    shown = [message, message.headers, delivery, result, Settlement(delivery, Disposition.ack), client.dead_lettered]
    assert not [text for text in map(repr, shown) if CANARY in text]


def test_once_shows_no_key_and_no_body(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    """With duplicates, conflicts, missing keys and failing databases, logs and tables contain no key or body."""
    caplog.set_level(logging.DEBUG)
    business = sqlite3.connect(tmp_path / "business.db", check_same_thread=False)
    with business:
        create_table(business)
    store = SQLStore(f"sqlite:///{tmp_path / 'dlq.db'}")
    errors: list[BaseException] = []

    @contextlib.contextmanager
    def collected() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            errors.append(error)
            raise

    proc = m.Processor(m.JSONMessage, name="t", dlq=store, on_overlap="ignore")
    leased = m.Once(by_field("key"))
    proc.add_handler(Field("kind", "lease"), lambda message, context: None, name="lease", once=leased)

    @proc.handle_for(Field("kind", "own"), name="own", once=m.Once(by_field("key"), form="transaction"))
    def own(message: m.JSONMessage, context: m.HandlingContext) -> None:
        with collected(), business:
            context.claim(business)

    @proc.handle_for(Field("kind", "broken"), name="broken", once=m.Once(by_field("key"), form="transaction"))
    def broken(message: m.JSONMessage, context: m.HandlingContext) -> None:
        with collected(), contextlib.closing(sqlite3.connect(":memory:")) as empty:
            context.claim(empty)

    @proc.handle_for(Field("kind", "committed"), name="committed", once=m.Once(by_field("key"), form="transaction"))
    def committed(message: m.JSONMessage, context: m.HandlingContext) -> None:
        with collected(), contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as by_itself:
            context.claim(by_itself)

    bodies = [f'{{"kind":"{kind}","key":"{CANARY}"}}' for kind in ("lease", "own", "broken", "committed")]
    bodies += [f'{{"kind":"{kind}","key":"{CANARY}"}}' for kind in ("lease", "own")]
    bodies += [f'{{"kind":"{kind}","key":"{CANARY}","x":"{CANARY}"}}' for kind in ("lease", "own")]
    bodies += [f'{{"kind":"{kind}","x":"{CANARY}"}}' for kind in ("lease", "own")]
    bodies += [f'{{"kind":"{kind}","key":{{"{CANARY}":["{CANARY}"]}}}}' for kind in ("lease", "own")]
    (report,) = execute([MemoryAdapter(proc, [Delivery(body.encode()) for body in bodies])])
    assert dict(report.dead) == {"failed": 2, "conflict": 2, "rejected": 2}
    assert report.duplicates == 2
    out, err = capfd.readouterr()
    shown = [out, err, str(report), repr(report.to_dict()), repr(leased), *map(str, errors), *map(repr, errors)]
    shown += [record.getMessage() for record in caplog.records]
    assert not [text for text in shown if CANARY in text]
    with contextlib.closing(sqlite3.connect(tmp_path / "dlq.db")) as reading:
        rows = reading.execute("SELECT * FROM missive_once_claims").fetchall()
    rows += business.execute("SELECT * FROM missive_once").fetchall()
    business.close()
    assert len(rows) == 4
    assert CANARY not in repr(rows)
    assert CANARY.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("business.db*"))


@pytest.mark.parametrize("command", [["list"], ["groups"], ["stats"], ["list", "--json"], ["show"], ["show", "--json"]])
def test_the_command_line_shows_no_content(missive: Callable[..., Running], tmp_path: Path, command: list[str]):
    """No list or view of dead letters shows a body, header value, exception text or detail."""
    (tmp_path / "app.py").write_text(
        "import missive\nfrom missive.matchers import Field\n"
        "proc = missive.Processor(missive.JSONMessage, name='t')\n"
        "@proc.handle_for(Field('kind', 'fail'))\n"
        "def fail(message, context):\n    raise ValueError(str(message.get_json()))\n"
        "@proc.handle_for(Field('kind', 'say'))\n"
        "def say(message, context):\n    context.dead_letter('label', detail=str(message.get_json()))\n"
    )
    (tmp_path / "in.jsonl").write_text("\n".join(BODIES))
    _, err = missive("run", "app:proc", "--from", "file:in.jsonl").finish()
    assert f"{len(BODIES)} dead-lettered" in err
    if command[0] == "show":
        ids = missive("dlq", "list").finish()[0].split()
        command = ["show", next(word for word in ids if word.startswith("01")), *command[1:]]
    out, more = missive("dlq", *command).finish()
    assert out
    assert CANARY not in out + more + err
