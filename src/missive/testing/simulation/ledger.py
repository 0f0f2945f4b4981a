"""Ledger: follows each message of a schedule, and checks the promises about running handlers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from missive.app.breaker import Breaker
from missive.app.terms import HandlerRoute
from missive.dlq.once import EffectKey
from missive.engine.job import Job, Work
from missive.outcome import Outcome
from missive.testing.simulation.entry import HELD, Entry, Handout
from missive.testing.simulation.loop import Clock
from missive.testing.simulation.outage import Outage
from missive.testing.simulation.trace import Promise, Trace

_MAX_RUNS = 100
"""Average number of runs of a message above which the schedule counts as endless."""


class Ledger:
    """Records each start and end of a handler, and checks it against the promises."""

    def __init__(self, clock: Clock, trace: Trace, fail: Callable[[Promise, str], None]) -> None:
        self.entries: list[Entry] = []
        self.groups: dict[Hashable, list[Entry]] = {}
        self.redelivers_in_order = True
        """Whether the transport redelivers the messages of a group in their order."""
        self.cumulative = False
        """Whether the transport commits watermarks."""
        self.due = 0.0
        """The time until which a retried message may wait."""
        self._clock = clock
        self._trace = trace
        self._fail = fail
        self._concurrency = 1
        self._handouts: dict[Hashable, list[Handout]] = {}
        self._running_groups: dict[Hashable, Work] = {}
        self._running_effects: set[EffectKey] = set()
        self._outages: dict[Breaker, Outage] = {}
        self._running: dict[HandlerRoute | None, int] = {}
        self._began: dict[HandlerRoute, deque[tuple[float, int]]] = {}
        self.runs = 0
        """Number of runs of messages."""

    def new_life(self, concurrency: int) -> None:
        """Reset the running handlers for a new process."""
        self._concurrency = concurrency
        self._handouts, self._running_groups, self._running, self._began = {}, {}, {}, {}
        self._running_effects, self._outages = set(), {}

    @property
    def running(self) -> int:
        """The number of running handlers."""
        return sum(self._running.values())

    def handed_out(self, handout: Handout) -> None:
        """Note a delivery, in the order in which the engine receives them."""
        handout.fetched = True
        entry = handout.entry
        self._trace.add("delivered", entry.number, entry.delivered)
        if entry.group is not None:
            self._handouts.setdefault(entry.group, []).append(handout)

    def started(self, work: Work) -> None:
        """Note that a handler starts."""
        route, jobs = work.route, work.jobs
        for job in jobs:
            handout: Handout = job.delivery.token
            entry = handout.entry
            self._trace.add("started", entry.number, job.attempt)
            self._check_attempt(handout, job.attempt)
            if handout.lane_lost:
                self._fail(Promise.sessions, f"m{entry.number} started although its lane was lost")
            if entry.acked_beyond:
                self._fail(Promise.once, f"m{entry.number} was in acked_beyond, and was handled again")
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
        if self.runs > _MAX_RUNS * len(self.entries):
            self._fail(Promise.progress, f"m{jobs[0].delivery.token.entry.number} is handled again and again")

    def _check_effect(self, entry: Entry, effect: EffectKey) -> None:
        if entry.happened:
            self._fail(Promise.once, f"m{entry.number} started although its effect was recorded")
        if effect in self._running_effects:
            self._fail(Promise.one_at_a_time, f"m{entry.number} started while its effect was in progress")
        self._running_effects.add(effect)

    def _check_order(self, handout: Handout, together: Sequence[Handout], work: Work) -> None:
        entry = handout.entry
        if self._running_groups.setdefault(entry.group, work) is not work:
            self._fail(Promise.one_at_a_time, f"m{entry.number} started while another message of its key ran")
        for earlier in self._handouts[entry.group]:
            if earlier is handout:
                break
            done = earlier.final or earlier.lost or earlier.session is not handout.session or earlier.entry.acked_beyond
            done = done or earlier.entry.happened
            done = done or (earlier.entry.passes and earlier.outcome is not None)
            if not done and earlier not in together:
                self._fail(
                    Promise.in_order,
                    f"m{entry.number} started before m{earlier.entry.number}, delivered earlier",
                )
        if self.redelivers_in_order:
            mates = [one.entry for one in together]
            for first in self.groups[entry.group]:
                if first is entry:
                    break
                done = first.completed > 0 or (first.passes and first.attempted)
                if not done and first not in mates:
                    self._fail(Promise.in_order, f"m{entry.number} started before m{first.number} was completed")

    def _check_attempt(self, handout: Handout, attempt: int) -> None:
        if handout.blamed and attempt == handout.attempt + 1:
            handout.attempt += 1
        handout.blamed = False
        if attempt != handout.attempt:
            self._fail(Promise.attempts, f"m{handout.entry.number} had attempt {attempt}, not {handout.attempt}")

    def _check_limits(self, work: Work, route: HandlerRoute | None) -> None:
        running, messages = self._running, len(work.jobs)
        running[route] = running.get(route, 0) + 1
        if self.running > self._concurrency:
            self._fail(Promise.concurrency, f"{self.running} handlers ran at once, of {self._concurrency}")
        if route is None:
            return
        if route.terms.breaker is not None:
            self._outage(route.terms.breaker).began(work)
        limit, rate = route.terms.concurrency, route.terms.rate_limit
        if limit is not None and running[route] > limit:
            self._fail(Promise.concurrency, f"{running[route]} runs of {route.name} ran at once, of {limit}")
        if rate is not None:
            began = self._began.setdefault(route, deque())
            began.append((self._clock.now, messages))
            while began[0][0] + rate.seconds <= self._clock.now:
                began.popleft()
            if sum(count for _, count in began) > rate.messages:
                self._fail(
                    Promise.concurrency,
                    f"{route.name} started more in {rate.seconds:g} s than its rate allows",
                )

    def ended(self, work: Work, *, cancelled: bool) -> None:
        """Note that a handler ended. `cancelled` is true when the engine cancelled it before its timeout."""
        self._running[work.route] -= 1
        if work.route is not None and work.route.terms.breaker is not None:
            self._outage(work.route.terms.breaker).ended(work)
        for job in work.jobs:
            self._ended(job, cancelled=cancelled)
        for job in work.jobs:
            entry = job.delivery.token.entry
            self._running_groups.pop(entry.group, None)
            self._running_effects.discard(entry.effect)

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
        if outcome in HELD:
            handout.blamed = decision.blames is not None
            handout.attempt += outcome is Outcome.retried and not handout.blamed
            self.due = max(self.due, self._clock.now + decision.delay)
        else:
            entry.completed += 1
            entry.dead = entry.dead or outcome is Outcome.dead_lettered

    def _outage(self, breaker: Breaker) -> Outage:
        return self._outages.setdefault(breaker, Outage(breaker, self._clock, self._fail))

    def filed(self, entry: Entry) -> None:
        """Note that the store has stored the record of a message."""
        self._trace.add("filed", entry.number)
        if entry.route is not None and not entry.dead and not entry.unreadable_key:
            self._fail(Promise.causes, f"m{entry.number} was filed without a failure")
        entry.filed += 1

    def unsettled(self, session: Any) -> list[Handout]:
        """Return the deliveries of a session that the engine holds unsettled."""
        now = self._clock.now
        held = [one for one in self.holders if one.session is session and one.fetched and not one.settled]
        held = [one for one in held if not one.lost and one.until > now]
        # A finished message may be below the watermark of the engine, which is not committed yet.
        return [one for one in held if not one.durable] if self.cumulative else held

    @property
    def holders(self) -> list[Handout]:
        """The last delivery of each message."""
        return [entry.holder for entry in self.entries if entry.holder is not None]

    def balance(self, *, faultless: bool) -> None:
        """Check at the end of a schedule that every message ended."""
        for entry in self.entries:
            if not entry.completed and not entry.finished:
                self._fail(Promise.nothing_lost, f"m{entry.number} was settled and never handled")
            if faultless and entry.completed + (entry.filed if not entry.completed else 0) > 1:
                self._fail(Promise.once, f"m{entry.number} ended {entry.completed} times")
        if self.running:
            self._fail(Promise.nothing_left, f"{self.running} handlers still run")
