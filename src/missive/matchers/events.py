"""An event as EventBridge sees it: fields that lead through arrays, and through names with dots."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any, ClassVar, Never, TypeAlias

from missive.errors import DecodingError, RegistrationError
from missive.matchers.algebra import And, Matcher, Not, Or
from missive.matchers.tests import Absent, Present, Test, as_test, depth_over
from missive.matchers.values import DEEPEST, MISSING, Scalar, plain
from missive.messages import Message, StructuredMessage

_Views: TypeAlias = tuple[tuple[dict[Any, Any], str], ...]
"""One object of an event: the objects that its members are spread over, each with the start of the keys there.

`{"a": {"b": 1}, "a.c": 2}` has one object at `a`, which is what is in the inner object, and what the outer one has
under keys that start with `a.`.
"""


class EventField(Matcher[StructuredMessage]):
    """A field as EventBridge sees an event: `EventField(("detail", "state"), OneOf("running", "stopped"))`.

    `path` is a string, one segment that is never split on dots, or a tuple of segments. It leads through arrays,
    to any element, and through keys that hold several segments joined by dots: `{"a.b": 1}` is `{"a": {"b": 1}}`.

    `condition` is a test, or a literal, that holds for one of the scalars found there (null is one, an object is
    none, of an array each element counts). `Absent()` holds where there is none at all. Or it is a composition of
    EventFields that holds for one of the objects found there: so two conditions on an array are met by the same
    element, `EventField("items", EventField("sku", "A-1") & EventField("count", Range(gt=3)))`.
    """

    __slots__ = ("_keys", "depth", "inside", "path", "size", "test")
    path: tuple[str, ...]
    test: Test | None
    inside: Matcher[StructuredMessage] | None
    requires: ClassVar[type[Message]] = StructuredMessage
    opaque = False
    _keys: _Keys

    def __init__(
        self, path: str | tuple[str, ...], condition: Test | Scalar | Matcher[StructuredMessage], *surplus: Never
    ) -> None:
        segments = (path,) if isinstance(path, str) else path
        if surplus:
            names = ", ".join(map(repr, (*segments, *(x for x in (condition, *surplus[:-1]) if isinstance(x, str)))))
            raise RegistrationError(
                "EventField takes a path and a condition; a path of several segments is a tuple: "
                f"EventField(({names}), …)"
            )
        if not isinstance(segments, tuple) or not segments or not all(isinstance(s, str) for s in segments):
            raise RegistrationError(
                "EventField's path is a string or a tuple of strings, such as 'source' or ('detail', 'state')"
            )
        if len(segments) > DEEPEST:
            raise RegistrationError(f"EventField's path has at most {DEEPEST} segments, and not {len(segments)}")
        literal = tuple(plain(segment) for segment in segments)
        if not isinstance(condition, Matcher):
            test = as_test(condition)
            self._freeze(literal, test, path=literal, test=test, inside=None, depth=1, size=1, _keys=_joined(literal))
            return
        for part in condition.walk():
            if not isinstance(part, (EventField, And, Or, Not)):
                raise RegistrationError(
                    f"inside EventField there are only EventFields, composed with &, | and ~, and not {part!r}"
                )
        depth = 1 + condition.depth
        if depth > DEEPEST:
            raise RegistrationError(f"EventFields are nested at most {DEEPEST} deep")
        self._freeze(
            literal,
            condition,
            path=literal,
            test=None,
            inside=condition,
            depth=depth,
            size=1 + condition.size,
            _keys=(),
        )

    def walk(self) -> Iterator[Matcher[Any]]:
        """Yield this matcher, then what holds inside."""
        yield self
        if self.inside is not None:
            yield from self.inside.walk()

    def look_all(self, message: StructuredMessage) -> Iterator[Any]:
        """Yield each scalar at the path; raises `DecodingError` where the body hides them."""
        return leaves(message.content, self.path)

    def shown_by(self, public: Collection[tuple[str, ...]]) -> bool:
        """Tell whether the values at this path may be shown, given a processor's `public` paths and names."""
        return self.path in public

    def evaluate(self, message: StructuredMessage) -> bool | None:
        """Look for a scalar or an object that meets the condition."""
        try:
            content: Any = message.content
        except DecodingError:
            return None
        return self._found_in(((content, ""),) if isinstance(content, dict) else (), {})

    def _found_in(self, views: _Views, known: _Known) -> bool:
        test, inside = self.test, self.inside
        if test is not None:
            found = _step(views, self._keys[0])
            leaf = MISSING
            for leaf in _walked(found, self._keys) if found else ():
                if test(leaf):
                    return True
            return leaf is MISSING and test.on_missing
        if inside is None:  # for the type checker: there is always one of the two
            return False
        objects: Iterable[_Views] = (views,)
        for segment in self.path:
            objects = _objects(objects, segment)
        for candidate in objects:
            # In a decoder's output one object may have many parents, and is looked into once all the same.
            key = (id(self), *((id(holder), start) for holder, start in candidate))
            verdict = known.get(key)
            if verdict is None:
                known[key] = verdict = _holds(inside, candidate, known) and _exists(candidate)
            if verdict:
                return True
        return False

    def __repr__(self) -> str:
        path = self.path[0] if len(self.path) == 1 else self.path
        return f"EventField({path!r}, {self.test if self.inside is None else self.inside!r})"


class NoneOf(Test):
    """There is a value, and several tests are all false of it: `Field("sku", NoneOf(Prefix("EU-"), Prefix("US-")))`.

    Of an array's elements, as EventBridge sees them, that is more than two fields with `AnythingBut` can say: it is
    one element of which all are false.
    """

    __slots__ = ("depth", "tests")
    tests: tuple[Test, ...]

    def __init__(self, *tests: Test | Scalar) -> None:
        inner = dict.fromkeys(as_test(test) for test in tests)
        if not inner:
            raise RegistrationError("NoneOf() of nothing is true of every value: use Present()")
        for test in inner:
            if isinstance(test, (Present, Absent)):
                raise RegistrationError(f"NoneOf needs a value, and {test!r} is about whether there is one")
        ordered = tuple(sorted(inner, key=repr))
        self._freeze(frozenset(inner), tests=ordered, depth=depth_over(*inner))

    def __call__(self, value: Any) -> bool:  # noqa: D102 - what calling a test means is the class's docstring
        return not any(test(value) for test in self.tests)

    @property
    def expectation(self) -> str:
        """The opposite of all the inner tests."""
        return f"none of: {', '.join(test.expectation for test in self.tests)}"

    def __repr__(self) -> str:
        return f"NoneOf({', '.join(map(repr, self.tests))})"


# Looking. An event is data from outside, and a decoder may return any graph: every walk is iterative but for the
# depth of the matcher itself, and goes into a list or an object once for each length of the path that led there.

_Keys: TypeAlias = tuple[tuple[tuple[str, int], ...], ...]
"""For each position in a path, the keys that a next object may have, and the position that each leads to."""

_Known: TypeAlias = dict[tuple[Any, ...], bool]
"""What has been found of an object, in one evaluation."""


def leaves(content: object, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield each scalar, null included, that a path leads to in a decoded event, as `EventField` does."""
    keys = _joined(path)
    return _walked(_step(((content, ""),), keys[0]) if isinstance(content, dict) else (), keys)


def leaves_of(value: object) -> Iterator[Any]:
    """Yield each scalar, null included, that a value at the end of a path stands for."""
    return _walked([(value, 0)], ())


def _joined(path: tuple[str, ...]) -> _Keys:
    return tuple(
        tuple((".".join(path[start:end]), end) for end in range(start + 1, len(path) + 1)) for start in range(len(path))
    )


def _step(views: _Views, keys: tuple[tuple[str, int], ...]) -> list[tuple[Any, int]]:
    return [
        (value, end)
        for holder, start in views
        for key, end in keys
        if (value := holder.get(start + key, MISSING)) is not MISSING
    ]


def _walked(found: Iterable[tuple[Any, int]], keys: _Keys) -> Iterator[Any]:
    """Yield the scalars under values, each found at a position in the path."""
    whole = len(keys)
    entered: set[tuple[int, int]] = set()
    pending: list[Iterator[tuple[Any, int]]] = [iter(found)]
    while pending:
        for value, position in pending[-1]:
            if not isinstance(value, (dict, list, tuple)):
                if position == whole:
                    yield value
                continue
            here = (id(value), position)
            if here in entered:
                continue
            entered.add(here)
            if not isinstance(value, dict):
                pending.append(zip(value, itertools.repeat(position)))
                break
            if position < whole:
                pending.append(iter(_step(((value, ""),), keys[position])))
                break
        else:
            pending.pop()


def _objects(parents: Iterable[_Views], segment: str) -> Iterator[_Views]:
    """Yield the objects one segment down: each one in an array, and one of all that is not in an array.

    The last may turn out to have no members: it is asked for by `_exists`, which is rarely worth it.
    """
    entered: set[int] = set()
    for views in parents:
        members: dict[tuple[int, str], tuple[dict[Any, Any], str]] = {}
        for holder, start in views:
            key = start + segment
            value = holder.get(key, MISSING)
            if isinstance(value, dict):
                members[id(value), ""] = (value, "")
            elif isinstance(value, (list, tuple)):
                for element in _elements(value, entered):
                    yield ((element, ""),)
            members[id(holder), f"{key}."] = (holder, f"{key}.")
        yield tuple(members.values())


def _elements(array: list[Any] | tuple[Any, ...], entered: set[int]) -> Iterator[dict[Any, Any]]:
    pending: list[Iterator[Any]] = [iter((array,))]
    while pending:
        for value in pending[-1]:
            if isinstance(value, (dict, list, tuple)) and id(value) not in entered:
                entered.add(id(value))
                if not isinstance(value, dict):
                    pending.append(iter(value))
                    break
                yield value
        else:
            pending.pop()


def _exists(views: _Views) -> bool:
    return any(
        not start or any(isinstance(key, str) and key.startswith(start) for key in holder) for holder, start in views
    )


def _holds(matcher: Matcher[Any], views: _Views, known: _Known) -> bool:
    if isinstance(matcher, EventField):
        return matcher._found_in(views, known)  # noqa: SLF001 - of the same module
    if isinstance(matcher, (And, Or)):
        decisive = isinstance(matcher, Or)
        for part in matcher.parts:
            if _holds(part, views, known) is decisive:
                return decisive
        return not decisive
    return isinstance(matcher, Not) and not _holds(matcher.part, views, known)
