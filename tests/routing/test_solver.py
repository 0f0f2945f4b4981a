"""The solver: overlaps that only an exact search finds, and matchers that no message can match."""

from __future__ import annotations

import contextlib
import re
import time

import pytest

from missive import JSONMessage, OverlapWarning, RegistrationError, StructuredMessage
from missive.matchers import (
    AmqpPattern,
    AnythingBut,
    Body,
    Cidr,
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
    Prefix,
    Range,
    Regex,
    Some,
    Substring,
    Suffix,
    Topic,
    Wildcard,
)
from tests.support.matchers import nested
from tests.support.routing import processor, refusal, witness_in

INT, INF = IsInstance(int), float("inf")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Integers next to fractions, and excluded values.
        (Field("n", INT), Field("n", Range(ge=1.5))),
        (Field("n", INT), Field("n", Range(gt=0.5, lt=1.5)) & ~Field("n", 2)),
        (Field("n", Range(gt=1, lt=2)), ~Field("n", INT) & ~Field("n", 1.5)),
        (Field("n", Range(ge=2**53, le=2**53 + 2)) & ~Field("n", OneOf(2**53, 2**53 + 2)), Field("n", INT)),
        (Field("n", Range(ge=1, le=4)) & ~Field("n", OneOf(1, 2, 3)), Field("n", INT)),
        (Field("n", Range(ge=-INF, lt=2)), Field("n", Range(gt=-5))),
        # Texts that overlap each other, and excluded texts.
        (Field("a", Substring("aa")) & ~Field("a", Substring("aaa")), Field("a", Wildcard("*aab*"))),
        (Field("a", Prefix("aba")) & ~Field("a", Substring("ababa")), Field("a", Suffix("bab"))),
        (Field("a", Substring("abc")) & ~Field("a", Substring("abcb")), Field("a", Substring("bcd"))),
        (Field("a", Wildcard("a*a*a")) & ~Field("a", Substring("x")), Field("a", Wildcard("*aab*"))),
        # Other letter cases.
        (Field("a", Substring("Ss")), Field("a", Substring("ß", ignore_case=True)) & ~Field("a", Prefix("Ss"))),
        (Field("a", Substring("k", ignore_case=True)) & ~Field("a", OneOf("k", "K")), Field("a", Regex("."))),
        (Field("a", Wildcard("*ſ*")), Field("a", Suffix("S", ignore_case=True)) & ~Field("a", "ſ")),
        # Addresses inside a network.
        (Field("ip", Cidr("10.0.0.0/8")), Field("ip", Wildcard("10.5.*"))),
        (Field("ip", Cidr("10.0.0.0/8")), Field("ip", Wildcard("*.7.*.255"))),
        (Field("ip", Cidr("10.64.0.0/10")), Field("ip", Regex(r"10\.12\d\..*"))),
        (Field("ip", Cidr("10.0.0.0/8")) & ~Field("ip", Cidr("10.0.0.0/9")), Field("ip", Suffix(".1"))),
        (Field("ip", Cidr("2001:db8::/32")), Field("ip", Suffix(":BEEF", ignore_case=True))),
        (Field("ip", Cidr("::/0")), Field("ip", Suffix("10.0.0.1"))),
        (Field("ip", Cidr("0.0.0.0/0")), Field("ip", AmqpPattern("*.#.77")) & ~Field("ip", Substring("0"))),
        # Topics with other patterns.
        (Topic(NatsPattern("orders.*")), Topic(Suffix(".created"))),
        (Topic(NatsPattern("orders.>")), Topic(AmqpPattern("#.eu.*"))),
        (Topic(NatsPattern("a.*.c")), Topic(Regex(r"a\.[0-9]{3}\.c"))),
        (Topic(MqttFilter("a/+/c")), Topic(Wildcard("*/b*b/*"))),
        (Topic(MqttFilter("#")), Topic(AmqpPattern("*.*")) & Topic(Substring("/"))),
        (Topic(AmqpPattern("*.b")) & ~Topic(AmqpPattern("a.*")), Topic(Prefix("a"))),
        # Three and more.
        (Topic(NatsPattern("*.*")) & Topic(Suffix("ed")) & ~Topic(Prefix("x")), Topic(Substring("s.c"))),
        (Field("a", Some(Range(gt=1, lt=3))) & Field("a", Every(INT)), Field("a", Some(2))),
        (Field("a", Some(Prefix("a"))) & Field("a", Every(Suffix("b"))), Field("a", AnythingBut(Some("ab")))),
        (Header("h", Some("a")) & Header("h", Every(Prefix("a"))), Header("h", AnythingBut(Every("a")))),
        (EventField("a", 1) & EventField(("a", "b"), 2), EventField("a", Prefix("x"))),
    ],
    ids=lambda one: repr(one)[:60],
)
def test_overlap_is_shown(one, other):
    """Registration shows a message that matches both handlers, in both orders."""
    for first, second in ((one, other), (other, one)):
        with pytest.raises(OverlapWarning) as caught:
            processor(first, second)
        message = witness_in(str(caught.value))
        assert one(message)
        assert other(message)


@pytest.mark.parametrize(
    ("matcher", "reason"),
    [
        (Field("p", b"a"), "JSON can hold"),
        (Field("p", IsInstance(bytes)), "JSON can hold"),
        (Field("p", OneOf(b"a", b"b")), "JSON can hold"),
        (Field("p", Some(b"a")), "JSON can hold"),
        (Field("p", INF), "finite numbers"),
        (Field("p", Range(gt=INF)), "finite numbers"),
        (Field("p", 1) & Field("q", b"a"), r"Field\('q', Equals\(b'a'\)\) is false"),
        (EventField("p", b"a"), "an EventField finds in JSON"),
        (EventField("p", IsInstance(dict)), "an EventField finds"),
        (EventField("p", Some(1)), "an EventField finds"),
        (Header("h", b"a"), "bytes that are not UTF-8"),
        (Header("h", Some("é".encode())), "bytes that are not UTF-8"),
        (Header("h", Some(1)), "a header can have"),
        (Header("h", OneOf(1, True, None)), "a header can have"),
        (Topic(b"a"), "a topic can be"),
        (Key(Range(gt=1)), "a key can be"),
        (Body("a"), "a body can be"),
        (Field("n", INT) & Field("n", Range(gt=1, lt=2)), "exclude each other"),
        (Field("n", INT) & Field("n", Range(gt=0, lt=3)) & ~Field("n", OneOf(1, 2)), "exclude each other"),
        (Field("n", Range(ge=2**53, le=2**53 + 1)) & ~Field("n", INT) & ~Field("n", 2**53), "exclude each other"),
        (Field("a", Every(INT)) & Field("a", Some(Range(gt=1, lt=2))), "exclude each other"),
        (Field("a", Prefix("ab")) & Field("a", Suffix("bc")) & Field("a", Regex("..")), None),
        (Field("a", Prefix("ab")) & Field("a", Suffix("bc")) & Field("a", OneOf("ab", "bc")), "exclude each other"),
        (Field("a", Prefix("ab")) & ~Field("a", Substring("a")), "exclude each other"),
        (Field("a", Wildcard("a*b")) & ~Field("a", Wildcard("A*B", ignore_case=True)), "exclude each other"),
        (Topic(NatsPattern("a.*")) & Topic(Suffix(".b.c")), "exclude each other"),
        (Topic(NatsPattern("a.>")) & Topic(MqttFilter("a/+")), "exclude each other"),
        (Topic(MqttFilter("#")) & Topic(Prefix("$")), "exclude each other"),
        (Topic(AmqpPattern("b.#")) & Topic(Wildcard("a*")), "exclude each other"),
        (Field("ip", Cidr("10.0.0.0/8")) & Field("ip", Prefix("11.")), "exclude each other"),
        (Field("ip", Cidr("10.0.0.0/8")) & Field("ip", NatsPattern("*.*")), "exclude each other"),
        (Field("ip", Cidr("10.0.0.0/9")) & Field("ip", Prefix("10.2")) & ~Field("ip", Prefix("10.2.")), None),
        (Field("ip", Cidr("::/0")) & Field("ip", Prefix("x")), "exclude each other"),
    ],
    ids=lambda one: repr(one)[:60],
)
def test_matcher_without_messages_is_refused(matcher, reason):
    """A matcher that no message can match is refused in one line with the reason; one with messages is accepted."""
    if reason is None:
        processor(matcher)
        return
    text = refusal(processor(), matcher)
    assert re.search(f"no message could ever match .*the matcher of new: .*{reason}", text)
    assert text.endswith((". Change its test", ". Remove one of them"))
    assert "\n" not in text


class Packed(StructuredMessage):
    """A message with its own decoder, which may return bytes."""

    def decode(self):
        """Return bytes."""
        return {"p": b"a", "n": float("inf")}


@pytest.mark.parametrize(
    "matcher", [Field("p", b"a"), Field("p", IsInstance(bytes)), Field("n", INF), EventField("p", b"a")]
)
def test_values_of_a_custom_decoder_are_accepted(matcher):
    """A message class with its own decoder may hold values that JSON does not have."""
    proc = processor(matcher, message_cls=Packed)
    assert len(proc.route(Packed(b""))) == 1


@pytest.mark.parametrize("matcher", [Header("h", b"\xff"), Header("h", Some(b"\xff")), Key(b"a"), Body(b"a")])
def test_bytes_that_can_arrive_are_accepted(matcher):
    """Bytes are accepted where a message can have them: a header that is not UTF-8, a key and a body."""
    assert processor(matcher).check().handlers == 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda test: NoneOf(test, Some(test)),
        lambda test: NoneOf(test, AnythingBut(test)),
        lambda test: NoneOf(Every(test), Some(test), test),
    ],
)
def test_test_nested_in_itself_is_refused_at_once(wrap):
    """A test that contains itself twice at each level is refused when it has 10,000 parts, and never takes long."""
    start = time.perf_counter()
    with pytest.raises(RegistrationError, match=r"a test consists of at most 10,000 tests.* counts twice"):
        nested(30, Prefix("a"), wrap)
    largest = nested(7, Prefix("a"), wrap)
    again = nested(7, Prefix("a"), wrap)
    assert (largest, hash(largest), repr(largest)) == (again, hash(again), repr(again))
    with contextlib.suppress(RegistrationError):  # one of the tests contradicts itself
        processor(Field("a", largest), Field("b", largest) | Field("c", largest), on_overlap="ignore").check()
    assert time.perf_counter() - start < 30


def test_many_alternatives_of_tests_are_not_expanded():
    """Hundreds of nested alternatives in one test take no long time, and prove nothing."""
    start = time.perf_counter()
    many = NoneOf(*(NoneOf(Prefix(f"a{number}"), Suffix(f"b{number}")) for number in range(300)))
    processor(Field("a", many), on_overlap="ignore").check()
    assert time.perf_counter() - start < 30


def test_check_counts_overlaps_that_need_an_array():
    """`check` counts event patterns with different literals that one event matches, and lists them last."""
    item = [EventField("items", EventField("sku", sku) & EventField("n", Range(gt=3))) for sku in "AB"]
    report = processor(EventField("a", 1), EventField("a", 2), *item, on_overlap="ignore").check()
    assert (report.overlap_count, report.unknown_count, report.complete) == (6, 0, True)
    assert [pair[:2] for pair in report.overlaps[-2:]] == [("a", "b"), ("c", "d")]
    assert report.overlaps[-2][2] == "JSONMessage.of({'a': [1, 2]})"
    matchers = dict(zip("abcd", [EventField("a", 1), EventField("a", 2), *item], strict=True))
    for one, other, shown in report.overlaps:
        message = eval(shown, {"JSONMessage": JSONMessage})
        assert matchers[one](message)
        assert matchers[other](message)


def test_overlap_through_an_array_is_not_warned_of():
    """Registration does not warn of event patterns with different literals, because almost every pair overlaps."""
    processor(EventField("a", 1), EventField("a", 2), on_overlap="error")
