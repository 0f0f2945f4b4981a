"""Retry policies and breakers as they are declared, and as a test client shows them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from missive import (
    Breaker,
    DecodingError,
    DependencyDown,
    JSONMessage,
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
from missive.matchers import Everything, Field


def half():
    return 0.5


def delays(policy, attempts):
    """Return the delays after each of so many attempts, with a jitter of a half."""
    return [policy.next(attempt, 0.0, half) for attempt in range(1, attempts + 1)]


# What is declared


def test_first_at_once_then_delays_that_grow_to_a_cap():
    """The first tries again are immediate, the others wait, each longer than the one before, up to the cap."""
    policy = Retry(attempts=8, immediate=2, delays=exponential(1, factor=3, cap=20, jitter="none"))
    assert delays(policy, 8) == [0, 0, 1, 3, 9, 20, 20, None]


def test_the_default_policy():
    """Ten attempts, one of them at once, then 5, 10, 20 … seconds, of which the jitter takes a random part."""
    assert delays(Retry(), 10) == [0, 2.5, 5, 10, 20, 40, 80, 160, 320, None]


def test_a_sequence_of_delays_repeats_its_last():
    """Delays may be a list of seconds and timedeltas, of which the last goes on."""
    policy = Retry(attempts=None, immediate=0, delays=[1, timedelta(minutes=1)])
    assert delays(policy, 4) == [1, 60, 60, 60]
    assert delays(Retry(immediate=0, delays=constant(7)), 3) == [7, 7, 7]


def test_no_try_begins_later_than_within():
    """The total time is counted from the first failure; a try that would begin later is not made."""
    policy = Retry(attempts=None, immediate=0, delays=constant(10), within=timedelta(seconds=25))
    assert [policy.next(1, elapsed, half) for elapsed in (0, 15, 15.1)] == [10, 10, None]


def test_delays_do_not_overflow():
    """However many attempts there were, a delay is at most its cap."""
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
def test_what_is_worth_another_try(policy, error, covered):
    """`on` says what is retried and `never` what is not; programming errors only where they are named."""
    assert policy.covers(error) is covered


@pytest.mark.parametrize(
    ("make", "says"),
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
def test_what_could_never_work_is_refused_in_one_line(make, says):
    """A policy that is none names what is wrong with it, in one line."""
    with pytest.raises(UsageError, match=says) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_policies_are_values():
    """Equal policies are equal, and cannot be changed."""
    assert Retry(attempts=3) == Retry(attempts=3) != Retry()
    with pytest.raises(AttributeError):
        Retry().attempts = 4
    with pytest.raises(AttributeError):
        Breaker("b").after = 4


def test_a_handler_takes_a_policy_and_nothing_else():
    """Something else as a policy or a breaker is refused, with the handler's name."""
    for options, says in (({"retry": 3}, "Retry"), ({"retry": True}, "Retry"), ({"breaker": "b"}, "Breaker")):
        with pytest.raises(RegistrationError, match=f"for h.*missive.{says}"):
            Processor().add_handler(Everything(), lambda m, c: None, name="h", **options)
    with pytest.raises(RegistrationError, match="retry="):
        Processor(retry=3)


def test_one_name_is_one_breaker():
    """Two breakers of one name that say different things are refused."""
    proc = Processor(JSONMessage)
    proc.add_handler(Field("a", 1), lambda m, c: None, name="a", breaker=Breaker("b"))
    proc.add_handler(Field("a", 2), lambda m, c: None, name="b", breaker=Breaker("b", after=2))
    with pytest.raises(UsageError, match="two breakers are called b"), proc.test_client():
        pass


# In a test client


class Failing:
    """A handler that raises so many times, and keeps its attempts."""

    def __init__(self, error, times=10**9):
        self.error, self.left, self.attempts = error, times, []

    def __call__(self, message, context):
        """Fail."""
        self.attempts.append(context.attempt)
        if self.left:
            self.left -= 1
            raise self.error


def client_of(handler, *, dlq=None, processor_retry=None, **options):
    proc = Processor(name="app", dlq={} if dlq is None else dlq, retry=processor_retry)
    proc.add_handler(Everything(), handler, name="h", **options)
    return proc.test_client()


MESSAGE = b"x"
EXACT = Retry(attempts=4, delays=exponential(5, jitter="none"))


def send(client, body=MESSAGE):
    return client.send(RawMessage(body))


def test_a_failure_is_retried_until_it_succeeds():
    """A failure comes again as its next attempt: at once, then after its delay."""
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


def test_after_the_last_attempt_it_is_a_dead_letter():
    """The attempts are counted with the first, and the last failure is what the dead letter says."""
    handler, dead = Failing(OSError("down")), {}
    with client_of(handler, dlq=dead, retry=EXACT) as client:
        send(client)
        assert [r.outcome for r in client.advance(3600)][-1] is Outcome.dead_lettered
    assert handler.attempts == [1, 2, 3, 4]
    assert [reason for _, reason in dead.values()] == ["down"]


def test_a_programming_error_is_a_dead_letter_at_once():
    """What another try does not mend is not tried again."""
    with client_of(Failing(TypeError("oops")), retry=EXACT) as client:
        assert send(client).outcome is Outcome.dead_lettered


def test_without_a_policy_nothing_is_retried():
    """A failure of a handler without a policy is a dead letter, as is that of one whose policy is switched off."""
    with client_of(Failing(OSError("down"))) as client:
        assert send(client).outcome is Outcome.dead_lettered
    with client_of(Failing(OSError("down")), processor_retry=EXACT, retry=False) as client:
        assert send(client).outcome is Outcome.dead_lettered


def test_a_handler_inherits_the_policy_of_its_processor():
    """None is the processor's policy, also in an included one, which keeps its own."""
    with client_of(Failing(OSError("down")), processor_retry=EXACT) as client:
        assert send(client).outcome is Outcome.retried
    outer, inner = Processor(name="outer", retry=EXACT, dlq={}), Processor(name="inner")
    inner.add_handler(Everything(), Failing(OSError("down")), name="h")
    outer.include(inner)
    with outer.test_client() as client:
        assert send(client).outcome is Outcome.dead_lettered


@pytest.mark.parametrize("asks", ["context", "exception"])
def test_a_retry_that_is_asked_for_ends_by_the_policy(asks):
    """`context.retry()` and `RetryLater` spend attempts of the policy, and take its delay unless they name one."""

    def handle(message, context):
        after = 7 if context.attempt == 2 else None
        if asks == "exception":
            raise RetryLater(after)
        context.retry(after)

    with client_of(handle, retry=Retry(attempts=3, immediate=0, delays=[2, 3])) as client:
        results = [send(client), *client.advance(100)]
    assert [(r.outcome, r.delay) for r in results[:2]] == [(Outcome.retried, 2.0), (Outcome.retried, 7.0)]
    assert (results[2].outcome, results[2].reason) == (Outcome.dead_lettered, "retries exhausted")


def test_the_total_time_is_counted_on_the_virtual_clock():
    """`within` counts the time that `advance` lets pass."""
    policy = Retry(attempts=None, immediate=0, delays=constant(10), within=25)
    with client_of(Failing(OSError("down")), retry=policy) as client:
        results = [send(client), *client.advance(100)]
    assert [r.outcome for r in results] == [Outcome.retried] * 2 + [Outcome.dead_lettered]


def test_a_nack_spends_no_attempt_of_the_policy():
    """A nacked message never comes to the end of its attempts."""
    with client_of(lambda m, c: c.nack(), retry=Retry(attempts=1)) as client:
        assert {r.outcome for r in [send(client), *client.advance(20)]} == {Outcome.nacked}


def test_a_batch_handler_has_a_policy_too():
    """The culprit of a batch is retried by the policy, and the others are acked."""
    proc = Processor(name="app", dlq={})

    @proc.handle_batch_for(Everything(), retry=EXACT)
    def handle(batch):
        if any(message.raw_data == b"bad" for message in batch.messages):
            raise OSError("down")

    with proc.test_client() as client:
        results = client.send_batch([RawMessage(body) for body in (b"a", b"bad", b"b")])
    assert [r.outcome for r in results] == [Outcome.acked, Outcome.retried, Outcome.acked]


def test_the_decision_is_seen_by_after_handling():
    """`after_handling` sees that the attempt is retried."""
    seen = []
    proc = Processor(name="app", dlq={}, retry=EXACT)
    proc.add_handler(Everything(), Failing(OSError("down")), name="h")
    proc.after_handling(lambda worker, context: seen.append(context.outcome))
    with proc.test_client() as client:
        send(client)
    assert seen == [Outcome.retried]


# Breakers in a test client

BREAKER = Breaker("billing", on=OSError, after=2, probe=10)


def test_an_open_breaker_holds_messages_without_spending_attempts():
    """After so many failures its messages are not run; the probe is, and then the others, at their old attempts."""
    handler, dead = Failing(OSError("down"), 3), {}
    with client_of(handler, dlq=dead, retry=Retry(attempts=2, immediate=0, delays=[1]), breaker=BREAKER) as client:
        assert send(client, b"a").outcome is Outcome.retried
        opened = send(client, b"b")
        assert (opened.outcome, opened.delay) == (Outcome.nacked, 10.0)
        assert send(client, b"c").outcome is Outcome.nacked
        assert handler.attempts == [1, 1]
        client.advance(9.9)
        assert handler.attempts == [1, 1]
        assert {r.outcome for r in client.advance(60)} >= {Outcome.acked}
        # a, then b that opened it, the probe of b that failed, and each of them when it is well.
        assert sorted(handler.attempts) == [1, 1, 1, 1, 1, 2]
        assert len(client.acked) == 3
    assert dead == {}


def test_dependency_down_opens_the_breaker_at_once():
    """A handler that knows better need not fail often."""
    calls = []

    def handle(message, context):
        calls.append(context.attempt)
        raise DependencyDown("billing")

    with client_of(handle, breaker=BREAKER) as client:
        assert (send(client).outcome, send(client).outcome) == (Outcome.nacked, Outcome.nacked)
    assert calls == [1]


def test_dependency_down_of_nothing_known_is_a_failure():
    """Without a breaker of that name it fails like anything else."""
    with client_of(Failing(DependencyDown("other")), breaker=BREAKER) as client:
        assert send(client).outcome is Outcome.dead_lettered


def test_a_programming_error_does_not_open_a_breaker():
    """Only what the breaker names counts."""
    with client_of(Failing(TypeError("oops")), breaker=Breaker("b", after=1)) as client:
        assert [send(client).outcome for _ in range(3)] == [Outcome.dead_lettered] * 3
