"""Isolation: what is given to the workers while there is a suspect."""

from __future__ import annotations

import pytest

from missive import RawMessage
from missive.app.terms import Terms
from missive.engine.dispatch.delays import Delays
from missive.engine.dispatch.isolation import IsolatingDispatcher
from missive.engine.job import Job
from missive.engine.runtime import Runtime
from missive.engine.workers.decision import ACKED
from missive.matchers import Everything
from missive.routing.route import Route
from missive.transport import Delivery

ROUTE = Route("h", Everything(), lambda message, context: None, Terms())
ONE, OTHER = object(), object()


class Source:
    """Keeps no books."""

    def mark_ready(self, job):
        """Do nothing."""


SOURCE = Source()


class Pool:
    """Keeps what it was given, and runs it when a test says so."""

    def __init__(self):
        self.given: list[Job] = []
        self.outstanding = 0
        self.overdue = 0
        self.lane_route = Route("(lane)", Everything(), lambda: None, Terms())

    def submit(self, jobs):
        self.given += jobs
        self.outstanding += len(jobs)

    def withdraw(self):
        jobs, self.given = self.given, []
        self.outstanding -= len(jobs)
        return jobs

    def start(self):
        """Start all that was given: it cannot be withdrawn any more."""
        jobs, self.given = self.given, []
        return jobs


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def survived():
    return []


@pytest.fixture
def dispatcher(pool, survived):
    dispatcher = IsolatingDispatcher([pool], {ROUTE: pool}, 4, Delays(Runtime()), Runtime())
    dispatcher.survived = survived.append
    return dispatcher


def job(session=ONE):
    return Job(SOURCE, session, Delivery(b""), RawMessage(b""), route=ROUTE)


def came_back(dispatcher, *jobs):
    for one in jobs:
        one.decision = ACKED
    dispatcher.returned(jobs)
    dispatcher.dispatch()


def test_a_suspect_has_its_turn_alone(dispatcher, pool, survived):
    """What came before it comes back first; what came behind it waits until it came back."""
    before, suspect, behind = job(), job(), job()
    dispatcher.suspect(suspect)
    dispatcher.add_unordered([before, suspect, behind])
    dispatcher.dispatch()
    assert pool.start() == [before]
    dispatcher.dispatch()
    assert pool.start() == []
    came_back(dispatcher, before)
    assert pool.start() == [suspect]
    late = job()
    dispatcher.add_unordered([late])
    dispatcher.dispatch()
    assert (pool.start(), survived) == ([], [])
    came_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([behind, late], [suspect])


def test_a_suspect_that_was_decided_is_not_kept(dispatcher, pool):
    """One that became a dead letter before its turn is looked for no more."""
    suspect, other = job(), job()
    dispatcher.suspect(suspect)
    suspect.decision = ACKED
    dispatcher.add_unordered([other])
    dispatcher.dispatch()
    assert pool.start() == [other]
    assert not dispatcher._suspects


def test_a_suspect_that_came_back_may_be_run_again(dispatcher, pool, survived):
    """Held for a retry, it comes back as any other."""
    suspect, other = job(), job()
    dispatcher.suspect(suspect)
    dispatcher.add_unordered([suspect])
    dispatcher.dispatch()
    came_back(dispatcher, *pool.start())
    suspect.decision = None
    dispatcher.add_unordered([other, suspect])
    dispatcher.dispatch()
    assert (pool.start(), survived) == ([other, suspect], [suspect])


def test_a_suspect_that_no_worker_had_started_stays_one(dispatcher, pool, survived):
    """When another session is lost, it is taken back and given out again: it has not survived anything."""
    suspect, lost, behind = job(), job(OTHER), job()
    dispatcher.suspect(suspect)
    dispatcher.add_unordered([suspect, lost, behind])
    dispatcher.dispatch()
    assert dispatcher.withdraw_those(lambda job: job.session is OTHER) == [lost]
    dispatcher.dispatch()
    assert (pool.start(), survived) == ([suspect], [])
    came_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([behind], [suspect])


def test_a_lost_suspect_holds_nobody_up(dispatcher, pool, survived):
    """When its own session is lost before it was started, the others go on at once."""
    suspect, behind = job(OTHER), job()
    dispatcher.suspect(suspect)
    dispatcher.add_unordered([suspect, behind])
    dispatcher.dispatch()
    assert dispatcher.withdraw_those(lambda job: job.session is OTHER) == [suspect]
    dispatcher.dispatch()
    assert (pool.start(), survived) == ([behind], [])
    assert not dispatcher._suspects


def test_a_drain_while_a_suspect_runs(dispatcher, pool, survived):
    """It may finish; what was waiting is given back, and what is added then is run."""
    suspect, behind, last = job(), job(), job()
    dispatcher.suspect(suspect)
    dispatcher.add_unordered([suspect, behind])
    dispatcher.dispatch()
    assert pool.start() == [suspect]
    dispatcher.stop()
    assert dispatcher.withdraw() == [behind]
    dispatcher.add_unordered([last])
    dispatcher.resume()
    assert pool.start() == []
    came_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([last], [suspect])


def test_a_stuck_handler_holds_no_suspect_up(dispatcher, pool, survived):
    """A suspect does not wait for what is past its timeout, and may never come back; nor is it taken for it."""
    stuck, suspect, behind = job(), job(), job()
    dispatcher.add_unordered([stuck])
    dispatcher.dispatch()
    assert pool.start() == [stuck]
    dispatcher.suspect(suspect)
    dispatcher.add_unordered([suspect, behind])
    dispatcher.dispatch()
    assert pool.start() == []
    pool.overdue = 1
    dispatcher.dispatch()
    assert pool.start() == [suspect]
    came_back(dispatcher, stuck)
    assert (pool.start(), survived) == ([], [])
    pool.overdue = 0
    came_back(dispatcher, suspect)
    assert (pool.start(), survived) == ([behind], [suspect])
