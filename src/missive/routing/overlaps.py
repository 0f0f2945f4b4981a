"""The overlap index: find the few registered matchers that can conflict with a new one, and compare them with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, product
from typing import Any, TypeAlias

import msgspec

from missive.errors import RegistrationError
from missive.matchers.algebra import And, Matcher
from missive.matchers.selectors import Place
from missive.matchers.values import Scalar, cut
from missive.messages import Message
from missive.routing.conflicts import (
    MAX_KEYS,
    Analysis,
    Relation,
    analyse,
    combinations,
    contained,
    reason_of_impossibility,
    relation,
)
from missive.routing.normal import Conjunction, Opaque
from missive.routing.places import Items, insert
from missive.routing.ranges import Projection
from missive.routing.texts import Effort
from missive.routing.witness import decodes_json

_MAX_CANDIDATES = 1000
"""Registered matchers that one new matcher is compared with."""
_MAX_TRIED = 32
"""Comparisons without a result after which the search for an overlap ends."""
_MAX_STEPS, _SHARE, _LEAST_STEPS = 5_000_000, 100, 3000
"""Steps of the search for texts in all searches for overlaps, the part of the rest that one search may take, and the
least number that each may take."""
_MAX_UNRELATED = 32
"""Groups without a shared place that one alternative is compared with."""
_MAX_BUCKET = 32
"""Members of a bucket that are compared without narrowing them by another place."""
_MAX_GROUPS = 64
"""Groups at a place up to which the place has no table of literals."""

_analyse = lru_cache(maxsize=8192)(analyse)

_Key: TypeAlias = tuple[Scalar, ...]


class Overlap(msgspec.Struct, frozen=True, eq=False):
    """Two handlers that overlap, and a message that matches both."""

    one: str
    other: str
    witness: Message
    in_array: bool = False
    """Whether the handlers want different literals, so that only an event with an array of both matches both."""


class Unproved(msgspec.Struct, frozen=True):
    """Two handlers that may overlap: neither an overlap nor the opposite is proved."""

    one: str
    other: str


class OverlapIndex:
    """The matchers of one processor, indexed by their constraints at places.

    Alternatives that require literals at the same places form a group. A group finds its members by their literals,
    so that a new matcher is not compared with all others.
    """

    def __init__(self, message_cls: type[Message]) -> None:
        self._message_cls = message_cls
        self._json = decodes_json(message_cls)
        self._matchers: list[Matcher[Any]] = []
        self._names: list[str] = []
        self._gists: list[tuple[Place, str, str] | None] = []
        self._steps_left = _MAX_STEPS
        self._groups: dict[tuple[tuple[Place, ...], tuple[Place, ...], bool], _Group] = {}
        self._by_place: dict[Place, _Place] = {}
        self._by_opaque_part: dict[Opaque, list[int]] = {}
        self._only_opaque_parts: dict[Opaque, list[int]] = {}
        self._everything: int | None = None
        self._opaque: list[int] = []

    def _analyse(self, matcher: Matcher[Any]) -> Analysis:
        return _analyse(matcher, json=self._json)

    def check(self, matcher: Matcher[Any], name: str) -> tuple[int, ...]:
        """Compare a new matcher with the registered candidates, and return the numbers of the candidates.

        Raise `RegistrationError` when no message can match the new matcher, when a registered matcher matches all
        messages of the new one, or when the new matcher matches all messages of a registered one.
        """
        new = self._analyse(matcher)
        if not new.alternatives:
            raise RegistrationError(
                f"no message could ever match {cut(matcher)}, the matcher of {name}: "
                f"{reason_of_impossibility(matcher, json=self._json)}"
            )
        candidates = tuple(self._candidates(new))
        gist, place = new.gist, new.single and new.single.place
        for number in candidates:
            if gist is not None and (known := self._gists[number]) is not None and known[0] == place:
                # Comparing the gists decides almost all pairs, and takes a tenth of the time.
                _, needle, text = known
                if needle not in gist[1] and gist[0] not in text:
                    continue
            other, other_name = self._analyse(self._matchers[number]), self._names[number]
            inside, outside = contained(new, other), contained(other, new)
            if inside and outside:
                raise RegistrationError(
                    f"{other_name} and {name} match the same messages, by {cut(other.matcher)} and {cut(matcher)}: "
                    "neither would ever be chosen. Remove one of the handlers, or change its matcher"
                )
            if inside:
                raise RegistrationError(_never_alone(name, matcher, other_name, other.matcher))
            if outside:
                raise RegistrationError(_never_alone(other_name, other.matcher, name, matcher))
        return candidates

    def overlap(self, matcher: Matcher[Any], name: str, candidates: Iterable[int]) -> Overlap | None:
        """Return the first overlap of a new matcher with a registered one, or None where none is found."""
        new = self._analyse(matcher)
        # Alternatives at different places always overlap. Report this once for each set of places.
        unlike = (one for one in new.alternatives if self._group_key(one) not in self._groups)
        tried, start = 0, Effort.steps
        allowed = max(_LEAST_STEPS, self._steps_left // _SHARE)
        for number in (*candidates, *(number for one in unlike for number in self._unrelated(one))):
            if new.matcher.opaque or self._matchers[number].opaque:
                continue
            comparison = relation(new, self._analyse(self._matchers[number]), self._message_cls)
            if comparison.witness is not None:
                return Overlap(self._names[number], name, comparison.witness)
            tried += comparison.relation is Relation.unknown
            if tried == _MAX_TRIED or Effort.steps - start > allowed:
                break
        self._steps_left -= Effort.steps - start
        return None

    def add(self, matcher: Matcher[Any], name: str) -> None:
        """Register a matcher under the name of its handler."""
        number = len(self._matchers)
        self._matchers.append(matcher)
        self._names.append(name)
        analysis = self._analyse(matcher)
        single, gist = analysis.single, analysis.gist
        self._gists.append(None if single is None or gist is None else (single.place, *gist))
        if matcher.opaque:
            self._opaque.append(number)
        for alternative in analysis.alternatives:
            key = self._group_key(alternative)
            if (group := self._groups.get(key)) is None:
                self._groups[key] = group = _Group(*key[:2], self)
            group.add(number, alternative)
            for place in alternative.constraints:
                self._by_place.setdefault(place, _Place(place)).add(group, alternative)
                for ancestor in _ancestors(place):
                    self._by_place.setdefault(ancestor, _Place(ancestor)).descendants[group] = None
            for part in alternative.opaque_parts:
                self._by_opaque_part.setdefault(part, []).append(number)
                if not alternative.constraints:
                    self._only_opaque_parts.setdefault(part, []).append(number)
            if not alternative.constraints and not alternative.opaque_parts:
                self._everything = number

    # Candidates for a comparison

    def _candidates(self, new: Analysis) -> Iterable[int]:
        """Return, once each, the registered matchers that share a place or an opaque part with a new one."""
        return islice(dict.fromkeys(self._sharing(new, _MAX_CANDIDATES)), _MAX_CANDIDATES)

    def _sharing(self, new: Analysis, max_opaque: int | None = None) -> Iterator[int]:
        if self._everything is not None:
            yield self._everything
        for alternative in new.alternatives:
            if not alternative.constraints and not alternative.opaque_parts and self._matchers:
                yield 0  # an alternative without conditions contains every other matcher
            # Where the alternative has constraints, its places find the other matchers that share the callable.
            sharing = self._only_opaque_parts if alternative.constraints else self._by_opaque_part
            for part in alternative.opaque_parts:
                yield from islice(sharing.get(part, ()), max_opaque)
            for group in self._related(alternative):
                yield from group.candidates(alternative)

    def _related(self, alternative: Conjunction) -> dict[_Group, None]:
        groups: dict[_Group, None] = {}
        for place in alternative.constraints:
            if (used := self._by_place.get(place)) is not None:
                groups.update(used.groups(alternative.finite.get(place)))
                groups.update(used.descendants)
            for ancestor in _ancestors(place):
                if (used := self._by_place.get(ancestor)) is not None:
                    groups.update(used.groups(None))
        return groups

    def _unrelated(self, alternative: Conjunction) -> Iterator[int]:
        """Yield one member of each of a few groups that share no place with an alternative."""
        places = alternative.constraints
        ancestors = {one for place in places for one in _ancestors(place)}
        unrelated = (group for group in self._groups.values() if not group.touches(places, ancestors))
        for group in islice(unrelated, _MAX_UNRELATED):
            yield group.members[0]

    @staticmethod
    def _group_key(alternative: Conjunction) -> tuple[tuple[Place, ...], tuple[Place, ...], bool]:
        key_places = tuple(alternative.key_values)
        others = tuple(place for place in alternative.constraints if place not in key_places)
        return key_places, others, bool(alternative.opaque_parts)

    def analysis(self, number: int) -> Analysis:
        """Return the analysis of a registered matcher."""
        return self._analyse(self._matchers[number])

    # For the check

    def possible_overlaps(self, matcher: Matcher[Any]) -> tuple[Iterable[int], bool]:
        """Return the registered matchers that a matcher may overlap, and whether the result is complete."""
        new = self._analyse(matcher)
        if matcher.opaque:
            return range(len(self._matchers)), True
        unrelated = [number for alternative in new.alternatives for number in self._unrelated(alternative)]
        in_arrays = any(place[0] == "event" for alternative in new.alternatives for place in alternative.finite)
        return dict.fromkeys((*self._sharing(new), *unrelated, *self._opaque)), not unrelated and not in_arrays

    def compare(self, number: int, matcher: Matcher[Any], name: str) -> tuple[Overlap | Unproved | None, int]:
        """Compare a matcher with a registered one. Return the result, and the number of compared alternatives.

        The result is None where the two are proved to be disjoint.
        """
        one, other = self.analysis(number), self._analyse(matcher)
        comparison = relation(one, other, self._message_cls)
        found: Overlap | Unproved | None = None
        if comparison.witness is not None:
            in_array = _want_different_literals(one, other)
            found = Overlap(self._names[number], name, comparison.witness, in_array)
        elif comparison.relation is Relation.unknown:
            found = Unproved(self._names[number], name)
        return found, max(1, len(one.alternatives) * len(other.alternatives))


def _want_different_literals(one: Analysis, other: Analysis) -> bool:
    """Return whether each alternative of one matcher excludes each of the other by different literals at a place."""
    return all(
        any(
            (values := second.finite.get(place)) is not None and not set(values) & set(wanted)
            for place, wanted in first.finite.items()
        )
        for first, second in product(one.alternatives, other.alternatives)
    )


def _never_alone(inner_name: str, inner: Matcher[Any], outer_name: str, outer: Matcher[Any]) -> str:
    return (
        f"{inner_name} could never run: every message that matches {cut(inner)} also matches {cut(outer)} of "
        f"{outer_name}. To leave these messages to {inner_name}, register {outer_name} for {cut(And(outer, ~inner))}"
    )


def _ancestors(place: Place) -> Iterator[Place]:
    """Yield the fields that contain a field."""
    if place[0] == "field":
        for length in range(2, len(place)):
            yield place[:length]


def _bare(key: _Key) -> Any:
    """Return a key of one literal without its tuple, because a tuple for each key would double the memory."""
    return key[0] if len(key) == 1 else key


class _Place:
    """The groups that have a constraint at one place."""

    __slots__ = ("_by_value", "_keyed", "_others", "_place", "descendants")

    def __init__(self, place: Place) -> None:
        self._place = place
        self._keyed: dict[_Group, None] = {}
        self._others: dict[_Group, None] = {}
        self._by_value: dict[Scalar, dict[_Group, None]] | None = None
        self.descendants: dict[_Group, None] = {}
        """Groups that have a constraint at a field inside this field."""

    def add(self, group: _Group, alternative: Conjunction) -> None:
        if self._place not in group.key_places:
            self._others[group] = None
            return
        self._keyed[group] = None
        if self._by_value is not None:
            for value in alternative.finite.get(self._place, ()):
                self._by_value.setdefault(value, {})[group] = None
        elif len(self._keyed) > _MAX_GROUPS:
            self._by_value = {}
            for one in self._keyed:
                for value in one.values_at(self._place):
                    self._by_value.setdefault(value, {})[one] = None

    def groups(self, values: tuple[Scalar, ...] | None) -> Iterator[tuple[_Group, None]]:
        """Yield the groups at this place that may accept one of the literals. With None, yield all groups."""
        yield from self._others.items()
        if values is None or self._by_value is None:
            yield from self._keyed.items()
            return
        for value in values:
            yield from self._by_value.get(value, {}).items()


class _Group:
    """Alternatives that require literals at the same places, and have other constraints at the same other places."""

    def __init__(self, key_places: tuple[Place, ...], others: tuple[Place, ...], index: OverlapIndex) -> None:
        self.key_places = key_places
        self.places = frozenset((*key_places, *others))
        self.members: list[int] = []
        self._index = index
        self._by_key: dict[Any, Items] = {}
        self._by_part: dict[tuple[int, ...], dict[_Key, list[int]]] = {}
        self._projections: dict[tuple[tuple[int, ...], _Key, Place], Projection] = {}

    def touches(self, places: Collection[Place], ancestors: set[Place]) -> bool:
        """Return whether a member has a constraint at one of the places, inside one, or at one of their ancestors."""
        return any(
            place in places or place in ancestors or any(one in places for one in _ancestors(place))
            for place in self.places
        )

    def add(self, number: int, alternative: Conjunction) -> None:
        self.members.append(number)
        if not self.key_places:
            self._project((), (), number, alternative)
            return
        at = alternative.key_values
        for key in product(*(at[place] for place in self.key_places)):
            insert(self._by_key, _bare(key), number)
            for part, by_key in self._by_part.items():
                by_key.setdefault(tuple(key[i] for i in part), []).append(number)
            if self._projections:
                for part in {part for part, _, _ in self._projections}:
                    self._project(part, tuple(key[i] for i in part), number, alternative)

    def _project(self, part: tuple[int, ...], key: _Key, number: int, alternative: Conjunction) -> None:
        for place, constraint in alternative.constraints.items():
            if (projection := self._projections.get((part, key, place))) is not None:
                projection.add(place, constraint, number)

    def values_at(self, place: Place) -> Iterator[Scalar]:
        """Yield the literals of the members at a place of the key."""
        at = self.key_places.index(place)
        for key in self._by_key:
            yield key[at] if len(self.key_places) > 1 else key

    def candidates(self, wanted: Conjunction) -> Iterable[int]:
        """Return the members that may conflict with an alternative."""
        at = {place: values for place in self.key_places if (values := wanted.finite.get(place)) is not None}
        while at and combinations(at) > MAX_KEYS:
            del at[max(at, key=lambda place: len(at[place]))]
        part = tuple(self.key_places.index(place) for place in at)
        found: list[int] = []
        for key in product(*at.values()):
            bucket = self._bucket(part, key)
            found += bucket if len(bucket) <= _MAX_BUCKET else self._narrowed(part, key, bucket, wanted)
        return found

    def _bucket(self, part: tuple[int, ...], key: _Key) -> Sequence[int]:
        """Return the members whose keys have given literals at some of the places."""
        if not part:
            return self.members
        if len(part) == len(self.key_places):
            items = self._by_key.get(_bare(key), ())
            return (items,) if isinstance(items, int) else items
        if (by_key := self._by_part.get(part)) is None:
            # A part of a key exists only for keys of several literals, and these keys are tuples.
            self._by_part[part] = by_key = {}
            for whole, items in self._by_key.items():
                numbers = [items] if isinstance(items, int) else items
                by_key.setdefault(tuple(whole[i] for i in part), []).extend(numbers)
        return by_key.get(key, ())

    def _narrowed(self, part: tuple[int, ...], key: _Key, bucket: Sequence[int], wanted: Conjunction) -> Iterable[int]:
        """Return the members of a large bucket that are left after excluding members by one more place."""
        fixed = {self.key_places[i] for i in part}
        for place in sorted(self.places & wanted.constraints.keys() - fixed):
            if (projection := self._projections.get((part, key, place))) is None:
                projection = Projection()
                self._projections[part, key, place] = projection
                for number in dict.fromkeys(bucket):
                    for one in self._index.analysis(number).alternatives:
                        if place in one.constraints:
                            projection.add(place, one.constraints[place], number)
            if (few := projection.candidates(place, wanted.constraints[place])) is not None:
                return few
        return bucket
