"""`EventField`, a field as EventBridge sees it: its path leads through arrays and through names that contain dots."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any, ClassVar, Never, TypeAlias

from missive.errors import DecodingError, RegistrationError
from missive.matchers.algebra import And, Matcher, Not, Or
from missive.matchers.tests import Test, as_test
from missive.matchers.values import MAX_DEPTH, MISSING, Scalar, checked_path
from missive.messages import Message, StructuredMessage
from missive.public import PublicPlace

_Fragments: TypeAlias = tuple[tuple[dict[Any, Any], str], ...]
"""One object of an event: the dicts that contain its members, each with the prefix that their keys have there.

In `{"a": {"b": 1}, "a.c": 2}`, the object at `a` has two fragments: the inner dict without a prefix, and the outer dict
with the prefix `a.`.
"""

_Keys: TypeAlias = tuple[tuple[tuple[str, int], ...], ...]
"""For each position in a path: the keys that may lead on from there, each with the position that it leads to."""

_Verdicts: TypeAlias = dict[tuple[Any, ...], bool]
"""The verdict for each matcher and object, within one evaluation."""


class EventField(Matcher[StructuredMessage]):
    """A field as EventBridge sees it: `EventField(("detail", "state"), OneOf("running", "stopped"))`.

    `path` is a string or a tuple of segments. A string is one segment and is never split on dots. The path leads
    through arrays, to any element, and through keys that join several segments with dots: `{"a.b": 1}` equals
    `{"a": {"b": 1}}`.

    `condition` has one of two forms:

    - A test or a literal must hold for one of the scalars at the path. Null is a scalar, an object is not, and each
      element of an array counts. `Absent()` holds if there is no scalar.
    - A composition of EventFields must hold for one of the objects at the path. One element of an array meets all its
      conditions: `EventField("items", EventField("sku", "A-1") & EventField("count", Range(gt=3)))`.
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
        literal = checked_path("EventField", path, "'source' or ('detail', 'state')", (condition, *surplus)[:-1])
        if len(literal) > MAX_DEPTH:
            raise RegistrationError(f"EventField's path has {len(literal)} segments: use at most {MAX_DEPTH} segments")
        if not isinstance(condition, Matcher):
            test = as_test(condition)
            self._freeze(literal, test, path=literal, test=test, inside=None, depth=1, size=1, _keys=_keys_of(literal))
            return
        for part in condition.walk():
            if not isinstance(part, (EventField, And, Or, Not)):
                raise RegistrationError(
                    f"EventField's condition contains only EventFields, composed with &, | and ~, not {part!r}"
                )
        depth = 1 + condition.depth
        if depth > MAX_DEPTH:
            raise RegistrationError(f"EventFields are nested at most {MAX_DEPTH} deep: use paths of several segments")
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
        """Yield this matcher, then the condition if it is a matcher, and its parts."""
        yield self
        if self.inside is not None:
            yield from self.inside.walk()

    def extract_all(self, message: StructuredMessage) -> Iterator[Any]:
        """Yield each scalar at the path. Raise `DecodingError` if the body cannot be decoded."""
        return leaves(message.content, self.path)

    def is_public(self, public: Collection[PublicPlace]) -> bool:
        """Return whether the values may be shown, given the `public` places of a processor."""
        return self.path in public

    def evaluate(self, message: StructuredMessage) -> bool | None:
        """Search for a scalar or an object that meets the condition."""
        try:
            content: Any = message.content
        except DecodingError:
            return None
        return self._found_in(((content, ""),) if isinstance(content, dict) else (), {})

    def _found_in(self, fragments: _Fragments, verdicts: _Verdicts) -> bool:
        test, inside = self.test, self.inside
        if test is not None:
            found = _step(fragments, self._keys[0])
            leaf = MISSING
            for leaf in _leaves(found, self._keys) if found else ():
                if test(leaf):
                    return True
            return leaf is MISSING and test.on_missing
        if inside is None:  # unreachable; for the type checker
            return False
        objects: Iterable[_Fragments] = (fragments,)
        for segment in self.path:
            objects = _objects(objects, segment)
        for candidate in objects:
            # A decoder may return a graph, in which one object has many parents. Judge it only once.
            key = (id(self), *((id(holder), prefix) for holder, prefix in candidate))
            verdict = verdicts.get(key)
            if verdict is None:
                verdicts[key] = verdict = _holds(inside, candidate, verdicts) and _exists(candidate)
            if verdict:
                return True
        return False

    def __repr__(self) -> str:
        path = self.path[0] if len(self.path) == 1 else self.path
        return f"EventField({path!r}, {self.test if self.inside is None else self.inside!r})"


# Traversal. Events come from outside, and a decoder may return any graph. The functions below recurse only as deep as
# the matcher is nested, and enter a list or an object at most once per position in the path.


def leaves(content: object, path: tuple[str, ...]) -> Iterator[Any]:
    """Yield each scalar at a path in a decoded event, including null, as `EventField` finds them."""
    keys = _keys_of(path)
    return _leaves(_step(((content, ""),), keys[0]) if isinstance(content, dict) else (), keys)


def leaves_of(value: object) -> Iterator[Any]:
    """Yield each scalar in a value at the end of a path, including null."""
    return _leaves([(value, 0)], ())


def _keys_of(path: tuple[str, ...]) -> _Keys:
    return tuple(
        tuple((".".join(path[start:end]), end) for end in range(start + 1, len(path) + 1)) for start in range(len(path))
    )


def _step(fragments: _Fragments, keys: tuple[tuple[str, int], ...]) -> list[tuple[Any, int]]:
    """Return the values under any of the keys, each with its position in the path."""
    return [
        (value, end)
        for holder, prefix in fragments
        for key, end in keys
        if (value := holder.get(prefix + key, MISSING)) is not MISSING
    ]


def _leaves(found: Iterable[tuple[Any, int]], keys: _Keys) -> Iterator[Any]:
    """Yield the scalars at the end of a path, starting from values at given positions in the path."""
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


def _objects(parents: Iterable[_Fragments], segment: str) -> Iterator[_Fragments]:
    """Yield the objects one segment below: each object in an array, and one object of all other fragments.

    The last object may have no members. `_exists` checks this later, because it is rarely necessary.
    """
    entered: set[int] = set()
    for fragments in parents:
        members: dict[tuple[int, str], tuple[dict[Any, Any], str]] = {}
        for holder, prefix in fragments:
            key = prefix + segment
            value = holder.get(key, MISSING)
            if isinstance(value, dict):
                members[id(value), ""] = (value, "")
            elif isinstance(value, (list, tuple)):
                for element in _elements(value, entered):
                    yield ((element, ""),)
            members[id(holder), f"{key}."] = (holder, f"{key}.")
        yield tuple(members.values())


def _elements(array: list[Any] | tuple[Any, ...], entered: set[int]) -> Iterator[dict[Any, Any]]:
    """Yield the objects in an array and in the arrays inside it, except those already entered."""
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


def _exists(fragments: _Fragments) -> bool:
    """Return whether an object exists: as a dict, or as members of another dict under its prefix."""
    return any(
        not prefix or any(isinstance(key, str) and key.startswith(prefix) for key in holder)
        for holder, prefix in fragments
    )


def _holds(matcher: Matcher[Any], fragments: _Fragments, verdicts: _Verdicts) -> bool:
    if isinstance(matcher, EventField):
        return matcher._found_in(fragments, verdicts)  # noqa: SLF001 - same module
    if isinstance(matcher, (And, Or)):
        decisive = isinstance(matcher, Or)
        for part in matcher.parts:
            if _holds(part, fragments, verdicts) is decisive:
                return decisive
        return not decisive
    return isinstance(matcher, Not) and not _holds(matcher.part, fragments, verdicts)
