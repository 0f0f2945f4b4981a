"""What unusual matchers, tests of one's own, hostile messages and interruptions lead to: the right answer, bounded."""

from __future__ import annotations

import json
import re
import tracemalloc
import warnings
from decimal import Decimal

import pytest

import missive
from missive import JSONMessage, Processor, RawMessage, RegistrationError, StructuredMessage
from missive.engine.completion import dead_letters as filing
from missive.matchers import (
    Absent,
    And,
    AnythingBut,
    Body,
    Cidr,
    Equals,
    EventField,
    Every,
    Field,
    Header,
    IsInstance,
    Key,
    MqttFilter,
    NatsPattern,
    NoneOf,
    OneOf,
    Predicate,
    Prefix,
    Range,
    Some,
    Substring,
    Suffix,
    Test,
    Topic,
)
from missive.matchers.topics import TopicPattern
from missive.routing import overlaps
from missive.routing.index import Index
from missive.routing.places import PlaceIndex
from missive.routing.witness import expression_of

MANY_EVENTS = [EventField(f"p{n}", 1) for n in range(70)]
WIDE = And(*(Field(f"f{n}", Prefix("a")) | Field(f"g{n}", Suffix("b")) for n in range(8)))


class Given(StructuredMessage):
    """A message whose content is what it was made to hold."""

    def decode(self):
        """Refuse: what is tested is given to `holding`."""
        raise NotImplementedError


class Optional(Test):
    """A test of one's own that is true of nothing as well."""

    __slots__ = ("inner",)
    on_missing = True

    def __init__(self, inner):
        self._freeze(inner, inner=inner)

    def __call__(self, value):
        """Ask the inner one."""
        return self.inner(value)

    @property
    def expectation(self):
        """Either."""
        return f"nothing, or {self.inner.expectation}"

    def __repr__(self):
        return f"Optional({self.inner!r})"


class OptionalRange(Range):
    """A range that is true of nothing as well."""

    on_missing = True


class OptionalCidr(Cidr):
    """A network that is true of nothing as well."""

    on_missing = True


class AnyCase(NatsPattern):
    """A pattern of which case is no matter."""

    def __call__(self, value):
        """Match in lower case."""
        return isinstance(value, str) and super().__call__(value.lower())


class SomeOrOne(Some):
    """A list with an element, or the element."""

    def __call__(self, value):
        """Ask about one as well."""
        return self.test(value) or super().__call__(value)


class PartWords(TopicPattern):
    """A dialect of one's own."""

    separator, single, multi = ".", "*", "**"

    def _check(self, pattern, tokens):
        """Let everything be."""

    def __call__(self, value):
        """Match a part of a word."""
        return isinstance(value, str) and value.startswith(self.pattern.rstrip("*"))


def nothing(message, context):
    """Handle a message by doing nothing."""


def processor(*matchers, message_cls=JSONMessage, **settings):
    """Return a processor with a handler for each matcher."""
    proc = Processor(message_cls, **{"name": "app", "on_overlap": "ignore", **settings})
    for number, matcher in enumerate(matchers):
        proc.add_handler(matcher, nothing, name=f"h{number}")
    return proc


def routed(matchers, message):
    """Return the numbers of those that match, which an index and a linear scan agree on."""
    by_index = [n for n in Index(matchers).candidates(message) if matchers[n](message)]
    assert by_index == [n for n, matcher in enumerate(matchers) if matcher(message)]
    return by_index


@pytest.mark.parametrize("others", [[], MANY_EVENTS], ids=["few places", "many places"])
def test_events_are_looked_up_like_they_are_asked(others):
    """Names with dots, paths with dots and tuples lead to the same handlers, however many places there are."""
    matchers = [*others, EventField(("a", "b"), 1), EventField("a.b", 1), EventField(("a", "b", "c"), 1)]
    first = len(others)
    assert routed(matchers, JSONMessage.of({"a": {"b": 1}})) == [first]
    assert routed(matchers, JSONMessage.of({"a.b": 1})) == [first, first + 1]
    assert routed(matchers, Given.holding({"a": ({"b": (2, 1)},)})) == [first]
    assert routed(matchers, JSONMessage.of({"a": [[{"b": [{"c": 1}]}]]})) == [first + 2]
    assert routed(matchers, JSONMessage.of({"a": {"b.c": 1}})) == [first + 2]
    assert routed(matchers, JSONMessage.of([{"a.b": 1}])) == []


def test_an_event_is_walked_once_for_each_way():
    """A graph that has two ways to everything, and one that leads into itself, are walked through in the end."""
    shared = {"a": 1}
    for _ in range(200):
        shared = {"a": shared, "b": shared}
    circle = {"a": 1}
    circle["b"] = circle
    matchers = [*MANY_EVENTS, EventField(("a",) * 3, 1), EventField(("b", "b", "a"), 1)]
    assert routed(matchers, Given.holding({"d": shared})) == []
    assert routed(matchers, Given.holding(circle)) == [71]


def test_a_deep_event_costs_what_it_weighs():
    """Long names on the way to many leaves are not written out for each of them."""
    content = {f"p{n}": n for n in range(5000)}
    for _ in range(150):
        content = {"k" * 1000: content}
    message = JSONMessage.of({"d": content})
    matchers = [EventField(("d", f"p{n}"), 1) for n in range(70)]
    index = Index(matchers)
    assert message.content is not None
    tracemalloc.start()
    assert index.candidates(message) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_an_array_repeats_no_candidate():
    """However many elements could pass, each item is found once."""
    among = PlaceIndex()
    for item, test in enumerate([AnythingBut("x"), Range(ge=0), Prefix("a"), Equals(1)]):
        among.add(test, item)
    among.seal()
    found = []
    among.find_among([1, 2, "ab", [], 1] * 1000, found)
    assert sorted(found) == [0, 1, 2, 3]
    lists = PlaceIndex()
    lists.add(Some("a"), 7)
    lists.seal()
    found = []
    lists.find(["a", {}, "a", "b"] * 1000, found)
    assert found == [7]


@pytest.mark.parametrize(
    ("matcher", "message"),
    [
        (Field("x", OptionalRange(gt=3)), {}),
        (Field("x", OptionalCidr("10.0.0.0/8")), {}),
        (Field("x", AnyCase("orders.*")), {"x": "ORDERS.x"}),
        (Field("x", PartWords("orders.eu*")), {"x": "orders.europe"}),
        (Field("x", SomeOrOne("a")), {"x": "a"}),
        (Field("x", Optional(Equals(1))), {}),
        (EventField("x", Optional(Equals(1))), {}),
    ],
    ids=repr,
)
def test_a_test_of_ones_own_is_asked(matcher, message):
    """A test that is derived from another is not looked up as if it were that one."""
    assert routed([matcher], JSONMessage.of(message)) == [0]


@pytest.mark.parametrize(
    ("matchers", "message", "chosen"),
    [
        ([Field("a", 1) & Field(("a", "b"), Optional(Equals(2)))], {"a": 1}, "h0"),
        ([EventField("a", Absent()) & EventField("a", Optional(Equals(2)))], {}, "h0"),
        ([Field("x", Optional(Range(gt=3))), Field("x", AnythingBut("a"))], {}, "h0"),
        ([EventField("x", Optional(Range(gt=3))), EventField("x", AnythingBut("a"))], {}, "h0"),
        ([Field("x", Optional(Range(gt=3))), Field("x", AnythingBut(AnythingBut(Optional(Prefix("a")))))], {}, "h0"),
        ([~Field("x", AnythingBut(AnythingBut(Optional(Equals(1)))))], {}, "h0"),
        ([Field("x", Optional(Equals(1))) & ~Field("x", NoneOf(AnythingBut(Optional(Equals(1)))))], {}, "h0"),
    ],
    ids=["below", "event", "contained", "contained event", "two apart", "doubled", "doubled by another"],
)
def test_nothing_is_proved_of_what_may_be_missing(matchers, message, chosen):
    """A test that is true of a missing value is not taken to need one."""
    proc = processor(*matchers)
    assert proc.explain(JSONMessage.of(message)).handler == chosen


def test_a_literal_equals_what_is_in_json():
    """A `Decimal`, or a `bytearray`, that a decoder may return equals no literal, and nothing else is proved."""
    money = Given.holding({"total": Decimal("2.5"), "name": bytearray(b"x")})
    for test in (Equals(2.5), OneOf(2.5, 3), Range(gt=1)):
        assert not Field("total", test)(money)
    assert not Field("name", OneOf(b"x", b"y"))(money)
    assert routed([Body(b"ping")], RawMessage(bytearray(b"ping"))) == []
    assert routed([Body(b"ping")], RawMessage(memoryview(bytearray(b"ping")))) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Field("x", 10**4001),
        lambda: OneOf(1, -(10**5000)),
        lambda: Range(gt=10**5000),
        lambda: missive.matchers.from_eventbridge({"a": [10**5000]}),
    ],
    ids=["Equals", "OneOf", "Range", "event pattern"],
)
def test_an_integer_that_cannot_be_written(make):
    """An integer whose repr Python refuses is refused."""
    with pytest.raises(RegistrationError, match=r"integers of at most 4,000 digits"):
        make()
    assert eval(repr(Field("x", 10**3999))) == Field("x", 10**3999)


@pytest.mark.parametrize("wrap", [Some, Every, AnythingBut, NoneOf])
def test_tests_are_nested_a_hundred_deep(wrap):
    """Tests in tests are refused beyond a hundred, before Python's own limit is near."""
    test = Equals(1)
    for _ in range(99):
        test = wrap(test)
    assert Field("x", test).size == 1
    with pytest.raises(RegistrationError, match="nested at most 100 deep"):
        wrap(test)


def test_explain_says_what_routing_does():
    """A matcher that would raise, and is never asked, is no reason in an explanation."""
    failing = Field("a", AnythingBut(Failing())) & Field("type", "x")
    proc = processor(failing, Field("type", "y"))
    message = JSONMessage.of({"type": "y", "a": 1})
    assert proc.explain(message).handler == proc.router().find(message).name == "h1"


class Failing(Test):
    """A test that raises, whatever it is asked about."""

    expectation = "a mistake"

    def __init__(self):
        self._freeze()

    def __call__(self, value):
        """Raise."""
        raise ValueError(value)

    def __repr__(self):
        return "Failing()"


def test_what_a_message_class_raises_is_a_matchers():
    """A class that cannot decode makes the matcher that asked fail, by name."""
    found = processor(Field("a", 1), message_cls=Broken).router().find(Broken(b"{}"))
    assert (found.reason, found.candidates) == ("matcher_failed", ("h0",))


class Broken(StructuredMessage):
    """A class whose content is a mistake."""

    @property
    def content(self):
        """Raise what no body is the reason of."""
        raise RuntimeError("a mistake")

    def decode(self):
        """Never come here."""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Field(("detail", "state"), "x"), Field(("detail", "kind"), "y")),
        (EventField(("detail", "state"), "x"), EventField(("detail", "kind"), "y")),
        (Header("x", Some("a")), Header("y", "b")),
        (Header("x", Every("a")), Header("y", "b")),
        (Field("n", Range(gt=2.0**53)), Field("n", Range(gt=5, lt=2.0**60))),
    ],
    ids=repr,
)
def test_overlaps_that_were_missed(one, other):
    """Fields of one object, repeated headers and large floats: an overlap is seen at registration."""
    proc = processor(one, on_overlap="error")
    with pytest.raises(missive.OverlapWarning):
        proc.add_handler(other, nothing)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Field("a", IsInstance(bool)), Field("a", OneOf(True, False))),
        (Topic(MqttFilter("#")), Topic(MqttFilter("+/#"))),
        (Field("a", NoneOf("x")), Field("a", AnythingBut("x"))),
        (Field("a", AnythingBut(AnythingBut("x"))), Field("a", "x")),
        (Field("a", NoneOf("x", "y")), Field("a", AnythingBut("x")) & Field("a", AnythingBut("y"))),
        (Field("a", Range(ge=1, le=1)), Field("a", 1)),
    ],
    ids=repr,
)
def test_equal_in_other_words(one, other):
    """What means the same is called that, in both orders, and no way out is named that is none."""
    for first, second in ((one, other), (other, one)):
        with pytest.raises(RegistrationError, match="match the same messages"):
            processor(first, second)


def test_none_of_is_as_narrow_as_its_parts():
    """`NoneOf` of a prefix is disjoint of what has it."""
    proc = processor(Field("sku", NoneOf(Prefix("EU-"))), Field("sku", Prefix("EU-1")), on_overlap="error")
    assert len(proc.routes()) == 2


def test_a_matcher_that_is_too_wide_is_warned_of_once():
    """A matcher over the cap is warned of where it is registered; as an error, that leaves nothing behind."""
    part, whole = Processor(JSONMessage, name="part"), Processor(JSONMessage, name="whole")
    whole.include(part)
    with pytest.warns(UserWarning, match=r"the matcher of w has too many alternatives") as told:
        part.add_handler(WIDE, nothing, name="w")
    assert [one.filename for one in told] == [__file__]
    proc = processor()
    for _ in range(2):
        # Warnings are errors in these tests.
        with pytest.raises(UserWarning, match="too many alternatives"):
            proc.add_handler(WIDE, nothing, name="w")
    assert proc.routes() == ()


def test_ctrl_c_while_registering_leaves_nothing_behind(monkeypatch):
    """A registration that is interrupted can be made again."""
    proc, other = processor(Topic("a")), Processor(JSONMessage, name="other")
    other.add_handler(Topic("b"), nothing, name="two")
    add = overlaps.OverlapIndex.add

    def interrupted(*arguments):
        add(*arguments)
        raise KeyboardInterrupt

    for register in (lambda: proc.include(other), lambda: proc.add_handler(Topic("c"), nothing, name="three")):
        with monkeypatch.context() as patched:
            patched.setattr(overlaps.OverlapIndex, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                register()
        register()
    assert [route.name for route in proc.routes()] == ["h0", "two", "three"]


def test_every_overlap_is_an_error_where_warnings_are():
    """The tenth warning is the last, but an error is raised for each handler."""
    proc = processor(Topic("a"), on_overlap="warn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(15):
            with pytest.raises(missive.OverlapWarning):
                proc.add_handler(Key(str(number)), nothing)


def test_a_shared_callable_is_no_reason_to_compare(monkeypatch):
    """Handlers that are told apart by a literal are not compared for a callable that all of them have."""
    compared = []
    monkeypatch.setattr(overlaps, "contained", lambda *pair: compared.append(pair) or False)
    guard = Predicate(lambda message: True)
    processor(*(Field("id", number) & guard for number in range(50)))
    assert compared == []
    processor(guard, Field("id", 1) & guard)
    assert len(compared) == 2


def test_an_error_can_be_read():
    """A matcher of a megabyte is cut where it is quoted."""
    with pytest.raises(RegistrationError) as caught:
        processor(Field("a", Prefix("x" * 1_000_000)), Field("a", "x" * 1_000_000 + "y"))
    assert len(str(caught.value)) < 10_000


def test_a_matcher_cannot_be_made_again():
    """`__init__` of a matcher that is there already changes nothing."""
    matcher = Field("a", 1)
    with pytest.raises(AttributeError, match="frozen"):
        matcher.__init__("b", 2)
    assert matcher == Field("a", 1)


@pytest.mark.parametrize(
    "message",
    [
        JSONMessage.of({}, topic="", headers={"x": "1"}),
        JSONMessage(b'{"a": 1}', key=""),
        Given.holding({"a": [float("inf"), {"b": -float("inf")}]}),
    ],
    ids=["headers", "key", "infinite"],
)
def test_what_is_shown_is_the_message(message):
    """The expression of a witness gives the message itself: empty texts, bodies as they are, infinities."""
    again = eval(expression_of(message), {"JSONMessage": JSONMessage, "Given": Given})
    assert (again.topic, again.key, again.headers.pairs) == (message.topic, message.key, message.headers.pairs)
    assert again.content == message.content
    assert isinstance(message, Given) or again.raw_data == message.raw_data


def test_the_explanation_of_a_dead_letter_is_bounded(monkeypatch):
    """The larger a body, the fewer handlers are asked why they did not want it, and no line is longer than a screen."""
    asked = []
    monkeypatch.setattr(filing, "explain", lambda routes, *rest: asked.append(len(routes)) or explain(routes, *rest))
    explain = missive.routing.explain.explain
    box = {}
    proc = processor(*(EventField("n", OneOf(*range(n, n + 2000))) for n in range(0, 1_000_000, 2000)), dlq=box)
    with proc.test_client() as client:
        client.send(JSONMessage.of({"n": -1}))
        client.send(JSONMessage.of({"n": ["x" * 120_000]}))
    assert asked == [500, 3]
    explanation = proc.explain(JSONMessage.of({"n": -1}))
    assert max(len(line) for one in explanation.considered for line in one.because) < 600
    assert re.match(r"EventField\('n', OneOf\(0, 1, 10, 100", explanation.considered[0].because[0])
    assert len(json.dumps(explanation.to_dict())) < 500_000


def test_a_literal_text_that_is_contained():
    """What a substring says of a list of literals is still seen."""
    with pytest.raises(RegistrationError, match="h0 could never run"):
        processor(Field("a", OneOf("axb", "x")), Field("a", Substring("x")))
