"""Machines: tests on text as automata, which read a text character by character.

The product of several machines decides whether a text passes some tests and fails others.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from missive.matchers.network import Cidr
from missive.matchers.tests import Test
from missive.matchers.text import Prefix, Regex, Substring, Suffix, Wildcard
from missive.matchers.topics import AmqpPattern, MqttFilter, NatsPattern, TopicPattern
from missive.routing.automata import DEAD, Machine
from missive.routing.expressions import expression_machine
from missive.routing.globs import Glob, glob_of
from missive.routing.normal import DIALECTS, literals_of
from missive.routing.topics import skipping, taking, tokens_of

_OTHER = "\ue000"
"""Stands for a word that no token of a pattern starts with."""


class _GlobMachine(Machine):
    """Chunks with any text between them. The state has a bit for each position that the text may have reached."""

    def __init__(self, glob: Glob) -> None:
        self._folded = glob.folded
        self._bits: dict[str, int] = {}
        self._loops = 0
        at = 0
        for number, chunk in enumerate(glob.chunks):
            if number:
                self._loops |= 1 << at
            for char in chunk:
                self._bits[char] = self._bits.get(char, 0) | 1 << at
                at += 1
        self._end = at
        self.start = 1

    def step(self, state: int, char: str) -> int | None:
        for one in char.casefold() if self._folded else char:
            state = (state & self._bits.get(one, 0)) << 1 | state & self._loops
        return state or DEAD

    def accepts(self, state: int) -> bool:
        return bool(state >> self._end & 1)

    def distance(self, state: int) -> int:
        return self._end - state.bit_length() + 1

    def sees(self, char: str) -> Hashable:
        return tuple(self._bits.get(one, 0) for one in (char.casefold() if self._folded else char))

    def characters(self) -> Iterable[str]:
        return [one for char in self._bits for one in folding_to(char)] if self._folded else self._bits


class _LiteralMachine(Machine):
    """Some texts. The state is the text so far."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(texts)
        self._starts = frozenset(text[:end] for text in self._texts for end in range(len(text) + 1))
        self._characters = frozenset("".join(self._texts))
        self.start = ""

    def step(self, state: str, char: str) -> str | None:
        return text if (text := state + char) in self._starts else DEAD

    def accepts(self, state: str) -> bool:
        return state in self._texts

    def distance(self, state: str) -> int:
        return min(len(text) for text in self._texts if text.startswith(state)) - len(state)

    def sees(self, char: str) -> Hashable:
        return char if char in self._characters else None

    def characters(self) -> Iterable[str]:
        return self._characters


class _TopicMachine(Machine):
    """A topic pattern. The state has the positions that the words so far may have reached, and the word begun."""

    def __init__(self, pattern: TopicPattern) -> None:
        self._tokens = tokens_of(pattern)
        self._words = frozenset(token for token in self._tokens if isinstance(token, str))
        self._starts = frozenset(word[:end] for word in self._words for end in range(len(word) + 1)) | {""}
        self._separator = pattern.separator
        self._nats, self._mqtt = isinstance(pattern, NatsPattern), isinstance(pattern, MqttFilter)
        self._amqp = isinstance(pattern, AmqpPattern)
        self._characters = frozenset("".join(self._words)) | {pattern.separator} | ({"$"} if self._mqtt else set())
        sizes = [len(token) + 1 if isinstance(token, str) else 1 for token in self._tokens]
        self._left = [sum(sizes[at:]) for at in range(len(sizes) + 1)]
        self.start = (skipping(1, self._tokens), "", True)

    def _after_word(self, state: tuple[int, str, bool]) -> int:
        reached, word, first = state
        if self._nats and not word:
            return 0
        return skipping(taking(reached, self._tokens, word, hidden=self._mqtt and first), self._tokens)

    def step(self, state: tuple[int, str, bool], char: str) -> tuple[int, str, bool] | None:
        reached, word, first = state
        if char == self._separator:
            following = self._after_word(state)
            return (following, "", False) if following else DEAD
        longer = word + char
        if longer not in self._starts:
            longer = f"${_OTHER}" if first and self._mqtt and longer[0] == "$" else _OTHER
        return reached, longer, first

    def accepts(self, state: tuple[int, str, bool]) -> bool:
        if state == self.start and not self._nats:
            # A topic without characters has no words in AMQP, and does not exist in MQTT.
            return self._amqp and bool(self.start[0] >> len(self._tokens) & 1)
        return bool(self._after_word(state) >> len(self._tokens) & 1)

    def distance(self, state: tuple[int, str, bool]) -> int:
        reached, word, _ = state
        at = reached.bit_length() - 1
        return max(self._left[at] - len(word), 0)

    def sees(self, char: str) -> Hashable:
        return char if char in self._characters else None

    def characters(self) -> Iterable[str]:
        return self._characters


class _AddressMachine(Machine):
    """The IPv4 addresses of a network: four numbers, each in a range of its own."""

    def __init__(self, first: int, last: int) -> None:
        self._numbers = _numbers_of(first.to_bytes(4, "big"), last.to_bytes(4, "big"))
        self.start = (0, "")

    def step(self, state: tuple[int, str], char: str) -> tuple[int, str] | None:
        return _after_digit(self._numbers, *state, char)

    def accepts(self, state: tuple[int, str]) -> bool:
        return state[0] == _LAST and "" in self._numbers[_LAST][state[1]][1]

    def distance(self, state: tuple[int, str]) -> int:
        return 2 * (_LAST - state[0]) + ("" not in self._numbers[state[0]][state[1]][1])

    def sees(self, char: str) -> Hashable:
        return char if char in "0123456789." else None

    def characters(self) -> Iterable[str]:
        return "0123456789."


_LAST = 3
"""Position of the last number in an IPv4 address."""
_Numbers = dict[str, tuple[str, frozenset[str]]]
"""For each beginning of a number: an equivalent beginning, and the digits that may follow."""


@lru_cache(maxsize=256)
def _decimal(low: int, high: int) -> _Numbers:
    texts = [str(number) for number in range(low, high + 1)]
    beginnings: _Numbers = {}
    first: dict[frozenset[str], str] = {}
    for start in dict.fromkeys(text[:end] for text in ["", *texts] for end in range(len(text) + 1)):
        endings = frozenset(text[len(start) :] for text in texts if text.startswith(start))
        beginnings[start] = (first.setdefault(endings, start), endings)
    return beginnings


def _numbers_of(first: bytes, last: bytes) -> list[_Numbers]:
    return [_decimal(low, high) for low, high in zip(first, last, strict=True)]


def _after_digit(numbers: list[_Numbers], at: int, text: str, char: str) -> tuple[int, str] | None:
    """Return the state of an IPv4 address after a digit or a dot."""
    if char == ".":
        return (at + 1, "") if at < _LAST and "" in numbers[at][text][1] else DEAD
    known = numbers[at].get(text + char)
    return DEAD if known is None else (at, known[0])


_Reading = tuple[int, str, bool, int]
"""A reading of an IPv6 address so far: the number of groups before this one (from 16: of numbers of an IPv4 address at
the end), the digits of this one, whether `::` was read, and the number of colons just read."""
_GROUPS, _LONG = 8, 16


class _LongAddressMachine(Machine):
    """The IPv6 addresses of a network: eight groups; `::` stands for zeros. The state has all readings."""

    def __init__(self, first: int, last: int) -> None:
        low, high = first.to_bytes(16, "big"), last.to_bytes(16, "big")
        self._ranges = [
            (int.from_bytes(low[at : at + 2], "big"), int.from_bytes(high[at : at + 2], "big"))
            for at in range(0, 16, 2)
        ]
        self._numbers = _numbers_of(low[12:], high[12:])
        self.start: frozenset[_Reading] = frozenset([(0, "", False, 0)])

    def step(self, state: frozenset[_Reading], char: str) -> Any:
        following = frozenset(one for reading in state for one in self._after(reading, char))
        return following or DEAD

    def _after(self, reading: _Reading, char: str) -> Iterator[_Reading]:
        at, text, gap, colons = reading
        if at >= _LONG:
            after = _after_digit(self._numbers, at - _LONG, text, char)
            if after is not None:
                yield after[0] + _LONG, after[1], gap, 0
        elif char == ":":
            yield from self._after_colon(reading)
        elif char in _HEX and at < _GROUPS and not (colons == 1 and at == 0):
            if (longer := self._digits(at, text + char)) is not None:
                yield at, longer, gap, 0
            if at == _GROUPS - 2 and not text and colons and (known := self._numbers[0].get(char)) is not None:
                yield _LONG, known[0], gap, 0

    def _after_colon(self, reading: _Reading) -> Iterator[_Reading]:
        at, text, gap, colons = reading
        if text:
            if at < _GROUPS - 1 and self._is_whole(at, text):
                yield at + 1, "", gap, 1
        elif colons == 0 and at == 0:
            yield at, "", gap, 1
        elif colons == 1 and not gap:
            for end in range(at + 1, _GROUPS + 1):
                if self._ranges[end - 1][0] != 0:
                    break
                yield end, "", True, 2

    def _is_whole(self, at: int, text: str) -> bool:
        low, high = self._ranges[at]
        return text[0] == "*" or low <= int(text, 16) <= high

    def _digits(self, at: int, text: str) -> str | None:
        """Return the digits of a group, as stars if any digits may follow, or None if no group begins like this."""
        low, high = self._ranges[at]
        size = 4 - len(text)
        if size < 0:
            return None
        if text[0] == "*":
            return "*" * len(text)
        number = int(text, 16)
        ends = [(number << 4 * more, (number + 1 << 4 * more) - 1) for more in range(size + 1)]
        if all(low <= least and most <= high for least, most in ends):
            return "*" * len(text)
        return text.lower() if any(least <= high and low <= most for least, most in ends) else None

    def accepts(self, state: frozenset[_Reading]) -> bool:
        return any(
            (at == _GROUPS - 1 and text and self._is_whole(at, text))
            or (at == _GROUPS and colons == 2)  # noqa: PLR2004 - the address ends in ::
            or (at == _LONG + _LAST and "" in self._numbers[_LAST][text][1])
            for at, text, _, colons in state
        )

    def distance(self, state: frozenset[_Reading]) -> int:
        return min(
            2 * (_LONG + _LAST - at) if at >= _LONG else 2 * (_GROUPS - at) - bool(text) for at, text, _, _ in state
        )

    def sees(self, char: str) -> Hashable:
        return char.lower() if char in _HEX or char in ":." else None

    def characters(self) -> Iterable[str]:
        return _HEX + ":."


_HEX = "0123456789abcdefABCDEF"


@lru_cache(maxsize=4096)
def machine_of(test: Test) -> Machine | None:
    """Return the machine of a test on text, or None for a test that has none, such as a user's own."""
    if (finite := literals_of(test)) is not None:
        return _LiteralMachine(value for value in finite if isinstance(value, str))
    if type(test) in (Prefix, Suffix, Substring, Wildcard):
        glob = glob_of(test)
        return None if glob is None else _GlobMachine(glob)
    if isinstance(test, DIALECTS) and type(test) in DIALECTS:
        return _TopicMachine(test)
    if type(test) is Cidr:
        return (_AddressMachine if test.version == 4 else _LongAddressMachine)(test.first, test.last)  # noqa: PLR2004 - IPv4
    if type(test) is Regex:
        return expression_machine(test.pattern, ignore_case=test.ignore_case)
    return None


@lru_cache(maxsize=1)
def _foldings() -> dict[str, list[str]]:
    """Return the characters whose case-folded form contains a given character, except the character itself."""
    found: dict[str, list[str]] = {}
    for number in range(0x1F000):
        char = chr(number)
        folded = char.casefold()
        if folded != char:
            for one in folded:
                found.setdefault(one, []).append(char)
    return found


def folding_to(char: str) -> list[str]:
    """Return the characters whose case-folded form contains a character."""
    return [char, *_foldings().get(char, ())]
