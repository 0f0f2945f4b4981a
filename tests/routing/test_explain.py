"""Explanations: verdicts and failed parts of matchers, without message content."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import missive
from missive import JSONMessage, Processor, RawMessage, Reason
from missive.engine.completion import records
from missive.matchers import (
    Absent,
    AnythingBut,
    Body,
    EventField,
    Everything,
    Field,
    Header,
    IsInstance,
    Key,
    OneOf,
    Or,
    Predicate,
    Prefix,
    Present,
    Range,
    Some,
    Test,
    Topic,
)
from missive.public import Public, shape_of
from missive.routing.explain import explain
from missive.routing.route import Route
from missive.routing.router import Router
from tests.support import strategies
from tests.support.routing import (
    nothing,
    numbered,
)

CANARY = "canary-4711"


def routes(*matchers):
    """Return a route for each matcher, named by its number."""
    return [Route(str(n), matcher, nothing, None) for n, matcher in enumerate(matchers)]


def because(matcher, message, public=()):
    """Return the lines of the explanation of one matcher."""
    return list(explain(routes(matcher), message, frozenset(public)).considered[0].because)


def test_explanation_names_the_only_handler():
    """If one handler matches, the explanation names it and has no reason."""
    explanation = explain(routes(Topic("a"), Topic("b")), RawMessage(b"", topic="b"))
    assert (explanation.handler, explanation.reason) == ("1", None)
    assert [(c.handler, c.verdict) for c in explanation.considered] == [("1", "matches"), ("0", "does not match")]
    assert explanation.considered[0].because == ()


@pytest.mark.parametrize(
    ("matchers", "reason"),
    [
        ([Topic("a")], Reason.unmatched),
        ([Everything(), Key(Absent())], Reason.ambiguous),
        ([Field("a", 1)], Reason.unreadable),
        ([Predicate(lambda message: {}["a"])], Reason.matcher_failed),
    ],
)
def test_explanation_has_the_reason_of_the_router(matchers, reason):
    """If no handler would run, the explanation has the reason of the dead letter."""
    explanation = explain(routes(*matchers), JSONMessage(b"{"))
    assert (None, reason) == (explanation.handler, explanation.reason)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "<null>"),
        ("done", "<str, 4 characters>"),
        ("", "<str, 0 characters>"),
        (b"abc", "<bytes, 3 bytes>"),
        ([1, 2], "<list, 2 items>"),
        (("a", "b"), "<list, 2 items>"),
        ({"a": 1}, "<object, 1 field>"),
        (True, "<bool>"),
        (4711, "<int>"),
        (47.11, "<float>"),
    ],
)
def test_kind_of_a_value_is_its_type_and_size(value, kind):
    """A confidential value is described by its type and size."""
    assert kind == shape_of(value)


def test_near_miss_shows_expectation_and_kind():
    """The line of a near miss has the matcher, the expected value, and the kind of the value in the message."""
    message = JSONMessage.of({"detail": {"state": "stopped"}})
    matcher = Field(("detail", "state"), OneOf("running", "starting"))
    assert because(matcher, message) == [
        f"{matcher!r}: expected one of {{'running', 'starting'}}, got <str, 7 characters>"
    ]


def test_missing_value_is_nothing():
    """A missing value is shown as `nothing`, and so is the expectation of Absent."""
    message = JSONMessage.of({"a": 1})
    assert because(Field("b", Present()), message) == ["Field('b', Present()): expected something, got nothing"]
    assert because(Field("a", Absent()), message) == ["Field('a', Absent()): expected nothing, got <int>"]
    assert because(Topic("t"), message) == ["Topic(Equals('t')): expected 't', got nothing"]


def test_only_failed_parts_are_listed():
    """A conjunction lists its failed parts, a disjunction all parts, and a complement the parts that were true."""
    message = JSONMessage.of({"a": 1, "b": 2}, topic="t")
    assert because(Field("a", 1) & Field("b", 1) & Topic("t"), message) == [
        "Field('b', Equals(1)): expected 1, got <int>"
    ]
    assert len(because(Field("a", 2) | Field("b", 1), message)) == 2
    assert because(~Topic("t"), message) == ["Topic(Equals('t')): expected not 't', got <str, 1 character>"]
    assert because(~(Topic("t") | Field("b", 1)), message) == [
        "Topic(Equals('t')): expected not 't', got <str, 1 character>"
    ]


def test_callable_is_shown_by_name_and_line():
    """A callable that prevented a match is shown by its name, its line and its result."""
    (line,) = because(Predicate(lambda message: False), RawMessage(b""))
    assert line.startswith(f"<{__name__}:test_callable_is_shown_by_name_and_line.<locals>.<lambda> line ")
    assert line.endswith(": returned False")
    (line,) = because(~Predicate(lambda message: True), RawMessage(b""))
    assert line.endswith(": returned True")


def test_undecodable_body_is_reported():
    """If the body cannot be decoded, the verdict and the line of the matcher report it."""
    explanation = explain(routes(Field("a", 1)), JSONMessage(CANARY.encode()))
    assert explanation.considered[0].verdict == "unknown: the body cannot be decoded"
    assert explanation.considered[0].because == (
        "Field('a', Equals(1)): expected 1, got a body that cannot be decoded",
    )


@pytest.mark.parametrize("complement", [False, True])
def test_unknown_callable_has_no_result(complement):
    """A callable that needs an undecodable body is shown without a result."""
    matcher = Predicate(lambda message: message.get_json() == 1)
    (line,) = because(~matcher if complement else matcher, JSONMessage(b"{"))
    assert not line.endswith((": returned True", ": returned False"))


def test_exception_of_a_matcher_is_shown_by_type_only():
    """The exception of a matcher is shown by its type, without its text."""

    def failing(message):
        raise LookupError(message.topic)

    explanation = explain(routes(Predicate(failing), Everything()), RawMessage(b"", topic=CANARY))
    assert {c.handler: c.verdict for c in explanation.considered} == {
        "0": "its matcher raised LookupError",
        "1": "matches",
    }
    assert CANARY not in str(explanation)


def test_nearest_misses_come_first():
    """Matching handlers come first, then the others, sorted by the share of their parts that failed."""
    message = JSONMessage.of({"a": 1, "b": 1, "c": 1})
    far, near, matching = Field("a", 2), Field("a", 1) & Field("b", 1) & Field("c", 2), Field("a", 1)
    nearer_half = Field("a", 1) & Field("b", 2)
    explanation = explain(routes(far, nearer_half, near, matching), message)
    assert [c.handler for c in explanation.considered] == ["3", "2", "1", "0"]


def test_to_dict_is_json():
    """`to_dict` returns plain data: the handler, the reason, and the verdict of each matcher."""
    explanation = explain(routes(Topic("a")), RawMessage(b"", topic="b"))
    expected = {
        "handler": None,
        "reason": "unmatched",
        "considered": [
            {
                "handler": "0",
                "verdict": "does not match",
                "because": ["Topic(Equals('a')): expected 'a', got <str, 1 character>"],
            }
        ],
    }
    assert expected == explanation.to_dict()
    assert expected == json.loads(json.dumps(explanation.to_dict()))


def test_text_of_an_explanation():
    """The text of an explanation has the result, then each handler with its failed parts."""
    assert str(explain(routes(Topic("a")), RawMessage(b""))) == (
        "no handler: unmatched\n  0: does not match\n    Topic(Equals('a')): expected 'a', got nothing"
    )
    assert str(explain(routes(Topic("a")), RawMessage(b"", topic="a"))) == "handled by 0\n  0: matches"


EVERY_SELECTOR = [
    Field("a", "x"),
    Field(("a", "b"), Prefix("x")),
    Field("list", Some("x")),
    Field("list", AnythingBut(IsInstance(list))),
    Field("number", Range(lt=0)),
    Header("h", "x"),
    Header("h", Some(Prefix("x"))),
    Header("twice", Some("x")),
    Header("bytes", b"x"),
    Topic("x"),
    Key("x"),
    Body(b"x"),
    ~Topic(Present()),
    ~Or(Field("a", Present()), Header("h", Present())),
    Predicate(lambda message: message.raw_data == b"x"),
]


@pytest.mark.parametrize("matcher", EVERY_SELECTOR, ids=repr)
@pytest.mark.parametrize("public", [(), [("other",), ("h", "a"), ("topic",), ("key",), ("body",), ("b",)]])
def test_confidential_values_are_not_shown(matcher, public):
    """An explanation contains no value of the message, at any place that a matcher tests."""
    bodies = [
        {"a": CANARY, "list": [CANARY], "number": 4711},
        {"a": {"b": CANARY, CANARY: CANARY}, "list": {CANARY: 1}, "number": CANARY},
    ]
    for body in bodies:
        message = JSONMessage.of(
            body,
            headers=[("h", CANARY), ("twice", CANARY), ("twice", CANARY), ("bytes", CANARY.encode() + b"\xff")],
            topic=CANARY,
            key=CANARY,
            message_id=CANARY,
        )
        explanation = explain(routes(matcher, ~matcher), message, frozenset(public))
        text = str(explanation) + repr(explanation) + json.dumps(explanation.to_dict())
        assert "canary" not in text
        assert "4711" not in text


def test_public_values_are_shown():
    """The value at a public path or header is shown unchanged."""
    message = JSONMessage.of({"a": "seen-1", "n": {"b": 42}}, headers={"X-Tenant": "seen-2"})
    assert because(Field("a", "x"), message, [("a",)]) == ["Field('a', Equals('x')): expected 'x', got 'seen-1'"]
    assert because(Field(("n", "b"), 1), message, [("n", "b")]) == ["Field(('n', 'b'), Equals(1)): expected 1, got 42"]
    assert because(Header("x-tenant", "x"), message, [Public.header("X-TENANT")]) == [
        "Header('x-tenant', Equals('x')): expected 'x', got 'seen-2'"
    ]


def test_processor_explains_with_its_public_values():
    """`Processor.explain` shows the values that the processor declares public, and no others."""
    proc = Processor(JSONMessage, public=["a", ("n", "b")], on_overlap="ignore")
    proc.add_handler(Field("a", "x"), nothing)
    proc.add_handler(Field(("n", "c"), "x"), nothing)
    text = str(proc.explain(JSONMessage.of({"a": "seen-1", "n": {"c": CANARY}})))
    assert "seen-1" in text
    assert CANARY not in text


canaries = st.recursive(
    st.just(CANARY) | st.just(47114711),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strategies.names | st.just(CANARY), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(strategies.matchers, max_size=2), st.dictionaries(strategies.names, canaries), st.booleans())
@strategies.examples(35)
def test_no_matcher_reveals_content(matchers, body, readable):
    """With generated matchers, an explanation without public places contains no value of the message."""
    raw = json.dumps(body).encode() if readable else CANARY.encode()
    message = JSONMessage(raw, headers=[("x", CANARY), ("y", CANARY), ("Y", "47114711")], topic=CANARY, key=CANARY)
    text = str(explain(routes(*matchers), message))
    assert "canary" not in text
    assert "4711" not in text


@given(st.lists(strategies.matchers, max_size=3), strategies.messages())
@strategies.examples(30)
def test_explanation_agrees_with_the_router(matchers, message):
    """Handler, reason and verdicts agree with the router, and each handler that does not match has a failed part."""
    table = routes(*matchers)
    explanation, found = explain(table, message), Router(table).find(message)
    assert (found.name if isinstance(found, Route) else None) == explanation.handler
    assert (None if isinstance(found, Route) else found.reason) == explanation.reason
    verdicts = {True: "matches", False: "does not match", None: "unknown: the body cannot be decoded"}
    assert sorted(c.handler for c in explanation.considered) == sorted(route.name for route in table)
    for considered in explanation.considered:
        verdict = table[int(considered.handler)].matcher.evaluate(message)
        assert verdicts[verdict] == considered.verdict
        assert (verdict is True) is (considered.because == ())


class Failing(Test):
    """A test that raises for every value."""

    expectation = "a mistake"

    def __init__(self):
        self._freeze()

    def __call__(self, value):
        """Raise an exception."""
        raise ValueError(value)

    def __repr__(self):
        return "Failing()"


def test_matcher_that_is_not_evaluated_changes_no_result():
    """A matcher that would raise, but is not evaluated for the message, does not change the explained handler."""
    failing = Field("a", AnythingBut(Failing())) & Field("type", "x")
    proc = numbered(failing, Field("type", "y"))
    message = JSONMessage.of({"type": "y", "a": 1})
    assert proc.explain(message).handler == proc.router().find(message).name == "h1"


def test_explanation_of_a_dead_letter_is_bounded(monkeypatch):
    """A dead letter explains fewer handlers for a larger body, and every line has a bounded length."""
    explained = []
    monkeypatch.setattr(
        records, "explain", lambda routes, *rest: explained.append(len(routes)) or explain(routes, *rest)
    )
    explain = missive.routing.explain.explain
    box = {}
    proc = numbered(*(EventField("n", OneOf(*range(n, n + 2000))) for n in range(0, 1_000_000, 2000)), dlq=box)
    with proc.test_client() as client:
        client.send(JSONMessage.of({"n": -1}))
        client.send(JSONMessage.of({"n": ["x" * 120_000]}))
    assert explained == [500, 3]
    explanation = proc.explain(JSONMessage.of({"n": -1}))
    assert max(len(line) for one in explanation.considered for line in one.because) < 600
    assert re.match(r"EventField\('n', OneOf\(0, 1, 10, 100", explanation.considered[0].because[0])
    assert len(json.dumps(explanation.to_dict())) < 500_000
