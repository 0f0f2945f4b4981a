"""Topic patterns, token by token: comparison of two patterns, and a trie that finds the patterns of a topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from missive.matchers.topics import AmqpPattern, MqttFilter, NatsPattern, TopicPattern


class _Wild:
    """A wildcard token, compared by identity."""

    __slots__ = ()


ONE: Final = _Wild()
"""Matches exactly one token."""
MANY: Final = _Wild()
"""Matches zero or more tokens."""

Token: TypeAlias = str | _Wild

_MAX_WORK = 250_000
"""Product of the token counts of two patterns up to which they are compared."""
_MAX_READINGS = 1000
"""States of the search for a counterexample to containment, up to which the search goes on."""


@lru_cache(maxsize=16_384)
def tokens_of(pattern: TopicPattern) -> tuple[Token, ...]:
    """Return the tokens of a pattern of any dialect in one alphabet. NATS's `>` becomes `ONE` and `MANY`."""
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
    """Return whether it is proved that no topic matches both of two patterns of one dialect."""
    a, b = tokens_of(one), tokens_of(other)
    return len(a) * len(b) <= _MAX_WORK and common_tokens(one, other) is None


def common_tokens(one: TopicPattern, other: TopicPattern) -> list[str] | None:
    """Return the tokens of a topic that matches both of two patterns of one dialect.

    Return None where no topic matches both, or where the patterns are too long to be compared.
    """
    a, b = tokens_of(one), tokens_of(other)
    if len(a) * len(b) > _MAX_WORK:
        return None
    hidden = isinstance(one, MqttFilter)
    # Search breadth-first. A state is a position in each pattern; store the token that leads to each state.
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
    """Return a token that both of two pattern tokens match, or None."""
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
    """Return whether it is proved that every topic of one pattern matches another pattern of the same dialect."""
    inner, outer = tokens_of(one), tokens_of(other)
    if not _words_of(other) <= _words_of(one):
        return False  # only the same word of the inner pattern can match a word of the outer pattern
    if len(inner) * len(outer) > _MAX_WORK:
        return False
    hidden = isinstance(one, MqttFilter)
    # A state has the position in `inner`, the positions in `outer` that the same tokens can reach (as bits), and
    # whether the topic has a token yet. A wildcard of `inner` stands for a token that only a wildcard of `outer`
    # matches; `MANY` stands for any number of such tokens. Only AMQP has topics without tokens.
    pending = [(0, skipping(1, outer), isinstance(one, AmqpPattern))]
    seen = set(pending)
    for number, reached, some in pending:
        if number == len(inner):
            if some and not reached >> len(outer) & 1:
                return False
            continue
        token = inner[number]
        taken = skipping(taking(reached, outer, token, hidden=hidden and number == 0), outer)
        many = token is MANY
        ways = [(number, taken, True), (number + 1, reached, some)] if many else [(number + 1, taken, True)]
        for way in ways:
            if way not in seen:
                seen.add(way)
                pending.append(way)
        if len(seen) > _MAX_READINGS:
            return False
    return True


def taking(reached: int, outer: tuple[Token, ...], token: Token, *, hidden: bool) -> int:
    """Return the positions in `outer` after one more token. With `hidden`, wildcards do not match a token with `$`."""
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


def skipping(reached: int, outer: tuple[Token, ...]) -> int:
    """Add the positions that are reached when `MANY` matches zero tokens."""
    for at, taker in enumerate(outer):
        if taker is MANY and reached >> at & 1:
            reached |= 1 << at + 1
    return reached


class TopicTrie:
    """A trie of the patterns of one dialect. One walk over the tokens of a topic finds all patterns that can match."""

    __slots__ = ("_entry", "_root", "_separator")

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self._root = _Node()
        self._entry: tuple[_Node, ...] = ()

    def add(self, pattern: TopicPattern, item: int) -> None:
        """Add a pattern, and the item that `find` returns for it."""
        node = self._root
        for token in tokens_of(pattern):
            node = node.after(token)
        node.items.append(item)
        self._entry = ()

    def find(self, topic: str) -> list[int]:
        """Return the items of all patterns that match a topic, and perhaps items of other patterns."""
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
            # Remove duplicates: several paths may lead to one node, and their number can grow with each token.
            active = following if len(following) == 1 else list(dict.fromkeys(following))
        return [item for node in active for item in node.items]

    def _sealed(self) -> tuple[_Node, ...]:
        """Store in each node the nodes that it reaches without a token."""
        for node in reversed(self._nodes()):
            node.at_once = (node,) if node.many is None else (node, *node.many.at_once)
        self._entry = self._root.at_once
        return self._entry

    @property
    def largest_bucket(self) -> int:
        """Largest number of items with the same pattern. A topic can match several patterns."""
        return max(len(node.items) for node in self._nodes())

    def _nodes(self) -> list[_Node]:
        nodes = [self._root]
        for node in nodes:
            nodes += [*node.literal.values(), *(child for child in (node.one, node.many) if child is not None)]
        return nodes

    def __len__(self) -> int:
        return sum(len(node.items) for node in self._nodes())


class _Node:
    """The state of a trie after some tokens."""

    __slots__ = ("at_once", "items", "literal", "loops", "many", "one")

    def __init__(self, *, loops: bool = False) -> None:
        self.literal: dict[str, _Node] = {}
        self.one: _Node | None = None
        self.many: _Node | None = None
        self.items: list[int] = []
        self.at_once: tuple[_Node, ...] = ()
        self.loops = loops

    def after(self, token: Token) -> _Node:
        """Return the node that a token leads to. Create the node if necessary."""
        if token is ONE:
            self.one = self.one or _Node()
            return self.one
        if token is MANY:
            self.many = self.many or _Node(loops=True)
            return self.many
        if not isinstance(token, str):
            raise TypeError(token)
        return self.literal.setdefault(token, _Node())
