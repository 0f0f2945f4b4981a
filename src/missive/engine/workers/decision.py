"""Decision: from what a handler recorded and raised to the one outcome of an attempt."""

from __future__ import annotations

import asyncio
import concurrent.futures

import msgspec

from missive.app.context import Recorded
from missive.app.terms import HandlerRoute
from missive.dlq.failure import Failure, capture
from missive.durations import seconds
from missive.errors import DeadLetter, DecodingError, Discard, MatcherFailed, OnceConflict, RetryLater
from missive.outcome import Outcome, Reason
from missive.routing.router import Misrouted

RETRY_SECONDS = 5.0
"""How long `retry()` waits when it is not told."""

NACK_SECONDS = 1.0
"""How long `nack()` waits at the least."""


class Decision(msgspec.Struct, frozen=True, eq=False):
    """How an attempt ends, and all that goes with it."""

    outcome: Outcome
    reason: Reason | None = None
    """For a dead letter."""
    label: str | None = None
    detail: str | None = None
    delay: float = 0.0
    """For retried and nacked: after how many seconds it comes back."""
    failure: Failure | None = None
    candidates: tuple[str, ...] = ()
    asked: float | None = None
    """The delay that the handler asked for itself."""
    blames: str | None = None
    """The breaker whose dependency the failure is."""
    trips: bool = False
    """Whether the handler said that the dependency is down."""

    def __repr__(self) -> str:
        return f"<Decision: {self.outcome}{f' ({self.reason})' if self.reason else ''}>"


CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)
"""What is raised in a task that is cancelled, and in a thread that waits for one."""

HELD = frozenset({Outcome.retried, Outcome.nacked})
"""What a message comes back from."""

ACKED = Decision(Outcome.acked)
DUPLICATE = Decision(Outcome.acked, label="duplicate")
"""Its effect has happened before."""
LAPSED = Decision(Outcome.nacked)
"""Its claim ran out before its handler began: it is claimed again."""
DEPENDENCY_DOWN = Decision(Outcome.nacked)
"""What its handler needs is known to be down."""
SHUTDOWN = Decision(Outcome.dead_lettered, Reason.shutdown)
POISONED = Decision(Outcome.dead_lettered, Reason.poison)


def decide(recorded: Recorded | None, error: BaseException | None, *, overdue: bool = False) -> Decision:
    """Decide an attempt's outcome.

    One that is overdue has timed out, whatever was recorded. Returning acks. An exception is a failure, also after
    `ack()`; beside any other recorded outcome it only joins the history. One that declares an outcome is that.
    """
    if overdue:
        # That it was cancelled is the timeout itself, and no failure of its own.
        failure = None if error is None or isinstance(error, CANCELLED) else capture(error)
        return Decision(Outcome.dead_lettered, Reason.timeout, failure=failure)
    if error is None:
        return ACKED if recorded is None or recorded.outcome is Outcome.acked else _recorded(recorded, None)
    if recorded is not None and recorded.outcome is not Outcome.acked:
        return _recorded(recorded, capture(error))
    try:
        if recorded is None and (declared := _declared(error)) is not None:
            return _recorded(declared, None)
    except Exception as wrong:  # noqa: BLE001 - a delay that is none, a subclass that never called its parent
        error = wrong
    return Decision(Outcome.dead_lettered, _reason(error), failure=capture(error))


def _reason(error: BaseException) -> Reason:
    if isinstance(error, DecodingError):
        return Reason.unreadable
    return Reason.conflict if isinstance(error, OnceConflict) else Reason.failed


def decide_misrouted(misrouted: Misrouted) -> Decision:
    """Decide about a message that has no one handler."""
    failed: MatcherFailed | None = misrouted.exception
    return Decision(
        Outcome.dead_lettered,
        misrouted.reason,
        failure=None if failed is None else capture(failed),
        candidates=misrouted.candidates,
    )


def decide_discarded(route: HandlerRoute) -> Decision:
    """Decide about a message of which it is declared that nothing needs to be done about it."""
    return Decision(Outcome.discarded, label=route.discards)


def _declared(error: BaseException) -> Recorded | None:
    if isinstance(error, RetryLater):
        return Recorded(Outcome.retried, delay=seconds(error.after))
    if isinstance(error, DeadLetter):
        return Recorded(Outcome.dead_lettered, label=error.reason, detail=error.detail)
    if isinstance(error, Discard):
        return Recorded(Outcome.discarded, label=error.reason)
    return None


def _recorded(recorded: Recorded, failure: Failure | None) -> Decision:
    outcome = recorded.outcome
    if outcome is Outcome.dead_lettered:
        return Decision(outcome, Reason.rejected, _label(recorded.label), recorded.detail, failure=failure)
    if outcome is Outcome.nacked:
        return Decision(outcome, delay=NACK_SECONDS, failure=failure)
    delay = RETRY_SECONDS if recorded.delay is None else recorded.delay
    return Decision(outcome, None, _label(recorded.label), delay=delay, failure=failure, asked=recorded.delay)


def _label(label: object) -> str | None:
    """Return a label; of what is none, such as an exception, the type, for its text may be content."""
    if label is None or isinstance(label, str):
        return label
    return str(label) if isinstance(label, int) else type(label).__name__
