"""Cases 26, 27 and 30: order for each key, and none between keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from missive.context import HandlingContext
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.processor import Processor
from missive.testing.conformance.bench import check
from missive.testing.conformance.catalogue import Verdict, case

if TYPE_CHECKING:
    from missive.testing.conformance.bench import Bench

_KEYS = 5
_COUNT = 100


async def _ordered(bench: Bench) -> tuple[dict[int, list[int]], int, int]:
    """Handle messages of a few keys at once; returns each key's order, overlaps within one, and the most at once."""
    processor = Processor(name="conformance", dlq=bench.dlq, concurrency=8)
    order: dict[int, list[int]] = defaultdict(list)
    running: set[int] = set()
    overlaps = most = 0

    def key(message: RawMessage) -> int:
        number = int(message.raw_data)
        return 0 if number % 2 else number % _KEYS  # every other one has the same key

    @processor.handle_for(Everything(), ordered_by=key)
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        nonlocal overlaps, most
        mine = key(message)
        overlaps += mine in running
        running.add(mine)
        most = max(most, len(running))
        await asyncio.sleep(0.002)
        running.discard(mine)
        order[mine].append(int(message.raw_data))
        bench.ledger.handled[message.raw_data] += 1

    await bench.publish(*(b"%d" % number for number in range(_COUNT)))
    async with bench.serving(bench.adapter(processor)):
        await bench.until(lambda: len(bench.ledger.handled) == _COUNT, "all handled")
    return order, overlaps, most


@case(26)
async def fifo(bench: Bench) -> Verdict:
    """Messages of one key are handled in their order, with eight at once and one key that has half of them."""
    order, _, _ = await _ordered(bench)
    check(all(seen == sorted(seen) for seen in order.values()), "messages of one key were handled out of order")
    return Verdict.passed


@case(27)
async def alone(bench: Bench) -> Verdict:
    """No two handlers of one key run at once."""
    _, overlaps, _ = await _ordered(bench)
    check(overlaps == 0, f"{overlaps} handlers of one key overlapped")
    return Verdict.passed


@case(30)
async def overlap(bench: Bench) -> Verdict:
    """Handlers of different keys do run at once."""
    _, _, most = await _ordered(bench)
    check(most > 1, "different keys never overlapped")
    return Verdict.passed
