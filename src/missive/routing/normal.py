"""Disjunctive normal form: a matcher as a list of alternatives, each a conjunction of constraints at places."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, TypeAlias

import msgspec

from missive.matchers.algebra import And, Matcher, Not, Or
from missive.matchers.events import EventField
from missive.matchers.selectors import Body, Everything, Field, Header, Key, Place, Topic
from missive.matchers.tests import Absent, AnythingBut, Equals, NoneOf, OneOf, Present, Range, Test
from missive.matchers.text import Wildcard
from missive.matchers.topics import AmqpPattern, MqttFilter, NatsPattern
from missive.matchers.values import Scalar

_MAX_ALTERNATIVES = 128
"""Alternatives up to which a matcher is split; beyond, a part of it becomes opaque."""
_SELECTORS = (Field, Header, Topic, Key, Body)
DIALECTS = (NatsPattern, MqttFilter, AmqpPattern)
"""Topic patterns whose meaning is known. Compare exact types: a user's subclass may have another meaning."""


class Atom(msgspec.Struct, frozen=True):
    """A test at a place, or the complement of the test."""

    place: Place
    test: Test
    positive: bool = True


class Opaque(msgspec.Struct, frozen=True):
    """A part that cannot be analysed: a callable, or a composition with too many alternatives."""

    matcher: Matcher[Any]
    positive: bool = True


Conjunct: TypeAlias = Atom | Opaque
Alternative: TypeAlias = frozenset[Conjunct]


class Constraint(msgspec.Struct, frozen=True):
    """The tests at one place: all of `positives` must pass, and all of `negatives` must fail."""

    positives: tuple[Test, ...] = ()
    negatives: tuple[Test, ...] = ()


class Conjunction(msgspec.Struct, frozen=True, eq=False):
    """Constraints and opaque parts that must all hold."""

    constraints: dict[Place, Constraint]
    opaque_parts: tuple[Opaque, ...] = ()
    finite: dict[Place, tuple[Scalar, ...]] = {}
    """The places that can hold only a few values, each with these values."""
    key_values: dict[Place, tuple[Scalar, ...]] = {}
    """The part of `finite` that serves as look-up key: all of it, unless it has too many combinations."""


ANY = Constraint()
"""The constraint that every value and a missing value meet."""


def conjunctions(matcher: Matcher[Any]) -> tuple[Conjunction, ...]:
    """Return the alternatives of a matcher, or nothing where its form alone makes it false for every message.

    The work is bounded: beyond 128 alternatives, a part of the matcher becomes one `Opaque`.
    """
    return tuple(_conjunction(alternative) for alternative in _expand(matcher, positive=True))


def _expand(matcher: Matcher[Any], *, positive: bool) -> list[Alternative]:
    if isinstance(matcher, Not):
        return _expand(matcher.part, positive=not positive)
    if isinstance(matcher, (And, Or)):
        parts = [_expand(part, positive=positive) for part in matcher.parts]
        if isinstance(matcher, And) is positive:
            return _distribute(parts, matcher.parts, positive=positive)
        union = _merge_literals([alternative for part in parts for alternative in part])
        return union if len(union) <= _MAX_ALTERNATIVES else [frozenset([Opaque(matcher, positive)])]
    if type(matcher) is Everything:
        return [frozenset()] if positive else []
    return [frozenset(_conjuncts(matcher, positive=positive))]


def _distribute(
    parts: list[list[Alternative]], matchers: tuple[Matcher[Any], ...], *, positive: bool
) -> list[Alternative]:
    # Join all parts with one alternative in one step: there may be thousands.
    together: list[Alternative] = [frozenset().union(*(part[0] for part in parts if len(part) == 1))]
    # Start with the parts that have the fewest alternatives, so that only the widest parts become opaque.
    for part, matcher in sorted(zip(parts, matchers, strict=True), key=lambda pair: len(pair[0])):
        if len(part) == 1:
            continue
        if len(together) * len(part) > _MAX_ALTERNATIVES:
            together = [one | {Opaque(matcher, positive)} for one in together]
        else:
            together = list(dict.fromkeys(one | other for one, other in product(together, part)))
    return together


def _merge_literals(alternatives: list[Alternative]) -> list[Alternative]:
    """Merge alternatives that accept literals at the same place, and nothing else, into one alternative."""
    values: dict[Place, dict[Any, None]] = {}
    others: dict[Alternative, None] = {}
    for alternative in alternatives:
        atom = next(iter(alternative)) if len(alternative) == 1 else None
        if isinstance(atom, Atom) and atom.positive and (finite := literals_of(atom.test)) is not None:
            values.setdefault(atom.place, {}).update(dict.fromkeys(map(Equals, finite)))
        else:
            others[alternative] = None
    joined = [
        Atom(place, next(iter(tests)) if len(tests) == 1 else OneOf(*(test.value for test in tests)))
        for place, tests in values.items()
    ]
    return [*(frozenset([atom]) for atom in joined), *others]


def literals_of(test: Test) -> tuple[Any, ...] | None:
    """Return the only values that a test accepts, or None where these values are not a list of literals."""
    if type(test) is Equals:
        return (test.value,)
    if type(test) is OneOf:
        return test.values
    if type(test) is Range:
        # Range(ge=1, le=1) accepts the same values as Equals(1). Neither accepts a boolean.
        return (test.ge,) if test.ge is not None and test.ge == test.le else None
    if type(test) is Wildcard:
        return test.chunks if len(test.chunks) == 1 and not test.ignore_case else None
    if type(test) in DIALECTS and test.single not in test.tokens and test.multi not in test.tokens:  # type: ignore[attr-defined]  # they have these
        return (test.pattern,)  # type: ignore[attr-defined]  # as above
    return None


def _conjuncts(matcher: Matcher[Any], *, positive: bool) -> Iterator[Conjunct]:
    if type(matcher) in _SELECTORS:
        for test in _at_one_value(matcher.test, positive=positive):  # type: ignore[attr-defined]  # all of these have
            yield Atom(matcher.place, test, positive)  # type: ignore[attr-defined]  # as above
    elif type(matcher) is EventField:
        if matcher.test is not None:
            yield Atom(("event", *matcher.path), _plainer(matcher.test), positive)
        else:
            yield Opaque(matcher, positive)
            if positive and matcher.inside is not None:
                yield from _implied(matcher.path, matcher.inside)
    else:
        yield Opaque(matcher, positive)


def _at_one_value(test: Test, *, positive: bool) -> tuple[Test, ...]:
    """Return tests that together are equivalent to one test on a single value."""
    plainer = _plainer(test)
    if type(plainer) is NoneOf and positive:
        return tuple(_plainer(AnythingBut(one)) for one in plainer.tests)
    return (plainer,)


def _plainer(test: Test) -> Test:
    """Return an equivalent test that is easier to compare."""
    if type(test) is NoneOf and len(test.tests) == 1:
        return _plainer(AnythingBut(test.tests[0]))
    if type(test) is AnythingBut and type(test.test) is AnythingBut and not test.test.test.on_missing:
        return _plainer(test.test.test)
    return test


def _implied(path: tuple[str, ...], inside: Matcher[Any]) -> Iterator[Atom]:
    """Yield the conditions on an event that follow from conditions on one object inside the event."""
    for part in inside.parts if isinstance(inside, And) else (inside,):
        if type(part) is EventField and part.test is not None and not part.test.on_missing:
            yield Atom(("event", *path, *part.path), part.test)
        elif type(part) is EventField and part.inside is not None:
            yield from _implied((*path, *part.path), part.inside)


def _conjunction(alternative: Alternative) -> Conjunction:
    positives: dict[Place, list[Test]] = {}
    negatives: dict[Place, list[Test]] = {}
    opaque_parts = []
    for conjunct in alternative:
        if isinstance(conjunct, Opaque):
            opaque_parts.append(conjunct)
            continue
        test, positive = conjunct.test, conjunct.positive
        if not positive and type(test) in (Present, Absent):
            # Present and Absent are complements of each other.
            test, positive = (Absent() if type(test) is Present else Present()), True
        (positives if positive else negatives).setdefault(conjunct.place, []).append(test)
    places = sorted({*positives, *negatives})
    constraints = {
        place: Constraint(_ordered(positives.get(place, ())), _ordered(negatives.get(place, ()))) for place in places
    }
    return Conjunction(constraints, tuple(sorted(opaque_parts, key=repr)))


def _ordered(tests: list[Test] | tuple[()]) -> tuple[Test, ...]:
    return tuple(sorted(tests, key=repr))
