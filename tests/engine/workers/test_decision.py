"""Decisions: the one outcome of an attempt, from the recorded outcome and the exception of its handler."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

import pytest

from missive import DeadLetter, DecodingError, Discard, MatcherFailed, Outcome, OutcomeConflict, Reason, RetryLater
from missive.app.context import Recorded
from missive.engine.workers.decision import ACKED, NACK_SECONDS, RETRY_SECONDS, SHUTDOWN, decide, decide_misrouted
from missive.routing.router import Misrouted
from tests.support.engine import CANARY

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
def test_a_handler_that_returns_acks(recorded):
    """Without an exception, a message is acked if no outcome is recorded, as it is after `ack()`."""
    assert ACKED is decide(recorded, None)
    assert (Outcome.acked, None, None) == (ACKED.outcome, ACKED.reason, ACKED.failure)


@pytest.mark.parametrize("outcome", list(RECORDED))
def test_a_recorded_outcome_is_the_decision(outcome):
    """The decision has the recorded outcome, label and detail."""
    decision = decide(RECORDED[outcome], None)
    assert outcome is decision.outcome
    assert (RECORDED[outcome].label, RECORDED[outcome].detail) == (decision.label, decision.detail)
    assert decision.failure is None


@pytest.mark.parametrize(("outcome", "error"), list(itertools.product(RECORDED, ERRORS)))
def test_a_recorded_outcome_is_the_decision_when_the_handler_raises(outcome, error):
    """After a recorded outcome other than ack, an exception is only added to the history."""
    returned, raised = decide(RECORDED[outcome], None), decide(RECORDED[outcome], error)
    for name in ("outcome", "reason", "label", "detail", "delay", "candidates"):
        assert getattr(returned, name) == getattr(raised, name)
    assert type(error).__qualname__ == raised.failure.type.rpartition(".")[2]


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_after_ack_is_a_failure(error):
    """After `ack()`, any exception is a failure, including one that declares an outcome."""
    decision = decide(Recorded(Outcome.acked), error)
    assert Outcome.dead_lettered is decision.outcome
    assert (Reason.unreadable if isinstance(error, DecodingError) else Reason.failed) is decision.reason
    assert decision.failure is not None


@pytest.mark.parametrize("error", [e for e in ERRORS if not isinstance(e, (RetryLater, DeadLetter, Discard))])
def test_an_exception_is_a_failure(error):
    """Any exception makes a dead letter, including SystemExit and CancelledError. A DecodingError is `unreadable`."""
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
def test_raising_an_outcome_equals_recording_it(error, recorded):
    """RetryLater, DeadLetter and Discard have the same decision as the methods of the context, and are no failures."""
    raised, called = decide(None, error), decide(recorded, None)
    for name in ("outcome", "reason", "label", "detail", "delay", "failure", "candidates"):
        assert getattr(called, name) == getattr(raised, name)
    assert raised.failure is None


class Subclass(RetryLater):
    """An exception of an application."""


def test_a_subclass_of_an_outcome_exception_declares_its_outcome():
    """An exception that an application derives from RetryLater is a retry."""
    assert (Outcome.retried, 3.0) == (decide(None, Subclass(3)).outcome, decide(None, Subclass(3)).delay)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(days=-1), "soon", []])
def test_an_invalid_delay_is_a_failure(after):
    """RetryLater with an invalid delay fails the message with ValueError or TypeError."""
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
def test_delays_of_retries_and_nacks(recorded, delay):
    """A retry has the given delay, or five seconds without one. The delay of a nack is at least one second."""
    assert delay == decide(recorded, None).delay
    assert (RETRY_SECONDS, NACK_SECONDS) == (5.0, 1.0)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_dead_letters_have_a_reason(outcome):
    """Only the decision of a dead letter has a reason. A dead letter that the handler declares is `rejected`."""
    decision = decide(RECORDED.get(outcome), None)
    assert (Reason.rejected if outcome is Outcome.dead_lettered else None) is decision.reason


def test_a_matcher_that_raised_has_its_own_reason():
    """A message whose matcher raised is a dead letter as `matcher_failed`, with the failure that names the matcher."""
    error = MatcherFailed("the matcher of a raised KeyError")
    decision = decide_misrouted(Misrouted(Reason.matcher_failed, ("a",), error))
    assert (Outcome.dead_lettered, Reason.matcher_failed, ("a",)) == (
        decision.outcome,
        decision.reason,
        decision.candidates,
    )
    assert ("missive.errors.MatcherFailed", str(error)) == (decision.failure.type, decision.failure.text)


def test_a_shutdown_has_its_own_reason():
    """A message that cannot be released at the end is a dead letter as `shutdown`."""
    assert (Outcome.dead_lettered, Reason.shutdown) == (SHUTDOWN.outcome, SHUTDOWN.reason)


@pytest.mark.parametrize("error", [None, ValueError(CANARY)])
@pytest.mark.parametrize("outcome", list(RECORDED))
def test_the_repr_of_a_decision_has_no_content(outcome, error):
    """The repr of a decision shows the outcome and the reason, and neither the detail nor the text of an exception."""
    decision = decide(RECORDED[outcome], error)
    assert CANARY not in repr(decision)
    assert repr(decision).startswith(f"<Decision: {outcome}")


def test_a_decision_is_frozen():
    """The attributes of a decision cannot be set."""
    with pytest.raises(AttributeError):
        decide(None, ValueError()).outcome = Outcome.acked
