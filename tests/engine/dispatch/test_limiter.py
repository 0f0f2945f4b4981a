"""A limiter: the starts that it admits in each window, and the order of waiting work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from missive.engine.dispatch.limiter import Limiter
from missive.rates import Rate
from tests.support import strategies


class FakeWork:
    """Work for a limiter: a number of messages that start together."""

    def __init__(self, size):
        self.jobs = [self] * size
        self.began = None


class Model:
    """A limiter with a simulated clock, and a record of all starts."""

    def __init__(self, limit, rate):
        self.now = 1000.0
        self.rate = rate
        self.limit = limit
        self.limiter = Limiter(limit, rate, lambda: self.now)
        self.passed: list[FakeWork] = []
        self.started: list[FakeWork] = []
        self.starts: list[tuple[float, int]] = []

    def enter(self, size):
        """Let new work arrive."""
        self.limiter.waiting.append(FakeWork(size))
        self.open()

    def begin(self, which):
        """Start work that has passed."""
        if self.passed:
            work = self.passed.pop(which % len(self.passed))
            work.began = self.now
            self.started.append(work)
            self.starts.append((self.now, len(work.jobs)))

    def end(self, which):
        """End running work, and let waiting work pass."""
        if self.started:
            self.limiter.leave(self.started.pop(which % len(self.started)))
            self.open()

    def open(self):
        """Let waiting work pass while the limiter admits it."""
        while self.limiter.waiting and self.limiter.admits(self.limiter.waiting[0]):
            work = self.limiter.waiting.popleft()
            self.limiter.enter(work)
            self.passed.append(work)

    def withdraw(self, returning):
        """Withdraw work that has not started, as for a lost session. Part of the work arrives again."""
        withdrawn = [*self.passed, *self.limiter.waiting]
        for work in self.passed:
            self.limiter.withdrawn(work)
        self.passed.clear()
        self.limiter.waiting.clear()
        for number, work in enumerate(withdrawn):
            if number % (returning + 1):
                self.enter(len(work.jobs))

    def advance(self, seconds):
        """Advance the clock, in seconds."""
        self.now += seconds
        self.open()

    def check(self):
        """Check the limits of concurrency and rate."""
        assert self.limit is None or len(self.passed) + len(self.started) <= self.limit
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
def test_a_limiter_respects_its_limits_in_every_history(limit, messages, seconds, history):
    """No window contains too many starts, all work passes in the end, and the counters return to zero."""
    model = Model(limit, Rate(messages, seconds))
    for name, argument in history:
        getattr(model, name)(argument)
        model.check()
    rounds = 0
    while model.limiter.waiting or model.passed or model.started:
        rounds += 1
        assert rounds < 200, "some work never passes"
        while model.passed:
            model.begin(0)
        while model.started:
            model.end(0)
        model.check()
        if model.limiter.waiting and not model.passed:
            opens = model.limiter.opens_in()
            assert opens is not None, "work waits, but the limiter does not report how long"
            assert opens <= seconds + 1e-9
            model.advance(opens + 1e-9)
    model.advance(seconds)
    model.limiter._forget_old(seconds)
    limiter = model.limiter
    assert (limiter._running, limiter._used, limiter._inside, len(limiter._recent)) == (0, 0, {}, 0)


def test_work_passes_in_order_of_arrival():
    """Work passes in order of arrival: small batches do not overtake a large one."""
    model = Model(None, Rate(3, 1.0))
    for size in (2, 3, 1, 1):
        model.enter(size)
    assert [len(work.jobs) for work in model.passed] == [2]
    model.begin(0)
    model.advance(1.0)
    assert [len(work.jobs) for work in model.passed] == [3]
    assert [len(work.jobs) for work in model.limiter.waiting] == [1, 1]
