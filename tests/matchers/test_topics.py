"""Patterns of topics in the languages of NATS, MQTT and RabbitMQ's topic exchange.

The tables come from the tests of nats-server (`sublist`), paho (`matcher`) and RabbitMQ (topic exchange), and from the
examples in section 4.7 of the MQTT standard.
"""

from __future__ import annotations

import copy
import enum
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive import JSONMessage, RawMessage
from missive.errors import RegistrationError
from missive.matchers import AmqpPattern, AnythingBut, Field, MqttFilter, NatsPattern, Some, Topic, TopicPattern
from tests.support import strategies
from tests.support.matchers import rebuilt
from tests.support.strategies import promptly

NOT_STRINGS = [None, True, False, 0, 1.5, b"", b"a", [], ["a"], {}, {"a": "a"}, ("a",)]
KINDS = [NatsPattern, MqttFilter, AmqpPattern]


class Subject(enum.StrEnum):
    orders = "orders"


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("foo", ["foo"], ["bar", "foo.bar", "fo", "Foo", ""]),
        ("foo.bar", ["foo.bar"], ["foo", "foo.bar.baz", "foo.baz", "bar.foo"]),
        ("*", ["foo", "*", ">"], ["foo.bar", ""]),
        (">", ["foo", "foo.bar", "foo.bar.baz"], ["", ".", "foo.", ".foo", "foo..bar"]),
        ("foo.>", ["foo.bar", "foo.bar.baz", "foo.>"], ["foo", "bar.foo", "foo.", "foo..", "foo..bar", "foo.bar."]),
        ("foo.*", ["foo.bar", "foo.*"], ["foo", "foo.", "foo.bar.baz", "foo..bar"]),
        ("*.bar", ["foo.bar"], ["bar", ".bar", "foo.foo.bar"]),
        ("foo.*.baz", ["foo.bar.baz"], ["foo.baz", "foo..baz", "foo.bar.bar"]),
        ("*.*", ["foo.bar"], ["foo", ".", "foo.", ".foo", "a.b.c"]),
        ("*.>", ["a.b", "a.b.c"], ["a", ".b", "a.", "a..b"]),
        ("stats.*.*", ["stats.test.22"], ["stats.test", "stats.test.22.a"]),
        ("stats.*.*.foos", [], ["stats.test.foos"]),
        # A wildcard is a whole token. Other tokens are literal.
        ("foo*", ["foo*"], ["foobar", "foo"]),
        ("*bar", ["*bar"], ["foobar"]),
        ("foo.**", ["foo.**"], ["foo.bar", "foo.bar.baz"]),
        ("foo.*-", ["foo.*-"], ["foo.bar", "foo.a-"]),
        ("foo.>-", ["foo.>-"], ["foo.bar"]),
        ("foo.>bar", ["foo.>bar"], ["foo.bar"]),
        ("foo.>>>.bar", ["foo.>>>.bar"], ["foo.a.bar"]),
        ("$SYS.>", ["$SYS.a"], ["SYS.a"]),
    ],
)
def test_nats(pattern, matching, other):
    """`*` is one token, `>` is one or more at the end. A subject with an empty token never matches."""
    assert [True] * len(matching) == [NatsPattern(pattern)(topic) for topic in matching]
    assert [False] * len(other) == [NatsPattern(pattern)(topic) for topic in other]


@pytest.mark.parametrize(
    ("filter_", "matching", "other"),
    [
        ("foo/bar", ["foo/bar"], ["foo", "foo/", "/foo/bar", "foo/bar/", "foo/baz", "Foo/bar", ""]),
        ("foo/+", ["foo/bar", "foo/"], ["foo", "foo/bar/baz", "foo/bar/"]),
        ("foo/+/baz", ["foo/bar/baz", "foo//baz"], ["foo/baz", "foo/bar/bar", "foo/bar/baz/a"]),
        ("foo/+/#", ["foo/bar/baz", "foo/bar", "foo/"], ["fo2/bar/baz", "foo"]),
        ("A/B/+/#", ["A/B/B/C"], ["A/B"]),
        ("foo/#", ["foo", "foo/", "foo/bar", "foo/bar/baz"], ["foobar", "/foo", "fo"]),
        ("test/6/#", ["test/6", "test/6/a"], ["test/3"]),
        ("#", ["foo", "foo/bar", "/foo", "/", " "], ["$SYS/bar", "$SYS", "$", ""]),
        ("/#", ["/foo", "/foo/bar", "/", "/$SYS"], ["foo/bar", "$SYS/"]),
        ("+", ["foo", "+"], ["/foo", "foo/", "$SYS", ""]),
        ("+/+", ["/finance", "a/b", "/", "a/"], ["finance", "a/b/c", "$SYS/a"]),
        ("/+", ["/finance", "/"], ["finance", "/a/b"]),
        ("+/tennis/#", ["sport/tennis", "sport/tennis/player1", "/tennis"], ["tennis", "sport/golf"]),
        ("+/monitor/Clients", ["a/monitor/Clients"], ["$SYS/monitor/Clients"]),
        ("$SYS/#", ["$SYS", "$SYS/", "$SYS/monitor/Clients"], ["SYS", "$sys/a"]),
        ("$SYS/monitor/+", ["$SYS/monitor/Clients"], ["$SYS/monitor"]),
        ("$BOB/bar", ["$BOB/bar"], ["$SYS/bar"]),
        ("a/$b/+", ["a/$b/c"], []),
        ("a/+", ["a/$b"], []),
        ("//", ["//"], ["/", "///"]),
        ("a b/+", ["a b/c"], ["a/c"]),
    ],
)
def test_mqtt(filter_, matching, other):
    """`+` is one level, `#` any number at the end. A leading wildcard excludes topics that start with `$`."""
    assert [True] * len(matching) == [MqttFilter(filter_)(topic) for topic in matching]
    assert [False] * len(other) == [MqttFilter(filter_)(topic) for topic in other]


KEYS = ["a.b.c", "a.b", "a.b.b", "", "b.c.c", "a.a.a.a.a", "red.cat", "red.dog", "b.b.c", "one.of.the.many", "word"]


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("a.b.c", ["a.b.c"]),
        ("a.*.c", ["a.b.c"]),
        ("a.#.b", ["a.b", "a.b.b"]),
        ("a.b.b.c", []),
        ("#", KEYS),
        ("#.#", KEYS),
        ("#.#.#", KEYS),
        ("#.b", ["a.b", "a.b.b"]),
        ("*.*", ["a.b", "red.cat", "red.dog"]),
        ("a.*", ["a.b"]),
        ("*.b.c", ["a.b.c", "b.b.c"]),
        ("a.#", ["a.b.c", "a.b", "a.b.b", "a.a.a.a.a"]),
        ("a.#.#", ["a.b.c", "a.b", "a.b.b", "a.a.a.a.a"]),
        ("b.c", []),
        ("*.*.*", ["a.b.c", "a.b.b", "b.c.c", "b.b.c"]),
        ("red.dog", ["red.dog"]),
        ("*.#", [key for key in KEYS if key]),
        ("#.*", [key for key in KEYS if key]),
        ("#.*.#", [key for key in KEYS if key]),
        ("*.#.#", [key for key in KEYS if key]),
        ("*", ["word"]),
        ("#.b.#", ["a.b.c", "a.b", "a.b.b", "b.c.c", "b.b.c"]),
    ],
)
def test_amqp(pattern, matching):
    """`*` is one word, `#` is any number of words in any place. An empty routing key has no words."""
    assert matching == [key for key in KEYS if AmqpPattern(pattern)(key)]


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.*", ["."], [""]),
        ("a.*.b", ["a..b"], ["a.b"]),
        ("a..b", ["a..b"], ["a.b", "a.x.b"]),
        ("a.", ["a."], ["a"]),
        ("a.*", ["a."], ["a"]),
        (".", ["."], ["", "a."]),
        ("#.", [".", "a."], ["", "a"]),
        ("a*", ["a*"], ["ab"]),
        ("a#.b", ["a#.b"], ["a.b"]),
        ("##", ["##"], ["a"]),
        ("*", ["*", "#"], ["", "a.b"]),
        ("a.#.b.#.c", ["a.b.c", "a.x.b.y.z.c", "a.b.b.c.c"], ["a.c", "a.b", "a.c.b"]),
        ("#.a.b", ["a.b", "a.a.b", "a.b.a.b"], ["a.b.a", "b"]),
        ("*.#.a.*.b", ["x.a.y.b", "x.a.a.a.b"], ["a.y.b", "x.a.b"]),
        ("a b.#", ["a b", "a b.c"], ["a"]),
    ],
)
def test_amqp_words(pattern, matching, other):
    """Words may be empty, a wildcard is a whole word, and several `#` divide the words between them."""
    assert [True] * len(matching) == [AmqpPattern(pattern)(topic) for topic in matching]
    assert [False] * len(other) == [AmqpPattern(pattern)(topic) for topic in other]


@pytest.mark.parametrize(
    "pattern", [*map(NatsPattern, ("a", ">", "*")), *map(MqttFilter, "a#+"), *map(AmqpPattern, "a#*")]
)
@pytest.mark.parametrize("value", NOT_STRINGS)
def test_patterns_match_strings_only(pattern, value):
    """A pattern is false of bytes, numbers, null, lists and objects."""
    assert pattern(value) is False


@pytest.mark.parametrize(
    ("kind", "pattern", "text"),
    [
        (NatsPattern, "", "has an empty token"),
        (NatsPattern, ".", "has an empty token"),
        (NatsPattern, ".foo", "has an empty token"),
        (NatsPattern, "foo.", "has an empty token"),
        (NatsPattern, "foo..bar", "has an empty token"),
        (NatsPattern, ">.bar", "has > before its end"),
        (NatsPattern, "foo.>.bar", "has > before its end"),
        (NatsPattern, "foo bar", "contains a space"),
        (NatsPattern, "foo\t", "contains a space"),
        (NatsPattern, "foo\n.bar", "contains a space"),
        (NatsPattern, "." * 1_000_000, "has an empty token"),
        (MqttFilter, "", "is empty, which no topic is: use # to match every topic"),
        (MqttFilter, "#/a", "has # before its end"),
        (MqttFilter, "a/#/b", "has # before its end"),
        (MqttFilter, "a#", r"write \+ or # as a whole level"),
        (MqttFilter, "a/b#", "a whole level"),
        (MqttFilter, "sport+", "a whole level"),
        (MqttFilter, "a/+b/c", "a whole level"),
        (MqttFilter, "a/++", "a whole level"),
        (MqttFilter, "a/#+", "a whole level"),
        (MqttFilter, "a\0b", "null character"),
        (MqttFilter, "$share/group/a/+", r"shared subscription, .* use MqttFilter\('a/\+'\)"),
        (MqttFilter, "$share/group", "use the filter that follows the group"),
        (MqttFilter, "$share/group/" + "a" * 1000, "use the filter that follows the group"),
        (MqttFilter, "号" * 21_846, "longer than the 65535 bytes"),
        (AmqpPattern, "", r"use Equals\(''\)"),
        (AmqpPattern, "号" * 86, "longer than the 255 bytes"),
        (AmqpPattern, "#." * 1_000_000, "longer than the 255 bytes"),
        *[(kind, b"a", f"{kind.__name__} takes a str, not bytes") for kind in KINDS],
        *[(kind, None, "not NoneType") for kind in KINDS],
        *[(kind, ("a", "b"), "not tuple") for kind in KINDS],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_invalid_pattern_is_refused(kind, pattern, text):
    """A pattern that its broker refuses is refused with a short error that names the remedy."""
    with promptly(), pytest.raises(RegistrationError, match=text) as caught:
        kind(pattern)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("test", "tokens", "separator", "wildcards"),
    [
        (NatsPattern("a.*.>"), ("a", "*", ">"), ".", ("*", ">")),
        (MqttFilter("/a/+/#"), ("", "a", "+", "#"), "/", ("+", "#")),
        (AmqpPattern("a..*.#"), ("a", "", "*", "#"), ".", ("*", "#")),
    ],
    ids=repr,
)
def test_tokens_of_a_pattern(test, tokens, separator, wildcards):
    """A pattern has tokens. Its class defines the separator and the wildcards."""
    assert isinstance(test, TopicPattern)
    assert (tokens, separator, wildcards) == (test.tokens, test.separator, (test.single, test.multi))
    assert separator.join(tokens) == test.pattern


def nats(tokens, topic):
    """Return whether a subject matches, by naive recursion."""
    if "" in topic:
        return False
    if not tokens or not topic:
        return tokens == topic
    return tokens == [">"] or (tokens[0] in ("*", topic[0]) and nats(tokens[1:], topic[1:]))


def mqtt(tokens, topic, *, first=True):
    """Return whether a topic matches, by naive recursion."""
    if first and (topic == [""] or (topic[0].startswith("$") and tokens[0] in ("+", "#"))):
        return False
    if tokens == ["#"]:
        return True
    if not tokens or not topic:
        return tokens == topic
    return tokens[0] in ("+", topic[0]) and mqtt(tokens[1:], topic[1:], first=False)


def amqp(tokens, topic):
    """Return whether a routing key matches, by trying every number of words for each `#`."""
    if not tokens:
        return not topic
    if tokens[0] == "#":
        return any(amqp(tokens[1:], topic[start:]) for start in range(len(topic) + 1))
    return bool(topic) and tokens[0] in ("*", topic[0]) and amqp(tokens[1:], topic[1:])


few = st.sampled_from(["a", "b", "", "$a", "a*"])


@given(
    st.lists(st.sampled_from(["a", "b", "*", "a*"]), max_size=4),
    st.sampled_from([["a"], ["*"], [">"]]),
    st.lists(few, min_size=1, max_size=5),
)
@strategies.examples(300)
def test_nats_agrees_with_a_naive_search(tokens, last, topic):
    """A NATS pattern agrees with a comparison token by token."""
    assert nats(tokens + last, topic) is NatsPattern(".".join(tokens + last))(".".join(topic))


@given(
    st.lists(st.sampled_from(["a", "b", "+", "", "$a"]), max_size=4),
    st.sampled_from([["a"], ["+"], ["#"]]),
    st.lists(few, min_size=1, max_size=5),
)
@strategies.examples(300)
def test_mqtt_agrees_with_a_naive_search(tokens, last, topic):
    """An MQTT filter agrees with a comparison level by level."""
    assert mqtt(tokens + last, topic) is MqttFilter("/".join(tokens + last))("/".join(topic))


@given(st.lists(st.sampled_from(["a", "b", "*", "#", "", "a*"]), min_size=1, max_size=6), st.lists(few, max_size=7))
@strategies.examples(500)
def test_amqp_agrees_with_a_backtracking_search(tokens, topic):
    """An AMQP pattern agrees with a search that tries all ways to distribute the words."""
    if tokens != [""] and topic != [""]:
        assert amqp(tokens, topic) is AmqpPattern(".".join(tokens))(".".join(topic))


@pytest.mark.parametrize(
    ("test", "topic", "expected"),
    [
        (AmqpPattern("#.#.#.#.#.#.a"), "a.b." * 250_000, False),
        (AmqpPattern("#." * 100 + "a"), "b." * 500_000 + "a", True),
        (AmqpPattern("#.a.*." * 40 + "b"), "a." * 500_000 + "c", False),
        (AmqpPattern("#.a.a.a.a.a.a.b.#"), "a." * 500_000, False),
        (NatsPattern("*.*.>"), "a." * 500_000 + "a", True),
        (NatsPattern("a." * 500_000 + "*"), "a." * 500_000 + "b", True),
        (NatsPattern(">"), "." * 1_000_000, False),
        (MqttFilter("+/" * 30_000 + "#"), "/" * 1_000_000, True),
        (MqttFilter("a/#"), "a/" * 500_000, True),
    ],
    ids=range(9),
)
def test_patterns_are_fast(test, topic, expected):
    """The time of a pattern does not explode for many wildcards or long topics, because it does not backtrack."""
    with promptly():
        assert expected is test(topic)


@pytest.mark.parametrize(
    "test",
    [
        NatsPattern("a.*.>"),
        NatsPattern(Subject.orders),
        MqttFilter("/a/+/#"),
        MqttFilter("\ud800"),
        MqttFilter(Subject.orders),
        AmqpPattern("a.#.*.'"),
        AmqpPattern(Subject.orders),
    ],
    ids=ascii,
)
def test_patterns_are_values(test):
    """A pattern can be copied, pickled and evaluated from its repr. It is frozen."""
    topics = ["a.b.c", "/a/b", "orders", "a.b.'", "\ud800"]
    for again in (
        rebuilt(test),
        copy.deepcopy(test),
        pickle.loads(pickle.dumps(test)),
    ):
        assert test == again
        assert hash(test) == hash(again)
        assert [test(topic) for topic in topics] == [again(topic) for topic in topics]
        assert any(map(again, topics))
    with pytest.raises(AttributeError, match="frozen"):
        test.pattern = "b"


def test_patterns_of_different_brokers_are_not_equal():
    """Patterns with equal texts are equal only if they have the same class."""
    assert len({kind("a") for kind in KINDS} | {kind("b") for kind in KINDS}) == 6
    assert AmqpPattern("a.*") == AmqpPattern("a.*") != NatsPattern("a.*")


def test_patterns_in_selectors():
    """A pattern can test a topic or any other string, and has an expectation."""
    assert Topic(AmqpPattern("*.error"))(RawMessage(b"", topic="shop.error")) is True
    assert Topic(NatsPattern(">"))(RawMessage(b"")) is False
    assert Field("paths", Some(MqttFilter("a/+")))(JSONMessage.of({"paths": ["b", "a/b"]})) is True
    assert AnythingBut(MqttFilter("#"))("$SYS/a") is True
    assert [kind("a").expectation for kind in KINDS] == ["a topic like 'a'"] * 3
