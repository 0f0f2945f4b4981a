"""Message content reaches no log, no exception text, no repr and no output, on any path."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import missive as m
from missive.adapters.contract import Delivery, Item, Verb
from missive.dlq.contract import Sink
from missive.dlq.record import Record
from missive.engine.run import execute
from missive.errors import StoreError
from missive.matchers import Field, Present
from missive.testing import MemoryAdapter
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
    """Fails at first, with content in its words; keeps everything afterwards."""

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


def test_every_path_keeps_content_to_itself(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    """Unreadable, unmatched, ambiguous, failed, retried, rejected, and a store that is down: nothing is logged."""
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
    # The check can fail: what is confidential in a record does hold it.
    assert all(CANARY in str(record.body) for record in sink.records)


def test_reprs_keep_content_to_themselves():
    """Messages, headers, deliveries, contexts, results and decisions show sizes and digests."""
    message = m.JSONMessage.of({"v": CANARY}, headers={"h": CANARY}, message_id=CANARY, key=CANARY)
    delivery = Delivery(message.raw_data, headers=[("h", CANARY)], producer_id=CANARY, key=CANARY)
    proc = application(Flaky())
    proc.set_dlq({})
    with proc.test_client() as client:
        result = client.send(m.JSONMessage.of({"kind": "fail", "v": CANARY}))
    assert CANARY in str(result.exception)
    shown = [message, message.headers, delivery, result, Item(delivery, Verb.ack), client.dead_lettered]
    assert not [text for text in map(repr, shown) if CANARY in text]


@pytest.mark.parametrize("command", [["list"], ["groups"], ["stats"], ["list", "--json"], ["show"], ["show", "--json"]])
def test_the_command_line_masks(missive: Callable[..., Running], tmp_path: Path, command: list[str]):
    """No view of the dead letters shows body, header value, exception text or detail."""
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
