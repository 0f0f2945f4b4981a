"""Overlaps: refused, overlapping and accepted pairs of matchers, and the number of comparisons."""

from __future__ import annotations

import json
import re

import pytest

import missive
from missive import JSONMessage, Message, OverlapWarning, Processor, RawMessage, RegistrationError, StructuredMessage
from missive.matchers import (
    Absent,
    AmqpPattern,
    AnythingBut,
    Body,
    Cidr,
    EventField,
    Every,
    Everything,
    Field,
    Header,
    IsInstance,
    Key,
    MqttFilter,
    NatsPattern,
    NoneOf,
    Not,
    OneOf,
    Predicate,
    Prefix,
    Present,
    Range,
    Regex,
    Some,
    Substring,
    Suffix,
    Test,
    Topic,
    Wildcard,
)
from missive.routing import overlaps
from tests.support.routing import (
    LARGE,
    NAMES,
    PLACED,
    SWEDISH,
    nothing,
    numbered,
    opaque,
    predicate,
    processor,
    recorded_warnings,
    refusal,
    witness_in,
)
from tests.support.strategies import promptly


@pytest.mark.parametrize(
    "matcher",
    [
        PLACED & Field("type", "paid"),
        LARGE & Field("total", Range(lt=5)),
        Field("n", Range(gt=1)) & ~Field("n", Range(gt=0)),
        Field("a", Absent()) & Field("a", 1),
        Field("a", Prefix("x")) & Field("a", OneOf("yx", "zx")),
        Field("a", Prefix("x")) & Field("a", Prefix("y", ignore_case=True)),
        Field("a", Suffix("x")) & Field("a", Wildcard("*y")),
        Field("a", IsInstance(str)) & Field("a", Range(gt=0)),
        Field("a", True) & Field("a", Range(ge=0)),
        Field("a", 1) & Field(("a", "b"), 1),
        Field("a", Some(1)) & Field("a", Every(2)),
        Field("ip", Cidr("10.0.0.0/8")) & Field("ip", Cidr("11.0.0.0/8")),
        Topic(NatsPattern("a.*")) & Topic(NatsPattern("b.>")),
        Topic(MqttFilter("#")) & Topic("$SYS/a"),
        Topic(AmqpPattern("#.a")) & Topic(AmqpPattern("#.b")),
        Topic(IsInstance(int)),
        Header("x", IsInstance(dict)),
        Body(Absent()),
        PLACED & ~PLACED,
        (PLACED | SWEDISH) & ~PLACED & ~SWEDISH,
        PLACED & opaque & Not(opaque),
        ~Everything(),
    ],
    ids=repr,
)
def test_unsatisfiable_matchers_are_refused(matcher):
    """A matcher that no message can match is refused. The error names the matcher and its handler."""
    proc = processor(LARGE, on_overlap="ignore")
    start = f"no message could ever match {matcher!r}, the matcher of new: "
    if isinstance(matcher, (Topic, Header, Body)):
        reason = rf"{re.escape(repr(matcher))} is false of every value that a \w+ can (be|have): .*\. Change its test"
    else:
        reason = r"its conditions exclude each other\. Remove one of them"
    assert re.fullmatch(re.escape(start) + reason, refusal(proc, matcher))
    assert len(proc.routes()) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Field("a", OneOf(1, 2)), Field("a", 2) | Field("a", 1.0)),
        (Field("a", Wildcard("x*")), Field("a", Prefix("x"))),
        (Field("a", Wildcard(r"x\*")), Field("a", "x*")),
        (Field("a", Range(ge=0)) & Field("a", Range(lt=5)), Field("a", Range(ge=0, lt=5))),
        (Field("a", Range(ge=1)) & Field("a", Range(le=1)), Field("a", Range(ge=1, le=1))),
        (Field("a", Present()), ~Field("a", Absent())),
        (Field("a", AnythingBut(1)), Field("a", Present()) & ~Field("a", 1)),
        (PLACED & Field("a", IsInstance(bool)), PLACED & Field("a", OneOf(True, False))),
        (Header("X-A", "1"), Header("x-a", "1")),
        (Topic(AmqpPattern("*.#")), Topic(AmqpPattern("#.*"))),
        (Topic(NatsPattern("a.b")), Topic("a.b")),
        (~(PLACED & SWEDISH), ~PLACED | ~SWEDISH),
        (Not(Not(PLACED)), PLACED),
        (PLACED & (SWEDISH | LARGE), (PLACED & SWEDISH) | (PLACED & LARGE)),
        (PLACED & (PLACED | SWEDISH), PLACED),
        (Everything() & PLACED, PLACED),
        (PLACED & opaque, opaque & PLACED & PLACED),
        (PLACED & (SWEDISH | opaque), (SWEDISH & PLACED) | (opaque & PLACED)),
    ],
    ids=repr,
)
def test_equivalent_matchers_are_refused(one, other):
    """Two matchers of the same messages are refused, however they are written and in both orders."""
    for first, second in ((one, other), (other, one)):
        proc = processor(first, on_overlap="ignore")
        error = refusal(proc, second)
        assert re.match("a and new (match the same messages|have the same matcher), ", error)
        assert error.endswith(": neither would ever be chosen. Remove one of the handlers, or change its matcher")
        assert [first] == [route.matcher for route in proc.routes()]


CONTAINED = [
    (PLACED, Everything()),
    (PLACED & LARGE, PLACED),
    (PLACED, PLACED | SWEDISH),
    (PLACED, Field("type", OneOf("placed", "paid"))),
    (PLACED, Field("type", Prefix("pla"))),
    (PLACED, Field("type", AnythingBut("paid"))),
    (PLACED, ~Field("type", "paid")),
    (PLACED, Field("type", Regex("p.*"))),
    (Field("a", Absent()), ~Field("a", 1)),
    (Field("n", Range(gt=1, lt=2)), Field("n", Range(ge=1))),
    (Field("n", Range(gt=1)), ~Field("n", Range(lt=0))),
    (Field("a", Wildcard("a*b*c")), Field("a", Wildcard("a*c"))),
    (Field("a", Prefix("Ab")), Field("a", Prefix("aB", ignore_case=True))),
    (Field("a", Some("x")), Field("a", Some(Prefix("x")))),
    (Field(("a", "b"), 1), Field("a", IsInstance(dict))),
    (Header("x", Cidr("10.1.0.0/16")), Header("X", Cidr("10.0.0.0/8"))),
    (Topic(NatsPattern("a.*.c")), Topic(NatsPattern("a.>"))),
    (Topic(MqttFilter("a/+")), Topic(MqttFilter("a/#"))),
    (Topic(AmqpPattern("a.#.b.#")), Topic(AmqpPattern("a.#"))),
    (PLACED & opaque, PLACED),
    (PLACED & opaque, opaque),
]


@pytest.mark.parametrize(("inner", "outer"), CONTAINED, ids=repr)
@pytest.mark.parametrize("outer_first", [False, True], ids=["inner first", "outer first"])
def test_contained_matchers_are_refused_with_a_suggestion(inner, outer, outer_first):
    """Contained matchers are refused in both orders, and the matcher suggested for the wider handler is accepted."""
    names = {"a": outer, "new": inner} if outer_first else {"a": inner, "new": outer}
    wide, narrow = ("a", "new") if outer_first else ("new", "a")
    proc = processor(names["a"], on_overlap="ignore")
    error = refusal(proc, names["new"])
    assert error.startswith(
        f"{narrow} could never run: every message that matches {inner!r} also matches {outer!r} of {wide}."
    )
    assert len(proc.routes()) == 1

    suggested = re.search(rf"To leave these messages to {narrow}, register {wide} for (.+)$", error)[1]
    if not inner.opaque:  # the repr of a callable is not an expression
        assert outer & ~inner == eval(suggested, dict(NAMES))
    apart = {wide: outer & ~inner, narrow: inner}
    proc = processor(on_overlap="error")
    for name in names:
        proc.handle_for(apart[name], name=name)(nothing)
    assert proc.check().overlap_count == 0


@pytest.mark.parametrize(
    "matchers",
    [
        (PLACED & LARGE, PLACED & ~LARGE, ~PLACED),
        (Field("a", 1), Field("a", True), Field("a", "1"), Field("a", None), Field("a", Absent())),
        (Field("n", Range(lt=1)), Field("n", Range(ge=1, le=2)), Field("n", Range(gt=2))),
        (Field("a", Prefix("x.")), Field("a", Prefix("y.")), Field("a", Range(gt=0))),
        (Header("ip", Cidr("10.0.0.0/9")), Header("ip", Cidr("10.128.0.0/9")), Header("ip", Cidr("::/0"))),
        (Topic(NatsPattern("a.*")), Topic(NatsPattern("a.*.*")), Topic(NatsPattern("b.>"))),
        (Topic(MqttFilter("#")), Topic(MqttFilter("$SYS/#")), Topic(Absent())),
        (Field("a", Every(1)), Field("a", Some("x"))),
        (PLACED & opaque, PLACED & Not(opaque), ~PLACED & opaque),
    ],
    ids=range(9),
)
def test_disjoint_matchers_are_accepted(matchers):
    """Handlers that share no message are registered without a warning, in both orders."""
    for ordered in (matchers, matchers[::-1]):
        with recorded_warnings() as recorded:
            assert len(processor(*ordered, on_overlap="error").routes()) == len(matchers)
            processor(*ordered, on_overlap="warn")
        assert recorded == []


OVERLAPPING = [
    (PLACED & LARGE, PLACED & SWEDISH, JSONMessage),
    (Field("n", Range(ge=1, le=3)), Field("n", Range(ge=3)), JSONMessage),
    (Field("a", Prefix("x")), Field("a", Suffix("y")), JSONMessage),
    (Field("a", OneOf(1, 2)), Field("a", OneOf(2.0, 3)), JSONMessage),
    (Field("a", Some("x")), Field("a", Some("y")), JSONMessage),
    (~Field("a", 1), ~Field("a", 2), JSONMessage),
    (Field(("a", "b"), 1), Field("a", IsInstance(dict)) & Field("c", Present()), JSONMessage),
    (Field("a", Absent()), Field("b", Absent()), JSONMessage),
    (Header("x", Some("1")) & Header("x", Some("2")), Header("y", b"\xff"), JSONMessage),
    (Topic(NatsPattern("*.b")), Topic(NatsPattern("a.>")), RawMessage),
    (Topic(MqttFilter("+/b/#")), Topic(MqttFilter("a/+")), RawMessage),
    (Topic(AmqpPattern("#.b")), Topic(AmqpPattern("a.#")), Message),
    (Body(Present()) & Key(b"k"), Key(IsInstance(bytes)) & Topic("t"), RawMessage),
]


@pytest.mark.parametrize(("one", "other", "cls"), OVERLAPPING, ids=repr)
def test_overlap_warning_shows_a_message_that_matches_both(one, other, cls):
    """By default an overlap issues a warning that names both handlers and shows a message that matches both."""
    for first, second in ((one, other), (other, one)):
        proc = Processor(cls)
        with recorded_warnings() as recorded:
            proc.handle_for(first, name="a")(nothing)
            proc.handle_for(second, name="b")(lambda message, context: None)
        (warning,) = recorded
        assert OverlapWarning is warning.category
        assert str(warning.message).startswith("a and b overlap: ")
        message = witness_in(str(warning.message))
        assert cls is type(message)
        assert len(proc.route(message)) == 2


@pytest.mark.parametrize("on_overlap", ["warn", "error", "ignore"])
def test_unproved_conflicts_are_accepted(on_overlap):
    """Handlers with callables are registered without an error or a warning, because nothing is proved."""
    with recorded_warnings() as recorded:
        proc = processor(PLACED, opaque, Not(opaque), PLACED & SWEDISH | LARGE & opaque, on_overlap=on_overlap)
    assert (recorded, len(proc.routes())) == ([], 4)


# Message classes and tests of users


class Decoded(StructuredMessage):
    """A message with its own decoder."""

    def decode(self):
        return json.loads(self.raw_data)


class Enveloped(JSONMessage):
    """A JSON message whose content is inside an envelope."""

    def decode(self):
        return super().decode()["payload"]


class Failing(StructuredMessage):
    """A message whose decoder always fails."""

    def decode(self):
        raise LookupError


class Made(JSONMessage):
    """A message with its own constructor."""

    def __init__(self, raw_data, tenant, **envelope):
        super().__init__(raw_data, **envelope)


@pytest.mark.parametrize("cls", [Decoded, Failing])
def test_witness_has_the_class_of_the_processor(cls):
    """An overlap is shown as a message of the processor's class, even with a decoder of its own."""
    with pytest.raises(OverlapWarning, match=rf"overlap: {cls.__name__}\.holding\(\{{'a': 1, 'b': b'x'\}}\) matches"):
        processor(Field("a", 1), Field("b", b"x"), message_cls=cls)


@pytest.mark.parametrize("cls", [Enveloped, Made])
def test_handlers_without_a_witness_are_accepted(cls):
    """If Missive cannot build an example message, the handlers are accepted, and a check lists them as unknown."""
    proc = processor(Field("a", 1), Field("b", 2), message_cls=cls)
    assert proc.check().unknown == (("a", "b"),)
    assert refusal(proc, Field("a", 1) & Field("c", 1)).startswith("new could never run")


class Odd(Test):
    """A user's test."""

    __slots__ = ("raises",)
    expectation = "an odd number"

    def __init__(self, *, raises=False):
        self._freeze(raises, raises=raises)

    def __call__(self, value):
        if self.raises:
            raise ArithmeticError
        return isinstance(value, (int, float)) and value % 2 == 1

    def __repr__(self):
        return "Odd()"


def test_user_test_is_compared_with_literals():
    """A user's test is compared with literals. A test that raises proves nothing."""
    proc = processor(Field("n", Odd()), Field("n", OneOf(2, 4)))
    assert refusal(proc, Field("n", 3)).startswith("new could never run")
    with pytest.raises(OverlapWarning, match=r"'n': 5"):
        proc.handle_for(Field("n", OneOf(5, 6)))(nothing)
    assert len(processor(Field("n", Odd(raises=True)), Field("n", 3), ~Field("n", Range(gt=0))).routes()) == 3


# Numbers of comparisons


@pytest.fixture
def comparisons(monkeypatch):
    """Count the comparisons of two matchers."""
    counts = {"contained": 0, "relation": 0}

    def counting(name):
        original = getattr(overlaps, name)

        def counted(*arguments):
            counts[name] += 1
            return original(*arguments)

        return counted

    for name in counts:
        monkeypatch.setattr(overlaps, name, counting(name))
    return counts


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Field("id", n),
        lambda n: Field("id", OneOf(2 * n, 2 * n + 1)),
        lambda n: PLACED & Field("id", f"{n}"),
        lambda n: Field("id", n) & Field("total", Range(gt=3)) & ~SWEDISH,
        lambda n: Field("id", Range(ge=n, lt=n + 1)),
        lambda n: PLACED & Field("id", Prefix(f"{n:05}.")),
        lambda n: Field("id", Suffix(f".{n:05}", ignore_case=True)),
        lambda n: Field("id", Wildcard(f"{n:05}*x")),
        lambda n: Header("ip", Cidr(f"10.{n // 256}.{n % 256}.0/24")),
        lambda n: Field(f"place {n}", n) & Field("id", n),
        lambda n: Field("id", n) & Field("tags", Some("x")) | Field("id", -1 - n),
    ],
    ids=range(11),
)
def test_handlers_that_differ_at_one_place_are_rarely_compared(comparisons, make):
    """A thousand handlers with different literals, ranges, texts or networks take far fewer than 1,000² comparisons."""
    proc = Processor(JSONMessage, on_overlap="error")
    for n in range(1000):
        proc.add_handler(make(n), nothing, name=f"{n}")
    assert sum(comparisons.values()) < 50_000  # of a million


def nested(n):
    """Return one of many ranges that overlap with the following ones."""
    return Field("id", Range(ge=n, lt=n + 1000))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Field("id", AnythingBut(n)),
        lambda n: ~Field("id", n),
        lambda n: Field("id", Wildcard(f"*<{n}>*b*")),
        lambda n: Field("id", Substring(f"<{n}>")),
        lambda n: Field("id", Regex(f".*a{n}b.*")),
        lambda n: Field("id", Some(f"{n}")),
        nested,
        lambda n: Topic(AmqpPattern(f"#.{n}.#")),
        lambda n: Topic(MqttFilter(f"+/{n}/#")) | Header("n", f"{n}"),
        lambda n: Field((f"f{n}", "a"), Present()) & ~Field(f"g{n}", 1),
        lambda n: ~Field("id", n) & predicate(n),
        lambda n: Field("id", Regex(f".*a{n}b.*")) | Field("id", Every(n)) & ~Field(f"g{n}", Odd()),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("on_overlap", ["warn", "ignore"])
def test_indistinguishable_handlers_are_registered_promptly(comparisons, make, on_overlap):
    """Handlers that the index cannot distinguish are registered in bounded time, with one comparison per pair."""
    proc = Processor(JSONMessage, on_overlap=on_overlap)
    with recorded_warnings() as recorded, promptly():
        for n in range(100):
            proc.add_handler(make(n), nothing, name=f"{n}")
    assert len(proc.routes()) == 100
    assert comparisons["contained"] <= 2 * 100 * 99 / 2
    assert comparisons["relation"] <= (100 * 99 / 2 if on_overlap == "warn" else 0)
    assert len(recorded) <= 10


def test_comparisons_of_one_matcher_are_bounded(comparisons):
    """A new handler that the index cannot distinguish is compared with a bounded number of registered handlers."""
    proc = Processor(JSONMessage, on_overlap="ignore")
    for n in range(1100):
        proc.add_handler(Field("id", n) & Field("other", AnythingBut(n)), nothing)
    before = comparisons["contained"]
    proc.add_handler(Field("other", Suffix("x")), nothing)
    assert before < 5000
    assert comparisons["contained"] - before <= 2000


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
def test_overlaps_of_unusual_values(one, other):
    """Registration finds overlaps of fields of one object, of repeated headers and of large floats."""
    proc = numbered(one, on_overlap="error")
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
def test_equivalent_matchers_are_not_called_contained(one, other):
    """The error for equivalent matchers says that they match the same messages, in both orders."""
    for first, second in ((one, other), (other, one)):
        with pytest.raises(RegistrationError, match="match the same messages"):
            numbered(first, second)


def test_none_of_a_prefix_is_disjoint_from_the_prefix():
    """`NoneOf` of a prefix is disjoint from tests whose values all have the prefix."""
    proc = numbered(Field("sku", NoneOf(Prefix("EU-"))), Field("sku", Prefix("EU-1")), on_overlap="error")
    assert len(proc.routes()) == 2


def test_shared_callable_causes_no_comparison(monkeypatch):
    """Handlers with different literals are not compared because of a callable that all of them share."""
    compared = []
    monkeypatch.setattr(overlaps, "contained", lambda *pair: compared.append(pair) or False)
    guard = Predicate(lambda message: True)
    numbered(*(Field("id", number) & guard for number in range(50)))
    assert compared == []
    numbered(guard, Field("id", 1) & guard)
    assert len(compared) == 2


def test_error_quotes_a_bounded_part_of_a_matcher():
    """An error quotes only a part of a matcher of a megabyte."""
    with pytest.raises(RegistrationError) as caught:
        numbered(Field("a", Prefix("x" * 1_000_000)), Field("a", "x" * 1_000_000 + "y"))
    assert len(str(caught.value)) < 10_000


def test_literals_are_compared_with_a_substring():
    """A list of literals that all contain a substring is contained in the test for the substring."""
    with pytest.raises(RegistrationError, match="h0 could never run"):
        numbered(Field("a", OneOf("axb", "x")), Field("a", Substring("x")))
