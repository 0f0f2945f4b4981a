"""`simulate`: the checks of a scenario, and the report of a failure."""

from __future__ import annotations

import asyncio
import logging

import pytest

from missive import HandlingContext, JSONMessage, MissiveError, Processor, UsageError
from missive.matchers import Everything
from missive.testing import Faults, SimulationFailed, simulate
from missive.testing.simulation import Promise

CANARY = "canary-4711"
MESSAGES = [JSONMessage.of({"n": n, "v": CANARY}, message_id=f"{CANARY}-{n}") for n in range(8)]


def processor(handler, **settings):
    proc = Processor(JSONMessage, name="app", concurrency=3)
    proc.add_handler(Everything(), handler, **settings)
    return proc


def counting(most):
    """Return a scenario whose handler sees at most `most` messages in all, repeated ones included."""

    def scenario():
        seen = []
        yield processor(lambda message, context: seen.append(message.message_id))
        assert len(set(seen)) == len(MESSAGES), CANARY
        assert len(seen) <= most, CANARY

    return scenario


def test_a_scenario_passes():
    """A handler that can take a message twice passes every schedule, although faults happen."""
    happened = simulate(counting(10**6), MESSAGES, schedules=60)
    assert [event for event in ("crash", "stop", "redelivered", "settled", "faults end") if not happened[event]] == []


def test_a_failed_check_reports_its_seed():
    """A failed assertion fails the schedule. The text has the seed, the promise and the events, and no content."""
    with pytest.raises(SimulationFailed) as first:
        simulate(counting(len(MESSAGES)), MESSAGES)
    failed = first.value
    assert isinstance(failed, MissiveError)
    assert isinstance(failed, AssertionError)
    assert failed.promise is Promise.check
    text = str(failed)
    assert text.startswith(f"seed {failed.seed} broke the promise '{Promise.check}': ")
    assert text.endswith(f"To repeat this schedule: simulate(…, seed={failed.seed})")
    assert "delivered m" in text
    assert CANARY not in text
    with pytest.raises(SimulationFailed) as again:
        simulate(counting(len(MESSAGES)), MESSAGES, seed=failed.seed)
    assert text == str(again.value)


def test_without_faults_each_message_is_handled_once():
    """`Faults.none()` simulates a transport without faults, and a process that starts once."""
    happened = simulate(counting(len(MESSAGES)), MESSAGES, schedules=30, faults=Faults.none())
    assert happened["start"] == happened["connected"] == 30
    assert happened["started"] == happened["delivered"] == 30 * len(MESSAGES)


@pytest.mark.parametrize(
    ("off", "event"),
    [({"crashes": False}, "crash"), ({"stops": False}, "ended by force"), ({"leases": False}, "interrupted")],
)
def test_a_kind_of_fault_can_be_switched_off(off, event):
    """A fault that is switched off does not happen, and the others still do."""

    async def wait(message, context):
        await asyncio.sleep(3)

    def scenario():
        return processor(wait)

    def often(faults):
        return simulate(scenario, MESSAGES, schedules=60, faults=faults, transport="leases")[event]

    others = dict.fromkeys(("connection", "answers", "slowness", "stops"), False) if "leases" in off else {}
    assert often(Faults(**others, **off)) == 0
    assert often(Faults(**others)) > 0


@pytest.mark.parametrize("transport", ["queue", "leases", "partitions", "lanes"])
def test_the_transport_can_be_chosen(transport):
    """With `transport=`, every schedule uses a transport of that kind."""
    urls = set()

    def handle(message: JSONMessage, context: HandlingContext) -> None:
        urls.add(context.adapter.url)

    simulate(lambda: processor(handle), MESSAGES, schedules=10, transport=transport)
    assert urls == {f"simulated:{transport}"}


def test_a_message_that_never_ends_fails_the_schedule():
    """A handler that always retries fails its schedule. The simulation does not run for ever."""
    with pytest.raises(SimulationFailed) as failed:
        simulate(lambda: processor(lambda message, context: context.retry(1)), MESSAGES, schedules=1)
    assert failed.value.promise is Promise.progress
    assert "is handled again and again" in failed.value.what


def test_raw_bytes_are_messages():
    """Messages of raw bytes, without an id or a key, are simulated like other messages."""
    seen = []

    def handle(message, context):
        seen.append(message.raw_data)

    def scenario():
        proc = Processor(name="app")
        proc.add_handler(Everything(), handle)
        return proc

    simulate(scenario, [b"1", b"2"], seed=5, faults=Faults.none())
    assert sorted(seen) == [b"1", b"2"]


def test_impossible_simulations_are_refused():
    """Two messages with one id, an unknown transport and a running loop are usage errors."""

    def scenario():
        return processor(lambda message, context: None)

    with pytest.raises(UsageError, match="the same id"):
        simulate(scenario, [MESSAGES[0], MESSAGES[0]])
    with pytest.raises(UsageError, match="transport= is one of queue, leases"):
        simulate(scenario, MESSAGES, transport="pigeons")

    async def inside():
        simulate(scenario, MESSAGES)

    with pytest.raises(UsageError, match="inside a running loop"):
        asyncio.run(inside())


def test_the_log_level_is_restored():
    """A simulation hides the log lines of the engine, and restores the level of the logger."""
    logger = logging.getLogger("missive")
    before = logger.level
    with pytest.raises(SimulationFailed):
        simulate(counting(0), MESSAGES, schedules=1)
    assert logger.level == before
