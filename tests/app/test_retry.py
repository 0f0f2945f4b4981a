"""Retry policies: their delays and limits, and retries in a test client."""

from __future__ import annotations

from datetime import timedelta

import pytest

from missive import (
    Breaker,
    DecodingError,
    Outcome,
    Processor,
    RawMessage,
    RegistrationError,
    Retry,
    RetryLater,
    UsageError,
    constant,
    exponential,
)
from missive.matchers import Everything
from tests.support.failing import EXACT, Failing, client_of, send


def half():
    return 0.5


def delays(policy, attempts):
    """Return the delays after each of the first attempts, with half of the jitter."""
    return [policy.next(attempt, 0.0, half) for attempt in range(1, attempts + 1)]


def test_immediate_retries_precede_growing_delays():
    """The first retries are immediate. The delays of the others grow up to the cap."""
    policy = Retry(attempts=8, immediate=2, delays=exponential(1, factor=3, cap=20, jitter="none"))
    assert delays(policy, 8) == [0, 0, 1, 3, 9, 20, 20, None]


def test_the_default_policy():
    """Ten attempts: one immediate retry, then random delays of up to 5, 10, 20 … seconds."""
    assert delays(Retry(), 10) == [0, 2.5, 5, 10, 20, 40, 80, 160, 320, None]


def test_a_sequence_of_delays_repeats_its_last():
    """Delays can be a list of seconds and timedeltas, whose last element repeats."""
    policy = Retry(attempts=None, immediate=0, delays=[1, timedelta(minutes=1)])
    assert delays(policy, 4) == [1, 60, 60, 60]
    assert delays(Retry(immediate=0, delays=constant(7)), 3) == [7, 7, 7]


def test_no_retry_starts_later_than_within():
    """`within` counts from the first failure. A retry that would start later does not happen."""
    policy = Retry(attempts=None, immediate=0, delays=constant(10), within=timedelta(seconds=25))
    assert [policy.next(1, elapsed, half) for elapsed in (0, 15, 15.1)] == [10, 10, None]


def test_delays_do_not_overflow():
    """A delay never exceeds its cap, however many attempts precede it."""
    assert Retry(attempts=None, delays=exponential(1, factor=1000, jitter="none")).next(10**6, 0, half) == 3600


@pytest.mark.parametrize(
    ("policy", "error", "covered"),
    [
        (Retry(), ValueError, True),
        (Retry(), ConnectionError, True),
        (Retry(), TypeError, False),
        (Retry(), UnboundLocalError, False),
        (Retry(), DecodingError, False),
        (Retry(), SystemExit, False),
        (Retry(on=TypeError), TypeError, True),
        (Retry(on=(NameError, OSError)), UnboundLocalError, True),
        (Retry(on=(NameError, OSError)), AttributeError, False),
        (Retry(on=(ConnectionError, Exception)), AssertionError, False),
        (Retry(on=OSError), ValueError, False),
        (Retry(on=OSError, never=ConnectionError), TimeoutError, True),
        (Retry(on=OSError, never=ConnectionError), ConnectionResetError, False),
    ],
)
def test_on_and_never_select_exceptions(policy, error, covered):
    """`on` selects exceptions and `never` excludes some. Programming errors are retried only by name."""
    assert policy.covers(error) is covered


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Retry(on="OSError"), "on= of Retry"),
        (lambda: Retry(on=(OSError, 3)), "on= of Retry"),
        (lambda: Retry(on=()), "on= of Retry"),
        (lambda: Retry(never=3), "never= of Retry"),
        (lambda: Retry(attempts=0), "attempts= of Retry"),
        (lambda: Retry(attempts=2.5), "attempts= of Retry"),
        (lambda: Retry(immediate=-1), "immediate= of Retry"),
        (lambda: Retry(delays=()), "delays= of Retry"),
        (lambda: Retry(delays="5"), "delays= of Retry"),
        (lambda: Retry(delays=5), "delays= of Retry"),
        (lambda: Retry(delays=[-1]), "a delay must be"),
        (lambda: Retry(within=-1), "within= of Retry"),
        (lambda: exponential(-1), "the first delay"),
        (lambda: exponential(1, factor=0.5), "factor="),
        (lambda: exponential(1, cap=float("inf")), "cap="),
        (lambda: exponential(1, jitter="some"), "jitter="),
        (lambda: Breaker(""), "needs the name of a dependency"),
        (lambda: Breaker("b", on=3), "on= of the breaker b"),
        (lambda: Breaker("b", after=0), "after= of the breaker b"),
        (lambda: Breaker("b", probe=0), "probe= of the breaker b"),
    ],
)
def test_an_invalid_argument_is_an_error_of_one_line(make, text):
    """The error of an invalid policy or breaker names the argument, in one line."""
    with pytest.raises(UsageError, match=text) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_policies_are_values():
    """Equal policies compare equal, and cannot be changed."""
    assert Retry(attempts=3) == Retry(attempts=3) != Retry()
    with pytest.raises(AttributeError):
        Retry().attempts = 4
    with pytest.raises(AttributeError):
        Breaker("b").after = 4


def test_retry_and_breaker_must_be_policies():
    """Another value for `retry=` or `breaker=` raises an error that names the handler."""
    for options, kind in (({"retry": 3}, "Retry"), ({"retry": True}, "Retry"), ({"breaker": "b"}, "Breaker")):
        with pytest.raises(RegistrationError, match=f"for h.*missive.{kind}"):
            Processor().add_handler(Everything(), lambda m, c: None, name="h", **options)
    with pytest.raises(RegistrationError, match="retry="):
        Processor(retry=3)


def test_a_failure_is_retried_until_success():
    """A failed message runs again as its next attempt: at once, then after the delay."""
    handler = Failing(OSError("down"), 3)
    with client_of(handler, retry=EXACT) as client:
        first = send(client)
        assert (first.outcome, first.delay, first.reason) == (Outcome.retried, 0.0, None)
        assert isinstance(first.exception, OSError)
        results = client.advance(4.9)
        assert [(r.outcome, r.delay) for r in results] == [(Outcome.retried, 5.0)]
        assert [r.outcome for r in client.advance(60)] == [Outcome.retried, Outcome.acked]
        assert len(client.retried) == 3
    assert handler.attempts == [1, 2, 3, 4]


def test_the_last_attempt_ends_in_a_dead_letter():
    """The number of attempts includes the first. The dead letter has the last failure."""
    handler, dead = Failing(OSError("down")), {}
    with client_of(handler, dlq=dead, retry=EXACT) as client:
        send(client)
        assert [r.outcome for r in client.advance(3600)][-1] is Outcome.dead_lettered
    assert handler.attempts == [1, 2, 3, 4]
    assert [reason for _, reason in dead.values()] == ["down"]


def test_a_programming_error_is_not_retried():
    """A programming error is a dead letter at its first attempt."""
    with client_of(Failing(TypeError("oops")), retry=EXACT) as client:
        assert send(client).outcome is Outcome.dead_lettered


def test_without_a_policy_nothing_is_retried():
    """Without a policy, and with `retry=False`, a failure is a dead letter."""
    with client_of(Failing(OSError("down"))) as client:
        assert send(client).outcome is Outcome.dead_lettered
    with client_of(Failing(OSError("down")), processor_retry=EXACT, retry=False) as client:
        assert send(client).outcome is Outcome.dead_lettered


def test_a_handler_inherits_the_policy_of_its_processor():
    """A handler without `retry=` uses the policy of its processor, or of the processor that includes that."""
    with client_of(Failing(OSError("down")), processor_retry=EXACT) as client:
        assert send(client).outcome is Outcome.retried
    outer, inner = Processor(name="outer", retry=EXACT, dlq={}), Processor(name="inner")
    inner.add_handler(Everything(), Failing(OSError("down")), name="h")
    outer.include(inner)
    with outer.test_client() as client:
        assert send(client).outcome is Outcome.retried


@pytest.mark.parametrize("how", ["context", "exception"])
def test_requested_retries_spend_attempts_of_the_policy(how):
    """`context.retry()` and `RetryLater` spend attempts, and use the delay of the policy unless they give one."""

    def handle(message, context):
        after = 7 if context.attempt == 2 else None
        if how == "exception":
            raise RetryLater(after)
        context.retry(after)

    with client_of(handle, retry=Retry(attempts=3, immediate=0, delays=[2, 3])) as client:
        results = [send(client), *client.advance(100)]
    assert [(r.outcome, r.delay) for r in results[:2]] == [(Outcome.retried, 2.0), (Outcome.retried, 7.0)]
    assert (results[2].outcome, results[2].reason) == (Outcome.dead_lettered, "retries exhausted")


def test_within_counts_on_the_virtual_clock():
    """`within` includes the time that passes through `advance`."""
    policy = Retry(attempts=None, immediate=0, delays=constant(10), within=25)
    with client_of(Failing(OSError("down")), retry=policy) as client:
        results = [send(client), *client.advance(100)]
    assert [r.outcome for r in results] == [Outcome.retried] * 2 + [Outcome.dead_lettered]


def test_a_nack_spends_no_attempt():
    """A nacked message never reaches the limit of attempts."""
    with client_of(lambda m, c: c.nack(), retry=Retry(attempts=1)) as client:
        assert {r.outcome for r in [send(client), *client.advance(20)]} == {Outcome.nacked}


def test_a_batch_handler_retries_its_failing_message():
    """The failing message of a batch is retried, and the others are acked."""
    proc = Processor(name="app", dlq={})

    @proc.handle_batch_for(Everything(), retry=EXACT)
    def handle(batch):
        if any(message.raw_data == b"bad" for message in batch.messages):
            raise OSError("down")

    with proc.test_client() as client:
        results = client.send_batch([RawMessage(body) for body in (b"a", b"bad", b"b")])
    assert [r.outcome for r in results] == [Outcome.acked, Outcome.retried, Outcome.acked]


def test_after_handling_sees_the_retry():
    """An after_handling hook sees that the attempt is retried."""
    seen = []
    proc = Processor(name="app", dlq={}, retry=EXACT)
    proc.add_handler(Everything(), Failing(OSError("down")), name="h")
    proc.after_handling(lambda worker, context: seen.append(context.outcome))
    with proc.test_client() as client:
        send(client)
    assert seen == [Outcome.retried]
