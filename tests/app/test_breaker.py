"""Breakers: opening, probes and closing, in a test client."""

from __future__ import annotations

import pytest

from missive import (
    Breaker,
    DependencyDown,
    JSONMessage,
    Outcome,
    Processor,
    Retry,
    UsageError,
)
from missive.matchers import Field
from tests.support.failing import Failing, client_of, send


def test_breakers_of_one_name_must_be_equal():
    """Two breakers with the same name and different settings are an error."""
    proc = Processor(JSONMessage)
    proc.add_handler(Field("a", 1), lambda m, c: None, name="a", breaker=Breaker("b"))
    proc.add_handler(Field("a", 2), lambda m, c: None, name="b", breaker=Breaker("b", after=2))
    with pytest.raises(UsageError, match="two different breakers are named b"), proc.test_client():
        pass


BREAKER = Breaker("billing", on=OSError, after=2, probe=10)


def test_an_open_breaker_holds_messages_without_spending_attempts():
    """While the breaker is open, only probes run. After a successful probe, the others run at their old attempts."""
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
        # Message a, then b, which opened the breaker, the failed probe of b, and all three after the recovery.
        assert sorted(handler.attempts) == [1, 1, 1, 1, 1, 2]
        assert len(client.acked) == 3
    assert dead == {}


def test_dependency_down_opens_the_breaker_at_once():
    """`DependencyDown` opens the breaker at the first failure."""
    calls = []

    def handle(message, context):
        calls.append(context.attempt)
        raise DependencyDown("billing")

    with client_of(handle, breaker=BREAKER) as client:
        assert (send(client).outcome, send(client).outcome) == (Outcome.nacked, Outcome.nacked)
    assert calls == [1]


def test_dependency_down_without_its_breaker_is_a_failure():
    """Without a breaker of that name, the message fails as with any other exception."""
    with client_of(Failing(DependencyDown("other")), breaker=BREAKER) as client:
        assert send(client).outcome is Outcome.dead_lettered


def test_a_programming_error_does_not_open_a_breaker():
    """Exceptions outside of `on` do not count as failures of the dependency."""
    with client_of(Failing(TypeError("oops")), breaker=Breaker("b", after=1)) as client:
        assert [send(client).outcome for _ in range(3)] == [Outcome.dead_lettered] * 3
