"""Circuits: while a dependency is down, its messages wait and spend no attempts; probes find out when it is up."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from missive import Breaker, DependencyDown, Processor, Retry, UsageError, constant
from missive.engine.dispatch.circuit import Circuit, CircuitLimiter
from missive.engine.workers.decision import ACKED, Decision
from missive.matchers import Everything, Field
from missive.outcome import Outcome
from missive.testing import MemoryAdapter
from tests.support import engine
from tests.support.broker import Broker
from tests.support.engine import FastRuntime, bodies, number, run, until

FAILED = Decision(Outcome.retried, blames="b")
"""The decision of a handler that failed because the dependency of breaker `b` is down."""


class Clock:
    """A clock that stands still until a test sets `now`."""

    now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


class Dependency:
    """A dependency that is down until `up` is set. It records the calls of its handler."""

    def __init__(self):
        self.up = threading.Event()
        self.called: list[int] = []
        self.attempts: list[int] = []
        self.handled: list[int] = []
        self._lock = threading.Lock()

    def handle(self, message, context):
        """Handle a message, or raise ConnectionError while the dependency is down."""
        n = number(message)
        with self._lock:
            self.called.append(n)
            self.attempts.append(context.attempt)
        if not self.up.is_set():
            raise ConnectionError("down")
        self.handled.append(n)


def processor(dependency, **terms):
    """Return a processor whose handler of messages with `k` = "a" needs the dependency, behind breaker `b`."""
    proc = engine.processor()
    retry = Retry(attempts=3, immediate=0, delays=constant(0.01))
    breaker = Breaker("b", on=ConnectionError, after=3, probe=1)
    proc.add_handler(Field("k", "a"), dependency.handle, name="a", retry=retry, breaker=breaker, **terms)
    return proc


def needy(count):
    """Return bodies of messages for the handler that needs the dependency."""
    return bodies(count, k='"a"')


def circuit_of(engine):
    return engine.stations.dispatcher.circuits["b"]


# The circuit


def test_the_states_of_a_circuit():
    """Failures in a row open a circuit, a probe starts a ramp of 2, 4, 8 and more messages, and the ramp closes it."""
    clock = Clock()
    circuit = Circuit(Breaker("b", after=2, probe=10), clock, 100)
    circuit.failed()
    circuit.succeeded()
    circuit.failed()
    assert circuit.up, "a success between two failures resets the count"
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


def test_a_failure_during_the_ramp_opens_the_circuit():
    """One failure during the ramp opens the circuit."""
    clock = Clock()
    circuit = Circuit(Breaker("b", after=1, probe=10), clock, 100)
    circuit.failed()
    clock.now = 10
    circuit.entered()
    circuit.succeeded()
    circuit.failed()
    assert circuit.state == "open"


# The limiter of a circuit


class Work:
    """Work whose jobs have these decisions."""

    def __init__(self, *decisions):
        self.jobs = [SimpleNamespace(decision=decision) for decision in decisions]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def hanging():
    """Work that started before the circuit opened, and has not come back."""
    return Work()


@pytest.fixture
def limiter(clock, hanging):
    """A limiter whose circuit has just opened."""
    limiter = CircuitLimiter(Circuit(Breaker("b", after=1, probe=10.0), clock, 8))
    limiter.enter(hanging)
    limiter.enter(failed := Work(FAILED))
    limiter.leave(failed)
    return limiter


def test_a_handler_that_hangs_does_not_delay_the_probe(limiter, clock, hanging):
    """The probe does not wait for work that started before the circuit opened. The result of such work is ignored."""
    assert not limiter.admits(Work())
    clock.now = 10.0
    assert limiter.admits(Work())
    limiter.enter(probe := Work(ACKED))
    assert not limiter.admits(Work()), "one probe runs at a time"
    hanging.jobs = Work(FAILED).jobs
    limiter.leave(hanging)
    assert limiter.circuit.state == "half-open"
    limiter.leave(probe)
    assert limiter.circuit.state == "ramp"


def test_a_nacked_probe_is_followed_by_another(limiter, clock):
    """A nacked probe shows nothing about the dependency: the circuit opens again, and another probe follows."""
    clock.now = 10.0
    limiter.enter(probe := Work(Decision(Outcome.nacked)))
    limiter.leave(probe)
    assert limiter.circuit.state == "open"
    assert not limiter.admits(Work())
    clock.now = 20.0
    assert limiter.admits(Work())


# Breakers in a running engine, at ten times the speed


def test_an_open_breaker_tries_one_message_in_each_period():
    """While the dependency is down, only probes call it. No message becomes a dead letter or spends an attempt."""
    dependency = Dependency()
    proc = processor(dependency)
    broker = Broker(proc, needy(200), ends=True)

    async def meanwhile(engine):
        await until(lambda: hasattr(engine, "stations") and len(dependency.called) >= 3, "the breaker to open")
        circuit = circuit_of(engine)
        await until(lambda: circuit.probes >= 3, "three probes")
        called, probes = len(dependency.called), circuit.probes
        assert called <= 3 + 8 + probes, "only probes run, and the messages that ran when the breaker opened"
        dependency.up.set()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert sorted(dependency.handled) == list(range(200))
    assert len(broker.acked) == 200
    assert proc.dlq == {}
    assert max(dependency.attempts) <= 3


def test_an_open_breaker_does_not_hold_messages_of_other_handlers():
    """While a breaker is open, the messages of handlers without this breaker are handled."""
    dependency, others = Dependency(), []
    proc = processor(dependency)
    proc.add_handler(Field("k", "other"), lambda message, context: others.append(number(message)), name="other")
    broker = Broker(proc, [*needy(50), *bodies(50, k='"other"')])

    async def meanwhile(engine):
        await until(lambda: not circuit_of(engine).up, "the breaker to open")
        await until(lambda: len(others) == 50, "the messages of the other handler")
        assert not dependency.handled
        dependency.up.set()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert sorted(dependency.handled) == list(range(50))


def test_messages_that_a_breaker_held_keep_their_order():
    """Messages of one key are handled in order after a breaker has held them."""
    dependency = Dependency()
    proc = processor(dependency, ordered_by=lambda message: number(message) % 3)
    broker = Broker(proc, needy(60))

    async def meanwhile(engine):
        await until(lambda: circuit_of(engine).probes >= 1, "a probe")
        dependency.up.set()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    for key in range(3):
        of_key = [n for n in dependency.handled if n % 3 == key]
        assert of_key == sorted(of_key)
    assert len(dependency.handled) == 60


def test_dependency_down_opens_a_breaker_from_any_handler():
    """A handler without the breaker opens it by raising DependencyDown. Its message waits and spends no attempt."""
    dependency, attempts = Dependency(), []
    dependency.up.set()
    proc = processor(dependency)

    def watch(message, context):
        attempts.append(context.attempt)
        if len(attempts) == 1:
            raise DependencyDown("b")

    proc.add_handler(Field("k", "watch"), watch, name="watch")
    states = []
    broker = Broker(proc, bodies(1, k='"watch"'), ends=False)

    async def meanwhile(engine):
        await until(lambda: attempts == [1, 1], "the message to be redelivered")
        states.append(circuit_of(engine).state)
        broker.send(*needy(5))
        await until(lambda: len(dependency.handled) == 5, "the probe and the messages behind it")
        engine.stop()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert states == ["open"]
    assert proc.dlq == {}


def test_a_drain_releases_the_messages_of_an_open_breaker():
    """A drain does not wait for a dependency that is down: the held messages are released."""
    dependency = Dependency()
    proc = processor(dependency)
    broker = Broker(proc, needy(30), ends=False)

    async def meanwhile(engine):
        await until(lambda: dependency.called and not circuit_of(engine).up, "the breaker to open")
        engine.stop()

    run(broker, meanwhile=meanwhile, runtime=FastRuntime())
    assert len(broker.released) == 30
    assert broker.acked == []


def test_two_different_breakers_cannot_have_one_name():
    """The engine refuses to start with two different breakers of one name. A single breaker is accepted."""
    proc = Processor(name="app", dlq={})
    proc.add_handler(Everything(), lambda message, context: None, name="a", breaker=Breaker("b"))
    run(MemoryAdapter(proc, [b"x"]))
    other = engine.processor()
    other.add_handler(Field("k", 1), lambda message, context: None, name="a", breaker=Breaker("b"))
    other.add_handler(Field("k", 2), lambda message, context: None, name="b", breaker=Breaker("b", probe=3))
    with pytest.raises(UsageError, match="two different breakers are named b"):
        run(MemoryAdapter(other, [b"{}"]), check_left=False)
