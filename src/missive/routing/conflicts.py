"""Conflicts: whether two matchers can match the same message, and whether one of them never matches alone."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import msgspec

from missive.matchers.algebra import And, Matcher, Not, Or
from missive.matchers.events import EventField
from missive.matchers.selectors import Place, Selector
from missive.matchers.tests import IsInstance, Test
from missive.matchers.values import Scalar, cut
from missive.messages import Message
from missive.routing.globs import Gist, gist_of
from missive.routing.normal import ANY, Atom, Conjunction, Constraint, Opaque, conjunctions, literals_of
from missive.routing.proofs import disjoint, finite_values, implies, impossible, within
from missive.routing.witness import decodes_json, joint_witnesses, witness

_MAX_PAIRS = 1000
"""Pairs of alternatives up to which two matchers are compared."""
_MAX_IMPLIED = 20_000
"""Pairs of tests of two alternatives up to which containment is proved."""
_MAX_REASONS = 1000
"""Parts of a matcher up to which the impossible one is searched."""
_MAX_WITNESSES = 8
"""Pairs of alternatives for which a witness is tried."""
MAX_KEYS = 64
"""Combinations of literals in the look-up key of an alternative. With more, the key leaves out the longest list."""


class Relation(Enum):
    """The relation of two matchers, as far as it is known."""

    disjoint = "disjoint"
    """It is proved that no message matches both."""
    overlap = "overlap"
    """A message that matches both was found."""
    unknown = "unknown"
    """Neither is proved, usually because of a callable."""


class Comparison(msgspec.Struct, frozen=True, eq=False):
    """The result of comparing two matchers."""

    relation: Relation
    witness: Message | None = None
    """A message that matches both, for an overlap."""


DISJOINT = Comparison(Relation.disjoint)
UNKNOWN = Comparison(Relation.unknown)


class Analysis(msgspec.Struct, frozen=True, eq=False):
    """A matcher with its alternatives, except alternatives that no message can meet."""

    matcher: Matcher[Any]
    alternatives: tuple[Conjunction, ...]
    single: Atom | None = None
    """The only test, where the matcher is equivalent to one test at one place, and None otherwise."""
    gist: Gist | None = None
    """The gist of the only test, if it is positive and has one."""

    @property
    def too_wide(self) -> bool:
        """Whether a part of the matcher is opaque because it has too many alternatives."""
        return any(isinstance(part.matcher, (And, Or, Not)) for one in self.alternatives for part in one.opaque_parts)


def analyse(matcher: Matcher[Any], *, json: bool = False) -> Analysis:
    """Return a matcher with the alternatives that a message can meet. An unsatisfiable matcher has no alternatives.

    `json` means that the bodies of all messages are decoded as JSON.
    """
    alternatives = tuple(_with_key(_pruned(one)) for one in conjunctions(matcher) if not unsatisfiable(one, json=json))
    single = _single(alternatives)
    return Analysis(
        matcher, alternatives, single, gist_of(single.test) if single is not None and single.positive else None
    )


def _single(alternatives: tuple[Conjunction, ...]) -> Atom | None:
    if len(alternatives) != 1 or alternatives[0].opaque_parts or len(alternatives[0].constraints) != 1:
        return None
    ((place, constraint),) = alternatives[0].constraints.items()
    tests = [*constraint.positives, *constraint.negatives]
    if len(tests) != 1 or place[0] in {"event", "body"}:
        return None
    return Atom(place, tests[0], bool(constraint.positives))


def _pruned(alternative: Conjunction) -> Conjunction:
    """Leave out tests that every message passes, such as `~Header("x", 1)`."""
    constraints = {}
    for place, constraint in alternative.constraints.items():
        if place[0] in {"field", "event"}:
            # Keep the test even if every value passes: a body that cannot be decoded does not pass.
            constraints[place] = constraint
            continue
        positives = tuple(test for test in constraint.positives if not _always_true(place, test, positive=True))
        negatives = tuple(test for test in constraint.negatives if not _always_true(place, test, positive=False))
        if positives or negatives:
            constraints[place] = Constraint(positives, negatives)
    return Conjunction(constraints, alternative.opaque_parts)


def _always_true(place: Place, test: Test, *, positive: bool) -> bool:
    unconstrained: Constraint = _of_kind(ANY, bytes) if place[0] == "body" else ANY
    try:
        return implies(place, unconstrained, test, positive=positive) or (
            not positive and impossible(place, Constraint((test,)))
        )
    except Exception:  # noqa: BLE001 - a user's test may raise for values that it does not expect
        return False


def _with_key(alternative: Conjunction) -> Conjunction:
    finite = {
        place: values
        for place, constraint in alternative.constraints.items()
        if (values := _finite(place, constraint)) is not None
    }
    key_values = finite
    while len(key_values) > 0 and combinations(key_values) > MAX_KEYS:
        widest = max(key_values, key=lambda place: len(finite[place]))
        key_values = {place: values for place, values in key_values.items() if place != widest}
    return Conjunction(alternative.constraints, alternative.opaque_parts, finite, key_values)


def _finite(place: Place, constraint: Constraint) -> tuple[Scalar, ...] | None:
    """Return the literals that meet a constraint at a place, or None where other values meet the constraint too.

    Two EventFields with different literals can both match an event that has both literals in an array. Missive does
    not report these pairs, because almost every pair of patterns is such a pair.
    """
    if place[0] != "event":
        try:
            return finite_values(place, constraint)
        except Exception:  # noqa: BLE001 - a user's test may raise for values that it does not expect
            return None
    return literals_of(constraint.positives[0]) if len(constraint.positives) == 1 else None


def combinations(values: dict[Place, tuple[Scalar, ...]]) -> int:
    """Return the number of ways to choose one literal at each place."""
    return math.prod(map(len, values.values()))


def relation(one: Analysis, other: Analysis, message_cls: type[Message]) -> Comparison:
    """Compare two matchers: return whether a message of a class can match both."""
    if len(one.alternatives) * len(other.alternatives) > _MAX_PAIRS:
        return UNKNOWN
    if _singles_disjoint(one.single, other.single):
        return DISJOINT
    json = decodes_json(message_cls)
    both = [
        (first, second, together)
        for first in one.alternatives
        for second in other.alternatives
        if not unsatisfiable(together := _merged(first, second), json=json)
    ]
    if not both:
        return DISJOINT
    if one.matcher.opaque or other.matcher.opaque:
        return UNKNOWN  # trying a witness would run the user's callable
    for _, _, condition in both[:_MAX_WITNESSES]:
        message = witness(message_cls, condition)
        if message is not None and _match(message, one.matcher, other.matcher):
            return Comparison(Relation.overlap, message)
    for first, second, condition in both[:_MAX_WITNESSES]:
        for message in joint_witnesses(message_cls, first, second, condition):
            if _match(message, one.matcher, other.matcher):
                return Comparison(Relation.overlap, message)
    return UNKNOWN


def _match(message: Message, *matchers: Matcher[Any]) -> bool:
    try:
        return all(matcher.evaluate(message) for matcher in matchers)
    except Exception:  # noqa: BLE001 - a user's decoder or test may raise for a message that it does not expect
        return False


def contained(one: Analysis, other: Analysis) -> bool:
    """Return whether it is proved that `other` matches every message that `one` matches."""
    if len(one.alternatives) * len(other.alternatives) > _MAX_PAIRS:
        return False
    try:
        if one.single is not None and other.single is not None and one.single.place == other.single.place:
            return _single_within(one.single, other.single)
        return all(any(_within(inner, outer) for outer in other.alternatives) for inner in one.alternatives)
    except Exception:  # noqa: BLE001 - a user's test raised: nothing is proved
        return False


def _single_within(inner: Atom, outer: Atom) -> bool:
    # A fast path for most comparisons: two matchers with one test at the same place.
    if inner.positive:
        return within(inner.test, outer.test) if outer.positive else disjoint(inner.test, outer.test)
    return not outer.positive and within(outer.test, inner.test)


def _singles_disjoint(one: Atom | None, other: Atom | None) -> bool:
    if one is None or other is None or one.place != other.place or not (one.positive and other.positive):
        return False
    try:
        return disjoint(one.test, other.test)
    except Exception:  # noqa: BLE001 - a user's test raised: nothing is proved
        return False


def unsatisfiable(condition: Conjunction, *, json: bool = False) -> bool:
    """Return whether it is proved that no message meets a condition. `json`: see `analyse`."""
    try:
        return _unsatisfiable(condition, json=json)
    except Exception:  # noqa: BLE001 - as above
        return False


_HELD = {
    "field": "a decoded body can hold",
    "event": "an EventField finds (it finds scalars only)",
    "header": "a header can have: text, bytes that are not UTF-8, or a tuple of these if it is repeated",
    "topic": "a topic can be: text",
    "key": "a key can be: text or bytes",
    "body": "a body can be: bytes",
}
_JSON_HELD = {
    "field": "JSON can hold: null, booleans, finite numbers, text, lists and objects",
    "event": "an EventField finds in JSON: null, booleans, finite numbers and text",
}


def reason_of_impossibility(matcher: Matcher[Any], *, json: bool) -> str:
    """Return why no message can match a matcher, and the remedy, for an error."""
    parts = [part for part in matcher.walk() if isinstance(part, (Selector, EventField))]
    for part in parts:
        found = conjunctions(part)
        if len(parts) <= _MAX_REASONS and found and all(unsatisfiable(one, json=json) for one in found):
            ((place, _), *_) = found[0].constraints.items()
            held = (_JSON_HELD if json else {}).get(place[0], _HELD[place[0]])
            return f"{cut(part)} is false of every value that {held}. Change its test"
    return "its conditions exclude each other. Remove one of them"


def _unsatisfiable(condition: Conjunction, *, json: bool) -> bool:
    if any(impossible(place, constraint, json=json) for place, constraint in condition.constraints.items()):
        return True
    if any(Opaque(one.matcher, not one.positive) in condition.opaque_parts for one in condition.opaque_parts):
        return True
    # A field with another field inside it must be an object.
    objects = _objects(condition)
    return any(_holds_no_fields(place, outer) for place, outer in condition.constraints.items() if place in objects)


def _holds_no_fields(place: Place, constraint: Constraint) -> bool:
    return impossible(place, _of_kind(constraint, dict))


def _of_kind(constraint: Constraint, kind: type) -> Constraint:
    return Constraint((*constraint.positives, IsInstance(kind)), constraint.negatives)


def _objects(condition: Conjunction) -> set[Place]:
    """Return the fields that must be objects, because the condition needs a field inside them."""
    return {
        place[:length]
        for place, constraint in condition.constraints.items()
        if place[0] == "field" and len(place) > 2 and any(not test.on_missing for test in constraint.positives)  # noqa: PLR2004 - a path of two segments or more
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


def _tests(condition: Conjunction) -> int:
    return sum(len(one.positives) + len(one.negatives) for one in condition.constraints.values())


def _within(inner: Conjunction, outer: Conjunction) -> bool:
    if _tests(inner) * _tests(outer) > _MAX_IMPLIED:
        return False
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
