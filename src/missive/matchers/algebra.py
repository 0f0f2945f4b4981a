"""Matchers and their composition: `&`, `|`, `~`, in canonical form, with three-valued evaluation."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from missive.errors import DecodingError, RegistrationError
from missive.matchers.values import DEEPEST, Frozen
from missive.messages import Message

_LARGEST = 100_000

M = TypeVar("M", bound=Message)
M_contra = TypeVar("M_contra", bound=Message, contravariant=True)


class Matcher(Frozen, Generic[M_contra]):
    """Says which messages a handler is for. Call it with a message, compose it with `&`, `|` and `~`.

    A subclass of your own says `evaluate`, and gives what it is made of to `_freeze`; for a one-off, any
    callable that takes a message and returns a bool is a matcher as well.
    """

    __slots__ = ()

    requires: ClassVar[type[Message]] = Message
    """The message class that this matcher alone can be asked about."""

    opaque: bool = True
    """Whether it runs code that Missive cannot look into, and so is asked last."""
    depth: int = 1
    """How many levels of composition it has."""
    size: int = 1
    """How many matchers it is composed of, itself included."""

    def walk(self) -> Iterator[Matcher[Any]]:
        """Yield this matcher and every one it is composed of."""
        yield self

    @abstractmethod
    def evaluate(self, message: M_contra) -> bool | None:
        """Tell whether the message matches; None where that depends on a body that cannot be decoded."""

    def __call__(self, message: M_contra) -> bool:
        """Tell whether the message matches; raises `DecodingError` where that depends on an undecodable body."""
        verdict = self.evaluate(message)
        if verdict is None:
            raise DecodingError(f"whether {self!r} matches depends on a body that cannot be decoded")
        return verdict

    def __and__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return And(self, other).simplified()

    def __rand__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return And(other, self).simplified()

    def __or__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return Or(self, other).simplified()

    def __ror__(self: Matcher[M], other: Callable[[M], bool]) -> Matcher[M]:
        return Or(other, self).simplified()

    def __invert__(self) -> Matcher[M_contra]:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(f"a matcher is not true or false: write & | ~ in place of and, or, not (at {self!r})")


class Predicate(Matcher[M_contra]):
    """Any callable as a matcher, which the framework cannot look into: equal only to one on the same callable."""

    __slots__ = ("fn",)
    fn: Callable[[M_contra], bool]

    def __init__(self, fn: Callable[[M_contra], bool]) -> None:
        if not callable(fn):
            raise RegistrationError(f"a matcher is a callable that takes a message, and not a {type(fn).__name__}")
        if inspect.iscoroutinefunction(fn):
            raise RegistrationError("a matcher answers at once: an async def would match every message")
        self._freeze(_SameObject(fn), fn=fn)

    def evaluate(self, message: M_contra) -> bool | None:
        """Call the callable; a `DecodingError` from it means unknown."""
        try:
            return bool(self.fn(message))
        except DecodingError:
            return None

    def __repr__(self) -> str:
        name = getattr(self.fn, "__qualname__", type(self.fn).__qualname__)
        module = getattr(self.fn, "__module__", None) or "?"
        code = getattr(self.fn, "__code__", None)
        return f"<{module}:{name}{f' line {code.co_firstlineno}' if code is not None else ''}>"


class _SameObject:
    """Hashes and compares a callable by identity, whatever its own `__eq__` says."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameObject) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


class _Several(Matcher[M_contra]):
    """Base of And and Or: flattened, without duplicates, sorted, so that the order of writing is no difference."""

    __slots__ = ("depth", "opaque", "parts", "size")
    parts: tuple[Matcher[M_contra], ...]
    _sign: str

    def __init__(self, *parts: Callable[[M_contra], bool]) -> None:
        flat: dict[Matcher[M_contra], None] = {}
        for part in parts:
            matcher = as_matcher(part)
            inner = matcher.parts if isinstance(matcher, _Several) and type(matcher) is type(self) else (matcher,)
            flat.update(dict.fromkeys(inner))
        if not flat:
            raise RegistrationError(f"{type(self).__name__}() needs at least one matcher")
        measures = _measures(*flat)
        ordered = tuple(sorted(flat, key=_order))
        # As a set: two different callables may share a name, and then have no order of their own.
        self._freeze(frozenset(ordered), parts=ordered, **measures)

    def simplified(self) -> Matcher[M_contra]:
        """Return the only part where there is one, so that `A & A == A`."""
        return self.parts[0] if len(self.parts) == 1 else self

    def walk(self) -> Iterator[Matcher[Any]]:
        """Yield this matcher, then its parts, each with its own."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def __repr__(self) -> str:
        # Called with one part, an infix form would be that part, and not this.
        if len(self.parts) == 1:
            return f"{type(self).__name__}({self.parts[0]!r})"
        shown = (f"({part!r})" if isinstance(part, _Several) else repr(part) for part in self.parts)
        return f" {self._sign} ".join(shown)


class And(_Several[M_contra]):
    """All parts match. False and unknown is false."""

    __slots__ = ()
    _sign = "&"

    def evaluate(self, message: M_contra) -> bool | None:
        """Evaluate the parts up to the first that is false."""
        verdict: bool | None = True
        for part in self.parts:
            answer = part.evaluate(message)
            if answer is None:
                verdict = None
            elif not answer:
                return False
        return verdict


class Or(_Several[M_contra]):
    """At least one part matches. True or unknown is true."""

    __slots__ = ()
    _sign = "|"

    def evaluate(self, message: M_contra) -> bool | None:
        """Evaluate the parts up to the first that is true."""
        verdict: bool | None = False
        for part in self.parts:
            answer = part.evaluate(message)
            if answer:
                return True
            if answer is None:
                verdict = None
        return verdict


class Not(Matcher[M_contra]):
    """The complement: `~Field(p, X)` is true where the field is missing as well. Not unknown is unknown."""

    __slots__ = ("depth", "opaque", "part", "size")
    part: Matcher[M_contra]

    def __init__(self, part: Callable[[M_contra], bool]) -> None:
        matcher = as_matcher(part)
        self._freeze(matcher, part=matcher, **_measures(matcher))

    def evaluate(self, message: M_contra) -> bool | None:
        """Turn the part's answer round."""
        answer = self.part.evaluate(message)
        return None if answer is None else not answer

    def walk(self) -> Iterator[Matcher[Any]]:
        """Yield this matcher, then what it turns round."""
        yield self
        yield from self.part.walk()

    def __invert__(self) -> Matcher[M_contra]:
        return self.part

    def __repr__(self) -> str:
        if isinstance(self.part, Not):
            return f"Not({self.part!r})"  # `~~x` would be x, and not this
        return f"~({self.part!r})" if isinstance(self.part, _Several) else f"~{self.part!r}"


def as_matcher(matcher: Callable[[M], bool]) -> Matcher[M]:
    """Return a matcher; a plain callable becomes a `Predicate`."""
    return matcher if isinstance(matcher, Matcher) else Predicate(matcher)


def _measures(*parts: Matcher[Any]) -> dict[str, Any]:
    """Return what a composition of `parts` measures; raises `RegistrationError` where it would be unbounded work."""
    depth, size = 1 + max(part.depth for part in parts), 1 + sum(part.size for part in parts)
    if depth > DEEPEST:
        raise RegistrationError(f"a matcher is nested at most {DEEPEST} deep: use And(…) and Or(…) of many parts")
    if size > _LARGEST:
        raise RegistrationError(f"a matcher has at most {_LARGEST} parts: OneOf(…) takes many literals at once")
    return {"depth": depth, "size": size, "opaque": any(part.opaque for part in parts)}


def _order(matcher: Matcher[Any]) -> tuple[bool, str]:
    # Opaque callables last, in the order they were written: what can be decided without running somebody's code
    # is decided first, and a callable may guard the next one.
    return (matcher.opaque, "" if isinstance(matcher, Predicate) else repr(matcher))
