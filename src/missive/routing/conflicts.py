"""Conflicts: whether two matchers can both be true of a message, and whether one is never true alone."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import msgspec

from missive.matchers.algebra import And, Matcher, Not, Or
from missive.matchers.selectors import Place
from missive.matchers.tests import IsInstance, Test
from missive.matchers.values import Scalar
from missive.messages import Message
from missive.routing.normal import ANY, Atom, Conjunction, Constraint, Opaque, conjunctions, literals_of
from missive.routing.proofs import disjoint, finite_values, implies, impossible, within
from missive.routing.witness import witness

_MAX_PAIRS = 1000
"""Pairs of alternatives of two matchers that are compared."""
_MAX_WITNESSES = 8
MAX_KEYS = 64
"""Combinations of literals under which one alternative is found; with more, its widest list counts as no literal."""


class Relation(Enum):
    """What is known of two matchers."""

    disjoint = "disjoint"
    """No message matches both: proved."""
    overlap = "overlap"
    """Some message matches both: here it is."""
    unknown = "unknown"
    """Neither is proved, most often because of a callable."""


class Comparison(msgspec.Struct, frozen=True, eq=False):
    """A relation of two matchers, with the message that shows an overlap."""

    relation: Relation
    witness: Message | None = None


DISJOINT = Comparison(Relation.disjoint)
UNKNOWN = Comparison(Relation.unknown)


class Analysis(msgspec.Struct, frozen=True, eq=False):
    """A matcher with its alternatives, those left out that no message can meet."""

    matcher: Matcher[Any]
    alternatives: tuple[Conjunction, ...]
    single: Atom | None = None
    """The one test at one place that a matcher comes down to, or None where it says more."""

    @property
    def too_wide(self) -> bool:
        """Whether it has parts that were left together, because they have too many alternatives."""
        return any(isinstance(part.matcher, (And, Or, Not)) for one in self.alternatives for part in one.opaque_parts)


def analyse(matcher: Matcher[Any]) -> Analysis:
    """Return a matcher with the alternatives that a message could meet: none if it is unsatisfiable."""
    alternatives = tuple(_with_key(_pruned(one)) for one in conjunctions(matcher) if not unsatisfiable(one))
    return Analysis(matcher, alternatives, _single(alternatives))


def _single(alternatives: tuple[Conjunction, ...]) -> Atom | None:
    if len(alternatives) != 1 or alternatives[0].opaque_parts or len(alternatives[0].constraints) != 1:
        return None
    ((place, constraint),) = alternatives[0].constraints.items()
    tests = [*constraint.positives, *constraint.negatives]
    if len(tests) != 1 or place[0] in {"event", "body"}:
        return None
    return Atom(place, tests[0], bool(constraint.positives))


def _pruned(alternative: Conjunction) -> Conjunction:
    """Leave out what is true of every message, such as `~Header("x", 1)`."""
    constraints = {}
    for place, constraint in alternative.constraints.items():
        if place[0] in {"field", "event"}:
            # Not even what is true of every value is true of a body that cannot be decoded.
            constraints[place] = constraint
            continue
        positives = tuple(test for test in constraint.positives if not _always_true(place, test, positive=True))
        negatives = tuple(test for test in constraint.negatives if not _always_true(place, test, positive=False))
        if positives or negatives:
            constraints[place] = Constraint(positives, negatives)
    return Conjunction(constraints, alternative.opaque_parts)


def _always_true(place: Place, test: Test, *, positive: bool) -> bool:
    nothing: Constraint = _of_kind(ANY, bytes) if place[0] == "body" else ANY
    try:
        return implies(place, nothing, test, positive=positive) or (
            not positive and impossible(place, Constraint((test,)))
        )
    except Exception:  # noqa: BLE001 - a test of somebody's own may raise for values that it does not expect
        return False


def _with_key(alternative: Conjunction) -> Conjunction:
    listed = {
        place: values
        for place, constraint in alternative.constraints.items()
        if (values := _finite(place, constraint)) is not None
    }
    literals = listed
    while len(literals) > 0 and combinations(literals) > MAX_KEYS:
        widest = max(literals, key=lambda place: len(listed[place]))
        literals = {place: values for place, values in literals.items() if place != widest}
    return Conjunction(alternative.constraints, alternative.opaque_parts, listed, literals)


def _finite(place: Place, constraint: Constraint) -> tuple[Scalar, ...] | None:
    """Return the literals of which there must be one at a place, or None where other values will do.

    Two EventFields with different literals could both be true of an event that has both in an array. They are not
    compared, for that would be said of every pair of patterns.
    """
    if place[0] != "event":
        try:
            return finite_values(place, constraint)
        except Exception:  # noqa: BLE001 - a test of somebody's own may raise for values that it does not expect
            return None
    return literals_of(constraint.positives[0]) if len(constraint.positives) == 1 else None


def combinations(values: dict[Place, tuple[Scalar, ...]]) -> int:
    """Return how many ways there are to choose one of the literals at each place."""
    return math.prod(map(len, values.values()))


def relation(one: Analysis, other: Analysis, message_cls: type[Message]) -> Comparison:
    """Say whether some message of a class matches both of two matchers."""
    if len(one.alternatives) * len(other.alternatives) > _MAX_PAIRS:
        return UNKNOWN
    if _singles_disjoint(one.single, other.single):
        return DISJOINT
    both = [
        together
        for first in one.alternatives
        for second in other.alternatives
        if not unsatisfiable(together := _merged(first, second))
    ]
    if not both:
        return DISJOINT
    if one.matcher.opaque or other.matcher.opaque:
        return UNKNOWN  # to try a witness would run somebody's code
    for condition in both[:_MAX_WITNESSES]:
        message = witness(message_cls, condition)
        if message is not None and _match(message, one.matcher, other.matcher):
            return Comparison(Relation.overlap, message)
    return UNKNOWN


def _match(message: Message, *matchers: Matcher[Any]) -> bool:
    try:
        return all(matcher.evaluate(message) for matcher in matchers)
    except Exception:  # noqa: BLE001 - somebody's own decoder or test, of a message that it does not expect
        return False


def contained(one: Analysis, other: Analysis) -> bool:
    """Tell whether it is proved that every message that matches `one` matches `other` as well."""
    if len(one.alternatives) * len(other.alternatives) > _MAX_PAIRS:
        return False
    try:
        if one.single is not None and other.single is not None and one.single.place == other.single.place:
            return _single_within(one.single, other.single)
        return all(any(_within(inner, outer) for outer in other.alternatives) for inner in one.alternatives)
    except Exception:  # noqa: BLE001 - a test of somebody's own: nothing is proved
        return False


def _single_within(inner: Atom, outer: Atom) -> bool:
    # The case of nearly every pair that is compared: many of a kind at one place.
    if inner.positive:
        return within(inner.test, outer.test) if outer.positive else disjoint(inner.test, outer.test)
    return not outer.positive and within(outer.test, inner.test)


def _singles_disjoint(one: Atom | None, other: Atom | None) -> bool:
    if one is None or other is None or one.place != other.place or not (one.positive and other.positive):
        return False
    try:
        return disjoint(one.test, other.test)
    except Exception:  # noqa: BLE001 - a test of somebody's own: nothing is proved
        return False


def unsatisfiable(condition: Conjunction) -> bool:
    """Tell whether it is proved that no message meets a condition."""
    try:
        return _unsatisfiable(condition)
    except Exception:  # noqa: BLE001 - as above
        return False


def _unsatisfiable(condition: Conjunction) -> bool:
    if any(impossible(place, constraint) for place, constraint in condition.constraints.items()):
        return True
    if any(Opaque(one.matcher, not one.positive) in condition.opaque_parts for one in condition.opaque_parts):
        return True
    # A field inside another makes that one an object.
    objects = _objects(condition)
    return any(_holds_no_fields(place, outer) for place, outer in condition.constraints.items() if place in objects)


def _holds_no_fields(place: Place, constraint: Constraint) -> bool:
    return impossible(place, _of_kind(constraint, dict))


def _of_kind(constraint: Constraint, kind: type) -> Constraint:
    return Constraint((*constraint.positives, IsInstance(kind)), constraint.negatives)


def _objects(condition: Conjunction) -> set[Place]:
    """Return the fields that must be objects, for something inside them must be there."""
    return {
        place[:length]
        for place, constraint in condition.constraints.items()
        if place[0] == "field" and len(place) > 2 and any(not test.on_missing for test in constraint.positives)  # noqa: PLR2004 - of one segment
        for length in range(2, len(place))
    }


def _merged(one: Conjunction, other: Conjunction) -> Conjunction:
    constraints = dict(one.constraints)
    for place, constraint in other.constraints.items():
        mine = constraints.get(place, ANY)
        constraints[place] = Constraint(
            tuple(dict.fromkeys((*mine.positives, *constraint.positives))),
            tuple(dict.fromkeys((*mine.negatives, *constraint.negatives))),
        )
    return Conjunction(constraints, tuple(dict.fromkeys((*one.opaque_parts, *other.opaque_parts))))


def _within(inner: Conjunction, outer: Conjunction) -> bool:
    if not all(one in inner.opaque_parts for one in outer.opaque_parts):
        return False
    objects = _objects(inner)
    return all(
        all(_implied(inner, objects, place, test, positive=True) for test in constraint.positives)
        and all(_implied(inner, objects, place, test, positive=False) for test in constraint.negatives)
        for place, constraint in outer.constraints.items()
    )


def _implied(condition: Conjunction, objects: set[Place], place: Place, test: Test, *, positive: bool) -> bool:
    constraint = condition.constraints.get(place, ANY)
    if place[0] == "body":
        constraint = _of_kind(constraint, bytes)
    elif place in objects:
        constraint = _of_kind(constraint, dict)
    if implies(place, constraint, test, positive=positive):
        return True
    if place[0] != "field" or test.on_missing is not positive:
        return False
    above = [place[:length] for length in range(2, len(place))]
    return any(_holds_no_fields(one, condition.constraints[one]) for one in above if one in condition.constraints)
