"""Mutation tests of the simulation: each mutant is an engine with one fault, which the schedules find."""

from __future__ import annotations

import pytest

from missive.dlq.once import MemoryOnce
from missive.engine.completion.completion import Completion
from missive.engine.completion.dead_letters import DeadLetterWriter
from missive.engine.completion.idempotency import IdempotencyClaims
from missive.engine.completion.redelivery import Redelivery
from missive.engine.completion.settlement import Settler
from missive.engine.completion.watermark import WatermarkTracker
from missive.engine.dispatch.circuit import Circuit
from missive.engine.dispatch.dispatcher import Dispatcher
from missive.engine.dispatch.held import HeldJobs
from missive.engine.dispatch.lanes import Lanes
from missive.engine.dispatch.limiter import Limiter
from missive.engine.drain import Drain
from missive.engine.intake.admission import Admission
from missive.engine.intake.assignment import Assignment
from missive.engine.intake.intake import Intake
from missive.engine.intake.leases import LeaseRenewer
from missive.engine.intake.source import Source
from missive.engine.store import StoreClient
from missive.engine.workers.tasks import LoopPool
from missive.testing.simulation import Promise, SimulationFailed
from missive.testing.simulation.simulate import quiet
from missive.transport import Credit
from tests.support.scenario import run, run_refusing

SEEDS = 1000


def settle_before_durable(patch):
    """Settle a dead letter when it is decided, before the store contains it."""
    add = DeadLetterWriter.add

    def mutant(self, job):
        add(self, job)
        self.on_filed([job])

    patch.setattr(DeadLetterWriter, "add", mutant)


def watermark_off_by_one(patch):
    """Set the watermark to the first incomplete message, and not to the last completed one."""
    complete = WatermarkTracker.complete

    def mutant(self, jobs):
        passed = complete(self, jobs)
        if self._order:
            self.position = self._order[0].delivery.position
        return passed

    patch.setattr(WatermarkTracker, "complete", mutant)


def lane_released_early(patch):
    """Run the next message of a lane while the message before it waits for a retry."""
    hold = Redelivery.hold

    def mutant(self, job, route):
        self._dispatcher.leave_lane(job)
        hold(self, job, route)

    patch.setattr(Redelivery, "hold", mutant)


def lane_backwards(patch):
    """Run the last waiting message of a lane first."""
    leave = Lanes.leave

    def mutant(self, key, count=1):
        if lane := self._waiting.get(key):
            lane.rotate(1)
        return leave(self, key, count)

    patch.setattr(Lanes, "leave", mutant)


def no_lanes(patch):
    """Run messages of one lane at the same time."""

    def mutant(self, job):
        job.lane = None
        self.add_head(job)

    def mutant_run(self, lane, jobs):
        for job in jobs:
            mutant(self, job)

    patch.setattr(Dispatcher, "add", mutant)
    patch.setattr(Dispatcher, "add_run", mutant_run)


def retry_settled(patch):
    """Settle a message that waits for a retry."""
    hold = Redelivery.hold

    def mutant(self, job, route):
        hold(self, job, route)
        job.source.settler.add([job])

    patch.setattr(Redelivery, "hold", mutant)


def retry_uncounted(patch):
    """Do not count the attempts of retries."""
    patch.setattr(Redelivery, "next_attempt", lambda self, job: job.reset_run())


def credit_ignored(patch):
    """Fetch with the full credit, regardless of the held messages."""

    async def mutant(self):
        return Credit(self.limits.items, self.limits.bytes)

    patch.setattr(Source, "credit", mutant)


def limit_ignored(patch):
    """Run more messages of a handler at once than its concurrency."""
    patch.setattr(Limiter, "_full", False)


def leases_not_renewed(patch):
    """Do not renew leases."""

    async def mutant(self, session, lease):
        return None

    patch.setattr(LeaseRenewer, "_renew", mutant)


def session_unchecked(patch):
    """Settle messages of a dead session in the next session."""
    settle = Settler._settle_pending

    async def mutant(self):
        for job in self._pending:
            job.session = self._source.session
        await settle(self)

    patch.setattr(Settler, "_settle_pending", mutant)


def watermarks_outlive_their_session(patch):
    """Continue the watermark of a session in the next session."""
    gained = Settler.gained

    def mutant(self, watermarks):
        return gained(self, {lane: one for lane, one in watermarks.items() if lane not in self._trackers})

    patch.setattr(Settler, "session_lost", lambda self, source: None)
    patch.setattr(Settler, "gained", mutant)


def dead_letters_forgotten(patch):
    """Do not settle a dead letter that the store contains."""
    patch.setattr(Completion, "filed", lambda self, jobs: None)


def never_reconnected(patch):
    """Do not reconnect a source after its session died."""

    async def mutant(self, error):
        await self._runtime.sleep(10**6)

    patch.setattr(Intake, "_back_off", mutant)


def admitted_twice(patch):
    """Admit a delivery twice."""
    take = Admission.take

    def mutant(self, source, session, deliveries):
        take(self, source, session, deliveries)
        take(self, source, session, deliveries[-1:])

    patch.setattr(Admission, "take", mutant)


def handlers_left_running(patch):
    """Do not cancel running handlers at a forced stop."""

    async def mutant(self):
        return None

    patch.setattr(LoopPool, "stop", mutant)


def drain_without_end(patch):
    """Do not end the drain when all messages are settled."""

    async def mutant(self):
        await self._runtime.sleep(10**6)

    patch.setattr(Drain, "finished", mutant)


def acked_beyond_unread(patch):
    """Handle messages in `acked_beyond` again."""
    patch.setattr(Settler, "fresh", lambda self, deliveries: deliveries)


def acked_beyond_shortened(patch):
    """Commit `acked_beyond` without the positions that an earlier consumer completed."""
    beyond = WatermarkTracker._beyond

    def mutant(self, position):
        done, self._done = self._done, []
        try:
            return beyond(self, position)
        finally:
            self._done = done

    patch.setattr(WatermarkTracker, "_beyond", mutant)


class ExitsWith:
    """The exits of an engine, with some methods replaced."""

    def __init__(self, exits, **replaced):
        self._exits = exits
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(self._exits, name)


def lost_lanes_started(patch):
    """Start waiting messages of a lane that the session lost."""
    init = Assignment.__init__

    def mutant(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._exits = ExitsWith(self._exits, withdraw=lambda which: [])

    patch.setattr(Assignment, "__init__", mutant)


def lost_lanes_settled(patch):
    """Settle messages that ran when their lane was lost, after the lane is assigned again."""
    init = Assignment.__init__

    def mutant(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._exits = ExitsWith(self._exits, revoke=lambda jobs: None)

    patch.setattr(Assignment, "__init__", mutant)


def settled_before_recorded(patch):
    """Settle a message with `once=` before its effect is recorded."""

    def mutant(self, jobs):
        for job in jobs:
            self._end(job, waits=False)
        return jobs

    patch.setattr(IdempotencyClaims, "conclude", mutant)


def effects_forgotten(patch):
    """Delete a claim whose effect has happened."""
    once_done = MemoryOnce.once_done

    def mutant(self, service, effects, owner, ttl):
        done = once_done(self, service, effects, owner, ttl)
        for effect in done:
            del self._rows[service, effect]
        return done

    patch.setattr(MemoryOnce, "once_done", mutant)


class ForgetfulDict(dict):
    """A dictionary that claims to contain no key."""

    def __contains__(self, effect):
        return False

    def __delitem__(self, effect):
        self.pop(effect, None)


def claimed_twice(patch):
    """Handle two messages of one effect at once, because the process forgets its claims."""
    init = IdempotencyClaims.__init__

    def mutant(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._mine = ForgetfulDict()

    patch.setattr(IdempotencyClaims, "__init__", mutant)


def intake_blocked_forever(patch):
    """Pause intake at the first failure of the store, and keep it paused after the store answers again."""

    def mutant(self):
        self.paused = self.paused or self.down

    patch.setattr(StoreClient, "check_pause", mutant)


def unfiled_without_bound(patch):
    """Fetch during an outage of the store, however many dead letters wait for it."""
    patch.setattr(StoreClient, "check_pause", lambda self: None)


def two_probes(patch):
    """Start a second probe of a dependency while the first is running."""
    admits = Circuit.admits
    patch.setattr(Circuit, "admits", lambda self, running: self.state == "half-open" or admits(self, running))


def probed_early(patch):
    """Probe a dependency again as soon as a probe has failed."""
    patch.setattr(Circuit, "admits", lambda self, running: running == 0 or self.state == "closed")


def delays_forgotten(patch):
    """Delay the next attempt of a retry policy far too long."""
    hold = HeldJobs.hold
    patch.setattr(HeldJobs, "hold", lambda self, job, seconds: hold(self, job, seconds * 1e6))


MUTANTS = {
    two_probes: {Promise.one_probe},
    probed_early: {Promise.one_probe},
    delays_forgotten: {Promise.progress, Promise.stops},
    settled_before_recorded: {Promise.durable},
    effects_forgotten: {Promise.once},
    claimed_twice: {Promise.one_at_a_time, Promise.once},
    intake_blocked_forever: {Promise.progress},
    admitted_twice: {Promise.once, Promise.one_at_a_time, Promise.credit},
    handlers_left_running: {Promise.nothing_left},
    drain_without_end: {Promise.stops},
    settle_before_durable: {Promise.durable, Promise.credit},
    watermark_off_by_one: {Promise.durable},
    lane_released_early: {Promise.in_order},
    lane_backwards: {Promise.in_order},
    no_lanes: {Promise.in_order, Promise.one_at_a_time},
    retry_settled: {Promise.durable, Promise.credit},
    retry_uncounted: {Promise.attempts},
    credit_ignored: {Promise.credit},
    limit_ignored: {Promise.concurrency},
    leases_not_renewed: {Promise.leases},
    session_unchecked: {Promise.sessions, Promise.stops},
    watermarks_outlive_their_session: {Promise.sessions, Promise.durable, Promise.once},
    dead_letters_forgotten: {Promise.progress},
    never_reconnected: {Promise.progress},
    acked_beyond_unread: {Promise.once},
    acked_beyond_shortened: {Promise.sessions},
    lost_lanes_started: {Promise.sessions},
    lost_lanes_settled: {Promise.durable, Promise.sessions, Promise.stops},
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulation_finds_a_mutant(mutant, monkeypatch, record_property):
    """A schedule fails on an engine with one mutated method, and reports a promise that the mutation breaks."""
    mutant(monkeypatch)
    with quiet(), pytest.raises(SimulationFailed) as failed:
        run_schedules()
    record_property("found by seed", failed.value.seed)
    assert failed.value.promise in MUTANTS[mutant], str(failed.value)


def test_the_simulation_finds_unbounded_dead_letters(monkeypatch):
    """Schedules fail on an engine that fetches during an outage of the store, however many dead letters wait."""
    unfiled_without_bound(monkeypatch)
    with quiet(), pytest.raises(SimulationFailed) as failed:
        [run_refusing(seed) for seed in range(SEEDS)]
    assert failed.value.promise is Promise.credit


def run_schedules():
    for seed in range(SEEDS):
        run(seed)
