"""Tests on topics, in the words of three families of brokers: NATS subjects, MQTT filters, AMQP binding keys."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from missive.errors import RegistrationError
from missive.matchers.tests import Test
from missive.matchers.values import plain

_MOST_SHOWN = 80
"""Characters of a pattern that an error shows."""

_LONGEST_AMQP = 255
_LONGEST_MQTT = 65_535


class TopicPattern(Test):
    """Base of patterns that a topic matches token by token; a token that is a wildcard stands for others."""

    __slots__ = ("pattern", "tokens")
    separator: ClassVar[str]
    """What is between two tokens."""
    single: ClassVar[str]
    """The wildcard for one token."""
    multi: ClassVar[str]
    """The wildcard for several tokens."""

    pattern: str
    tokens: tuple[str, ...]
    """The pattern's tokens, wildcards included."""

    def __init__(self, pattern: str) -> None:
        name = type(self).__name__
        if not isinstance(pattern, str):
            raise RegistrationError(f"{name} takes a str, and not a {type(pattern).__name__}")
        pattern = plain(pattern)
        tokens = tuple(pattern.split(self.separator))
        self._check(pattern, tokens)
        self._freeze(pattern, pattern=pattern, tokens=tokens)

    @abstractmethod
    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:
        """Raise for what the broker would not take as a pattern."""

    def _wrong(self, pattern: str, why: str) -> RegistrationError:
        shown = repr(pattern) if len(pattern) <= _MOST_SHOWN else f"{pattern[:_MOST_SHOWN]!r}…"
        return RegistrationError(f"{type(self).__name__}({shown}) {why}")

    def _begins(self, topic: list[str], tokens: tuple[str, ...]) -> bool:
        """Tell whether a topic begins with tokens, of which some may be wildcards for one."""
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
    """The value is a NATS subject that a pattern matches: `Topic(NatsPattern("orders.*.created"))`.

    `*` is one token; `>` is one or more, and only ever the last. A wildcard is a whole token: `a*` is itself. A subject
    with an empty token, which no server takes, never matches.
    """

    __slots__ = ()
    separator = "."
    single = "*"
    multi = ">"

    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:
        if "" in tokens:
            raise self._wrong(pattern, "has an empty token, as no subject has: one stands on each side of a dot")
        if any(space in pattern for space in " \t\n\r\f"):
            raise self._wrong(pattern, "has a space in it, as no subject has")
        if ">" in tokens[:-1]:
            raise self._wrong(pattern, "has > before its end: it is the last token, and * is one token anywhere")

    def __call__(self, value: Any) -> bool:
        if not isinstance(value, str):
            return False
        tokens = self.tokens
        # One more than are asked for is enough to know that there are more.
        topic = value.split(".", len(tokens))
        if tokens[-1] == ">":
            fits = len(topic) >= len(tokens) and self._begins(topic, tokens[:-1])
        else:
            fits = len(topic) == len(tokens) and self._begins(topic, tokens)
        return fits and "" not in topic and ".." not in topic[-1] and topic[-1][0] != "." != topic[-1][-1]


class MqttFilter(TopicPattern):
    """The value is an MQTT topic that a filter matches: `Topic(MqttFilter("sensors/+/temperature"))`.

    `+` is one level, `#` is any number of them, also none, and only ever the last: `sport/#` matches `sport`. A
    wildcard is a whole level. Levels may be empty. A filter that starts with a wildcard never matches a topic that
    starts with `$`.
    """

    __slots__ = ()
    separator = "/"
    single = "+"
    multi = "#"

    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:
        if not pattern:
            raise self._wrong(pattern, "is empty, as no topic is: # matches every one")
        if _size(pattern) > _LONGEST_MQTT:
            raise self._wrong(pattern, f"is longer than the {_LONGEST_MQTT} bytes of a filter: no broker takes it")
        if "\0" in pattern:
            raise self._wrong(pattern, "has a null character in it, as no topic has")
        if tokens[0] == "$share":
            own = "/".join(tokens[2:])
            way_out = f"MqttFilter({own!r})" if 0 < len(own) <= _MOST_SHOWN else "the filter that follows the group"
            raise self._wrong(pattern, f"is a shared subscription, which only its broker can keep: use {way_out}")
        if "#" in tokens[:-1]:
            raise self._wrong(pattern, "has # before its end: it is the last level, and + is one level anywhere")
        if any(len(token) > 1 and ("+" in token or "#" in token) for token in tokens):
            raise self._wrong(pattern, "has a wildcard in a level with something else: + and # are a whole level")

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
    """The value is a routing key that a topic exchange's binding key matches: `Topic(AmqpPattern("*.error.#"))`.

    `*` is one word, `#` is any number of them, also none, anywhere. A wildcard is a whole word. Words may be empty, as
    RabbitMQ has it; an empty routing key has no words at all.
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
        # Bit n of a state stands for: n words of the pattern, not counting #, have been found. So all the ways to
        # read a routing key are followed at once, and there is nothing to go back to.
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

    def _check(self, pattern: str, tokens: tuple[str, ...]) -> None:  # noqa: ARG002 - any words are a binding key
        if not pattern:
            raise self._wrong(pattern, "is true of the empty routing key alone: use Equals('')")
        if _size(pattern) > _LONGEST_AMQP:
            raise self._wrong(pattern, f"is longer than the {_LONGEST_AMQP} bytes of a binding key: no broker takes it")

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
