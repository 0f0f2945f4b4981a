"""The index: find the few matchers that can match a message, at a cost that does not grow with their number.

The index is only a filter. The matcher of each candidate decides: a dict treats `True`, `1` and `1.0` as one key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from missive.fields import MISSING, member, members
from missive.matchers.selectors import Place
from missive.matchers.tests import Equals, Test
from missive.matchers.values import Scalar
from missive.messages import Message
from missive.routing.conflicts import analyse
from missive.routing.normal import Conjunction
from missive.routing.places import NEVER, Items, PlaceIndex, collect, insert, selectivity

if TYPE_CHECKING:
    from missive.matchers.algebra import Matcher

_MAX_PLACES = 64
"""Number of places, and of sets of places, that are looked up one by one. Beyond it, the message drives the look-up."""


class Index:
    """An immutable index of matchers. A matcher's number is its position in the given sequence."""

    def __init__(self, matchers: Sequence[Matcher[Any]]) -> None:
        alternatives = [
            (number, alternative, alternative.key_values)
            for number, matcher in enumerate(matchers)
            for alternative in analyse(matcher).alternatives
        ]
        # Include alternatives that no message meets: even they are unknown where the body cannot be decoded.
        self._reads_content = any(part.requires is not Message for matcher in matchers for part in matcher.walk())
        self.residual: tuple[int, ...] = ()
        """Matchers that are candidates for every message, because the index cannot look them up."""
        self._places: dict[Place, PlaceIndex] = {}
        self._tables: dict[tuple[Place, ...], dict[tuple[Scalar, ...], Items]] = {}
        self._fill(alternatives)
        for index in self._places.values():
            index.seal()
        self._compile()

    # Building

    def _fill(self, alternatives: list[tuple[int, Conjunction, dict[Place, tuple[Scalar, ...]]]]) -> None:
        shapes = Counter(shape for _, _, wanted in alternatives if len(shape := _shape(wanted)) > 1)
        frequent = {shape for shape, _ in shapes.most_common(_MAX_PLACES)}
        common = Counter((p, v) for _, _, wanted in alternatives for p, values in wanted.items() for v in values)
        residual: dict[int, None] = {}
        for number, alternative, wanted in alternatives:
            shape = _shape(wanted)
            if shape in frequent:
                table = self._tables.setdefault(shape, {})
                for key in product(*(wanted[place] for place in shape)):
                    insert(table, key, number)
                continue
            place, tests = _access_path(alternative, wanted, common)
            if place is None:
                residual[number] = None
            for test in tests:
                self._places.setdefault(place, PlaceIndex()).add(test, number)  # type: ignore[arg-type]  # is a place
        self.residual = tuple(residual)

    def _compile(self) -> None:
        shaped = dict.fromkeys(place for shape in self._tables for place in shape)
        by_message = len(self._places.keys() | shaped.keys()) > _MAX_PLACES
        singly = shaped if by_message else dict.fromkeys((*shaped, *self._places))
        slots = {place: slot for slot, place in enumerate(sorted(singly, key=lambda place: place[0] != "field"))}
        # Fields come first, because they share the decoded body.
        self._fields = [(p[1:], None if by_message else self._places.get(p)) for p in slots if p[0] == "field"]
        self._envelope = [
            (p[0], p[-1], None if by_message else self._places.get(p)) for p in slots if p[0] not in {"field", "event"}
        ]
        self._shapes = [(tuple(slots[place] for place in shape), table) for shape, table in self._tables.items()]
        self._single_field: tuple[str, PlaceIndex] | None = None
        """The field of the body that looks up all matchers, where one field is enough."""
        if len(slots) == len(self._fields) == 1 and not (self._shapes or self.residual or by_message):
            (path, index), *_ = self._fields
            if len(path) == 1 and index is not None and len(self._places) == 1:
                self._single_field = (path[0], index)
        self._event: _EventNode | None = None
        self._trie: _Node | None = None
        self._headers: dict[str, PlaceIndex] = {}
        if by_message:
            self._trie = _Node()
            for place, index in self._places.items():
                if place[0] == "field":
                    self._trie.add(place[1:], index)
                elif place[0] == "header":
                    self._headers[place[1]] = index
                elif place[0] != "event":
                    self._envelope.append((place[0], place[-1], index))
        for place, index in self._places.items():
            if place[0] == "event":
                self._event = self._event or _EventNode()
                self._event.add(place[1:], index)

    # Figures for the check

    @property
    def shapes(self) -> list[tuple[tuple[Place, ...], int]]:
        """The places that are looked up, alone or together, each set with its number of keys."""
        return [(shape, len(table)) for shape, table in self._tables.items()] + [
            ((place,), len(index)) for place, index in self._places.items()
        ]

    @property
    def largest_bucket(self) -> int:
        """Largest number of candidates that one look-up can find."""
        tables = self._tables.values()
        buckets = [len(items) if isinstance(items, list) else 1 for table in tables for items in table.values()]
        return max([0, *buckets, *(index.largest_bucket for index in self._places.values())])

    # Look-up

    @property
    def single_field(self) -> tuple[str, dict[str, int]] | None:
        """The field that looks up all matchers, if one is enough, and its strings that lead to one matcher only."""
        return None if self._single_field is None else (self._single_field[0], self._single_field[1].unique)

    def candidates(self, message: Message) -> list[int]:
        """Return the numbers of all matchers that match a message, and perhaps others, in ascending order.

        Raise `DecodingError` when the look-up needs the body and the body cannot be decoded.
        """
        if self._single_field is not None:
            return self._by_single_field(*self._single_field, message.content)  # type: ignore[attr-defined]  # as below
        found = list(self.residual)
        values: list[Any] = []
        if self._reads_content:
            self._search_fields(message.content, values, found)  # type: ignore[attr-defined]  # checked at registration
        if self._envelope:
            self._search_envelope(message, values, found)
        if self._headers:
            by_name = message.headers.by_name
            for name in _shared_names(self._headers, by_name):
                self._headers[name].find(by_name[name], found)
        for slots, table in self._shapes:
            try:
                items = table.get(tuple([values[slot] for slot in slots]))
            except (TypeError, ValueError):  # a list or an object has no hash
                continue
            if items is not None:
                collect(items, found)
        return sorted(set(found)) if len(found) > 1 else found

    @staticmethod
    def _by_single_field(name: str, index: PlaceIndex, content: Any) -> list[int]:
        found: list[int] = []
        value = content.get(name, MISSING) if isinstance(content, dict) else member(content, name)
        if value is not MISSING:
            index.find(value, found)
        return sorted(set(found)) if len(found) > 1 else found

    def _search_fields(self, content: Any, values: list[Any], found: list[int]) -> None:
        for path, index in self._fields:
            value = content
            for segment in path:
                value = value.get(segment, MISSING) if isinstance(value, dict) else member(value, segment)
            values.append(value)
            if index is not None and value is not MISSING:
                index.find(value, found)
        if self._trie is not None:
            self._search_trie(self._trie, content, found)
        if self._event is not None and isinstance(content, dict):
            self._search_event(self._event, content, found)

    def _search_envelope(self, message: Message, values: list[Any], found: list[int]) -> None:
        for kind, name, index in self._envelope:
            value = _in_envelope(message, kind, name)
            values.append(value)
            if index is not None and value is not MISSING:
                index.find(value, found)

    @staticmethod
    def _search_trie(trie: _Node, content: Any, found: list[int]) -> None:
        """Look up the fields that both the trie and the message have."""
        stack = [(trie, content)]
        while stack:
            node, value = stack.pop()
            if node.index is not None:
                node.index.find(value, found)
            if node.next and (inside := members(value)) is not None:
                stack += [(node.next[segment], inside[segment]) for segment in _shared_names(node.next, inside)]

    @staticmethod
    def _search_event(trie: _EventNode, event: dict[Any, Any], found: list[int]) -> None:
        """Look up event fields, through arrays and through names with dots."""
        leaves: dict[_EventNode, list[Any]] = {}
        # A decoder may return a graph with shared or circular parts. Enter each list and object once for each node.
        entered: set[tuple[int, _EventNode]] = set()
        stack: list[tuple[_EventNode, Any]] = [(trie, event)]
        while stack:
            node, value = stack.pop()
            if not isinstance(value, (dict, list, tuple)):
                if node.index is not None:
                    leaves.setdefault(node, []).append(value)
                continue
            if (here := (id(value), node)) in entered:
                continue
            entered.add(here)
            if isinstance(value, dict):
                stack += [(child, value[name]) for name in _shared_names(node.next, value) for child in node.next[name]]
            else:
                stack += [(node, element) for element in value]
        for node, values in leaves.items():
            if node.index is not None:
                node.index.find_among(values, found)


def _shape(wanted: dict[Place, tuple[Scalar, ...]]) -> tuple[Place, ...]:
    return tuple(sorted(place for place in wanted if place[0] != "event"))


def _access_path(
    alternative: Conjunction, wanted: dict[Place, tuple[Scalar, ...]], common: Counter[tuple[Place, Scalar]]
) -> tuple[Place | None, Sequence[Test]]:
    """Return the place that looks up an alternative, and the tests there: the literals that are rarest, if any."""
    if wanted:
        rarest = min(wanted, key=lambda place: max(common[place, value] for value in wanted[place]))
        return rarest, [Equals(value) for value in wanted[rarest]]
    tests = [
        (selectivity(test), place, test)
        for place, constraint in alternative.constraints.items()
        for test in constraint.positives
    ]
    best = max(tests, key=lambda one: one[0], default=None)
    return (None, ()) if best is None or best[0] == NEVER else (best[1], [best[2]])


class _Node:
    """A node of the trie of field paths, which stands for one object of the body."""

    __slots__ = ("index", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
        self.index: PlaceIndex | None = None

    def add(self, path: tuple[str, ...], index: PlaceIndex) -> None:
        node = self
        for segment in path:
            node = node.next.setdefault(segment, _Node())
        node.index = index


class _EventNode:
    """A node of the trie of event paths. A name in an event may stand for one segment of a path, or for several."""

    __slots__ = ("index", "next", "segments")

    def __init__(self) -> None:
        self.segments: dict[str, _EventNode] = {}
        self.next: dict[str, list[_EventNode]] = {}
        self.index: PlaceIndex | None = None

    def add(self, path: tuple[str, ...], index: PlaceIndex) -> None:
        nodes = [self]
        for segment in path:
            nodes.append(nodes[-1].segments.setdefault(segment, _EventNode()))
        nodes[-1].index = index
        for start, node in enumerate(nodes):
            for end in range(start + 1, len(nodes)):
                following = node.next.setdefault(".".join(path[start:end]), [])
                if nodes[end] not in following:
                    following.append(nodes[end])


def _in_envelope(message: Message, kind: str, name: str) -> Any:
    if kind == "header":
        return message.headers.by_name.get(name, MISSING)
    if kind == "body":
        return message.raw_data
    value = message.topic if kind == "topic" else message.key
    return MISSING if value is None else value


def _shared_names(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names that two tables share, in time proportional to the smaller table."""
    small, large = (one, other) if len(one) <= len(other) else (other, one)
    return [name for name in small if name in large]
