"""Isolation: which jobs the workers get while there is a suspect."""

from __future__ import annotations

import pytest

from missive import RawMessage
from missive.app.terms import Terms
from missive.engine.dispatch.held import HeldJobs
from missive.engine.dispatch.isolation import IsolatingDispatcher
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.workers.decision import ACKED
from missive.matchers import Everything
from missive.routing.route import Route
from missive.transport import Delivery

ROUTE = Route("h", Everything(), lambda message, context: None, Terms())
SESSION, LOST_SESSION = object(), object()


class Source:
    """A source without accounting."""

    def mark_ready(self, job):
        """Do nothing."""


SOURCE = Source()


class Pool:
    """A pool that collects submitted jobs and starts them when a test calls `start`."""

    def __init__(self):
        self.submitted: list[Job] = []
        self.outstanding = 0
        self.overdue = 0
        self.lane_route = Route("(lane)", Everything(), lambda: None, Terms())

    def submit(self, jobs):
        """Collect jobs."""
        self.submitted += jobs
        self.outstanding += len(jobs)

    def withdraw(self):
        """Take back the jobs that were not started."""
        jobs, self.submitted = self.submitted, []
        self.outstanding -= len(jobs)
        return jobs

    def start(self):
        """Start all submitted jobs, and return them. They cannot be withdrawn any more."""
        jobs, self.submitted = self.submitted, []
        return jobs


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def survived():
    """The suspects that came back."""
    return []


@pytest.fixture
def dispatcher(pool, survived):
    dispatcher = IsolatingDispatcher([pool], {ROUTE: pool}, 4, HeldJobs(Runtime()), Runtime())
    dispatcher.survived = survived.append
    return dispatcher


def job(session=SESSION):
    return Job(SOURCE, session, Delivery(b""), RawMessage(b""), route=ROUTE)


def add(dispatcher, *jobs):
    """Add jobs without a lane, and dispatch."""
    dispatcher.add_unordered(jobs)
    dispatcher.dispatch()


def give_back(dispatcher, *jobs):
    """Let jobs come back from the pool, and dispatch."""
    for one in jobs:
        one.decision = ACKED
    dispatcher.returned(jobs)
    dispatcher.dispatch()


def withdraw_lost(dispatcher):
    """Withdraw the jobs of the lost session, and dispatch. Return the withdrawn jobs."""
    withdrawn = dispatcher.withdraw_those(lambda job: job.session is LOST_SESSION)
    dispatcher.dispatch()
    return withdrawn


def test_a_suspect_runs_alone_in_its_turn(dispatcher, pool, survived):
    """A suspect starts after all jobs before it came back. Jobs behind it start after the suspect came back."""
    before, suspect, behind = job(), job(), job()
    dispatcher.suspect(suspect)
    add(dispatcher, before, suspect, behind)
    assert pool.start() == [before]
    dispatcher.dispatch()
    assert pool.start() == []
    give_back(dispatcher, before)
    assert pool.start() == [suspect]
    late = job()
    add(dispatcher, late)
    assert (pool.start(), survived) == ([], [])
    give_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([behind, late], [suspect])


def test_a_decided_suspect_is_forgotten(dispatcher, pool):
    """A suspect that became a dead letter before its turn is forgotten."""
    suspect, other = job(), job()
    dispatcher.suspect(suspect)
    suspect.decision = ACKED
    add(dispatcher, other)
    assert pool.start() == [other]
    assert not dispatcher._suspects


def test_a_suspect_that_came_back_is_no_suspect_at_its_retry(dispatcher, pool, survived):
    """A suspect that came back and is retried runs together with other jobs."""
    suspect, other = job(), job()
    dispatcher.suspect(suspect)
    add(dispatcher, suspect)
    give_back(dispatcher, *pool.start())
    suspect.decision = None
    add(dispatcher, other, suspect)
    assert (pool.start(), survived) == ([other, suspect], [suspect])


def test_a_withdrawn_suspect_stays_a_suspect(dispatcher, pool, survived):
    """A suspect that is taken back before it starts, because another session is lost, still runs alone."""
    suspect, lost, behind = job(), job(LOST_SESSION), job()
    dispatcher.suspect(suspect)
    add(dispatcher, suspect, lost, behind)
    assert withdraw_lost(dispatcher) == [lost]
    assert (pool.start(), survived) == ([suspect], [])
    give_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([behind], [suspect])


def test_a_lost_suspect_does_not_delay_other_jobs(dispatcher, pool, survived):
    """When the session of an unstarted suspect is lost, the jobs behind the suspect start at once."""
    suspect, behind = job(LOST_SESSION), job()
    dispatcher.suspect(suspect)
    add(dispatcher, suspect, behind)
    assert withdraw_lost(dispatcher) == [suspect]
    assert (pool.start(), survived) == ([behind], [])
    assert not dispatcher._suspects


def test_a_drain_lets_a_running_suspect_finish(dispatcher, pool, survived):
    """During a drain, waiting jobs are withdrawn, and jobs that are added then start after the suspect came back."""
    suspect, behind, last = job(), job(), job()
    dispatcher.suspect(suspect)
    add(dispatcher, suspect, behind)
    assert pool.start() == [suspect]
    dispatcher.stop()
    assert dispatcher.withdraw() == [behind]
    dispatcher.add_unordered([last])
    dispatcher.resume()
    assert pool.start() == []
    give_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([last], [suspect])


def test_a_suspect_does_not_wait_for_a_stuck_handler(dispatcher, pool, survived):
    """A suspect does not wait for a job past its timeout. The late return of this job does not end the isolation."""
    stuck, suspect, behind = job(), job(), job()
    add(dispatcher, stuck)
    assert pool.start() == [stuck]
    dispatcher.suspect(suspect)
    add(dispatcher, suspect, behind)
    assert pool.start() == []
    pool.overdue = 1
    dispatcher.dispatch()
    assert pool.start() == [suspect]
    give_back(dispatcher, stuck)
    assert (pool.start(), survived) == ([], [])
    pool.overdue = 0
    give_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([behind], [suspect])
