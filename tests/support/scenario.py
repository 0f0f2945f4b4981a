"""The scenario of the simulation: handlers of every kind, and a plan for each seed that scripts their actions."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from missive import (
    Batch,
    Breaker,
    DeadLetter,
    Discard,
    HandlingContext,
    JSONMessage,
    Once,
    Processor,
    Retry,
    RetryLater,
    constant,
)
from missive.engine.limits import Limits
from missive.matchers import Everything, Field, by_field, by_key
from missive.testing.simulation.faults import Faults
from missive.testing.simulation.schedule import run_schedule
from missive.testing.simulation.simulate import quiet
from missive.testing.simulation.trace import SimulationFailed, Trace
from missive.transport import Credit

KINDS = [
    "plain",
    "plain async",
    "ordered",
    "ordered async",
    "passes",
    "one at a time",
    "in time",
    "rated",
    "batches",
    "ordered batches",
    "once",
    "once ordered",
    "policy",
    "ordered policy",
    "needs",
    "ordered needs",
    "unwanted",
    "unknown",
]
MAX_CONCURRENCY = 4

Action: TypeAlias = Callable[[HandlingContext], object]
"""An action of a handler, such as a retry or an exception."""


class Plan:
    """The messages of a schedule, and for each message the actions of its handler, one for each attempt."""

    def __init__(self, seed: int) -> None:
        random = Random(-seed - 1)
        kinds = random.sample(KINDS, random.randint(1, len(KINDS)))
        keys = random.randint(1, 5)
        self._error_rate = random.choice((0.0, 0.2, 0.6))
        self._longest = random.choice((0.0, 0.01, 0.3, 1.5))
        self.messages: list[JSONMessage] = []
        self._actions: list[list[Action]] = []
        self._runs: dict[int, int] = {}
        for number in range(random.randint(10, 35)):
            content = {"n": number, "kind": random.choice(kinds), "key": random.randrange(keys)}
            body = b"{" if random.random() < 0.02 else json.dumps(content).encode()
            self.messages.append(JSONMessage(body, message_id=f"id{number}", key=str(content["key"])))
            self._actions.append([*self._retries(random), self._last(random)])
        self._up, self._down = random.choice((0, 0, 5)), random.choice((1, 4, 8, 12))
        self._random = random
        self.credit = Credit(random.choice((3, 10, 1000)), random.choice((300, 64 * 1024 * 1024)))
        self.total_items = self.credit.items * random.choice((1, 10))

    def _retries(self, random: Random) -> list[Action]:
        actions: list[Action] = []
        while random.random() < self._error_rate / 2 and len(actions) < 3:
            after = random.choice((0.0, 0.01, 0.5, 2.0))
            actions.append(
                random.choice(
                    (
                        lambda context: context.nack(),
                        lambda context, after=after: context.retry(after),
                        lambda context, after=after: throw(RetryLater(after)),
                    )
                )
            )
        return actions

    def _last(self, random: Random) -> Action:
        if random.random() >= self._error_rate:
            return lambda context: None
        return random.choice(
            (
                lambda context: context.discard("unwanted"),
                lambda context: context.dead_letter("bad"),
                lambda context: throw(ValueError("bad")),
                lambda context: throw(DeadLetter("bad")),
                lambda context: throw(Discard("unwanted")),
                lambda context: context.ack(),
            )
        )

    def run(self, message: JSONMessage, context: HandlingContext) -> None:
        """Perform the next planned action for a message. The last action repeats."""
        number = message.get_json()["n"]
        actions, run = self._actions[number], self._runs.get(number, 0)
        self._runs[number] = run + 1
        actions[min(run, len(actions) - 1)](context)

    def call_dependency(self) -> None:
        """Call a dependency. Raise ConnectionError for a planned number of calls."""
        self._up -= 1
        if -self._down <= self._up < 0:
            raise ConnectionError("down")

    def delay(self) -> float:
        """Return the duration of an async handler, in seconds."""
        return self._longest * self._random.random()


class _Current:
    """The plan of the running schedule. A context variable does not work: each handler runs in a new context."""

    plan: Plan


def throw(error: Exception) -> None:
    raise error


def handle(message: JSONMessage, context: HandlingContext) -> None:
    _Current.plan.run(message, context)


async def handle_async(message: JSONMessage, context: HandlingContext) -> None:
    plan = _Current.plan
    if (delay := plan.delay()) > 0:
        await asyncio.sleep(delay)
    plan.run(message, context)


def handle_needing(message: JSONMessage, context: HandlingContext) -> None:
    _Current.plan.call_dependency()
    _Current.plan.run(message, context)


async def handle_needing_async(message: JSONMessage, context: HandlingContext) -> None:
    _Current.plan.call_dependency()
    await handle_async(message, context)


def handle_batch(batch: Batch[JSONMessage]) -> None:
    for context in batch:
        _Current.plan.run(context.message, context)


async def handle_batch_async(batch: Batch[JSONMessage]) -> None:
    for context in batch:
        await handle_async(context.message, context)


def make_processor() -> Processor[JSONMessage]:
    """Return a processor with one handler of each kind."""
    proc = Processor(JSONMessage, name="simulated", concurrency=MAX_CONCURRENCY)
    by = by_field("key")
    proc.add_handler(Field("kind", "plain"), handle, name="plain")
    proc.add_handler(Field("kind", "plain async"), handle_async, name="plain async")
    proc.add_handler(Field("kind", "ordered"), handle, name="ordered", ordered_by=by)
    proc.add_handler(Field("kind", "ordered async"), handle_async, name="ordered async", ordered_by=by)
    proc.add_handler(Field("kind", "passes"), handle_async, name="passes", ordered_by=by_key, on_lane_retry="pass")
    proc.add_handler(Field("kind", "one at a time"), handle, name="one at a time", concurrency=1)
    proc.add_handler(Field("kind", "in time"), handle_async, name="in time", timeout=0.5)
    proc.add_handler(Field("kind", "rated"), handle, name="rated", rate_limit="5/s")
    proc.add_batch_handler(Field("kind", "batches"), handle_batch, name="batches", size=5)
    proc.add_batch_handler(
        Field("kind", "ordered batches"), handle_batch_async, name="ordered batches", size=4, wait=0.1, ordered_by=by
    )
    once = Once(by_field("n"), lease=3)
    proc.add_handler(Field("kind", "once"), handle, name="once", once=once)
    proc.add_handler(Field("kind", "once ordered"), handle_async, name="once ordered", once=once, ordered_by=by)
    policy = Retry(attempts=3, immediate=1, delays=constant(0.3))
    proc.add_handler(Field("kind", "policy"), handle, name="policy", retry=policy)
    proc.add_handler(Field("kind", "ordered policy"), handle_async, name="ordered policy", retry=policy, ordered_by=by)
    retry = Retry(on=ConnectionError, attempts=None, delays=constant(0.2))
    needs = {"breaker": Breaker("dependency", on=ConnectionError, after=3, probe=2), "retry": retry}
    proc.add_handler(Field("kind", "needs"), handle_needing, name="needs", **needs)
    proc.add_handler(Field("kind", "ordered needs"), handle_needing_async, name="ordered needs", ordered_by=by, **needs)
    proc.discard_for(Field("kind", "unwanted"), reason="unwanted")
    return proc


PROCESSOR = make_processor()


def run(seed: int, faults: Faults | None = None, transport: str | None = None) -> Trace:
    """Run the schedule of a seed, with the credit of its plan."""
    plan = _Current.plan = Plan(seed)
    limits = Limits(plan.credit.items, plan.credit.bytes, plan.total_items)
    return run_schedule(seed, PROCESSOR, plan.messages, faults=faults or Faults(), transport=transport, limits=limits)


def run_many(seeds: Sequence[int], faults: Faults | None = None) -> tuple[Counter[str], list[str]]:
    """Run schedules. Return the number of each event, and the texts of the failures."""
    counts: Counter[str] = Counter()
    failures = []
    with quiet():
        for seed in seeds:
            try:
                counts.update(run(seed, faults).counts())
            except SimulationFailed as failed:
                failures.append(str(failed))
    return counts, failures


def make_refusing_processor() -> Processor[JSONMessage]:
    """Return a processor that makes a dead letter of each message, and pauses intake when three of them wait."""
    proc = Processor(JSONMessage, name="refusing", concurrency=2, max_unfiled=3)
    proc.add_handler(Everything(), lambda message, context: context.dead_letter("bad"), name="refuses")
    return proc


REFUSING = make_refusing_processor()


def run_refusing(seed: int) -> Trace:
    """Run the schedule of a seed in which every message becomes a dead letter, with a credit of four messages."""
    messages = [JSONMessage(b"{}", message_id=f"id{number}") for number in range(40)]
    limits = Limits(items=4, total_items=40)
    return run_schedule(seed, REFUSING, messages, faults=Faults(), limits=limits)
