"""Rates: in no window of its length do more begin than a rate says, and hardly fewer than it allows."""

from __future__ import annotations

import asyncio
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage, Processor, RegistrationError, UsageError
from missive.engine.dispatch.limiter import Limiter
from missive.matchers import Everything, Field, by_field
from missive.rates import Rate
from missive.testing import MemoryAdapter
from missive.transport import Capabilities, Disposition
from tests.support import strategies
from tests.support.broker import Broker
from tests.support.engine import run, until


class Starts:
    """Notes when handlers began: as the engine says, and by the clock inside the handler."""

    def __init__(self):
        self.engine: list[float] = []
        self.inside: list[float] = []
        self.order: list[tuple[object, int]] = []

    def note(self, message, context):
        """Note a start."""
        self.inside.append(time.monotonic())
        self.engine.append(context._running.started)
        content = message.get_json()
        self.order.append((content.get("k"), content["n"]))

    def sync(self, message, context):
        """Handle in a thread."""
        self.note(message, context)
        time.sleep(0.002)

    async def asynchronous(self, message, context):
        """Handle on the loop."""
        self.note(message, context)
        await asyncio.sleep(0.002)

    def keeps(self, rate):
        """Tell whether a rate was kept: each start is the rate's length after the one that many before it."""
        rate = Rate.parse(rate)
        # By the handler's own clock with a margin, for its thread may have been held up before it looked.
        return _closest(self.engine, rate.messages) >= rate.seconds - 1e-6 and (
            _closest(self.inside, rate.messages) >= rate.seconds / 2
        )

    def took(self):
        """Return the seconds from the first start to the last."""
        return max(self.engine) - min(self.engine)


def _closest(starts, apart):
    times = sorted(starts)
    return min((later - earlier for earlier, later in zip(times, times[apart:], strict=False)), default=1e9)


def processor(**settings):
    return Processor(JSONMessage, **{"name": "app", "dlq": {}, "concurrency": 4, "on_overlap": "ignore", **settings})


def bodies(count, keys=1):
    return [b'{"n":%d,"k":%d}' % (n, n % keys) for n in range(count)]


# What is a rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20/s", (20, 1)),
        ("600/min", (600, 60)),
        ("5/h", (5, 3600)),
        ("100/10s", (100, 10)),
        (" 1 / 0.5 s ", (1, 0.5)),
        ("3/250ms", (3, 0.25)),
        ("3/2m", (3, 120)),
        ("07/sec", (7, 1)),
    ],
)
def test_what_is_a_rate(text, rate):
    """A rate is messages in a time, with a unit and perhaps a number of them."""
    assert Rate.parse(text) == pytest.approx(rate)


@pytest.mark.parametrize(
    "text",
    [
        *("", "20", "/s", "0/s", "-1/s", "1.5/s", "1/0s", "1/0.0s", "20/d", "20/S", "20 s", "1/s/s", "1/-1s", "٣/s"),
        *("1e3/s", "1/.5s", "1/1.s", "1/s\0", "inf/s", None, 20, 20.0, b"20/s", ("20", "s")),
    ],
)
def test_what_is_no_rate(text):
    """Anything else is refused, with the right error, wherever it is said."""
    complaint = re.escape(f"rate_limit={text!r} is not messages per time, such as '20/s'")
    with pytest.raises(UsageError, match=complaint):
        Rate.parse(text)
    if text is None:  # says that there is none
        return
    with pytest.raises(UsageError, match=complaint):
        MemoryAdapter(Processor(), rate_limit=text)
    with pytest.raises(RegistrationError, match=complaint):
        Processor().add_handler(Everything(), lambda message, context: None, rate_limit=text)


@pytest.mark.parametrize("text", ["9" * 5000 + "/s", "1/" + "9" * 400 + "s"], ids=["number", "time"])
def test_a_number_that_is_too_large_is_no_rate(text):
    """Rate.parse refuses a count that int() refuses for its length, and a time that is infinite as a float."""
    with pytest.raises(UsageError):
        Rate.parse(text)


@given(
    st.integers(1, 10**6),
    st.none() | st.integers(1, 10**4) | st.decimals(min_value="0.001", max_value=1000, places=3),
    st.sampled_from(["ms", "s", "sec", "m", "min", "h"]),
)
@strategies.examples(50)
def test_a_rate_says_itself(messages, count, unit):
    """Whatever is a rate is told as one that is the same, as far as six digits say it."""
    rate = Rate.parse(f"{messages}/{'' if count is None else count}{unit}")
    assert rate.messages == messages
    if rate.seconds >= 0.001:  # below, and it is told in a form of its own
        again = Rate.parse(str(rate)) if "e" not in str(rate) else rate
        assert again == (rate.messages, pytest.approx(rate.seconds, rel=1e-5))


# What a rate does


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
@pytest.mark.parametrize("where", ["handler", "adapter"])
def test_a_rate_is_kept_and_used(kind, where):
    """In no window more begin than the rate says, with several workers; and it takes not much longer than it must."""
    proc, starts, rate = processor(), Starts(), "10/150ms"
    of_handler, of_adapter = (rate, None) if where == "handler" else (None, rate)
    proc.add_handler(Everything(), getattr(starts, kind), rate_limit=of_handler)
    _, report = run(Broker(proc, bodies(60), rate_limit=of_adapter))
    assert report.total_handled == 60
    assert starts.keeps(rate)
    assert starts.took() < 5 * 0.75
    assert [n for _, n in starts.order] == list(range(60)) or kind == "sync"


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
def test_what_comes_again_counts_again(kind):
    """A retry and a message that was not acknowledged pass the gate each time they run."""
    proc, starts, rate = processor(), Starts(), "8/100ms"
    handle = getattr(starts, kind)

    def again(worker, context):
        if context.attempt == 1:
            context.retry(0)

    proc.before_handling(again)
    proc.add_handler(Everything(), handle, rate_limit=rate)
    _, report = run(Broker(proc, bodies(24)))
    assert (len(starts.engine), report.retried, report.total_handled) == (48, 24, 24)
    assert starts.keeps(rate)


def test_slow_handlers_with_a_rate():
    """A rate is of beginnings: handlers that take long do not pile up beyond it when they end together."""
    proc, starts, rate = processor(concurrency=8), Starts(), "4/100ms"

    @proc.handle_for(Everything(), rate_limit=rate)
    def handle(message, context):
        starts.note(message, context)
        time.sleep(0.13)

    _, report = run(Broker(proc, bodies(24)))
    assert report.total_handled == 24
    assert starts.keeps(rate)


def test_a_worker_that_is_late_to_begin():
    """What was let through and waits for a worker, busy with others, begins when the rate still lets it."""
    proc, starts, rate = processor(concurrency=1), Starts(), "3/200ms"
    proc.add_handler(Field("k", 0), starts.sync, rate_limit=rate)

    @proc.handle_for(Field("k", 1), name="busy")
    def busy(message, context):
        time.sleep(0.06)

    _, report = run(Broker(proc, bodies(20, keys=2)))
    assert report.total_handled == 20
    assert starts.keeps(rate)


def test_other_handlers_are_not_slowed():
    """While one handler's messages wait for its rate, those of others that came after them are handled."""
    proc, slow, fast = processor(concurrency=2), Starts(), Starts()
    proc.add_handler(Field("k", 0), slow.sync, rate_limit="2/400ms")
    proc.add_handler(Field("k", 1), fast.asynchronous, name="fast")
    _, report = run(Broker(proc, [*[b'{"n":0,"k":0}'] * 6, *[b'{"n":0,"k":1}'] * 300]))
    assert report.total_handled == 306
    assert slow.keeps("2/400ms")
    assert max(fast.engine) < max(slow.engine)


@pytest.mark.parametrize("terms", [{"concurrency": 1}, {"rate_limit": "60/s"}], ids=str)
def test_messages_that_wait_for_the_rate_of_their_source_take_no_place_in_a_handler(terms):
    """While messages of one source wait for its rate, the handler's limits have room for another source."""
    proc = processor()
    proc.add_handler(Everything(), lambda message, context: None, **terms)
    slow = Broker(proc, [b'{"n":0}'] * 60, rate_limit="2/s")
    fast = Broker(proc, [b'{"n":1}'] * 30)

    async def meanwhile(engine):
        await until(lambda: slow.held, "the slow source to be fetched first")
        await until(lambda: len(fast.acked) == 30, "the messages of the fast source", seconds=1.5)
        engine.stop()

    run(slow, fast, meanwhile=meanwhile)


def test_both_rates_at_once():
    """A handler's rate and its adapter's hold together, with another handler that has only the adapter's."""
    proc, one, other = processor(), Starts(), Starts()
    proc.add_handler(Field("k", 0), one.sync, rate_limit="5/150ms")
    proc.add_handler(Field("k", 1), other.asynchronous, name="other")
    _, report = run(Broker(proc, bodies(48, keys=2), rate_limit="12/150ms"))
    both = Starts()
    both.engine, both.inside = one.engine + other.engine, one.inside + other.inside
    assert report.total_handled == 48
    assert one.keeps("5/150ms")
    assert both.keeps("12/150ms")


def test_adapters_have_rates_of_their_own():
    """A rate of one adapter is not that of another for the same handlers."""
    proc, starts = processor(), {b"0": Starts(), b"1": Starts()}

    @proc.handle_for(Everything())
    def handle(message, context):
        starts[b"%d" % message.get_json()["k"]].note(message, context)

    slow = Broker(proc, [b'{"n":0,"k":0}'] * 8, rate_limit="2/200ms")
    fast = Broker(proc, [b'{"n":0,"k":1}'] * 200)
    _, report = run(slow, fast)
    assert report.total_handled == 208
    assert starts[b"0"].keeps("2/200ms")
    assert max(starts[b"1"].engine) < max(starts[b"0"].engine)


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
def test_a_rate_and_order(kind):
    """With a rate, messages of one key still run in order, and none is forgotten."""
    proc, starts, rate = processor(), Starts(), "12/100ms"
    proc.add_handler(Everything(), getattr(starts, kind), rate_limit=rate, ordered_by=by_field("k"), concurrency=3)
    _, report = run(Broker(proc, bodies(60, keys=5)))
    assert report.total_handled == 60
    assert starts.keeps(rate)
    assert all([n for k, n in starts.order if k == key] == list(range(key, 60, 5)) for key in range(5))


@pytest.mark.parametrize("where", ["handler", "adapter"])
def test_a_stop_gives_back_what_waits_for_a_rate(where):
    """What waits at a gate that opens in an hour is given back at once when processing stops, unhandled."""
    proc, starts = processor(), Starts()
    of_handler, of_adapter = ("2/h", None) if where == "handler" else (None, "2/h")
    proc.add_handler(Everything(), starts.asynchronous, rate_limit=of_handler, ordered_by=by_field("k"))
    broker = Broker(proc, bodies(40, keys=20), ends=False, rate_limit=of_adapter)

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) == 2, "what the rate lets through")
        engine.stop()

    began = time.monotonic()
    _, report = run(broker, meanwhile=meanwhile)
    assert time.monotonic() - began < 10
    assert (len(starts.engine), len(broker.acked), len(broker.released), report.released) == (2, 2, 38, 38)


def test_a_stop_files_what_cannot_be_given_back():
    """Where the transport takes nothing back, what waits for a rate is dead-lettered as `shutdown`."""
    proc, starts = processor(), Starts()
    proc.add_handler(Everything(), starts.sync, rate_limit="1/h")
    adapter = MemoryAdapter(proc, bodies(5), ends=False, capabilities=Capabilities(release="none"))

    async def meanwhile(engine):
        await until(lambda: len(adapter.settled) == 1, "what the rate lets through")
        engine.stop()

    _, report = run(adapter, meanwhile=meanwhile)
    assert dict(report.dead) == {"shutdown": 4}
    assert [item.disposition for item in adapter.settled] == [Disposition.ack] * 5


def test_a_lost_session_while_others_wait_for_a_rate():
    """What waits at the gate when its session dies is let go of, and waits anew when it comes again; the rate holds."""
    proc, starts, rate = processor(), Starts(), "5/200ms"
    proc.add_handler(Everything(), starts.sync, rate_limit=rate)
    broker = Broker(proc, bodies(20))

    async def meanwhile(engine):
        await until(lambda: len(broker.acked) >= 5, "the first to be handled")
        broker.sessions[0].die()

    _, report = run(broker, meanwhile=meanwhile)
    assert len(broker.sessions) == 2
    assert report.redelivered >= 5
    assert sorted(set(broker.acked)) == sorted(bodies(20))
    assert starts.keeps(rate)


@pytest.mark.parametrize("where", ["handler", "adapter"])
def test_what_was_let_through_and_never_began(where):
    """What passed the gate and waited for a worker when its session died takes nobody's place when it comes again."""
    proc, starts, go_on = processor(concurrency=1), Starts(), threading.Event()

    def handle(message, context):
        starts.note(message, context)
        go_on.wait(10)

    of_handler, of_adapter = ("7/h", None) if where == "handler" else (None, "7/h")
    proc.add_handler(Everything(), handle, rate_limit=of_handler, concurrency=4 if of_handler else None)
    broker = Broker(proc, bodies(6), rate_limit=of_adapter)

    async def meanwhile(engine):
        await until(lambda: starts.engine and len(broker.held) == 6, "the first to begin")
        broker.sessions[0].die()
        await until(lambda: len(broker.sessions) == 2 and len(broker.held) == 6, "all to come again")
        go_on.set()

    run(broker, meanwhile=meanwhile)
    assert len(starts.engine) == 7
    assert sorted(broker.acked) == bodies(6)


def test_a_full_handler_is_not_asked_about_its_rate():
    """With a concurrency and a rate, neither is exceeded, and what ends lets the next in."""
    proc, starts, running, most = processor(concurrency=8), Starts(), [], []
    lock = threading.Lock()

    @proc.handle_for(Everything(), rate_limit="6/100ms", concurrency=2)
    def handle(message, context):
        starts.note(message, context)
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.pop()

    _, report = run(Broker(proc, bodies(30)))
    assert report.total_handled == 30
    assert max(most) == 2
    assert starts.keeps("6/100ms")


# The gate by itself


class Pass:
    """Somebody who wants to pass: so many messages, which begin together."""

    def __init__(self, size):
        self.jobs = [self] * size
        self.began = None


class Model:
    """A gate with a clock of its own, and the record of what began behind it."""

    def __init__(self, limit, rate):
        self.now = 1000.0
        self.rate = rate
        self.limit = limit
        self.gate = Limiter(limit, rate, lambda: self.now)
        self.through: list[Pass] = []
        self.begun: list[Pass] = []
        self.starts: list[tuple[float, int]] = []

    def enter(self, size):
        """Let one come."""
        self.gate.waiting.append(Pass(size))
        self.open()

    def begin(self, which):
        """Let a worker start one that was let through."""
        if self.through:
            work = self.through.pop(which % len(self.through))
            work.began = self.now
            self.begun.append(work)
            self.starts.append((self.now, len(work.jobs)))

    def end(self, which):
        """Let one come back, and the next pass."""
        if self.begun:
            self.gate.leave(self.begun.pop(which % len(self.begun)))
            self.open()

    def open(self):
        """Let pass who may."""
        while self.gate.waiting and self.gate.admits(self.gate.waiting[0]):
            work = self.gate.waiting.popleft()
            self.gate.enter(work)
            self.through.append(work)

    def withdraw(self, keep):
        """Take back what has not begun, as for a lost session; some of it comes again."""
        taken = [*self.through, *self.gate.waiting]
        for work in self.through:
            self.gate.withdrawn(work)
        self.through.clear()
        self.gate.waiting.clear()
        for number, work in enumerate(taken):
            if number % (keep + 1):
                self.enter(len(work.jobs))

    def advance(self, seconds):
        """Let time pass."""
        self.now += seconds
        self.open()

    def check(self):
        """Check what holds at any time."""
        assert self.limit is None or len(self.through) + len(self.begun) <= self.limit
        for start, _ in self.starts:
            inside = sum(size for at, size in self.starts if start <= at < start + self.rate.seconds - 1e-9)
            assert inside <= self.rate.messages


steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["begin", "end"]), st.integers(0, 5)),
        st.tuples(st.just("withdraw"), st.integers(0, 3)),
        st.tuples(st.just("advance"), st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5])),
    ),
    max_size=60,
)


@given(st.none() | st.integers(1, 3), st.integers(3, 6), st.sampled_from([0.3, 1.0, 2.0]), steps)
@strategies.examples(150)
def test_a_gate_by_itself(limit, messages, seconds, happened):
    """Whatever comes, begins, ends, is taken back: no window has too many, nobody waits for ever, the books close."""
    model = Model(limit, Rate(messages, seconds))
    for name, argument in happened:
        getattr(model, name)(argument)
        model.check()
    rounds = 0
    while model.gate.waiting or model.through or model.begun:
        rounds += 1
        assert rounds < 200, "somebody waits for ever"
        while model.through:
            model.begin(0)
        while model.begun:
            model.end(0)
        model.check()
        if model.gate.waiting and not model.through:
            opens = model.gate.opens_in()
            assert opens is not None, "somebody waits, and nothing says until when"
            assert opens <= seconds + 1e-9
            model.advance(opens + 1e-9)
    model.advance(seconds)
    model.gate._forget_old(seconds)
    assert (model.gate._running, model.gate._used, model.gate._inside, len(model.gate._recent)) == (0, 0, {}, 0)


def test_who_came_first_passes_first():
    """Nobody who came later passes one who waits, also where he would fit: a large one is not starved by small ones."""
    model = Model(None, Rate(3, 1.0))
    for size in (2, 3, 1, 1):
        model.enter(size)
    assert [len(work.jobs) for work in model.through] == [2]
    model.begin(0)
    model.advance(1.0)
    assert [len(work.jobs) for work in model.through] == [3]
    assert [len(work.jobs) for work in model.gate.waiting] == [1, 1]
