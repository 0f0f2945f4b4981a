"""`simulate`: schedules of faults, by seed, for a user's own processor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from missive.app.processor import Processor
from missive.errors import UsageError
from missive.messages import Message
from missive.testing.simulation.broker import TRANSPORTS
from missive.testing.simulation.faults import Faults
from missive.testing.simulation.schedule import run_schedule
from missive.testing.simulation.trace import Promise, SimulationFailed, Trace

Scenario: TypeAlias = Callable[[], Processor[Any] | Generator[Processor[Any], None, None]]
"""Makes a processor; as a generator function it yields it, and checks afterwards what was left behind."""

Transport: TypeAlias = Literal["queue", "leases", "partitions", "lanes"]
"""What kind of a transport there is: a queue, leases, partitions that are committed, lanes settled one by one."""

ALL = Faults()


def simulate(
    scenario: Scenario,
    messages: Sequence[Message | bytes],
    *,
    schedules: int = 100,
    seed: int | None = None,
    faults: Faults = ALL,
    transport: Transport | None = None,
) -> Counter[str]:
    """Run a processor through schedules of faults on a simulated transport, clock and store; none of it is real.

    `scenario` makes the processor, anew for each schedule. As a generator function it yields the processor, and what
    comes after the `yield` checks, once all messages have ended, what the handlers left behind. `messages` are what
    the transport delivers, in their order, each with an id of its own if it has any. Schedules `0` to `schedules - 1`
    are run, or the one of `seed` alone. `faults` says what may go wrong, and `transport` on what kind of a transport
    (one by seed when None). Dead letters go to a simulated store, whatever the processor's own is.

    A seed is the same schedule every time, as long as handlers do nothing that is random, and wait for nothing but
    `asyncio.sleep` and the like. Returns how often each event happened. Raises `SimulationFailed` for the first
    schedule that breaks a promise of the engine's, or a check of the scenario's, and `UsageError` in a running loop.
    """
    _refuse(messages, transport)
    counts: Counter[str] = Counter()
    with quiet():
        for number in range(schedules) if seed is None else (seed,):
            counts.update(_run(number, scenario, messages, faults, transport).counts())
    return counts


def _run(
    seed: int, scenario: Scenario, messages: Sequence[Message | bytes], faults: Faults, transport: Transport | None
) -> Trace:
    made = scenario()
    if isinstance(made, Processor):
        return run_schedule(seed, made, messages, faults=faults, transport=transport)
    with contextlib.closing(made):
        trace = run_schedule(seed, next(made), messages, faults=faults, transport=transport)
        try:
            next(made, None)
        except AssertionError as failed:
            # Its text is the scenario's own, and may hold content.
            raise SimulationFailed(seed, Promise.check, "it does not", trace) from failed
    return trace


def _refuse(messages: Sequence[Message | bytes], transport: Transport | None) -> None:
    if transport is not None and transport not in TRANSPORTS:
        raise UsageError(f"transport= is one of {', '.join(TRANSPORTS)}")
    ids = [message.message_id for message in messages if isinstance(message, Message)]
    if len(set(ids)) != len(ids):
        raise UsageError("two messages have the same id: each of them must have its own, to be followed")
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError("there is a running loop here: call simulate from a thread of its own, or a plain test")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the engine's log lines out of the way: thousands of them say what goes wrong on purpose."""
    logger = logging.getLogger("missive")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
