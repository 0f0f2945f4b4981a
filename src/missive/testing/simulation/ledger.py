"""The ledger: what became of each message, and what was promised about how handlers are run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from missive.app.breaker import Breaker
from missive.app.terms import HandlerRoute
from missive.dlq.once import EffectKey
from missive.engine.job import Job, Work
from missive.outcome import Outcome
from missive.testing.simulation.loop import Clock
from missive.testing.simulation.trace import Promise, Trace
from missive.transport import Delivery

_MOST_RUNS = 100
"""A message that is handled more often, on average, never ends."""
_MOMENT = 1.0
"""Seconds in which the engine hears of what ended, whatever the weather."""
_HELD = (Outcome.retried, Outcome.nacked)


class Entry:
    """One message: what it is, where its transport has it, and what became of it."""

    __slots__ = (
        "at",
        "attempted",
        "beyond",
        "broken",
        "completed",
        "dead",
        "delivered",
        "effect",
        "filed",
        "gone",
        "group",
        "happened",
        "holder",
        "lane",
        "number",
        "passes",
        "position",
        "route",
        "template",
    )

    def __init__(self, number: int, template: Delivery, at: float) -> None:
        self.number = number
        self.template = template
        self.at = at
        """When it arrives at the transport."""
        self.lane: str | None = None
        self.position: int | None = None
        self.route: HandlerRoute | None = None
        self.group: Hashable = None
        """Which messages it is in order with; None for none."""
        self.passes = False
        """Whether the others of its group go on while it waits to be retried."""
        self.effect: EffectKey | None = None
        """What is claimed before it runs, for a handler with `once=`."""
        self.happened = False
        """Whether the store remembers that its effect has happened."""
        self.delivered = 0
        self.holder: Handout | None = None
        self.gone = False
        """The transport has it no more."""
        self.attempted = False
        self.beyond = False
        """It is done, and the mark of its lane says so, though it is before it."""
        self.completed = 0
        """How often its handling ended: acked, discarded or decided to be a dead letter."""
        self.broken = False
        """Whether its key cannot be had, which is a failure."""
        self.dead = False
        """Whether its handling ended as a dead letter."""
        self.filed = 0

    @property
    def finished(self) -> bool:
        """Whether its outcome is durable, as far as the store says, or no handler is called for it."""
        return self.filed > 0 or (self.route is not None and self.route.discards is not None)


class Handout:
    """One delivery of a message: who has it, until when, and how far it got."""

    __slots__ = (
        "attempt",
        "blamed",
        "entry",
        "given",
        "left",
        "lost",
        "outcome",
        "running",
        "session",
        "told",
        "until",
    )

    def __init__(self, entry: Entry, session: Any, until: float, attempt: int) -> None:
        self.entry = entry
        self.session = session
        self.until = until
        """When its lease ends."""
        self.attempt = attempt
        """Which attempt must be next."""
        self.blamed = False
        """Whether it failed for a dependency's sake: that attempt is spent, or not, as its breaker was by then."""
        self.given = False
        """Whether the engine has it: a fetch returned it."""
        self.running = False
        self.left = False
        """Whether the engine knows that its lane is somebody else's, and had not begun with it by then."""
        self.lost = False
        """Whether it cannot be settled any more."""
        self.told = False
        """Whether the engine settled it, whatever came of that."""
        self.outcome: Outcome | None = None

    @property
    def final(self) -> bool:
        """Whether its handling ended."""
        return self.outcome is not None and self.outcome not in _HELD

    @property
    def could_run(self) -> bool:
        """Whether it runs or is done, or waits for nothing but a worker."""
        if self.running or self.final or self.entry.beyond:
            return True
        entry = self.entry
        terms = None if entry.route is None else entry.route.terms
        plain = terms is None or (terms.concurrency is None and terms.rate_limit is None and terms.batch is None)
        plain = plain and (terms is None or terms.breaker is None)
        return plain and entry.group is None and entry.effect is None and self.outcome is None

    @property
    def in_limbo(self) -> bool:
        """Whether the engine settled it, and the transport does not know."""
        return self.told and not self.lost and not self.entry.gone

    @property
    def durable(self) -> bool:
        """Whether it may be settled."""
        if self.outcome in (Outcome.acked, Outcome.discarded):
            return self.entry.effect is None or self.entry.happened
        return self.entry.finished or self.entry.beyond or self.entry.happened


class Outage:
    """What is known of one dependency, from without: once it is down, it is asked once a period, by one at a time."""

    def __init__(self, breaker: Breaker, clock: Clock, fail: Callable[[Promise, str], None]) -> None:
        self._breaker = breaker
        self._clock = clock
        self._fail = fail
        self._failures = 0
        self._since: float | None = None
        """When it was known to be down."""
        self._asked = 0.0
        self._running: dict[Work, float] = {}

    def began(self, work: Work) -> None:
        """Note that it is asked."""
        now, since = self._clock.now, self._since
        # What had been let through by then may still have begun; it is all asked within a moment.
        if since is not None and now > since + _MOMENT:
            if self._running:
                self._fail(Promise.one_probe, f"{len(self._running) + 1} asked {self._breaker.name} while it was down")
            if now < self._asked + self._breaker.probe - 1e-6:
                self._fail(Promise.one_probe, f"{self._breaker.name} was asked again before its period was over")
        self._running[work] = now

    def ended(self, work: Work) -> None:
        """Note how that went."""
        began = self._running.pop(work, 0.0)
        for decision in (job.decision for job in work.jobs):
            if decision is None or decision.outcome is Outcome.nacked:
                continue
            if decision.blames != self._breaker.name:
                self._failures, self._since = 0, None
                continue
            self._failures += 1
            if self._since is None and self._failures >= self._breaker.after:
                self._since = self._asked = self._clock.now
            elif self._since is not None and began > self._since:
                self._asked = self._clock.now


class Ledger:
    """Is told of each start and end of a handler, and checks that it was right."""

    def __init__(self, clock: Clock, trace: Trace, fail: Callable[[Promise, str], None]) -> None:
        self.entries: list[Entry] = []
        self.groups: dict[Hashable, list[Entry]] = {}
        self.redelivers_in_order = True
        self.cumulative = False
        self.due = 0.0
        """Until when at least somebody waits to be retried."""
        self._clock = clock
        self._trace = trace
        self._fail = fail
        self._concurrency = 1
        self._handouts: dict[Hashable, list[Handout]] = {}
        self._busy: dict[Hashable, Work] = {}
        self._at: set[EffectKey] = set()
        self._outages: dict[Breaker, Outage] = {}
        self._running: dict[HandlerRoute | None, int] = {}
        self._began: dict[HandlerRoute, deque[tuple[float, int]]] = {}
        self.runs = 0
        """How often messages were handled."""

    def new_life(self, concurrency: int) -> None:
        """Begin anew: whatever ran is dead."""
        self._concurrency = concurrency
        self._handouts, self._busy, self._running, self._began = {}, {}, {}, {}
        self._at, self._outages = set(), {}

    @property
    def running(self) -> int:
        """How many handlers run."""
        return sum(self._running.values())

    def handed_out(self, handout: Handout) -> None:
        """Note a delivery, in the order in which the engine gets them."""
        handout.given = True
        entry = handout.entry
        self._trace.add("delivered", entry.number, entry.delivered)
        if entry.group is not None:
            self._handouts.setdefault(entry.group, []).append(handout)

    def started(self, work: Work) -> None:
        """Note that a handler begins."""
        route, jobs = work.route, work.jobs
        for job in jobs:
            handout: Handout = job.delivery.token
            entry = handout.entry
            self._trace.add("started", entry.number, job.attempt)
            self._check_attempt(handout, job.attempt)
            if handout.left:
                self._fail(Promise.sessions, f"m{entry.number} began though its lane was somebody else's")
            if entry.beyond:
                self._fail(Promise.once, f"m{entry.number} was done, by the gaps of a mark, and handled again")
            if entry.effect is not None:
                self._check_effect(entry, entry.effect)
            if handout.final:
                self._fail(Promise.once, f"one delivery of m{entry.number} was handled twice")
            if entry.group is not None:
                self._check_order(handout, [other.delivery.token for other in jobs], work)
        for job in jobs:
            job.delivery.token.running = True
        self._check_limits(work, route)
        self.runs += len(jobs)
        if self.runs > _MOST_RUNS * len(self.entries):
            self._fail(Promise.progress, f"m{jobs[0].delivery.token.entry.number} is handled again and again")

    def _check_effect(self, entry: Entry, effect: EffectKey) -> None:
        if entry.happened:
            self._fail(Promise.once, f"m{entry.number} began though its effect is known to have happened")
        if effect in self._at:
            self._fail(Promise.one_at_a_time, f"m{entry.number} began while its effect was in progress")
        self._at.add(effect)

    def _check_order(self, handout: Handout, together: Sequence[Handout], work: Work) -> None:
        entry = handout.entry
        if self._busy.setdefault(entry.group, work) is not work:
            self._fail(Promise.one_at_a_time, f"m{entry.number} began while another of its key ran")
        for earlier in self._handouts[entry.group]:
            if earlier is handout:
                break
            done = earlier.final or earlier.lost or earlier.session is not handout.session or earlier.entry.beyond
            done = done or earlier.entry.happened
            done = done or (earlier.entry.passes and earlier.outcome is not None)
            if not done and earlier not in together:
                self._fail(Promise.in_order, f"m{entry.number} began before m{earlier.entry.number}, delivered earlier")
        if self.redelivers_in_order:
            mates = [one.entry for one in together]
            for first in self.groups[entry.group]:
                if first is entry:
                    break
                done = first.completed > 0 or (first.passes and first.attempted)
                if not done and first not in mates:
                    self._fail(Promise.in_order, f"m{entry.number} began before m{first.number} was ever completed")

    def _check_attempt(self, handout: Handout, attempt: int) -> None:
        if handout.blamed and attempt == handout.attempt + 1:
            handout.attempt += 1
        handout.blamed = False
        if attempt != handout.attempt:
            self._fail(Promise.attempts, f"attempt {handout.attempt} of m{handout.entry.number} came as {attempt}")

    def _check_limits(self, work: Work, route: HandlerRoute | None) -> None:
        running, messages = self._running, len(work.jobs)
        running[route] = running.get(route, 0) + 1
        if self.running > self._concurrency:
            self._fail(Promise.concurrency, f"{self.running} ran at once, of {self._concurrency}")
        if route is None:
            return
        if route.terms.breaker is not None:
            self._outage(route.terms.breaker).began(work)
        limit, rate = route.terms.concurrency, route.terms.rate_limit
        if limit is not None and running[route] > limit:
            self._fail(Promise.concurrency, f"{running[route]} of {route.name} ran at once, of {limit}")
        if rate is not None:
            began = self._began.setdefault(route, deque())
            began.append((self._clock.now, messages))
            while began[0][0] + rate.seconds <= self._clock.now:
                began.popleft()
            if sum(count for _, count in began) > rate.messages:
                self._fail(Promise.concurrency, f"more of {route.name} began in {rate.seconds:g} s than its rate")

    def ended(self, work: Work, *, cancelled: bool) -> None:
        """Note that a handler ended; `cancelled` when the engine ended it and it had not timed out."""
        self._running[work.route] -= 1
        if work.route is not None and work.route.terms.breaker is not None:
            self._outage(work.route.terms.breaker).ended(work)
        for job in work.jobs:
            self._ended(job, cancelled=cancelled)
        for job in work.jobs:
            entry = job.delivery.token.entry
            self._busy.pop(entry.group, None)
            self._at.discard(entry.effect)

    def _ended(self, job: Job, *, cancelled: bool) -> None:
        handout: Handout = job.delivery.token
        entry, decision = handout.entry, job.decision
        handout.running = False
        if decision is None or (cancelled and decision.failure is not None):
            self._trace.add("interrupted", entry.number)
            return
        handout.outcome = outcome = decision.outcome
        self._trace.add("ended", entry.number, str(outcome))
        entry.attempted = True
        if outcome in _HELD:
            handout.blamed = decision.blames is not None
            handout.attempt += outcome is Outcome.retried and not handout.blamed
            self.due = max(self.due, self._clock.now + decision.delay)
        else:
            entry.completed += 1
            entry.dead = entry.dead or outcome is Outcome.dead_lettered

    def _outage(self, breaker: Breaker) -> Outage:
        return self._outages.setdefault(breaker, Outage(breaker, self._clock, self._fail))

    def filed(self, entry: Entry) -> None:
        """Note that a message is in the store now."""
        self._trace.add("filed", entry.number)
        if entry.route is not None and not entry.dead and not entry.broken:
            self._fail(Promise.causes, f"m{entry.number} was filed though nothing was wrong with it")
        entry.filed += 1

    def in_hand(self, session: Any) -> list[Handout]:
        """Return the deliveries of a session that the engine has and has not settled."""
        now = self._clock.now
        held = [one for one in self.holders if one.session is session and one.given and not one.told]
        held = [one for one in held if not one.lost and one.until > now]
        # What is done may be behind the mark already, and the mark not committed yet.
        return [one for one in held if not one.durable] if self.cumulative else held

    @property
    def holders(self) -> list[Handout]:
        """Return the last delivery of each message."""
        return [entry.holder for entry in self.entries if entry.holder is not None]

    def balance(self, *, faultless: bool) -> None:
        """Check that all of it came to an end."""
        for entry in self.entries:
            if not entry.completed and not entry.finished:
                self._fail(Promise.nothing_lost, f"m{entry.number} was settled and never handled")
            if faultless and entry.completed + (entry.filed if not entry.completed else 0) > 1:
                self._fail(Promise.once, f"m{entry.number} ended {entry.completed} times")
        if self.running:
            self._fail(Promise.nothing_left, f"{self.running} handlers still run")
