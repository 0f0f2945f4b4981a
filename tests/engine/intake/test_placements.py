"""Placements: values of `partitioned_by=` in two lanes are reported once, without the value."""

from __future__ import annotations

import asyncio
from datetime import date
from decimal import Decimal

import pytest

from missive import JSONMessage, Processor
from missive.dlq import open_dlq
from missive.engine.engine import Engine
from missive.engine.intake.placements import _LATEST, Placement, Placements, _encoded
from missive.engine.processes.supervisor import Supervisor
from missive.engine.runner import loop_factory
from missive.matchers import Everything, by_field
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Delivery


def run(deliveries: list[tuple[bytes, int]]) -> Engine:
    """Run an engine over bodies in partitions of a topic."""
    proc, key = Processor(JSONMessage, name="t"), by_field("c")
    proc.add_handler(Everything(), lambda message, context: None, ordered_by=key)
    made = [
        Delivery(body, topic="t", lane=f"t/{lane}", position=position, native_id=f"t/{lane}/{position}")
        for position, (body, lane) in enumerate(deliveries)
    ]
    adapter = MemoryAdapter(proc, made, capabilities=Capabilities(pauses=True))
    adapter.partitioned_by = key
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        loop = runner.get_loop()
        engine = Engine(proc, [adapter], sink=open_dlq({}), concurrency=1, drain=1, handlers_loop=loop)
        runner.run(engine.main())
    return engine


def reported(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "with one value of partitioned_by=" in line]


def test_a_value_in_two_lanes_is_reported_once(caplog: pytest.LogCaptureFixture):
    """The first value that is in two lanes is reported, without the value. Further ones are not."""
    run([(b'{"c": "canary"}', 0), (b'{"c": "canary"}', 1), (b'{"c": "canary"}', 0), (b'{"c": 2}', 0), (b'{"c": 2}', 1)])
    (line,) = reported(caplog)
    assert "are in the lanes t/0 and t/1" in line
    assert "canary" not in caplog.text


def test_values_in_one_lane_each_are_not_reported(caplog: pytest.LogCaptureFixture):
    """Messages without a value, messages whose body cannot be decoded, and different values are in any lane."""
    run([(b'{"c": "a"}', 0), (b'{"c": "a"}', 0), (b'{"c": "b"}', 1), (b"{}", 0), (b"{}", 1), (b'{"c": "1"}', 0)])
    run([(b"canary{", 0), (b"canary{", 1), (b'{"c": 1}', 0), (b'{"c": "1"}', 1)])
    assert reported(caplog) == []


def test_equal_values_have_equal_bytes():
    """Equal numbers of different types are one value. Objects of other types are not compared."""
    assert _encoded(1) == _encoded(1.0) == _encoded(True)
    values = [1, "1", b"1", 1.5, ("a", 1), ("a", "1"), ("a1",), date(2026, 1, 1), Decimal(1), (None, "a")]
    encoded = [_encoded(value) for value in values]
    assert None not in encoded
    assert len(set(encoded)) == len(values)
    assert _encoded(float("inf")) is not None
    assert _encoded(None) is None
    assert _encoded(object()) is None


def test_the_latest_values_are_kept(caplog: pytest.LogCaptureFixture):
    """At least 10,000 values are compared, and memory is bounded."""
    placements = Placements()
    for number in range(5 * _LATEST):
        placements.note(Placement("u", f"{number}", "t/0"))
    assert len(placements._fresh) + len(placements._older) <= 2 * _LATEST
    placements.note(Placement("u", "1", "t/1"))
    assert reported(caplog) == []
    placements.note(Placement("u", f"{4 * _LATEST}", "t/1"))
    assert len(reported(caplog)) == 1


def test_the_supervisor_compares_all_workers(caplog: pytest.LogCaptureFixture):
    """Workers report nothing themselves and send each change once. The supervisor finds a value in lanes of two."""
    first, second, supervisor = Placements(), Placements(), Supervisor([], 2)._placements
    for worker in (first, second):
        worker.share(supervisor.digest_key)
    for _ in range(3):
        first.note(Placement("u", "a", "t/0"))
        second.note(Placement("u", "a", "t/1"))
    assert reported(caplog) == []
    sent = first.unsent() + second.unsent()
    assert [tuple(one) for one in sent] == [("u", "a", "t/0"), ("u", "a", "t/1")]
    assert first.unsent() == []
    for one in sent:
        supervisor.note(one)
    assert len(reported(caplog)) == 1
