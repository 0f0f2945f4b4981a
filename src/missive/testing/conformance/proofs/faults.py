"""Cases 45 to 51: brokers, connections and workers that fail under load."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from missive.adapters.contract import Delivery, Item, Mark, Result, Session, Verb
from missive.context import HandlingContext
from missive.errors import Transient
from missive.matchers import Everything
from missive.messages import RawMessage
from missive.processor import Processor
from missive.testing.conformance.bench import check
from missive.testing.conformance.catalogue import Verdict, case
from missive.testing.conformance.proxy import Fault

if TYPE_CHECKING:
    from missive.testing.conformance.bench import Bench

_ANSWER = 5.0
_LOAD = 600
_DEEP_LOAD = 5000


async def _under_load(
    bench: Bench, hurt: Callable[[int], Awaitable[None]], times: int, *, address: tuple[str, int] | None = None
) -> Verdict:
    """Hurt it again and again while the engine works; all is handled, and little of it twice."""
    count = _DEEP_LOAD if bench.deep else _LOAD
    processor = Processor(name="conformance", dlq=bench.dlq, concurrency=4)

    @processor.handle_for(Everything())
    async def handle(message: RawMessage, context: HandlingContext[RawMessage]) -> None:
        await asyncio.sleep(0.005)
        bench.ledger.handled[message.raw_data] += 1

    handled = bench.ledger.handled
    await bench.publish(*(b"%d" % number for number in range(count)))
    options: dict[str, Any] = {} if address is None else {"address": address}
    async with bench.serving(bench.adapter(processor, **options)):
        for turn in range(times):
            goal = count * (turn + 1) // (times + 2)
            await bench.until(lambda goal=goal: len(handled) >= goal, "progress", 60)  # type: ignore[misc]
            await hurt(turn)
        await bench.until(lambda: len(handled) == count, "all handled", 90)
    twice = sum(handled.values()) - count
    bench.duplicates = twice
    check(twice <= times * bench.harness.duplicates, f"{twice} duplicates after {times} faults")
    return Verdict.passed


@case(46)
async def broker_killed(bench: Bench) -> Verdict:
    """The broker is killed under load, again and again; nothing is lost."""
    harness = bench.harness
    if not harness.broker:
        return Verdict.refused

    async def hurt(_turn: int) -> None:
        await bench.blocking(harness.kill)
        await bench.blocking(harness.start)

    return await _under_load(bench, hurt, 10 if bench.deep else 1)


@case(48)
async def bad_network(bench: Bench) -> Verdict:
    """Latency, resets and frames that are cut off lose nothing."""
    if bench.harness.address is None:
        return Verdict.refused
    with bench.proxy() as proxy:

        async def hurt(turn: int) -> None:
            if turn % 3 == 0:
                proxy.reset()
            elif turn % 3 == 1:
                proxy.set(Fault.truncate)
                await asyncio.sleep(0.3)
            else:
                proxy.set(latency=0.02)

        return await _under_load(bench, hurt, 3, address=proxy.address)


@case(49)
async def between(bench: Bench) -> Verdict:
    """A connection that dies after the handler and before the ack brings the message again."""
    await bench.publish(b"0")
    if bench.harness.address is None:
        session = await bench.open()
        await bench.settle(session, await bench.take(session, 1))
        return Verdict.refused
    with bench.proxy() as proxy:
        session = await bench.open(address=proxy.address)
        taken = await bench.take(session, 1)
        proxy.reset()
        proxy.set(Fault.refuse)
        await asyncio.sleep(0.2)
        results = await _settled_in_vain(session, taken[0])
        check(all(one in ("unknown", "failed") for one in results), "settled over a connection that is gone")
        await bench.drop(session)
    return Verdict.passed


async def _settled_in_vain(session: Session, delivery: Delivery) -> Sequence[Result]:
    """Settle over a connection that is gone; returns what was answered, which is nothing where it raises or waits."""
    if session.capabilities.commit == "cumulative":
        settling = asyncio.ensure_future(_commit(session, delivery))
    else:
        settling = asyncio.ensure_future(session.settle([Item(delivery, Verb.ack)]))
    await asyncio.wait([settling], timeout=_ANSWER)
    if not settling.done():
        settling.cancel()
        return ()
    error = settling.exception()
    if error is not None and not isinstance(error, Transient):
        raise error
    return () if error is not None else settling.result()


async def _commit(session: Session, delivery: Delivery) -> Sequence[Result]:
    return list((await session.commit({delivery.lane: Mark(delivery.position or 0)})).values())


_WORKER = """
import os, time
import missive
from missive.matchers import Everything

proc = missive.Processor(name="conformance")
out = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything())
def handle(message, context):
    time.sleep(0.001)
    os.write(out, message.raw_data + b"\\n")
"""


@case(51)
async def worker_killed(bench: Bench) -> Verdict:
    """The worker is killed with SIGKILL again and again; nothing is lost."""
    url = bench.harness.url
    if url is None:
        return Verdict.refused
    kills, count = (100, 20_000) if bench.deep else (3, 1500)
    (bench.directory / "conformance_worker.py").write_text(_WORKER)
    out = bench.directory / "handled.txt"
    await bench.publish(*(b"%d" % number for number in range(count)))

    def lines() -> list[bytes]:
        return out.read_bytes().split() if out.exists() else []

    chance = random.Random(count)  # noqa: S311 - when to kill is no secret
    ended = False
    for turn in range(kills + 1):
        worker = await bench.worker("conformance_worker.py:proc", "--from", url, "--dlq", bench.dlq)
        try:
            if turn < kills:
                was = len(lines())
                goal = was + chance.randrange(1, count // (kills + 2))
                await bench.until(lambda goal=goal: len(lines()) >= goal or len(set(lines())) == count, "work", 60)  # type: ignore[misc]
            else:
                await bench.until(lambda: len(set(lines())) == count, "all handled", 60 + bench.harness.again_seconds)
                worker.terminate()
                async with asyncio.timeout(30):
                    await worker.wait()
                ended = worker.returncode == 0
        finally:
            await bench.end(worker)
    bench.ledger.handled.update(lines())
    twice = len(lines()) - count
    bench.duplicates = twice
    check(ended, "the last worker did not end well")
    check(twice <= kills * bench.harness.duplicates, f"{twice} duplicates after {kills} kills")
    return Verdict.passed
