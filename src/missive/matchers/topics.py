"""Tests for topics, in the pattern languages of three broker families: NATS, MQTT and AMQP."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from missive.errors import RegistrationError
from missive.matchers.tests import Test
from missive.matchers.values import excerpt, plain

_MAX_AMQP = 255
"""Greatest length of an AMQP binding key, in bytes of UTF-8."""
_MAX_MQTT = 65_535
"""Greatest length of an MQTT filter, in bytes of UTF-8."""
_MAX_SHOWN = 80


class TopicPattern(Test):
    """Base of patterns that are compared with a topic token by token. A token may be a wildcard."""

    __slots__ = ("pattern", "tokens")
    separator: ClassVar[str]
    """The character between two tokens."""
    single: ClassVar[str]
    """The wildcard for one token."""
    multi: ClassVar[str]
    """The wildcard for several tokens."""

    pattern: str
    tokens: tuple[str, ...]
    """The tokens of the pattern, including wildcards."""

    def __init__(self, pattern: str) -> None:
        name = type(self).__name__
        if not isinstance(pattern, str):
            raise RegistrationError(f"{name} takes a str, not {type(pattern).__name__}")
        pattern = plain(pattern)
        tokens = tuple(pattern.split(self.separator))
        self._check(pattern, tokens)
        self._freeze(pattern, pattern=pattern, tokens=tokens)

    @abstractmethod
    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:
        """Raise `RegistrationError` for a pattern that the broker refuses."""

    def _invalid(self, pattern: str, reason: str) -> RegistrationError:
        return RegistrationError(f"{type(self).__name__}({excerpt(pattern)}) {reason}")

    def _begins(self, topic: list[str], tokens: tuple[str, ...]) -> bool:
        """Return whether a topic begins with tokens. A token may be the wildcard for one token."""
        for token, there in zip(tokens, topic, strict=False):  # noqa: SIM110 - all() takes twice as long
            if token not in (there, self.single):
                return False
        return True

    @property
    def expectation(self) -> str:
        """The pattern."""
        return f"a topic like {self.pattern!r}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pattern!r})"


class NatsPattern(TopicPattern):
    """The value is a NATS subject that matches a pattern: `Topic(NatsPattern("orders.*.created"))`.

    `*` matches one token. `>` matches one or more tokens, in the last place only. A wildcard is a whole token: `a*` is
    literal. A subject with an empty token, which every server refuses, never matches.
    """

    __slots__ = ()
    separator = "."
    single = "*"
    multi = ">"

    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:
        if "" in tokens:
            raise self._invalid(
                pattern, "has an empty token, which no subject has: write a token on each side of a dot"
            )
        if any(space in pattern for space in " \t\n\r\f"):
            raise self._invalid(pattern, "contains a space, which no subject contains: remove it")
        if ">" in tokens[:-1]:
            raise self._invalid(pattern, "has > before its end: use > for the last token only, and * elsewhere")

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        tokens = self.tokens
        # Split off one token more than the pattern has; that suffices to find out that there are more.
        topic = value.split(".", len(tokens))
        if tokens[-1] == ">":
            fits = len(topic) >= len(tokens) and self._begins(topic, tokens[:-1])
        else:
            fits = len(topic) == len(tokens) and self._begins(topic, tokens)
        return fits and "" not in topic and ".." not in topic[-1] and topic[-1][0] != "." != topic[-1][-1]


class MqttFilter(TopicPattern):
    """The value is an MQTT topic that matches a filter: `Topic(MqttFilter("sensors/+/temperature"))`.

    `+` matches one level. `#` matches zero or more levels, in the last place only: `sport/#` matches `sport`. A
    wildcard is a whole level. Levels may be empty. A filter that starts with a wildcard never matches a topic that
    starts with `$`.
    """

    __slots__ = ()
    separator = "/"
    single = "+"
    multi = "#"

    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:
        if not pattern:
            raise self._invalid(pattern, "is empty, which no topic is: use # to match every topic")
        if _size(pattern) > _MAX_MQTT:
            raise self._invalid(pattern, f"is longer than the {_MAX_MQTT} bytes that a broker accepts: shorten it")
        if "\0" in pattern:
            raise self._invalid(pattern, "contains a null character, which no topic contains: remove it")
        if tokens[0] == "$share":
            own = "/".join(tokens[2:])
            way_out = f"MqttFilter({own!r})" if 0 < len(own) <= _MAX_SHOWN else "the filter that follows the group"
            raise self._invalid(pattern, f"is a shared subscription, which only a broker can honour: use {way_out}")
        if "#" in tokens[:-1]:
            raise self._invalid(pattern, "has # before its end: use # for the last level only, and + elsewhere")
        if any(len(token) > 1 and ("+" in token or "#" in token) for token in tokens):
            raise self._invalid(pattern, "has a wildcard inside a level: write + or # as a whole level")

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, str) or not value:
            return False
        tokens = self.tokens
        if value[0] == "$" and tokens[0] in ("+", "#"):
            return False
        topic = value.split("/", len(tokens))
        if tokens[-1] == "#":
            return len(topic) >= len(tokens) - 1 and self._begins(topic, tokens[:-1])
        return len(topic) == len(tokens) and self._begins(topic, tokens)


class AmqpPattern(TopicPattern):
    """The value is a routing key that matches the binding key of a topic exchange: `Topic(AmqpPattern("*.error.#"))`.

    `*` matches one word. `#` matches zero or more words, in any place. A wildcard is a whole word. As in RabbitMQ,
    words may be empty, and an empty routing key has no words. The number of `#` has no limit, although RabbitMQ refuses
    bindings with more than two since pull request 17039 of July 2026: the pattern is matched here, not in the broker.
    """

    __slots__ = ("_anyway", "_goal", "_loops", "_takers")
    separator = "."
    single = "*"
    multi = "#"
    _takers: dict[str, int]
    _anyway: int
    _loops: int
    _goal: int

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern)
        # A non-deterministic automaton. Bit n of its state is set if the words so far can match the first n words of
        # the pattern, not counting #. The automaton follows all readings of a routing key at once, without
        # backtracking.
        wanted: list[str] = []
        loops = 0
        for word in self.tokens:
            if word == "#":
                loops |= 1 << len(wanted)
            else:
                wanted.append(word)
        anyway = sum(1 << at for at, word in enumerate(wanted) if word == "*")
        takers = dict.fromkeys(wanted, anyway)
        for at, word in enumerate(wanted):
            takers[word] |= 1 << at
        derived = {"_takers": takers, "_anyway": anyway, "_loops": loops, "_goal": 1 << len(wanted)}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:  # noqa: ARG002 - binding keys take any words
        if not pattern:
            raise self._invalid(pattern, "is true of the empty routing key only: use Equals('')")
        if _size(pattern) > _MAX_AMQP:
            raise self._invalid(pattern, f"is longer than the {_MAX_AMQP} bytes that a broker accepts: shorten it")

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        takers, anyway, loops = self._takers, self._anyway, self._loops
        state = 1
        for word in value.split(".") if value else ():
            state = (state & takers.get(word, anyway)) << 1 | state & loops
            if not state:
                return False
        return bool(state & self._goal)


def _size(pattern: str) -> int:
    return len(pattern.encode("utf-8", "surrogatepass"))
