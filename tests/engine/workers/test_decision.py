"""Decisions: from what was recorded and raised to the one outcome of an attempt."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

import pytest

from missive import DeadLetter, DecodingError, Discard, MatcherFailed, Outcome, OutcomeConflict, Reason, RetryLater
from missive.app.context import Recorded
from missive.engine.workers.decision import ACKED, NACK_SECONDS, RETRY_SECONDS, SHUTDOWN, decide, decide_misrouted
from missive.routing.router import Misrouted

CANARY = "canary-4711"
RECORDED = {
    Outcome.nacked: Recorded(Outcome.nacked),
    Outcome.retried: Recorded(Outcome.retried, delay=9.0),
    Outcome.dead_lettered: Recorded(Outcome.dead_lettered, label="bad", detail=CANARY),
    Outcome.discarded: Recorded(Outcome.discarded, label="spam"),
}
ERRORS = [
    ValueError(CANARY),
    DecodingError("x"),
    RetryLater(1),
    DeadLetter("other"),
    Discard("other"),
    OutcomeConflict("x"),
    SystemExit(1),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("recorded", [None, Recorded(Outcome.acked)])
def test_returning_acks(recorded):
    """Without an exception, nothing recorded and `ack()` are the same."""
    assert ACKED is decide(recorded, None)
    assert (Outcome.acked, None, None) == (ACKED.outcome, ACKED.reason, ACKED.failure)


@pytest.mark.parametrize("outcome", list(RECORDED))
def test_what_was_recorded_is_decided(outcome):
    """A recorded outcome is the decision, with its label and detail."""
    decision = decide(RECORDED[outcome], None)
    assert outcome is decision.outcome
    assert (RECORDED[outcome].label, RECORDED[outcome].detail) == (decision.label, decision.detail)
    assert decision.failure is None


@pytest.mark.parametrize(("outcome", "error"), list(itertools.product(RECORDED, ERRORS)))
def test_what_was_recorded_stands_when_the_handler_raises(outcome, error):
    """Beside an outcome other than ack an exception only joins the history."""
    quiet, loud = decide(RECORDED[outcome], None), decide(RECORDED[outcome], error)
    for name in ("outcome", "reason", "label", "detail", "delay", "candidates"):
        assert getattr(quiet, name) == getattr(loud, name)
    assert type(error).__qualname__ == loud.failure.type.rpartition(".")[2]


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_after_ack_is_a_failure(error):
    """After `ack()` any exception is a failure, one that declares an outcome included."""
    decision = decide(Recorded(Outcome.acked), error)
    assert Outcome.dead_lettered is decision.outcome
    assert (Reason.unreadable if isinstance(error, DecodingError) else Reason.failed) is decision.reason
    assert decision.failure is not None


@pytest.mark.parametrize("error", [e for e in ERRORS if not isinstance(e, (RetryLater, DeadLetter, Discard))])
def test_an_exception_is_a_failure(error):
    """Whatever is raised, an exit and a cancellation included, dead-letters; a DecodingError as unreadable."""
    decision = decide(None, error)
    assert Outcome.dead_lettered is decision.outcome
    assert (Reason.unreadable if isinstance(error, DecodingError) else Reason.failed) is decision.reason
    assert str(error) == decision.failure.text


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (RetryLater(), Recorded(Outcome.retried)),
        (RetryLater(0), Recorded(Outcome.retried, delay=0.0)),
        (RetryLater(timedelta(minutes=1)), Recorded(Outcome.retried, delay=60.0)),
        (DeadLetter("bad", detail="d"), Recorded(Outcome.dead_lettered, label="bad", detail="d")),
        (Discard("spam"), Recorded(Outcome.discarded, label="spam")),
    ],
)
def test_declared_by_raising_is_the_same_as_recorded(error, recorded):
    """RetryLater, DeadLetter and Discard decide what the context's methods would, and are no failures."""
    raised, called = decide(None, error), decide(recorded, None)
    for name in ("outcome", "reason", "label", "detail", "delay", "failure", "candidates"):
        assert getattr(called, name) == getattr(raised, name)
    assert raised.failure is None


class Subclass(RetryLater):
    """An application's own exception."""


def test_subclasses_of_the_declaring_exceptions_declare_too():
    """An application's subclass of RetryLater is a retry."""
    assert (Outcome.retried, 3.0) == (decide(None, Subclass(3)).outcome, decide(None, Subclass(3)).delay)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(days=-1), "soon", []])
def test_a_delay_that_cannot_be_is_a_failure(after):
    """RetryLater with a delay that cannot be fails the message, of the mistake's own type."""
    decision = decide(None, RetryLater(after))
    assert (Outcome.dead_lettered, Reason.failed) == (decision.outcome, decision.reason)
    assert decision.failure.type in {"ValueError", "TypeError"}


@pytest.mark.parametrize(
    ("recorded", "delay"),
    [
        (Recorded(Outcome.retried), RETRY_SECONDS),
        (Recorded(Outcome.retried, delay=0.0), 0.0),
        (Recorded(Outcome.retried, delay=0.25), 0.25),
        (Recorded(Outcome.nacked), NACK_SECONDS),
    ],
)
def test_delays(recorded, delay):
    """A retry waits as long as it said, five seconds if it did not; a nack waits at least a second."""
    assert delay == decide(recorded, None).delay
    assert (RETRY_SECONDS, NACK_SECONDS) == (5.0, 1.0)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_dead_letters_have_a_reason(outcome):
    """A decision has a reason exactly where it is a dead letter; the handler's own is `rejected`."""
    decision = decide(RECORDED.get(outcome), None)
    assert (Reason.rejected if outcome is Outcome.dead_lettered else None) is decision.reason


def test_a_failed_matcher_is_a_failure_of_its_own():
    """A matcher that raised is decided as matcher_failed, with the failure that names it."""
    error = MatcherFailed("the matcher of a raised KeyError")
    decision = decide_misrouted(Misrouted(Reason.matcher_failed, ("a",), error))
    assert (Outcome.dead_lettered, Reason.matcher_failed, ("a",)) == (
        decision.outcome,
        decision.reason,
        decision.candidates,
    )
    assert ("missive.errors.MatcherFailed", str(error)) == (decision.failure.type, decision.failure.text)


def test_a_shutdown_is_a_dead_letter_of_its_own_reason():
    """What cannot be given back at the end is dead-lettered as `shutdown`."""
    assert (Outcome.dead_lettered, Reason.shutdown) == (SHUTDOWN.outcome, SHUTDOWN.reason)


@pytest.mark.parametrize("error", [None, ValueError(CANARY)])
@pytest.mark.parametrize("outcome", list(RECORDED))
def test_the_repr_of_a_decision_has_no_content(outcome, error):
    """A decision's repr has the outcome and the reason, and neither detail nor exception text."""
    decision = decide(RECORDED[outcome], error)
    assert CANARY not in repr(decision)
    assert repr(decision).startswith(f"<Decision: {outcome}")


def test_a_decision_is_frozen():
    """What was decided is not changed."""
    with pytest.raises(AttributeError):
        decide(None, ValueError()).outcome = Outcome.acked
