"""Topic patterns, token by token: whether two have a topic in common, and a trie to find those that match one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from missive.matchers.topics import AmqpPattern, MqttFilter, NatsPattern, TopicPattern


class _Wild:
    __slots__ = ()


ONE: Final = _Wild()
"""Stands for any one token."""
MANY: Final = _Wild()
"""Stands for any tokens, or none."""

Token: TypeAlias = str | _Wild

_MAX_WORK = 250_000
"""Tokens of one pattern times those of another, up to which two are compared."""
_MAX_READINGS = 1000
"""Ways to read one pattern against another, up to which one is asked to be within the other."""


@lru_cache(maxsize=16_384)
def tokens_of(pattern: TopicPattern) -> tuple[Token, ...]:
    """Return a pattern of any dialect in one alphabet; NATS's `>`, one or more, is one and then any."""
    tokens: list[Token] = []
    for token in pattern.tokens:
        if token == pattern.multi:
            tokens += [ONE, MANY] if isinstance(pattern, NatsPattern) else [MANY]
        else:
            tokens.append(ONE if token == pattern.single else token)
    return tuple(tokens)


@lru_cache(maxsize=16_384)
def _words_of(pattern: TopicPattern) -> frozenset[Token]:
    return frozenset(token for token in tokens_of(pattern) if isinstance(token, str))


def topics_disjoint(one: TopicPattern, other: TopicPattern) -> bool:
    """Tell whether it is proved that no topic matches both patterns, which are of one dialect."""
    a, b = tokens_of(one), tokens_of(other)
    return len(a) * len(b) <= _MAX_WORK and common_tokens(one, other) is None


def common_tokens(one: TopicPattern, other: TopicPattern) -> list[str] | None:
    """Return the tokens of a topic that matches both of two patterns of one dialect, or None where there is none.

    None also where the patterns are too long to be compared.
    """
    a, b = tokens_of(one), tokens_of(other)
    if len(a) * len(b) > _MAX_WORK:
        return None
    hidden = isinstance(one, MqttFilter)
    # Breadth first over what is left of the two, with the token that led there.
    start = (0, 0, True)
    reached_from: dict[tuple[int, int, bool], tuple[tuple[int, int, bool], str | None] | None] = {start: None}
    queue = [start]
    for state in queue:
        i, j, first = state
        if i == len(a) and j == len(b):
            return _trace(reached_from, state)
        for step, token in _steps(a, b, i, j):
            wild = (i < len(a) and a[i] in (ONE, MANY)) or (j < len(b) and b[j] in (ONE, MANY))
            if hidden and first and wild and token is not None and token.startswith("$"):
                continue  # MQTT: a leading wildcard never matches a topic that starts with $
            reached = (*step, first and token is None)
            if reached not in reached_from:
                reached_from[reached] = (state, token)
                queue.append(reached)
    return None


def _steps(a: tuple[Token, ...], b: tuple[Token, ...], i: int, j: int) -> Iterator[tuple[tuple[int, int], str | None]]:
    left = a[i] if i < len(a) else None
    right = b[j] if j < len(b) else None
    if left is not None and right is not None:
        taken = _both(left, right)
        if taken is not None:
            yield (i + (left is not MANY), j + (right is not MANY)), taken
    if left is MANY:
        yield (i + 1, j), None
    if right is MANY:
        yield (i, j + 1), None


def _both(left: Token, right: Token) -> str | None:
    """Return a token that both of two pattern tokens take, or None."""
    if isinstance(left, str):
        return left if not isinstance(right, str) or left == right else None
    return right if isinstance(right, str) else "x"


def _trace(
    reached_from: dict[tuple[int, int, bool], tuple[tuple[int, int, bool], str | None] | None],
    state: tuple[int, int, bool],
) -> list[str]:
    tokens: list[str] = []
    while (step := reached_from[state]) is not None:
        state, token = step
        if token is not None:
            tokens.append(token)
    return tokens[::-1]


def topics_within(one: TopicPattern, other: TopicPattern) -> bool:
    """Tell whether it is proved that every topic of one pattern matches another of the same dialect."""
    inner, outer = tokens_of(one), tokens_of(other)
    if not _words_of(other) <= _words_of(one):
        return False  # only a word takes a word of the outer one
    if len(inner) * len(outer) > _MAX_WORK:
        return False
    hidden = isinstance(one, MqttFilter)
    # Which lengths of `outer` can have taken what was read of `inner`, as bits. A wildcard of the inner one is a token
    # like no other, that only a wildcard can take; where it stands for many, any number of these must be taken.
    # A topic has at least one token, but for AMQP's empty one.
    pending = [(0, _skipping(1, outer), isinstance(one, AmqpPattern))]
    seen = set(pending)
    for number, reached, some in pending:
        if number == len(inner):
            if some and not reached >> len(outer) & 1:
                return False
            continue
        token = inner[number]
        taken = _skipping(_taking(reached, outer, token, hidden=hidden and number == 0), outer)
        many = token is MANY
        ways = [(number, taken, True), (number + 1, reached, some)] if many else [(number + 1, taken, True)]
        for way in ways:
            if way not in seen:
                seen.add(way)
                pending.append(way)
        if len(seen) > _MAX_READINGS:
            return False
    return True


def _taking(reached: int, outer: tuple[Token, ...], token: Token, *, hidden: bool) -> int:
    """Return which lengths have taken one more token; `hidden` where MQTT keeps one with $ from wildcards."""
    literal = isinstance(token, str)
    wild = not (hidden and isinstance(token, str) and token.startswith("$"))
    following = 0
    for at, taker in enumerate(outer):
        if reached >> at & 1:
            if taker is MANY and wild:
                following |= 1 << at
            elif (taker is ONE and wild) or (literal and taker == token):
                following |= 1 << at + 1
    return following


def _skipping(reached: int, outer: tuple[Token, ...]) -> int:
    """Add what is reached where `MANY` stands for nothing."""
    for at, taker in enumerate(outer):
        if taker is MANY and reached >> at & 1:
            reached |= 1 << at + 1
    return reached


class TopicTrie:
    """Patterns of one dialect, by their tokens: finds all that may match a topic in one walk over its tokens."""

    __slots__ = ("_entry", "_root", "_separator")

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self._root = _Node()
        self._entry: tuple[_Node, ...] = ()

    def add(self, pattern: TopicPattern, item: int) -> None:
        """Add a pattern, and what to return for it."""
        node = self._root
        for token in tokens_of(pattern):
            node = node.after(token)
        node.items.append(item)
        self._entry = ()

    def find(self, topic: str) -> list[int]:
        """Return the items of the patterns that match a topic; perhaps more, never fewer."""
        active: Sequence[_Node] = self._entry or self._sealed()
        for token in topic.split(self._separator):
            following: list[_Node] = []
            for node in active:
                if node.loops:
                    following.append(node)
                if (child := node.literal.get(token)) is not None:
                    following += child.at_once
                if (child := node.one) is not None:
                    following += child.at_once
            if not following:
                return []
            # Several ways may lead to one node, and each of them on to many.
            active = following if len(following) == 1 else list(dict.fromkeys(following))
        return [item for node in active for item in node.items]

    def _sealed(self) -> tuple[_Node, ...]:
        """Note for each node where it leads without a token."""
        for node in reversed(self._nodes()):
            node.at_once = (node,) if node.many is None else (node, *node.many.at_once)
        self._entry = self._root.at_once
        return self._entry

    @property
    def largest_bucket(self) -> int:
        """The most items with one pattern; a topic may match several patterns."""
        return max(len(node.items) for node in self._nodes())

    def _nodes(self) -> list[_Node]:
        nodes = [self._root]
        for node in nodes:
            nodes += [*node.literal.values(), *(child for child in (node.one, node.many) if child is not None)]
        return nodes

    def __len__(self) -> int:
        return sum(len(node.items) for node in self._nodes())


class _Node:
    __slots__ = ("at_once", "items", "literal", "loops", "many", "one")

    def __init__(self, *, loops: bool = False) -> None:
        self.literal: dict[str, _Node] = {}
        self.one: _Node | None = None
        self.many: _Node | None = None
        self.items: list[int] = []
        self.at_once: tuple[_Node, ...] = ()
        self.loops = loops

    def after(self, token: Token) -> _Node:
        """Return the node that a token leads to, made if there is none."""
        if token is ONE:
            self.one = self.one or _Node()
            return self.one
        if token is MANY:
            self.many = self.many or _Node(loops=True)
            return self.many
        if not isinstance(token, str):
            raise TypeError(token)
        return self.literal.setdefault(token, _Node())
