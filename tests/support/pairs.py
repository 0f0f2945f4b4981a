"""Pairs of matchers that nearly exclude each other, and messages that try them: the input of differential tests."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from typing import Any

from missive import StructuredMessage
from missive.errors import RegistrationError
from missive.matchers import (
    AmqpPattern,
    AnythingBut,
    Cidr,
    EventField,
    Every,
    Field,
    Header,
    IsInstance,
    Key,
    Matcher,
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
    Test,
    Topic,
    Wildcard,
)

INF = float("inf")
HUGE = 2**53
KINDS = ("field", "text", "topic", "header", "key", "nested", "event")
_TEXTS = [
    "",
    "a",
    "A",
    "ab",
    "aab",
    "ß",
    "ss",
    "SS",
    "ſ",
    "K",
    "k",
    "İ",
    "i̇",
    "x",
    "10.5.0.1",
    "::1",
    "a.b",
    "$a",
    "a/b",
]
_SCALARS: list[Any] = [None, True, False, 0, 1, 2, -1, 1.0, 1.5, 2.5, -0.0, 0.1, HUGE, HUGE + 1, 2**70, 1e300, *_TEXTS]
_WORDS = [
    "a",
    "A",
    "ab",
    "aa",
    "aab",
    "ß",
    "ss",
    "S",
    "K",
    "k",
    "İ",
    "i",
    ".",
    "orders.",
    ".created",
    "10.",
    "5.",
    "1",
    "/",
]
_ENDS = [0, 1, 2, -1, 1.5, 2.5, 0.5, HUGE, HUGE + 1, 2**70, 1e300, INF, -INF, 0.1]
_NUMBERS = [
    0,
    1,
    2,
    3,
    -2,
    0.0,
    1.0,
    1.5,
    2.5,
    1.25,
    2.25,
    -1.25,
    0.1,
    HUGE - 1,
    HUGE + 1,
    2**70 + 1,
    1e308,
    5e-324,
    10**310,
]
_NETWORKS = ["10.0.0.0/8", "10.4.0.0/14", "0.0.0.0/0", "10.0.0.1/32", "::/0", "::1/128", "2001:db8::/32", "fe80::/10"]
_EXPRESSIONS = [
    "a+",
    "[ab]*",
    "(?s).*b",
    r"\d+",
    "a.b",
    r"[a-z]+\.created",
    "a|b|ab",
    r"10\..*",
    "(a|bc){2,3}",
    "[^a]*",
]
_PIECES = [*_WORDS, "b", "$", "x", "0", "255", "fe80::", "2001:db8::", "::1", "orders", "created", ""]


class Given(StructuredMessage):
    """A message that is made with decoded content of any type."""

    def decode(self) -> object:
        """Refuse to decode: make the message with `holding`."""
        raise NotImplementedError


def _text_test(rng: random.Random) -> Test:
    kind, fold, word = rng.randrange(8), rng.random() < 0.3, "".join(rng.choices(_WORDS, k=rng.choice([1, 1, 2])))
    if kind < 3:
        return (Prefix, Suffix, Substring)[kind](word, ignore_case=fold)
    if kind == 3:
        pattern = f"{rng.choice(['*', '', 'a'])}{word}*{rng.choice([*_WORDS, ''])}{rng.choice(['', '*', 'b'])}"
        return Wildcard(re.sub(r"\*+", "*", pattern), ignore_case=fold)
    if kind == 4:
        return Cidr(rng.choice(_NETWORKS))
    if kind == 5:
        return Regex(rng.choice(_EXPRESSIONS), ignore_case=fold)
    return _topic_test(rng)


def _topic_test(rng: random.Random) -> Test:
    make, separator, words, last = rng.choice(
        [
            (NatsPattern, ".", ["a", "b", "*", "orders", "10"], ">"),
            (MqttFilter, "/", ["a", "b", "+", "", "$a"], "#"),
            (AmqpPattern, ".", ["a", "b", "*", "#", "", "10"], "#"),
        ]
    )
    tokens = rng.choices(words, k=rng.randint(1, 3)) + [last] * (rng.random() < 0.4)
    return make(separator.join(tokens) or last)


def _leaf(rng: random.Random) -> Test:
    kind = rng.random()
    if kind < 0.25:
        return OneOf(*rng.choices([*_SCALARS, b"a", b"\xff"], k=rng.randint(1, 3)))
    if kind < 0.45:
        low, high = sorted(rng.choices(_ENDS, k=2))
        bounds = {rng.choice(["gt", "ge"]): low, rng.choice(["lt", "le"]): high}
        with contextlib.suppress(RegistrationError):
            return Range(**dict(rng.sample(list(bounds.items()), k=rng.randint(1, 2))))
        return Range(ge=low)
    return IsInstance(rng.choice([str, bytes, int, float, bool, list, dict])) if kind < 0.55 else _text_test(rng)


def _test(rng: random.Random, depth: int = 0) -> Test:
    kind = rng.random()
    if kind < 0.7 or depth > 2:
        return _leaf(rng)
    if kind < 0.94:
        return rng.choice([AnythingBut, Some, Every])(_test(rng, depth + 1))
    return NoneOf(*(_test(rng, depth + 1) for _ in range(rng.randint(1, 3))))


def _selector(rng: random.Random, kind: str) -> Matcher[Any]:
    test = _text_test(rng) if kind in {"text", "topic"} and rng.random() < 0.8 else _test(rng)
    path = rng.choice(["a", ("a", "b")])
    return {
        "field": lambda: Field("a", test),
        "text": lambda: rng.choice([Topic, lambda one: Field("a", one)])(test),
        "topic": lambda: Topic(test),
        "header": lambda: Header("h", test),
        "key": lambda: Key(test),
        "nested": lambda: Field(path, test),
        "event": lambda: EventField(path, test),
    }[kind]()


def matcher(rng: random.Random, kind: str) -> Matcher[Any]:
    """Return a matcher of one to three tests at the same place, or at two places."""
    whole: Matcher[Any] | None = None
    for _ in range(rng.choice([1, 1, 2, 2, 3])):
        part = _selector(rng, kind)
        part = ~part if rng.random() < 0.25 else part
        whole = part if whole is None else whole & part if rng.random() < 0.8 else whole | part
    assert whole is not None
    return whole


def _strings(rng: random.Random, matchers: tuple[Matcher[Any], ...], count: int) -> list[str]:
    literals = [text for one in matchers for text in re.findall(r"'([^'\\]*)'", repr(one))]
    parts = [part for text in literals for part in re.split(r"[*>#+]", text) if len(part) < 20]
    pieces = [*_PIECES, *parts, *(part[:end] for part in parts for end in range(len(part)))]
    texts = ["".join(rng.choices(pieces, k=rng.choice([1, 1, 2, 2, 3, 4]))) for _ in range(count)]
    return [*_TEXTS, *texts, *(".".join(rng.choices(["10", "5", "0", "1", "255"], k=4)) for _ in range(count // 4))]


def _values(rng: random.Random, matchers: tuple[Matcher[Any], ...], message_cls: type[StructuredMessage]) -> list[Any]:
    values: list[Any] = [None, True, False, {}, *_NUMBERS, *_SCALARS, *_strings(rng, matchers, 60)]
    if message_cls is Given:
        values += [b"a", b"\xff", INF, -INF, (1,), ("a", "a")]
    return [*values, [], *(rng.choices(values, k=rng.randint(1, 3)) for _ in range(40))]


def messages(
    rng: random.Random, kind: str, matchers: tuple[Matcher[Any], ...], message_cls: type[StructuredMessage]
) -> Iterator[StructuredMessage]:
    """Yield messages with values that are likely to match."""
    values, texts = _values(rng, matchers, message_cls), _strings(rng, matchers, 100)
    yield message_cls.holding({})
    if kind in {"text", "topic"}:
        yield from (message_cls.holding({"a": text}, topic=text) for text in texts)
        yield from (message_cls.holding({"a": rng.choice(values)}, topic=rng.choice(texts)) for _ in range(40))
    elif kind in {"header", "key"}:
        held = [*texts, b"\xff", b"a", b"\xffa"]
        yield from (message_cls.holding({}, headers=[("h", one)], key=one) for one in held)
        for _ in range(40):
            yield message_cls.holding({}, headers=[("h", rng.choice(held)) for _ in range(rng.randint(2, 3))])
    else:
        yield from (message_cls.holding({"a": value}) for value in values)
        for value in values[:80] if kind != "field" else ():
            yield message_cls.holding({"a": {"b": value}})
            yield message_cls.holding({"a.b": value, "a": rng.choice(values)})
            yield message_cls.holding({"a": [{"b": value}, {"b": rng.choice(values)}, rng.choice(values)]})
