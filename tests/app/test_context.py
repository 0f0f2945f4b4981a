"""Contexts: recording an outcome, and the attributes of an attempt."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from missive import HandlingContext, JSONMessage, Outcome, OutcomeConflict, ProcessingContext, Processor, RawMessage
from missive.durations import seconds

CANARY = "canary-4711"
RECORDING = {
    Outcome.acked: lambda context: context.ack(),
    Outcome.nacked: lambda context: context.nack(),
    Outcome.retried: lambda context: context.retry(),
    Outcome.dead_lettered: lambda context: context.dead_letter("reason"),
    Outcome.discarded: lambda context: context.discard("reason"),
}


@pytest.fixture
def worker():
    """Return the context of a worker."""
    return ProcessingContext(Processor())


@pytest.fixture
def context(worker):
    """Return the context of an attempt without a recorded outcome."""
    return HandlingContext(RawMessage(b"body"), worker)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_each_method_records_its_outcome(context, outcome):
    """Each of the five methods records its outcome, which can be read at once."""
    assert (context.outcome, context.recorded) == (None, None)
    RECORDING[outcome](context)
    assert outcome is context.outcome
    assert outcome is context.recorded.outcome


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(Outcome, 2)))
def test_a_second_different_outcome_is_an_error(context, first, second):
    """A second, different outcome raises an error that names both, and the first stands."""
    RECORDING[first](context)
    with pytest.raises(OutcomeConflict, match=f"recorded as {first}, and cannot be {second} too"):
        RECORDING[second](context)
    assert first is context.outcome


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_same_outcome_can_be_recorded_twice(context, outcome):
    """Recording the same outcome again is no error."""
    RECORDING[outcome](context)
    RECORDING[outcome](context)
    assert outcome is context.outcome


def test_dead_letter_records_reason_and_detail(context):
    """`dead_letter` records a label and a confidential detail, which no repr shows."""
    context.dead_letter("bad-address", detail=CANARY)
    assert (context.recorded.label, context.recorded.detail) == ("bad-address", CANARY)
    assert CANARY not in repr(context)
    assert CANARY not in repr(context.recorded)


def test_detail_is_a_keyword(context):
    """A second positional argument of `dead_letter` is an error."""
    with pytest.raises(TypeError):
        context.dead_letter("reason", "detail")
    assert context.outcome is None


def test_discard_records_its_reason(context):
    """`discard` records its label."""
    context.discard("a test order")
    assert "a test order" == context.recorded.label  # noqa: SIM300 - expected first, as everywhere


@pytest.mark.parametrize(
    ("after", "expected"), [(None, None), (0, 0.0), (5, 5.0), (0.5, 0.5), (timedelta(minutes=2), 120.0)]
)
def test_retry_takes_seconds_or_a_timedelta(context, after, expected):
    """The delay of `retry` is in seconds or a timedelta; None leaves it to the policy."""
    context.retry(after)
    assert expected == context.recorded.delay
    assert expected == seconds(after)


@pytest.mark.parametrize("after", [-1, -0.001, float("nan"), float("inf"), timedelta(seconds=-1)])
def test_an_invalid_delay_is_an_error(context, after):
    """A negative or infinite delay raises, and nothing is recorded."""
    with pytest.raises(ValueError, match="finite number of seconds"):
        context.retry(after)
    assert context.outcome is None


def test_the_repr_of_a_context_shows_no_content(worker):
    """The repr has the attempt and the outcome, and no content of the message."""
    context = HandlingContext(RawMessage(CANARY.encode(), message_id=CANARY, topic=CANARY), worker, attempt=3)
    context.state.secret = CANARY
    assert repr(context) == "<HandlingContext: attempt 3, undecided>"
    context.ack()
    assert repr(context) == "<HandlingContext: attempt 3, acked>"
    assert CANARY not in repr(context.state)


def test_a_context_has_its_message_worker_and_adapter(worker):
    """The context returns the objects that the engine passed."""
    message, native, adapter = RawMessage(b""), object(), object()
    context = HandlingContext(message, worker, 2, native, adapter)
    assert message is context.message
    assert worker is context.processing_ctx
    assert context.attempt == 2
    assert native is context.native
    assert adapter is context.adapter


def test_the_first_attempt_is_one(context):
    """Attempts count from one."""
    assert context.attempt == 1


@pytest.mark.parametrize("name", ["attempt", "message", "outcome", "exception", "native", "state", "anything"])
def test_a_context_is_read_only(context, name):
    """The attributes of a context cannot be set, but `state` accepts any attribute."""
    with pytest.raises(AttributeError):
        setattr(context, name, 1)


def test_state_holds_attributes(context, worker):
    """Each context has its own `state`, for any attributes."""
    context.state.connection = 1
    worker.state.connection = 2
    assert (context.state.connection, worker.state.connection) == (1, 2)
    assert not hasattr(context.state, "other")
    assert repr(context.state) == "<State: connection>"
    del context.state.connection
    assert repr(context.state) == "<State: empty>"


def test_attempts_do_not_share_state(worker):
    """Two attempts of a worker have separate states, and share the state of the worker."""
    one, other = HandlingContext(RawMessage(b""), worker), HandlingContext(RawMessage(b""), worker)
    one.state.seen = True
    assert not hasattr(other.state, "seen")
    assert one.processing_ctx.state is other.processing_ctx.state


def test_the_decided_outcome_replaces_the_recorded_one(context):
    """After the decision, `outcome` and `exception` return it; `recorded` stays the handler's outcome."""
    error = ValueError()
    context.ack()
    context.conclude(Outcome.dead_lettered, error)
    assert Outcome.dead_lettered is context.outcome
    assert error is context.exception
    assert Outcome.acked is context.recorded.outcome


def test_a_processing_context_has_its_processor():
    """`processor` is the running processor."""
    processor = Processor()
    assert processor is ProcessingContext(processor).processor


@pytest.mark.parametrize("kind", [HandlingContext, ProcessingContext])
def test_contexts_are_generic_at_run_time(kind):
    """`HandlingContext[JSONMessage]` works in annotations that are evaluated."""
    assert kind[JSONMessage].__origin__ is kind
    assert (JSONMessage,) == kind[JSONMessage].__args__


def test_an_outcome_is_a_string():
    """The text of an outcome is its name, in logs, results and metrics."""
    assert [str(outcome) for outcome in Outcome] == ["acked", "nacked", "retried", "dead_lettered", "discarded"]
