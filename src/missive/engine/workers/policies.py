"""Policies: the retry policy and the breaker of a handler change the decision of a failed attempt."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from missive.app.context import Recorded
from missive.engine.job import Job
from missive.engine.streams import lost_output
from missive.engine.workers.decision import NACK_SECONDS, Decision, decide
from missive.errors import DependencyDown
from missive.outcome import Outcome, Reason

EXHAUSTED = "retries exhausted"
"""The label of a dead letter whose handler requested a retry beyond the limits of its policy."""

_FAILED = frozenset({Reason.failed, Reason.timeout, Reason.unreadable})
_SCALE = 2.0**64


def decide_attempt(
    job: Job,
    recorded: Recorded | None,
    error: BaseException | None,
    clock: Callable[[], float],
    *,
    overdue: bool | None = None,
) -> Decision:
    """Decide an attempt with the retry policy and the breaker of its handler.

    `overdue` replaces the job's own flag. A successful attempt without a recorded outcome does not need this call.
    """
    late = job.overdue if overdue is None else overdue
    decision, route = decide(recorded, error, overdue=late), job.route
    if route is None:
        return decision
    if decision.reason in _FAILED:
        return _failed(job, decision, TimeoutError if late or error is None else type(error), error, clock)
    if decision.outcome is Outcome.retried and route.terms.retry is not None:
        delay = route.terms.retry.next(job.attempt, _elapsed(job, clock), lambda: spread(job), decision.asked)
        if delay is None:
            return msgspec.structs.replace(
                decision, outcome=Outcome.dead_lettered, reason=Reason.failed, label=EXHAUSTED, delay=0.0
            )
        return msgspec.structs.replace(decision, delay=delay)
    return decision


def _failed(
    job: Job, decision: Decision, kind: type[BaseException], error: BaseException | None, clock: Callable[[], float]
) -> Decision:
    route = job.route
    if route is None:
        return decision
    policy, breaker = route.terms.retry, route.terms.breaker
    blames, trips = None, False
    if isinstance(error, (OSError, ValueError)) and (stream := lost_output(error)) is not None:
        stops = f"{stream} is closed, and {route.name} writes to it"
        return msgspec.structs.replace(decision, outcome=Outcome.nacked, reason=None, delay=NACK_SECONDS, stops=stops)
    if isinstance(error, DependencyDown):
        blames, trips = error.name, True
    elif breaker is not None and breaker.blames(kind):
        blames = breaker.name
    if policy is not None and policy.covers(kind):
        delay = policy.next(job.attempt, _elapsed(job, clock), lambda: spread(job))
        if delay is not None:
            return msgspec.structs.replace(decision, outcome=Outcome.retried, delay=delay, blames=blames, trips=trips)
    return decision if blames is None else msgspec.structs.replace(decision, blames=blames, trips=trips)


def _elapsed(job: Job, clock: Callable[[], float]) -> float:
    """Return the time since the first failure of a message, in seconds. Note a first failure."""
    now = clock()
    if job.failed_at is None:
        job.failed_at = now
    return now - job.failed_at


def spread(job: Job) -> float:
    """Return a number from 0 to 1 that differs between messages and attempts, and is the same in each simulation."""
    delivery = job.delivery
    identity = f"{delivery.native_id}\0{delivery.position}\0{job.arrived}\0{job.attempt}\0{len(delivery.body)}"
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass") + delivery.body[:4096], digest_size=8).digest()
    return int.from_bytes(digest) / _SCALE
