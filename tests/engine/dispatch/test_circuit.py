"""Breakers in the engine: what is down is left alone, and what needs it waits, without spending attempts."""

from __future__ import annotations

import threading

import pytest

from missive import Breaker, DependencyDown, JSONMessage, Processor, Retry, UsageError, constant
from missive.engine.dispatch.circuit import Circuit, CircuitLimiter
from missive.engine.workers.decision import ACKED, Decision
from missive.matchers import Everything, Field, by_field
from missive.outcome import Outcome
from missive.testing import MemoryAdapter
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, run, until


class Clock:
    """A clock that stands still until it is told."""

    now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


class Dependency:
    """Something that is down until it is told; notes who asked, and how many at once."""

    def __init__(self):
        self.up = threading.Event()
        self.asked: list[int] = []
        self.attempts: list[int] = []
        self.handled: list[int] = []
        self._lock = threading.Lock()

    def handle(self, message, context):
        """Ask it."""
        number = message.get_json()["n"]
        with self._lock:
            self.asked.append(number)
            self.attempts.append(context.attempt)
        if not self.up.is_set():
            raise ConnectionError("down")
        self.handled.append(number)


def processor(dependency, **options):
    proc = Processor(JSONMessage, name="app", dlq={}, concurrency=4, on_overlap="ignore")
    policy = Retry(attempts=3, immediate=0, delays=constant(0.01))
    breaker = Breaker("b", on=ConnectionError, after=3, probe=1)
    proc.add_handler(Field("k", "a"), dependency.handle, name="a", retry=policy, breaker=breaker, **options)
    return proc


def bodies(count, key="a"):
    return [b'{"n":%d,"k":"%s","o":%d}' % (n, key.encode(), n % 3) for n in range(count)]


def circuit_of(engine):
    return engine.stations.dispatcher.circuits["b"]


def test_the_states_of_a_circuit():
    """Closed, open for a period, one probe, a ramp of two, four and so on, closed; a failed probe opens it again."""
    clock = Clock()
    circuit = Circuit(Breaker("b", after=2, probe=10), clock, 100)
    circuit.failed()
    circuit.succeeded()
    circuit.failed()
    assert circuit.up, "only failures one after the other count"
    circuit.failed()
    assert (circuit.state, circuit.opens_in, circuit.admits(0)) == ("open", 10, False)
    clock.now = 10
    assert circuit.admits(0)
    circuit.entered()
    assert (circuit.state, circuit.admits(0), circuit.admits(1)) == ("half-open", True, False)
    circuit.failed()
    assert (circuit.state, circuit.opens_in) == ("open", 10)
    clock.now = 20
    circuit.entered()
    circuit.succeeded()
    assert (circuit.state, circuit.admits(1), circuit.admits(2)) == ("ramp", True, False)
    circuit.succeeded()
    assert (circuit.admits(3), circuit.admits(4)) == (True, False)
    for _ in range(5):
        circuit.succeeded()
    assert circuit.up


def test_a_ramp_that_fails_opens_again():
    """While it is let through more and more, one failure is enough."""
    clock = Clock()
    circuit = Circuit(Breaker("b", after=1, probe=10), clock, 100)
    circuit.failed()
    clock.now = 10
    circuit.entered()
    circuit.succeeded()
    circuit.failed()
    assert circuit.state == "open"


def test_what_is_down_is_probed_once_a_period_and_then_all_is_handled():
    """While it is down one message a period is tried; none is a dead letter, and no attempt is spent on it."""
    dependency = Dependency()
    proc = processor(dependency)
    broker = Broker(proc, bodies(200), ends=True)

    async def meanwhile(engine):
        await until(lambda: hasattr(engine, "stations") and len(dependency.asked) >= 3, "the breaker to open")
        circuit = circuit_of(engine)
        await until(lambda: circuit.probes >= 3, "probes")
        asked, probes = len(dependency.asked), circuit.probes
        assert asked <= 3 + 8 + probes, "only probes ask what is down, and what was running when it opened"
        dependency.up.set()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert sorted(dependency.handled) == list(range(200))
    assert len(broker.acked) == 200
    assert proc.dlq == {}
    assert max(dependency.attempts) <= 3


class Passage:
    """What a gate is passed with: jobs that ended in some way."""

    def __init__(self, *decisions):
        self.jobs = [type("Ended", (), {"decision": decision}) for decision in decisions]


def gate_of(probe=10.0):
    """Return a gate whose circuit has just opened, with one call inside that began before, and its clock."""
    clock = Clock()
    gate = CircuitLimiter(Circuit(Breaker("b", after=1, probe=probe), clock, 8))
    hanging = Passage()
    gate.enter(hanging)
    gate.enter(failed := Passage(Decision(Outcome.retried, blames="b")))
    gate.leave(failed)
    return gate, clock, hanging


def test_a_call_that_hangs_does_not_keep_the_probe_waiting():
    """What hangs since before the breaker opened is no reason not to ask, and its own end says nothing then."""
    gate, clock, hanging = gate_of()
    assert not gate.admits(Passage())
    clock.now = 10.0
    assert gate.admits(Passage())
    gate.enter(probe := Passage(ACKED))
    assert not gate.admits(Passage()), "one probe at a time"
    hanging.jobs = Passage(Decision(Outcome.retried, blames="b")).jobs
    gate.leave(hanging)
    assert gate.circuit.state == "half-open"
    gate.leave(probe)
    assert gate.circuit.state == "ramp"


def test_a_probe_that_says_nothing_is_followed_by_another_a_period_later():
    """A probe whose handler says "not now" does not count, and the next is sent when its time comes."""
    gate, clock, _ = gate_of()
    clock.now = 10.0
    gate.enter(probe := Passage(Decision(Outcome.nacked)))
    gate.leave(probe)
    assert gate.circuit.state == "open"
    assert not gate.admits(Passage())
    clock.now = 20.0
    assert gate.admits(Passage())


def test_others_go_on_while_a_breaker_is_open():
    """Only the messages of its own handlers are held."""
    dependency, others = Dependency(), []
    proc = processor(dependency)
    proc.add_handler(Field("k", "other"), lambda m, c: others.append(m.get_json()["n"]), name="other")
    broker = Broker(proc, [*bodies(50), *bodies(50, "other")])

    async def meanwhile(engine):
        await until(lambda: not circuit_of(engine).up, "the breaker to open")
        await until(lambda: len(others) == 50, "the others")
        assert not dependency.handled
        dependency.up.set()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert sorted(dependency.handled) == list(range(50))


def test_order_holds_through_a_breaker():
    """Messages of one key are handled in their order, also those that were held."""
    dependency = Dependency()
    proc = processor(dependency, ordered_by=by_field("o"))
    broker = Broker(proc, bodies(60))

    async def meanwhile(engine):
        await until(lambda: circuit_of(engine).probes >= 1, "a probe")
        dependency.up.set()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    for key in range(3):
        mine = [n for n in dependency.handled if n % 3 == key]
        assert mine == sorted(mine)
    assert len(dependency.handled) == 60


def test_dependency_down_in_another_handler_opens_it():
    """Who finds out that it is down says so, whoever that is; its own message waits too, and spends no attempt."""
    dependency, attempts = Dependency(), []
    dependency.up.set()
    proc = processor(dependency)

    def watch(message, context):
        attempts.append(context.attempt)
        if len(attempts) == 1:
            raise DependencyDown("b")

    proc.add_handler(Field("k", "watch"), watch, name="watch")
    states = []
    broker = Broker(proc, bodies(1, "watch"), ends=False)

    async def meanwhile(engine):
        await until(lambda: attempts == [1, 1], "the message to come again")
        states.append(circuit_of(engine).state)
        broker.send(*bodies(5))
        await until(lambda: len(dependency.handled) == 5, "the probe, and those after it")
        engine.stop()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert states == ["open"]
    assert proc.dlq == {}


def test_a_drain_gives_back_what_an_open_breaker_holds():
    """Stopping does not wait for what is down: its messages go back to their transport."""
    dependency = Dependency()
    proc = processor(dependency)
    broker = Broker(proc, bodies(30), ends=False)

    async def meanwhile(engine):
        await until(lambda: dependency.asked and not circuit_of(engine).up, "the breaker to open")
        engine.stop()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert len(broker.released) == 30
    assert broker.acked == []


def test_breakers_of_one_name_must_agree():
    """It is a mistake that is said at the start, in one line."""
    proc = Processor(name="app", dlq={})
    proc.add_handler(Everything(), lambda m, c: None, name="a", breaker=Breaker("b"))
    other = Processor(JSONMessage, name="app", dlq={})
    other.add_handler(Field("k", 1), lambda m, c: None, name="a", breaker=Breaker("b"))
    other.add_handler(Field("k", 2), lambda m, c: None, name="b", breaker=Breaker("b", probe=3))
    run(MemoryAdapter(proc, [b"x"]))
    with pytest.raises(UsageError, match="two different breakers are named b"):
        run(MemoryAdapter(other, [b"{}"]), check_left=False)
