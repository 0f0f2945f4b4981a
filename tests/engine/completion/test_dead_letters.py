"""Dead letters of unusual messages and handlers: each is filed, and other messages are handled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import missive as m
from missive.dlq import Query
from missive.dlq.sql import SQLStore
from missive.engine.runner import execute
from missive.matchers import Everything, Field
from missive.testing import MemoryAdapter
from missive.transport import Delivery
from tests.support.engine import RecordingSink


def test_an_invalid_envelope_is_filed(tmp_path: Path):
    """Messages with bytes or lone surrogates in the envelope, or with invalid labels or errors, are filed."""
    store = SQLStore(f"sqlite:///{tmp_path}/dlq.db")
    proc = m.Processor(m.JSONMessage, name="t", dlq=store, public=["a"], on_overlap="ignore")

    @proc.handle_for(Field("label", True))
    def invalid_label(message: m.JSONMessage, context: m.HandlingContext) -> None:
        context.dead_letter(404)  # type: ignore[arg-type]

    @proc.handle_for(Field("raise", True))
    def invalid_error(message: m.JSONMessage, context: m.HandlingContext) -> None:
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
    labels = {record.label for record in SQLStore(f"sqlite:///{tmp_path}/dlq.db").query(Query())}
    assert labels == {None, "404", "ValueError"}


def test_an_incomplete_record_is_filed(caplog: pytest.LogCaptureFixture):
    """When the message class raises, the record contains body, reason and origin, and the log names the error."""

    class Raising(m.RawMessage):
        @property
        def headers(self) -> Any:
            raise RuntimeError("canary")

    sink = RecordingSink()
    proc = m.Processor(Raising, name="t", dlq=sink)
    proc.discard_for(lambda message: False, reason="never")
    execute([MemoryAdapter(proc, [b"one", b"two"])])
    assert [(record.body, str(record.reason)) for record in sink.records] == [
        (b"one", "unmatched"),
        (b"two", "unmatched"),
    ]
    assert "the record of a dead letter is incomplete: RuntimeError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
def test_an_invalid_settlement_exception_fails_its_message(is_async: bool):
    """A settlement exception without its attributes, or with a delay that is no float, fails its message only."""
    sink = RecordingSink()
    proc = m.Processor(m.RawMessage, name="t", dlq=sink)

    class Incomplete(m.RetryLater):
        def __init__(self) -> None: ...

    def handle(message: m.RawMessage, context: m.HandlingContext) -> None:
        if message.raw_data == b"incomplete":
            raise Incomplete
        if message.raw_data == b"long":
            raise m.RetryLater(10**400)

    async def handle_async(message: m.RawMessage, context: m.HandlingContext) -> None:
        handle(message, context)

    proc.add_handler(Everything(), handle_async if is_async else handle)
    (report,) = execute([MemoryAdapter(proc, [b"incomplete", b"long", b"fine"])])
    assert (report.total_handled, [record.error_type for record in sink.records]) == (
        1,
        ["AttributeError", "OverflowError"],
    )


def test_a_message_class_that_raises_makes_its_message_unreadable(caplog: pytest.LogCaptureFixture):
    """A message whose class raises is a dead letter with the reason `unreadable`, and the log contains no content."""

    class Card(m.RawMessage):
        def __init__(self, raw_data: bytes, **envelope: Any) -> None:
            super().__init__(raw_data, **envelope)
            self.number = int(raw_data)

    sink = RecordingSink()
    proc = m.Processor(Card, name="t", dlq=sink)
    proc.add_handler(Everything(), lambda message, context: None)
    (report,) = execute([MemoryAdapter(proc, [b"canary", b"7"])])
    assert (report.total_handled, [str(record.reason) for record in sink.records]) == (1, ["unreadable"])
    assert "canary" not in caplog.text


def test_an_empty_dictionary_is_a_dead_letter_queue(caplog: pytest.LogCaptureFixture):
    """`dlq={}` is a dead letter queue, although an empty dictionary is false."""
    caplog.set_level(logging.DEBUG)
    box: dict[str, Any] = {}
    proc = m.Processor(name="t", dlq=box)
    proc.discard_for(lambda message: False, reason="never")
    execute([MemoryAdapter(proc, [b"x"])])
    assert len(box) == 1
