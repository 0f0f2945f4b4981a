"""`simulate`: runs a user's processor through schedules of faults."""

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
"""Creates a processor. A generator function yields it, and checks the effects of the handlers afterwards."""

Transport: TypeAlias = Literal["queue", "leases", "partitions", "lanes"]
"""The kind of the simulated transport: a queue, leases, partitions with commits, or lanes settled one by one."""

ALL = Faults()
"""All kinds of faults."""


def simulate(
    scenario: Scenario,
    messages: Sequence[Message | bytes],
    *,
    schedules: int = 100,
    seed: int | None = None,
    faults: Faults = ALL,
    transport: Transport | None = None,
) -> Counter[str]:
    """Run a processor through schedules of faults, with a simulated transport, clock and store.

    `scenario` creates the processor for each schedule. A generator function yields the processor; the code after the
    `yield` runs when all messages have ended, and checks the effects of the handlers. The transport delivers `messages`
    in their order. Messages with ids must have different ids. `simulate` runs the schedules with the seeds from 0 to
    `schedules - 1`, or the schedule of `seed` only. `faults` selects the kinds of faults, and `transport` the kind of
    transport; if it is None, the seed selects it. Dead letters go to a simulated store instead of the processor's own.

    A seed always gives the same schedule, if handlers use no random values and wait for virtual time only, as in
    `asyncio.sleep`. Return the number of times that each event happened. Raises `SimulationFailed` for the first
    schedule that breaks a promise of the engine or a check of the scenario, and `UsageError` inside a running loop.
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
            # The text of the assertion may contain message content.
            raise SimulationFailed(seed, Promise.check, "the check failed", trace) from failed
    return trace


def _refuse(messages: Sequence[Message | bytes], transport: Transport | None) -> None:
    if transport is not None and transport not in TRANSPORTS:
        raise UsageError(f"transport= is one of {', '.join(TRANSPORTS)}")
    ids = [message.message_id for message in messages if isinstance(message, Message)]
    if len(set(ids)) != len(ids):
        raise UsageError("two messages have the same id: give each message its own id")
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError("simulate cannot run inside a running loop: call it from a sync test, or from another thread")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the log lines of the engine, because the simulated faults cause thousands of them."""
    logger = logging.getLogger("missive")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
