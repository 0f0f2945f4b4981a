"""The message, the decoder and Missive's side of the benchmarks of transports."""

from __future__ import annotations

import time

import msgspec

import missive
from missive.adapters import from_url
from missive.engine.engine import Engine
from missive.engine.runner import execute
from missive.matchers import Field

BODY = (
    b'{"type":"order.placed","id":"7f9c24e8-3b12-4fef-91d0-56a2d5a4f1c8","customer":"c-1029384756",'
    b'"total":129.95,"currency":"SEK","lines":[{"sku":"A-1000","qty":2},{"sku":"B-2000","qty":1}],"x":1}'
)
decode = msgspec.json.Decoder().decode


def with_missive(url: str, messages: int) -> float:
    """Run a field matcher and a sync handler, and drain after the last message.

    Return the time from the first message to the end of the drain, in seconds.
    """
    proc = missive.Processor(missive.JSONMessage, name="bench", dlq={})
    engines: list[Engine] = []
    started, seen = 0.0, 0

    @proc.handle_for(Field("type", "order.placed"))
    def handle(message: missive.JSONMessage, context: missive.HandlingContext) -> None:
        nonlocal started, seen
        started = started or time.perf_counter()
        seen += 1
        if seen == messages:
            engines[0].stop()

    (report,) = execute([from_url(url, proc)], watch=engines.extend)
    elapsed = time.perf_counter() - started
    if report.total_handled != messages:
        raise SystemExit("not every message was handled")
    return elapsed
