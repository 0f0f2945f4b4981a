"""Attempts of a test client: outcomes, routing, dead letters and virtual time, with sync and async clients alike."""

from __future__ import annotations

from datetime import timedelta

import pytest

from missive import (
    AmbiguousError,
    DeadLetter,
    DecodingError,
    Discard,
    JSONMessage,
    MatcherFailed,
    NotSettled,
    Outcome,
    OutcomeConflict,
    Processor,
    RawMessage,
    RetryLater,
    UnmatchedError,
)
from missive.matchers import Everything, Field, Header, Key, Topic
from tests.support.clients import (
    CANARY,
    OUTCOMES,
    expected_ids,
    listed_ids,
    message,
    raise_it,
)

# Outcomes


def test_a_return_acks(runner):
    """A handler that returns without an outcome acks its message."""
    seen = []
    client, result, box = runner.one(lambda message, context: seen.append((message.raw_data, context.attempt)))
    assert seen == [(b"", 1)]
    assert (Outcome.acked, "handler", None, 1, None, None) == (
        result.outcome,
        result.handler,
        result.reason,
        result.attempt,
        result.delay,
        result.exception,
    )
    assert expected_ids(acked=["id"]) == listed_ids(client)
    assert box == {}


@pytest.mark.parametrize(("act", "outcome", "reason", "delay", "lists"), OUTCOMES)
def test_outcomes(runner, act, outcome, reason, delay, lists):
    """The outcome that a handler records or raises is in the result and in the lists."""
    client, result, box = runner.one(lambda message, context: act(context))
    assert (outcome, reason, delay, "handler", 1) == (
        result.outcome,
        result.reason,
        result.delay,
        result.handler,
        result.attempt,
    )
    assert expected_ids(**{name: ["id"] for name in lists}) == listed_ids(client)
    assert (outcome is Outcome.dead_lettered) is ("id" in box)


def test_the_result_has_the_exception_of_the_handler(runner):
    """`Result.exception` is the exception object that the handler raised."""
    error = ValueError(CANARY)
    _, result, _ = runner.one(lambda message, context: raise_it(error))
    assert error is result.exception
    assert CANARY not in repr(result)
    assert "exception=ValueError" in repr(result)


def test_an_exception_after_ack_is_a_failure(runner):
    """A handler that acks and then raises has failed."""
    client, result, box = runner.one(lambda message, context: (context.ack(), raise_it(ValueError("late"))))
    assert (Outcome.dead_lettered, "failed") == (result.outcome, result.reason)
    assert [reason for _, reason in box.values()] == ["late"]
    assert expected_ids(acked=["id"], dead_lettered=["id"]) == listed_ids(client)


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (lambda context: context.nack(), Outcome.nacked),
        (lambda context: context.retry(9), Outcome.retried),
        (lambda context: context.discard("spam"), Outcome.discarded),
        (lambda context: context.dead_letter("bad"), Outcome.dead_lettered),
    ],
)
@pytest.mark.parametrize("error", [ValueError("late"), RetryLater(1), Discard("late"), DeadLetter("late")])
def test_an_exception_does_not_change_other_outcomes(runner, record, outcome, error):
    """An outcome other than ack stands when the handler raises afterwards. The result has the exception."""
    _, result, _ = runner.one(lambda message, context: (record(context), raise_it(error)))
    assert outcome is result.outcome
    assert error is result.exception
    if outcome is Outcome.retried:
        assert result.delay == 9.0
    if outcome is Outcome.dead_lettered:
        assert result.reason == "bad"


def test_two_different_outcomes_fail_the_message(runner):
    """A message whose handler acks and then nacks has failed, and the error names both outcomes."""
    _, result, box = runner.one(lambda message, context: (context.ack(), context.nack()))
    assert Outcome.dead_lettered is result.outcome
    assert isinstance(result.exception, OutcomeConflict)
    assert [r for _, r in box.values()] == ["this message is already recorded as acked, and cannot be nacked too"]


def test_a_handler_can_catch_a_conflict(runner):
    """The first outcome stands when the handler catches the conflict."""

    def handle(message, context):
        context.discard("first")
        with pytest.raises(OutcomeConflict):
            context.ack()

    _, result, _ = runner.one(handle)
    assert (Outcome.discarded, "first", None) == (result.outcome, result.reason, result.exception)


# Routing


def test_only_the_matching_handler_runs(each_client):
    """Only the handler that matches a message runs."""
    proc, ran = Processor(), []
    proc.add_handler(Topic("a"), lambda m, c: ran.append("a"), name="A")
    proc.add_handler(Topic("b"), lambda m, c: ran.append("b"), name="B")
    _, results = each_client.run(proc, message("b"), message("a"))
    assert (ran, [result.handler for result in results]) == (["b", "a"], ["B", "A"])


def ambiguous(**options):
    """Return a processor with a handler for topic a, one for key k, and one whose matcher fails at topic z."""
    proc = Processor(JSONMessage, on_overlap="ignore", **options)
    proc.add_handler(Topic("a"), lambda m, c: None)
    proc.add_handler(Key("k"), lambda m, c: None)
    proc.add_handler(Header("f", "1") & Field("x", 1), lambda m, c: None)
    proc.add_handler(lambda m: m.topic == "z" and {}["missing"], lambda m, c: None, name="failing")
    return proc


MISROUTED = [
    (JSONMessage(b"{}"), "unmatched", "no matching handlers", UnmatchedError),
    (JSONMessage(b"{}", topic="a", key="k"), "ambiguous", "multiple matching handlers", AmbiguousError),
    (JSONMessage(b"{", headers={"f": "1"}), "unreadable", "unreadable", DecodingError),
    (JSONMessage(b"{}", topic="z"), "matcher_failed", "the matcher of failing", MatcherFailed),
]


@pytest.mark.parametrize(("sent", "reason", "text", "error"), MISROUTED)
def test_a_misrouted_message_is_dead_lettered(each_client, sent, reason, text, error):
    """A message without exactly one handler is dead-lettered with the reason of its routing."""
    box = {}
    client, [result] = each_client.run(ambiguous(dlq=box), sent)
    assert (Outcome.dead_lettered, None, reason) == (result.outcome, result.handler, result.reason)
    assert [sent] == client.dead_lettered == client.acked
    [(stored, why)] = box.values()
    assert stored is sent
    assert why.startswith(text)


@pytest.mark.parametrize(("sent", "reason", "text", "error"), MISROUTED)
def test_a_misrouted_message_raises_without_a_dead_letter_queue(each_client, sent, reason, text, error):
    """Without a dead letter queue, each kind of misrouted message raises its own error, without content."""
    with pytest.raises(error) as caught:
        each_client.run(ambiguous(), sent)
    assert sent.message_id not in str(caught.value)


def test_an_unmatched_error_explains_the_matchers(each_client):
    """UnmatchedError explains the expectation of each matcher, and shows no content."""
    with pytest.raises(UnmatchedError, match=r"Topic\(Equals\('a'\)\): expected 'a', got <str, 11 char") as caught:
        each_client.run(ambiguous(), JSONMessage(b"{}", topic=CANARY))
    assert CANARY not in str(caught.value)


def test_an_ambiguous_error_names_the_handlers(each_client):
    """AmbiguousError names every matching handler."""
    proc = Processor(on_overlap="ignore")
    proc.add_handler(Topic("a"), lambda m, c: None, name="first")
    proc.add_handler(Key("k"), lambda m, c: None, name="second")
    with pytest.raises(AmbiguousError, match="first, second"):
        each_client.run(proc, message("a", key="k"))


# Dead letters


def test_a_dict_holds_message_and_reason(runner):
    """A dict as dead letter queue holds `{message_id: (message, reason)}`, with the text of the exception as reason."""
    box = {}
    proc = runner.processor(lambda m, c: raise_it(ValueError("no such customer")), Topic("a"), dlq=box)
    failing, unmatched = message("a", message_id="1"), message("b", message_id="2")
    runner.run(proc, failing, unmatched)
    assert {"1": (failing, "no such customer"), "2": (unmatched, "no matching handlers")} == box
    assert failing is box["1"][0]
    assert type(box["1"]) is tuple


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda c: c.dead_letter("bad-address"), "bad-address"),
        (lambda c: c.dead_letter("bad-address", detail=CANARY), "bad-address"),
        (lambda c: raise_it(DeadLetter("bad-address", detail=CANARY)), "bad-address"),
        (lambda c: raise_it(KeyError("id")), "'id'"),
        (lambda c: raise_it(ValueError), "failed"),
        (lambda c: raise_it(ValueError("\ud800")), "\\ud800"),
    ],
)
def test_the_reason_in_a_dict(runner, act, reason):
    """The reason in a dict is the label of the handler, the text of the exception, or `failed`."""
    _, _, box = runner.one(lambda message, context: act(context))
    assert reason == box["id"][1]


def test_a_label_in_a_dict_outlives_an_exception(runner):
    """The reason is the label, as in the result, when the handler dead-letters and then raises."""
    _, result, box = runner.one(lambda message, context: (context.dead_letter("bad"), raise_it(ValueError("late"))))
    assert result.reason == box["id"][1] == "bad"


def test_a_second_message_with_the_same_id_gets_a_number(each_client):
    """Different messages with one id are stored as `id`, `id#2` and `id#3`. Equal messages are stored once."""
    box = {}
    proc = Processor(dlq=box)
    messages = [RawMessage(body, message_id="id") for body in (b"1", b"2", b"3", b"2")]
    each_client.run(proc, *messages)
    assert list(box) == ["id", "id#2", "id#3"]
    assert [stored.raw_data for stored, _ in box.values()] == [b"1", b"2", b"3"]


def test_only_dead_letters_enter_the_dict(runner):
    """Acked, nacked, retried and discarded messages do not enter the dict."""
    for act in (lambda c: c.ack(), lambda c: c.nack(), lambda c: c.retry(), lambda c: c.discard("x")):
        _, _, box = runner.one(lambda message, context, act=act: act(context))
        assert box == {}


@pytest.mark.parametrize("error", [ValueError("own"), DeadLetter("own"), SystemExit(3)])
def test_without_a_dead_letter_queue_the_handler_exception_is_raised(runner, error):
    """Without a dead letter queue, `send` raises the exception object of the handler."""
    with pytest.raises(type(error)) as caught:
        runner.run(runner.processor(lambda m, c: raise_it(error)), message("a"))
    assert error is caught.value


def test_without_a_dead_letter_queue_a_recorded_dead_letter_raises(runner):
    """Without a dead letter queue, `dead_letter()` raises NotSettled with the label and without the detail."""
    with pytest.raises(NotSettled, match="bad-address") as caught:
        runner.run(runner.processor(lambda m, c: c.dead_letter("bad-address", detail=CANARY)), message("a"))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("act", [lambda c: c.discard("x"), lambda c: c.retry(), lambda c: c.nack(), lambda c: c.ack()])
def test_other_outcomes_need_no_dead_letter_queue(runner, act):
    """Outcomes other than a dead letter work without a dead letter queue."""
    _, [result] = runner.run(runner.processor(lambda m, c: act(c)), message("a"))
    assert result.exception is None


def test_a_configured_store_is_never_opened(each_client, tmp_path):
    """The client does not open the store of a URL. Dead letters are in its list only."""
    path = tmp_path / "dlq.db"
    client, [result] = each_client.run(Processor(dlq=f"sqlite:///{path}"), message("a", message_id="1"))
    assert Outcome.dead_lettered is result.outcome
    assert expected_ids(acked=["1"], dead_lettered=["1"]) == listed_ids(client)
    assert list(tmp_path.iterdir()) == []


# Time


def test_a_retried_message_runs_when_it_is_due(runner):
    """`advance` runs the next attempt of a retried message after its delay, and not earlier."""
    attempts = []

    def handle(message, context):
        attempts.append(context.attempt)
        if context.attempt < 3:
            context.retry(10)

    proc = runner.processor(handle)
    client, results = runner.run(proc, message("a", message_id="1"), advance=[9, 1, 9, 1, 100])
    assert attempts == [1, 2, 3]
    assert [(r.attempt, r.outcome) for r in results] == [(1, "retried"), (2, "retried"), (3, "acked")]
    assert expected_ids(nacked=["1", "1"], retried=["1", "1"], acked=["1"]) == listed_ids(client)


def test_one_advance_runs_every_due_attempt(runner):
    """One `advance` runs every attempt that falls due, in order of time, including repeated ones."""
    order = []

    def handle(message, context):
        order.append((message.message_id, context.attempt))
        if context.attempt < 3:
            context.retry(float(message.topic))

    runner.run(runner.processor(handle), message("4", message_id="slow"), message("3", message_id="fast"), advance=[8])
    assert order == [("slow", 1), ("fast", 1), ("fast", 2), ("slow", 2), ("fast", 3), ("slow", 3)]


def test_messages_with_one_due_time_run_in_the_order_of_sending(runner):
    """Messages with the same due time run first in, first out."""
    order = []

    def handle(message, context):
        order.append(message.message_id)
        if context.attempt == 1:
            context.retry(1)

    runner.run(runner.processor(handle), *(message("a", message_id=str(n)) for n in range(5)), advance=[1])
    assert [*"01234", *"01234"] == order


def test_a_nacked_message_spends_no_attempt(runner):
    """A nacked message runs again after a second, as the same attempt."""
    attempts = []

    def handle(message, context):
        attempts.append(context.attempt)
        if len(attempts) < 3:
            context.nack()

    _, results = runner.run(runner.processor(handle), message("a"), advance=[0.9, 0.1, 1])
    assert attempts == [1, 1, 1]
    assert [result.delay for result in results] == [1.0, 1.0, None]


def test_advance_accepts_a_timedelta_and_no_negative_value(each_client):
    """`advance` accepts seconds or a timedelta, and refuses a negative value."""
    proc = Processor()
    proc.add_handler(Everything(), lambda m, c: c.retry(60) if c.attempt == 1 else None)
    _, results = each_client.run(proc, message("a"), advance=[timedelta(minutes=1)])
    assert [result.attempt for result in results] == [1, 2]
    with pytest.raises(ValueError, match="zero or more"):
        each_client.run(Processor(), advance=[-1])
