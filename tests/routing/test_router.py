"""The router: the only route of a message, or the reason why it has none."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage, Outcome, RawMessage, Reason
from missive.engine.workers.decision import decide_misrouted
from missive.errors import DecodingError, MatcherFailed
from missive.matchers import Everything, Field, Header, Matcher, Predicate, Present, Topic
from missive.routing.route import Route
from missive.routing.router import Misrouted, Router
from tests.support import strategies
from tests.support.routing import nothing

CANARY = "canary-4711"
UNREADABLE = JSONMessage(b"{", headers={"h": "1"})


def routes(*matchers):
    """Return a route for each matcher, named by its number."""
    return [Route(str(n), m if isinstance(m, Matcher) else Predicate(m), nothing, None) for n, m in enumerate(matchers)]


def raising(message):
    """Raise an exception that contains message content."""
    raise KeyError(CANARY)


def test_one_match_is_the_route():
    """If one matcher is true, the router returns its route."""
    table = routes(Topic("a"), Topic("b"))
    assert table[1] is Router(table).find(RawMessage(b"", topic="b"))


def test_no_match_is_unmatched():
    """If no matcher is true, the message is unmatched, without candidates."""
    found = Router(routes(Topic("a"), Topic("b"))).find(RawMessage(b"", topic="c"))
    assert (Reason.unmatched, (), None) == (found.reason, found.candidates, found.exception)


def test_no_routes_match_nothing():
    """Without routes, every message is unmatched."""
    assert Reason.unmatched is Router([]).find(RawMessage(b"")).reason
    assert Router([]).matching(RawMessage(b"")) == []


def test_several_matches_are_ambiguous():
    """If several matchers are true, the message is ambiguous, and the candidates are all their handlers in order."""
    found = Router(routes(Everything(), Topic("z"), lambda message: True, Topic("a"))).find(RawMessage(b"", topic="a"))
    assert (Reason.ambiguous, ("0", "2", "3")) == (found.reason, found.candidates)


def test_unknown_matchers_make_a_message_unreadable():
    """If no matcher is true and some are unknown, the message is unreadable, with the unknown ones as candidates."""
    found = Router(routes(Field("a", 1), Header("h", "2"), Field("b", 1))).find(UNREADABLE)
    assert (Reason.unreadable, ("0", "2")) == (found.reason, found.candidates)


def test_one_true_matcher_outweighs_unknown_ones():
    """A handler that tests headers only gets its message even if the body cannot be decoded."""
    table = routes(Field("a", 1), Header("h", "1"), Field("b", 1))
    assert table[1] is Router(table).find(UNREADABLE)
    assert [table[1]] == Router(table).matching(UNREADABLE)


def test_two_true_matchers_are_ambiguous_despite_unknown_ones():
    """Two true matchers make a message ambiguous even if other matchers are unknown."""
    found = Router(routes(Header("h", "1"), Field("a", 1), Header("h", Present()))).find(UNREADABLE)
    assert (Reason.ambiguous, ("0", "2")) == (found.reason, found.candidates)


def test_undecodable_body_can_be_unmatched():
    """If every matcher is false without the body, a message with an undecodable body is unmatched."""
    assert Reason.unmatched is Router(routes(Header("h", "2") & Field("a", 1))).find(UNREADABLE).reason


def test_a_callable_that_needs_an_undecodable_body_is_unknown():
    """A DecodingError in a callable makes the matcher unknown; it is not a failure of the matcher."""
    found = Router(routes(lambda message: message.get_json()["a"] == 1)).find(UNREADABLE)
    assert (Reason.unreadable, ("0",), None) == (found.reason, found.candidates, found.exception)


@pytest.mark.parametrize("before", [[], [Everything()], [Topic("z")], [Field("a", 1)]])
def test_matcher_that_raises_is_matcher_failed(before):
    """A callable that raises leads to matcher_failed, which names handler and matcher, despite other true matchers."""
    found = Router(routes(*before, raising, Everything())).find(UNREADABLE)
    name = str(len(before))
    assert (Reason.matcher_failed, (name,)) == (found.reason, found.candidates)
    assert isinstance(found.exception, MatcherFailed)
    assert f"the matcher of {name}, <{__name__}:raising line " in str(found.exception)
    assert "raised KeyError" in str(found.exception)


def test_matcher_failed_contains_no_content():
    """Neither the text nor the chain of MatcherFailed contains the text of the matcher's exception."""
    table = routes(raising)
    error = Router(table).find(RawMessage(b"")).exception
    with pytest.raises(MatcherFailed) as caught:
        Router(table).matching(RawMessage(b""))
    for one in (error, caught.value):
        assert CANARY not in "".join(traceback.format_exception(one))
        assert (one.__cause__, one.__context__) == (None, None)


def test_keyboard_interrupt_in_a_matcher_propagates():
    """A BaseException, such as Ctrl-C, propagates; it is not a failure of the matcher."""

    def interrupted(message):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Router(routes(interrupted)).find(RawMessage(b""))


def test_truth_of_a_matcher_gives_a_hint():
    """`lambda m: m.topic == "a" and Field(…)` uses the truth of a matcher; the error shows the correct form."""
    table = routes(lambda message: bool(message.topic == "a" and Field("a", 1)))
    found = Router(table).find(JSONMessage(b"", topic="a"))
    assert Reason.matcher_failed is found.reason
    assert "write (lambda m: …) & Field(…)" in str(found.exception)


def test_operator_precedence_gives_a_hint():
    """`lambda m: m.key == 1 & Field(…)` is the usual cause of matcher_failed; the error explains the precedence."""
    found = Router(routes(lambda message: message.key == 1 & Field("a", 1))).find(JSONMessage(b"{}"))
    assert Reason.matcher_failed is found.reason
    assert "write (lambda m: …) & Field(…)" in str(found.exception)


def test_matching_is_in_order_of_registration():
    """`matching` returns all routes that match, in order of registration."""
    table = routes(Topic("a"), Everything(), Topic("b"), ~Topic("b"))
    assert [table[0], table[1], table[3]] == Router(table).matching(RawMessage(b"", topic="a"))


def test_body_is_decoded_once_for_all_matchers():
    """Routing decodes the body once, however many fields the matchers test."""
    calls = []

    class Counting(JSONMessage):
        def decode(self):
            calls.append(1)
            return super().decode()

    Router(routes(*(Field("n", n) for n in range(10)))).find(Counting(b'{"n": 3}'))
    assert calls == [1]


@pytest.mark.parametrize("reason", [Reason.unmatched, Reason.ambiguous, Reason.unreadable])
def test_misrouted_messages_are_decided_as_dead_letters(reason):
    """A message without a single handler is dead-lettered with its reason and candidates."""
    decision = decide_misrouted(Misrouted(reason, ("a", "b")))
    assert (Outcome.dead_lettered, reason, ("a", "b"), None) == (
        decision.outcome,
        decision.reason,
        decision.candidates,
        decision.failure,
    )


callables = st.sampled_from(
    [
        lambda message: True,
        lambda message: len(message.raw_data) > 4,
        lambda message: message.content == {},
        lambda message: message.topic,
    ]
)


@given(st.lists(strategies.matchers | callables, max_size=6), strategies.messages())
@strategies.examples(45)
def test_router_agrees_with_the_matchers(matchers, message):
    """`find` and `matching` return the same result as evaluating the matchers one by one, in order."""
    table = routes(*matchers)
    verdicts = [route.matcher.evaluate(message) for route in table]
    true = [route for route, verdict in zip(table, verdicts, strict=True) if verdict is True]
    unknown = tuple(route.name for route, verdict in zip(table, verdicts, strict=True) if verdict is None)
    found = Router(table).find(message)
    assert true == Router(table).matching(message)
    if len(true) == 1:
        assert true[0] is found
    elif true:
        assert (Reason.ambiguous, tuple(route.name for route in true)) == (found.reason, found.candidates)
    elif unknown:
        assert (Reason.unreadable, unknown) == (found.reason, found.candidates)
    else:
        assert (Reason.unmatched, ()) == (found.reason, found.candidates)


@given(st.lists(strategies.matchers, max_size=4), strategies.messages())
@strategies.examples(20)
def test_order_of_routes_does_not_matter(matchers, message):
    """The reversed routes give the same route, or the same reason."""
    table = routes(*matchers)
    found, reverse = Router(table).find(message), Router(table[::-1]).find(message)
    if isinstance(found, Route):
        assert found is reverse
    else:
        assert found.reason is reverse.reason


@given(strategies.matchers, strategies.messages())
@strategies.examples(20)
def test_matcher_and_complement_divide_all_messages(matcher, message):
    """Either a matcher or its complement matches a message, unless the body cannot be decoded."""
    found = Router(routes(matcher, ~matcher)).find(message)
    if isinstance(found, Misrouted):
        assert (Reason.unreadable, ("0", "1")) == (found.reason, found.candidates)
        with pytest.raises(DecodingError):
            message.get_json()
