"""Topic patterns: comparison and look-up agree with an exhaustive test of short topics."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from missive.errors import RegistrationError
from missive.matchers import AmqpPattern, MqttFilter, NatsPattern
from missive.routing.topics import TopicTrie, common_tokens, topics_disjoint, topics_within
from tests.support.strategies import examples, promptly

ALPHABETS = {
    # The tokens of patterns, then the tokens of topics, which include one that no pattern has.
    "nats": (NatsPattern, ["a", "b", "*", ">"], ["a", "b", "z"]),
    "mqtt": (MqttFilter, ["a", "$a", "+", "#"], ["a", "$a", "z"]),
    "amqp": (AmqpPattern, ["a", "b", "*", "#"], ["a", "b", "z"]),
    "mqtt, empty levels": (MqttFilter, ["a", "", "+", "#"], ["a", "", "z"]),
    "amqp, empty words": (AmqpPattern, ["a", "", "*", "#"], ["a", "", "z"]),
}
EXACT = ["nats", "mqtt", "amqp"]
dialects = pytest.mark.parametrize("dialect", ALPHABETS)


def patterns(kind, tokens, longest):
    """Return all patterns of up to `longest` tokens that are valid in the dialect."""
    made = {}
    for length in range(1, longest + 1):
        for several in itertools.product(tokens, repeat=length):
            try:
                made[kind(kind.separator.join(several))] = None
            except RegistrationError:
                continue
    return list(made)


def topics(kind, tokens, longest):
    """Return all topics of up to `longest` tokens, including the empty topic."""
    return sorted(
        {
            kind.separator.join(several)
            for length in range(longest + 1)
            for several in itertools.product(tokens, repeat=length)
        }
    )


@cache
def matched(dialect):
    """Return each pattern of up to three tokens with the topics of up to five tokens that match."""
    kind, tokens, words = ALPHABETS[dialect]
    wanted = topics(kind, words, 5)
    return {pattern: frozenset(filter(pattern, wanted)) for pattern in patterns(kind, tokens, 3)}


def pairs(dialect):
    """Return all pairs of patterns, each pattern with its topics."""
    return itertools.product(matched(dialect).items(), repeat=2)


@dialects
def test_disjoint_patterns_share_no_topic(dialect):
    """Patterns proved disjoint share no topic; without empty tokens, all patterns that share none are proved."""
    assert len(matched(dialect)) > 50
    for (one, of_one), (other, of_other) in pairs(dialect):
        apart, disjoint = topics_disjoint(one, other), not of_one & of_other
        assert (apart is disjoint) if dialect in EXACT else (disjoint or not apart), (one, other)


@dialects
def test_contained_patterns_match_no_other_topic(dialect):
    """A pattern proved contained matches no other topic; without empty tokens, all contained patterns are proved."""
    for (one, of_one), (other, of_other) in pairs(dialect):
        within, inside = topics_within(one, other), of_one <= of_other
        assert (within is inside) if dialect in EXACT else (inside or not within), (one, other)


@pytest.mark.parametrize("dialect", EXACT)
def test_common_tokens_form_a_shortest_topic(dialect):
    """The common tokens of two patterns form a topic that matches both, with the smallest number of tokens."""
    for (one, of_one), (other, of_other) in pairs(dialect):
        tokens = common_tokens(one, other)
        both = of_one & of_other
        assert (tokens is None) is (not both)
        if tokens:  # no tokens stand for the empty topic, which MQTT does not have
            topic = one.separator.join(tokens)
            assert one(topic)
            assert other(topic)
        if both:
            assert len(tokens) <= min(len(topic.split(one.separator)) for topic in both)


WORDS = [".".join(words) for length in range(7) for words in itertools.product("abz", repeat=length)]


@given(*[st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6).map(".".join).map(AmqpPattern)] * 2)
@examples(60)
def test_hash_at_any_position(one, other):
    """Proofs about AMQP patterns with # at any position hold for all routing keys of up to six words."""
    first, second = set(filter(one, WORDS)), set(filter(other, WORDS))
    assert not (topics_disjoint(one, other) and first & second)
    assert not (topics_within(one, other) and first - second)
    if not topics_disjoint(one, other):
        common = ".".join(common_tokens(one, other))
        assert one(common)
        assert other(common)


@pytest.mark.parametrize(
    ("one", "other", "within"),
    [
        ("#.a.#", "#", True),
        ("#.*", "*.#", True),
        ("*.#.*", "#.*.*", True),
        ("#.#.#", "#", True),
        ("a.#.b.#.a", "a.#.a", True),
        ("#.a.#.b.#", "#.b.#", True),
        ("#.a.*.#", "#.a.#", True),
        ("#.a.#", "#.a.*.#", False),
        ("a.#", "a.*.#", False),
        ("#", "#.*", False),
        ("*.*", "#.a.#", False),
        ("a.#.a", "a.#.a.#.a", False),
    ],
)
def test_containment_of_patterns_with_hashes(one, other, within):
    """Containment of AMQP patterns recognizes different wildcards with the same meaning."""
    assert topics_within(AmqpPattern(one), AmqpPattern(other)) is within


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NatsPattern("a." * 2000 + ">"), NatsPattern("a." * 2001 + ">")),
        (MqttFilter("+/" * 30_000 + "#"), MqttFilter("+/" * 29_999 + "#")),
        (AmqpPattern("#.a." * 60 + "#"), AmqpPattern("#.a.*." * 40 + "b")),
        (AmqpPattern("#.*.a." * 40 + "a"), AmqpPattern("#.a." + "*." * 100 + "a")),
    ],
    ids=range(4),
)
def test_hostile_patterns_are_compared_promptly(one, other):
    """Very long patterns are compared in bounded time, and never declared disjoint by mistake."""
    with promptly():
        assert [topics_disjoint(one, other), topics_disjoint(other, one)] == [False, False]
        topics_within(one, other)
        topics_within(other, one)


@pytest.mark.parametrize("kind", [NatsPattern, MqttFilter])
def test_too_long_patterns_are_not_compared(kind):
    """Nothing is proved about two very long patterns, not even an obvious fact."""
    long = kind.separator.join(["a"] * 1000)
    one, other = kind(long), kind(long + kind.separator + "b")
    assert common_tokens(one, one) is None
    assert not topics_disjoint(one, other)
    assert not topics_within(one, kind(long[:-1] + kind.single))


# The trie


@dialects
def test_trie_finds_the_patterns_of_a_topic(dialect):
    """A trie finds all patterns that match a topic; without empty tokens, it finds only these, once each."""
    kind, _, words = ALPHABETS[dialect]
    table = matched(dialect)
    trie = TopicTrie(kind.separator)
    for item, pattern in enumerate(table):
        trie.add(pattern, item)
    assert len(trie) == len(table)
    for topic in topics(kind, words, 5):
        found = trie.find(topic)
        expected = {item for item, pattern in enumerate(table) if topic in table[pattern]}
        assert len(found) == len(set(found))
        assert expected <= set(found)
        if dialect in EXACT and topic and not topic.startswith("$"):
            assert expected == set(found)


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6), max_size=12),
    st.lists(st.lists(st.sampled_from(["a", "b", "z"]), min_size=1, max_size=7), min_size=1, max_size=4),
)
@examples(60)
def test_trie_can_grow_between_look_ups(drawn, wanted):
    """Patterns can be added between look-ups, and one pattern can have several items."""
    trie = TopicTrie(".")
    for number, tokens in enumerate(drawn):
        trie.add(AmqpPattern(".".join(tokens)), number)
        for topic in map(".".join, wanted):
            expected = [item for item in range(number + 1) if AmqpPattern(".".join(drawn[item]))(topic)]
            assert expected == sorted(trie.find(topic))
    assert len(drawn) == len(trie)


def test_empty_trie_finds_nothing():
    """A trie without patterns finds nothing."""
    assert (TopicTrie(".").find("a.b"), TopicTrie("/").find(""), len(TopicTrie("."))) == ([], [], 0)


def test_largest_bucket_of_a_trie():
    """The largest bucket counts the items with the same pattern, not items of different patterns."""
    trie = TopicTrie(".")
    assert trie.largest_bucket == 0
    for item, pattern in enumerate(["a.*", "a.#", "a.*", "b", "a.*"]):
        trie.add(AmqpPattern(pattern), item)
    assert (trie.largest_bucket, len(trie)) == (3, 5)
    assert sorted(trie.find("a.b")) == [0, 1, 2, 4]


def test_hostile_topic_is_looked_up_promptly():
    """A look-up takes bounded time for a topic with many tokens and patterns with many wildcards."""
    trie = TopicTrie(".")
    for item in range(60):
        trie.add(AmqpPattern("#.a." * item + "#"), item)
    with promptly():
        assert sorted(trie.find("a." * 2000 + "a")) == list(range(60))
