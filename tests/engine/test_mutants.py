"""The test of the test: engines with one thing wrong, each of which the schedules find, and say what it is."""

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
from missive.engine.workers.tasks import LoopPool
from missive.testing.simulation import Promise, SimulationFailed
from missive.testing.simulation.simulate import quiet
from missive.transport import Credit
from tests.support.scenario import run

SEEDS = 1000


def settle_before_durable(patch):
    """A dead letter is settled as soon as it is decided, and not when it is in the store."""
    add = DeadLetterWriter.add

    def mutant(self, job):
        add(self, job)
        self.on_filed([job])

    patch.setattr(DeadLetterWriter, "add", mutant)


def watermark_off_by_one(patch):
    """The mark is at the first message that is not done, and not at the last one that is."""
    complete = WatermarkTracker.complete

    def mutant(self, jobs):
        passed = complete(self, jobs)
        if self._order:
            self.position = self._order[0].delivery.position
        return passed

    patch.setattr(WatermarkTracker, "complete", mutant)


def lane_released_early(patch):
    """The next of a lane runs while the one before it waits to be retried."""
    hold = Redelivery.hold

    def mutant(self, job, route):
        self._dispatcher.leave_lane(job)
        hold(self, job, route)

    patch.setattr(Redelivery, "hold", mutant)


def lane_backwards(patch):
    """The last of those who wait in a lane is the next."""
    leave = Lanes.leave

    def mutant(self, key, count=1):
        if lane := self._waiting.get(key):
            lane.rotate(1)
        return leave(self, key, count)

    patch.setattr(Lanes, "leave", mutant)


def no_lanes(patch):
    """Nobody waits for the others of his lane."""

    def mutant(self, job):
        job.lane = None
        self.add_head(job)

    def all_of_them(self, lane, jobs):
        for job in jobs:
            mutant(self, job)

    patch.setattr(Dispatcher, "add", mutant)
    patch.setattr(Dispatcher, "add_run", all_of_them)


def retry_settled(patch):
    """A message that is to be retried is settled."""
    hold = Redelivery.hold

    def mutant(self, job, route):
        hold(self, job, route)
        job.source.settler.add([job])

    patch.setattr(Redelivery, "hold", mutant)


def retry_uncounted(patch):
    """A retry is the same attempt again."""
    patch.setattr(Redelivery, "next_attempt", lambda self, job: job.reset_run())


def credit_ignored(patch):
    """As much as ever is asked for, whatever is in hand."""

    async def mutant(self):
        return Credit(self.limits.items, self.limits.bytes)

    patch.setattr(Source, "credit", mutant)


def limit_ignored(patch):
    """A handler gets more messages at once than it says."""
    patch.setattr(Limiter, "_full", False)


def leases_not_renewed(patch):
    """No lease is ever renewed."""

    async def mutant(self, session, lease):
        return None

    patch.setattr(LeaseRenewer, "_renew", mutant)


def session_unchecked(patch):
    """What came in a session that is dead is settled in the next."""
    settle = Settler._settle_pending

    async def mutant(self):
        for job in self._pending:
            job.session = self._source.session
        await settle(self)

    patch.setattr(Settler, "_settle_pending", mutant)


def marks_outlive_their_session(patch):
    """A mark goes on in the next session, where it left off in the last."""
    gained = Settler.gained

    def mutant(self, marks):
        return gained(self, {lane: mark for lane, mark in marks.items() if lane not in self._trackers})

    patch.setattr(Settler, "session_lost", lambda self, source: None)
    patch.setattr(Settler, "gained", mutant)


def dead_letters_forgotten(patch):
    """A dead letter that is in the store is never settled."""
    patch.setattr(Completion, "filed", lambda self, jobs: None)


def never_connected_again(patch):
    """A source of which a session died does not connect again."""

    async def mutant(self, trouble):
        await self._runtime.sleep(10**6)

    patch.setattr(Intake, "_back_off", mutant)


def taken_twice(patch):
    """A delivery is taken in twice."""
    take = Admission.take

    def mutant(self, source, session, deliveries):
        take(self, source, session, deliveries)
        take(self, source, session, deliveries[-1:])

    patch.setattr(Admission, "take", mutant)


def handlers_left_running(patch):
    """A forced stop does not cancel what runs."""

    async def mutant(self):
        return None

    patch.setattr(LoopPool, "stop", mutant)


def drain_without_end(patch):
    """A stop waits for what will never come, once all is settled."""

    async def mutant(self):
        await self._runtime.sleep(10**6)

    patch.setattr(Drain, "finished", mutant)


def gaps_unread(patch):
    """What was done beyond a mark is handled again by whoever has its lane next."""
    patch.setattr(Settler, "fresh", lambda self, deliveries: deliveries)


def gaps_stripped(patch):
    """A mark says nothing of what was done beyond the one before it."""
    beyond = WatermarkTracker._beyond

    def mutant(self, position):
        done, self._done = self._done, []
        try:
            return beyond(self, position)
        finally:
            self._done = done

    patch.setattr(WatermarkTracker, "_beyond", mutant)


class Hampered:
    """Exits with one method replaced."""

    def __init__(self, exits, **replaced):
        self._exits = exits
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(self._exits, name)


def lanes_kept(patch):
    """What waits of a lane that somebody else has soon is begun all the same."""
    init = Assignment.__init__

    def mutant(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._exits = Hampered(self._exits, withdraw=lambda which: [])

    patch.setattr(Assignment, "__init__", mutant)


def lanes_settled_late(patch):
    """What ran when its lane was lost is settled when the lane is back."""
    init = Assignment.__init__

    def mutant(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._exits = Hampered(self._exits, revoke=lambda jobs: None)

    patch.setattr(Assignment, "__init__", mutant)


def settled_before_it_is_remembered(patch):
    """A message with `once=` is settled before it is durable that its effect has happened."""

    def mutant(self, jobs):
        for job in jobs:
            self._end(job, waits=False)
        return jobs

    patch.setattr(IdempotencyClaims, "conclude", mutant)


def effects_forgotten(patch):
    """A claim is given up where its effect has happened."""
    once_done = MemoryOnce.once_done

    def mutant(self, service, effects, owner, ttl):
        ours = once_done(self, service, effects, owner, ttl)
        for effect in ours:
            del self._rows[service, effect]
        return ours

    patch.setattr(MemoryOnce, "once_done", mutant)


class Forgetful(dict):
    """What is claimed here, for a process that does not know."""

    def __contains__(self, effect):
        return False

    def __delitem__(self, effect):
        self.pop(effect, None)


def claimed_twice(patch):
    """Two messages of one effect are let through beside each other, because one process asks for both."""
    init = IdempotencyClaims.__init__

    def mutant(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._mine = Forgetful()

    patch.setattr(IdempotencyClaims, "__init__", mutant)


def blocked_for_ever(patch):
    """Intake stays blocked where what could not be claimed is gone before the store is back."""
    patch.setattr(IdempotencyClaims, "_recovered", lambda self: None)


def two_probes(patch):
    """While a probe is on its way to what may be down, another follows."""
    admits = Circuit.admits
    patch.setattr(Circuit, "admits", lambda self, running: self.state == "half-open" or admits(self, running))


def probed_early(patch):
    """What is down is asked again as soon as it has failed."""
    patch.setattr(Circuit, "admits", lambda self, running: running == 0 or self.state == "closed")


def delays_forgotten(patch):
    """An attempt that a policy grants follows at no time."""
    hold = HeldJobs.hold
    patch.setattr(HeldJobs, "hold", lambda self, job, seconds: hold(self, job, seconds * 1e6))


MUTANTS = {
    two_probes: {Promise.one_probe},
    probed_early: {Promise.one_probe},
    delays_forgotten: {Promise.progress, Promise.stops},
    settled_before_it_is_remembered: {Promise.durable},
    effects_forgotten: {Promise.once},
    claimed_twice: {Promise.one_at_a_time},
    blocked_for_ever: {Promise.progress},
    taken_twice: {Promise.once, Promise.one_at_a_time, Promise.credit},
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
    marks_outlive_their_session: {Promise.sessions, Promise.durable, Promise.once},
    dead_letters_forgotten: {Promise.progress},
    never_connected_again: {Promise.progress},
    gaps_unread: {Promise.once},
    gaps_stripped: {Promise.sessions},
    lanes_kept: {Promise.sessions},
    lanes_settled_late: {Promise.durable, Promise.sessions, Promise.stops},
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_is_found(mutant, monkeypatch, record_property):
    """Some schedule of the first few hundred finds an engine with one line changed, and names the promise it breaks."""
    mutant(monkeypatch)
    with quiet(), pytest.raises(SimulationFailed) as failed:
        run_until_it_fails()
    record_property("found by seed", failed.value.seed)
    assert failed.value.promise in MUTANTS[mutant], str(failed.value)


def run_until_it_fails():
    for seed in range(SEEDS):
        run(seed)
