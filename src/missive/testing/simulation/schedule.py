"""Schedule: runs a processor with the faults of one seed, from the first message to the last settlement."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from missive.app.processor import Processor
from missive.engine.limits import DEFAULT, Limits
from missive.messages import Message
from missive.testing.simulation.faults import Faults
from missive.testing.simulation.life import End, Life
from missive.testing.simulation.trace import SimulationFailed, Trace
from missive.testing.simulation.world import World

_GAP = 1.5
"""Maximum time until a dead process is restarted, in seconds."""


def run_schedule(
    seed: int,
    processor: Processor[Any],
    messages: Sequence[Message | bytes],
    *,
    faults: Faults,
    transport: str | None = None,
    limits: Limits = DEFAULT,
) -> Trace:
    """Run one schedule and return its trace. Raises `SimulationFailed` when a promise is broken."""
    processor.freeze()
    world = World(seed, processor, messages, faults, transport, limits)
    random = world.random
    concurrency = random.randint(1, processor.concurrency)
    ends = _ends(faults, random)
    for number, end in enumerate(ends, 1):
        Life(world, processor, number, end, concurrency=concurrency, drain=_drain(end, random)).run()
        if world.failure is not None:
            break
        world.clock.now += random.random() * _GAP
    else:
        world.ledger.balance(faultless=faults == Faults.none())
    if world.failure is not None:
        raise SimulationFailed(seed, *world.failure, world.trace)
    return world.trace


def _drain(end: End, random: Random) -> float:
    """Return the drain time of an engine, in seconds. It suffices for all work when everything must be settled."""
    return 25.0 if end is End.quiet else random.choice((0.0, 0.5, 5.0, 25.0))


def _ends(faults: Faults, random: Random) -> list[End]:
    ends = [End.crash] * (random.choice((0, 0, 1, 1, 2, 3)) if faults.crashes else 0)
    if faults.stops:
        ends += [random.choice((End.stop, End.stop, End.force)) for _ in range(random.choice((0, 0, 1, 2)))]
    random.shuffle(ends)
    return [*ends, End.quiet]
