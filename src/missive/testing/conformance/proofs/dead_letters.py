"""Cases 61 and 63: dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from missive.context import HandlingContext
from missive.dlq.record import Record
from missive.dlq.sql import SQLStore
from missive.errors import StoreError
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.processor import Processor
from missive.testing.conformance.bench import check
from missive.testing.conformance.catalogue import Verdict, case
from missive.testing.conformance.harness import Sent

if TYPE_CHECKING:
    from missive.testing.conformance.bench import Bench


class _Down(SQLStore):
    """A store that fails at first."""

    def __init__(self, url: str, times: int) -> None:
        super().__init__(url)
        self.left = times
        self.records: list[Record] = []

    def put(self, records: Sequence[Record]) -> None:
        if self.left:
            self.left -= 1
            raise StoreError("the store is down")
        super().put(records)
        self.records += records


async def _filed(bench: Bench, sink: _Down, message: Sent) -> None:
    processor = Processor(name="conformance", dlq=sink)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        bench.ledger.handled[message.raw_data] += 1
        raise ValueError("on purpose")

    await bench.publish(message)
    async with bench.serving(bench.adapter(processor)):
        await bench.until(lambda: sink.records, "a dead letter")


@case(61)
async def store_down(bench: Bench) -> Verdict:
    """While the store is down the original is not settled, and is once the store is back."""
    sink = _Down(bench.dlq, 2)
    await _filed(bench, sink, Sent(b"bad"))
    check(sink.left == 0 and len(sink.records) == 1, "it was filed more than once")
    return Verdict.passed


@case(63)
async def kept(bench: Bench) -> Verdict:
    """A dead letter has the bytes, the key, the source and the error of its message."""
    harness, sink = bench.harness, _Down(bench.dlq, 0)
    body = bytes(range(256)).replace(b"\n", b"") if harness.lines else bytes(range(256))
    headers = [("trace", "1")] if "text" in harness.headers else []
    await _filed(bench, sink, Sent(body, headers=headers, key="k" if "key" in harness.keeps else None))
    (record,) = sink.records
    check(record.body == body, "the body is another")
    check("ValueError" in repr(record.error_type), "the error is another")
    return Verdict.passed
